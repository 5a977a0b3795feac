"""Who is not backed up, what is stale, who is silent: findings, from what the master knows.

Plain data in, findings out; what minions sent is a stranger's, so each piece of it is looked at
before it is believed, and one that has no known form is a finding itself.

A finding is a dict: ``severity`` (``critical`` or ``warning``), ``kind``, ``server``, ``config``,
``minion``, ``path`` (each None where it is about none), ``message`` and ``remedy``.
"""

import dataclasses
import datetime
import re
import shlex
from collections.abc import Mapping

SEVERITIES = ("critical", "warning")

SILENT = datetime.timedelta(hours=3)
"""A server publishes hourly: one that missed it three times is silent."""

SILENT_LONG = datetime.timedelta(days=1)

_AHEAD = datetime.timedelta(minutes=10)  # of another clock
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_TEXT = 500


@dataclasses.dataclass(frozen=True)
class Known:
    """What the master knows.

    minions
        The ids of all accepted minions.
    pillars
        By minion, what its pillar says below ``backup``; None if it says nothing.
    published
        By minion, the paths it published, a list; no entry if it published nothing.
    summaries
        By server, the last summary that the master has of it.
    """

    minions: tuple
    pillars: Mapping
    published: Mapping
    summaries: Mapping

    def servers(self):
        """Return the servers that the pillars name, sorted."""
        return sorted({server for server in map(self.server, self.minions) if server})

    def server(self, minion):
        """Return the server that the pillar of *minion* names, or None."""
        pillar = self.pillars.get(minion)
        server = pillar.get("server") if isinstance(pillar, Mapping) else None
        return server if isinstance(server, str) else None

    def is_client(self, minion):
        """Whether *minion* is to be backed up: only ``directories: {}`` takes it out."""
        return self.server(minion) is not None and self.pillars[minion].get("directories") != {}


class Findings:
    """Collects findings about one server."""

    def __init__(self, server=None):
        self.server = server
        self.found = []

    def add(self, severity, kind, message, remedy, config=None, minion=None, path=None):
        """Add a finding; texts of strangers are made fit for a terminal."""
        about = {"server": self.server, "config": config, "minion": minion, "path": path}
        about = {key: value if value is None else shown(value) for key, value in about.items()}
        told = {"message": shown(message), "remedy": shown(remedy)}
        self.found.append({"severity": severity, "kind": kind, **about, **told})


def shown(value):
    """Return a text of who may be anybody as a terminal can bear it, and not too long."""
    text = "".join(char if char.isprintable() else "?" for char in str(value)[: _TEXT + 1])
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"


def audit(known, now, server=None):
    """Return all findings, the worst first.

    known
        A :class:`Known`.
    now
        The present, aware.
    server
        Only what this one is responsible for; then minions without a pillar aren't told of.
    """
    servers = known.servers() if server is None else [server]
    found = []
    if server is None:
        found += _without_pillar(known)
    for each in servers:
        findings = Findings(each)
        _server(findings, known, now)
        found += findings.found
    return sorted(found, key=_order)


def _order(finding):
    about = [str(finding[key] or "") for key in ("server", "config", "minion", "path")]
    return SEVERITIES.index(finding["severity"]), finding["kind"], about


def _without_pillar(known):
    findings = Findings()
    if not known.servers():
        findings.add(
            "critical",
            "no-server",
            "no minion's pillar has backup:server, so nothing is backed up",
            "write the pillar as README.md says, and apply the state backup",
        )
        return findings.found
    for minion in sorted(known.minions):
        if known.server(minion) is None:
            findings.add(
                "warning",
                "uncovered",
                f"{minion} is not backed up: its pillar has no backup:server",
                "give it the pillar backup; 'directories: {}' there if it needs no backup",
                minion=minion,
            )
    return findings.found


def _server(findings, known, now):
    """Add what is wrong with one server and with what it is to back up."""
    server = findings.server
    if server not in known.minions:
        findings.add(
            "critical",
            "no-server",
            f"{server}, the Amanda server that pillars name, is no minion of this master",
            "set backup:server in the pillar to the server's minion id, or accept its key",
        )
    summary = known.summaries.get(server)
    covered = _summary(findings, summary, now) if _silent(findings, summary, now) else None
    for minion in sorted(known.minions):
        if known.server(minion) == server and known.is_client(minion):
            _client(findings, known, minion, covered)


def _summary(findings, summary, now):
    """Add what a summary tells; return all directories in it, None if it doesn't name all."""
    server, covered, whole = findings.server, {}, True
    for name in sorted(summary["configs"], key=str):
        config = summary["configs"][name]
        try:
            rows, omitted = _config(findings, str(name), config, now), config.get("dles_omitted")
        except _FAULTS as error:
            rows, omitted = {}, True
            findings.add(
                "critical",
                "unreadable",
                f"what {server} says of {name} has no known form ({type(error).__name__})",
                f"apply the state backup on {server}; salt-run saltutil.sync_all",
                config=str(name),
            )
        covered.update(rows)
        whole = whole and not omitted and not config.get("problem")
    return covered if whole else None


