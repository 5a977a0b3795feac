"""What is on tape: Amanda's run logs and tapelist, read into dumps.

A run writes ``log.<timestamp>.<n>``; the tapelist says when each label was last written. A dump
is on tape as long as every tape that holds a part of it still carries the write time of the run
that put it there: a label written again, or removed, takes its dumps out of the catalogue.
"""

import bisect
import dataclasses
import re

import amanda_log
import amanda_outcomes
import amanda_rights
from amanda_errors import AmandaError, ParseError
from amanda_log import Crc, iso
from amanda_outcomes import Outcome

__all__ = ["Crc", "Dump", "Outcome", "Part", "Tape"]


@dataclasses.dataclass(frozen=True)
class Tape:
    """A line of the tapelist.

    label
        The tape's name.
    written
        The timestamp (14 digits) of the run that wrote it last; "0" for a tape never written.
    reuse
        False if the tape is pinned by ``amadmin no-reuse``.
    position
        Its line, from 1: the tape written last comes first.
    """

    label: str
    written: str
    reuse: bool
    position: int


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of a dump: one file on one tape.

    label, file
        The tape and the number of the file on it, from 1.
    number
        Which piece of the dump it is, from 1.
    size
        Bytes on tape, without the 32 KiB header.
    written
        The timestamp of the run that wrote the tape, as the tapelist has it.
    """

    label: str
    file: int
    number: int
    size: int
    written: str


@dataclasses.dataclass(frozen=True)
class Dump:
    """A dump on tape.

    config, host, disk
        Whose it is: the config's name, and the DLE as the disklist spells it.
    timestamp
        When the dump was made (14 digits, local time); a flushed one went to tape later.
    level
        0 is a full dump.
    status
        "OK", or "PARTIAL" if Amanda says that something is missing from it.
    parts
        Every :class:`Part`, in order.
    native, client, server
        :class:`Crc` of the plain archive, of what the client sent and of what is on tape; None
        where the log has none.
    size
        Bytes on tape, without headers.
    message
        Why a dump is partial; "" otherwise.
    base
        The timestamp of the dump that this increment builds on, whether that one is still on tape
        or not; None for a full dump, and if no log tells it any more.
    complete
        False if something that was there could not be read, and is not in it.
    """

    config: str
    host: str
    disk: str
    timestamp: str
    level: int
    status: str
    parts: tuple
    native: Crc | None
    client: Crc | None
    server: Crc | None
    size: int
    message: str
    base: str | None = None
    complete: bool = True


_LOG = re.compile(r"log\.([0-9]{14}|[0-9]{8})(?:\.[0-9]+|\.amflush)?")
_TAPE = re.compile(
    r"(0|[0-9]{8}|[0-9]{14})\s+([^\s/]+)\s+(reuse|no-reuse)((?:\s+[A-Z]+:\S+)*)\s*(?:#.*)?"
)


def read_tapelist(path):
    """Return every :class:`Tape` of the tapelist *path*, the one written last first.

    Raises :class:`amanda_errors.ParseError` on a line that is none of tapelist(5), or on a label
    that stands there twice; :class:`amanda_errors.AmandaError` if there is no such file.
    """
    try:
        with amanda_rights.open_owned(path, path.parent) as file:
            text = file.read(amanda_rights.MOST_BYTES).decode("utf-8", "surrogateescape")
    except OSError as error:
        raise AmandaError(f"can't read the tapelist {path}: {error.strerror}") from error
    tapes = {}
    for line in text.split("\n"):
        if not line.strip():
            continue
        match = _TAPE.fullmatch(line.strip())
        if not match or match.group(2) in tapes or match.group(2).startswith("."):
            raise ParseError(f"tapelist {path}", line)
        written, label, reuse, _ = match.groups()
        # only "0", never written, keeps its length
        written = written.ljust(14, "0") if len(written) > 1 else written
        tapes[label] = Tape(label, written, reuse == "reuse", len(tapes) + 1)
    return list(tapes.values())


def _logs(directory):
    """Return the log files in *directory*, a mapping of timestamps to lists of paths."""
    found = {}
    for path in sorted(directory.glob("log.*")):
        match = _LOG.fullmatch(path.name)
        if match:
            found.setdefault(match.group(1).ljust(14, "0"), []).append(path)
    return found


def all_logs(places):
    """Return all logs, also those that Amanda put aside when their tapes were written again."""
    found = _logs(places.logs)
    for timestamp, paths in _logs(places.logs / "oldlog").items():
        found.setdefault(timestamp, []).extend(paths)
    return found


def _copies(events, config, labels):
    """Yield the :class:`Dump` of each taper's result whose parts are still on tape.

    labels
        Which tapes are still as this run wrote them: the write time by label.
    """
    started, parts = {}, {}
    for event in events:
        if event.program != "taper":
            continue
        if event.kind == "START":
            started[event.label] = event.timestamp
        key = (event.host, event.disk, event.timestamp, event.level)
        if event.kind == "PART" and event.file:  # 0: no room was left for even the header
            # a part whose tape isn't the one the tapelist knows now stands as None: it is lost
            written = started.get(event.label)
            part = Part(event.label, event.file, event.number, event.size, written or "")
            whole = written is not None and labels.get(event.label) == written
            parts.setdefault(key, []).append(part if whole else None)
        elif event.kind in ("DONE", "PARTIAL", "FAIL") and event.host:
            found = parts.pop(key, [])
            if event.kind != "FAIL" and found and None not in found:
                yield _dump(event, tuple(found), config)


def _dump(event, parts, config):
    """Return the :class:`Dump` that a taper's DONE or PARTIAL line speaks of."""
    message, status = event.message, "OK" if event.kind == "DONE" else "PARTIAL"
    if status == "OK":
        message = amanda_outcomes.contradiction(event, parts)
        status = "PARTIAL" if message else "OK"
    native, client, server = event.crcs if len(event.crcs) == 3 else (None, None, None)
    return Dump(
        config=config,
        host=event.host,
        disk=event.disk,
        timestamp=event.timestamp,
        level=event.level,
        status=status,
        parts=parts,
        native=native,
        client=client,
        server=server,
        size=sum(part.size for part in parts),
        message=message,
    )


