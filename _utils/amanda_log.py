"""The lines of Amanda's run logs, ``log.<timestamp>.<n>``: one event a line, read strictly.

A line is ``KIND program text``; lines that begin with two blanks continue the one before. What
follows the program differs with both; the table below says how. Names are quoted as Amanda's
``quote_string`` does it and are bytes: those that are no UTF-8 come as surrogate escapes.
"""

import dataclasses
import fcntl
import functools
import re
import time
import typing

import amanda_rights
from amanda_errors import AmandaError, ParseError

_LINE_SECONDS = 10  # for how long a writer may hold a log before it is read as it is


@dataclasses.dataclass(frozen=True)
class Crc:
    """What Amanda measured of a stream: its CRC-32C and its *size* in bytes."""

    crc: int
    size: int


class Event(typing.NamedTuple):
    """A line of a log that says something about a dump, a tape or the whole run.

    program, kind
        Who wrote the line, and its first word: "taper" and "DONE".
    host, disk, timestamp, level
        The dump it is about; "" and None where the line has none.
    label, file
        The tape of "START" and "PART" of the taper, and the file's number.
    number
        Which part of the dump, of "PART"; how many, of "DONE" and "PARTIAL" of the taper.
    crcs
        As many :class:`Crc` as the line has, None for one that Amanda didn't measure.
    size
        Bytes, where the line has statistics; exact in the taper's lines, else rounded down.
    seconds
        How long it took, where the line has statistics.
    original
        Bytes before compression, in whole KiB, where the line has that.
    message
        What else the line says, in Amanda's words.
    more
        The lines that continue it, a tuple.
    """

    program: str
    kind: str
    host: str = ""
    disk: str = ""
    timestamp: str = ""
    level: int | None = None
    label: str = ""
    file: int | None = None
    number: int | None = None
    crcs: tuple = ()
    size: int | None = None
    seconds: float | None = None
    original: int | None = None
    message: str = ""
    more: tuple = ()


def iso(timestamp):
    """Return a timestamp of Amanda's (14 digits, local time) in ISO 8601; other text as it is."""
    match = re.fullmatch(r"(....)(..)(..)(..)(..)(..)", timestamp)
    return "{}-{}-{}T{}:{}:{}".format(*match.groups()) if match else timestamp


_DUMP = ("host", "disk", "timestamp", "level")
_PART = ("storage", "label", "file", "host", "disk", "timestamp", "part", "level")
_RESULT = ("storage", "host", "disk", "timestamp", "number", "level")

# What the lines that tell a dump's fate consist of, word by word; a message ends each.
_FIELDS = {
    ("planner", "DISK"): ("host", "disk"),
    ("planner", "FAIL"): _DUMP,
    ("planner", "SUCCESS"): _DUMP,  # skipped on purpose
    ("amflush", "DISK"): ("host", "disk"),
    ("amvault", "DISK"): ("host", "disk"),
    ("driver", "FAIL"): _DUMP,
    ("dumper", "SUCCESS"): (*_DUMP, "crcs", "statistics"),
    ("dumper", "FAIL"): _DUMP,
    ("dumper", "RETRY"): (*_DUMP, "retry"),
    ("dumper", "STRANGE"): ("host", "disk", "level", "crcs", "statistics"),
    ("chunker", "SUCCESS"): (*_DUMP, "crcs", "statistics"),
    ("chunker", "PARTIAL"): (*_DUMP, "crcs", "statistics"),
    ("chunker", "FAIL"): _DUMP,
    ("taper", "START"): ("datestamp", "storage", "started"),
    ("taper", "PART"): (*_PART, "statistics"),
    ("taper", "PARTPARTIAL"): (*_PART, "statistics"),
    ("taper", "DONE"): (*_RESULT, "crcs", "statistics"),
    ("taper", "PARTIAL"): (*_RESULT, "crcs", "statistics"),
    ("taper", "FAIL"): ("storage", *_DUMP, "blame"),
}

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_NAME = rf"(?:{_QUOTED}|\\.|[^\s\"\\])+"
_TIME = "[0-9]{8}(?:[0-9]{6})?"
_END = r"(?:\s+|$)"  # of a word

