"""What Amanda's commands say of a run: exit statuses, the log as it grows, reasons of failure.

The meaning of each stands here once. What is on tape is never read from here, but from the
catalogue.
"""

import collections
import os
import re
import stat

STATUSES = (  # amdump(8), EXIT CODE: a bit mask
    (1, "Amanda met an error"),
    (2, "a client reported something strange"),
    (4, "a dump failed"),
    (8, "a client sent no result"),
    (16, "not everything could be written to tape"),
)
STRANGE = 2
FAILED = 4

TOO_LARGE = r"larger than available tape space"
"""What the planner says of a DLE that one run's tapes can't hold."""

_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\S+')
_ERRORS = 100
_BOUND = 1 << 20  # bytes of log read at a time


def words(status):
    """Return what amdump's exit *status* means, a list of phrases; empty for 0.

    status
        0 … 31; negative if a signal ended it.
    """
    if status < 0:
        return [f"amdump was ended by signal {-status}"]
    known = [phrase for bit, phrase in STATUSES if status & bit]
    rest = status & ~sum(bit for bit, _ in STATUSES)
    return known + ([f"amdump ended with status {status}"] if rest else [])


class LogTail:
    """Counts of a run's DLEs, from its log while amdump writes it.

    logs
        The directory of ``log.<timestamp>.<n>``.

    ``errors`` has what the log says of the run as a whole: pairs of program and text; ``taper`` the
    number of the taper's process, None until it is there.

    Only for showing progress: it reads what is new at each :meth:`update`, takes lines that it
    doesn't know as no news, and never says that a dump is safe.
    """

    def __init__(self, logs):
        self.logs = logs
        self.before = names(logs)
        self.path = None
        self._offset = 0
        self._rest = b""
        self.errors = []
        self.taper = None
        self._states = collections.OrderedDict()

    def update(self):
        """Read on and return ``{"dles", "dumped", "taped", "failed"}``, counts of DLEs."""
        if self.path is None:
            new = sorted(names(self.logs) - self.before)
            if not new:
                return self.counts()
            self.path = self.logs / new[-1]
        lines = (self._rest + self._read()).split(b"\n")
        self._rest = lines.pop()[-_BOUND:]
        for line in lines:
            self._line(line.decode(errors="replace"))
        return self.counts()

    def finish(self):
        """Read to the end, once amdump has gone; return as :meth:`update` does."""
        before = -1
        while before != self._offset:
            before = self._offset
            self.update()
        return self.counts()

    def counts(self):
        """Return the counts of the last :meth:`update`."""
        tally = collections.Counter(self._states.values())
        return {
            "dles": len(self._states),
            "dumped": tally["dumped"] + tally["taped"],
            "taped": tally["taped"],
            "failed": tally["failed"],
        }

    def _read(self):
        # The dump user owns the log: no link and no pipe in its place may hold root up.
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return b""
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return b""
            file.seek(self._offset)
            data = file.read(_BOUND)
        self._offset += len(data)
        return data

    def _line(self, line):
        word = _WORD.findall(line)
        match word[:2]:
            case ["ERROR" | "FATAL", program] if len(self.errors) < _ERRORS:
                self.errors.append((program, line.split(maxsplit=2)[-1]))
            case ["INFO", "taper"] if re.fullmatch(
                r"INFO taper taper pid [0-9]{1,9}", line.strip()
            ):
                self.taper = int(word[-1])
            case ["DISK", "planner"] if len(word) >= 4:
                self._states.setdefault((word[2], word[3]), "waiting")
            case ["SUCCESS" | "STRANGE", "chunker" | "dumper"] if len(word) >= 4:
                self._set(word[2], word[3], "dumped")
            case ["FAIL" | "PARTIAL", "planner" | "dumper" | "chunker"] if len(word) >= 4:
                self._set(word[2], word[3], "failed")
            case ["DONE" | "PARTIAL", "taper"] if len(word) >= 6:
                self._set(word[4], word[5], "taped" if word[0] == "DONE" else "failed")

    def _set(self, host, disk, state):
        if (host, disk) in self._states:
            self._states[host, disk] = state


def names(logs):
    """Return the names of the run logs in the directory *logs*, a set."""
    try:
        found = os.listdir(logs)
    except FileNotFoundError:
        return set()
    return {name for name in found if re.fullmatch(r"log\.[0-9]{14}\.[0-9]+", name)}


