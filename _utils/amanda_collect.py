"""From what the mine holds to the fleet: strangers' words in, checked plain data out.

What is wrong with one client, or with one directory of it, is a finding and stops no other. A
finding is plain data: ``{"id", "path" or None, "kind", "message"}``; the message is for the
administrator and names the remedy. What was collected before stays when its new form is refused.
"""

import dataclasses
import datetime
from collections import defaultdict
from collections.abc import Mapping

import amanda_conf
import amanda_disklist
import amanda_pins
import amanda_reading as reading
from amanda_dle import file_name, shown
from amanda_errors import AmandaError
from amanda_fleet import GAP, Client, Directory, Fleet, moment
from amanda_reading import Findings, Refused

CLIENTS_LIMIT = 5000
DIRECTORIES_LIMIT = 256
"""How many directories a client may have, the missing ones counted in."""

RETIRED_LIMIT = 256
"""How many directories of a client are remembered that are retired and gone."""

_FINDINGS_LIMIT = 20  # about the directories of one client


def collect(published_directories, published_keys, previous, settings, now=None):
    """Return ``(Fleet, findings)``: *previous* brought up to what the mine holds now.

    published_directories, published_keys
        ``{minion id: anything}``, as the mine returned it for ``amanda.directories`` and
        ``amanda.host_keys``.
    previous
        The :class:`~amanda_fleet.Fleet` collected before.
    settings
        The server's :class:`amanda_settings.Settings`.
    now
        The time, from which on what vanished is missing; by default the present.

    Kinds of findings: ``refused`` (a publication or directory that can't be used), ``claimed``
    (another client has this key or address), ``key-changed``, ``address-changed``, ``missing``,
    ``retired`` (but still published), ``returned``, ``incomplete`` (published one half only),
    ``limit``, ``mounts`` (can't be followed), ``config`` (dumped by none).

    The same input again gives an equal fleet.
    """
    for value in (published_directories, published_keys):
        if not isinstance(value, Mapping):
            raise AmandaError(f"the master answered {shown(value)} where the mine's data belongs")
    findings = Findings()
    ids = _ids({*published_directories, *published_keys}, previous, findings)
    now = moment(now)
    previous = _without_gaps(previous, ids.intersection(published_directories), now)
    keys = {each: published_keys[each] for each in ids if each in published_keys}
    pins = amanda_pins.decide(keys, previous, settings.server, findings)
    work = _Collection(previous, settings, now, findings, pins)
    clients = []
    for each in sorted({*ids, *(client.id for client in previous.clients)}):
        if each in ids and each in published_directories:
            client = work.present(each, published_directories[each])
        else:
            client = work.absent(each)
        if client is not None:
            clients.append(client)
            work.review(client)
    return Fleet(tuple(clients)), list(findings)


def _without_gaps(fleet, present, now):
    """Return *fleet* with what was retired of *present* clients as it was before a gap in the mine.

    A flush, or a new master, empties the mine: what was missing with its client, and not for
    long, was not gone, so it doesn't return either. What a minion published without is gone.
    """
    return Fleet(
        tuple(_without_gap(each, now) if each.id in present else each for each in fleet.clients)
    )


def _without_gap(client, now):
    since = client.missing
    if since is None or _seconds(now) - _seconds(since) >= GAP.total_seconds():
        return client
    directories = tuple(
        dataclasses.replace(each, missing=None)
        if each.retired is not None and each.missing is not None and each.missing >= since
        else each
        for each in client.directories
    )
    missing = since if client.retired is None else None
    return dataclasses.replace(client, directories=directories, missing=missing)


def _seconds(moment):
    return datetime.datetime.fromisoformat(moment).timestamp()


def _ids(published, previous, findings):
    """Return the ids whose publications count: well-formed, within bounds, no two alike."""
    known = {client.id for client in previous.clients}
    spellings = defaultdict(set)
    for each in known:
        spellings[each.lower()].add(each)
    good = []
    for each in sorted(published, key=lambda value: (value not in known, shown(value))):
        try:
            good.append(reading.minion_id(each))
            spellings[each.lower()].add(each)
        except Refused as error:
            findings.add("refused", each, f"{error}. Give the minion another id")
    accepted = []
    for each in good:
        others = spellings[each.lower()] - {each}
        if each not in known and others:
            findings.add(
                "refused",
                each,
                f"the minion id {each} differs only by case from {min(others)}, and Amanda takes "
                "them for one host: give one of the two another id",
            )
        else:
            accepted.append(each)
    free = CLIENTS_LIMIT - sum(client.retired is None for client in previous.clients)
    new = [each for each in accepted if each not in known]
    for each in new[max(free, 0) :][:1]:
        findings.add(
            "limit",
            each,
            f"there are more than {CLIENTS_LIMIT} clients: {each} and those after it are left out",
        )
    return {*(each for each in accepted if each in known), *new[: max(free, 0)]}


