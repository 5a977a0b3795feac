"""How one config stands, by what its server says: findings about its dumps, mirror and drills."""

import datetime
import re
import shlex

from amanda_findings import AHEAD, moment, span

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")

_MOST = 10_000
"""Directories of a config that are looked at: more than any summary names."""


def judge(findings, name, config, now):
    """Add what is wrong with one config; return its directories, ``{(host, disk): row}``.

    findings
        The :class:`amanda_findings.Findings` about its server.
    config
        What the server's summary says of it (:func:`amanda_summary.summary`), or anything.

    Raises one of :data:`amanda_findings.FAULTS` where that has no known form.
    """
    server = findings.server
    if not _PLAIN.fullmatch(name):  # it stands in commands that somebody is to type
        raise ValueError("that is no name of a config")
    if config.get("problem"):
        text = f"{server} can't tell how {name} stands: {config['problem']}"
        findings.add("critical", "problem", text, f"salt {server} amanda.check", name)
        return {}
    promise, rows = config["promise"], config["dles"][:_MOST]
    for row in rows:
        _directory(findings, name, row, promise["backup"], now)
    _run(findings, name, config, any(row[5] for row in rows))
    _refused(findings, name, config["refused"])
    _mirror(findings, name, config["mirror"], promise["mirror"], now)
    _drill(findings, name, config, now)
    _verified(findings, name, config)
    if config["holding"]:
        text = f"{config['holding']} dumps of {name} wait on the holding disk for a tape"
        findings.add("warning", "holding", text, f"salt {server} amanda.status {name}", name)
    _sealed(findings, name, config["sealed"])
    _space(findings, name, config["space"], promise["space"])
    return {(str(row[0]), str(row[1])): row for row in rows}


def _directory(findings, name, row, promise, now):
    """Add what is wrong with the dumps of one directory."""
    host, path, made, _, missing, failed, retired = row
    if retired:
        return
    server, about = findings.server, {"config": name, "minion": host, "path": path}
    why = f"; the last one failed: {failed}" if failed else ""
    remedy = f"salt {server} amanda.report"
    if made is None:
        text, remedy = f"there is no good dump of {path} of {host}{why}", _backup(server, name)
        findings.add("critical", "never", text, remedy, **about)
    elif moment(made) > now + AHEAD:
        text = f"the last good dump of {path} of {host} bears a time that is yet to come, {made}"
        remedy = f"set the clocks of {server} and of this master right; {_backup(server, name)}"
        findings.add("critical", "clock", text, remedy, **about)
    elif promise and now - moment(made) > datetime.timedelta(seconds=promise):
        text = f"the last good dump of {path} of {host} is {span(now - moment(made))} old{why}"
        findings.add("critical", "stale", text, remedy, **about)
    elif failed:
        text = f"the last dump of {path} of {host} failed: {failed}"
        findings.add("warning", "failed", text, remedy, **about)
    if missing:
        findings.add(
            "warning",
            "vanished",
            f"{host} has not published {path} since {missing}",
            f"apply the state backup on it; or, if that is meant, salt {server} amanda.retire "
            f"{shlex.quote(host)} {shlex.quote(path)}",
            **about,
        )


def _backup(server, name):
    return f"salt {server} amanda.backup {name}"


def _run(findings, name, config, explained):
    """Add that the last backup was no success; not if it's told of its directories already."""
    server, last = findings.server, config["backup"]
    if last is None:
        findings.add(
            "critical", "never", f"{name} was never backed up", _backup(server, name), name
        )
        return
    if last["state"] == "interrupted":
        text = f"the last backup of {name} was interrupted"
        findings.add("warning", "failed", text, _backup(server, name), name)
    for step in last["steps"]:
        told = (
            explained if step["step"] == "dump" else step["step"] == "mirror" and config["mirror"]
        )
        if step["success"] or told:
            continue
        text = f"in the last backup of {name} the step {step['step']} failed: {step['message']}"
        findings.add("warning", "failed", text, f"salt {server} amanda.status {name}", name)


def _refused(findings, name, refused):
    """Add what the last collection did not take from the mine."""
    for minion, path, message in refused[:_MOST]:
        remedy = f"salt {findings.server} amanda.collect says what is refused now"
        findings.add("warning", "refused", message, remedy, name, minion, path)


def _mirror(findings, name, mirror, promise, now):
    if mirror is None:
        return
    remedy = f"salt {findings.server} amanda.mirror {name}"
    why = f": {mirror['message']}" if mirror["success"] is False else ""
    if mirror["made"] is None:
        findings.add("critical", "mirror", f"{name} was never mirrored{why}", remedy, name)
    elif moment(mirror["made"]) > now + AHEAD:
        text = f"the mirror of {name} bears a time that is yet to come, {mirror['made']}"
        findings.add("critical", "clock", text, f"set the clocks right; {remedy}", name)
    elif promise and now - moment(mirror["made"]) > datetime.timedelta(seconds=promise):
        text = f"the mirror of {name} is {span(now - moment(mirror['made']))} old{why}"
        findings.add("critical", "mirror", text, remedy, name)
    elif why:
        text = f"the last try to mirror {name} failed{why}"
        findings.add("warning", "mirror", text, remedy, name)


def _drill(findings, name, config, now):
    drill, promise = config["drill"], config["promise"]["drill"]
    remedy = f"salt {findings.server} amanda.drill config={name}"
    if config["mirror"] is None:
        remedy += " source=tapes"
    if drill.get("problem"):
        findings.add("warning", "drill", str(drill["problem"]), remedy, name)
    elif drill["last"] and not drill["last"]["success"]:
        text = f"the last drill of {name} failed: {drill['last']['message']}"
        findings.add("critical", "drill", text, remedy, name)
    elif drill["passed"] is None:
        text = f"no restore of {name} was ever tried"
        findings.add("warning", "drill", text, remedy, name)
    elif not -AHEAD < now - moment(drill["passed"]) <= datetime.timedelta(seconds=promise):
        text = f"the last drill of {name} that passed was at {drill['passed']}, not within "
        text += span(datetime.timedelta(seconds=promise))
        findings.add("warning", "drill", text, remedy, name)


def _verified(findings, name, config):
    server, bad, unverified = findings.server, config["bad"], config["unverified"]
    if bad["count"]:
        text = f"{bad['count']} dumps of {name} can't be restored: {', '.join(bad['names'])}"
        findings.add("critical", "bad", text, _backup(server, name), name)
    if unverified["count"]:
        text = f"{unverified['count']} dumps of {name} that a restore needs were never verified: "
        text += ", ".join(unverified["names"])
        findings.add("warning", "unverified", text, f"salt {server} amanda.verify {name}", name)


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
    elif sealed["others"]["count"]:
        findings.add(
            "warning",
            "offsite",
            "a key that was added opens no dump of before, so not yet all of "
            f"{', '.join(sealed['others']['names'])}",
            "their next full dumps will do",
            name,
        )


def _space(findings, name, space, promise):
    if space["seconds"] is None or space["seconds"] > promise:
        return
    severity = "critical" if not space["seconds"] else "warning"
    text = (
        f"the disk of the tapes of {name} is full in "
        f"{span(datetime.timedelta(seconds=space['seconds']))}, as runs go: "
        f"{space['free']} bytes free"
    )
    findings.add(severity, "space", text, "give it more room, or set slots to fewer", name)
