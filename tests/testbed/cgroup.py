"""The bed's cgroups: which processes belong to a bed and to each of its hosts.

systemd in a host needs a cgroup of its own in the hierarchy that systemd uses: the only one on a
cgroup v2 machine; ``systemd`` and, on a hybrid machine, ``unified`` beside the v1 controllers.
The groups lie at the top of the hierarchy, like those of container engines, and tell, with no
file that could be out of date, what runs: a bed is up while its group holds its ground.
"""

import os
import signal
import time
from pathlib import Path

from tests.testbed.command import BedError

ROOT = Path("/sys/fs/cgroup")

# Moves the shell, and so what it becomes, into the groups named first.
_JOIN = (
    "n=$1; shift; "
    'while [ "$n" -gt 0 ]; do echo 0 >"$1/cgroup.procs" || exit 125; shift; n=$((n-1)); done; '
    'exec "$@"'
)


def hierarchies() -> list[Path]:
    """Return the mount points of the hierarchies in which systemd keeps its groups."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    found = [path for path in (ROOT / "systemd", ROOT / "unified") if path.is_dir()]
    if ROOT / "systemd" not in found:
        raise BedError(f"{ROOT} has neither cgroup v2 nor the name=systemd hierarchy")
    return found


def joined(groups: list[Path], argv: list[str]) -> list[str]:
    """Return ``argv`` so wrapped that it runs in ``groups`` from its first instruction on."""
    return ["/bin/sh", "-c", _JOIN, "sh", str(len(groups)), *map(str, groups), *argv]


def groups_of(pid: int) -> list[Path]:
    """Return the groups, one a hierarchy that systemd uses, that a process is in."""
    result = []
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for root in hierarchies():
            name = {"systemd": "name=systemd"}.get(root.name, "")
            if controllers == name:
                result.append(root / path.lstrip("/"))
    return result


class Group:
    """The same group in each hierarchy, with the groups below it."""

    def __init__(self, name: str):
        self.name = name
        self.paths = [root / name for root in hierarchies()]

    def create(self) -> None:
        """Make the group; one that exists is fine."""
        for path in self.paths:
            path.mkdir(parents=True, exist_ok=True)

    def exists(self) -> bool:
        """Tell whether any of it is there."""
        return any(path.exists() for path in self.paths)

    def pids(self) -> set[int]:
        """Return the machine's ids of all processes in the group and below it."""
        found: set[int] = set()
        for path in self.paths:
            for directory, _, _ in os.walk(path):
                try:
                    found.update(map(int, Path(directory, "cgroup.procs").read_text().split()))
                except (FileNotFoundError, OSError):
                    continue  # removed, or a threaded group, since the walk began
        found.discard(0)  # a process that this PID namespace can't see
        return found

    def init_pid(self) -> int | None:
        """Return the id of the process that is PID 1 of the outermost PID namespace in here."""
        inits = []
        for pid in self.pids():
            levels = pid_levels(pid)
            if len(levels) > 1 and levels[-1] == 1:
                inits.append((len(levels), pid))
        return min(inits)[1] if inits else None

    def kill(self) -> None:
        """Send SIGKILL to every process in the group."""
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def remove(self, timeout: float = 10) -> None:
        """Kill what is left in the group and remove it; raises BedError if that can't be done.

        A killed process leaves its group only when its memory is gone, and v1 has no event for
        that: the removal itself is tried again until it succeeds.
        """
        end = time.monotonic() + timeout
        while self.exists():
            self.kill()
            for path in self.paths:
                for directory, _, _ in os.walk(path, topdown=False):
                    try:
                        os.rmdir(directory)
                    except OSError:
                        continue
            if self.exists():
                if time.monotonic() > end:
                    raise BedError(f"cgroup {self.name} is still in use by {sorted(self.pids())}")
                time.sleep(0.01)


def pid_levels(pid: int) -> list[int]:
    """Return the ids that a process has in each PID namespace, the machine's first."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    for line in status.splitlines():
        if line.startswith("NSpid:"):
            return list(map(int, line.split()[1:]))
    return []