def _better(new, old):
    """Whether *new* is to stand for a dump that is on tape twice: whole, then written last."""
    if old is None or new.status != old.status:
        return old is None or new.status == "OK"
    return new.parts[0].written >= old.parts[0].written


def _made(events, timestamp):
    """Yield each dump's host, disk, timestamp and level, and if it moved the client's records on.

    The client takes a dump as the base of the next level when its own work is done, and doesn't
    hear of what fails on the server afterwards.
    """
    for event in events:
        if event.program != "dumper" or event.kind not in ("SUCCESS", "STRANGE", "FAIL"):
            continue
        moved = event.kind != "FAIL" or _client_finished(event.more)
        yield (event.host, event.disk, event.timestamp or timestamp, event.level), moved


def _client_finished(lines):
    sizes = [line for line in lines if line.startswith("sendbackup: size ")]
    return "sendbackup: end" in lines and sizes and not sizes[-1].endswith("-1")


def _incomplete(events, timestamp):
    """Return timestamp, host, disk and level of each dump that lacks what could not be read."""
    return {
        (event.timestamp or timestamp, event.host, event.disk, event.level)
        for event in events
        if event.program == "dumper" and amanda_outcomes.unread(event)
    }


def _based(dumps, made):
    """Return *dumps*, each with the base it was made on, as far as the logs tell."""
    history = {}
    for host, disk, timestamp, level in made:
        history.setdefault((host, disk, level), []).append(timestamp)
    for timestamps in history.values():
        timestamps.sort()
    based = []
    for dump in dumps:
        before = []
        for level in range(dump.level):
            timestamps = history.get((dump.host, dump.disk, level), [])
            position = bisect.bisect_left(timestamps, dump.timestamp)
            before.extend(timestamps[position - 1 : position] if position else [])
        based.append(dataclasses.replace(dump, base=max(before, default=None)))
    return based


def read(places):
    """Return every :class:`Dump` whose parts are all still on tape, the oldest first.

    places
        The :class:`amanda_layout.ConfigPlaces` of the config, or of its copy from a mirror.

    A dump that is on tape twice (flushed again after a failure) stands there once. Raises
    :class:`amanda_errors.ParseError` on a damaged log or tapelist, quoting the line, and
    :class:`amanda_errors.AmandaError` if the log of a tape that was written is gone.
    """
    labels = {tape.label: tape.written for tape in read_tapelist(places.tapelist)}
    logs = all_logs(places)
    for label, written in labels.items():
        if written != "0" and written not in logs:
            raise AmandaError(
                f"tape {label} was written at {written}, but {places.logs} has no log.{written}.*: "
                "bring it back from the mirror, or remove the label with amrmtape"
            )
    dumps, moved, incomplete = {}, {}, set()
    for timestamp in sorted(logs):
        for path in logs[timestamp]:
            # a line that a crash cut costs only what that run would have told
            read_of = ("dumper", "taper", "amvault")
            events = list(amanda_log.events(path, read_of, places.state, damaged=[]))
            if any(event.program == "amvault" for event in events):
                continue  # copies on tapes of another storage; the dump is where it was
            for key, finished in _made(events, timestamp):
                moved[key] = finished or moved.get(key, False)
            incomplete |= _incomplete(events, timestamp)
            for dump in _copies(events, places.name, labels):
                key = (dump.timestamp, dump.host, dump.disk, dump.level)
                if _better(dump, dumps.get(key)):
                    dumps[key] = dump
    # A flushed dump's own log may be gone, or be cut, while its tape isn't. A partial one of which
    # no log says how it ended may have moved the records as well.
    for dump in dumps.values():
        moved.setdefault((dump.host, dump.disk, dump.timestamp, dump.level), True)
    made = [key for key, finished in moved.items() if finished]
    for key in incomplete.intersection(dumps):
        dumps[key] = dataclasses.replace(dumps[key], complete=False)
    return _based([dumps[key] for key in sorted(dumps)], made)


def runs(places):
    """Return the timestamps (14 digits) of all runs that left a log, the oldest first."""
    return sorted(_logs(places.logs))


def run_events(places, timestamp):
    """Return the :class:`amanda_log.Event` of the logs of one run, a list; raises as they do."""
    paths = all_logs(places).get(timestamp)
    if not paths:
        raise AmandaError(f"{places.logs} has no log of a run at {iso(timestamp)}")
    return [event for path in paths for event in amanda_log.events(path, top=places.state)]


def run_results(places, timestamp):
    """Return the :class:`Outcome` of each DLE in the run at *timestamp*, in the log's order.

    A run flushes as well as dumps: a DLE may appear twice, with two dump timestamps.
    Raises :class:`amanda_errors.AmandaError` if the run left no log.
    """
    return amanda_outcomes.of_run(run_events(places, timestamp), timestamp)
