"""Which DLEs must be dumped in full next, since what an increment would build on is lost.

When tar ends, its snapshot has moved on, whatever becomes of what it wrote: an increment on that
would leave out, silently, what only the lost dump had. The snapshots are one per host and disk,
so a dump that another config made moves them as well. All is told from the run logs, the tapes
and the holding disk at the moment of asking, so that no crash can lose it.
"""

import dataclasses

import amanda_catalogue
import amanda_chain
import amanda_log
import amanda_outcomes
from amanda_errors import AmandaError

_NEVER = "can't "
"""How the driver's reasons begin where it never started a dump."""


@dataclasses.dataclass(frozen=True)
class Attempt:
    """The last time that a dump of a DLE was begun, or may have been.

    timestamp
        The run's, 14 digits.
    whole
        Whether all of it came to the server's holding disk.
    unread
        Whether something was left out that could not be read.
    damage
        What is wrong with the run's log, in words; "" if nothing is.
    """

    timestamp: str
    whole: bool
    unread: bool
    damage: str = ""


def needed(places, dles, images, others=()):
    """Return which of *dles* need a full dump, and which logs are damaged.

    places
        The :class:`amanda_layout.ConfigPlaces` of the config.
    dles
        Pairs of host and disk.
    images
        What is on the holding disk; see :func:`amanda_holding.images`.
    others
        The places of other configs that may have dumped them too.

    The first is a list of pairs, in the order of *dles*; the second a list of texts. Raises
    :class:`amanda_errors.AmandaError` if a log of a run that finished can't be read.
    """
    dumps = [dump for dump in amanda_catalogue.read(places) if dump.status == "OK"]
    taped = {(dump.host, dump.disk, dump.timestamp) for dump in dumps}
    own = amanda_chain.by_dle(dumps)
    held = {(image["host"], image["disk"], image["timestamp"]) for image in images}
    last = last_attempts(places, dict.fromkeys(dles, ""))
    since = {name: last[name].timestamp if name in last else "" for name in dles}
    elsewhere = {name for other in others for name in last_attempts(other, since)}
    lost, damage = [], []
    for name in dles:
        attempt = last.get(name)
        key = attempt and (*name, attempt.timestamp)
        safe = attempt and not attempt.unread and (key in taped or (key in held and attempt.whole))
        if name in elsewhere or (attempt and not safe) or _baseless(own.get(name, ()), *name):
            lost.append(name)
            damage += [attempt.damage] if attempt and attempt.damage else []
    return lost, list(dict.fromkeys(damage))


def _baseless(dumps, host, disk):
    """Tell whether what the last dump of a DLE builds on is on no tape any more."""
    if amanda_chain.newest(dumps, host, disk) is None:
        return False
    try:
        amanda_chain.chain(dumps, host, disk)
    except AmandaError:
        return True
    return False


def last_attempts(places, since):
    """Return the last :class:`Attempt` at each DLE, by host and disk, as far as there is one.

    since
        The timestamp after which it counts, by host and disk.
    """
    found = {}
    logs = amanda_catalogue.all_logs(places)
    for timestamp in sorted(logs, reverse=True):
        wanted = [name for name in since if name not in found and since[name] < timestamp]
        if not wanted:
            break
        for path in logs[timestamp]:
            attempts = _attempts(path, timestamp, wanted, places.state)
            found.update({name: attempts[name] for name in wanted if name in attempts})
    return found


def _attempts(path, timestamp, dles, top):
    """Return the :class:`Attempt` at each DLE in one run's log, by host and disk.

    top
        The config's state directory.
    """
    damaged = []
    events = list(amanda_log.events(path, top=top, damaged=damaged))
    own = [e for e in events if e.host and (e.timestamp or timestamp) == timestamp]
    begun = {(e.host, e.disk) for e in own if _begins(e)}
    if _broke_off(events):
        never = {(e.host, e.disk) for e in own if e.program == "planner" and e.kind != "DISK"}
        listed = {(e.host, e.disk) for e in own if e.program == "planner"}
        # Without its end the log may lack the names as well.
        begun |= (listed | set(dles) if damaged or not events else listed) - never
    whole = {(e.host, e.disk) for e in own if (e.program, e.kind) == ("chunker", "SUCCESS")}
    outcomes = {
        (outcome.host, outcome.disk): outcome
        for outcome in amanda_outcomes.of_run(events, timestamp)
        if outcome.timestamp == timestamp
    }
    damage = f"the log of the run of {timestamp} is damaged: {damaged[0]}" if damaged else ""
    attempts = {}
    for name in begun:
        outcome = outcomes.get(name)
        dumped = bool(outcome and outcome.dumped) and name in whole
        attempts[name] = Attempt(timestamp, dumped, bool(outcome and outcome.unread), damage)
    return attempts


def _begins(event):
    """Tell whether a client had been asked for a dump when this was written."""
    if event.program == "driver":
        return event.kind == "FAIL" and not event.message.startswith(_NEVER)
    return event.program in ("dumper", "chunker", "taper")


def _broke_off(events):
    """Tell whether the run may have begun dumps that its log says nothing of."""
    seen = {(event.program, event.kind) for event in events}
    if ("driver", "FINISH") in seen or any(event.program == "amflush" for event in events):
        return False
    # The driver begins when the planner has told it all; without that it gives up.
    died = any(event.kind == "FATAL" for event in events)
    return ("planner", "FINISH") in seen or not died
