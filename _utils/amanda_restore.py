"""Files back from dumps: one file, a directory or a whole DLE, as they were at a moment.

The heads of the chain's dumps say what there was and which dump stores it. So each dump gives
just the files that it is the last to store, into a directory of its own beside the destination;
then they are put together. What was deleted never appears, a file that changed is written once,
and a part of a DLE comes out as it does from the whole.
"""

import contextlib
import errno
import os
import time

import amanda_destination
import amanda_extract
import amanda_find
import amanda_layout
import amanda_names
import amanda_restored
import amanda_scratch
import amanda_tapefile
from amanda_errors import AmandaError, ArgumentError
from amanda_log import iso
from amanda_tree import join

SAMPLE = 20
"""How many names a result shows of those that it counts."""

_PROGRESS_STEP = 16 << 20  # bytes between two calls


def recover(catalogue, host, path, destination, at=None, progress=None):
    """Restore *path* of *host*, as it was at a moment, into the directory *destination*.

    catalogue
        The :class:`amanda_sources.Catalogue` to restore from.
    host
        As the disklist has it.
    path
        An absolute path of a file, a directory or a whole DLE, in the form of
        :mod:`amanda_names`.
    destination
        A directory that is empty or absent; its parent exists, and nobody but root can exchange
        what is in that or above. It becomes root's alone (0700), since what a client sent is
        hostile; in it *path* stands under its last name ("rootfs"
        for ``/``). Its checksums are put beside it, in ``<destination>.sha256``.
    at
        A timestamp (14 digits, local time): the state of the last dump by then. None is now.
    progress
        Called with bytes read, bytes in all and words that say what is being read.

    Returns a dict: ``host``, ``path``, ``as_of`` (the last dump's time), ``restored`` (where *path*
    is now), ``manifest``, ``files``, ``directories``, ``others``, ``bytes``, ``sample``, and
    ``unsummed`` if :func:`amanda_restored.write_checksums` gave it;
    ``missing``, ``count`` and ``sample`` of names that were listed but are in no dump (excluded,
    gone before they were read, sockets); ``dumps``, those read, with ``checked`` true if they were
    read and compared to the end; ``seconds``.

    Raises :class:`amanda_errors.AmandaError`; then nothing is left behind.
    """
    began = time.monotonic()
    if os.geteuid() != 0:
        raise AmandaError("only root can restore owners, devices and capabilities")
    destination = amanda_destination.check(destination)
    chain, name = amanda_find.locate(catalogue.dumps, host, path, at)
    tree = amanda_find.read_tree(catalogue, chain)
    if tree.kind(name) is None:
        raise _not_there(catalogue, host, path, chain[-1])
    plan = _Plan(chain, tree, name)
    with _scratch(destination) as scratch:
        reader = _Reader(catalogue, chain, plan, progress)
        dumps_read, missing = _restore(plan, reader, scratch)
        base = amanda_find.base_name(chain[-1].disk, name)
        counts = _publish(plan, scratch, base, destination)
    return {
        "host": host,
        "path": path,
        "as_of": iso(chain[-1].timestamp),
        "restored": amanda_names.text(os.fsencode(destination) + b"/" + base),
        "manifest": amanda_names.text(os.fsencode(amanda_destination.manifest(destination))),
        **counts,
        "missing": _some(missing),
        "dumps": dumps_read,
        "seconds": round(time.monotonic() - began, 3),
    }


class _Plan:
    """Which files come from which dump.

    name
        What is restored, below the top of the DLE.
    single
        True if that is one file.
    targets
        For each dump, by position: name in the dump → name in the tree.
    unstored
        Names that were listed but are in no dump.
    """

    def __init__(self, chain, tree, name):
        self.name = name
        self.last = len(chain) - 1
        self.single = tree.kind(name) == "file"
        self.targets = [{} for _ in chain]
        self.unstored = []
        if self.single:
            base = name.rpartition(b"/")[2]
            self._add(b"", base, tree.stored(name))
            return
        for directory, entries in tree.below(name):
            for base, stored in entries.items():
                self._add(directory, base, stored)

    def _add(self, directory, base, stored):
        target = join(directory, base)
        if stored.dump is None:
            self.unstored.append(target)
        else:
            self.targets[stored.dump][join(stored.directory, base)] = target

    def wanted(self, position):
        """Return what to take from the dump at *position*, or None if it is needed for nothing."""
        top = self.name if position == self.last and not self.single else None
        if top is None and not self.targets[position]:
            return None
        return amanda_extract.Wanted(set(self.targets[position]), top)


