"""The fleet: which directories of which clients are backed up, where they are and their keys.

It is plain data, collected from the mine by :mod:`amanda_collect`, kept in a file of root's, and
rendered by :mod:`amanda_disklist`. Nothing leaves it but by :func:`retire`.
"""

import contextlib
import dataclasses
import datetime
import json
from collections.abc import Mapping
from pathlib import Path

import amanda_files
import amanda_reading as reading
from amanda_dle import shown
from amanda_errors import AmandaError, ArgumentError
from amanda_reading import Refused

VERSION = 1

GAP = datetime.timedelta(days=1)
"""For how long the mine may lack what is still there: until clients, hourly, have filled it."""


@dataclasses.dataclass(frozen=True, order=True)
class Directory:
    """A directory of a client: one Amanda DLE.

    config
        The only config that dumps it: Amanda keys its incremental state by host and disk.
    exclude
        Patterns, as the user wrote them; they are tar's, relative to the directory.
    mounts
        Whether file systems mounted below it are dumped with it.
    former
        Configs that dumped it once, and still hold dumps of it.
    missing
        Since when its client has not published it, ISO 8601; None while it does.
    retired
        Since when it is no longer dumped; None while it is. What is retired and gone is back when
        it is published again.
    """

    path: str
    config: str
    exclude: tuple = ()
    mounts: bool = False
    former: tuple = ()
    missing: str = None
    retired: str = None


@dataclasses.dataclass(frozen=True, order=True)
class Client:
    """A client: a minion that published its directories and its host keys.

    address, port
        Where its SSH server listens; None once it is retired.
    keys
        Its SSH host keys, the only ones it may show.
    published
        When it published its directories, ISO 8601, by its own clock.
    missing
        Since when the mine has no directories of it; None while it has.
    retired
        Since when it is no longer backed up; None while it is.
    """

    id: str
    address: str
    port: int
    keys: tuple
    published: str
    directories: tuple = ()
    missing: str = None
    retired: str = None

    def directory(self, path):
        """Return the :class:`Directory` *path*, or None."""
        return next((each for each in self.directories if each.path == path), None)


@dataclasses.dataclass(frozen=True)
class Fleet:
    """All clients, sorted by id, each with its directories, sorted by path."""

    clients: tuple = ()

    def client(self, minion_id):
        """Return the :class:`Client` *minion_id*, or None."""
        return next((each for each in self.clients if each.id == minion_id), None)


def moment(now=None):
    """Return *now*, by default the present, as ISO 8601 in UTC."""
    now = now or datetime.datetime.now(datetime.timezone.utc)
    return now.astimezone(datetime.timezone.utc).isoformat(timespec="seconds")


def published_directories(own, pillar, now=None, server=None):
    """Return what a client publishes of its directories.

    own
        ``{path: options}`` that states added; they win.
    pillar
        ``{path: options}`` of the pillar.
    now
        The time; by default the present.
    server
        The minion id of the server that may read it: who gets another publishes anew.
    """
    merged = {**pillar, **own}
    directories = {path: dict(merged[path] or {}) for path in sorted(merged)}
    return {
        "version": VERSION,
        "time": moment(now),
        "server": server,
        "directories": directories,
    }


def published_host_keys(keys, address, port, now=None, server=None):
    """Return what a client publishes of its SSH server.

    keys
        As :func:`amanda_ssh.read_host_keys` gives them.
    address, port
        Where the server finds it.
    now, server
        As for :func:`published_directories`.
    """
    return {
        "version": VERSION,
        "time": moment(now),
        "server": server,
        "address": address,
        "port": port,
        "keys": list(keys),
    }


def to_json(fleet):
    """Return *fleet* as plain data that JSON can hold; :func:`from_json` reads it back."""
    clients = {}
    for client in fleet.clients:
        entry = dataclasses.asdict(client)
        entry["keys"] = list(client.keys)
        entry["directories"] = {each.path: _plain(each) for each in client.directories}
        clients[entry.pop("id")] = entry
    return {"version": VERSION, "clients": clients}


