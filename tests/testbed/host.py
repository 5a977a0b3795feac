"""One host of a bed: its disk, its boot, its end, and commands run in it."""

import os
import select
import shutil
import socket
import subprocess
from pathlib import Path

from tests.testbed import cgroup, ground
from tests.testbed.command import BedError, run

BOOT_TIMEOUT = 60
CHECKOUT = "/checkout"  # where every host finds the checkout, read-only
PACKAGES = "/opt/packages"  # the package repository that apt in the hosts knows
ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "USER": "root",
}


class Host:
    """A host called ``name`` on the ground ``ground_pid`` of the bed whose cgroup is ``bed``."""

    def __init__(self, name: str, bed: cgroup.Group, ground_pid: int, log: Path):
        self.name = name
        self.log = log
        self.place = f"{ground.PLACE}/hosts/{name}"
        self._bed = bed
        self._group = cgroup.Group(f"{bed.name}/{name}")
        self._ground = ground_pid

    def _enter(self, argv: list[str]) -> list[str]:
        return ground.inside(self._ground, argv)

    def path(self, path: str) -> Path:
        """Return where the machine sees a path of the host's disk. For hosts not yet booted only.

        A booted host could have put a symbolic link there that leads into the machine.
        """
        return Path(f"/proc/{self._ground}/root{self.place}/root{path}")

    def make(self, files: dict[str, str]) -> None:
        """Make the host's disk, an overlay on the common root, and put ``files`` on it."""
        for directory in ("upper", "work", "root"):
            Path(f"/proc/{self._ground}/root{self.place}/{directory}").mkdir(parents=True)
        options = ",".join(
            (
                f"lowerdir={ground.PLACE}/salt:{ground.PLACE}/base",
                f"upperdir={self.place}/upper",
                f"workdir={self.place}/work",
                # One device number for all files, as on a real disk: without it tar would take
                # what comes from a lower layer for another file system, and leave it out.
                "xino=on",
            )
        )
        argv = ["mount", "-t", "overlay", "-o", options, self.name, f"{self.place}/root"]
        run(self._enter(argv))
        for name, content in files.items():
            path = self.path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    def unmake(self) -> None:
        """Take away the disk of a host that is off, and all that was on it."""
        run(self._enter(["umount", f"{self.place}/root"]))
        for directory in ("upper", "work", "root"):
            shutil.rmtree(f"/proc/{self._ground}/root{self.place}/{directory}")

    def start(self, binds: dict[str, str]) -> "Boot":
        """Start booting the host, with ``binds`` (place in the host: part of the ground)."""
        self._group.create()
        argv = [
            "systemd-nspawn",
            "--quiet",
            "--boot",
            "--settings=no",
            "--register=no",
            "--keep-unit",
            "--link-journal=no",
            "--resolv-conf=off",
            "--timezone=off",
            "--notify-ready=yes",
            f"--machine={self.name}",
            f"--directory={self.place}/root",
            f"--network-namespace-path=/run/netns/{self.name}",
        ]
        argv += [f"--bind-ro={ground.PLACE}/{part}:{place}" for place, part in binds.items()]
        wrapped = self._enter(cgroup.joined(self._group.paths, argv))
        return Boot(self, [path / "ground" for path in self._bed.paths], wrapped, self._ground)

    @property
    def pid(self) -> int:
        """The machine's id of the host's PID 1; raises BedError when the host is off."""
        pid = self._group.init_pid()
        if pid is None:
            raise BedError(f"{self.name} is not running")
        return pid

    def running(self) -> bool:
        """Tell whether the host has a PID 1."""
        return self._group.init_pid() is not None

    def kill(self) -> None:
        """Take the power from the host: everything in it is killed, nothing is written."""
        self._group.remove()

    def command(self, argv: list[str], environment: dict[str, str] | None = None) -> list[str]:
        """Return the command of the machine that runs ``argv`` in the host, as root, in ``/``.

        It joins the cgroup of the host's PID 1, so that it belongs to the host in every respect:
        systemd there can move it into a scope. It is killed when the one who waits for it dies.
        """
        pid = self.pid
        variables = [f"{k}={v}" for k, v in {**ENVIRONMENT, **(environment or {})}.items()]
        enter = ["nsenter", f"--target={pid}", "--all", "--"]
        settle = ["/usr/bin/setpriv", "--pdeathsig=KILL"]
        # Whoever runs the tests may have signals ignored.
        settle += ["/usr/bin/env", "--default-signal", "--chdir=/", "-i", *variables]
        return cgroup.joined(cgroup.groups_of(pid), [*enter, *settle, *argv])


class Boot:
    """A host that is booting: wait() returns when its systemd says that it is up."""

    def __init__(self, host: Host, groups: list[Path], argv: list[str], ground_pid: int):
        self._host = host
        name = f"{host.place}/notify"
        outside = f"/proc/{ground_pid}/root{name}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if os.path.exists(outside):
            os.unlink(outside)
        self._socket.bind(outside)
        with host.log.open("ab") as log:
            self._process = subprocess.Popen(
                cgroup.joined(groups, argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "NOTIFY_SOCKET": name},
            )

    def wait(self) -> None:
        """Wait for the end of the boot; raises BedError when it fails or takes too long."""
        end = os.pidfd_open(self._process.pid)
        try:
            while True:
                readable, _, _ = select.select([self._socket, end], [], [], BOOT_TIMEOUT)
                if self._socket in readable:
                    if b"READY=1" in self._socket.recv(65536).split(b"\n"):
                        return
                    continue
                reason = "ended while booting" if readable else f"not up after {BOOT_TIMEOUT} s"
                log = self._host.log.read_text(errors="replace")
                raise BedError(f"{self._host.name} {reason}:\n{log[-4000:]}")
        finally:
            os.close(end)
            self._socket.close()

    def reap(self) -> None:
        """Collect the process if it has ended, so that no zombie of a past bed stays."""
        self._process.poll()
