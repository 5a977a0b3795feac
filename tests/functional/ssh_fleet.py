"""An Amanda server and several SSH clients on this one host, made as the states would make them.

For tests as root on a host with Amanda's server and client, an SSH daemon, zstd and age. Each
client is an sshd of its own, with its own key, on its own loopback address; the dump user of all
is the same, and so is the file system. Only the tar wrapper is left out: amgtar runs tar itself.
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import amanda_command
import amanda_conf
import amanda_encryption
import amanda_files
import amanda_fleet
import amanda_layout
import amanda_platform
import amanda_provision
import amanda_results
import amanda_settings

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = REPOSITORY / "salt" / "backup" / "files"
ROOT = Path("/var/tmp/ssh-fleet")
PORT = 2022
SWALLOWED = "10.254.99.9"
"""An address whose packets vanish, as those of a host that is powered off."""
UNANSWERED = "10.254.99.8"
"""An address in a network of ours that nobody answers for."""


def run(*argv, **options):
    """Run a command of the test's own; it must succeed."""
    return subprocess.run(argv, check=True, capture_output=True, cwd="/", **options)


def descendants(pid):
    """Return the pids of all that process *pid* started, and of what those started."""
    found = []
    for path in Path("/proc", str(pid), "task").glob("*/children"):
        for child in path.read_text(encoding="ascii").split():
            found += [int(child), *descendants(int(child))]
    return found


