"""A drill: directories restored whole, as on the bad day, compared with all there is, and removed.

Restoring compares each dump's sizes and checksums with the catalogue. What came back is compared,
name by name, with the dumps' own lists and with Amanda's index; and of this host's directories,
byte by byte, with every file that hasn't changed since.
"""

import datetime
import json
import os
import shutil
import stat
import time
from pathlib import Path

import amanda_catalogue
import amanda_files
import amanda_find
import amanda_index
import amanda_names
import amanda_restore
import amanda_restored
import amanda_results
import amanda_scratch
from amanda_errors import AmandaError, ArgumentError
from amanda_layout import DRILLS
from amanda_tree import join

SAMPLE = 20
"""How many differences a result names of those that it counts."""

_ROOM = 64 << 20  # bytes that stay free where a drill restores
_CHUNK = 1 << 20


def choose(dumps, config, count=None, host=None, disk=None):
    """Return the DLEs to drill, pairs of host and disk: those first that weren't for longest.

    dumps
        What :func:`amanda_catalogue.read` gives.
    config
        The config's name.
    count
        How many; None is all.
    host, disk
        Only this host's, only this directory.

    Raises :class:`~amanda_errors.ArgumentError` if there is none.
    """
    last = {(row["host"], row["disk"]): row["at"] for row in read(config)["directories"]}
    found = {
        (dump.host, dump.disk)
        for dump in dumps
        if host in (None, dump.host) and disk in (None, dump.disk)
    }
    if not found:
        known = ", ".join(sorted({f"{dump.host} {dump.disk}" for dump in dumps})) or "none"
        raise ArgumentError(
            f"there is no dump of {host or 'any host'} {disk or ''} to try; there are dumps of: "
            f"{known}"
        )
    return sorted(found, key=lambda name: (last.get(name, ""), name))[:count]


def drill(catalogue, names, directory, own=None, progress=None):
    """Restore the last state of some DLEs, compare each, remove it; return what was found, a dict.

    catalogue
        The :class:`amanda_sources.Catalogue`.
    names
        What :func:`choose` returned.
    directory
        One of root's, for what is restored meanwhile.
    own
        The host that is this machine: its live files are compared.
    progress
        As for :func:`amanda_restore.recover`.

    ``config``, ``at`` (ISO 8601), ``success``, ``message``, ``seconds``, and ``directories``, for
    each its ``host``, ``disk``, ``as_of``, ``success``, ``message``, ``files``, ``bytes``,
    ``seconds``; ``different``, names that aren't as they should be, and why; ``live``: how many
    files were ``compared`` with those on the host, and how many have ``changed`` since, None if it
    is another host's. What is at fault with one keeps no other from being tried.
    """
    at = amanda_results.now()
    entries = [_try(catalogue, *name, directory, name[0] == own, progress) for name in names]
    failed = [entry for entry in entries if not entry["success"]]
    message = f"{len(entries) - len(failed)} of {len(entries)} directories came back as dumped"
    told = [f"{entry['host']} {entry['disk']}: {entry['message']}" for entry in failed]
    return {
        "config": catalogue.config,
        "at": at,
        "success": bool(entries) and not failed,
        "message": ". ".join([message, *told]),
        "seconds": round(sum(entry["seconds"] for entry in entries), 3),
        "directories": entries,
    }


def failure(config, error):
    """Record a drill that could not even begin, and return it as :func:`drill` does."""
    result = {
        "config": config,
        "at": amanda_results.now(),
        "success": False,
        "message": str(error),
        "seconds": 0.0,
        "directories": [],
    }
    record(result)
    return result


def _try(catalogue, host, disk, directory, own, progress):
    """Return the entry of one DLE."""
    began = time.monotonic()
    entry = {"host": host, "disk": disk, "as_of": None, "files": 0, "bytes": 0, "live": None}
    try:
        different = _compare(catalogue, host, disk, directory, own, progress, entry)
        message = f"{entry['files']} files are as they were dumped"
        if different:
            message = f"{len(different)} names differ, one of them: {different[0]}"
    except (AmandaError, OSError) as error:
        different, message = None, str(error)
    return {
        **entry,
        "success": different == [],
        "message": message,
        "different": (different or [])[:SAMPLE],
        "seconds": round(time.monotonic() - began, 3),
    }


