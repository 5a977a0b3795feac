"""The tapes as they lie in their slots, beside what verification has recorded of them."""

import os
import stat

import amanda_sums
import amanda_tapes
from amanda_errors import AmandaError, ServerError, unreadable
from amanda_fresh import UNFINISHED
from amanda_manifest import TAPE_FILE
from amanda_rights import as_user
from amanda_tapefile import HEADER_SIZE

FOREIGN = -1
"""The number of a file that isn't Amanda's."""

_MOST = 20
"""How many foreign files of a kind are named; there may be any number."""

_MOVE = "It is no part of these backups: see what it is, and move it elsewhere"
_WHICH = "See which of them is the right one, and move the other elsewhere"

_BESIDE = {
    "state": stat.S_ISREG,  # chg-disk's own, locked in place; and a link to the slot in use
    "data": stat.S_ISLNK,
    "lost+found": stat.S_ISDIR,
    UNFINISHED: stat.S_ISDIR,
}


def number(path):
    """Return the number of a tape file."""
    return int(path.name[:5]) if TAPE_FILE.fullmatch(path.name) else FOREIGN


class Tapes:
    """The tapes as they are on the disk.

    places
        The :class:`amanda_layout.ConfigPlaces` of the config.
    user
        The dump user, who alone reads them.
    known
        The labels that the tapelist has, a set.
    expected
        Label, write time and number of each file that a dump needs, a set.
    remedy
        Called with a label and a write time; returns what to do about such a tape.

    ``problems`` has what is wrong, in words; ``bad`` the same by label, write time and the file's
    number, None for the whole tape; ``strangers`` tells of what is beside the tapes. Raises
    :class:`~amanda_errors.AmandaError` if there are no tapes at all: then nothing can be said of
    any dump.
    """

    def __init__(self, places, user, known, expected, remedy):
        self.places, self.user, self.remedy = places, user, remedy
        self.problems, self.bad, self.expected = [], {}, expected
        self.slots, self.unread = {}, []
        slots = as_user(user, amanda_tapes.scan, str(places.tapes))
        for slot in slots:
            for label in _labels(slot):
                self.slots.setdefault(label, []).append(slot)
            self.unread += [slot["fault"]] if slot["fault"] else []
        self.strangers = self.unread + self._strangers(slots, known)
        if known and not known.intersection(self.slots):
            if self.unread:
                raise ServerError(f"no tape can be verified: {self.unread[0]}")
            raise AmandaError(
                f"none of the {len(known)} tapes that the tapelist knows is in {places.tapes}. Is "
                "its disk mounted?"
            )

    def _strangers(self, slots, known):
        """Return what to tell of what no tape in *known* is in, and of what is beside the slots."""
        top = self.places.tapes
        last = max(amanda_tapes.slots_of(self.places.name, known), default=0)
        told = []
        for slot in slots:
            where = f"{str(top / slot['name'])!r}"
            if slot["fault"] or known.intersection(_labels(slot)):
                continue
            match = amanda_tapes.SLOT.fullmatch(slot["name"])
            if slot["problem"]:
                told.append(f"{where}: {slot['problem']}")
            elif slot["files"]:
                told.append(
                    f"{where} holds no tape that the tapelist knows. Move what is in it elsewhere"
                )
            elif not match or int(match[1]) > last:  # one before may wait for its label
                told.append(f"{where} is empty, and no tape belongs there. Remove it")
        for name in as_user(self.user, beside, str(top)):
            told.append(f"{str(top / name)!r} doesn't belong there. {_MOVE}")
        return _some(told, f"things that don't belong in {str(top)!r}")

    def fault(self, label):
        """Return why nothing can be said of a tape, since this server can't read it; "" if not."""
        found = self.slots.get(label, [])
        if not found and self.unread:
            return self.unread[0]
        return (found[0]["fault"] or "") if len(found) == 1 else ""

    def tell(self, key, path, problem, whole=False, remedy=""):
        """Note a problem of the tape *key*, as a *whole* or of one file; *path* is what it is.

        remedy
            What to do about it, if that isn't to have the tape as it was, or to give it up.
        """
        self.bad.setdefault((*key, None if whole else number(path)), f"{path} {problem}")
        self._say(f"tape {key[0]}: {str(path)!r} {problem}. {remedy or self.remedy(*key)}")

    def _say(self, problem):
        if problem not in self.problems:
            self.problems.append(problem)

    def files(self, key, known):
        """Return what is on one tape, sizes by path; nothing if it isn't there.

        known
            What is recorded of it: ``{name: (size, sha256)}``; None: nothing.
        """
        label, written = key
        if fault := self.fault(label):
            self._say(fault)
            return {}
        found = self.slots.get(label, [])
        if len(found) != 1:
            slots = ", ".join(slot["name"] for slot in found) or "none"
            what = f"must have it in one slot; it is in {slots}"
            self.tell(key, self.places.tapes, what, whole=True, remedy=_WHICH if found else "")
            return {}
        (slot,) = found
        directory = self.places.tapes / slot["name"]
        if slot["problem"]:
            self.tell(key, directory, slot["problem"], whole=True)
            return {}
        sizes = dict(slot["files"])
        name = f"00000.{label}"
        said = amanda_tapes.NEVER if written == "0" else written
        if written == "0" and slot["label"] == label and slot["written"] != said:
            return {}  # a run that was cut off had begun to write it: nothing there counts
        if (slot["label"], slot["written"], sizes[name]) != (label, said, HEADER_SIZE):
            when = "when it was labelled" if written == "0" else f"at {written}"
            self.tell(key, directory / name, f"isn't the label that Amanda wrote {when}")
        self._compare(key, directory, sizes, {name: None} if written == "0" else known)
        return {directory / name: size for name, size in sizes.items() if size is not None}

    def _compare(self, key, directory, sizes, known):
        """Tell of files that don't belong on a tape, and of those that are missing."""
        numbers, moved = {}, []
        for name, size in sizes.items():
            foreign = self.foreign(key, name, known)
            if not foreign:
                numbers.setdefault(name[:6], []).append(name)
            if foreign or not (size is not None or known or self._expected(key, name)):
                moved.append(name)
            elif size is None:
                self.tell(key, directory / name, "doesn't belong there")
        for name in moved[:_MOST]:
            self.tell(key, directory / name, "doesn't belong there", remedy=_MOVE)
        if more := moved[_MOST:]:
            self._say(f"tape {key[0]}: {len(more)} more files in {str(directory)!r} don't belong")
        for names in numbers.values():
            if len(names) > 1:
                what = f"is there twice: as {names[1]!r} too"
                self.tell(key, directory / names[0], what, remedy=_WHICH)
        for name, file in (known or {}).items():
            if name not in sizes:
                self.tell(key, directory / name, "is missing")
            elif file and file[1] and sizes[name] not in (None, file[0]):
                what = f"has {sizes[name]} bytes instead of {file[0]}"
                self.tell(key, directory / name, what)

    def foreign(self, key, name, known):
        """Whether a file is none of Amanda's, or came to a tape after that was verified."""
        if not TAPE_FILE.fullmatch(name):
            return True
        # A dump's file may have been missing then, and been brought back since.
        return bool(known) and name not in known and not self._expected(key, name)

    def _expected(self, key, name):
        """Whether a file has the number of one that a dump needs, or is the label."""
        return name == f"00000.{key[0]}" or (*key, int(name[:5])) in self.expected

    def hash(self, paths, report):
        """Return the SHA-256 of each of *paths*, by path; None of what can't be read.

        What this server fails to read is told, and is not among them.
        """
        answers = as_user(self.user, _hash, [str(path) for path in paths], progress=report)
        hashes = {}
        for path, (sha256, fault) in zip(paths, answers, strict=True):
            if fault:
                self._say(fault)
            else:
                hashes[path] = sha256
        return hashes


def _hash(paths, report):
    """Return for each of *paths* its SHA-256, None if it has a fault; and this server's fault."""
    found = []
    for path in paths:
        sha256, fault = None, ""
        try:
            sha256 = amanda_sums.hash_file(path, report)
        except OSError as error:
            if isinstance(unreadable(error, ""), ServerError):
                fault = amanda_tapes.unread(path, os.path.dirname(os.path.dirname(path)), error)
        found.append((sha256, fault))
    return found


def _labels(slot):
    return [name[6:] for name, _ in slot["files"] if name.startswith("00000.")]


def _some(told, what):
    """Return the first of *told*, and how many more there are of *what*."""
    more = [f"{len(told) - _MOST} more {what}"] if len(told) > _MOST else []
    return told[:_MOST] + more


# --- as the dump user ---


def beside(directory):
    """Return, sorted, what is in *directory* but neither a slot nor Amanda's or ours; names."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if not _belongs(entry))
    except FileNotFoundError:
        return []


def _belongs(entry):
    kind = _BESIDE.get(entry.name)
    mode = entry.stat(follow_symlinks=False).st_mode
    return entry.name.startswith("slot") or bool(kind and kind(mode))
