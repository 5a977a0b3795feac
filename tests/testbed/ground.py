"""The ground of a bed: the process in whose namespaces the bed's hosts live and die.

Run as a program it forks, and the child is PID 1 of a new PID namespace, with a mount and a
network namespace of its own (the switch). It mounts what the hosts are made of, says ``ready``,
and waits. It ends the bed on SIGTERM, or when its standard input ends before the word ``stay`` was
read there: so a bed is tied to the process that made it until that process lets it go, and even
SIGKILL leaves nothing running. Should the ground itself be killed, the kernel ends the rest.
"""

import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.testbed import cgroup, claim
from tests.testbed.command import BedError, run

PLACE = "/run/bed"  # inside the ground: where the hosts' parts are mounted
READY_TIMEOUT = 20

CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x20000000, 0x40000000


def start(group: cgroup.Group, plan: dict, log: Path) -> int:
    """Start a ground in ``group``; return the pipe's end whose closing ends the bed.

    ``plan`` has ``claim`` (held as long as the ground lives), ``group`` (the bed's cgroup, removed
    at the end), ``state`` (its directory, the same), ``parts`` (name: directory to mount under
    PLACE) and ``on_disk`` (true: the hosts' changes go to the part ``disk``).
    """
    reader, lifeline = os.pipe()
    argv = ["/usr/bin/python3", "-B", __file__, json.dumps(plan)]
    try:
        with log.open("wb") as errors:
            process = subprocess.Popen(
                cgroup.joined([path / "ground" for path in group.paths], argv),
                stdin=reader,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
    except BaseException:
        os.close(lifeline)
        raise
    finally:
        os.close(reader)
    try:
        with process.stdout:
            readable, _, _ = select.select([process.stdout], [], [], READY_TIMEOUT)
            answer = process.stdout.readline() if readable else b""
        process.wait(READY_TIMEOUT)
        if answer != b"ready\n":
            raise BedError(f"the ground did not start:\n{log.read_text(errors='replace')}")
    except BaseException:
        os.close(lifeline)
        raise
    return lifeline


def inside(pid: int, argv: list[str]) -> list[str]:
    """Return ``argv`` so wrapped that it runs in the namespaces of the ground ``pid``."""
    return ["nsenter", f"--target={pid}", "--mount", "--pid", "--net", "--", *argv]


def unshare(flags: int) -> None:
    """Leave the machine's namespaces (os.unshare is in Python 3.12 and later only)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")


def mount(*arguments: str) -> None:
    """Run mount(8)."""
    run(["mount", *arguments])


def furnish(parts: dict[str, str], on_disk: bool) -> None:
    """Mount a fresh /proc, /run and /tmp, and each part under PLACE.

    The parts are opened first, since they may lie below /run or /tmp. systemd-nspawn keeps locks
    in /run and a mount point in /tmp: these are ours now, and go with us. The tmpfs on /run holds
    the hosts' changes, all that was installed in them, unless the kernel's tmpfs can't hold user
    attributes (before Linux 6.6).
    """
    mount("--make-rslave", "/")
    handles = {name: os.open(path, os.O_RDONLY | os.O_DIRECTORY) for name, path in parts.items()}
    for handle in handles.values():
        fcntl.flock(handle, fcntl.LOCK_SH)  # kept open: a part in use is not pruned
    mount("-t", "proc", "-o", "nosuid,nodev,noexec", "proc", "/proc")
    mount("-t", "tmpfs", "-o", "mode=0755,size=80%,nr_inodes=0", "bed", "/run")
    mount("-t", "tmpfs", "-o", "mode=1777", "bed-tmp", "/tmp")
    for name, handle in handles.items():
        target = Path(PLACE, name)
        target.mkdir(parents=True)
        done = subprocess.run(
            ["mount", "--bind", f"/proc/self/fd/{handle}", str(target)],
            pass_fds=[handle],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise BedError(f"can't mount {parts[name]}: {done.stderr.decode()}")
    if on_disk or not has_user_attributes("/run"):
        Path(PLACE, "hosts").mkdir()
        mount("--bind", f"{PLACE}/disk", f"{PLACE}/hosts")


def has_user_attributes(directory: str) -> bool:
    """Tell whether files there can have extended attributes of the namespace user."""
    try:
        os.setxattr(directory, "user.probe", b"")
    except OSError:
        return False
    os.removexattr(directory, "user.probe")
    return True


def wait_for_end(lifeline: int) -> None:
    """Reap orphans until SIGTERM comes, or the lifeline ends before it said ``stay``."""
    wakeup, alarm = os.pipe()
    os.set_blocking(alarm, False)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    watched = [wakeup, lifeline]
    while True:
        readable, _, _ = select.select(watched, [], [])
        if lifeline in readable:
            if os.read(lifeline, 16) != b"stay":
                return
            watched.remove(lifeline)
        if wakeup in readable and signal.SIGTERM in os.read(wakeup, 64):
            return
        reap()


def reap() -> None:
    """Collect every child that has ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def clear(group: str, state_parent: int, state_name: str) -> None:
    """End all that runs on this ground and remove its cgroup and its directory."""
    for root in cgroup.hierarchies():
        (root / "cgroup.procs").write_text("0")
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass
    cgroup.Group(group).remove()
    shutil.rmtree(f"/proc/self/fd/{state_parent}/{state_name}", ignore_errors=True)


def main() -> None:
    """Become the ground that the plan in the first argument describes."""
    plan = json.loads(sys.argv[1])
    state = Path(plan["state"])
    held = claim.claim(plan["claim"], READY_TIMEOUT, "an earlier ground of this bed does not end")
    unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET)
    if os.fork():
        os._exit(0)
    state_parent = os.open(state.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        furnish(plan["parts"], plan["on_disk"])
        run(["ip", "link", "set", "lo", "up"])
        os.write(1, b"ready\n")
        os.close(1)
        os.chdir("/")
        wait_for_end(0)
    finally:
        clear(plan["group"], state_parent, state.name)
        held.close()


if __name__ == "__main__":
    main()
