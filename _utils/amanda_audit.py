"""Who is not backed up, what is stale, who is silent: findings, from what the master knows.

Plain data in, findings out; what minions sent is a stranger's, so each piece of it is looked at
before it is believed, and one that has no known form is a finding itself.
"""

import dataclasses
import datetime
import itertools
from collections.abc import Mapping

import amanda_findings
import amanda_standing
from amanda_findings import AHEAD, FAULTS, Findings, moment, span

SILENT = datetime.timedelta(hours=3)
"""A server publishes hourly: one that missed it three times is silent."""

SILENT_LONG = datetime.timedelta(days=1)

_CONFIGS = 100  # of a server that are looked at
_PATHS = 1000  # of a client that are looked at: more than a server takes


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
        By server, the last readable summary that the master has of it.
    mounts
        By minion, what it published of :func:`amanda_mounts.published`.
    broken
        By minion, why its pillar can't be rendered.
    unreadable
        The servers whose last word has no known form, so that an earlier one is gone by.
    """

    minions: tuple
    pillars: Mapping
    published: Mapping
    summaries: Mapping
    mounts: Mapping = dataclasses.field(default_factory=dict)
    broken: Mapping = dataclasses.field(default_factory=dict)
    unreadable: frozenset = frozenset()

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
        found += _of_no_server(known)
    for each in servers:
        findings = Findings(each)
        _server(findings, known, now)
        found += findings.found
    return sorted(found, key=amanda_findings.order)


def is_readable(summary):
    """Whether what a server published has the form of a summary, as far as can be seen at once."""
    try:
        moment(summary["time"])
        return isinstance(summary["configs"], Mapping)
    except FAULTS:
        return False


def _of_no_server(known):
    findings = Findings()
    for minion in sorted(known.broken):
        findings.add(
            "critical",
            "pillar",
            f"the pillar of {minion} can't be rendered: {known.broken[minion]}",
            f"repair it: salt-run pillar.show_pillar {minion}; then salt {minion} "
            "saltutil.refresh_pillar",
            minion=minion,
        )
    if not known.servers():
        findings.add(
            "critical",
            "no-server",
            "no minion's pillar has backup:server, so nothing is backed up",
            "write the pillar as README.md says, and apply the state backup",
        )
        return findings.found
    for minion in sorted(set(known.minions) - set(known.broken)):
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
    summary, covered = known.summaries.get(server), None
    if server in known.unreadable:
        text = f"what {server} says of its backups has no known form"
        findings.add("critical", "unreadable", text, _newer(server))
    if summary is not None:
        _silent(findings, summary, now)
        covered = _summary(findings, summary, now)
    elif server not in known.unreadable:
        text = f"{server} has never said how its backups stand"
        findings.add("critical", "silent", text, f"salt {server} state.apply backup")
    for minion in sorted(known.minions):
        if known.server(minion) == server and known.is_client(minion):
            _client(findings, known, minion, covered)


def _newer(server):
    """Return the remedy where one side may be of an older version than the other."""
    return f"apply the state backup on {server}; salt-run saltutil.sync_all"


def _summary(findings, summary, now):
    """Add what a summary tells; return all directories in it, None if it doesn't name all."""
    server, covered, whole = findings.server, {}, True
    for name in itertools.islice(sorted(summary["configs"], key=str), _CONFIGS):
        config = summary["configs"][name]
        try:
            rows = amanda_standing.judge(findings, str(name), config, now)
            omitted = config.get("dles_omitted")
        except FAULTS as error:
            rows, omitted = {}, True
            text = f"what {server} says of {name} has no known form ({type(error).__name__})"
            findings.add("critical", "unreadable", text, _newer(server), str(name))
        covered.update(rows)
        whole = whole and not omitted and not config.get("problem")
    return covered if whole else None


def _silent(findings, summary, now):
    """Add that a server is silent, or speaks from the future, or of a broken pillar."""
    server, time = findings.server, moment(summary["time"])
    if time > now + AHEAD:
        text = f"the clock of {server}, or of this master, is wrong: they are {time - now} apart"
        findings.add("critical", "clock", text, "set the clocks right")
    elif now - time > SILENT:
        severity = "critical" if now - time > SILENT_LONG else "warning"
        text = f"{server} has said nothing for {span(now - time)}"
        findings.add(severity, "silent", text, f"salt {server} test.ping")
    if summary.get("pillar"):
        text = f"the pillar of {server} is broken, so the last good one is used: "
        findings.add("critical", "pillar", f"{text}{summary['pillar']}", "repair the pillar")


def _client(findings, known, minion, covered):
    """Add what of a client is in no backup.

    covered
        ``{(host, disk): row}`` of all configs of its server; None if that isn't known.
    """
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
    _left_out(findings, minion, known.mounts.get(minion))
    if covered is None:
        return
    asked = known.pillars[minion].get("directories")
    asked = set(map(str, asked)) if isinstance(asked, Mapping) else set()
    published = set(map(str, published[:_PATHS]))
    for path in sorted(asked | published):
        if (minion, path) in covered:
            continue
        remedy = f"salt {minion} state.apply backup"
        if path in published:
            remedy = f"salt {findings.server} amanda.collect says why"
        findings.add(
            "critical" if path in published else "warning",
            "uncovered",
            f"{path} of {minion} is in no backup",
            remedy,
            minion=minion,
            path=path,
        )


def _left_out(findings, minion, mounts):
    """Add the file systems that a client's dumps don't enter, by what it said of itself."""
    try:
        told = [(each["mount"], each["type"], each["directory"]) for each in mounts["left_out"]]
    except FAULTS:  # a client of an older version says nothing of them
        return
    for mount, kind, directory in told[:_PATHS]:
        findings.add(
            "warning",
            "left-out",
            f"{mount} of {minion} ({kind}) is mounted below {directory}, whose dumps leave it out",
            f"in the pillar of {minion}, below backup:directories: list it, or give {directory} "
            "'mounts: include', or exclude it there",
            minion=minion,
            path=mount,
        )
