"""Errors that the engine raises.

Each message is written for the administrator: what is wrong, where, and what to do about it.
The Salt front turns them into ``CommandExecutionError`` (or ``SaltInvocationError`` for
:class:`ArgumentError`) without changing a word.
"""

import errno
import re

_OF_THE_FILE = {
    None,  # said by a library of what it read, such as gzip
    errno.EFBIG,
    errno.EINVAL,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENXIO,
    errno.EPERM,
    errno.EUCLEAN,
}
"""Error numbers that tell of a file: missing, no plain one, another's, or its disk fails."""

_SECRET = re.compile(
    r"age-(?:secret-key|plugin)-[0-9a-z-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)",
    re.IGNORECASE | re.DOTALL,
)


def holds_secret(text):
    """Tell whether *text* has an age identity or a private key in it."""
    return _SECRET.search(text) is not None


class AmandaError(Exception):
    """Something failed; the message says what and names the remedy.

    A secret key that came into the message, by mistake or in another program's words, is not shown.
    """

    def __init__(self, message=""):
        super().__init__(_SECRET.sub("(a secret key, not shown)", str(message)))


class PillarError(AmandaError):
    """The pillar asks for something that can't be: *key* is wrong because of *problem*.

    key
        Where the fault is, as ``salt pillar.get`` would take it: ``backup:configs:daily:cron``.
    problem
        What is wrong with it, in words.
    remedy
        What to write instead.
    """

    def __init__(self, key, problem, remedy):
        super().__init__(f"pillar {key}: {problem}. {remedy}")
        self.key = key
        self.problem = problem
        self.remedy = remedy


class ServerError(AmandaError):
    """This server can't do what it is asked; nothing follows for the data it was to be done with.

    A program or library is missing or was killed, memory, disk or open files have run out, …
    """


class SealedError(AmandaError):
    """The key that there is opens nothing of this; nothing follows for the data itself."""


def unreadable(error, message):
    """Return the error that says *message* of the :class:`OSError` *error* at reading a file.

    It is a :class:`ServerError` unless it tells of the file itself.
    """
    return (AmandaError if error.errno in _OF_THE_FILE else ServerError)(message)


class ArgumentError(AmandaError):
    """An argument of a function is wrong: an unknown config, host, path or time."""


class ParseError(AmandaError):
    """A line that Amanda or another tool wrote could not be read; the message quotes it."""

    def __init__(self, what, line):
        quoted = repr(line[:500] if isinstance(line, (str, bytes)) else line)
        super().__init__(f"can't read {what}: {quoted}")
        self.what = what
        self.line = line


class CommandError(AmandaError):
    """A command failed.

    argv
        The command, a list.
    returncode
        Its exit status; negative for a signal.
    stderr
        What it said, decoded, trailing white space taken off.
    """

    def __init__(self, argv, returncode, stderr):
        said = stderr.strip() or "nothing on stderr"
        super().__init__(f"{argv[0]} failed with status {returncode}: {said}")
        self.argv = list(argv)
        self.returncode = returncode
        self.stderr = stderr
