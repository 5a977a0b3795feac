"""The lines of Amanda's run logs, ``log.<timestamp>.<n>``: one event a line, read strictly.

A line is ``KIND program text``; lines that begin with two blanks continue the one before. What
follows the program differs with both; the table below says how. Names are quoted as Amanda's
``quote_string`` does it and are bytes: those that are no UTF-8 come as surrogate escapes.
"""

import dataclasses
import fcntl
import re

from amanda_errors import ParseError


@dataclasses.dataclass(frozen=True)
class Crc:
    """What Amanda measured of a stream: its CRC-32C and its *size* in bytes."""

    crc: int
    size: int


@dataclasses.dataclass(frozen=True)
class Event:
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
    message: str = ""
    more: tuple = ()


_DUMP = ("host", "disk", "timestamp", "level")

# What the lines that tell a dump's fate begin with, before CRCs, statistics and message.
_FIELDS = {
    ("planner", "DISK"): ("host", "disk"),
    ("planner", "FAIL"): _DUMP,
    ("planner", "SUCCESS"): _DUMP,  # skipped on purpose
    ("amflush", "DISK"): ("host", "disk"),
    ("amvault", "DISK"): ("host", "disk"),
    ("driver", "FAIL"): _DUMP,
    ("dumper", "SUCCESS"): _DUMP,
    ("dumper", "FAIL"): _DUMP,
    ("dumper", "RETRY"): _DUMP,
    ("dumper", "STRANGE"): ("host", "disk", "level"),
    ("chunker", "SUCCESS"): _DUMP,
    ("chunker", "PARTIAL"): _DUMP,
    ("chunker", "FAIL"): _DUMP,
    ("taper", "PART"): ("label", "file", "host", "disk", "timestamp", "part", "level"),
    ("taper", "PARTPARTIAL"): ("label", "file", "host", "disk", "timestamp", "part", "level"),
    ("taper", "DONE"): ("host", "disk", "timestamp", "number", "level"),
    ("taper", "PARTIAL"): ("host", "disk", "timestamp", "number", "level"),
    ("taper", "FAIL"): _DUMP,
}
_MEASURED = {
    (program, kind)
    for program, kind in _FIELDS
    if (program == "taper" and kind != "FAIL")
    or (program in ("dumper", "chunker") and kind in ("SUCCESS", "STRANGE", "PARTIAL"))
}

_KINDS_WITHOUT_DUMPS = {
    *("FATAL", "ERROR", "WARNING", "INFO", "SUMMARY", "START", "FINISH", "STATS", "MARKER"),
}
_KINDS_OF_DUMPS = {kind for _, kind in _FIELDS} - {"DISK"} | {"CHUNK", "CHUNKSUCCESS"}
_PROGRAMS_OF_DUMPS = {program for program, _ in _FIELDS}

_WORD = re.compile(r'(?:"(?:[^"\\]|\\.)*"|\\.|[^\s"\\])+', re.DOTALL)
_PLAIN = re.compile(r'[^\\"]*')
_ESCAPE = re.compile(rb'\\([0-7]{1,3}|.)|"', re.DOTALL)
_ESCAPED = {b"t": b"\t", b"n": b"\n", b"r": b"\r", b"f": b"\f"}
_TIMESTAMP = re.compile(r"[0-9]{8}(?:[0-9]{6})?")
_CRC = re.compile(r"([0-9a-f]{8}):([0-9]{1,19})(?=\s)")
_STATISTICS = re.compile(
    r"\[sec -?[0-9.]+ (bytes|kb) ([0-9]{1,19}) kps [0-9.]+(?: orig-kb [0-9]+)?\](?:\s+|$)"
)


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


class _Words:
    """Takes a line's text apart, word by word; every fault raises, quoting the whole line."""

    def __init__(self, what, line, text):
        self._what = what
        self._line = line
        self.rest = text.lstrip()

    def fault(self):
        return ParseError(self._what, self._line)

    def word(self):
        match = _WORD.match(self.rest)
        if not match or self.rest[match.end() :][:1].strip():
            raise self.fault()
        self.rest = self.rest[match.end() :].lstrip()
        return unquote(match.group())

    def expect(self, pattern):
        match = re.match(pattern, self.rest)
        if not match:
            raise self.fault()
        self.rest = self.rest[match.end() :].lstrip()
        return match

    def number(self):
        return int(self.expect(r"[0-9]{1,9}(?=\s|$)").group())

    def timestamp(self):
        word = self.word()
        if not _TIMESTAMP.fullmatch(word):
            raise self.fault()
        return word.ljust(14, "0")

    def skip_storage(self):
        """Pass over ``"ST:storage" "POOL:pool"``, which older Amanda doesn't write."""
        for prefix in ('"ST:', "ST:", '"POOL:', "POOL:"):
            if self.rest.startswith(prefix):
                self.word()


