"""Names, sizes and SHA-256 of files, compared with what they should be: of tapes and mirrors.

With the rights of whoever calls: the dump user on tapes, the mirror's user there.
"""

import errno
import hashlib
import os
import stat
from pathlib import Path

from amanda_copying import CHUNK
from amanda_rights import open_regular

_KIND = {errno.ENOENT: "is missing", errno.ELOOP: "is a link"} | dict.fromkeys(
    (errno.EINVAL, errno.ENXIO, errno.EISDIR), "is no regular file"
)


def unread(error):
    """Return why a file could not be read, in words that follow its name."""
    return _KIND.get(error.errno) or f"can't be read: {error.strerror}"


def listing(directory):
    """Return the sorted pairs of name and size of what is in *directory*."""
    with os.scandir(directory) as entries:
        return sorted([entry.name, _size(entry)] for entry in entries)


def _size(entry):
    status = entry.stat(follow_symlinks=False)
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def compare(directories, hashes, report):
    """Compare directories with what should be in them; return what is wrong, in words.

    directories
        Pairs of a path and its files: triples of name, size and SHA-256.
    hashes
        Whether to read every file; else its size has to do.
    """
    problems = []
    for directory, expected in directories:
        report(0)
        try:
            found = dict(listing(directory))
        except OSError as error:
            problems.append(f"{str(directory)!r} {unread(error)}")
            continue
        for name, size, sha256 in expected:
            problem = _difference(
                Path(directory, name),
                name in found,
                found.pop(name, None),
                size,
                hashes and sha256,
                report,
            )
            problems += [problem] if problem else []
        problems += [f"{str(Path(directory, name))!r} doesn't belong there" for name in found]
    return problems


def _difference(path, there, found, size, sha256, report):
    if not there:
        return f"{str(path)!r} is missing"
    if found is None:
        return f"{str(path)!r} is no regular file"
    if found != size:
        return f"{str(path)!r} has {found} bytes instead of {size}"
    try:
        if sha256 and hash_file(path, report) != sha256:
            return f"{str(path)!r} has changed: its SHA-256 is another"
    except OSError as error:
        return f"{str(path)!r} {unread(error)}"
    return None


def hash_file(path, report):
    """Return the SHA-256 of a file, in hexadecimal."""
    with open_regular(path) as stream:
        return hash_stream(stream, report)


def hash_stream(stream, report=lambda count: None):
    """Return the SHA-256 of what is left of an open file, in hexadecimal."""
    sha256 = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    while count := stream.readinto(buffer):
        sha256.update(buffer[:count])
        report(count)
    return sha256.hexdigest()
