"""Verification: every dump read back as a restore would, every byte on tape covered by a hash.

The first time, what is on tape is compared with what Amanda noted: sizes, three CRC-32C, headers,
the index; and the hash of each file is recorded (:mod:`amanda_verified`). From then on a file is
good if its hash is still the same, be it of a dump, of a half one that nobody needs, or a label.
"""

import contextlib
import dataclasses
import re
from pathlib import Path

import amanda_dump
import amanda_index
import amanda_layout
import amanda_listing
import amanda_mirror_user
import amanda_results
import amanda_tapes
from amanda_errors import AmandaError
from amanda_manifest import TAPE_FILE
from amanda_rights import as_user
from amanda_tapefile import HEADER_SIZE, TapeSource, take_header

_PROGRAM = re.compile("APPLICATION|GNUTAR|/.+")  # a header has the path of the client's tar
_FOREIGN = -1  # the number of a file that isn't Amanda's


@dataclasses.dataclass(frozen=True)
class Scope:
    """What is to be verified.

    dumps
        The :class:`amanda_catalogue.Dump` objects to read back.
    tapes
        Pairs of label and write time ("0": never written) of the tapes to look at as a whole.
    known
        The labels of all tapes that there should be, a set.
    others
        Dumps to read back as well if anything is wrong with where they are.
    again
        Whether files whose hash is recorded are read again.
    opens
        As for :func:`read_back`.
    """

    dumps: tuple
    tapes: tuple
    known: frozenset
    others: tuple = ()
    again: bool = True
    opens: bool = True


@dataclasses.dataclass(frozen=True)
class Reading:
    """What came of reading a dump back: whether it was *opened*, and what is wrong, in words."""

    opened: bool
    problem: str


def read_back(dump, source, index, user=None, hashes=None, opens=True):
    """Read one dump back and return the :class:`Reading`.

    dump, source, user, hashes
        As for :func:`amanda_dump.open_stream`.
    index
        The config's index directory.
    opens
        False: this server is to hold no identity, so what is sealed with age isn't opened. Then
        headers, sizes and CRC-32C of what is on tape are compared, and that there is an index.
    """
    opened = True
    try:
        opened = _check_headers(dump, source, opens)
        file = amanda_index.path(index, dump)
        if file is None:
            raise AmandaError(f"{amanda_dump.describe(dump)} has no index in {index}")
        names = amanda_index.lines(file, Path(index).parent)
        if not opened:
            amanda_dump.check_sealed(dump, source, hashes)
            return Reading(False, "")
        with amanda_dump.open_stream(dump, source, user=user, hashes=hashes) as stream:
            differing = amanda_listing.compare(stream, names, user)
        if differing:
            raise AmandaError(f"{amanda_dump.describe(dump)} and its index differ: {differing}")
    except (AmandaError, OSError) as error:
        return Reading(opened, str(error))
    return Reading(True, "")


