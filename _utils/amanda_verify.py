"""Verification: every dump read back as a restore would, every byte on tape covered by a hash.

The first time, what is on tape is compared with what Amanda noted: sizes, three CRC-32C, headers,
the index; and the hash of each file is recorded (:mod:`amanda_verified`). From then on a file is
good if its hash is still the same, be it of a dump, of a half one that nobody needs, or a label.
"""

import contextlib
import dataclasses
import re
import time
from collections.abc import Callable
from pathlib import Path

import amanda_dump
import amanda_index
import amanda_layout
import amanda_listing
import amanda_results
import amanda_verified
from amanda_errors import AmandaError, SealedError, ServerError, unreadable
from amanda_slots import Tapes, number
from amanda_tapefile import TapeSource, take_header

_PROGRAM = re.compile("APPLICATION|GNUTAR|/.+")  # a header has the path of the client's tar
_SAVED = 60  # seconds of work that a kill may cost; a record of a million files has some 100 MB


@dataclasses.dataclass(frozen=True)
class Scope:
    """What is to be verified.

    dumps
        The :class:`amanda_catalogue.Dump` objects to read back.
    later
        More of them, in order, that can wait: when the *seconds* for these are over none is begun.
    tapes
        Pairs of label and write time ("0": never written) of the tapes to look at as a whole.
    known
        The labels of all tapes that there should be, a set.
    others
        Dumps to read back as well if anything is wrong with where they are.
    again
        Whether files are read again whose hash is recorded, or that are known to be bad.
    opens, identity
        As for :func:`read_back`.
    trial
        Called before a dump is called bad: raises :class:`~amanda_errors.AmandaError` if this
        server's own programs don't work.
    own
        Tells of a dump whether it was sealed to the key that this server has now.
    """

    dumps: tuple
    tapes: tuple
    known: frozenset
    others: tuple = ()
    again: bool = True
    opens: bool = True
    identity: int | None = None
    later: tuple = ()
    seconds: int = 0
    trial: Callable = lambda: None
    own: Callable = lambda dump: False


@dataclasses.dataclass(frozen=True)
class Reading:
    """What came of reading a dump back, in words where something is wrong.

    opened
        Whether it was.
    problem
        What its data proves to be wrong with it, "" if nothing.
    fault
        What this server could not do, "" if nothing: then nothing is known of the dump.
    sealed
        Why the key that there is doesn't open it, "" if it does, or none is to be there.
    """

    opened: bool
    problem: str = ""
    fault: str = ""
    sealed: str = ""


def read_back(dump, source, index, user=None, hashes=None, opens=True, report=None, identity=None):
    """Read one dump back and return the :class:`Reading`.

    dump, source, user, hashes, report
        As for :func:`amanda_dump.open_stream`.
    index
        The config's index directory.
    opens
        False: this server is to hold no identity, so what is sealed with age isn't opened. Then
        headers, sizes and CRC-32C of what is on tape are compared, and that there is an index.
    identity
        What :func:`amanda_identity.given` gave, for what is sealed with age; None: the server's.
    """
    opened = False
    try:
        aged = _check_headers(dump, source)
        file = amanda_index.path(index, dump)
        if file is None:
            raise AmandaError(f"{amanda_dump.describe(dump)} has no index in {index}")
        names = amanda_index.lines(file, Path(index).parent)
        if aged and not opens:
            amanda_dump.check_sealed(dump, source, hashes, report)
            return Reading(False)
        given = {"hashes": hashes, "report": report, "identity": identity if aged else None}
        try:
            with amanda_dump.open_stream(dump, source, user=user, **given) as stream:
                opened = True
                differing = amanda_listing.compare(stream, names, user)
        except SealedError as error:
            opened = False
            # A changed byte can look like another key: so all of them are compared.
            amanda_dump.check_sealed(dump, source, hashes, report)
            return Reading(False, sealed=str(error))
        if differing:
            raise AmandaError(f"{amanda_dump.describe(dump)} and its index differ: {differing}")
    except ServerError as error:
        return Reading(opened, fault=str(error))
    except AmandaError as error:
        return Reading(opened, str(error))
    except OSError as error:
        fault = isinstance(unreadable(error, ""), ServerError)
        return Reading(opened, fault=str(error)) if fault else Reading(opened, str(error))
    return Reading(True)