class SshFleet:
    """A server with the config ``daily`` and as many clients as are added."""

    def __init__(self):
        self.platform = amanda_platform.detect()
        self.processes = []
        self.clients = []
        self.pillar = {
            "server": "server1",
            "configs": {
                "daily": {
                    "tapecycle": 10,
                    "tapetype": {"length": "20 mbytes"},
                    "ctimeout": 10,
                    "etimeout": 30,
                    "dtimeout": 30,
                }
            },
            "paths": {key: str(ROOT / key) for key in ("tapes", "holding", "state")},
        }
        self.remove()
        ROOT.mkdir(mode=0o755)
        self._server()
        self._nowhere()

    @property
    def settings(self):
        """The pillar as the engine has it."""
        return amanda_settings.parse(self.pillar, "server1")

    @property
    def places(self):
        """The paths of the config."""
        return amanda_layout.places("daily", self.settings.paths)

    def _server(self):
        user = pwd.getpwnam(self.platform.user)
        run("usermod", "-s", "/bin/sh", user.pw_name)
        programs = [amanda_layout.PROGRAMS / path.name for path in FILES.iterdir()]
        programs = [path for path in programs if path.suffix != ".jinja"]
        amanda_files.apply(
            [
                *amanda_provision.programs(
                    programs, lambda name: (FILES / name).read_bytes(), sys.executable
                ),
                *amanda_provision.engine(REPOSITORY / "_utils"),
            ]
        )
        amanda_layout.SSH_KEY.parent.mkdir(parents=True, exist_ok=True)
        if not amanda_layout.SSH_KEY.exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", amanda_layout.SSH_KEY)
        amanda_files.apply(amanda_provision.server_ssh(self.platform))
        amanda_encryption.ensure(self.settings.encryption, self.platform)
        self.configure()
        public = amanda_layout.SSH_KEY.with_suffix(".pub").read_text(encoding="ascii")
        command = f"{self.platform.libexec}/amandad -auth=ssh"
        (ROOT / "authorized_keys").write_text(f'restrict,command="{command}" {public}')

    def configure(self, config="daily"):
        """Write amanda.conf and label the tapes, as the pillar is now."""
        template = (FILES / "amanda.conf.jinja").read_text(encoding="utf-8")
        settings = self.settings
        text = amanda_conf.render(template, settings, settings.config(config), self.platform)
        text = text.replace(str(amanda_layout.INCREMENTAL_TAR), "/usr/bin/tar")
        amanda_files.apply(amanda_provision.config(settings, config, self.platform, text))
        assert self.run("label", config)["success"]

    def _nowhere(self):
        """Make a network of our own, in which one address swallows what is sent to it."""
        subprocess.run(["ip", "link", "del", "nowhere0"], capture_output=True, check=False)
        run("ip", "link", "add", "nowhere0", "type", "veth", "peer", "name", "nowhere1")
        run("ip", "address", "add", "10.254.99.1/24", "dev", "nowhere0")
        for name in ("nowhere0", "nowhere1"):
            run("ip", "link", "set", name, "up")
        link = ("lladdr", "02:00:00:00:00:09", "dev", "nowhere0", "nud", "permanent")
        run("ip", "neighbour", "add", SWALLOWED, *link)

    def client(self, name, disks, address=None, port=PORT, key=None, daemon="sshd"):
        """Add a client that published *disks*; returns its :class:`amanda_fleet.Client`.

        address, port
            Where the server thinks it is; by default a loopback address of its own.
        key
            The host key the server pins; by default the one that its daemon has.
        daemon
            ``sshd``, ``hung`` (takes connections and says nothing), or None.
        """
        number = len(self.clients) + 1
        address = address or f"127.0.9.{number}"
        file = ROOT / f"{name}.key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file)
        public = file.with_suffix(".key.pub").read_text(encoding="ascii").split()
        if daemon == "sshd":
            self._sshd(name, address, file)
        elif daemon == "hung":
            self._hung(address)
        client = amanda_fleet.Client(
            id=name,
            address=address,
            port=port,
            keys=(key or " ".join(public[:2]),),
            published=amanda_results.now(),
            directories=tuple(amanda_fleet.Directory(disk, "daily") for disk in sorted(disks)),
        )
        self.clients.append(client)
        self.save()
        return client

    def save(self):
        """Store the clients as the last collection."""
        fleet = amanda_fleet.Fleet(tuple(sorted(self.clients)))
        amanda_fleet.save(fleet, amanda_layout.FLEET)

    def _sshd(self, name, address, key):
        config = ROOT / f"{name}.sshd"
        config.write_text(
            f"ListenAddress {address}\nPort {PORT}\nHostKey {key}\nPidFile none\n"
            f"AuthorizedKeysFile {ROOT}/authorized_keys\nStrictModes no\nUsePAM no\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)
        self._start(["/usr/sbin/sshd", "-D", "-f", config], address)

    def _hung(self, address):
        program = (
            "import socket, sys\n"
            "listener = socket.create_server((sys.argv[1], int(sys.argv[2])))\n"
            "taken = []\n"
            "while True: taken.append(listener.accept())\n"
        )
        self._start([sys.executable, "-c", program, address, str(PORT)], address)

    def _start(self, argv, address):
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.processes.append(subprocess.Popen(argv, start_new_session=True, **streams))
        listening = f"{address}:{PORT}"
        deadline = time.monotonic() + 20
        while listening not in run("ss", "-Hltn").stdout.decode():
            assert time.monotonic() < deadline, f"nothing listens on {listening}"
            time.sleep(0.05)

    def end_clients(self):
        """End all daemons of clients, and what they started."""
        for process in self.processes:
            process.terminate()
            process.wait(timeout=10)
        self.processes = []

    def specify(self, action, config="daily", **options):
        """Write a specification as the Salt front would; returns the run's id."""
        identity = amanda_results.new_id()
        specification = {
            "id": identity,
            "action": action,
            "config": config,
            "requested": amanda_results.now(),
            "settings": self.settings.to_dict(),
            "options": options,
        }
        text = json.dumps(specification).encode()
        amanda_files.write(amanda_layout.SPECIFICATION, text, mode=0o600)
        return identity

    def start(self, action, config="daily", **options):
        """Start the installed program; returns the process and the path of its result."""
        identity = self.specify(action, config, **options)
        argv = [sys.executable, "-I", amanda_layout.ENGINE, identity]
        process = subprocess.Popen(argv, cwd="/", env={"PATH": "/nowhere"}, start_new_session=True)
        return process, amanda_results.path(config, identity)

    def run(self, action, config="daily", **options):
        """Run the installed program to its end; returns the result it left."""
        process, file = self.start(action, config, **options)
        status = process.wait(timeout=300)
        result = amanda_results.read(file)
        assert status == (0 if result["success"] else 1)
        return result

    def amanda(self, *argv):
        """Return the output of one of Amanda's commands, as the dump user."""
        return amanda_command.run(argv, user=self.platform.user).stdout.decode()

    def kill_run(self, process):
        """Kill a run with all that it started, as a power cut would.

        By pid: its descendants, and what Amanda's log names, since some leave their parents.
        """
        pids = [process.pid, *descendants(process.pid)]
        for line in (self.places.logs / "log").read_text(encoding="utf-8").splitlines():
            word = line.split()
            if word[0] == "INFO" and word[-2] == "pid":
                pids.append(int(word[-1]))
        for pid in dict.fromkeys(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def remove(self):
        """Take away all that was made."""
        self.end_clients()
        subprocess.run(["ip", "link", "del", "nowhere0"], capture_output=True, check=False)
        for path in (
            ROOT,
            amanda_layout.STATE,
            amanda_layout.PROGRAMS,
            amanda_layout.SETTINGS,
            amanda_layout.AMANDA_CONFIGS / "daily",
            amanda_layout.AMANDA_CONFIGS / "weekly",
            self.platform.home / ".ssh",
        ):
            shutil.rmtree(path, ignore_errors=True)
