"""Virtual tapes: which slots and labels a config has, and which it should have.

Slot N of a config holds the tape ``<config>-000N``, always. What is found in the slots and in the
tapelist is compared with that (:func:`plan`); labels are written and taken out by Amanda's own
API in one process (:func:`apply`). A tape that was ever written, and whatever isn't Amanda's, is
never touched: the first stays, the second makes the whole change be refused.
"""

import dataclasses
import errno
import os
import re
import stat
from pathlib import Path

import amanda_catalogue
from amanda_command import run
from amanda_conf import LABEL_DIGITS
from amanda_errors import AmandaError, CommandError, ParseError, ServerError, unreadable
from amanda_layout import PROGRAMS
from amanda_rights import as_user

LABELLER = PROGRAMS / "label-tapes"
"""The Perl program that does the work; installed beside the engine."""

NEVER = "X"
"""The write time in the label of a tape that was never written."""

SLOT = re.compile(r"slot([1-9][0-9]*)")
_TAPE_FILE = re.compile(r"[0-9]{5}\..+", re.DOTALL)
_LABEL = re.compile(rb"AMANDA: TAPESTART DATE ([0-9]{14}|X) TAPE ([^\s\0]+)\n\x0c\n\0*")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What :func:`apply` would do; nothing at all if there are *refusals*.

    make
        Numbers of the slots to make.
    label
        Numbers of the slots whose blank tape gets its label.
    blank
        Numbers of the slots whose never written tape is taken out of the tapelist first.
    drop
        Numbers of the slots to remove: beyond the wanted number, with a never written tape.
    kept
        Labels of tapes beyond the wanted number that stay, since they were written or are pinned.
    refusals
        What stands in the way, in words.
    """

    make: tuple
    label: tuple
    blank: tuple
    drop: tuple
    kept: tuple
    refusals: tuple

    def __bool__(self):
        """Tell whether there is anything to do."""
        return bool(self.make or self.label or self.blank or self.drop)


def label(config, number):
    """Return the label of the tape in slot *number* of *config*."""
    return f"{config}-{number:0{LABEL_DIGITS}d}"


def plan(places, slots, user=None):
    """Return the :class:`Plan` that leads to *slots* labelled slots; changes nothing.

    places
        The :class:`amanda_layout.ConfigPlaces` of the config; its tapes may be missing yet.
    slots
        How many there should be.
    user
        The dump user, who can read the slots; None is the caller.

    Raises :class:`~amanda_errors.AmandaError` if a directory on the way to the slots is none.
    """
    known = _tapelist(places, user)
    found = {}
    refusals = []
    for slot in _scan_as(places, user):
        match = SLOT.fullmatch(slot["name"])
        if match is None:
            refusals.append(_no_slot(places, slot["name"]))
        else:
            found[int(match[1])] = slot
    lists = {name: [] for name in ("make", "label", "blank", "drop", "kept")}
    numbers = {*range(1, slots + 1), *found, *slots_of(places.name, known)}
    for number in sorted(numbers):
        try:
            _plan_slot(places, number, slots, found.get(number), known, lists)
        except _Refusal as refusal:
            refusals.append(str(refusal))
    return Plan(refusals=tuple(refusals), **{name: tuple(had) for name, had in lists.items()})


def _no_slot(places, name):
    return f"{str(places.tapes / name)!r} isn't named as a slot is. Move it elsewhere"


class _Refusal(Exception):
    """A slot that nobody may touch."""


def slots_of(config, known):
    """Return the slot numbers of all tapes of ours among *known*, labels; a set."""
    pattern = re.compile(rf"{re.escape(config)}-([0-9]{{{LABEL_DIGITS},}})")
    matches = [pattern.fullmatch(name) for name in known]
    numbers = {int(match[1]) for match in matches if match}
    return {number for number in numbers if number and label(config, number) in known}


def _plan_slot(places, number, slots, slot, known, lists):
    """Put slot *number* on the lists where it belongs; raises :class:`_Refusal`."""
    name = label(places.name, number)
    tape = known.get(name)
    written = _written(places, number, slot)
    if written in (None, NEVER) and tape is not None and tape.written != "0":
        raise _Refusal(
            f"the catalogue says that tape {name} was written at {tape.written}, but slot {number} "
            f"doesn't hold it. Bring it back from the mirror with amanda.rebuild, or give its "
            f"dumps up with 'amrmtape --cleanup {places.name} {name}'"
        )
    if written not in (None, NEVER):
        if tape is None:
            raise _Refusal(
                f"the tape in slot {number} was written at {written}, but the tapelist "
                f"{places.tapelist} doesn't know it. Bring the tapelist back (amanda.rebuild does, "
                "if this server replaces another), or empty the slot"
            )
        if number > slots:
            lists["kept"].append(name)
        return
    if number > slots:
        if tape is not None and not tape.reuse:
            lists["kept"].append(name)
            return
        if tape is not None or written == NEVER:
            lists["blank"].append(number)
        if slot is not None:
            lists["drop"].append(number)
        return
    if slot is None:
        lists["make"].append(number)
    if written == NEVER and tape is not None:
        return
    if tape is not None or written == NEVER:
        lists["blank"].append(number)
    lists["label"].append(number)


def _written(places, number, slot):
    """Return when the tape in a slot was written: 14 digits, or NEVER; None if it is blank."""
    if slot is None:
        return None
    where = places.tapes / f"slot{number}"
    if slot["problem"]:
        raise _Refusal(f"{where}: {slot['problem']}")
    files = slot["files"]
    expected = f"00000.{label(places.name, number)}"
    for name, size in files:
        if size is None or not _TAPE_FILE.fullmatch(name):
            raise _Refusal(f"{where} holds {name!r}, which isn't Amanda's. Move it elsewhere")
        if name.startswith("00000.") and name != expected:
            raise _Refusal(f"{where} holds another tape, {name[6:]!r}. Move it elsewhere")
    if not files or files == [[expected, 0]]:  # empty: writing the label was interrupted
        return None
    if slot["label"] != label(places.name, number):
        raise _Refusal(f"{where} has no readable label {expected!r}. Move its files elsewhere")
    if slot["written"] == NEVER and len(files) > 1:
        raise _Refusal(f"{where} holds files, but its label says that it was never written")
    return slot["written"]


def apply(places, slots, user=None, perl=None, labeller=LABELLER, done=None):
    """Make the slots and labels what they should be; return what changed, as data.

    places, slots, user
        As for :func:`plan`; the slots' parent must exist and be writable by *user*.
    perl
        The directory of Amanda's Perl modules; None asks Amanda.
    labeller
        Where the Perl program is.
    done
        Called with each finished line of work, a string.

    Returns ``made``, ``labelled``, ``dropped`` and ``kept``, lists of labels. A second call finds
    nothing to do. Raises :class:`~amanda_errors.AmandaError` naming every slot that stands in the
    way, before anything changes.
    """
    wanted = plan(places, slots, user)
    if wanted.refusals:
        raise AmandaError(
            f"the tapes of {places.name} are left as they are: " + "; ".join(wanted.refusals)
        )
    there = {*wanted.label, *wanted.drop}
    work = [("blank" if number in there else "forget", number) for number in wanted.blank]
    work += [("label", number) for number in wanted.label]
    if wanted:
        as_user(user, _make, str(places.tapes), list(wanted.make), sorted(there))
    if work:
        _label(places, work, user, perl, labeller, done)
    if wanted.drop:
        as_user(user, _drop, str(places.tapes), list(wanted.drop))
    named = {
        "made": wanted.make,
        "labelled": wanted.label,
        "dropped": wanted.drop,
    }
    result = {key: [label(places.name, n) for n in numbers] for key, numbers in named.items()}
    return {**result, "kept": list(wanted.kept)}


def _label(places, work, user, perl, labeller, done):
    lines = [f"{verb} {number} {label(places.name, number)}" for verb, number in work]
    if perl is None:
        perl = run(["amgetconf", "build.amperldir"], user=user).stdout.decode().strip()
    try:
        answer = run(
            ["perl", "-I", perl, labeller, places.name],
            user=user,
            stdin="\n".join(lines).encode() + b"\n",
        )
    except CommandError as error:
        raise AmandaError(f"labelling the tapes of {places.name} failed: {error.stderr}") from error
    finished = answer.stdout.decode().splitlines()
    if finished != lines:
        raise ParseError("what label-tapes did", answer.stdout.decode()[-200:])
    for line in finished:
        if done:
            done(line)


def tapes(places, user=None):
    """Return the inventory, one dict a slot, in the order of the slots.

    Each has ``slot`` (number), ``label`` (None if blank), ``written`` (14 digits, None if never),
    ``files`` and ``bytes`` (what is on tape), ``pinned`` (None if the tapelist doesn't know it)
    and ``problem`` (what keeps Amanda from using it, in words, else None).
    """
    known = _tapelist(places, user)
    if known and not as_user(user, os.path.isdir, str(places.tapes)):
        raise AmandaError(
            f"{places.tapes}, where the tapelist's {len(known)} tapes should be, doesn't exist: is "
            "its disk mounted?"
        )
    rows = []
    for slot in _scan_as(places, user):
        match = SLOT.fullmatch(slot["name"])
        tape = known.get(slot["label"])
        problem = None if match else _no_slot(places, slot["name"])
        try:
            if match:
                _written(places, int(match[1]), slot)
        except _Refusal as refusal:
            problem = str(refusal)
        rows.append(
            {
                "slot": int(match[1]) if match else slot["name"],
                "label": slot["label"],
                "written": None if slot["written"] == NEVER else slot["written"],
                "files": len([name for name, _ in slot["files"] if name[:6] != "00000."]),
                "bytes": sum(size or 0 for _, size in slot["files"]),
                "pinned": None if tape is None else not tape.reuse,
                "problem": problem,
            }
        )
    return sorted(rows, key=lambda row: (isinstance(row["slot"], str), row["slot"]))


def _tapelist(places, user):
    try:
        return {tape.label: tape for tape in amanda_catalogue.read_tapelist(places.tapelist)}
    except AmandaError:
        if as_user(user, os.path.lexists, str(places.tapelist)):
            raise
        return {}


def _scan_as(places, user):
    return as_user(user, scan, str(places.tapes))


def scan(directory):
    """Return what is in each ``slot*`` of *directory*, as data; nothing if it doesn't exist.

    Each has ``name``, ``problem`` (None, or why it can't be read), ``fault`` (the same, if that is
    the machine's and says nothing of the tape), ``files`` (pairs of name and size; the size is None
    of what is no regular file), ``label`` and ``written`` (of its label file; None if there is none
    that can be read). Raises :class:`~amanda_errors.AmandaError` if
    *directory*, or what it is in, isn't a directory.
    """
    try:
        names = [path.name for path in Path(directory).iterdir() if path.name.startswith("slot")]
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        path = Path(directory)
        culprit = next(p for p in [*reversed(path.parents), path] if not p.is_dir())
        raise AmandaError(
            f"{culprit} isn't a directory, so the tapes can't be in {directory}. "
            "Move it elsewhere, or set paths:tapes in pillar backup to another directory"
        ) from None
    except OSError as error:
        raise AmandaError(
            f"the directory of the tapes, {directory}, can't be read by the dump user: "
            f"{error.strerror}. He must be able to enter it and each directory above it"
        ) from None
    return [_scan_slot(directory, name) for name in sorted(names)]


def _scan_slot(directory, name):
    slot = dict.fromkeys(("name", "problem", "fault", "label", "written")) | {"files": []}
    slot["name"], path = name, Path(directory, name)
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            return {**slot, "problem": "it isn't a directory. Move it elsewhere"}
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                status = entry.stat(follow_symlinks=False)
                size = status.st_size if stat.S_ISREG(status.st_mode) else None
                slot["files"].append([entry.name, size])
        if slot["files"] and slot["files"][0][0].startswith("00000."):
            header = _read_label(path / slot["files"][0][0])
            slot["written"], slot["label"] = header or (None, None)
    except OSError as error:
        slot["problem"] = f"can't be read: {error.strerror}"
        if isinstance(unreadable(error, ""), ServerError):
            slot["fault"] = slot["problem"] = unread(path, directory, error)
    return slot


def unread(path, directory, error):
    """Return what to tell if the dump user can't read *path* in the tapes' *directory*."""
    text = f"{str(path)!r} can't be read by the dump user: {error.strerror}. "
    if error.errno != errno.EACCES:
        return f"{text}Nothing is known of what is there: see to this server or its disk"
    give = f"chown -R --reference={str(directory)!r} {str(path)!r}"
    return f"{text}Let him: {give}; chmod -R u+rwX {str(path)!r}"


def _read_label(path):
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(file, "rb") as stream:
        match = _LABEL.fullmatch(stream.read(32768))
    return (match[1].decode(), match[2].decode("ascii", "replace")) if match else None


def _make(directory, numbers, blank):
    """Make the slots; take away the empty label files that an interruption left in blank ones."""
    try:
        Path(directory).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise AmandaError(f"{directory} can't be made: {error.strerror}") from None
    for number in numbers:
        Path(directory, f"slot{number}").mkdir(mode=0o700)
    for number in blank:
        for path in Path(directory, f"slot{number}").iterdir():
            if path.stat().st_size == 0:
                path.unlink()


def _drop(directory, numbers):
    for number in numbers:
        Path(directory, f"slot{number}").rmdir()  # refuses, should anything have come into it
