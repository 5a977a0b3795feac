"""How the backups of this server stand: what it publishes, for the master to audit.

It is bounded, whatever a fleet's size, and what can't be found out is told in words: the audit has
nothing else to go by.
"""

import datetime
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

VERSION = 2

ENTRIES = 5000
"""How many directories a summary tells of, those with a problem first."""

_NAMES = 20
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
            configs[name] = _config(settings, name, user)
        except (AmandaError, OSError) as error:
            configs[name] = {"problem": str(error)}
    content = {"version": VERSION, "time": amanda_results.now(), "pillar": fault}
    return amanda_results.bounded({**content, "configs": configs}, ENTRIES)


def _config(settings, name, user):
    """Return how one config stands.

    ``backup``: the last one that ended, ``success`` and ``message`` of each of its steps, None if
    there was none; ``drill``: when one ``passed`` and what the ``last`` one gave; ``promise`` in
    seconds, None where nothing is promised; ``sealed``: ``offsite``, how many offsite keys, and
    ``others``, which directories those don't all open yet; ``mirror``: None without one, else
    when it was brought up last (``made``) and what the last try gave; ``holding``: how many dumps
    wait there; ``bad`` dumps by name; ``space``, see :func:`_space`; and ``dles``, a list for each
    directory: host, disk, when its last good dump was made, its level, since when it is missing
    from the mine, why its last dump failed, and since when it is retired.
    """
    config, places = settings.config(name), amanda_layout.places(name, settings.paths)
    last = amanda_results.last(name, amanda_results.BACKUPS)
    dumps, record = amanda_catalogue.read(places), amanda_verified.read(name)
    rows = _dles(name, dumps, record, last)
    live = {(host, path) for host, path, *_, retired in rows if not retired}
    others = [dle for dle in amanda_encryption.sealed_to_others(dumps) if dle in live]
    return {
        "backup": last and _brief(last),
        "drill": amanda_drill.summary(name),
        "promise": _promise(config),
        "sealed": {
            "method": settings.encryption.method,
            "offsite": len(settings.encryption.recipients),
            "others": [" ".join(dle) for dle in others][:_NAMES],
        },
        "mirror": _mirror(settings, name),
        "holding": len(amanda_holding.images(places, user)),
        "bad": [f"{d.host} {d.disk} of {utc(d.timestamp)}" for d in dumps if record.failed(d)],
        "space": _space(places, dumps, config),
        "dles": rows,
    }


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
        now = datetime.datetime.now(amanda_due.local_zone())
        usual = 2 * int(amanda_due.interval(config.cron, now).total_seconds())
    promise = config.promise
    return {
        "backup": promise.backup * day if promise.backup else usual,
        "mirror": promise.mirror * day if promise.mirror else usual,
        "drill": promise.drill * day,
        "space": promise.space * day,
    }


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
    now = datetime.datetime.now(amanda_due.local_zone())
    often = amanda_due.interval(config.cron, now).total_seconds()
    return {"free": free, "seconds": int(free // mean * often)}


def _free(directory):
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def _dles(name, dumps, record, last):
    """Return a row for each directory that the config dumps, what failed last first."""
    own = amanda_chain.by_dle(dumps)
    failed = _failed(last)
    rows = []
    for client in amanda_fleet.load(amanda_layout.FLEET).clients:
        for directory in client.directories:
            if directory.config != name:
                continue
            dle = (client.id, directory.path)
            sound = [d for d in own.get(dle, ()) if d.complete and not record.failed(d)]
            chain = amanda_chain.last_chain(sound, *dle)
            made, level = (utc(chain[-1].timestamp), chain[-1].level) if chain else (None, None)
            gone, retired = directory.missing or client.missing, directory.retired
            rows.append([*dle, made, level, gone, failed.get(dle), retired])
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