def _compare(catalogue, host, disk, directory, own, progress, entry):
    """Restore and compare; fill *entry* and return what differs, in words."""
    dumps = [dump for dump in catalogue.dumps if (dump.host, dump.disk) == (host, disk)]
    chain = amanda_catalogue.chain(dumps, host, disk)
    entry["as_of"] = amanda_find.iso(chain[-1].timestamp)
    _check_room(chain, directory)
    path = amanda_names.text(os.fsencode(disk))
    with amanda_scratch.scratch(directory, "drill") as scratch:
        restored = amanda_restore.recover(
            dumps,
            catalogue.source,
            host,
            path,
            str(scratch / "restored"),
            user=catalogue.user,
            progress=progress,
            identity=catalogue.identity,
        )
        entry.update(files=restored["files"], bytes=restored["bytes"])
        root = os.fsdecode(amanda_names.raw(restored["restored"]))
        reading = (catalogue.source, catalogue.user, catalogue.identity)
        tree = amanda_find.read_tree(chain, *reading)
        different = _against_index(catalogue.index, chain, tree, root)
        if own:
            entry["live"], unlike = _against_live(root, disk, chain[-1].timestamp)
            different += unlike
    return different


def _check_room(chain, directory):
    """Raise unless there is room in *directory* for all that the dumps of *chain* hold."""
    needed = sum(dump.native.size for dump in chain if dump.native) + _ROOM
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise AmandaError(
            f"a drill of it may need {needed} bytes in {directory}, where {free} are free: name a "
            "directory with more room (directory=)"
        )


def _against_index(index, chain, tree, root):
    """Compare what was restored with the dumps' lists and their index; return what differs.

    A file in a directory that was renamed since stands in the index under its name of then. One
    index is held in memory at a time.
    """
    directories, others, different = set(), set(), {}
    for name, status in amanda_restored.walk(root):
        (directories if stat.S_ISDIR(status.st_mode) else others).add(name)
    unexpected = set(others)
    for position, dump in enumerate(chain):
        listed = _indexed(index, dump)
        for name, then in _stored_by(tree, position):
            unexpected.discard(name)
            if name in others and then not in listed:
                different[name] = "the index of the dump that it came from lacks it"
            elif name not in others and then in listed:
                different[name] = "the index has it, but it didn't come back"
    last = {name.removesuffix(b"/") for name in listed if name.endswith(b"/")}
    for name in listed - others:
        if not name.endswith(b"/") and name:
            different[name] = "the index has it, but it didn't come back"
    for name in directories - (last & tree.directories.keys()):
        different[name] = "it is no directory of the dump's"
    for name in (last | tree.directories.keys()) - directories - {b""}:
        different[name] = "the dump has this directory, but it didn't come back"
    for name in unexpected:
        different[name] = "it wasn't there when it was dumped"
    return [_differs(name, different[name]) for name in sorted(different)]


def _stored_by(tree, position):
    """Yield the name of each file that the dump at *position* stores, now and in that dump."""
    for directory, entries in tree.below(b""):
        for base, stored in entries.items():
            if stored.dump == position:
                yield join(directory, base), join(stored.directory, base)


def _indexed(index, dump):
    """Return the set of all names in a dump's index, below its top."""
    file = amanda_index.path(index, dump)
    if file is None:
        raise AmandaError(
            f"the index of the level {dump.level} dump of {dump.host} {dump.disk}, "
            f"{amanda_find.iso(dump.timestamp)}, is missing"
        )
    return {name.removeprefix(b"/") for name in amanda_index.names(file, Path(index).parent)}


def _differs(name, why):
    return f"{amanda_names.text(name)}: {why}"


