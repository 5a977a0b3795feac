"""Findings of an audit: what is wrong, how bad it is, and what to do about it.

A finding is a dict: ``severity`` (``critical`` or ``warning``), ``kind``, ``server``, ``config``,
``minion``, ``path`` (each None where it is about none), ``message`` and ``remedy``.
"""

import datetime

SEVERITIES = ("critical", "warning")

AHEAD = datetime.timedelta(minutes=10)
"""How far another clock may be ahead of this one."""

FAULTS = (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError)
"""What reading data of no known form may raise."""

_TEXT = 500


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


def order(finding):
    """Return by what findings are sorted, the worst first."""
    about = [str(finding[key] or "") for key in ("server", "config", "minion", "path")]
    return SEVERITIES.index(finding["severity"]), finding["kind"], about


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


def moment(text):
    """Return a time in ISO 8601 as an aware datetime; raise ValueError if it isn't one."""
    parsed = datetime.datetime.fromisoformat(str(text))
    if parsed.tzinfo is None:
        raise ValueError(f"{text!r} has no zone")
    return parsed


def span(delta):
    """Return a timedelta for people, in hours or days."""
    hours = int(delta.total_seconds() // 3600)
    return f"{hours} hours" if hours < 72 else f"{hours // 24} days"
