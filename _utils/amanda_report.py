"""What became of each directory in a past run, from the run's log.

Not from amreport(8): of a dump that never came to a tape its JSON says "full", a flushed dump it
lists twice, with two fates, a line that it can't read it passes over, and it knows no tape of a
dump (Amanda 3.5.1). :mod:`amanda_log` reads the same log, and raises, quoting the line.
"""

import dataclasses
import re

import amanda_amdump
import amanda_catalogue
import amanda_generations
import amanda_manifest
import amanda_mirrored
import amanda_outcomes
import amanda_sources
import amanda_verified
from amanda_errors import AmandaError, ArgumentError
from amanda_log import iso
from amanda_verified import place

_LASTED = re.compile(r"date [0-9]+ time (?P<seconds>[0-9]+(?:\.[0-9]+)?)")


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of the dumps on tape today, for what became of them since.

    dumps
        Those of the catalogue.
    record
        The :class:`amanda_verified.Record`.
    mirrored
        Which tapes are in the mirror's newest generation, pairs of label and write time; None if
        there is no mirror, or it can't be read.
    problems
        What couldn't be found out, and why, in words.
    """

    dumps: tuple = ()
    record: object = amanda_verified.Record()
    mirrored: frozenset | None = None
    problems: tuple = ()

    def of(self, outcome):
        """Return whether a dump is ``verified`` and ``mirrored``: True, False or, not known, None.

        A dump that is on tape no more is neither.
        """
        wanted = (outcome.host, outcome.disk, outcome.timestamp, outcome.level)
        for dump in self.dumps:
            if (dump.host, dump.disk, dump.timestamp, dump.level) == wanted:
                verdict = self.record.verdict(dump)
                there = self.mirrored and self.mirrored.issuperset(place(dump))
                return {
                    "verified": verdict and verdict.good,
                    "mirrored": None if self.mirrored is None else bool(there),
                }
        return {"verified": None, "mirrored": None}


def known(settings, config, places):
    """Return the :class:`Known` of a config; what can't be read is told, and hides no report."""
    asked = {"dumps": lambda: tuple(amanda_catalogue.read(places))}
    asked["record"] = lambda: amanda_verified.read(config)
    if settings.mirror:
        asked["mirrored"] = lambda: _mirrored(settings.mirror, config)
    found, problems = {}, []
    for name, read in asked.items():
        try:
            found[name] = read()
        except (AmandaError, OSError) as error:
            problems.append(str(error))
    return Known(**found, problems=tuple(problems))


def _mirrored(mirror, config):
    manifest = amanda_generations.load(mirror, config, known=amanda_mirrored.read(mirror, config))
    return frozenset(manifest.keys)


def report(places, timestamp, known):
    """Return what the run at *timestamp* did, a dict.

    places
        :class:`amanda_layout.ConfigPlaces` of the config.
    timestamp
        14 digits; one of :func:`amanda_catalogue.runs`.
    known
        A :class:`Known`.

    ``run`` (ISO 8601), ``success``, ``message``, ``finished`` (False of a run that was killed),
    ``seconds``, ``problems`` (those of the run as a whole), and sums: ``directories``, ``failed``,
    ``original_bytes``, ``bytes``. ``dles`` has an entry for each directory, what failed first:
    ``host``, ``disk``, ``level``, ``success``, ``reason``, ``strange``, ``messages``, ``labels``;
    ``original_bytes`` before compression and ``bytes`` on tape, ``ratio`` of the two,
    ``dump_seconds``, ``dump_rate``, ``tape_seconds``, ``tape_rate`` (bytes a second, of what was
    written), each None where there is none; ``verified`` and ``mirrored``, by what is known today,
    of which ``unknown`` says what isn't, and why. ``flushed`` has the same, with its ``timestamp``,
    of what earlier runs had dumped: from the holding disk, or copied by amvault.

    Raises :class:`amanda_errors.ParseError` on a line that can't be read.
    """
    events = amanda_catalogue.run_events(places, timestamp)
    outcomes = amanda_outcomes.of_run(events, timestamp)
    entries = [(outcome.timestamp, _entry(outcome, known)) for outcome in outcomes]
    entries.sort(key=lambda each: (each[1]["success"], each[1]["host"], each[1]["disk"]))
    dles = [entry for made, entry in entries if made == timestamp]
    flushed = [{"timestamp": iso(made), **entry} for made, entry in entries if made != timestamp]
    told = {
        "run": iso(timestamp),
        "finished": any((event.program, event.kind) == ("driver", "FINISH") for event in events),
        "seconds": _seconds(events),
        "problems": amanda_outcomes.messages_of_run(events),
        "directories": len(dles),
        "failed": sum(not entry["success"] for entry in dles),
        "original_bytes": sum(entry["original_bytes"] or 0 for entry in dles),
        "bytes": sum(entry["bytes"] for entry in dles),
    }
    lost = [entry for entry in (*dles, *flushed) if not entry["success"]]
    success = told["finished"] and not lost and not told["problems"]
    words = {"success": success, "message": _message(told, flushed, lost)}
    unknown = {"unknown": list(known.problems)} if known.problems else {}
    return {**words, **told, **unknown, "dles": dles, "flushed": flushed}


