"""Whether the server's clock lets a dump begin: Amanda names its dumps by local time.

A dump with an earlier stamp than the one it builds on would be taken for the older one, and a
restore would silently give what the older one has. That happens when the clock went back, be it
for a wrong time or in the hour that comes twice when daylight saving ends. In another time zone the
times of all dumps would be others.
"""

import datetime
import re
import time
import zoneinfo
from pathlib import Path

import amanda_amdump
import amanda_catalogue
from amanda_errors import AmandaError, ParseError

LONGEST = 70 * 60
"""Seconds that are waited for: the hour that comes twice, and some more."""

_PACE = 30  # seconds
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]{0,31}(/[A-Za-z0-9_+-]{1,31}){0,2}")


def wait(places, progress, now=datetime.datetime.now, sleep=time.sleep):
    """Return as soon as a run that begins gets a later stamp than all before it.

    places
        The :class:`amanda_layout.ConfigPlaces` of the config.
    progress
        Called with ``{"waiting": why, "seconds": how much longer}`` while it waits.
    now
        A function that gives the local time, without a zone, as Amanda takes it.
    sleep
        As :func:`time.sleep`.

    Raises :class:`AmandaError` if the clock is further back than :data:`LONGEST`.
    """
    newest = _newest(places)
    slept = 0
    while newest and (left := _until_later(newest, now())) > 0:
        if left > LONGEST or slept > LONGEST:
            raise AmandaError(
                f"the server's clock says {_iso(now())}, but the newest run of {places.name} is "
                f"of {_iso(newest)}: no dump is made, since it would count as the older one. Set "
                "the clock right; or, if it was that run's time that was wrong, remove its tapes "
                f"with amrmtape and its log.{newest:%Y%m%d%H%M%S}.*"
            )
        why = f"the clock went back: a dump must be later than the last, of {_iso(newest)}"
        progress({"waiting": why, "seconds": left})
        pause = min(left, _PACE)
        sleep(pause)
        slept += pause


def zone(path=Path("/etc/localtime")):
    """Return the name of the machine's time zone, as "Europe/Berlin"; "" if it says none."""
    return str(path.resolve()).partition("/zoneinfo/")[2] if path.exists() else "UTC"


def other_zone(name, own=None):
    """Return what is to be said on a machine with a catalogue of another time zone, or None.

    name
        The zone of the machine that wrote the catalogue, which may have been tampered with.
    own
        This machine's; None asks it.
    """
    own = zone() if own is None else own
    if not own or not _ZONE.fullmatch(name) or _offsets(name) == _offsets(own):
        return None
    return (
        f"Its dumps are named by the local time of {name}, and this server's is that of {own}, so "
        "their times are read wrongly: before the next run, set the zone that the lost server had, "
        f"with 'timedatectl set-timezone {name}', and restart salt-minion"
    )


def _offsets(name):
    """Return by how much a zone differs from UTC, day by day; its name, if it is unknown."""
    begin = datetime.datetime(datetime.datetime.now().year, 1, 1)
    try:
        rules = zoneinfo.ZoneInfo(name)
    except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError):
        return name
    days = (begin + datetime.timedelta(days=day) for day in range(365))
    return [day.replace(tzinfo=rules).utcoffset() for day in days]


def _until_later(newest, moment):
    """Return the whole seconds until *moment*'s stamp is later than *newest*; 0 if it is."""
    return int((newest - moment.replace(microsecond=0)).total_seconds()) + 1


def _newest(places):
    """Return the local time of the newest run that left a log or a tape; None if none did."""
    stamps = [amanda_amdump.timestamp(name) for name in amanda_amdump.names(places.logs)]
    stamps += [tape.written for tape in amanda_catalogue.read_tapelist(places.tapelist)]
    newest = max((stamp for stamp in stamps if stamp != "0"), default=None)
    try:
        return newest and datetime.datetime.strptime(newest, "%Y%m%d%H%M%S")
    except ValueError:
        raise ParseError("the time of a run", newest) from None


def _iso(moment):
    return moment.isoformat(timespec="seconds")
