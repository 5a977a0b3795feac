"""Amanda's index: the names that each dump stores, which need no key to be read.

``<index>/<host>/<disk>/<timestamp>_<level>…gz``, a name a line in tar's escape quoting, ``/`` in
front, directories with ``/`` at the end. Every directory is in every index, whatever the level;
of the files, what that dump stores.
"""

import gzip
import itertools
import zlib
from pathlib import Path

import amanda_names
import amanda_rights
from amanda_errors import AmandaError, ParseError, unreadable

_SUFFIXES = ("-unsorted.gz", ".gz", "-sorted.gz")
"""What amdump 3.5.1 writes comes first; amindexd sorts it for amrecover, or once did."""

_LONGEST_LINE = 1 << 16


def sanitise(name):
    """Return *name* of a host or disk (text or bytes) as Amanda makes it a file's name, bytes."""
    name = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
    return name.translate(bytes.maketrans(b"/:\\", b"___"))


def path(index, dump):
    """Return the index file of *dump*, or None if there is none.

    index
        The config's index directory: ``places.index``.
    dump
        An :class:`amanda_catalogue.Dump`.
    """
    directory = Path(index)
    for name in (dump.host, dump.disk):
        part = sanitise(name).decode("utf-8", "surrogateescape")
        if part in ("", ".", ".."):
            raise AmandaError(f"no index for a host or disk called {name!r}")
        directory = directory / part
    for suffix in _SUFFIXES:
        candidate = directory / f"{dump.timestamp}_{dump.level}{suffix}"
        if candidate.is_file():
            return candidate
    return None


def names(file, top=None):
    """Yield every name in the index *file*: bytes, ``/`` in front, ``/`` after a directory.

    top
        As for :func:`lines`; what that raises is raised.
    """
    return map(amanda_names.unescape, lines(file, top))


def lines(file, top=None):
    """Yield every line of the index *file*, bytes without the newline: a name in escape quoting.

    top
        The config's state directory, whose owner the file must have; None is the file's own.

    Raises :class:`amanda_errors.ParseError` on a line that is no name,
    :class:`amanda_errors.AmandaError` if the file is damaged, or can't be read.
    """
    try:
        stream = amanda_rights.open_owned(file, top or Path(file).parent)
    except OSError as error:
        raise unreadable(error, f"can't read the index {file}: {error.strerror}") from error
    try:
        with stream, gzip.open(stream) as content:
            for line in iter(lambda: content.readline(_LONGEST_LINE), b""):
                if not line.startswith(b"/") or not line.endswith(b"\n"):
                    raise ParseError(f"the index {file}", line[:200])
                yield line[:-1]
    except OSError as error:
        raise unreadable(error, f"the index {file} is damaged: {error}") from error
    except (EOFError, zlib.error) as error:
        raise AmandaError(f"the index {file} is damaged: {error}") from error


def kind(file, name, top=None):
    """Return "directory", "file" or None: as what the index *file* has *name*.

    name
        Below the DLE's top directory, bytes, without slash in front or at the end.
    top
        As for :func:`names`.
    """
    wanted = {b"/" + name: "file", b"/" + name + b"/" if name else b"/": "directory"}
    found = itertools.dropwhile(lambda each: each not in wanted, names(file, top))
    return wanted.get(next(found, None))
