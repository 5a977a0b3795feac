"""The steps of a run that verify: what is new on tape, or what an administrator asks for."""

import dataclasses

import amanda_catalogue
import amanda_encryption
import amanda_generations
import amanda_identity
import amanda_manifest
import amanda_mirrored
import amanda_sources
import amanda_verified
import amanda_verify
from amanda_errors import AmandaError, ArgumentError, SealedError

_NEXT = "The next dump of each such directory is a full one, and its last good state stays on tape"
_INCOMPLETE = (
    "The record of what was verified was lost lately, and not all that is on tape was verified "
    "again since: until then tapes that may hold a last good state aren't written again, and "
    "nothing is removed from the mirror"
)
_AGAIN = (
    "What is still whole on tape can be mirrored again: remove the directory of its damaged copy, "
    "or of the damaged generation, and call amanda.mirror"
)
_NOT_TRIED = (
    "what there is was compared as it is, but whether it can be decrypted, and holds what the "
    "index says, was not tried"
)
_NO_IDENTITY = (
    f", since this server holds no identity: {_NOT_TRIED}. 'amanda.verify "
    "identity=/root/offsite.key' does, with the offsite key in that file"
)
_OTHER = f" sealed to another key than that in the file of identity=: {_NOT_TRIED}"
_SEALED = (
    f" sealed to another key than this server's: {_NOT_TRIED}. A restore takes that key, or an "
    "offsite one: identity=/root/offsite.key"
)
_SHOWN = 10  # of what there is, if what was asked for is not


def check(asked):
    """Return what is *asked* for, without what is None, in one form.

    asked
        At most one of ``run``, ``tape``, ``generation`` and ``source``; with none of them, or
        ``source`` "tapes", it is all that is on tape.

    Raises :class:`~amanda_errors.ArgumentError` if that can't be.
    """
    what = {name: str(value) for name, value in asked.items() if value is not None}
    if what.get("source", "mirror") not in amanda_sources.SOURCES:
        raise ArgumentError(
            f"{what['source']!r} is no source: choose one of {', '.join(amanda_sources.SOURCES)}"
        )
    if what.get("source") == "mirror" and "generation" in what:
        what.pop("source")
    if what.get("source") == "tapes":
        what.pop("source")
        if "generation" in what:
            raise ArgumentError("a generation is one of the mirror: leave out source=tapes")
    if len(what) > 1:
        raise ArgumentError(f"{' and '.join(what)} can't be verified together: ask for one")
    if "run" in what and not amanda_manifest.WRITTEN.fullmatch(what["run"]):
        what["run"] = amanda_sources.timestamp(what["run"])
    return what


def new(work):
    """Verify what never was, and what was bad then and has no good successor; if a run is to."""
    everything = _Everything(work)
    due = sorted(filter(everything.due, everything.dumps), key=everything.urgency, reverse=True)
    if work.config.verify is None:
        message = f"nothing was verified, and {len(due)} dumps on tape wait for it: {off(work)}"
        message += f". {_INCOMPLETE}" if everything.record.incomplete else ""
        return {"success": True, "message": message, "verified": False, "left": len(due)}
    dumps = [dump for dump in due if everything.fresh(dump)]
    later = [dump for dump in due if not everything.fresh(dump)]
    seconds = work.config.verify
    return everything.verify(dumps, everything.tapes, again=False, later=later, seconds=seconds)


def off(work):
    """Return why runs verify nothing, and what does."""
    name = work.places.name
    return (
        f"backup:configs:{name}:verify is false in the pillar. So nobody knows whether these dumps "
        f"can be restored, until 'salt-call amanda.verify config={name}'"
    )


def asked(work):
    """Verify what the run's specification asks for; ``identity`` there is the path of a key."""
    path = work.options.get("identity")
    what = check({name: value for name, value in work.options.items() if name != "identity"})
    with amanda_identity.given(path, work.user) as identity:
        if "generation" in what or "source" in what:
            return _generation(work, what.get("generation"), identity)
        return _tapes(work, what, identity)


