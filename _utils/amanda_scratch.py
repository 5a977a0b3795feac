"""Directories for what is half restored: removed at the end, or by the next one after a crash.

What stands in them is plain text that nobody asked to keep.
"""

import contextlib
import fcntl
import os
import tempfile
import time
from pathlib import Path

import amanda_command

_YOUNG = 10  # seconds; one that was just made may not be locked yet


@contextlib.contextmanager
def scratch(directory, kind):
    """Give a new directory of the caller's alone in *directory*, and remove it at the end.

    directory
        Its owner is the caller, or nobody else can exchange what is in it.
    kind
        A word for its name. Those of the same kind whose process has gone are removed first.

    Raises :class:`OSError` if none can be made.
    """
    _sweep(directory, kind)
    path = Path(tempfile.mkdtemp(prefix=_prefix(kind), dir=directory))
    held = _lock(path)
    try:
        yield path
    finally:
        _remove(path)
        os.close(held)


def _prefix(kind):
    return f".amanda-{kind}-"


def _lock(path):
    """Return a descriptor that holds the lock on a directory, as long as this process lives.

    Raises :class:`OSError` if another holds it, or it is no directory.
    """
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(number)
        raise
    return number


def _sweep(directory, kind):
    with os.scandir(directory) as entries:
        found = [Path(entry.path) for entry in entries if entry.name.startswith(_prefix(kind))]
    for path in found:
        with contextlib.suppress(OSError):  # in use, gone, or none of ours
            held = _lock(path)
            try:
                status = os.fstat(held)
                young = time.time() - status.st_mtime < _YOUNG
                if status.st_uid == os.geteuid() and not young:
                    _remove(path)
            finally:
                os.close(held)


def _remove(path):
    # rm, since a tree may be deeper than Python can follow.
    amanda_command.run(["rm", "-rf", "--", path])