def _plain(directory):
    entry = dataclasses.asdict(directory)
    del entry["path"]
    return {**entry, "exclude": list(directory.exclude), "former": list(directory.former)}


def from_json(data, origin="the stored fleet"):
    """Return the :class:`Fleet` in *data*, every value checked as if a stranger had sent it.

    origin
        What to call it in an error: the name of its file.

    Raises :class:`~amanda_errors.AmandaError` naming *origin* and the remedy.
    """
    try:
        entries = reading.fields(data, ("version", "clients"))
        reading.version(entries["version"])
        clients = tuple(
            _client(minion_id, entry) for minion_id, entry in sorted(_mapping(entries["clients"]))
        )
        _check_unique(clients)
    except Refused as error:
        raise _damaged(origin, error) from error
    return Fleet(clients)


def _damaged(origin, error):
    return AmandaError(
        f"{origin} is damaged ({error}): bring it back from the mirror, or move it away and run "
        "amanda.collect, which then knows only what the mine has now: what vanished from it, or "
        "was retired, is forgotten"
    )


def _mapping(value):
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise Refused(f"a mapping is needed, not {shown(value)}")
    return value.items()


def _client(minion_id, data):
    names = [field.name for field in dataclasses.fields(Client)]
    entry = reading.fields(data, names[1:])
    retired = reading.optional_moment(entry["retired"])
    if retired is None:
        address = reading.address(entry["address"], loopback=True)
        port = reading.port(entry["port"])
        keys = reading.keys(entry["keys"])
    else:
        address, port, keys = None, None, ()  # they are free for others
    return Client(
        id=reading.minion_id(minion_id),
        address=address,
        port=port,
        keys=keys,
        published=reading.moment(entry["published"]),
        directories=tuple(
            _directory(minion_id, path, each)
            for path, each in sorted(_mapping(entry["directories"]))
        ),
        missing=reading.optional_moment(entry["missing"]),
        retired=retired,
    )


def _directory(minion_id, path, data):
    names = [field.name for field in dataclasses.fields(Directory)]
    entry = reading.fields(data, names[1:])
    if not isinstance(entry["mounts"], bool) or not isinstance(entry["former"], list):
        raise Refused(f"{shown(path)}: mounts or former is of no known form")
    return Directory(
        path=reading.path(minion_id, path),
        config=reading.config(entry["config"]),
        exclude=reading.exclude(entry["exclude"]),
        mounts=entry["mounts"],
        former=tuple(reading.config(each) for each in entry["former"]),
        missing=reading.optional_moment(entry["missing"]),
        retired=reading.optional_moment(entry["retired"]),
    )


def _check_unique(clients):
    seen = set()
    for client in clients:
        claims = [client.id.lower(), *client.keys, *([client.address] if client.address else [])]
        twice = seen.intersection(claims)
        if twice:
            raise Refused(f"{client.id} has what another client has: {shown(min(twice))}")
        seen.update(claims)


def load(path):
    """Return the :class:`Fleet` stored at *path*, an empty one if nothing was stored yet.

    Raises :class:`~amanda_errors.AmandaError` naming a damaged file and the remedy.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return Fleet()
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    return from_json(data, origin=str(path))


@contextlib.contextmanager
def alone(path):
    """Let nobody else load, change and save the fleet at *path* during this block.

    Raises :class:`~amanda_errors.AmandaError` if its directory isn't there yet.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(amanda_files.alone(f"{path}.lock"))
        except FileNotFoundError:
            raise AmandaError(
                f"{Path(path).parent} is missing: apply the state backup on this server first"
            ) from None
        yield


def save(fleet, path):
    """Store *fleet* at *path*, atomically and for root alone."""
    text = json.dumps(to_json(fleet), indent=1, sort_keys=True) + "\n"
    amanda_files.write(path, text.encode(), mode=0o600)


