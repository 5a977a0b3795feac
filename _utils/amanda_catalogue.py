"""What is on tape: Amanda's run logs and tapelist, read into dumps.

A run writes ``log.<timestamp>.<n>``; the tapelist says when each label was last written. A dump
is on tape as long as every tape that holds a part of it still carries the write time of the run
that put it there: a label written again, or removed, takes its dumps out of the catalogue.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Crc:
    """What Amanda measured of a stream: its CRC-32C and its *size* in bytes."""

    crc: int
    size: int


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
        What Amanda said of a partial dump; "" otherwise.
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


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one run did for one DLE.

    host, disk
        The DLE.
    timestamp
        When its dump was made; another than the run's if the run flushed an older dump.
    level
        The level dumped; None if it never came to a dump.
    success
        True if a whole dump of it is on tape; whether it still is, :func:`read` says.
    strange
        True if the dump program had something to say about it (see *messages*).
    reason
        Why there is no success, in Amanda's words; "" on success.
    messages
        Amanda's other words about it: warnings, strange lines, what failed before a retry.
    size
        Bytes on tape; 0 if nothing is.
    labels
        The tapes it went to, a tuple.
    """

    host: str
    disk: str
    timestamp: str
    level: int | None
    success: bool
    strange: bool
    reason: str
    messages: tuple
    size: int
    labels: tuple


def read_tapelist(path):
    """Return every :class:`Tape` of the tapelist *path*, the one written last first.

    Raises :class:`amanda_errors.ParseError` on a line that is none of tapelist(5), or on a label
    that stands there twice; :class:`amanda_errors.AmandaError` if there is no such file.
    """
    raise NotImplementedError


def read(places):
    """Return every :class:`Dump` whose parts are all still on tape, the oldest first.

    places
        The :class:`amanda_layout.ConfigPlaces` of the config, or of its copy from a mirror.

    Raises :class:`amanda_errors.ParseError` on a damaged log or tapelist, naming the file.
    """
    raise NotImplementedError


def newest(dumps, host, disk, at=None, level=None, status="OK"):
    """Return the last :class:`Dump` of a DLE made at or before *at*, or None.

    dumps
        What :func:`read` returned.
    at
        A timestamp (14 digits); None is now.
    level
        Only dumps of this level; None takes any.
    status
        Only dumps with this status; None takes partial ones too.
    """
    raise NotImplementedError


def chain(dumps, host, disk, at=None):
    """Return the dumps that give a DLE's state at *at*: the full first, then its increments.

    Partial dumps never count. Raises :class:`amanda_errors.AmandaError` if the DLE has no dump,
    none so early (naming the first there is), or if the base of the increments is gone.
    """
    raise NotImplementedError


def runs(places):
    """Return the timestamps (14 digits) of all runs that left a log, the oldest first."""
    raise NotImplementedError


def run_results(places, timestamp):
    """Return the :class:`Outcome` of each DLE in the run at *timestamp*, in the log's order.

    A run flushes as well as dumps: a DLE may appear twice, with two dump timestamps.
    Raises :class:`amanda_errors.AmandaError` if the run left no log.
    """
    raise NotImplementedError