def _check_headers(dump, source, opens):
    """Compare in the headers what no reader needs; return whether this server can open the dump.

    The first flipped bit there would be found by the hash, but for the time before there is one.
    """
    first = None
    for part in dump.parts:
        where = f"tape {part.label} file {part.file} ({source.path(part)})"
        with source.open(part) as file:
            header, block = take_header(file, where)
        text = block.rstrip(b"\0")
        rest = text.replace(f"part {part.number}/{header.parts}".encode(), b"part", 1)
        first = first or rest
        measured = [(header.native, dump.native), (header.client, dump.client)]
        measured.append((header.server, dump.server))
        if (
            b"\0" in text
            or rest != first
            or not _PROGRAM.fullmatch(header.program)
            or any(had not in (None, log) for had, log in measured)
        ):
            raise AmandaError(
                f"{amanda_dump.describe(dump)}: the header of {where} isn't as Amanda wrote it, or "
                "that of the first part isn't; the data may still be whole"
            )
    decrypt, _ = amanda_dump.decrypter(header, where)
    return opens or not decrypt or decrypt[0] != amanda_layout.CRYPT["age"]


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
    number, None for the whole tape; ``strangers`` tells of slots that hold something else. Raises
    :class:`~amanda_errors.AmandaError` if there are no tapes at all: then nothing can be said of
    any dump.
    """

    def __init__(self, places, user, known, expected, remedy):
        self.places, self.user, self.remedy = places, user, remedy
        self.problems, self.bad, self.expected = [], {}, expected
        self.slots, self.strangers = {}, []
        for slot in as_user(user, amanda_tapes.scan, str(places.tapes)):
            labels = [name[6:] for name, _ in slot["files"] if name.startswith("00000.")]
            for label in labels:
                self.slots.setdefault(label, []).append(slot)
            if slot["files"] and not known.intersection(labels):
                self.strangers.append(
                    f"{str(places.tapes / slot['name'])!r} holds no tape that the tapelist knows. "
                    "Move what is in it elsewhere"
                )
        if known and not known.intersection(self.slots):
            raise AmandaError(
                f"none of the {len(known)} tapes that the tapelist knows is in {places.tapes}. Is "
                "its disk mounted?"
            )

    def tell(self, key, path, problem, whole=False):
        """Note a problem of the tape *key*, as a *whole* or of one file; *path* is what it is."""
        ours = TAPE_FILE.fullmatch(path.name)
        number = None if whole else int(path.name[:5]) if ours else _FOREIGN
        self.bad.setdefault((*key, number), f"{path} {problem}")
        self.problems.append(f"tape {key[0]}: {str(path)!r} {problem}. {self.remedy(*key)}")

    def files(self, key, known):
        """Return what is on one tape, sizes by path; nothing if it isn't there.

        known
            What is recorded of it: ``{name: (size, sha256)}``; None: nothing.
        """
        label, written = key
        found = self.slots.get(label, [])
        if len(found) != 1:
            slots = ", ".join(slot["name"] for slot in found) or "none"
            what = f"must have it in one slot; it is in {slots}"
            self.tell(key, self.places.tapes, what, whole=True)
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
        numbers = {}
        for name, size in sizes.items():
            numbers.setdefault(name[:6], []).append(name)
            if size is None or self.foreign(key, name, known):
                self.tell(key, directory / name, "doesn't belong there")
        for names in numbers.values():
            if len(names) > 1:
                self.tell(key, directory / names[0], f"is there twice: as {names[1]!r} too")
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
        return bool(known) and name not in known and (*key, int(name[:5])) not in self.expected

    def hash(self, paths, report):
        """Return the SHA-256 of each of *paths*, by path; None of what can't be read."""
        answers = as_user(self.user, _hash, [str(path) for path in paths], progress=report)
        return dict(zip(paths, answers, strict=True))


def _hash(paths, report):
    found = []
    for path in paths:
        try:
            found.append(amanda_mirror_user.hash_file(path, report))
        except OSError:
            found.append(None)
    return found


def verify(places, user, scope, record, progress, remedy=lambda label, written: ""):
    """Verify *scope*, note in *record* what was found, and return it, as data.

    places, user, remedy
        As for :class:`Tapes`; what that raises is raised.
    record
        The config's :class:`amanda_verified.Record`.
    progress
        Called with a dict: ``dumps`` (done), ``of`` (all) and ``bytes`` read.

    ``dumps``, ``good`` and ``unopened`` are numbers of dumps; ``failed`` has an entry for each one
    that isn't good; ``problems`` says in words what is wrong with files on tape; ``tapes``,
    ``files`` and ``bytes`` count what was looked at and read.
    """
    tapes = _tapes(places, user, scope, remedy)
    there = {key: tapes.files(key, record.tapes.get(key)) for key in scope.tapes}
    touched = [dump for dump in scope.others if _problem(dump, tapes.bad, label=True)]
    dumps = list(dict.fromkeys([*scope.dumps, *touched]))
    source = TapeSource(places.tapes)
    told = {"dumps": 0, "of": len(dumps), "bytes": 0}

    def report(count, done=0):
        told.update(bytes=told["bytes"] + count, dumps=told["dumps"] + done)
        progress(dict(told))

    hashes, readings = {}, {}
    for dump in dumps:
        readings[dump] = read_back(dump, source, places.index, user, hashes, scope.opens)
        report(dump.size, 1)
    hashes.update(tapes.hash(_unread(there, hashes, scope.again, record), report))
    _compare_hashes(tapes, _owners(there, dumps, source), hashes, record)
    failed = _judge(readings, tapes, record)
    _note(there, hashes, tapes, failed, record)
    return {
        "dumps": len(dumps),
        "good": len(dumps) - len(failed),
        "unopened": sum(not reading.opened for reading in readings.values()),
        "failed": [entry(dump, reason) for dump, reason in failed.items()],
        "tapes": len(scope.tapes),
        "files": len(hashes),
        "bytes": told["bytes"],
        "problems": tapes.problems,
    }