def _fields(words, names):
    """Return what the *names* of a line's first words stand for."""
    found = {}
    for name in names:
        if name == "part":  # 3/-1: Amanda doesn't know yet how many there will be
            found["number"] = int(words.expect(r"([0-9]{1,9})/-?[0-9]+(?=\s)").group(1))
        elif name == "level":
            found["level"] = int(words.expect(r"-?[0-9]{1,3}(?=\s|$)").group())
        elif name in ("file", "number"):
            found[name] = words.number()
        elif name == "timestamp":
            found[name] = words.timestamp()
        else:
            found[name] = words.word()
    return found


def _measures(words, required):
    """Return the CRCs and the size in bytes that stand next in a line."""
    crcs = []
    while match := _CRC.match(words.rest):
        words.expect(_CRC)
        crc = Crc(int(match.group(1), 16), int(match.group(2)))
        # 00000000:0 is how Amanda says that it didn't measure
        crcs.append(crc if crc != Crc(0, 0) else None)
    if not required:
        return {"crcs": tuple(crcs)}
    unit, amount = words.expect(_STATISTICS).groups()
    return {"crcs": tuple(crcs), "size": int(amount) * (1 if unit == "bytes" else 1024)}


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


def _tape_started(words):
    """Return the fields of ``START taper``: the tape and when it was written."""
    words.expect(r"datestamp(?=\s)")
    timestamp = words.timestamp()
    words.skip_storage()
    words.expect(r"label(?=\s)")
    label = words.word()
    words.expect(r"tape\s+[0-9]+\s*$")
    return {"timestamp": timestamp, "label": label}


def _event(program, kind, text, line, what, more):
    """Return the :class:`Event` of one line whose kind is known."""
    words = _Words(what, line, text)
    common = {"program": program, "kind": kind, "more": tuple(more)}
    if (program, kind) == ("taper", "START"):
        return Event(**common, **_tape_started(words))
    if (program, kind) not in _FIELDS:
        return Event(**common, message=_message(text))
    if program == "taper":
        words.skip_storage()
    fields = _fields(words, _FIELDS[program, kind])
    if kind != "DISK":
        fields.update(_measures(words, (program, kind) in _MEASURED))
    if (program, kind) == ("taper", "FAIL"):
        words.expect(r"(?:error|config)(?=\s)")
    if (program, kind) == ("dumper", "RETRY"):
        words.expect(r"delay\s+-?[0-9]+\s+level\s+-?[0-9]+\s+message(?=\s|$)")
    return Event(**common, **fields, message=_message(words.rest))


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


def _text(path):
    """Return a log's text; one that Amanda is writing is read between two of its lines."""
    with path.open("rb") as file:
        data = file.read()
        if not data.endswith(b"\n"):
            # Amanda writes a line in two steps, both under this lock
            fcntl.lockf(file, fcntl.LOCK_SH)
            file.seek(0)
            data = file.read()
    return data.decode("utf-8", "surrogateescape")


def events(path, programs=None):
    """Yield each :class:`Event` of the log file *path*, in its order.

    programs
        Only lines of these programs, a collection of names; None takes all. Lines of others are
        passed over unread, which is what makes many logs quick to read.

    Raises :class:`amanda_errors.ParseError` on a line that is cut short or damaged and could have
    told the fate of a dump.
    """
    what = f"log {path}"
    text = _text(path)
    if text and not text.endswith("\n"):
        raise ParseError(what, text.rpartition("\n")[2])
    line, more = None, []
    # not splitlines(): names may hold other line separators of Unicode
    for following in [*text.split("\n")[:-1], ""]:
        if following.startswith("  ") and line is not None:
            more.append(following.strip())
            continue
        if line and (programs is None or _writer(line) not in _others(programs)):
            event = _parse(line, what, more)
            if event:
                yield event
        line, more = following, []


def _writer(line):
    return line.split(" ", 2)[1] if " " in line else ""


def _others(programs):
    """Return the known programs that aren't in *programs*; unknown ones are always looked at."""
    return _PROGRAMS_OF_DUMPS.difference(programs)
