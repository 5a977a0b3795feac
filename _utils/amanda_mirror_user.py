"""What is done on the mirror with the rights of the mirror's user alone.

Each function is called through :func:`amanda_rights.as_user`: it gets plain data and open files,
and sees neither keys nor plain text. A file counts once it is on stable storage under its final
name; until then it stands in a directory whose name ends in ``.partial``.
"""

import collections
import concurrent.futures
import contextlib
import errno
import hashlib
import os
import shutil
import stat
from pathlib import Path

from amanda_errors import AmandaError
from amanda_manifest import (
    GENERATION,
    GENERATIONS,
    LABEL,
    MANIFEST,
    MANIFEST_SUM,
    PARTIAL,
    SUMS,
    TAPES,
    WRITTEN,
)
from amanda_rights import open_regular

CHUNK = 4 << 20
"""Bytes read at once; with less, threads spend their time waiting for each other."""

_MOST_TEXT = 1 << 30
"""Bytes; a manifest of some five million files. Whoever writes the mirror might write more."""


def prepare(directory, config):
    """Make what is missing below the mirror's *directory*, and take away what is unfinished.

    Raises :class:`~amanda_errors.AmandaError` in words if *directory* can't be used.
    """
    _usable(Path(directory))
    top = Path(directory, config)
    for path in (top, top / TAPES, top / GENERATIONS):
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            sync(path.parent)
    leftovers = [*(top / TAPES).glob(f"*/*{PARTIAL}"), *(top / GENERATIONS).glob(f"*{PARTIAL}")]
    for path in leftovers:
        discard(path)
    return len(leftovers)


