"""How the backups of this server stand: what it publishes, for the master to audit.

It is bounded, whatever a fleet's size, and what can't be found out is told in words: the audit has
nothing else to go by.
"""

import datetime
import json
import os

import amanda_catalogue
import amanda_chain
import amanda_drill
import amanda_due
import amanda_encryption
import amanda_fleet
import amanda_holding
import amanda_layout
import amanda_mirrored
import amanda_results
import amanda_verified
from amanda_errors import AmandaError

VERSION = 3

ENTRIES = 5000
"""How many directories a summary tells of, those with a problem first."""

SIZE = 600_000
"""How many bytes its directories may take: Salt's bus carries 1 MiB (``max_event_size``)."""

UNVERIFIED = datetime.timedelta(days=2)
"""A dump that is older than this is verified: each run verifies what it wrote."""

_NAMES = 20
_REFUSED = 100
_REFUSALS = ("refused", "claimed", "incomplete", "limit", "config", "mounts")  # amanda_collect
_TEXT = 200  # characters of a reason
_RUNS = 14  # by which the growth is estimated
_MIRRORING = ("backup_and_mirror", "mirror")


def summary(settings, user, fault=None):
    """Return the summary of this server, a bounded dict.

    settings
        The server's :class:`amanda_settings.Settings`.
    user
        The dump user.
    fault
        What is wrong with the pillar, or None.

    ``version``, ``time`` (ISO 8601, as all times), ``pillar`` (*fault*) and, by name in
    ``configs``, what :func:`_config` gives, or a ``problem``.
    """
    configs = {}
    for name in settings.configs:
        try:
            configs[name] = _config(settings, name, user, SIZE // len(settings.configs))
        except (AmandaError, OSError) as error:
            configs[name] = {"problem": str(error)}
    content = {"version": VERSION, "time": amanda_results.now(), "pillar": fault}
    return amanda_results.bounded({**content, "configs": configs}, ENTRIES)


def _config(settings, name, user, size):
    """Return how one config stands.

    ``backup``: the last one that ended, ``success`` and ``message`` of each of its steps, None if
    there was none; ``refused``: minion, path and message of what its collection did not take;
    ``drill``: when one ``passed`` and what the ``last`` one gave; ``promise`` in seconds, None
    where nothing is promised; ``sealed``: ``offsite``, how many offsite keys, and ``others``, what
    one of them does not open; ``mirror``: when it was ``made`` and how the last try went, None
    where none is asked for; ``holding``: how many dumps wait there; ``bad``: what can't be
    restored; ``unverified``: what a restore needs and nobody looked at; ``space``, see
    :func:`_space`; and ``dles``, see :func:`_dles`: as many as *size* bytes hold,
    ``dles_omitted`` says how many more there are.
    """
    config, places = settings.config(name), amanda_layout.places(name, settings.paths)
    last = amanda_results.last(name, amanda_results.BACKUPS)
    dumps, record = amanda_catalogue.read(places), amanda_verified.read(name)
    directories = _directories(name)
    chains = _chains(directories, dumps, record)
    rows = _dles(directories, chains, _failed(last))
    shown = _fitting(rows[:ENTRIES], size)
    live = {dle for dle, (_, directory) in directories.items() if directory.retired is None}
    others = [dle for dle in amanda_encryption.sealed_to_others(dumps) if dle in live]
    return {
        "backup": last and _brief(last),
        "refused": _refused(last),
        "drill": amanda_drill.summary(name),
        "promise": _promise(config),
        "sealed": {
            "method": settings.encryption.method,
            "offsite": len(settings.encryption.recipients),
            "others": _counted([" ".join(dle) for dle in others]),
        },
        "mirror": _mirror(settings, name),
        "holding": len(amanda_holding.images(places, user)),
        "bad": _counted([_name(dump) for dump in dumps if record.failed(dump)]),
        "unverified": _counted(_unverified({dle: chains[dle] for dle in live}, record)),
        "space": _space(places, dumps, config),
        "dles": shown,
        "dles_omitted": len(rows) - len(shown),
    }


def _counted(names):
    return {"count": len(names), "names": names[:_NAMES]}


def _name(dump):
    return f"{dump.host} {dump.disk} of {utc(dump.timestamp)}"


def _fitting(rows, size):
    """Return the first of *rows* that take no more than *size* bytes; as JSON, which is longer."""
    for number, row in enumerate(rows):
        size -= len(json.dumps(row))
        if size < 0:
            return rows[:number]
    return rows


def _refused(last):
    """Return what the collection before the last backup refused: minion, path, message."""
    return [
        [each["id"], each["path"], str(each["message"])[:_TEXT]]
        for step in (last["steps"] if last else ())
        if step["step"] == "collect"
        for each in step.get("findings", ())
        if each["kind"] in _REFUSALS
    ][:_REFUSED]


def _brief(result):
    known = ("id", "action", "state", "started", "finished", "success", "steps")
    return {key: amanda_results.brief(result).get(key) for key in known}


def utc(timestamp):
    """Return a timestamp of Amanda's (14 digits, local time) in ISO 8601, UTC."""
    local = datetime.datetime.strptime(timestamp, "%Y%m%d%H%M%S")
    zoned = local.replace(tzinfo=amanda_due.local_zone())
    return zoned.astimezone(datetime.timezone.utc).isoformat(timespec="seconds")


def _promise(config):
    """Return what is promised, in seconds; what the pillar leaves open follows from ``cron``."""
    day, usual = 86400, None
    if config.cron:
        usual = 2 * _between(config)
    promise = config.promise
    return {
        "backup": promise.backup * day if promise.backup else usual,
        "mirror": promise.mirror * day if promise.mirror else usual,
        "drill": promise.drill * day,
        "space": promise.space * day,
    }


def _between(config):
    """Return the longest time between two of the config's runs, in seconds."""
    now = datetime.datetime.now(amanda_due.local_zone())
    return int(amanda_due.interval(config.cron, now).total_seconds())


def _mirror(settings, name):
    if settings.mirror is None:
        return None
    made = max(amanda_mirrored.read(settings.mirror, name).made or (), default=None)
    when = made and datetime.datetime.strptime(made, "%Y%m%dT%H%M%SZ")
    last = amanda_results.last(name, _MIRRORING)
    steps = [step for step in last["steps"] if step["step"] == "mirror"] if last else []
    return {
        "made": when and when.replace(tzinfo=datetime.timezone.utc).isoformat(timespec="seconds"),
        "success": steps[-1]["success"] if steps else None,
        "message": steps[-1]["message"] if steps else None,
    }


def _space(places, dumps, config):
    """Return ``free`` bytes on the disk of the tapes, and for how many ``seconds`` they suffice.

    A disk of virtual tapes grows until each has been written; from then on what is written takes
    the place of what was. None: for good, if the runs stay as large as they are, or not known.
    """
    free = _free(places.tapes)
    blank = sum(tape.written == "0" for tape in amanda_catalogue.read_tapelist(places.tapelist))
    written = {}
    for part in (part for dump in dumps for part in dump.parts):
        written[part.written] = written.get(part.written, 0) + part.size
    runs = [size for _, size in sorted(written.items())][-_RUNS:]
    mean = sum(runs) / len(runs) if runs else 0
    if not (mean and config.cron) or blank // config.runtapes * mean <= free:
        return {"free": free, "seconds": None}
    return {"free": free, "seconds": int(free // mean * _between(config))}


def _free(directory):
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def _directories(name):
    """Return the config's directories: client and directory of the fleet by host and disk."""
    return {
        (client.id, directory.path): (client, directory)
        for client in amanda_fleet.load(amanda_layout.FLEET).clients
        for directory in client.directories
        if directory.config == name
    }


def _chains(directories, dumps, record):
    """Return the dumps that give the last good state of each directory, [] where there is none."""
    own = amanda_chain.by_dle(dumps)
    chains = {}
    for dle in directories:
        sound = [dump for dump in own.get(dle, ()) if dump.complete and not record.failed(dump)]
        chains[dle] = amanda_chain.last_chain(sound, *dle)
    return chains


def _unverified(chains, record):
    """Return the names of those dumps of *chains* that nobody verified for :data:`UNVERIFIED`."""
    early = datetime.datetime.now(datetime.timezone.utc) - UNVERIFIED
    return [
        _name(dump)
        for _, chain in sorted(chains.items())
        for dump in chain
        if record.verdict(dump) is None
        and datetime.datetime.fromisoformat(utc(dump.timestamp)) < early
    ]


def _dles(directories, chains, failed):
    """Return a list for each directory, what failed last first, then what was never dumped.

    Host, disk, when its last good dump was made, its level, since when it is missing from the
    mine, why its last dump failed, and since when it is retired.
    """
    rows = []
    for dle, (client, directory) in directories.items():
        last = chains[dle][-1] if chains[dle] else None
        made, level = (utc(last.timestamp), last.level) if last else (None, None)
        missing = directory.missing or client.missing
        rows.append([*dle, made, level, missing, failed.get(dle), directory.retired])
    return sorted(rows, key=lambda row: (row[5] is None, row[2] or "", row[:2]))


def _failed(last):
    """Return why directories failed in the last backup, by host and disk."""
    steps = last["steps"] if last else []
    return {
        (entry["host"], entry["disk"]): str(entry["reason"] or entry["detail"])[:_TEXT]
        for step in steps
        if step["step"] == "dump"
        for entry in step.get("dles", ())
        if not entry["success"]
    }
