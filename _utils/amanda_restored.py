"""A restored tree: walked, counted and summed, whatever its names and however deep it is.

Its content is hostile: no link in it is followed, here or when files are put in their place.
"""

import contextlib
import errno
import hashlib
import os
import stat

import amanda_names

HOLES = 64 << 30
"""Bytes of holes in a tree that are summed as the zeros they read as: a minute or two of work.

A file of terabytes of them takes its owner one command and a dump a few bytes.
"""

_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def opened(root, name=b""):
    """Give a descriptor of directory *name* below *root*, opened step by step, through no link.

    Raises :class:`OSError` if a step is missing or no directory.
    """
    descriptor = os.open(root, _DIRECTORY)
    try:
        for step in filter(None, name.split(b"/")):
            below = os.open(step, _DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def walk(root):
    """Yield name (bytes, below *root*) and ``lstat`` of all in it, sorted within a directory."""
    with opened(root) as descriptor:
        waiting = [b""]
        while waiting:
            directory = waiting.pop()
            below = []
            for base in _entries(descriptor, directory):
                name = directory + b"/" + base if directory else base
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                yield name, status
                if stat.S_ISDIR(status.st_mode):
                    below.append(name)
            waiting.extend(reversed(below))


def _entries(root, directory):
    with (
        _closing(os.open(directory or b".", _DIRECTORY, dir_fd=root)) as descriptor,
        os.scandir(descriptor) as entries,
    ):
        return sorted(os.fsencode(entry.name) for entry in entries)


@contextlib.contextmanager
def _closing(descriptor):
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_checksums(root, manifest, sample=20):
    """Write the SHA-256 of every file below *root* into *manifest*, and return what there is.

    manifest
        A path; ``cd ROOT && sha256sum --check MANIFEST`` compares it with the tree. A file with
        more holes than are left of :data:`HOLES` has a comment there instead.

    Returns a dict: how many ``files``, ``directories``, ``others`` (links, devices, fifos),
    ``bytes`` in the files, and ``sample``, the first names; if there are files without a SHA-256
    also ``unsummed``, their ``count`` and a ``sample``.
    """
    counts = {"files": 0, "directories": 0, "others": 0, "bytes": 0, "sample": []}
    unsummed, left = {"count": 0, "sample": []}, HOLES
    with manifest.open("xb") as lines, opened(root) as descriptor:
        for name, status in walk(root):
            if len(counts["sample"]) < sample:
                counts["sample"].append(amanda_names.text(name))
            if stat.S_ISDIR(status.st_mode):
                counts["directories"] += 1
            elif not stat.S_ISREG(status.st_mode):
                counts["others"] += 1
            else:
                counts["files"] += 1
                counts["bytes"] += status.st_size
                holes = status.st_size - data_bytes(name, descriptor, status)
                if holes <= left:
                    left -= holes
                    digest = sha256(name, descriptor)
                    lines.write(amanda_names.checksum_line(digest, b"./" + name))
                else:
                    lines.write(_comment(name, holes))
                    unsummed["count"] += 1
                    if len(unsummed["sample"]) < sample:
                        unsummed["sample"].append(amanda_names.text(name))
        lines.flush()
        os.fsync(lines.fileno())
    return {**counts, "unsummed": unsummed} if unsummed["count"] else counts


def _comment(name, holes):
    """Return a line that sha256sum passes over."""
    told = f"# without a SHA-256, since it has {holes} bytes of holes: ./{amanda_names.text(name)}"
    return told.encode() + b"\n"


def data_bytes(name, root, status):
    """Return how many bytes of a file aren't in holes.

    name, root
        As for :func:`sha256`.
    status
        Its ``lstat``.
    """
    if status.st_blocks * 512 >= status.st_size:
        return status.st_size
    total = position = 0
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with _closing(os.open(name, flags, dir_fd=root)) as descriptor:
        while position < status.st_size:
            begin = next_data(descriptor, position)
            if begin is None:
                break
            position = os.lseek(descriptor, begin, os.SEEK_HOLE)
            total += position - begin
    return total


def next_data(descriptor, position):
    """Return where in a file data begin, from *position* on; None if all that follows is a hole.

    On a file system that doesn't tell of holes all is data; see lseek(2).
    """
    try:
        return os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def sha256(name, root):
    """Return the SHA-256 (hex) of the file *name* below the directory descriptor *root*."""
    digest = hashlib.sha256()
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with _closing(os.open(name, flags, dir_fd=root)) as descriptor:
        while piece := os.read(descriptor, _CHUNK):
            digest.update(piece)
    return digest.hexdigest()


class Placer:
    """Puts files of other directories into the tree *root*; keeps its directories' times.

    Leaving the block sets the times of each directory that was touched to what they were.
    """

    def __init__(self, root):
        self._root = root
        self._times = {}

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None:
            return
        for directory, times in self._times.items():
            with opened(self._root, directory) as descriptor:
                os.utime(descriptor, ns=times)

    def place(self, root, source, target, link=False):
        """Move the file *source* below *root* to *target* in the tree, or link it there.

        Raises :class:`OSError` if there is no such file, or no directory to put it in.
        """
        source_directory, _, source_base = source.rpartition(b"/")
        directory, _, base = target.rpartition(b"/")
        with (
            opened(root, source_directory) as there,
            opened(self._root, directory) as here,
        ):
            status = os.fstat(here)
            self._times.setdefault(directory, (status.st_atime_ns, status.st_mtime_ns))
            if link:
                os.link(source_base, base, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
            else:
                os.rename(source_base, base, src_dir_fd=there, dst_dir_fd=here)
