"""A drill: directories restored whole, as on the bad day, compared with all there is, and removed.

Restoring compares each dump's sizes and checksums with the catalogue. What came back is compared,
name by name, with the dumps' own lists and with Amanda's index; and of this host's directories,
byte by byte, with every file that hasn't changed since.
"""

import dataclasses
import datetime
import json
import os
import shutil
import stat
import time
from pathlib import Path

import amanda_chain
import amanda_files
import amanda_find
import amanda_index
import amanda_live
import amanda_names
import amanda_restore
import amanda_restored
import amanda_results
import amanda_scratch
from amanda_errors import AmandaError, ArgumentError
from amanda_layout import DRILLS
from amanda_log import iso
from amanda_tree import join

SAMPLE = 20
"""How many differences a result names of those that it counts."""

_ROOM = 64 << 20  # bytes that stay free where a drill restores
_LIVE = ("compared", "changed")
_CLOCKS = 60  # seconds by which the clocks of server and client may differ


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
    is another host's; ``delivered_to``: to which minion it was delivered and compared there, or
    None. What is at fault with one keeps no other from being tried.
    """
    at = amanda_results.now()
    entries = [_try(catalogue, *name, directory, name[0] == own, progress) for name in names]
    return result(catalogue.config, at, entries)


def result(config, at, entries):
    """Return what :func:`drill` does.

    at
        When it began, ISO 8601.
    entries
        What :func:`attempt` gave, or :func:`delivered`.
    """
    failed = [entry for entry in entries if not entry["success"]]
    message = f"{len(entries) - len(failed)} of {len(entries)} directories came back as dumped"
    told = [f"{entry['host']} {entry['disk']}: {entry['message']}" for entry in failed]
    on = ", ".join(sorted({entry["delivered_to"] for entry in entries if entry["delivered_to"]}))
    if on:
        message += f"; they were delivered to {on}"
    if any(entry["delivered_to"] and entry["live"] for entry in entries):
        message += ", which compared them with what it has"
    return {
        "config": config,
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
        "message": _told(str(error)),
        "seconds": 0.0,
        "directories": [],
    }
    record(result)
    return result


def _try(catalogue, host, disk, directory, own, progress):
    """Return the entry of one DLE; what was restored is removed."""
    try:
        with amanda_scratch.scratch(directory, "drill") as scratch:
            where = scratch / "restored"
            return attempt(catalogue, host, disk, where, own=own, progress=progress)[0]
    except OSError as error:
        return _Entry(host, disk).failed(error)


def attempt(catalogue, host, disk, destination, own=False, progress=None):
    """Restore the last state of one DLE and compare it; return its entry and what to deliver.

    host, disk
        The DLE, as :func:`choose` gives it.
    destination
        A path as :func:`amanda_restore.recover` takes it; what was restored stays there.
    own
        This machine is the host.

    What to deliver: ``base``, the tree's name in *destination*, ``disk`` and ``since``, as
    :mod:`amanda_receiving` takes them; None if it isn't as it should be.
    """
    entry = _Entry(host, disk)
    try:
        return _compare(catalogue, host, disk, destination, own, progress, entry)
    except (AmandaError, OSError) as error:
        return entry.failed(error), None


class _Entry:
    """What is told of one DLE."""

    def __init__(self, host, disk):
        self._began = time.monotonic()
        self.told = {"host": host, "disk": disk, "as_of": None, "files": 0, "bytes": 0}
        self.told |= {"live": None, "delivered_to": None}

    def failed(self, error):
        """Return the entry of one that could not even be compared."""
        return self._done(False, str(error), [])

    def compared(self, different):
        """Return the entry, *different* being what differs, in words."""
        message = f"{self.told['files']} files are as they were dumped"
        message = _differing(different, len(different)) or message
        return self._done(not different, message, different)

    def _done(self, success, message, different):
        seconds = round(time.monotonic() - self._began, 3)
        told = {"success": success, "message": message, "different": different[:SAMPLE]}
        return {**self.told, **told, "seconds": seconds}


def _differing(different, count):
    return different and f"{count} names differ, one of them: {different[0]}"


def missed(host, disk, problem):
    """Return the entry of a DLE that could not be tried, *problem* being why."""
    return _Entry(host, disk).failed(problem)


def delivered(entry, minion, answer, seconds):
    """Return the entry of a DLE that a minion was sent to compare with what it has.

    answer
        What the minion says, :func:`amanda_door.accept`, or a text: why it could not be delivered.
    seconds
        How long that took.

    The minion judges by itself, and the entry says so: ``delivered_to``.
    """
    entry = {
        **entry,
        "delivered_to": minion,
        "seconds": round(entry["seconds"] + float(seconds), 3),
    }
    if isinstance(answer, str):
        return {**entry, "success": False, "message": _told(answer)}
    try:
        live = answer["live"] and {name: int(answer["live"][name]) for name in _LIVE}
        count = int(answer["count"])
        different = [_told(str(name)) for name in answer["different"][:SAMPLE]]
        if bool(count) != bool(different):
            raise ValueError(f"{count} differ")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        told = _told(f"{minion} gave no answer that can be read: {error}")
        return {**entry, "success": False, "message": told}
    message = _differing(different, count) or entry["message"]
    told = {"live": live, "success": not count, "message": message, "different": different}
    return {**entry, **told}


def _told(text):
    """Return what a minion said, who may be anybody: bounded, and fit for a terminal."""
    told = text[: amanda_results.TEXT]
    return "".join(each if each.isprintable() else "?" for each in told)


def _compare(catalogue, host, disk, destination, own, progress, entry):
    """Restore and compare; return what :func:`attempt` does, and fill *entry* on the way."""
    dumps = [dump for dump in catalogue.dumps if (dump.host, dump.disk) == (host, disk)]
    chain = amanda_chain.chain(dumps, host, disk)
    entry.told["as_of"] = iso(chain[-1].timestamp)
    _check_room(chain, destination.parent)
    path = amanda_names.text(os.fsencode(disk))
    catalogue = dataclasses.replace(catalogue, dumps=dumps)  # not a directory below, dumped later
    restored = amanda_restore.recover(catalogue, host, path, str(destination), progress=progress)
    entry.told.update(files=restored["files"], bytes=restored["bytes"])
    root = os.fsdecode(amanda_names.raw(restored["restored"]))
    tree = amanda_find.read_tree(catalogue, chain)
    different = _against_index(catalogue.index, chain, tree, root)
    began = datetime.datetime.strptime(chain[-1].timestamp, "%Y%m%d%H%M%S").timestamp()
    if own:
        entry.told["live"], unlike = amanda_live.compare(root, os.fsencode(disk), began)
        different += unlike
    base = amanda_names.text(os.path.basename(os.fsencode(root)))
    parcel = {"base": base, "disk": path, "since": began - _CLOCKS}
    return entry.compared(different), None if different else parcel


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
            f"{iso(dump.timestamp)}, is missing"
        )
    return {name.removeprefix(b"/") for name in amanda_index.names(file, Path(index).parent)}


def _differs(name, why):
    return f"{amanda_names.text(name)}: {why}"


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
            "delivered_to": entry.get("delivered_to"),
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
