"""Where each client is and by which SSH keys it is known: one pin a client, no two alike.

A client is bound to the minion id that published it. Whoever could publish another's host key or
address under an id of his own would have the server dump that other machine in his name.
"""

import dataclasses
from collections import defaultdict

import amanda_reading as reading
from amanda_reading import Refused

_CLONED = (
    "Was one machine cloned from the other? Then make new host keys on the clone "
    "(rm /etc/ssh/ssh_host_*; ssh-keygen -A) and apply the state backup there. "
)


@dataclasses.dataclass(frozen=True)
class Pin:
    """Where a client is and by which keys it is known.

    published
        When it said so, ISO 8601.
    """

    address: str
    port: int
    keys: tuple
    published: str

    @property
    def claims(self):
        """What no other client may have."""
        return {("address", self.address), *(("host key", key) for key in self.keys)}


def decide(published, previous, server, findings):
    """Return ``{minion id: Pin}``: the new ones that nobody disputes, else the previous ones.

    published
        ``{minion id: anything}``, the ids checked.
    previous
        The :class:`amanda_fleet.Fleet` collected before; retired clients hold no pin in it.
    server
        The server's minion id: it alone may have a loopback address.
    findings
        A :class:`amanda_reading.Findings`; refusals and changes are added.
    """
    clients = {client.id: client for client in previous.clients}
    old = {
        each.id: Pin(each.address, each.port, each.keys, each.published)
        for each in previous.clients
        if each.retired is None
    }
    wanted = {}
    for minion_id, value in sorted(published.items()):
        try:
            pin = _read(value, loopback=minion_id == server)
        except Refused as error:
            findings.add("refused", minion_id, f"host keys of {minion_id}: {error}")
            continue
        # A retired client claims nothing until it comes back: it must have been gone first.
        client = clients.get(minion_id)
        if client is None or client.retired is None or client.missing is not None:
            wanted[minion_id] = pin
    undisputed, refusals = _undisputed(old, wanted)
    for minion_id, claim, rival in refusals:
        _report_claim(minion_id, claim, rival, minion_id in old, findings)
    pins = {**old, **undisputed}
    for minion_id in sorted(old):
        _report_change(minion_id, old[minion_id], pins[minion_id], findings)
    return pins


def _read(value, loopback):
    names = ("version", "time", "address", "port", "keys")
    entry = reading.fields(value, names, optional=("server",))
    reading.version(entry["version"])
    return Pin(
        reading.address(entry["address"], loopback),
        reading.port(entry["port"]),
        reading.keys(entry["keys"]),
        reading.moment(entry["time"]),
    )


def _undisputed(old, wanted):
    """Return those of *wanted* whose claims nobody else has or wants, and the refusals.

    Who had a thing before, and still wants it, keeps it; a newcomer is refused; of several
    newcomers all are. One that is refused falls back on what it had, which may in turn be what
    another wants: so until nothing is disputed. Two that swap their addresses both may.
    """
    wanted, refusals = dict(wanted), []
    while True:
        claimants = defaultdict(set)
        for minion_id, pin in {**old, **wanted}.items():
            for claim in pin.claims:
                claimants[claim].add(minion_id)
        losers = {}
        for claim, rivals in sorted(claimants.items()):
            if len(rivals) == 1:
                continue
            holders = {each for each in rivals if each in old and claim in old[each].claims}
            for each in rivals - holders:
                losers.setdefault(each, (each, claim, min(rivals - {each})))
        if not losers:
            return wanted, sorted(refusals)
        for minion_id, refusal in losers.items():
            del wanted[minion_id]
            refusals.append(refusal)


def _report_claim(minion_id, claim, rival, was_known, findings):
    kind, value = claim
    what = f"the address {value}" if kind == "address" else "an SSH host key"
    kept = "What was known of it before stays in use. " if was_known else ""
    remedy = _CLONED if kind == "host key" else "Correct its address (pillar backup:address). "
    findings.add(
        "claimed",
        minion_id,
        f"{minion_id} publishes {what} that {rival} has, too: refused. {kept}{remedy}If {rival} "
        f"is gone for good: amanda.retire {rival}",
    )


def _report_change(minion_id, old, new, findings):
    if old.keys != new.keys:
        findings.add(
            "key-changed",
            minion_id,
            f"{minion_id} published other SSH host keys, which count from now on. If nobody set "
            "it up anew, find out who did this",
        )
    if (old.address, old.port) != (new.address, new.port):
        findings.add(
            "address-changed",
            minion_id,
            f"{minion_id} moved from {old.address} port {old.port} to {new.address} port "
            f"{new.port}",
        )