def trend(places, until, count, known):
    """Return a row for each of *count* runs, the newest first: a :func:`report` without entries.

    until
        The last of them, as :func:`choose` takes it.

    A run whose log can't be read has its ``run`` and the ``problem``; the others aren't lost by it.
    """
    last = choose(places, until)
    there = [each for each in sorted(amanda_catalogue.all_logs(places)) if each <= last]
    rows = []
    for timestamp in there[: -count - 1 : -1]:
        try:
            told = report(places, timestamp, known)
        except AmandaError as error:
            told = {"run": iso(timestamp), "problem": str(error)}
        rows.append({key: told[key] for key in told if key not in ("dles", "flushed")})
    return rows


def choose(places, until=None):
    """Return the timestamp of the newest run, or of the newest that had begun by *until*.

    until
        14 digits.

    Raises :class:`amanda_errors.ArgumentError` naming what there is.
    """
    there = sorted(amanda_catalogue.all_logs(places))
    if not there:
        raise ArgumentError(f"there was no run of {places.name} yet: none has left a log")
    if until is None:
        return there[-1]
    before = [each for each in there if each <= until]
    if not before:
        raise ArgumentError(
            f"no log of {places.name} is as old as {iso(until)}: the first is of {iso(there[0])}"
        )
    return before[-1]


def moment(text):
    """Return a moment as :func:`choose` takes it: a run's own 14 digits, or a time."""
    return text if amanda_manifest.WRITTEN.fullmatch(text) else amanda_sources.timestamp(text)


def _entry(outcome, known):
    reason = ""
    if not outcome.success:
        texts = [outcome.reason, *outcome.messages]
        plain = amanda_amdump.reason(outcome.host, outcome.disk, texts)
        reason = plain or f"Amanda says: {outcome.reason}"
    return {
        "host": outcome.host,
        "disk": outcome.disk,
        "level": outcome.level,
        "success": outcome.success,
        "reason": reason,
        "strange": outcome.strange,
        "messages": list(outcome.messages),
        "labels": list(outcome.labels),
        "original_bytes": outcome.original,
        "bytes": outcome.size,
        "ratio": _quotient(outcome.size, outcome.original, 3),
        "dump_seconds": outcome.dump_seconds,
        "dump_rate": _quotient(outcome.size, outcome.dump_seconds),
        "tape_seconds": outcome.tape_seconds and round(outcome.tape_seconds, 3),
        "tape_rate": _quotient(outcome.size, outcome.tape_seconds),
        **known.of(outcome),
    }


def _quotient(number, divisor, digits=None):
    return round(number / divisor, digits) if divisor and number else None


def _seconds(events):
    """Return how long the run took; None of one that never finished, and of amvault's."""
    for event in events:
        if (event.program, event.kind) == ("driver", "FINISH"):
            match = _LASTED.match(event.message)
            return float(match["seconds"]) if match else None
    return None


def _message(told, flushed, lost):
    """Return in a sentence how the run went."""
    parts = [f"{told['directories'] - told['failed']} of {told['directories']} directories on tape"]
    if flushed:
        parts[0] += f", and {len(flushed)} that earlier runs had dumped"
    if lost:
        first = lost[0]
        rest = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        parts.append(f"{first['host']} {first['disk']}: {first['reason']}{rest}")
    elif told["problems"]:
        parts.append(told["problems"][0])
    if not told["finished"]:
        parts.append("The run did not finish")
    return ". ".join(parts)