class _Reader:
    """Reads the dumps of a chain, and says how far it is."""

    def __init__(self, catalogue, chain, plan, progress):
        self._catalogue, self._chain = catalogue, chain
        self._progress = progress
        self._done = self._said = 0
        self._total = sum(
            dump.native.size
            for position, dump in enumerate(chain)
            if dump.native and plan.wanted(position)
        )

    def read(self, position, root, wanted, early):
        """Extract what is *wanted* of the dump at *position*, telling the progress."""
        dump = self._chain[position]
        what = f"{dump.host} {dump.disk}, {iso(dump.timestamp)}, level {dump.level}"
        before = self._done

        def seen(count):
            self._done = before + count
            if self._progress and self._done >= self._said + _PROGRESS_STEP:
                self._tell(what)

        with self._catalogue.open(dump, check=not early) as stream:
            extracted = amanda_extract.extract(stream, root, wanted, early, seen)
        if self._progress:
            self._tell(what)
        return extracted

    def _tell(self, what):
        self._said = self._done
        self._progress(self._done, max(self._done, self._total), what)

    def sealed(self, position):
        """Tell whether each piece of the dump's stream is authenticated before it is read.

        So it is with age. Of other streams a flipped bit shows only in the checksum at the end.
        """
        part = self._chain[position].parts[0]
        with self._catalogue.source.open(part) as file:
            header, _ = amanda_tapefile.take_header(file, f"tape {part.label} file {part.file}")
        return header.encrypt_program == os.fspath(amanda_layout.CRYPT["age"])

    def describe(self, position, early):
        """Return what the result says of the dump at *position*."""
        return amanda_find.describe(self._chain[position]) | {"checked": not early}


def _restore(plan, reader, scratch):
    """Fill ``scratch/tree``; return what to say of the dumps read, and the names not in them."""
    tree = scratch / "tree"
    tree.mkdir()
    dumps_read, missing, placements = [], list(plan.unstored), []
    for position, targets in enumerate(plan.targets):
        wanted = plan.wanted(position)
        if wanted is None:
            continue
        early = plan.single and reader.sealed(position)
        root = scratch / f"dump{position}" if wanted.top is None else tree
        root.mkdir(exist_ok=True)
        extracted = reader.read(position, root, wanted, early)
        dumps_read.append(reader.describe(position, early))
        missing += [targets[name] for name in extracted.missing]
        left_out = extracted.missing | set(extracted.links)
        if root != tree:
            placements += [(root, n, t, False) for n, t in targets.items() if n not in left_out]
        placements += _other_links(reader, position, extracted.links, targets, scratch, early)
    # Only now: the directories came with the last dump, and their times are kept from here on.
    with amanda_restored.Placer(tree) as placer:
        for placement in placements:
            placer.place(*placement)
    if plan.single and missing:
        raise AmandaError(
            f"{amanda_names.text(plan.name)} is listed in the dump but isn't in it: it was gone "
            "before it was read, or is a socket; try another moment"
        )
    return dumps_read, missing


def _other_links(reader, position, links, targets, scratch, early):
    """Read what the hard links in *links* link to, which isn't wanted itself; yield placements."""
    if not links:
        return
    root = scratch / f"links{position}"
    root.mkdir()
    wanted = amanda_extract.Wanted(set(links.values()))
    missing = reader.read(position, root, wanted, early).missing
    if missing:
        name = amanda_names.text(min(missing))
        raise AmandaError(f"the dump has a hard link to {name}, but not that file before it")
    for name, other in links.items():
        yield root, other, targets[name], True


def _publish(plan, scratch, base, destination):
    """Move what was restored to *destination*, its checksums beside it; return what there is."""
    out, checksums = scratch / "out", scratch / "sha256"
    out.mkdir(mode=0o700)
    with amanda_restored.Placer(out) as placer:
        if plan.name:
            placer.place(scratch / "tree", base if plan.single else plan.name, base)
        else:
            placer.place(scratch, b"tree", base)
    counts = amanda_restored.write_checksums(out, checksums, SAMPLE)
    amanda_destination.publish(out, checksums, destination)
    return counts


@contextlib.contextmanager
def _scratch(destination):
    """Give a directory beside *destination*, on the same file system, and remove it at the end."""
    try:
        with amanda_scratch.scratch(destination.parent, "partial") as scratch:
            yield scratch
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise AmandaError(
                f"nothing was restored: {destination} is full, or its owner has no room left "
                "there. Make room, or name another directory: destination=, with salt-run "
                "directory="
            ) from None
        raise AmandaError(f"nothing was restored to {destination}: {error}") from error


def _not_there(catalogue, host, path, dump):
    """Return the error for a path that isn't in the tree, naming the nearest dumps that have it."""
    told = f"{path} wasn't there in the dump of {host} {dump.disk}, {iso(dump.timestamp)}"
    try:
        versions = amanda_find.versions(catalogue, host, path)
    except ArgumentError as error:
        return ArgumentError(f"{told}; {error}")
    moment = iso(dump.timestamp)
    after = [each for each in versions if each["timestamp"] > moment and each["type"]][-2:]
    before = [each for each in versions if each["timestamp"] <= moment and each["type"]][:2]
    nearest = ", ".join(f"{each['timestamp']} (level {each['level']})" for each in after + before)
    return ArgumentError(f"{told}; the nearest dumps that store it: {nearest}")


def _some(names):
    return {"count": len(names), "sample": [amanda_names.text(n) for n in sorted(names)[:SAMPLE]]}
