"""When a config's next run is due: the pillar's ``cron`` against what is kept on disk.

Salt's scheduler calls every ten minutes; here is decided whether there is something to do. Cron
is read in the machine's local time, as cron(8) does, but every moment is kept in UTC:

- A cron time is served once. However many were missed, one run makes up for all of them.
- A clock set back by up to a day does not run again what ran. Set back further, the record is of
  a clock that was wrong: it is put right, said, and the next cron time runs.
- A wall-clock time that daylight saving skips runs at the moment it is skipped; one that comes
  twice runs the first time.
- A config seen for the first time waits for its next cron time. The administrator chose that
  hour, and until it comes the clients enrol: a dump at once would hold few of them, by day.
"""

import dataclasses
import datetime
import hashlib
import json
import zoneinfo
from pathlib import Path

import amanda_files
import amanda_layout
import croniter
from amanda_errors import ArgumentError, ParseError

UTC = datetime.timezone.utc
MINUTE = datetime.timedelta(minutes=1)
SECOND = datetime.timedelta(seconds=1)

TICK = datetime.timedelta(minutes=10)
"""How often Salt's scheduler has it looked whether a run is due."""

CATCH_UP = datetime.timedelta(hours=1)
"""A run that starts later than this makes up for what was missed: cron times that passed
meanwhile, too. Within it, the scheduler's ticks and a run in progress delay ordinary runs."""

SET_BACK = datetime.timedelta(days=1)
"""How far in the future the last served cron time may lie and still be believed."""


@dataclasses.dataclass(frozen=True)
class Due:
    """What :func:`due` decided.

    run
        Whether a run is to be started now.
    served
        The cron time to record as served: with *run*, once the run has been started; without,
        at once if it differs from what was recorded. In UTC.
    planned
        When the run is planned for, splay included: the one that is due, else the next. In UTC.
    remark
        What the administrator should know, or None.
    """

    run: bool
    served: datetime.datetime
    planned: datetime.datetime
    remark: str | None = None


def local_zone(path=Path("/etc/localtime")):
    """Return the machine's time zone with all its rules; UTC if there is no *path*."""
    try:
        with path.open("rb") as file:
            return zoneinfo.ZoneInfo.from_file(file, key="localtime")
    except FileNotFoundError:
        return UTC


def offset(splay, seed):
    """Return the seconds in 0 … *splay* by which *seed* is always late.

    seed
        What is spread, a string: server and config.
    """
    if not splay:
        return 0
    digest = hashlib.sha256(seed.encode()).digest()
    return int.from_bytes(digest[:8], "big") % (splay + 1)


def due(cron, last, now, splay=0, seed=""):
    """Decide whether a run is due.

    cron
        Five fields as in crontab(5), in the time zone of *now*.
    last
        The cron time that was served last, aware; None if there never was one.
    now
        The present, aware, in a zone that knows its rules (:func:`local_zone`).
    splay, seed
        See :func:`offset`; seconds.

    Returns :class:`Due`. Raises :class:`ArgumentError` if *cron* can't be read or never comes.
    """
    zone, now = now.tzinfo, now.astimezone(UTC)
    late = datetime.timedelta(seconds=offset(splay, seed))
    passed = _previous(cron, now, zone)
    upcoming = _next(cron, now, zone)
    if last is None:
        return Due(False, passed, upcoming + late, "waits for its first cron time")
    last = last.astimezone(UTC)
    if last > max(upcoming, now + SET_BACK):
        remark = (
            f"the last run was recorded for {_text(last)}, which is yet to come: the clock was "
            "set back; the record is put right and the next cron time runs"
        )
        return Due(False, passed, upcoming + late, remark)
    ready = _previous(cron, now - late, zone)
    if ready <= last:
        return Due(False, last, _next(cron, last, zone) + late)
    planned = ready + late
    if now - planned <= CATCH_UP:
        return Due(True, ready, planned)
    remark = f"{_text(planned)} was missed; this run makes up for all that were missed"
    return Due(True, passed, planned, remark)


def look(config, cron, splay, seed, now=None, path=amanda_layout.DUE):
    """Return :class:`Due` for *config*, from the record at *path*.

    seed
        What tells this server from others; the config's name is added, to spread its configs.

    A config not yet recorded is recorded, and so is a correction, since both must be remembered
    for the next look. After starting a run call :func:`record`.

    A record that can't be read gives one run, with a remark saying so: an extra dump costs a
    tape, a missed one may cost the data.
    """
    now = now or datetime.datetime.now(local_zone())
    try:
        served = read(path).get(config)
    except ParseError as error:
        moment = now.astimezone(UTC)
        passed = _previous(cron, moment, now.tzinfo)
        return Due(True, passed, moment, f"{error}; running once to be safe")
    decision = due(cron, served, now, splay, f"{seed} {config}")
    if not decision.run and decision.served != served:
        record(config, decision.served, path)
    return decision