class _Collection:
    """One collection in progress."""

    def __init__(self, previous, settings, now, findings, pins):
        self.before = {client.id: client for client in previous.clients}
        self.settings = settings
        self.now = now
        self.findings = findings
        self.pins = pins

    def absent(self, minion_id):
        """Return the client *minion_id*, of which the mine has no directories; None if unknown."""
        client = self.before.get(minion_id)
        if client is None:
            self.findings.add(
                "incomplete",
                minion_id,
                f"{minion_id} publishes host keys, but no directories: apply the state backup "
                "there",
            )
            return None
        directories = tuple(self._missing(each) for each in client.directories)
        since = client.missing or self.now
        if client.retired is not None:
            return dataclasses.replace(client, directories=directories, missing=since)
        self.findings.add(
            "missing",
            minion_id,
            f"{minion_id} has published nothing since {since}. It stays in the disklist; if it "
            f"is gone for good: amanda.retire {minion_id}",
        )
        return self._updated(client, directories, client.published, since)

    def _missing(self, directory):
        return dataclasses.replace(directory, missing=directory.missing or self.now)

    def _updated(self, client, directories, published, missing):
        pin = self.pins[client.id]
        return dataclasses.replace(
            client,
            address=pin.address,
            port=pin.port,
            keys=pin.keys,
            published=max(published, pin.published),
            directories=directories,
            missing=missing,
            retired=None,
        )

    def present(self, minion_id, value):
        """Return the client *minion_id* with the directories that it published as *value*."""
        client = self.before.get(minion_id)
        if client is not None and client.retired is not None and client.missing is None:
            self._review_retired(client, value)
            return client
        pin = self.pins.get(minion_id)
        if pin is None:
            if client is None:
                self.findings.add(
                    "incomplete",
                    minion_id,
                    f"{minion_id} has no SSH host keys that count, so it is not backed up: apply "
                    "the state backup there",
                )
            return client
        try:
            names = ("version", "time", "directories")
            entry = reading.fields(value, names, optional=("server",))
            reading.version(entry["version"])
            published = reading.moment(entry["time"])
            wanted = self._read_directories(minion_id, entry["directories"])
        except Refused as error:
            self.findings.add("refused", minion_id, f"directories of {minion_id}: {error}")
            return client and self._updated(
                client, client.directories, client.published, client.missing
            )
        if client is None:
            client = Client(minion_id, pin.address, pin.port, pin.keys, published)
        elif client.retired is not None:
            self.findings.add(
                "returned", minion_id, f"{minion_id} was retired and publishes again: it is back"
            )
        directories = self._merge(client, wanted, published)
        return self._updated(client, directories, published, None)

    def _review_retired(self, client, value):
        """Report of a retired client that it is alive; nothing else that it says counts."""
        try:
            alive = reading.moment(value["time"]) > client.retired
        except (TypeError, KeyError, Refused):
            return
        if alive:
            self.findings.add(
                "retired",
                client.id,
                f"{client.id} was retired and still publishes: it is not backed up. Write "
                "directories: {} in its pillar backup and apply the state backup there; or, to "
                f"have it back: amanda.retire {client.id} undo=True",
            )

    def _read_directories(self, minion_id, value):
        """Return ``{path: Directory, or None where its new form was refused}``."""
        if not isinstance(value, Mapping):
            raise Refused(f"directories is a mapping of paths, not {shown(value)}")
        if len(value) > DIRECTORIES_LIMIT:
            raise Refused(f"{len(value)} directories are too many: {DIRECTORIES_LIMIT} at most")
        wanted, refused = {}, []
        for path, options in value.items():
            try:
                reading.published_path(minion_id, path)
                wanted[path] = None
                wanted[path] = self._read_directory(path, options)
            except Refused as error:
                refused.append((shown(path), str(error)))
        for path, problem in sorted(refused)[:_FINDINGS_LIMIT]:
            self.findings.add(
                "refused", minion_id, f"directory {path} of {minion_id}: {problem}", path
            )
        if len(refused) > _FINDINGS_LIMIT:
            more = len(refused) - _FINDINGS_LIMIT
            self.findings.add("refused", minion_id, f"{more} more directories of {minion_id}")
        return wanted

    def _read_directory(self, path, options):
        options = {} if options is None else options
        reading.fields(options, (), optional=("exclude", "mounts", "config"))
        mounts = options.get("mounts")
        if mounts is not None and mounts != "include":
            raise Refused(f"mounts is {shown(mounts)}: write include, or leave it out")
        config = options.get("config")
        config = next(iter(self.settings.configs)) if config is None else reading.config(config)
        if config not in self.settings.configs:
            known = ", ".join(self.settings.configs)
            raise Refused(f"the server has no config {config}: choose one of {known}")
        exclude = reading.exclude([] if options.get("exclude") is None else options["exclude"])
        return Directory(path, config, exclude, mounts == "include")

    def _merge(self, client, wanted, published):
        """Return the directories of *client* after it published *wanted*."""
        merged = {each.path: self._kept(client, each, wanted) for each in client.directories}
        names = {file_name(path): path for path in merged}
        for path in sorted(path for path, directory in wanted.items() if directory):
            old = client.directory(path)
            if old is not None:
                merged[path] = self._renewed(client, old, wanted[path], published)
            elif file_name(path) in names:
                self.findings.add(
                    "refused",
                    client.id,
                    f"directory {path} of {client.id}: Amanda can't tell it from "
                    f"{names[file_name(path)]}, since it writes _ for /. Back up the directory "
                    "above both, or rename one",
                    path,
                )
            elif sum(each.retired is None for each in merged.values()) >= DIRECTORIES_LIMIT:
                self.findings.add(
                    "limit",
                    client.id,
                    f"directory {path} of {client.id} and those after it: more than "
                    f"{DIRECTORIES_LIMIT} with the missing ones",
                    path,
                )
                break
            else:
                merged[path] = wanted[path]
                names[file_name(path)] = path
        gone = [each for each in merged.values() if each.retired and each.missing]
        for each in sorted(gone, key=lambda each: each.retired, reverse=True)[RETIRED_LIMIT:]:
            del merged[each.path]
        return tuple(merged[path] for path in sorted(merged))

    def _kept(self, client, old, wanted):
        if old.path in wanted:
            return old
        kept = self._missing(old)
        if old.retired is not None:
            return kept
        self.findings.add(
            "missing",
            client.id,
            f"{client.id} has not published its directory {old.path} since {kept.missing}. It "
            f"stays in the disklist; if it is no longer wanted: amanda.retire {client.id} "
            f"path={old.path}",
            old.path,
        )
        return kept

    def _renewed(self, client, old, new, published):
        if old.retired is not None and old.missing is None:
            if published > old.retired:
                self.findings.add(
                    "retired",
                    client.id,
                    f"directory {old.path} of {client.id} was retired and is still published: it "
                    "is not backed up. Take it out of that minion's pillar "
                    "(backup:directories), or use the state amanda.directory_absent there; or, to "
                    f"have it back: amanda.retire {client.id} {old.path} undo=True",
                    old.path,
                )
            return old
        if old.retired is not None and client.retired is None:
            self.findings.add(
                "returned",
                client.id,
                f"directory {old.path} of {client.id} was retired and is published again: it is "
                "back",
                old.path,
            )
        former = {*old.former, old.config} - {new.config}
        return dataclasses.replace(new, former=tuple(sorted(former)))

    def review(self, client):
        """Report of what is in the fleet what can't be dumped as it was asked."""
        dumptype = amanda_conf.DUMPTYPES[self.settings.encryption.method]
        for directory in client.directories:
            if directory.retired is not None:
                continue
            if directory.config not in self.settings.configs:
                self.findings.add(
                    "config",
                    client.id,
                    f"directory {directory.path} of {client.id} is dumped by no config: "
                    f"{directory.config} is gone from the pillar. Bring it back, or retire the "
                    "directory",
                    directory.path,
                )
            if directory.mounts and not amanda_disklist.follows_mounts(dumptype):
                self.findings.add(
                    "mounts",
                    client.id,
                    f"directory {directory.path} of {client.id} is dumped without what is "
                    f"mounted below it: {dumptype} can't follow mounts. Use encryption method "
                    "age, or publish the mounted directories on their own",
                    directory.path,
                )