def _tapes(work, what, identity):
    """Verify what is asked for of that which is on tape."""
    everything = _Everything(work, identity)
    dumps, tapes = everything.dumps, everything.tapes
    if "run" in what:
        run = what["run"]
        tapes = [tape for tape in tapes if tape[1] == run]
        dumps = [d for d in dumps if d.timestamp == run or any(p.written == run for p in d.parts)]
        there = sorted({d.timestamp for d in everything.dumps} | {t[1] for t in everything.tapes})
        _must_be(tapes or dumps, "dump or tape of a run at", run, [t for t in there if t != "0"])
    if "tape" in what:
        label = what["tape"]
        tapes = [tape for tape in tapes if tape[0] == label]
        dumps = [d for d in dumps if any(p.label == label for p in d.parts)]
        _must_be(tapes, "tape", label, [tape[0] for tape in everything.tapes])
    return everything.verify(dumps, tapes)


def _must_be(found, kind, name, there):
    if not found:
        last = ", ".join(there[-_SHOWN:]) or "none"
        more = f"the last {_SHOWN} of {len(there)} are " if len(there) > _SHOWN else "there is "
        raise ArgumentError(f"there is no {kind} {name!r} in this config; {more}{last}")


def begin_anew(work):
    """Begin the record of what was verified anew, since it is damaged, and verify what is on tape.

    So that the dump that follows goes by it: what is known to be bad, and what must be kept.
    """
    kept = amanda_verified.begin_anew(work.places.name)
    try:
        result = new(work)
    except (AmandaError, OSError) as error:
        result = {"message": f"What is on tape could not be verified: {error}. {_INCOMPLETE}"}
    message = (
        f"{amanda_verified.path(work.places.name)}, which said what was verified, was damaged. It "
        f"is kept as {kept}, and a new one is begun. See whether the disk that it is on fails. "
        f"{result['message']}"
    )
    return {**result, "success": False, "message": message}


class _Everything:
    """All that one config has on tape, and what is known of it."""

    def __init__(self, work, identity=None):
        self.work = work
        self.identity = identity
        self.dumps = [d for d in amanda_catalogue.read(work.places) if d.status == "OK"]
        tapelist = amanda_catalogue.read_tapelist(work.places.tapelist)
        self.tapes = sorted((tape.label, tape.written) for tape in tapelist)
        self.record = amanda_verified.read(work.places.name)
        self.last = max((tape.written for tape in tapelist), default="0")
        if self.last == "0" and (self.record or self.record.tapes):
            raise AmandaError(
                f"{work.places.tapelist} knows no tape that was written, but there was what was "
                f"verified: bring the tapelist back. If all tapes were given up, remove "
                f"{amanda_verified.path(work.places.name)}"
            )

    def fresh(self, dump):
        """Whether the last run that wrote to tape wrote any of *dump*."""
        return any(part.written == self.last for part in dump.parts)

    def urgency(self, dump):
        """Return what orders dumps: those that never were verified, by age, then what was bad."""
        return self.record.verdict(dump) is None, dump.timestamp

    def due(self, dump):
        """Whether a dump is to be verified though nobody asks for it.

        A bad one is tried again, as long as there is no newer full dump, good or not yet verified.
        """
        if self.record.verdict(dump) is None:
            return True
        return self.record.failed(dump) and not any(
            (other.host, other.disk, other.level) == (dump.host, dump.disk, 0)
            and other.timestamp > dump.timestamp
            and not self.record.failed(other)
            for other in self.dumps
        )

    def verify(self, dumps, tapes, again=True, later=(), seconds=0):
        """Verify, and return the step's result."""
        known = frozenset(label for label, _ in self.tapes)
        others = () if again else tuple(self.dumps)
        work = self.work
        given = self.identity is not None
        scope = amanda_verify.Scope(
            dumps=tuple(dumps),
            tapes=tuple(tapes),
            known=known,
            others=others,
            again=again,
            opens=given or work.settings.encryption.server_identity,
            identity=self.identity,
            later=tuple(later),
            seconds=seconds,
            trial=self._trial,
            own=_nobodys if given else _own,
        )
        self.record.prune(self.tapes)
        result = amanda_verify.verify(
            work.places, work.user, scope, self.record, work.report.progress, self._remedy
        )
        if self.record.incomplete and all(self.record.verdict(dump) for dump in self.dumps):
            self.record.incomplete = False
            amanda_verified.write(work.places.name, self.record)
        notes = [_NEXT] if result["failed"] else []
        notes += [_INCOMPLETE] if self.record.incomplete else []
        if result["left"]:
            notes.append(f"{result['left']} older dumps wait to be verified: the next runs do that")
        if result["sealed"]:
            _tell_sealed(f"{result['sealed']} dumps are", given, notes, result["problems"])
        elif result["unopened"] and not scope.opens:
            notes.append(f"{result['unopened']} dumps could not be opened{_NO_IDENTITY}")
        return _told(result, notes)

    def _trial(self):
        """Raise if this server's own filters don't work."""
        given = self.identity is not None
        amanda_encryption.canary(self.work.settings.encryption, self.work.user, given)

    def _remedy(self, label, written):
        """Return what to do about a tape that isn't what it should be."""
        name, mirror = self.work.places.name, self.work.settings.mirror
        copy = ""
        if mirror and written != "0":
            where = amanda_generations.tape_directory(mirror, name, label, written)
            copy = f"Bring it back from the mirror's copy, if there is one, {where}; or g"
        return (
            f"{copy or 'G'}ive the tape up with 'runuser -u {self.work.user} -- amrmtape --cleanup "
            f"--erase {name} {label}'"
        )


