"""What one run of Amanda did for each DLE, from the events of its log."""

import dataclasses
import re

_WORDS_OF_REASON = 10
"""How many of a dump program's own lines a reason quotes."""

_LESS_TELLING = ("Got empty header",)
"""What the server says of a dump that never came, whatever the client's reason was."""

# GNU tar's words where it leaves something out that is there. What was gone by the time it came
# to it is no loss, and what changed while it was read is in the dump.
_UNREAD = re.compile(
    r"(?:\S*tar: )?(?P<name>.+?): (?:Warning: )?"
    r"(?P<why>(?:Cannot (?:open|stat|read|readlink|savedir)|Read error)\b(?!.*: No such file).*)"
)

_CUT = 4000
"""Bytes; Amanda cuts the lines of a log at 4 KiB, and with them the reason that stands last."""

_SHORT = 200
"""How many characters of a name, or of a line, are told, so that none hides the others."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one run did for one DLE.

    host, disk
        The DLE.
    timestamp
        When its dump was made; another than the run's if the run flushed an older dump, "" if it
        was to be flushed and the run never came to it.
    level
        The level dumped; None if it never came to a dump.
    success
        True if a whole dump of it went to tape.
    strange
        True if the dump program had something to say about it (see *messages*).
    reason
        Why there is no success, in Amanda's words; "" on success.
    messages
        The dump program's own words, and what failed before a try that succeeded; a tuple.
    dumped
        True if the client's part succeeded, whatever became of it then.
    unread
        What isn't in the dump although it is there, and why: a tuple of texts.
    size
        Bytes on tape; 0 if nothing is.
    labels
        The tapes it went to, a tuple.
    original
        Bytes before compression; None if the log doesn't tell.
    dump_seconds, tape_seconds
        How long the client took to dump it, and the tape to take it; None likewise.
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
    unread: tuple = ()
    dumped: bool = False
    original: int | None = None
    dump_seconds: float | None = None
    tape_seconds: float | None = None


def contradiction(event, parts):
    """Return what is wrong with the *parts* of a dump that the taper's *event* calls done, or "".

    parts
        Objects with a ``number`` and a ``size``, in the log's order.
    """
    numbers = [part.number for part in parts]
    if numbers != list(range(1, event.number + 1)):
        there = ", ".join(str(number) for number in numbers) or "none"
        return f"of {event.number} parts the log names {there}"
    size = sum(part.size for part in parts)
    if size != event.size:
        return f"its parts have {size} bytes together, not {event.size}"
    return ""


class _Fate:
    """What is known of one dump while its run's log is read."""

    def __init__(self):
        self.level = None
        self.dumped = False
        self.done = False
        self.strange = False
        self.failures = []  # (who, what)
        self.messages = []
        self.unread = ()
        self.parts = []
        self.size = 0
        self.labels = ()
        self.original = None
        self.dump_seconds = self.tape_seconds = None

    def take(self, event):
        """Take in one more event about this dump."""
        if event.level is not None and event.level >= 0:
            self.level = event.level
        if event.program == "taper":
            self._take_tape(event)
        elif event.kind in ("FAIL", "PARTIAL") or (event.program, event.kind) == (
            "planner",
            "SUCCESS",
        ):
            self._fail(event)
        elif event.kind == "RETRY":
            self._fail(event)
        elif event.program == "dumper":
            self.dumped = True
            self.dump_seconds, self.original = event.seconds, event.original
            self.strange = event.kind == "STRANGE"
            if self.strange:
                self.messages.extend(map(_short, _words(event)[:_WORDS_OF_REASON]))
            self.unread = unread(event)

    def _take_tape(self, event):
        if event.kind == "PART" and event.file:  # 0: no room was left for even the header
            self.parts.append(event)
        elif event.kind in ("DONE", "PARTIAL", "FAIL"):
            wrong = contradiction(event, self.parts) if event.kind == "DONE" else ""
            self.done = event.kind == "DONE" and not wrong
            self.size = sum(part.size for part in self.parts)
            self.labels = tuple(dict.fromkeys(part.label for part in self.parts))
            if self.parts:
                self.tape_seconds = sum(part.seconds for part in self.parts)
            self.parts = []
            self.original = self._original(event)
            if wrong:
                self.failures.append(("taper", wrong))
            elif not self.done:
                self._fail(event)

    def _original(self, event):
        """Return the size before compression: the taper's checksum has it to the byte."""
        exact = event.crcs[0].size if len(event.crcs) == 3 and event.crcs[0] else event.original
        return exact or self.original

    def _fail(self, event):
        words = [event.message, *_own_words(event)[:_WORDS_OF_REASON]]
        self.failures.extend((event.program, text) for text in words if text)

    def reason(self, errors):
        """Return why this dump isn't on tape; *errors* are those of the run itself."""
        told = [text for _, text in sorted(self.failures, key=lambda failure: _rank(*failure))]
        told = [text for text in dict.fromkeys(told) if text not in _LESS_TELLING] or told
        if told:
            return "; ".join(dict.fromkeys(told))
        if self.dumped:
            return "; ".join(["dumped, but not written to tape", *errors])
        return "; ".join(["the run ended without a result for it", *errors])