_PATTERNS = {
    "host": rf"(?P<host>{_NAME}){_END}",
    "disk": rf"(?P<disk>{_NAME}){_END}",
    "label": rf"(?P<label>{_NAME}){_END}",
    "timestamp": rf"(?P<timestamp>{_TIME}){_END}",
    "level": rf"(?P<level>-?[0-9]{{1,3}}){_END}",
    "file": rf"(?P<file>[0-9]{{1,9}}){_END}",
    "number": rf"(?P<number>[0-9]{{1,9}}){_END}",
    "part": rf"(?P<number>[0-9]{{1,9}})/-?[0-9]+{_END}",  # 3/-1: how many isn't known yet
    "crcs": rf"(?P<crcs>(?:[0-9a-f]{{8}}:[0-9]{{1,19}}{_END})*)",
    "statistics": r"\[sec (?P<seconds>-?[0-9]+(?:\.[0-9]+)?) (?P<unit>bytes|kb) "
    r"(?P<size>[0-9]{1,19}) kps [0-9.]+"
    rf"(?: orig-kb (?P<original>[0-9]{{1,19}}))?\]{_END}",
    # older Amanda doesn't write these two; one of them is never taken for a host or label
    "storage": r'(?:(?:"ST:(?:[^"\\]|\\.)*"|ST:[^\s"]+)\s+)?'
    r'(?:(?:"POOL:(?:[^"\\]|\\.)*"|POOL:[^\s"]+)\s+)?(?!"?(?:ST|POOL):)',
    "blame": rf"(?:error|config){_END}",
    "retry": rf"delay\s+-?[0-9]+\s+level\s+-?[0-9]+\s+message{_END}",
    "datestamp": rf"datestamp\s+(?P<timestamp>{_TIME}){_END}",
    "started": rf"label\s+(?P<label>{_NAME})\s+tape\s+[0-9]+$",
}

_KINDS_WITHOUT_DUMPS = {
    *("FATAL", "ERROR", "WARNING", "INFO", "SUMMARY", "START", "FINISH", "STATS", "MARKER"),
}
_KINDS_OF_DUMPS = {kind for _, kind in _FIELDS} - {"DISK", "START"} | {"CHUNK", "CHUNKSUCCESS"}
_PROGRAMS_OF_DUMPS = {program for program, _ in _FIELDS}

_WORD = re.compile(_NAME, re.DOTALL)
_PLAIN = re.compile(r'[^\\"]*')
_ESCAPE = re.compile(rb'\\([0-7]{1,3}|.)|"', re.DOTALL)
_ESCAPED = {b"t": b"\t", b"n": b"\n", b"r": b"\r", b"f": b"\f"}


_FINISHED = re.compile("^FINISH driver ", re.MULTILINE)
"""What amdump and amflush write when all dumps have come to their end."""

_TELLS = re.compile(rf"(?!(?:{'|'.join(sorted(_KINDS_WITHOUT_DUMPS - {'START'}))}) [a-z]+ )").match
"""Whether a line after the one that a crash cut is more than what cleaning up wrote."""


@functools.cache
def _pattern(program, kind):
    """Return the compiled pattern of such lines' text."""
    parts = [_PATTERNS[name] for name in _FIELDS[program, kind]]
    return re.compile("".join(parts) + "(?P<message>.*)", re.DOTALL)


@functools.lru_cache(maxsize=65536)
def unquote(word):
    """Return the name that *word* stands for: Amanda's ``quote_string`` undone."""
    if _PLAIN.fullmatch(word):
        return word
    raw = _ESCAPE.sub(_unescape, word.encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "surrogateescape")


def _unescape(match):
    code = match.group(1)
    if code is None:  # a quotation mark
        return b""
    if code[:1] in b"01234567":
        return bytes([int(code, 8) & 0xFF])
    return _ESCAPED.get(code, code)


def split(text):
    """Return the words of *text*, unquoted; None if a quotation mark has no end."""
    words = []
    while text := text.lstrip():
        match = _WORD.match(text)
        if not match or text[match.end() :][:1].strip():
            return None
        words.append(unquote(match.group()))
        text = text[match.end() :]
    return words


def _crcs(text):
    """Return the :class:`Crc` that each word of *text* gives."""
    found = []
    for word in text.split():
        crc, _, size = word.partition(":")
        # 00000000:0 is how Amanda says that it didn't measure
        found.append(None if word == "00000000:0" else Crc(int(crc, 16), int(size)))
    return tuple(found)


_MEANING = {
    "host": unquote,
    "disk": unquote,
    "label": unquote,
    "timestamp": lambda text: text.ljust(14, "0"),
    "level": int,
    "file": int,
    "number": int,
    "size": int,
    "seconds": float,
    "original": lambda kilobytes: int(kilobytes) * 1024,
    "crcs": _crcs,
}