def _against_live(root, disk, timestamp):
    """Compare restored files with those of this host that haven't changed since the dump.

    Returns how many there were, and what differs.
    """
    since = datetime.datetime.strptime(timestamp, "%Y%m%d%H%M%S").timestamp()
    counts, different = {"compared": 0, "changed": 0}, []
    for name, status in amanda_restored.walk(root):
        if not stat.S_ISREG(status.st_mode):
            continue
        same = _same(os.path.join(os.fsencode(root), name), os.fsencode(disk) + b"/" + name, since)
        counts["changed" if same is None else "compared"] += 1
        if same is False:
            different.append(_differs(name, "it isn't what the host has, unchanged since"))
    return counts, different


def _same(restored, live, since):
    """Tell whether two files are the same; None if the live one has changed or gone meanwhile.

    No attribute can change, nor any content, without the time of change that the kernel keeps.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with open(os.open(live, flags), "rb", buffering=0) as now:
            before = os.fstat(now.fileno())
            if not stat.S_ISREG(before.st_mode) or before.st_ctime >= since:
                return None
            with open(restored, "rb", buffering=0) as then:
                same = _alike(os.fstat(then.fileno()), before) and _same_content(then, now)
            return same if os.fstat(now.fileno()).st_ctime == before.st_ctime else None
    except OSError:
        return None


def _alike(restored, live):
    """Tell whether all that tar keeps is the same; GNUTAR's format keeps whole seconds alone."""
    times = {live.st_mtime_ns, live.st_mtime_ns // 10**9 * 10**9}
    return restored.st_mtime_ns in times and all(
        getattr(restored, field) == getattr(live, field)
        for field in ("st_mode", "st_uid", "st_gid", "st_size")
    )


def _same_content(one, other):
    while (piece := one.read(_CHUNK)) == other.read(_CHUNK):
        if not piece:
            return True
    return False


def read(config):
    """Return the record of a config's drills.

    ``passed``, when one last passed (ISO 8601) or None; ``last``, what the last one gave, or None;
    ``directories``, a list of ``host``, ``disk``, ``at`` and ``success`` of each one's last. Raises
    :class:`~amanda_errors.AmandaError` if it is damaged.
    """
    path = DRILLS / f"{config}.json"
    try:
        found = json.loads(path.read_bytes())
        for row in found["directories"]:
            if not all(isinstance(row[key], str) for key in ("host", "disk", "at")):
                raise ValueError(row)
        return {key: found[key] for key in ("passed", "last", "directories")}
    except FileNotFoundError:
        return {"passed": None, "last": None, "directories": []}
    except (ValueError, KeyError, TypeError) as error:
        raise AmandaError(f"{path} is damaged: remove it; it only tells of past drills") from error


def summary(config):
    """Return ``passed`` and ``last`` of :func:`read`; if that is damaged, ``problem``."""
    try:
        found = read(config)
        return {"passed": found["passed"], "last": found["last"]}
    except AmandaError as error:
        return {"problem": str(error)}


def record(result, dumps=None):
    """Add what :func:`drill` gave to the config's record.

    dumps
        What :func:`amanda_catalogue.read` gives: a directory of which it has none is forgotten.
        None: it can't be read.
    """
    config = result["config"]
    before = read(config)
    rows = {(row["host"], row["disk"]): row for row in before["directories"]}
    for entry in result["directories"]:
        rows[entry["host"], entry["disk"]] = {
            "host": entry["host"],
            "disk": entry["disk"],
            "at": result["at"],
            "success": entry["success"],
        }
    known = rows if dumps is None else {(dump.host, dump.disk) for dump in dumps}
    content = {
        "passed": result["at"] if result["success"] else before["passed"],
        "last": {key: result[key] for key in ("at", "success", "message")},
        "directories": [rows[name] for name in sorted(rows) if name in known],
    }
    DRILLS.mkdir(mode=0o700, exist_ok=True)
    text = json.dumps(content, indent=1) + "\n"
    amanda_files.write(DRILLS / f"{config}.json", text.encode(), mode=0o600)