def _rank(program, _text):
    """Return a sort key that puts first who knows best why a dump failed."""
    return {"planner": 0, "dumper": 0, "driver": 1, "taper": 2}.get(program, 3)


def _own_words(event):
    """Return what the dump program found strange or wrong: its lines with a question mark."""
    return [line[1:].strip() for line in event.more if line.startswith("?")]


def _words(event):
    """Return what is strange about a dump: its program's own lines, or all that there are."""
    return _own_words(event) or [line for line in event.more if not line.startswith("sendbackup:")]


def unread(event):
    """Return what a dumper's result says was there and isn't in the dump: a tuple of texts."""
    return tuple(filter(None, map(_left_out, _own_words(event))))


def _left_out(words):
    """Return what the dump program's *words* say was left out, and why; None if nothing was."""
    match = _UNREAD.fullmatch(words)
    if match:
        return f"{_short(match['name'])}: {match['why']}"
    if len(words.encode("utf-8", "surrogateescape")) >= _CUT:
        # tar's own name is no part of it. Linux opens no path of over 4095 bytes.
        return f"{_short(words.partition(': ')[2])}: its path is too long to be read"
    return None


def _short(text):
    return text if len(text) <= _SHORT else f"{text[: _SHORT // 2]}…{text[-_SHORT // 2 :]}"


def _outcome(key, fate, errors):
    """Return the :class:`Outcome` that *fate* has come to."""
    messages = list(fate.messages)
    if fate.done:
        messages += [text for _, text in fate.failures]
    return Outcome(
        *key,
        level=fate.level,
        success=fate.done,
        strange=fate.strange,
        reason="" if fate.done else fate.reason(errors),
        messages=tuple(dict.fromkeys(messages)),
        size=fate.size,
        labels=fate.labels,
        unread=fate.unread,
        dumped=fate.dumped,
        original=fate.original,
        dump_seconds=fate.dump_seconds,
        tape_seconds=fate.tape_seconds,
    )


def messages_of_run(events):
    """Return the errors of a run that are no single dump's, a list of ``program: words``."""
    found = [
        f"{event.program}: {event.message}"
        for event in events
        if event.kind in ("FATAL", "ERROR") and event.message
    ]
    return list(dict.fromkeys(found))


def of_run(events, timestamp):
    """Return the :class:`Outcome` of each DLE, in the order in which the log first names it.

    events
        The :class:`amanda_log.Event` of a run, a list.
    timestamp
        When the run began, 14 digits.
    """
    fates, to_flush = {}, {}
    for event in events:
        if not event.host:
            continue
        if event.kind == "DISK" and event.program != "planner":
            to_flush[event.host, event.disk] = True
            continue
        # a strange dump's line and the planner's list don't say when: it is this run's
        key = (event.host, event.disk, event.timestamp or timestamp)
        fate = fates.setdefault(key, _Fate())
        if event.kind != "DISK":
            fate.take(event)
    reached = {key[:2] for key in fates}
    for host, disk in to_flush:
        if (host, disk) not in reached:
            fates[host, disk, ""] = _Fate()
    errors = messages_of_run(events)
    return [_outcome(key, fate, errors) for key, fate in fates.items()]