def _check_headers(dump, source):
    """Compare in the headers what no reader needs; return whether the dump is sealed with age.

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
    return bool(decrypt) and decrypt[0] == amanda_layout.CRYPT["age"]


def verify(places, user, scope, record, progress, remedy=lambda label, written: ""):
    """Verify *scope*, note in *record* what was found, store it as it grows, and return it as data.

    places, user, remedy
        As for :class:`amanda_slots.Tapes`; what that raises is raised.
    record
        The config's :class:`amanda_verified.Record`.
    progress
        Called with a dict: ``dumps`` (done), ``of`` (all) and ``bytes`` read.

    ``dumps``, ``good``, ``unopened`` and, of these, ``sealed`` to another key than the server's are
    numbers of dumps, and ``left`` that of those for which there was no time; ``failed`` has an
    entry for each one that isn't good; ``problems`` says in words what is wrong with files on tape,
    and what this server could not verify; ``tapes``, ``files`` and ``bytes`` count what was looked
    at and read.
    """
    tapes = _tapes(places, user, scope, remedy)
    work = _Work(places, user, scope, tapes, record, progress)
    try:
        left = work.read_dumps()
        work.hash_rest()
    finally:
        amanda_verified.write(places.name, record)
    done = len(work.readings)
    return {
        "dumps": done,
        "good": done - len(work.failed) - len(work.unjudged),
        "unopened": sum(
            not (reading.opened or reading.problem or reading.fault)
            for reading in work.readings.values()
        ),
        "sealed": sum(bool(reading.sealed) for reading in work.readings.values()),
        "left": left,
        "failed": [entry(dump, reason) for dump, reason in work.failed.items()],
        "tapes": len(scope.tapes),
        "files": len(work.hashes),
        "bytes": work.told["bytes"],
        "problems": tapes.problems + work.problems(),
    }


class _Work:
    """One verification, as far as it is."""

    def __init__(self, places, user, scope, tapes, record, progress):
        self.places, self.user, self.scope = places, user, scope
        self.tapes, self.record, self.progress = tapes, record, progress
        self.source = TapeSource(places.tapes)
        self.readings, self.hashes, self.failed, self.unjudged = {}, {}, {}, {}
        self.there = {key: tapes.files(key, record.tapes.get(key)) for key in scope.tapes}
        _list(self.there, tapes, record)
        self.told = {"dumps": 0, "of": 0, "bytes": 0}
        self.saved = time.monotonic()

    def report(self, count, done=0):
        told = self.told
        told.update(bytes=told["bytes"] + count, dumps=told["dumps"] + done)
        self.progress(dict(told))

    def read_dumps(self):
        """Read back the dumps, the newest first; return for how many there was no time."""
        scope = self.scope
        touched = [
            dump
            for dump in scope.others
            if _problem(dump, self.tapes.bad, label=True) and not self.record.failed(dump)
        ]
        dumps = dict.fromkeys([*scope.dumps, *touched])
        later = [dump for dump in scope.later if dump not in dumps]
        self.told["of"] = len(dumps) + len(later)
        for dump in sorted(dumps, key=lambda dump: dump.timestamp, reverse=True):
            self.read(dump)
        end = time.monotonic() + scope.seconds
        while later and time.monotonic() < end:
            self.read(later.pop(0))
        return len(later)

    def read(self, dump):
        """Read one dump back, judge it, and note its files if it is good."""
        hashes, owners = {}, {}
        where = (self.source, self.places.index, self.user)
        unread = next(filter(None, (self.tapes.fault(part.label) for part in dump.parts)), "")
        if unread:
            reading = Reading(True, fault=unread)
        else:
            how = (self.scope.opens, self.report, self.scope.identity)
            reading = read_back(dump, *where, hashes, *how)
        for part in dump.parts:
            with contextlib.suppress(AmandaError):  # missing, which was told
                owners[self.source.path(part)] = (part.label, part.written)
        self.compare(owners, hashes)
        self.hashes.update(hashes)
        self.readings[dump] = reading
        proven = _problem(dump, self.tapes.bad)
        problem = reading.problem or self.sealed(dump, reading)
        fault = reading.fault or (problem and not proven and self.own_fault())
        if fault and not proven:
            self.unjudged[dump] = fault
        else:
            reason = problem or proven
            if not reason:  # before the verdict: what has one is not read again
                self.note(owners, hashes)
            self.judge(dump, reason)
        self.report(0, 1)
        self.save()

    def sealed(self, dump, reading):
        """Return what is wrong with a dump that is whole on tape, but was not opened."""
        if reading.opened:
            return ""
        if reading.sealed and self.scope.own(dump):
            return reading.sealed
        verdict = self.record.verdict(dump)  # what was seen once, with its key, still holds
        return verdict.reason if verdict and verdict.opened else ""

    def own_fault(self):
        """Return why this server can't verify anything now, "" if it can."""
        try:
            self.scope.trial()
        except (AmandaError, OSError) as error:
            return str(error)
        return ""

    def judge(self, dump, reason):
        """Record what a dump was found to be, unless more was known of it, or can be."""
        known, reading = self.record.verdict(dump), self.readings[dump]
        better = known and known.opened and (known.reason or not reason)
        others = reading.sealed and self.scope.identity is not None and not reason  # key, given
        if reading.opened or not (better or others):
            self.record.judge(dump, amanda_results.now(), reason, reading.opened)
        if reason:
            self.failed[dump] = reason

    def hash_rest(self):
        """Read what no dump's reading has read; what a dump needs is noted by that alone."""
        scope = self.scope
        unproven = {
            (part.label, part.written, part.file)
            for dump in (*scope.dumps, *scope.later, *scope.others)
            if not self.record.good(dump)
            for part in dump.parts
        }
        for key, files in self.there.items():
            doubtful = {path for path in files if (*key, number(path)) in unproven}
            wanted = [
                path
                for path in files
                if path not in self.hashes
                and (scope.again or not (path in doubtful or _known(self.record, key, path)))
            ]
            hashes = self.tapes.hash(wanted, self.report) if wanted else {}
            self.hashes.update(hashes)
            self.compare(dict.fromkeys(files, key), hashes)
            self.note({path: key for path in files if path not in doubtful}, hashes)
            self.save()
        for dump in list(self.unjudged):
            if reason := _problem(dump, self.tapes.bad):
                del self.unjudged[dump]
                self.judge(dump, reason)

    def compare(self, owners, hashes):
        """Tell of files whose hash is another than the recorded one."""
        for path, sha256 in hashes.items():
            known = _known(self.record, owners[path], path)
            if sha256 is None:
                self.tapes.tell(owners[path], path, "can't be read")
            elif known not in (None, sha256):
                what = "has changed since it was verified: its SHA-256 is another"
                self.tapes.tell(owners[path], path, what)

    def note(self, owners, hashes):
        """Record the hashes of files that are what they should be; a recorded one always stays."""
        for path, sha256 in hashes.items():
            key = owners.get(path)
            files = self.record.tapes.get(key, {})
            size, known = files.get(path.name, (None, sha256))
            if known is None and (*key, number(path)) not in self.tapes.bad:
                files[path.name] = (size, sha256)

    def save(self):
        """Store the record, if that wasn't done just now."""
        if time.monotonic() - self.saved >= _SAVED:
            amanda_verified.write(self.places.name, self.record)
            self.saved = time.monotonic()

    def problems(self):
        """Return what to say of dumps that were not verified."""
        return [
            f"{amanda_dump.describe(dump)} was not verified, since this server failed: {fault}"
            for dump, fault in self.unjudged.items()
        ]


