"""Chains of dumps: a full one and the increments on it, which together give a DLE's state.

Everything here is asked of dumps that :mod:`amanda_catalogue` read.
"""

from amanda_errors import AmandaError
from amanda_log import iso


def by_dle(dumps):
    """Return the dumps of each DLE, lists by host and disk: to be asked for one DLE after another.

    What this module tells of a DLE it looks for in all that it is given.
    """
    found = {}
    for dump in dumps:
        found.setdefault((dump.host, dump.disk), []).append(dump)
    return found


def _select(dumps, host, disk, at=None, status=None):
    """Return the dumps of a DLE made at or before *at*, the oldest first."""
    chosen = [
        dump
        for dump in dumps
        if (dump.host, dump.disk) == (host, disk)
        and (at is None or dump.timestamp <= at)
        and status in (None, dump.status)
    ]
    return sorted(chosen, key=lambda dump: (dump.timestamp, -dump.level))


def newest(dumps, host, disk, at=None, level=None, status="OK"):
    """Return the last :class:`Dump` of a DLE made at or before *at*, or None.

    dumps
        What :func:`amanda_catalogue.read` returned.
    at
        A timestamp (14 digits); None is now.
    level
        Only dumps of this level; None takes any.
    status
        Only dumps with this status; None takes partial ones too.
    """
    chosen = [
        dump for dump in _select(dumps, host, disk, at, status) if level in (None, dump.level)
    ]
    return chosen[-1] if chosen else None


def _links(candidates):
    """Return the chain that ends in the last of *candidates*, and the dump whose base is missing.

    The second is None if the chain is whole.
    """
    links = [candidates[-1]]
    while links[0].level:
        dump = links[0]
        below = [
            other
            for other in candidates
            if other.level < dump.level
            and other.timestamp < dump.timestamp
            and dump.base in (None, other.timestamp)
        ]
        if not below:
            return links, dump
        links.insert(0, below[-1])
    return links, None


def chain(dumps, host, disk, at=None):
    """Return the dumps that give a DLE's state at *at*: the full first, then its increments.

    Partial dumps never count. Raises :class:`amanda_errors.AmandaError` if the DLE has no dump,
    none so early (naming the first there is), or if a dump that an increment builds on is gone:
    without it the increments would give a tree that never was.
    """
    candidates = _select(dumps, host, disk, at, "OK")
    if not candidates:
        ever = _select(dumps, host, disk, None, "OK")
        if not ever:
            raise AmandaError(f"no whole dump of {host} {disk} is on tape")
        raise AmandaError(
            f"no dump of {host} {disk} is as old as {iso(at)}: "
            f"the first on tape is of {iso(ever[0].timestamp)}"
        )
    links, broken = _links(candidates)
    if broken is None:
        return links
    base = f" of {iso(broken.base)}" if broken.base else ""
    had = "no state before that can be had"
    if whole := last_chain(candidates, host, disk):
        had = f"the last state before that can be had is of {iso(whole[-1].timestamp)}"
    raise AmandaError(
        f"the level {broken.level} dump of {host} {disk} of {iso(broken.timestamp)} builds "
        f"on one{base} that is on no tape; {had}"
    )


def last_chain(dumps, host, disk):
    """Return the dumps that give the last state of a DLE that can be had; [] if there is none."""
    candidates = _select(dumps, host, disk, None, "OK")
    for end in range(len(candidates), 0, -1):
        links, broken = _links(candidates[:end])
        if broken is None:
            return links
    return []
