"""Tapes that Amanda may not write again: they hold the last state of a DLE.

Amanda overwrites its oldest tapes, whether or not another full dump was made since. A DLE that
fails for a cycle, or was retired, would lose its only full one. So before each dump every tape
with a dump that its DLE's last state needs is set to ``no-reuse``, once the run could reach it;
amadmin(8). What an administrator set so himself stays.
"""

import dataclasses
import json

import amanda_catalogue
import amanda_files
from amanda_command import run
from amanda_errors import AmandaError
from amanda_layout import RETENTION


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which tapes to hold back, and what that leaves.

    hold
        By label, the DLEs whose last state needs the tape: pairs of host and disk.
    release
        Labels held back by an earlier run that nothing needs any more.
    writable
        How many tapes a run may still write.
    """

    hold: dict
    release: tuple
    writable: int


def needed(dumps):
    """Return, by label, the DLEs whose last state needs the tape: pairs of host and disk.

    dumps
        What :func:`amanda_catalogue.read` gives; partial ones never count.

    A DLE whose chain is broken needs at least its newest full dump.
    """
    labels = {}
    for host, disk in dict.fromkeys((dump.host, dump.disk) for dump in dumps):
        try:
            chain = amanda_catalogue.chain(dumps, host, disk)
        except AmandaError:
            full = amanda_catalogue.newest(dumps, host, disk, level=0)
            chain = [full] if full else []
        for label in dict.fromkeys(part.label for dump in chain for part in dump.parts):
            labels.setdefault(label, []).append((host, disk))
    return labels


def plan(tapes, dumps, config, held=()):
    """Return the :class:`Plan` for the next run of *config*.

    tapes
        What :func:`amanda_catalogue.read_tapelist` gives.
    config
        The :class:`amanda_settings.Config`.
    held
        The labels that an earlier plan held back.
    """
    wanted, own = needed(dumps), set(held)
    # Amanda leaves the first tapecycle - 1 reusable tapes alone, and counts anew as it writes.
    safe = config.tapecycle - config.runtapes
    hold, blank, written = {}, 0, 0
    for tape in sorted(tapes, key=lambda tape: tape.written, reverse=True):
        if not tape.reuse and tape.label not in own:
            continue  # an administrator's
        if tape.written == "0":
            blank += 1
        elif tape.label in wanted and written >= safe:
            hold[tape.label] = wanted[tape.label]
        else:
            written += 1
    pinned = {tape.label for tape in tapes if not tape.reuse}
    release = tuple(sorted((own & pinned) - set(hold)))
    return Plan(hold, release, blank + max(0, written - (config.tapecycle - 1)))


def look(places, config):
    """Return the :class:`Plan` as it is now; changes nothing."""
    tapes = amanda_catalogue.read_tapelist(places.tapelist)
    return plan(tapes, amanda_catalogue.read(places), config, _held(config.name))


def hold(places, config, user):
    """Hold back what :func:`look` says, release what isn't needed any more; return the plan.

    Raises :class:`~amanda_errors.AmandaError` if that can't be done, or can't be told: then
    nothing may be written.
    """
    before, found = set(_held(config.name)), look(places, config)
    # Noted first: a tape held back by a run that was killed must be known as ours.
    _note(config.name, before | set(found.hold))
    for label in sorted(found.hold):
        run(["amadmin", places.name, "no-reuse", label], user=user)
    for label in found.release:
        run(["amadmin", places.name, "reuse", label], user=user)
    _note(config.name, found.hold)
    free = {tape.label for tape in amanda_catalogue.read_tapelist(places.tapelist) if tape.reuse}
    if left := free.intersection(found.hold):
        raise AmandaError(
            f"the tapes {', '.join(sorted(left))} hold the last state of a directory, but Amanda "
            "would not set them to no-reuse, so nothing is dumped"
        )
    return found


def shortage(found, config):
    """Return what to tell if a run can't write as many tapes as it may; "" if it can."""
    missing = config.runtapes - found.writable
    if missing <= 0:
        return ""
    names = sorted({" ".join(name) for held in found.hold.values() for name in held})
    why = f": {len(found.hold)} are held back, with the last state of {', '.join(names[:5])}"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (
        f"of the {config.runtapes} tapes that a run may write only {found.writable} can be written"
        f"{why + more if names else ''}. Set backup:configs:{config.name}:slots in the pillar to "
        f"{config.slots + missing} or more and apply the state backup, or repair what fails there"
    )


def _held(name):
    """Return the labels that we held back in config *name*, as last noted."""
    path = RETENTION / f"{name}.json"
    try:
        return json.loads(path.read_bytes())["held"]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise AmandaError(
            f"{path} is damaged: remove it, and release tapes that stay at no-reuse without need "
            f"with 'amadmin {name} reuse LABEL'"
        ) from error


def _note(name, labels):
    RETENTION.mkdir(mode=0o700, exist_ok=True)
    content = json.dumps({"held": sorted(labels)}).encode()
    path = RETENTION / f"{name}.json"
    if not path.exists() or path.read_bytes() != content:
        amanda_files.write(path, content, mode=0o600)
