"""The bed's fleet under the state ``backup``: apply it, read its answers, list hosts' disks."""

import contextlib
import dataclasses

from tests.testbed import Bed

# What Salt itself writes whenever it does anything; logs and journals of the host go on, too.
SESSIONS = "/var/backups/.ssh/control/*"  # sockets of SSH sessions that are kept for a minute
IGNORED = ("/var/cache/salt", "/var/log", "/run", "/tmp", "/proc", "/sys", "/dev", SESSIONS)


@dataclasses.dataclass(frozen=True)
class FirstApply:
    """The first ``state.apply backup`` of a fleet, and the ``test=True`` before it.

    predicted, applied
        ``{minion: [state, …]}`` in the order in which they ran; a state as Salt returns it.
    touched
        ``{minion: [line, …]}``: what ``test=True`` changed on the disks, as ``diff`` shows it.
    """

    predicted: dict
    touched: dict
    applied: dict


def ordered(answer: dict) -> list[dict]:
    """Return the states of one minion's answer, in the order in which they ran."""
    if not isinstance(answer, dict):
        raise AssertionError(f"no states, but: {answer}")
    return sorted(answer.values(), key=lambda state: state["__run_num__"])


def apply(bed: Bed, target: str = "*", check: bool = True, **options) -> dict:
    """Apply ``backup``; return ``{minion: [state, …]}``.

    With ``check`` every state that is False fails the test, with its own words.
    """
    answers = bed.salt(target, "state.apply", "backup", check=False, **options)
    states = {minion: ordered(answer) for minion, answer in answers.items()}
    if check:
        failed = [
            f"{minion}: {each['__id__']}: {each['comment']}"
            for minion in sorted(states)
            for each in states[minion]
            if each["result"] is False
        ]
        assert not failed, "\n".join(failed)
    return states


def single(bed: Bed, minion: str, function: str, name: str, **options) -> dict:
    """Run one state on one minion and return its result, be it a failure."""
    answer = bed.salt(minion, "state.single", function, name, check=False, **options)
    (state,) = ordered(answer[minion])
    return state


def changed(states: list[dict]) -> list[str]:
    """Return the ids of the states that changed something, or would."""
    return [each["__id__"] for each in states if each["changes"]]


def listing(bed: Bed, host: str, *ignored: str) -> set[str]:
    """Return a line for each file of a host's disk: kind, owner, mode, size, time, name, target.

    Directories are without size and time, which change when a temporary file comes and goes.
    """
    leave_out = [word for path in (*IGNORED, *ignored) for word in ("-path", path, "-o")][:-1]
    line = "%y %u:%g %m {} %p %l\\0"
    shown = [
        *("-type", "d", "-printf", line.format("- -"), "-o"),
        *("-printf", line.format("%s %T@")),
    ]
    argv = ["find", "/", "-xdev", "(", *leave_out, ")", "-prune", "-o", *shown]
    return set(bed.run(host, argv).stdout.decode("utf-8", "surrogateescape").split("\0"))


def difference(before: set[str], after: set[str]) -> list[str]:
    """Return what came and went between two listings, sorted by name."""
    lines = [f"-{line}" for line in before - after] + [f"+{line}" for line in after - before]
    return sorted(lines, key=lambda line: (line.split(" ", 5)[-1], line))


@contextlib.contextmanager
def edited(bed: Bed, path: str, old: bytes, new: bytes):
    """Have the master serve a file of the checkout with *old* replaced, as if it was edited."""
    served = f"/checkout/{path}"
    text = bed.read("master", served)
    assert old in text
    bed.write("master", "/srv/edited", text.replace(old, new))
    bed.run("master", ["mount", "--bind", "/srv/edited", served])
    try:
        yield
    finally:
        bed.run("master", ["umount", served])


def forget(bed: Bed, config: str) -> None:
    """Take a config that the pillar no longer has off the server's disk, and its last collection.

    What the state ``backup`` made stays when the pillar no longer asks for it: it may hold dumps.
    """
    parents = ("/etc/amanda", *(f"/var/lib/amanda{part}" for part in ("", "/holding", "/vtapes")))
    paths = [f"{parent}/{config}" for parent in parents]
    bed.run("backup-server", ["rm", "-rf", "/var/lib/salt-amanda/fleet.json", *paths])


def installed(bed: Bed) -> bool:
    """Tell whether the fleet is no longer bare: a kept bed, for example."""
    return bed.run("backup-server", ["test", "-e", "/etc/salt-amanda"], check=False).returncode == 0


def first_apply(bed: Bed) -> FirstApply:
    """Apply ``backup`` to a bare fleet, all minions at once, once ``test=True`` told of it."""
    before = {minion: listing(bed, minion) for minion in bed.minions}
    predicted = apply(bed, check=False, test=True)
    touched = {minion: difference(before[minion], listing(bed, minion)) for minion in before}
    return FirstApply(predicted, touched, apply(bed))
