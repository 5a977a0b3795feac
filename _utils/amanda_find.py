"""What there is to restore: which DLE holds a path, what it held at a moment, in which dumps."""

import amanda_chain
import amanda_index
import amanda_names
import amanda_tree
from amanda_errors import AmandaError, ArgumentError, ParseError
from amanda_log import iso


def _disk_bytes(disk):
    return disk.encode("utf-8", "surrogateescape").rstrip(b"/")


def disks_of(dumps, host, path):
    """Return the disks of *host* that *path* lies in, the longest first.

    path
        Absolute, bytes; None is in all of them.

    Raises :class:`amanda_errors.ArgumentError` if *host* has no dump at all, or no such disk.
    """
    disks = {dump.disk for dump in dumps if dump.host == host}
    if not disks:
        hosts = ", ".join(sorted({dump.host for dump in dumps})) or "none"
        raise ArgumentError(f"there is no dump of {host!r}; there are dumps of: {hosts}")
    holding = [
        disk
        for disk in disks
        if path is None or (disk.startswith("/") and amanda_tree.is_below(path, _disk_bytes(disk)))
    ]
    if not holding:
        raise ArgumentError(
            f"{amanda_names.text(path)} is in no directory dumped of {host}; "
            f"there are dumps of: {', '.join(sorted(disks))}"
        )
    return sorted(holding, key=lambda disk: len(_disk_bytes(disk)), reverse=True)


def newest(dumps, host, path, at=None):
    """Return the last dump, by the moment *at*, of any disk that *path* lies in; None if none is.

    Where one disk lies in another each is dumped whole: of two dumps of one run, that of the
    longest counts. A disk that is dumped no more must not hide what one above it has had since.
    For parameters and errors see :func:`disks_of` and :func:`list_names`.
    """
    disks = disks_of(dumps, host, path)
    found = [amanda_chain.newest(dumps, host, disk, at) for disk in disks]
    return max(filter(None, found), key=lambda dump: dump.timestamp, default=None)


def locate(dumps, host, path, at=None):
    """Return the chain of dumps that holds *path* at a moment, and its name below the disk.

    The disk counts that :func:`newest` names. For parameters and errors see :func:`list_names`.
    """
    wanted = amanda_names.absolute(path)
    last = newest(dumps, host, wanted, at)
    disk = last.disk if last else disks_of(dumps, host, wanted)[0]
    return amanda_chain.chain(dumps, host, disk, at), name_below(wanted, disk)


def name_below(path, disk):
    """Return the name of *path* (bytes, absolute) below the top of *disk*, without slashes."""
    return path[len(_disk_bytes(disk)) :].strip(b"/")


def base_name(disk, name):
    """Return the last part of the path that *name* below *disk* is, bytes; "rootfs" for ``/``."""
    return (_disk_bytes(disk) + b"/" + name).rstrip(b"/").rpartition(b"/")[2] or b"rootfs"


def read_tree(catalogue, chain):
    """Return the :class:`amanda_tree.Tree` that *chain* leads to, from the heads of its dumps.

    catalogue
        The :class:`amanda_sources.Catalogue` that the dumps are of.
    chain
        From :func:`locate`.
    """
    dumpdirs = []
    for dump in chain:
        with catalogue.open(dump, check=False) as stream:
            try:
                dumpdirs.append(amanda_tree.read_dumpdirs(stream))
            except ParseError as error:
                raise AmandaError(
                    f"the dump of {dump.host} {dump.disk}, {iso(dump.timestamp)}, level "
                    f"{dump.level}, can't be read: {error}"
                ) from error
    return amanda_tree.follow(dumpdirs)


def list_names(catalogue, host, path, at=None, limit=1000):
    """List the directory *path* of *host* as it was: deleted files aren't shown.

    catalogue
        The :class:`amanda_sources.Catalogue`.
    host
        As the disklist has it.
    path
        An absolute path, in the form of :mod:`amanda_names`; of a file, it alone is listed.
    at
        A timestamp (14 digits, local time): the state of the last dump by then. None is now.
    limit
        At most so many entries; ``count`` says how many there are.

    Raises :class:`amanda_errors.ArgumentError` if nothing of that name was there.
    """
    chain, name = locate(catalogue.dumps, host, path, at)
    tree = read_tree(catalogue, chain)
    kind = tree.kind(name)
    if kind is None:
        raise ArgumentError(
            f"{path} wasn't there in the dump of {host} {chain[-1].disk}, "
            f"{iso(chain[-1].timestamp)}"
        )
    if kind == "directory":
        directories, others = tree.children(name)
    else:
        directories, others = [], [name.rpartition(b"/")[2]]
    entries = [{"name": amanda_names.text(each), "type": "directory"} for each in directories]
    entries += [{"name": amanda_names.text(each), "type": "file"} for each in others]
    return {
        "host": host,
        "disk": chain[-1].disk,
        "path": path,
        "as_of": iso(chain[-1].timestamp),
        "level": chain[-1].level,
        "count": len(entries),
        "entries": entries[:limit],
    }


def list_disks(dumps, host, at=None):
    """List the directories of *host* that there are dumps of, each with its newest dump.

    at
        A timestamp (14 digits): the newest by then. None is now.

    Raises :class:`amanda_errors.ArgumentError` if there are none.
    """
    newest = {}
    for dump in sorted(dumps, key=lambda dump: dump.timestamp):
        if at is None or dump.timestamp <= at:
            newest[dump.host, dump.disk] = dump
    disks = sorted(disks_of(dumps, host, None))
    found = [describe(newest[host, disk]) for disk in disks if (host, disk) in newest]
    if not found:
        raise ArgumentError(f"there is no dump of {host} made by {iso(at)}")
    return found


def versions(catalogue, host, path):
    """Return the dumps that store *path* of *host*, the newest first; needs no key.

    catalogue
        The :class:`amanda_sources.Catalogue`.

    Each is a dict: ``timestamp`` and the like of the dump; ``type``, "directory" or "file", as
    what it is stored, or None if the dump's index is missing and nobody knows. A file that an
    incremental leaves out because it didn't change appears at the dump before; one in a directory
    that was renamed, under its old name.

    Raises :class:`amanda_errors.ArgumentError` if no dump stores it.
    """
    wanted = amanda_names.absolute(path)
    disks = disks_of(catalogue.dumps, host, wanted)
    found = []
    for dump in sorted(catalogue.dumps, key=lambda dump: dump.timestamp, reverse=True):
        if dump.host != host or dump.disk not in disks:
            continue
        file = amanda_index.path(catalogue.index, dump)
        kind = None
        if file:
            name = name_below(wanted, dump.disk)
            kind = amanda_index.kind(file, name, catalogue.index.parent)
        if kind or not file:
            found.append(describe(dump) | {"type": kind})
    if not found:
        raise ArgumentError(f"no dump of {host} stores {path}")
    return found


def describe(dump):
    """Return what an administrator wants to know of *dump*, a dict."""
    return {
        "config": dump.config,
        "host": dump.host,
        "disk": dump.disk,
        "timestamp": iso(dump.timestamp),
        "level": dump.level,
        "status": dump.status,
        "labels": sorted({part.label for part in dump.parts}),
        "size": dump.size,
    }