def _tapes(places, user, scope, remedy):
    """Return the :class:`amanda_slots.Tapes`, for what is to be verified of them."""
    dumps = (*scope.dumps, *scope.later, *scope.others)
    expected = {(part.label, part.written, part.file) for dump in dumps for part in dump.parts}
    tapes = Tapes(places, user, scope.known, expected, remedy)
    if scope.again and scope.known.issubset(label for label, _ in scope.tapes):
        tapes.problems += tapes.strangers
    return tapes


def _problem(dump, bad, label=False):
    """Return what is wrong with a tape or file that a dump is on, "" if nothing is.

    label
        Whether the tape's label counts: what is wrong with it need not keep a dump from being read.
    """
    for part in dump.parts:
        for file in (part.file, None, 0)[: 3 if label else 2]:
            if problem := bad.get((part.label, part.written, file)):
                return f"{amanda_dump.describe(dump)}: tape {part.label}: {problem}"
    return ""


def _known(record, key, path):
    """Return the recorded hash of a file, or None."""
    return record.tapes.get(key, {}).get(path.name, (0, None))[1]


def _list(there, tapes, record):
    """Record which files each tape has: what comes to it later doesn't belong there."""
    for key, files in there.items():
        known = record.tapes.get(key)
        if key[1] == "0" or not files:
            continue  # what a tape holds that was never written is known anyway
        noted = dict(known or {})
        for path, size in files.items():
            if not (_known(record, key, path) or tapes.foreign(key, path.name, known)):
                noted[path.name] = (size, None)
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