def _told(result, notes):
    """Return the step's result with ``success`` and ``message``, which ends with *notes*."""
    failed, problems = result["failed"], result["problems"]
    parts = [f"{result['good']} of {result['dumps']} dumps are good, {result['files']} files read"]
    if failed:
        first = failed[0]
        what = f"{first['host']} {first['disk']} of {first['timestamp']}: {first['reason']}"
        parts.append(f"{what}{_more(failed)}")
    if problems:
        parts.append(f"{problems[0]}{_more(problems)}")
    success = not (failed or problems)
    return {"success": success, "message": ". ".join([*parts, *notes]), **result}


def _more(entries):
    return f" (and {len(entries) - 1} more)" if len(entries) > 1 else ""


def _generation(work, name, identity):
    """Verify one generation of the mirror: every byte, and every dump that it holds.

    Without a name the whole mirror's bytes, and the dumps of the newest generation.
    """
    mirror, config = work.settings.mirror, work.places.name
    if mirror is None:
        raise ArgumentError("there is no mirror: set mirror in pillar backup")
    told, known = {"dumps": 0, "of": 0, "bytes": 0}, amanda_mirrored.read(mirror, config)

    def report(count, done=0):
        told.update(bytes=told["bytes"] + count, dumps=told["dumps"] + done)
        work.report.progress(dict(told))

    if name is None:
        found = amanda_generations.check(mirror, config, True, report, known)
    else:
        found = amanda_generations.check_generation(mirror, config, name, True, report, known)
    problems = found["problems"] + _contradictions(mirror, config, found["copies"])
    back = _Back(name or found["newest"])
    problems += _read_generation(work, back, known, told, report, identity)
    problems += [f"not verified, since this server failed: {fault}" for fault in back.faults()]
    result = {**back.counts(), "files": found["files"], "bytes": told["bytes"]}
    notes = [_AGAIN] if result["failed"] or problems else []
    if back.tapes and not back.opens:
        notes.append(f"Its catalogue and dumps could not be opened{_NO_IDENTITY}")
    sealed = "Its catalogue is" if back.sealed else ""
    if result["sealed"]:
        sealed = f"{result['sealed']} dumps are"
    if sealed:
        _tell_sealed(sealed, identity is not None, notes, problems)
    return _told({**result, "problems": problems, "opened": back.opens and not sealed}, notes)