def _tapes(places, user, scope, remedy):
    """Return the :class:`Tapes`, for what is to be verified of them."""
    dumps = (*scope.dumps, *scope.others)
    expected = {(part.label, part.written, part.file) for dump in dumps for part in dump.parts}
    tapes = Tapes(places, user, scope.known, expected, remedy)
    if scope.again and scope.known.issubset(label for label, _ in scope.tapes):
        tapes.problems += tapes.strangers
    return tapes


def _judge(readings, tapes, record):
    """Record the verdict on each dump; return the reasons of those that aren't good."""
    failed = {}
    for dump, reading in readings.items():
        reason = reading.problem or _problem(dump, tapes.bad)
        record.judge(dump, amanda_results.now(), reason, reading.opened)
        if reason:
            failed[dump] = reason
    return failed


def _problem(dump, bad, label=False):
    """Return what is wrong with a tape or file that a dump is on, "" if nothing is.

    label
        Whether the tape's label counts: what is wrong with it need not keep a dump from being read.
    """
    for part in dump.parts:
        for number in (part.file, None, 0)[: 3 if label else 2]:
            if problem := bad.get((part.label, part.written, number)):
                return f"{amanda_dump.describe(dump)}: tape {part.label}: {problem}"
    return ""


def _unread(there, hashes, again, record):
    """Return the paths of files whose hash is still needed."""
    return [
        path
        for key, files in there.items()
        for path in files
        if path not in hashes and (again or not _known(record, key, path))
    ]


def _known(record, key, path):
    """Return the recorded hash of a file, or None."""
    return record.tapes.get(key, {}).get(path.name, (0, None))[1]


def _owners(there, dumps, source):
    """Return, by path, the label and write time of the tape that a file is on."""
    owners = {path: key for key, files in there.items() for path in files}
    for part in (part for dump in dumps for part in dump.parts):
        with contextlib.suppress(AmandaError):  # missing, which was told
            owners[source.path(part)] = (part.label, part.written)
    return owners


def _compare_hashes(tapes, owners, hashes, record):
    for path, sha256 in hashes.items():
        known = _known(record, owners[path], path)
        if sha256 is None:
            tapes.tell(owners[path], path, "can't be read")
        elif known not in (None, sha256):
            what = "has changed since it was verified: its SHA-256 is another"
            tapes.tell(owners[path], path, what)


def _note(there, hashes, tapes, failed, record):
    """Record the hash of each file that is what it should be; a recorded one always stays."""
    suspect = {(p.label, p.written, p.file) for dump in failed for p in dump.parts}
    for key, files in there.items():
        known = record.tapes.get(key)
        if key[1] == "0" or not files:
            continue  # what a tape holds that was never written is known anyway
        noted = dict(known or {})
        for path, size in files.items():
            if _known(record, key, path) or tapes.foreign(key, path.name, known):
                continue
            where = (*key, int(path.name[:5]))
            good = where not in suspect and where not in tapes.bad
            noted[path.name] = (size, hashes.get(path) if good else None)
        record.tapes[key] = noted


def entry(dump, reason):
    """Return what a result says of a dump that isn't good."""
    return {
        "host": dump.host,
        "disk": dump.disk,
        "timestamp": dump.timestamp,
        "level": dump.level,
        "labels": list(dict.fromkeys(part.label for part in dump.parts)),
        "success": False,
        "reason": reason,
    }
