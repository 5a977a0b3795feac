"""What was retired: until when its last backups are kept, and what is let go after that.

Let go is that it may be overwritten: no tape is held back for it any more, no generation of the
mirror is kept for it, and what is there stays until its turn comes. The disklist still has it.
"""

import contextlib
import datetime

import amanda_catalogue
import amanda_fleet
import amanda_layout
import amanda_limits
from amanda_errors import AmandaError


def listing(fleet, days):
    """Return what is retired: ``{id: {path: {"retired": …, "kept_until": …}}}``, ISO 8601.

    days
        For how long its last backups are kept.
    """
    found = {}
    for (host, path), (since, until) in _times(fleet, days).items():
        entry = {"retired": since, "kept_until": amanda_fleet.moment(until)}
        found.setdefault(host, {})[path] = entry
    return found


def let_go(places, user, days, now=None):
    """Return the DLEs, pairs of host and disk, whose last backups need not be kept any more.

    places
        The :class:`amanda_layout.ConfigPlaces` of the config.
    user
        The dump user.
    days
        As for :func:`listing`.
    now
        The time, with a zone; by default the present.

    Their time is over, and as many tapes as Amanda keeps were written since, so that no single
    night with a wrong clock lets anything go. What can't be told lets nothing go: that the fleet,
    tapelist or amanda.conf is damaged, the steps that need it tell.
    """
    with contextlib.suppress(AmandaError):
        return _let_go(places, user, days, now)
    return frozenset()


def _let_go(places, user, days, now):
    fleet = amanda_fleet.load(amanda_layout.FLEET)
    now = now or datetime.datetime.now(datetime.timezone.utc)
    over = {dle: until for dle, (_, until) in _times(fleet, days).items() if until <= now}
    if not over:
        return frozenset()
    tapes = amanda_catalogue.read_tapelist(places.tapelist)
    enough = amanda_limits.read(places.name, user).tapes
    written = sorted((tape.written for tape in tapes if tape.written != "0"), reverse=True)
    if len(written) < enough:
        return frozenset()
    return frozenset(dle for dle, until in over.items() if _stamp(until) < written[enough - 1])


def without(dumps, dles):
    """Return those of *dumps* that are not of *dles*, pairs of host and disk."""
    return [dump for dump in dumps if (dump.host, dump.disk) not in dles]


def _times(fleet, days):
    """Return since when each DLE is retired, as it is stored, and until when it is kept."""
    span = datetime.timedelta(days=days)
    return {
        (client.id, each.path): (each.retired, datetime.datetime.fromisoformat(each.retired) + span)
        for client in fleet.clients
        for each in client.directories
        if each.retired is not None
    }


def _stamp(moment):
    """Return *moment* as Amanda names it: by local time."""
    return moment.astimezone().strftime("%Y%m%d%H%M%S")
