"""Where a restored tree goes: an empty directory that nobody but root can exchange or enter."""

import os
import stat
from pathlib import Path

import amanda_names
from amanda_errors import ArgumentError


def publish(out, checksums, destination):
    """Move a whole tree and its checksums to their places, on the same file system.

    out
        The directory with the tree; it becomes *destination*, root's alone.
    checksums
        The file that :func:`amanda_restored.write_checksums` wrote.
    """
    checksums.chmod(0o600)  # names and sums tell of what they are of
    checksums.rename(manifest(destination))
    try:
        out.rename(destination)
    except OSError:
        manifest(destination).unlink()
        raise


def manifest(destination):
    """Return the path of the checksums beside a *destination*."""
    return destination.with_name(destination.name + ".sha256")


def check(destination):
    """Return *destination* as a path that can be made.

    destination
        As a user names it: absolute, in the form of :mod:`amanda_names`.

    Raises :class:`~amanda_errors.ArgumentError` if it can't, or others than root could lead astray
    what root writes there.
    """
    path = Path(os.fsdecode(amanda_names.absolute(destination)))
    if not path.parent.is_dir():
        raise ArgumentError(f"there is no directory {path.parent} to make {destination} in")
    path = path.parent.resolve() / path.name  # its links may be anybody's: they count no more
    if path.is_symlink() or path.exists():
        if path.is_symlink() or not path.is_dir():
            raise ArgumentError(f"{destination} is no directory")
        if any(path.iterdir()):
            raise ArgumentError(f"{destination} isn't empty: name a directory that isn't there yet")
        if path.is_mount():
            raise ArgumentError(f"{destination} is a mount point: name a directory in it")
    if os.path.lexists(manifest(path)):
        raise ArgumentError(f"{manifest(path)} is in the way: the checksums would go there")
    for directory in reversed(path.parents):  # from / downward: what passed can't change any more
        if not _is_roots_alone(directory.lstat()):
            raise ArgumentError(
                f"{directory} is open to others than root, who could lead a restore below it "
                "astray: name no directory, or one below directories that root alone "
                "may write"
            )
    return path


def _is_roots_alone(status):
    """Tell whether this is a directory in which nobody else can exchange what is root's."""
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
    return stat.S_ISDIR(status.st_mode) and status.st_uid == 0 and not shared