_FAULTS = (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError)


def _silent(findings, summary, now):
    """Add that a server is silent; return whether it has a summary that can be read on."""
    server, remedy = findings.server, f"salt {findings.server} test.ping"
    if summary is None:
        findings.add(
            "critical",
            "silent",
            f"{server} has never said how its backups stand",
            f"salt {server} state.apply backup",
        )
        return False
    try:
        time = _moment(summary["time"])
        configs = isinstance(summary["configs"], Mapping)
    except _FAULTS:
        configs = False
    if not configs:
        findings.add(
            "critical",
            "unreadable",
            f"what {server} says of its backups has no known form",
            f"apply the state backup on {server}; salt-run saltutil.sync_all",
        )
        return False
    if time > now + _AHEAD:
        text = f"the clock of {server}, or of this master, is wrong: they are {time - now} apart"
        findings.add("critical", "clock", text, "set the clocks right")
    elif now - time > SILENT:
        severity = "critical" if now - time > SILENT_LONG else "warning"
        text = f"{server} has said nothing for {_span(now - time)}"
        findings.add(severity, "silent", text, remedy)
    if summary.get("pillar"):
        text = f"the pillar of {server} is broken, so the last good one is used: "
        findings.add("critical", "pillar", f"{text}{summary['pillar']}", "repair the pillar")
    return True


def _config(findings, name, config, now):
    """Add what is wrong with one config; return its directories, ``{(host, disk): row}``."""
    server = findings.server
    if not _PLAIN.fullmatch(name):  # it stands in commands that somebody is to type
        raise ValueError("that is no name of a config")
    if config.get("problem"):
        text = f"{server} can't tell how {name} stands: {config['problem']}"
        findings.add("critical", "problem", text, f"salt {server} amanda.check", name)
        return {}
    promise = config["promise"]
    rows = {(str(row[0]), str(row[1])): row for row in config["dles"]}
    for row in config["dles"]:
        _directory(findings, name, row, promise["backup"], now)
    _run(findings, name, config["backup"], any(row[5] for row in config["dles"]))
    _mirror(findings, name, config["mirror"], promise["mirror"], now)
    _drill(findings, name, config["drill"], promise["drill"], now)
    if config["bad"]:
        text = f"{len(config['bad'])} dumps of {name} can't be restored: {', '.join(config['bad'])}"
        findings.add("critical", "bad", text, f"salt {server} amanda.backup {name}", name)
    if config["holding"]:
        text = f"{config['holding']} dumps of {name} wait on the holding disk for a tape"
        findings.add("warning", "holding", text, f"salt {server} amanda.status {name}", name)
    _sealed(findings, name, config["sealed"])
    _space(findings, name, config["space"], promise["space"])
    return rows


def _directory(findings, name, row, promise, now):
    """Add what is wrong with the dumps of one directory."""
    host, path, made, _, missing, failed, retired = row
    if retired:
        return
    server, about = findings.server, {"config": name, "minion": host, "path": path}
    why = f"; the last one failed: {failed}" if failed else ""
    if made is None:
        text = f"there is no good dump of {path} of {host}{why}"
        findings.add("critical", "never", text, f"salt {server} amanda.backup {name}", **about)
    elif promise and now - _moment(made) > datetime.timedelta(seconds=promise):
        text = f"the last good dump of {path} of {host} is {_span(now - _moment(made))} old{why}"
        findings.add("critical", "stale", text, f"salt {server} amanda.report", **about)
    elif failed:
        text = f"the last dump of {path} of {host} failed: {failed}"
        findings.add("warning", "failed", text, f"salt {server} amanda.report", **about)
    if missing:
        findings.add(
            "warning",
            "vanished",
            f"{host} has not published {path} since {missing}",
            f"apply the state backup on it; or, if that is meant, salt {server} amanda.retire "
            f"{shlex.quote(host)} {shlex.quote(path)}",
            **about,
        )


def _run(findings, name, last, explained):
    """Add that the last backup was no success; not if it's told of its directories already."""
    server = findings.server
    if last is None:
        text = f"{name} was never backed up"
        findings.add("critical", "never", text, f"salt {server} amanda.backup {name}", name)
        return
    failed = [step for step in last["steps"] if not step["success"]]
    if last["state"] == "interrupted":
        text = f"the last backup of {name} was interrupted"
        findings.add("warning", "failed", text, f"salt {server} amanda.backup {name}", name)
    for step in failed:
        if step["step"] == "dump" and explained:
            continue
        text = f"in the last backup of {name} the step {step['step']} failed: {step['message']}"
        findings.add("warning", "failed", text, f"salt {server} amanda.status {name}", name)