def timestamp(name):
    """Return the 14 digits in the name of a run's log."""
    return name.split(".")[1]


_REASONS = (
    (
        r"the disk of the tapes, (?P<what>.*), is full",
        "the disk of the tapes, {what}, is full: give it more room, or give tapes up",
    ),
    (
        r"compress-zstd: (?P<what>zstd) is not installed",
        "{what} is not installed on {host}: apply the state backup on it",
    ),
    (
        r"sendbackup: error \[exec \S*/(?P<what>[^\s/]+): No such file or directory",
        "{what} is not installed on {host}: apply the state backup on it",
    ),
    (
        r"compress got signal (?P<what>\d+)",
        "the program that compresses {disk} on {host} was ended by signal {what} in the middle of "
        "the dump: see the journal there, it may have run out of memory",
    ),
    (
        r"data encrypt: terminated with signal (?P<what>\d+)",
        "the program that encrypts {disk} of {host} was ended by signal {what} on the server in "
        "the middle of the dump: see the journal, it may have run out of memory",
    ),
    (
        r"encryption program failed|data encrypt: exited with status",
        "the encryption filter failed on the server in the middle of the dump of {disk} of {host}: "
        "amanda.check tries it and says why",
    ),
    (
        r"Cannot (?:open|stat): No such file or directory",
        "{disk} does not exist on {host}: create it, or take it out of its pillar's directories",
    ),
    (
        r"Cannot (?:open|stat|read): Permission denied",
        "parts of {disk} may not be read on {host}: see the detail",
    ),
    (
        r"tar: /.*: Cannot open: Not a directory",
        "{disk} on {host} is no directory: name the directory that it is in, and exclude the rest",
    ),
    (
        TOO_LARGE,
        "the dump of {disk} on {host} is larger than the tapes one run may write: raise "
        "runtapes or the tapetype's length, or split the directory",
    ),
    (
        r"runtapes=\d+ does not allow additional tapes",
        "the tapes of one run were full before the dump of {disk} on {host} was written: raise "
        "runtapes or the tapetype's length",
    ),
    (
        r"No acceptable volumes found",
        "no tape may be written: each is too recent, held back or unusable; see amanda.tapes, and "
        "set slots to more",
    ),
    (
        r"directory '(?P<what>[^']+)' does not exist",
        "the directory of the tapes, {what}, does not exist on the server: is its disk mounted?",
    ),
    (
        r"data timeout",
        "{host} stopped sending {disk} in the middle of the dump (dtimeout)",
    ),
    (
        r"[Ee]stimate timeout|no estimate",
        "{host} took too long to estimate the size of {disk} (etimeout)",
    ),
    (
        # Seen once, on a loaded server; by planner.c its request ended without any answer.
        r"disk was stranded on waitq",
        "Amanda asked {host} for the size of {disk} and lost the answer, so it made no dump; "
        "nothing is known to be wrong there: run amanda.backup again, or leave it to the next run",
    ),
    (
        r"not enough holding disk|no disk space|No space left",
        "the server's disk is full: the dump of {disk} on {host} had no room",
    ),
)


def reason(host, disk, texts):
    """Return why a DLE failed, for the administrator; None if Amanda's words must do.

    texts
        What Amanda said: the reason first, then the lines around it.
    """
    for pattern, sentence in _REASONS:
        for text in texts:
            match = re.search(pattern, text)
            if match:
                return sentence.format(host=host, disk=disk, **match.groupdict())
    return None


def broken(text):
    """Return the part of *text* that tells of a broken connection, or None."""
    match = re.search(
        r"EOF on read from|Connection reset|write error to|Broken pipe|timeout waiting for", text
    )
    return match and match[0].removesuffix(" from")


_HARDENED = re.compile(r"program \S+: not setuid-root")
"""What amcheck says of programs whose setuid bit is gone on purpose; see amanda_hardening."""


def is_meant(problem):
    """Tell whether a problem that :func:`problems` returned is none: hardening made it so."""
    return bool(_HARDENED.fullmatch(problem))


def problems(text):
    """Return the ERROR lines of amcheck's report *text*, without the word."""
    found = []
    for line in text.splitlines():
        match = re.match(r"(?:HOST (?P<host>\S+) )?ERROR: (?P<what>.*)", line)
        if match:
            found.append(": ".join(part for part in (match["host"], match["what"]) if part))
    return found