@dataclasses.dataclass
class _Back:
    """What came of reading a generation's dumps back.

    opens
        Whether there is a key that may open its catalogue.
    sealed
        Whether that key doesn't.
    """

    generation: str
    tapes: int = 0
    opens: bool = False
    sealed: bool = False
    readings: dict = dataclasses.field(default_factory=dict)

    def faults(self):
        """Return what this server could not do."""
        return [reading.fault for reading in self.readings.values() if reading.fault]

    def counts(self):
        """Return the part of the step's result that is about the dumps."""
        readings = self.readings
        failed = [
            amanda_verify.entry(dump, reading.problem)
            for dump, reading in readings.items()
            if reading.problem
        ]
        return {
            "generation": self.generation,
            "dumps": len(readings),
            "good": len(readings) - len(failed) - len(self.faults()),
            "unopened": sum(not reading.opened for reading in readings.values()),
            "sealed": sum(bool(reading.sealed) for reading in readings.values()),
            "failed": failed,
            "tapes": self.tapes,
        }


def _read_generation(work, back, known, told, report, identity):
    """Read back what the generation of *back* holds; return what is wrong with the whole of it."""
    name, mirror, config = back.generation, work.settings.mirror, work.places.name
    if name is None:
        return ["there is no generation that could be read back"]
    try:
        manifest = amanda_generations.load(mirror, config, name, known)
        aged = manifest.archive.method == "age"
        given = identity if aged else None
        back.opens = work.settings.encryption.server_identity or not aged or given is not None
        back.tapes = len(manifest.tapes)
        if back.opens:
            origin = amanda_sources.Origin(work.settings, work.user, "mirror", name, given)
            back.readings = _read_back(origin, config, told, report, identity)
    except SealedError as error:
        back.sealed = True
        return [str(error)] if identity is None and amanda_encryption.sealed_to_todays(name) else []
    except AmandaError as error:  # which must not hide what is wrong with the files
        return [f"what it holds could not be read back: {error}"]
    return []


def _read_back(origin, config, told, report, identity):
    """Read back every dump of a generation; return what came of each.

    The *identity* is for dumps that are sealed with age, however the catalogue is sealed.
    """
    readings = {}
    with amanda_sources.catalogue(origin, config) as catalogue:
        dumps = [dump for dump in catalogue.dumps if dump.status == "OK"]
        told["of"] = len(dumps)
        for dump in dumps:
            where = (catalogue.source, catalogue.index, catalogue.user)
            reading = amanda_verify.read_back(dump, *where, report=report, identity=identity)
            if reading.sealed and identity is None and _own(dump):
                reading = amanda_verify.Reading(False, reading.sealed)
            readings[dump] = reading
            report(0, 1)
    return readings


def _tell_sealed(what, given, notes, problems):
    """Tell of what the key doesn't open: if it was *given* for that, as a problem."""
    if given:
        problems.append(f"{what}{_OTHER}")
    else:
        notes.append(f"{what}{_SEALED}")


def _nobodys(dump):
    """Tell that no dump is known to be sealed to the key that was given."""
    return False


def _own(dump):
    """Tell whether a dump was sealed to the key that this server has now."""
    return amanda_encryption.sealed_to_todays(dump.timestamp)


def _contradictions(mirror, config, copies):
    """Return which files a manifest knows with another hash than they were verified with."""
    record = amanda_verified.read(config)
    problems = []
    for copy in copies:
        where = amanda_generations.tape_directory(mirror, config, *copy.key)
        problems += [
            f"{str(where / name)!r} isn't what was verified on tape {copy.label}: its SHA-256 is "
            "another"
            for name in record.otherwise(copy)
        ]
    return problems