def _mirror(findings, name, mirror, promise, now):
    if mirror is None:
        return
    remedy = f"salt {findings.server} amanda.mirror {name}"
    why = "" if mirror["success"] else f": {mirror['message']}"
    if mirror["made"] is None:
        findings.add("critical", "mirror", f"{name} was never mirrored{why}", remedy, name)
    elif promise and now - _moment(mirror["made"]) > datetime.timedelta(seconds=promise):
        text = f"the mirror of {name} is {_span(now - _moment(mirror['made']))} old{why}"
        findings.add("critical", "mirror", text, remedy, name)


def _drill(findings, name, drill, promise, now):
    remedy = f"salt {findings.server} amanda.drill config={name}"
    if drill.get("problem"):
        findings.add("warning", "drill", str(drill["problem"]), remedy, name)
    elif drill["last"] and not drill["last"]["success"]:
        text = f"the last drill of {name} failed: {drill['last']['message']}"
        findings.add("critical", "drill", text, remedy, name)
    elif drill["passed"] is None:
        text = f"no restore of {name} was ever tried"
        findings.add("warning", "drill", text, remedy, name)
    elif now - _moment(drill["passed"]) > datetime.timedelta(seconds=promise):
        text = (
            f"the last drill of {name} that passed is {_span(now - _moment(drill['passed']))} old"
        )
        findings.add("warning", "drill", text, remedy, name)


def _sealed(findings, name, sealed):
    server = findings.server
    if sealed["method"] != "age":
        return  # its two key files are kept offsite by hand: nobody can see that from here
    if not sealed["offsite"]:
        findings.add(
            "warning",
            "offsite",
            f"no offsite key opens the dumps of {name}: without {server} they are lost",
            "list a public key in backup:encryption:recipients and apply the state backup",
            name,
        )
    elif sealed["others"]:
        findings.add(
            "warning",
            "offsite",
            "a key that was added opens no dump of before, so not yet all of "
            f"{', '.join(sealed['others'])}",
            "their next full dumps will do",
            name,
        )


def _space(findings, name, space, promise):
    if space["seconds"] is None or space["seconds"] > promise:
        return
    severity = "critical" if not space["seconds"] else "warning"
    span = _span(datetime.timedelta(seconds=space["seconds"]))
    text = (
        f"the disk of the tapes of {name} is full in {span}, as runs go: {space['free']} bytes free"
    )
    findings.add(severity, "space", text, "give it more room, or set slots to fewer", name)


def _client(findings, known, minion, covered):
    """Add what of a client is in no backup.

    covered
        ``{(host, disk): row}`` of all configs of its server; None if that isn't known.
    """
    server = findings.server
    published = known.published.get(minion)
    if published is None:
        findings.add(
            "critical",
            "uncovered",
            f"{minion} is to be backed up and has never published what",
            f"salt {minion} state.apply backup",
            minion=minion,
        )
        return
    if covered is None:
        return
    asked = known.pillars[minion].get("directories")
    wanted = set(asked if isinstance(asked, Mapping) else ()) | set(published)
    for path in sorted(map(str, wanted)):
        if (minion, path) not in covered:
            findings.add(
                "critical" if path in published else "warning",
                "uncovered",
                f"{path} of {minion} is in no backup",
                f"salt {server} amanda.collect says why"
                if path in published
                else f"salt {minion} state.apply backup",
                minion=minion,
                path=path,
            )


def outcome(findings):
    """Return what an audit comes to by the Nagios plugins' convention: ``status``, ``retcode``,
    ``message`` (one line), ``findings`` (a line each, with the remedy).
    """
    if not findings:
        return {"status": "OK", "retcode": 0, "message": "OK: all is backed up", "findings": []}
    status = findings[0]["severity"].upper()
    count = f"{len(findings)} findings" if len(findings) > 1 else "1 finding"
    return {
        "status": status,
        "retcode": 2 if status == "CRITICAL" else 1,
        "message": f"{status}: {count}, the worst: {findings[0]['message']}",
        "findings": [
            f"{each['severity'].upper()}: {each['message']}. Remedy: {each['remedy']}"
            for each in findings
        ],
    }


def key(finding):
    """Return what makes a finding the same one as that of an earlier audit."""
    about = ("kind", "server", "config", "minion", "path")
    return "\t".join(str(finding[name]) for name in about)


def changes(old, new):
    """Return what is to be told of two audits' findings, by :func:`key`: pairs of word and finding.

    ``found``: it is new, or its severity is; ``gone``. Another age of the same is no news.
    """
    changed = []
    for name, finding in new.items():
        before = old.get(name)
        if before is None or before["severity"] != finding["severity"]:
            changed.append(("found", finding))
    return changed + [("gone", old[name]) for name in old if name not in new]


def _moment(text):
    """Return a time in ISO 8601 as an aware datetime; raise ValueError if it isn't one."""
    moment = datetime.datetime.fromisoformat(str(text))
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no zone")
    return moment


def _span(delta):
    hours = int(delta.total_seconds() // 3600)
    return f"{hours} hours" if hours < 72 else f"{hours // 24} days"