def retire(fleet, minion_id, path=None, now=None):
    """Return *fleet* with a client, or with one directory of it, no longer backed up.

    Its last state stays on tape, see :mod:`amanda_retention`. A retired client's address and
    keys are free for another. Once gone from the mine, what is published again is back.

    path
        The directory; by default the client and all of its directories.

    Raises :class:`~amanda_errors.ArgumentError` naming what there is.
    """
    client = _known(fleet, minion_id, path)
    # What a client whose clock is fast published before must not pass for news.
    since = max(moment(now), client.published)
    directories = tuple(
        dataclasses.replace(each, retired=each.retired or since)
        if path is None or each.path == path
        else each
        for each in client.directories
    )
    changed = dataclasses.replace(client, directories=directories)
    if path is None:
        changed = dataclasses.replace(
            changed, address=None, port=None, keys=(), retired=client.retired or since
        )
    return Fleet(tuple(changed if each is client else each for each in fleet.clients))


def unretire(fleet, minion_id, path=None, now=None):
    """Return *fleet* with what :func:`retire` took out as if it had been gone for long.

    So the next collection brings it back, if it is published. A directory that was retired before
    its client was stays so.

    Raises :class:`~amanda_errors.ArgumentError` if it is not retired.
    """
    client = _known(fleet, minion_id, path)
    if path is not None and client.retired is not None:
        raise ArgumentError(
            f"{client.id} is retired as a whole: amanda.retire {client.id} undo=True"
        )
    if (client if path is None else client.directory(path)).retired is None:
        what = client.id if path is None else f"{path} of {client.id}"
        raise ArgumentError(f"{what} is not retired")
    gone = {"missing": moment((now or datetime.datetime.now(datetime.timezone.utc)) - GAP)}
    directories = tuple(
        dataclasses.replace(each, **gone)
        if (each.retired == client.retired if path is None else each.path == path)
        else each
        for each in client.directories
    )
    changed = dataclasses.replace(client, directories=directories)
    if path is None:
        changed = dataclasses.replace(changed, **gone)
    return Fleet(tuple(changed if each is client else each for each in fleet.clients))


def _known(fleet, minion_id, path):
    """Return the client; raise :class:`ArgumentError` if it, or its directory, isn't known."""
    client = fleet.client(minion_id)
    if client is None:
        known = ", ".join(each.id for each in fleet.clients[:20]) or "none"
        raise ArgumentError(f"no client {shown(minion_id)} was ever collected. Clients: {known}")
    if path is not None and client.directory(path) is None:
        known = ", ".join(each.path for each in client.directories[:20]) or "none"
        raise ArgumentError(f"{client.id} has no directory {shown(path)}. Directories: {known}")
    return client


def diff(old, new):
    """Return what differs between two fleets: ``{id: {what: {"old": …, "new": …}}}``.

    *what* is ``client`` for one that appears, the name of a field, or a directory's path. The
    times of publication don't count.
    """
    changes = {}
    before = {client.id: client for client in old.clients}
    after = {client.id: client for client in new.clients}
    for minion_id in sorted({*before, *after}):
        change = _diff_client(before.get(minion_id), after.get(minion_id))
        if change:
            changes[minion_id] = change
    return changes


def _diff_client(old, new):
    change = {}
    if old is None or new is None:
        change["client"] = {"old": _summary(old), "new": _summary(new)}
    else:
        before, after = _summary(old), _summary(new)
        for name in before:
            if before[name] != after[name]:
                change[name] = {"old": before[name], "new": after[name]}
    before = {each.path: _plain(each) for each in old.directories} if old else {}
    after = {each.path: _plain(each) for each in new.directories} if new else {}
    for path in sorted({*before, *after}):
        if before.get(path) != after.get(path):
            change[path] = {"old": before.get(path), "new": after.get(path)}
    return change


def _summary(client):
    if client is None:
        return None
    return {
        "address": client.address,
        "port": client.port,
        "keys": list(client.keys),
        "missing": client.missing,
        "retired": client.retired,
    }