def _message(text):
    """Return a message without the brackets and quotation marks around it.

    Amanda cuts its lines at 4 KiB, so a long message may lack its end.
    """
    text = text.strip()
    match = _WORD.match(text)
    if match and match.end() == len(text):
        text = unquote(text)
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    return text.strip()


def _event(program, kind, text, line, what, more):
    """Return the :class:`Event` of one line whose kind is known."""
    common = {"program": program, "kind": kind, "more": tuple(more)}
    if (program, kind) not in _FIELDS:
        return Event(**common, message=_message(text))
    match = _pattern(program, kind).fullmatch(text.strip())
    if not match:
        raise ParseError(what, line)
    found = match.groupdict()
    common["message"] = _message(found.pop("message"))
    kilobytes = found.pop("unit", None) == "kb"
    for name, value in found.items():
        common[name] = None if value is None else _MEANING[name](value)
    if kilobytes:
        common["size"] *= 1024
    return Event(**common)


def _parse(line, what, more):
    """Return the :class:`Event` of *line*, or None if it can't be about a dump."""
    kind, _, rest = line.partition(" ")
    program, _, text = rest.partition(" ")
    if (program, kind) not in _FIELDS and kind not in _KINDS_WITHOUT_DUMPS:
        # an unknown line may be one about a dump, damaged, if either of its first words is
        known = kind in _KINDS_OF_DUMPS or program in _PROGRAMS_OF_DUMPS
        if known or not re.fullmatch(r"[a-z]+", program):
            raise ParseError(what, line)
        return None
    if program == "taper" and text.startswith("VAULT "):
        return None  # a copy of a dump that is on tape already
    return _event(program, kind, text, line, what, more)


def _text(path, top):
    """Return a log's text; one that Amanda is writing is read between two of its lines."""
    try:
        with amanda_rights.open_owned(path, top) as file:
            data = file.read(amanda_rights.MOST_BYTES)
            if data and not data.endswith(b"\n"):
                _await_line(file)
                file.seek(0)
                data = file.read(amanda_rights.MOST_BYTES)
    except OSError as error:
        raise AmandaError(f"can't read the log {path}: {error.strerror}") from error
    return data.decode("utf-8", "surrogateescape")


def _await_line(file):
    """Wait until nobody writes a line: Amanda does it in two steps, both under this lock.

    Not for ever, since the dump user could keep the lock.
    """
    deadline = time.monotonic() + _LINE_SECONDS
    while time.monotonic() < deadline:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.02)
        except OSError:
            return  # a copy on a file system without locks


def events(path, programs=None, top=None, damaged=None):
    """Yield each :class:`Event` of the log file *path*, in its order.

    programs
        Only what these programs, a collection of names, say of dumps and tapes; None takes all.
        Other lines are passed over unread, which is what makes many logs quick to read.
    top
        The config's state directory, whose owner the log must have; None is the log's own.
    damaged
        A list that takes the :class:`amanda_errors.ParseError` of the line that a crash cut, in
        the log of a run that never finished; None raises it.

    Raises :class:`amanda_errors.ParseError` on a line that is cut short or damaged and could have
    told the fate of a dump.
    """
    what = f"log {path}"
    text = _text(path, top or path.parent)
    spare = damaged is not None and not _FINISHED.search(text)
    lines = text.split("\n")  # not splitlines(): names may hold other line separators of Unicode
    if lines[-1]:
        error = ParseError(what, lines[-1])
        if not spare:
            raise error
        damaged.append(error)
    unread = None
    if programs is not None:
        others = "|".join(sorted(_PROGRAMS_OF_DUMPS.difference(programs)))
        dull = "|".join(sorted(_KINDS_WITHOUT_DUMPS - {"START"}))
        unread = re.compile(rf"[A-Z]+ (?:{others}) |(?:{dull}) [a-z]+ ")
    line, more = None, []
    for number, following in enumerate([*lines[:-1], ""]):
        if following.startswith("  ") and line is not None:
            more.append(following.strip())
            continue
        if line and not (unread and unread.match(line)):
            try:
                event = _parse(line, what, more)
            except ParseError as error:
                if not spare or any(map(_TELLS, lines[number:-1])):
                    raise
                damaged.append(error)
                return
            if event:
                yield event
        line, more = following, []
