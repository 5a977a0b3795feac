"""Which generations of a mirror stay, and what is so unusual that all of them do."""

import dataclasses
import datetime
import statistics

from amanda_generations import made

UNUSUAL = 4
"""How many times more than before is unusual."""

SHRUNK = 2
"""How many times less than before is unusual."""

_SHOWN = 5  # of the DLEs that can't be restored

_COMPARED = 3
"""How many generations there must be before one can be called unusual."""


def last_fulls(dumps, record=None):
    """Return where the newest good full of each DLE is, as a manifest has it.

    dumps
        What :func:`amanda_catalogue.read` returned.
    record
        The :class:`amanda_verified.Record`. Once anything was verified, only what was found good
        counts: else an older generation would give up the last that is known to be.

    If something could not be read for it, the newest without such a gap is there as well.
    """
    newest, complete = {}, {}
    for dump in sorted(dumps, key=lambda dump: dump.timestamp):
        if dump.level == 0 and dump.status == "OK" and (not record or record.good(dump)):
            keys = {(part.label, part.written) for part in dump.parts}
            newest[f"{dump.host} {dump.disk}"] = keys
            if dump.complete:
                complete[f"{dump.host} {dump.disk}"] = keys
    return {dle: tuple(sorted(newest[dle] | complete.get(dle, set()))) for dle in newest}


def forgetting(manifest, dles):
    """Return *manifest* as if no full dump of *dles*, pairs of host and disk, were in it.

    What was let go keeps no generation, and isn't missed in a new one.
    """
    names = {" ".join(dle) for dle in dles}
    fulls = {dle: keys for dle, keys in manifest.fulls.items() if dle not in names}
    return dataclasses.replace(manifest, fulls=fulls)


def unrestorable(new, before, dumps):
    """Return in words which DLEs a generation can't restore, that should be in it.

    new
        The new :class:`amanda_manifest.Manifest`.
    before
        Those that were there, the oldest first.
    dumps
        As for :func:`last_fulls`.
    """
    last = {dle: old.generation for old in before for dle in old.fulls if dle not in new.fulls}
    dles = [f"{dle} (generation {generation} can)" for dle, generation in last.items()]
    if not new.fulls and not dles:
        dles = dict.fromkeys(f"{dump.host} {dump.disk}" for dump in dumps if dump.status == "OK")
    if not dles:
        return []
    shown = ", ".join(sorted(dles)[:_SHOWN])
    return [
        f"this generation and its EMERGENCY.txt can't restore {shown}"
        f"{' …' if len(dles) > _SHOWN else ''}: no full dump that is known to be good is in it. "
        "See what amanda.verify says of these; the next dump of each must be a full one ('amadmin "
        f"{new.config} force HOST DISK')"
    ]


def keep(manifests, days):
    """Return the generations to keep, of *manifests*, the oldest first.

    Kept is what is at most *days* days older than the newest, and, for each DLE that any
    generation knows a full of, the newest generation that does.
    """
    newest = manifests[-1]
    oldest = made(newest.generation) - datetime.timedelta(days=days)
    last = {dle: old.generation for old in manifests for dle in old.fulls}
    names = {newest.generation, *last.values()}
    return [old for old in manifests if old.generation in names or made(old.generation) >= oldest]


def unusual(new, before, days):
    """Return what is unusual about a generation beside those before it, in words.

    new
        The new :class:`amanda_manifest.Manifest`.
    before
        Those that were there, the oldest first.
    days
        How long generations are kept.

    What was doubtful itself is no measure, else a doubt would be forgotten by the next run; nor
    is what came before one that an administrator accepted.
    """
    accepted = [at for at, old in enumerate(before) if old.standing == "accepted"]
    before = before[accepted[-1] if accepted else 0 :]
    doubtful = [old for old in before if old.standing == "doubtful"]
    before = [old for old in before if old.standing != "doubtful"]
    if not before:
        return []
    warnings = []
    last = before[-1]
    if last.server != new.server:
        warnings.append(
            f"generation {last.generation} was written by the server {last.server!r}. If that "
            "server still runs, give each its own mirror directory"
        )
    gap = made(new.generation) - made(last.generation)
    if gap > datetime.timedelta(days=days):
        warnings.append(
            f"generation {last.generation}, the last that nothing was unusual about, is {gap.days} "
            "days old. Check the clock; if it was wrong, remove the generations made meanwhile"
        )
    if len(before) >= _COMPARED:
        usual = statistics.median(old.size for old in before)
        if new.size > usual * UNUSUAL or new.size * SHRUNK < usual:
            warnings.append(f"this generation has {new.size} bytes, where {usual:.0f} are usual")
        most = max(old.new_bytes for old in before)
        for each in (*doubtful, new):  # what one added stays unusual after it
            if each.new_bytes > most * UNUSUAL:
                which = "this generation" if each is new else f"generation {each.generation}"
                warnings.append(
                    f"{which} adds {each.new_bytes} bytes, where {most} were the most so far"
                )
    return warnings
