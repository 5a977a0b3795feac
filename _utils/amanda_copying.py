"""Copying open files: read, hashed, written and brought to the disk at once.

Runs in a child with the rights of who is to own the copies: of the mirror's user, see
:mod:`amanda_mirror_user`, or of the dump user, see :mod:`amanda_tapes_back`.
"""

import collections
import concurrent.futures
import errno
import hashlib
import os
from pathlib import Path

from amanda_errors import AmandaError

CHUNK = 4 << 20
"""Bytes read at once; with less, threads spend their time waiting for each other."""

MIRROR = (
    "the mirror",
    "Make room there, or keep fewer days of generations (mirror:keep in pillar backup)",
)
"""What is written to, for messages: what it is, and what to do when it is full."""


def copy(directory, files, place=MIRROR, *, report):
    """Copy open files into *directory*, which is made if missing; return each one's size and hash.

    files
        Triples of the name, the size (None if it isn't known) and the descriptor.
    place
        A pair as :data:`MIRROR`.
    """
    copied = []
    with _Writer(place) as writer:
        try:
            Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise in_words(error, directory, place) from None
        for name, size, source in files:
            done, sha256 = _copy(source, writer, Path(directory, name), report)
            if size not in (None, done):
                raise AmandaError(f"{name} changed from {size} to {done} bytes as it was copied")
            copied.append([done, sha256])
    return copied


def _copy(source, writer, path, report):
    """Hash and write all of *source*; what was hashed is what is written."""
    writer.open(path)
    sha256 = hashlib.sha256()
    done = 0
    while count := os.readv(source, [buffer := writer.buffer()]):
        writer.write(buffer, count)
        sha256.update(buffer[:count])
        done += count
        report(count)
    writer.close()
    return done, sha256.hexdigest()


class _Writer:
    """Writes files, one after another, in a thread of its own, down to the disk.

    So hashing, writing and waiting for the disk happen at the same time. Leaving the block waits
    for all of it; an error shows at a later call than the one that caused it.
    """

    BUFFERS = 4
    SYNCED = 32 << 20
    """Bytes after which the disk is set to work, so that little is left to do at the end."""

    def __init__(self, place):
        self.place = place
        self.pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self.free = [memoryview(bytearray(CHUNK)) for _ in range(self.BUFFERS)]
        self.pending = collections.deque()
        self.file = self.path = None
        self.unsynced = 0

    def __enter__(self):
        """Start."""
        return self

    def __exit__(self, kind, error, traceback):
        """Wait for the disk; after an error, for no more than what is being written."""
        if kind is None:
            self._settle(0)
        self.pool.shutdown(cancel_futures=True)

    def open(self, path):
        """Start a new file at *path*."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            self.file, self.path = os.open(path, flags, 0o600), path
        except OSError as error:
            raise in_words(error, path, self.place) from None
        self.unsynced = 0

    def buffer(self):
        """Return memory to read into; it is this class's again after :meth:`write`."""
        self._settle(self.BUFFERS - 1)
        return self.free[-1]

    def write(self, buffer, count):
        """Write *count* bytes of the *buffer* given last; it may still be read meanwhile."""
        self.free.pop()
        self.unsynced += count
        sync = self.unsynced >= self.SYNCED
        self.unsynced = 0 if sync else self.unsynced
        self._submit(buffer, _write_all, self.file, buffer[:count], sync)

    def close(self):
        """End the file."""
        self._submit(None, _close, self.file)

    def _submit(self, buffer, function, *arguments):
        self.pending.append((self.pool.submit(function, *arguments), self.path, buffer))

    def _settle(self, most):
        """Wait until at most *most* jobs are pending."""
        while len(self.pending) > most:
            job, path, buffer = self.pending.popleft()
            try:
                job.result()
            except OSError as error:
                raise in_words(error, path, self.place) from None
            if buffer is not None:
                self.free.append(buffer)


def _write_all(file, data, sync):
    while data:
        data = data[os.write(file, data) :]
    if sync:
        os.fdatasync(file)


def _close(file):
    try:
        os.fdatasync(file)
    finally:
        os.close(file)  # NFS tells of a full disk here


def in_words(error, path, place=MIRROR):
    """Return the :class:`~amanda_errors.AmandaError` for an error while *place* was written."""
    what, remedy = place
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return AmandaError(f"{what} is full: {error.strerror} while writing {path}. {remedy}")
    return AmandaError(f"{what} can't be written: {path}: {error.strerror}")