def _usable(directory):
    """Check that the mirror is there and ours to write; it is never made, it may not be mounted."""
    user = f"the mirror's user (uid {os.geteuid()})"
    try:
        status = directory.stat()
    except FileNotFoundError:
        raise AmandaError(
            f"the mirror's directory {directory} doesn't exist. Mount it, or make it for {user}"
        ) from None
    except PermissionError:
        raise AmandaError(f"{user} may not look into {directory.parent}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise AmandaError(f"the mirror's directory {directory} isn't a directory")
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        raise AmandaError(f"the mirror's file system is read-only: {directory}")
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise AmandaError(f"{user} may not write in the mirror's directory {directory}")


def survey(directory, config):
    """Return what the mirror holds, as data; nothing if it holds nothing of *config*.

    ``free`` is what may still be written, in bytes; ``tapes`` has a dict for each copy of a tape:
    ``label``, ``written``, ``files`` (pairs of name and size, None for what is no file); and
    ``generations`` has one for each: ``name``, ``manifest`` and ``sum``, texts or None.
    """
    top = Path(directory, config)
    status = os.statvfs(directory)
    return {
        "free": status.f_bavail * status.f_frsize,
        "tapes": [
            {"label": label.name, "written": written.name, "files": listing(written)}
            for label in _entries(top / TAPES, LABEL)
            for written in _entries(label, WRITTEN)
        ],
        "generations": [
            {
                "name": path.name,
                "manifest": _text(path / MANIFEST),
                "sum": _text(path / MANIFEST_SUM),
            }
            for path in _entries(top / GENERATIONS, GENERATION)
        ],
    }


def _entries(directory, pattern):
    try:
        names = sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return []
    return [directory / name for name in names if _ours(directory / name, pattern)]


def listing(directory):
    """Return the sorted pairs of name and size of what is in *directory*."""
    with os.scandir(directory) as entries:
        return sorted([entry.name, _size(entry)] for entry in entries)


def _size(entry):
    status = entry.stat(follow_symlinks=False)
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _text(path):
    """Return the text of a file, or None if there is none that can be read."""
    try:
        with open_regular(path) as stream:
            text = stream.read(_MOST_TEXT + 1)
        return text.decode() if len(text) <= _MOST_TEXT else None
    except (OSError, UnicodeDecodeError):
        return None


def copy(directory, files, report):
    """Copy open files into *directory*, which is made if missing; return each one's size and hash.

    files
        Triples of the name, the size (None if it is a pipe: until its end) and the descriptor.
    """
    Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    copied = []
    with _Writer() as writer:
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

    def __init__(self):
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
            raise _in_words(error, path) from None
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
                raise _in_words(error, path) from None
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


def _in_words(error, path):
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return AmandaError(
            f"the mirror is full: {error.strerror} while writing {path}. Make room there, or keep "
            "fewer days of generations (mirror:keep in pillar backup)"
        )
    return AmandaError(f"the mirror can't be written: {path}: {error.strerror}")


def write(path, text):
    """Write a new file, down to the disk."""
    try:
        with open(path, "x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise _in_words(error, path) from None


def finish(partial, final, texts, replace=False):
    """Write *texts* (pairs of name and content) into the directory *partial*, and rename it.

    replace
        Whether *final* gives way if it is there already, since it is damaged.
    """
    for name, text in texts:
        write(Path(partial, name), text)
    sync(partial)
    final = Path(final)
    damaged = _set_aside(final) if replace and final.exists() else None
    Path(partial).rename(final)
    sync(final.parent)
    sync(final.parent.parent)
    if damaged:
        shutil.rmtree(damaged)


def remove(path):
    """Remove a directory; from its first moment on nobody takes it for a whole one."""
    path = Path(path)
    dying = _set_aside(path)
    sync(path.parent)
    shutil.rmtree(dying)


def _set_aside(path):
    return path.rename(path.with_name(f"{path.name}.old{PARTIAL}"))


def prune(directory, config, generations, tapes):
    """Remove generations, by name, then copies of tapes, pairs of label and write time."""
    top = Path(directory, config)
    for name in generations:
        remove(top / GENERATIONS / name)
    for label, written in tapes:
        remove(top / TAPES / label / written)
        with contextlib.suppress(OSError):
            (top / TAPES / label).rmdir()  # unless another copy is in it


def discard(path):
    """Remove something partial, whatever it is."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def sync(directory):
    """Bring a directory's names to the disk; not every file system has a way to ask for that."""
    number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(number)


def audit(directories, hashes, report):
    """Compare directories with what should be in them; return what is wrong, in words.

    directories
        Pairs of a path and its files: triples of name, size and SHA-256.
    hashes
        Whether to read every file; else its size has to do.
    """
    problems = []
    for directory, expected in directories:
        try:
            found = dict(listing(directory))
        except OSError as error:
            problems.append(f"{str(directory)!r} can't be read: {error.strerror}")
            continue
        for name, size, sha256 in expected:
            problem = _audit_file(
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


def _audit_file(path, there, found, size, sha256, report):
    if not there:
        return f"{str(path)!r} is missing"
    if found != size:
        return f"{str(path)!r} has {found} bytes instead of {size}"
    try:
        if sha256 and hash_file(path, report) != sha256:
            return f"{str(path)!r} has changed: its SHA-256 is another"
    except OSError as error:
        return f"{str(path)!r} can't be read: {error.strerror}"
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


def read_sums_file(directory):
    """Return the text of a tape copy's SHA256SUMS, or None."""
    return _text(Path(directory, SUMS))


def strangers(directory, config):
    """Return the paths, in the mirror of *config*, of what isn't named as ours is."""
    top = Path(directory, config)
    parents = [(top / TAPES, LABEL), (top / GENERATIONS, GENERATION)]
    parents += [(label, WRITTEN) for label in _entries(top / TAPES, LABEL)]
    found = [path for path in top.iterdir() if path.name not in (TAPES, GENERATIONS)]
    for parent, pattern in parents:
        found += [path for path in parent.iterdir() if not _ours(path, pattern)]
    return sorted(str(path) for path in found)


def _ours(path, pattern):
    return pattern.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()