def read(path=amanda_layout.DUE):
    """Return the cron time that each config served last, a dict of aware datetimes.

    Raises :class:`ParseError` if *path* is there and can't be understood.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise ParseError(f"{path}, the record of runs", str(error)) from None
    try:
        moments = {
            name: datetime.datetime.fromisoformat(moment)
            for name, moment in json.loads(text)["served"].items()
        }
        if any(moment.tzinfo is None for moment in moments.values()):
            raise ValueError("a time without its zone")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ParseError(f"{path}, the record of runs", text[:200]) from None
    return moments


def interval(cron, now):
    """Return the longest time between two runs, a timedelta.

    It is looked for from the last but one cron time on, among the next ones: over more than a week,
    as a weekend is longer than a day, and among twenty, as months differ.

    now
        As for :func:`due`.
    """
    zone = now.tzinfo
    last = _previous(cron, now.astimezone(UTC), zone)
    moments = [_previous(cron, last - SECOND, zone), last]
    while len(moments) < 20 or moments[-1] - now < datetime.timedelta(days=8):
        moments.append(_next(cron, moments[-1] + TICK - SECOND, zone))
    return max(after - before for before, after in zip(moments, moments[1:], strict=False))


def record(config, served, path=amanda_layout.DUE):
    """Record at *path* that *config* has served the cron time *served*.

    A damaged record is replaced: :func:`look` has said so, and nothing in it could be used.
    """
    try:
        moments = read(path)
    except ParseError:
        moments = {}
    moments[config] = served
    content = {"served": {name: _text(moments[name]) for name in sorted(moments)}}
    amanda_files.write(path, (json.dumps(content, indent=1) + "\n").encode(), mode=0o600)


def _text(moment):
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _iterator(cron, wall):
    if len(cron.split()) != 5:
        raise ArgumentError(f"cron {cron!r} doesn't have five fields, see crontab(5)")
    try:
        return croniter.croniter(cron, wall)
    except croniter.CroniterError as error:
        raise ArgumentError(f"cron {cron!r} can't be read: {error}") from None


def _step(cron, wall, direction):
    """Return the cron time, as a wall clock shows it, strictly before or after *wall*."""
    iterator = _iterator(cron, wall)
    move = iterator.get_prev if direction < 0 else iterator.get_next
    try:
        return move(datetime.datetime)
    except croniter.CroniterError:
        raise ArgumentError(f"cron {cron!r} never comes") from None


def _previous(cron, now, zone):
    """Return the last moment, up to and with *now*, at which *cron* came."""
    return _moment(_step(cron, _high_water(now.astimezone(zone)), -1), zone)


def _next(cron, now, zone):
    """Return the first moment after *now* at which *cron* comes."""
    return _moment(_step(cron, _high_water(now.astimezone(zone)) - SECOND, +1), zone)


def _high_water(now):
    """Return the first wall-clock second that has not been shown up to *now*.

    That is the next second, except while an hour is shown for the second time.
    """
    wall = now.replace(tzinfo=None, microsecond=0) + SECOND
    first, second = now.replace(fold=0), now.replace(fold=1)
    if now.fold == 0 or first.utcoffset() <= second.utcoffset():
        return wall
    change = _change(first.astimezone(UTC), second.astimezone(UTC), now.tzinfo)
    return max(wall, (change + first.utcoffset()).replace(tzinfo=None))


def _moment(wall, zone):
    """Return when a clock in *zone* first shows *wall* or, if it skips it, something later."""
    early, late = (wall.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if early.utcoffset() < late.utcoffset():  # skipped: the two readings lie around the jump
        return _change(late.astimezone(UTC), early.astimezone(UTC), zone)
    return early.astimezone(UTC)


def _change(before, after, zone):
    """Return the moment between *before* and *after* at which *zone* changes its offset."""
    target = after.astimezone(zone).utcoffset()
    while after - before > SECOND:
        middle = before + ((after - before) / 2 // SECOND or 1) * SECOND
        if middle.astimezone(zone).utcoffset() == target:
            after = middle
        else:
            before = middle
    return after
