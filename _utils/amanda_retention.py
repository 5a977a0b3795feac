"""Tapes that Amanda may not write again: they hold the last state of a DLE.

Amanda overwrites its oldest tapes, whether or not another full dump was made since. A DLE that
fails for a cycle, or was retired, would lose its only full one. So before and after each dump every
tape with a dump that its DLE's last state needs is set to ``no-reuse``, once the next run could
reach it; amadmin(8). What an administrator set so himself stays.
"""

import dataclasses
import json
import os

import amanda_catalogue
import amanda_chain
import amanda_files
import amanda_limits
import amanda_retired
import amanda_verified
from amanda_command import run
from amanda_errors import AmandaError, CommandError
from amanda_layout import RETENTION
from amanda_rights import as_user


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which tapes to hold back, and what that leaves.

    hold
        By label, the DLEs whose last state needs the tape: pairs of host and disk.
    release
        Labels held back by an earlier run that nothing needs any more.
    known, writable
        How many tapes there are, and how many the next run could write, one after another.
    problem
        Why it can't be told what is needed, in words: then all that was written is held back.
    wanted
        As *hold*, of all tapes that a last state will need once all is verified, those too that no
        run comes to yet.
    spare
        How many of the tapes that Amanda may use it could do without: the others are what it
        keeps, and one to write.
    """

    hold: dict
    release: tuple
    known: int
    writable: int
    problem: str = ""
    wanted: dict = dataclasses.field(default_factory=dict)
    spare: int = 0


def needed(dumps, record=None, soon=False):
    """Return, by label, the DLEs whose last state needs the tape: pairs of host and disk.

    dumps
        What :func:`amanda_catalogue.read` gives; partial ones never count.
    record
        The :class:`amanda_verified.Record`; None: nothing was verified.
    soon
        True: as it will be once the rest is verified too, if all of that is good.

    If that state isn't good, or something could not be read for it, the last one that is good, and
    the last good one without such a gap, count as well. So does, once anything was verified, the
    last of either that was found good: else what nobody has looked at yet would give that up. As
    long as a record that was lost leaves open which that is, it may be any: all dumps count.
    """
    record = record or amanda_verified.Record()
    labels = {}
    for dle, own in amanda_chain.by_dle(dumps).items():
        good = [dump for dump in own if not record.failed(dump)]
        verified = good if soon else [dump for dump in own if record.good(dump)]
        complete = [[dump for dump in each if dump.complete] for each in (good, verified)]
        states = (own, good, verified, *complete)
        chains = [amanda_chain.last_chain(dumps, *dle) for dumps in states]
        if record.incomplete and not soon and not (chains[2] and chains[-1]):
            chains.append([dump for dump in own if dump.status == "OK"])
        parts = [part for chain in chains for dump in chain for part in dump.parts]
        for label in dict.fromkeys(part.label for part in parts):
            labels.setdefault(label, []).append(dle)
    return labels


def unsound(places, dles):
    """Return those of *dles*, pairs of host and disk, whose last state isn't good.

    What builds on it would not be good either: the next dump must be a full one. So it is if the
    state can't be told.
    """
    try:
        record = amanda_verified.read(places.name)
        dumps = amanda_chain.by_dle(amanda_catalogue.read(places) if record else [])
    except AmandaError:
        return list(dles)
    return [
        dle
        for dle in dles
        if any(map(record.failed, amanda_chain.last_chain(dumps.get(dle, ()), *dle)))
    ]


def plan(tapes, wanted, limits, held=(), soon=None):
    """Return the :class:`Plan` for the next run.

    tapes
        What :func:`amanda_catalogue.read_tapelist` gives.
    wanted
        What :func:`needed` returned.
    limits
        The :class:`amanda_limits.Limits`.
    held
        The labels that an earlier plan held back.
    soon
        What :func:`needed` returned for later; None: nothing else than *wanted*.
    """
    own = set(held)
    usable = {tape.label for tape in tapes if tape.reuse or tape.label in own}
    hold, blank, written = {}, 0, 0
    for tape in sorted(tapes, key=lambda tape: tape.written, reverse=True):
        if tape.label not in usable:
            continue  # an administrator's
        if tape.written == "0":
            blank += 1
        # Each tape that the run writes brings Amanda one nearer to those written lately.
        elif tape.label in wanted and written > limits.tapes - limits.runtapes:
            hold[tape.label] = wanted[tape.label]
        else:
            written += 1
    pinned = {tape.label for tape in tapes if not tape.reuse}
    release = tuple(sorted((own & pinned) - set(hold)))
    writable = blank + written if blank + written > limits.tapes else blank
    soon = wanted if soon is None else soon
    could = {label: names for label, names in soon.items() if label in usable}
    spare = len(usable) - limits.tapes - 1
    return Plan(hold, release, len(tapes), writable, wanted=could, spare=spare)


def look(places, user, let_go=()):
    """Return the :class:`Plan` as it is now; changes nothing.

    let_go
        DLEs for which nothing is held back, see :func:`amanda_retired.let_go`.

    Raises :class:`~amanda_errors.AmandaError` if the tapelist can't be read.
    """
    tapes = amanda_catalogue.read_tapelist(places.tapelist)
    limits, held = amanda_limits.read(places.name, user), _held(places.name)
    try:
        dumps = amanda_retired.without(amanda_catalogue.read(places), let_go)
        record = amanda_verified.read(places.name)
        return plan(tapes, needed(dumps, record), limits, held, needed(dumps, record, soon=True))
    except AmandaError as error:
        # No dump is worth more than those that there may be: what was never written must do.
        blank = [tape.label for tape in tapes if tape.reuse and tape.written == "0"]
        ours = [tape.label for tape in tapes if tape.reuse or tape.label in held]
        hold = {label: [] for label in ours if label not in blank}
        problem = f"what is on the tapes can't be told, so none is written again: {error}"
        return Plan(hold, (), len(tapes), len(blank), problem)


def hold(places, user, let_go=()):
    """Hold back what :func:`look` says, release what isn't needed any more; return the plan.

    let_go
        As for :func:`look`.

    Raises :class:`~amanda_errors.AmandaError` if that can't be done: then nothing may be written.
    """
    name = places.name
    before, found = set(_held(name)), look(places, user, let_go)
    # Noted first: a tape held back by a run that was killed must be known as ours.
    _note(name, before | set(found.hold))
    try:
        for label in sorted(found.hold):
            run(["amadmin", name, "no-reuse", label], user=user)
        for label in found.release:
            run(["amadmin", name, "reuse", label], user=user)
    except CommandError:
        if as_user(user, os.path.isdir, str(places.tapes)):
            raise
        # Nothing is written there, then; what is dumped waits on the holding disk.
        problem = f"the directory of the tapes, {places.tapes}, doesn't exist: is its disk mounted?"
        return dataclasses.replace(found, problem=problem)
    _note(name, found.hold)
    free = {tape.label for tape in amanda_catalogue.read_tapelist(places.tapelist) if tape.reuse}
    if left := free.intersection(found.hold):
        raise AmandaError(
            f"the tapes {', '.join(sorted(left))} hold the last state of a directory, but Amanda "
            "would not set them to no-reuse, so nothing is dumped"
        )
    return found


def shortage(found, config, user):
    """Return what to tell if tapes are too few for a run, or a problem; "" if all is well.

    config
        The :class:`amanda_settings.Config`.
    """
    missing = config.runtapes - found.writable
    if found.problem or missing <= 0:
        return found.problem
    names = sorted({" ".join(name) for held in found.hold.values() for name in held})
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    why = (
        f", since {len(found.hold)} are held back with the last state of {', '.join(names[:5])}"
        f"{more}. Repair what fails there; or give up what nobody needs, tape by tape, with "
        f"'runuser -u {user} -- amrmtape --cleanup {config.name} LABEL' (see amanda.tapes); or"
    )
    return (
        f"of the {config.runtapes} tapes that a run may write only {found.writable} can be written"
        f"{why if names else '.'} set backup:configs:{config.name}:slots in the pillar to "
        f"{max(config.slots, found.known) + missing} or more and apply the state backup"
    )


def outlook(found, config, dles):
    """Return what to tell if one more client that fails would take the last tapes; "" if not.

    dles
        The DLEs that are dumped, pairs of host and disk. What is on tape of others stays there.

    The last state of a client lies on no more tapes than its longest chains, so it is those of
    today that count: what fails tomorrow is not overwritten before a cycle is over.
    """
    if found.problem or not found.wanted:
        return ""
    gone = {label for label, names in found.wanted.items() if set(names) - set(dles)}
    held = gone | set(found.hold)
    needs = {
        host: {label for label, names in found.wanted.items() if host in dict(names)} - held
        for host in sorted({host for host, _ in dles})
    }
    host = max(needs, key=lambda host: len(needs[host]), default=None)
    missing = len(held) + len(needs.get(host, ())) - found.spare
    if host is None or missing <= 0:
        return ""
    already = f"{len(held)} tapes are held back with last states already; " if held else ""
    return (
        f"{already}should {host} fail from now on, its last state needs {len(needs[host])} "
        f"{'more' if held else 'tapes'}, and runs lack {missing}: "
        f"set backup:configs:{config.name}:slots in the pillar to "
        f"{max(config.slots, found.known) + missing} or more and apply the state backup"
    )


def _held(name):
    """Return the labels that we held back in config *name*, as last noted."""
    path = RETENTION / f"{name}.json"
    try:
        held = json.loads(path.read_bytes())["held"]
        if not all(isinstance(label, str) for label in held):
            raise ValueError("a label is a text")
        return held
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
