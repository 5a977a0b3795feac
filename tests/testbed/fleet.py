"""A bed: a master and its minions, from nothing and back to nothing."""

import contextlib
import hashlib
import json
import os
import re
import secrets
import select
import shutil
import signal
import subprocess
import time
import traceback
from pathlib import Path

from tests.testbed import cgroup, claim, ground, images, network, salt
from tests.testbed.command import BedError, describe, run
from tests.testbed.host import CHECKOUT, PACKAGES, Host

SERVER = "backup-server"
CLIENTS = ("web1", "db1")
PILLAR = "/srv/pillar"
FIRST_NUMBER = 10
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
STOP_TIMEOUT = 30
JOB_TIMEOUT = 1800


def minion_names(count: int) -> list[str]:
    """Return the ids of the server and of ``count`` clients."""
    more = [f"client{number}" for number in range(len(CLIENTS) + 1, count + 1)]
    return [SERVER, *CLIENTS[:count], *more]


class Bed:
    """The bed called ``name`` of this checkout; what it is doing is asked of the kernel each time.

    ``up`` makes it. Until ``release`` is called it ends with the process that made it.
    """

    def __init__(self, name: str = "bed", report=None):
        if not NAME.fullmatch(name):
            raise BedError(f"a bed's name is of lower case letters, digits and hyphens, not {name}")
        self.name = name
        self.state = images.CACHE / "beds" / name
        owner = hashlib.sha256(os.fsencode(images.CHECKOUT)).hexdigest()[:8]
        self.group = cgroup.Group(f"salt-amanda-bed.{owner}.{name}")
        self._ground_group = cgroup.Group(f"{self.group.name}/ground")
        self._lifeline: int | None = None
        self._boots: list = []
        self._client: salt.Client | None = None
        self._said = report or (lambda message: None)

    # --- its life ---

    def up(self, pillar: Path | None = None, clients: int = len(CLIENTS)) -> "Bed":
        """Make the hosts, boot them and see every minion in; on any failure leave nothing.

        ``pillar`` is the pillar's root, read live (default: the checkout's own); ``clients`` the
        number of minions beside the server.
        """
        with self._making():
            hosts = [salt.MASTER, *minion_names(clients)]
            self._make(images.prepare(self._said), hosts, pillar)
            self._boot()
            self._see_in()
        return self

    def up_lone(self, host: str) -> "Bed":
        """Make a bed of one host that has no master: salt-call there reads the checkout."""
        with self._making():
            self._make(images.prepare(self._said), [host], None)
            self._boot()
        return self

    @contextlib.contextmanager
    def _making(self):
        """Hold the bed while it is made, from nothing; on any failure leave nothing again."""
        with claim.claim(f"{self.group.name}.making", 0, f"the bed {self.name} is being made"):
            if self.running():
                raise BedError(f"the bed {self.name} is up already")
            self._said(f"making the bed {self.name}")
            try:
                self._end()
                yield
            except BaseException as error:
                # What was interrupted may hold the claim that is waited for.
                traceback.clear_frames(error.__traceback__)
                self._end()
                raise

    def release(self) -> None:
        """Let the bed outlive this process."""
        if self._lifeline is not None:
            os.write(self._lifeline, b"stay")
            os.close(self._lifeline)
            self._lifeline = None

    def down(self) -> None:
        """End the bed, whatever state it is in; a bed that is not there is fine."""
        why = f"the bed {self.name} is being made by another process: end that one"
        with claim.claim(f"{self.group.name}.making", 0, why):
            self._end()

    def _end(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        self._end_ground()
        self.group.remove()
        shutil.rmtree(self.state, ignore_errors=True)
        if self._client is not None:
            self._client.end()
            self._client = None
        for boot in self._boots:
            boot.reap()
        self._boots.clear()
        images.sweep_if_idle()
        with contextlib.suppress(OSError):
            self.state.parent.rmdir()  # unless other beds have theirs there

    def _end_ground(self) -> None:
        """Return when no ground has the bed any more, not even one that is on its way out.

        Such a one would remove what the next makes.
        """
        end = time.monotonic() + STOP_TIMEOUT
        while not (free := claim.try_claim(self.group.name)):
            pid = self._ground_group.init_pid()
            if pid is not None:
                stop(pid)
            if time.monotonic() > end:
                raise BedError(f"the bed {self.name} does not end: {sorted(self.group.pids())}")
            time.sleep(0.02)  # the kernel tells nobody when a claim is free
        free.close()

    def running(self) -> bool:
        """Tell whether the bed has a ground."""
        return self._ground_group.init_pid() is not None

    @property
    def ground_pid(self) -> int:
        """The machine's id of the bed's ground; raises BedError when there is none."""
        pid = self._ground_group.init_pid()
        if pid is None:
            raise BedError(f"the bed {self.name} is not up")
        return pid

    # --- its hosts ---

    @property
    def hosts(self) -> dict[str, int]:
        """The hosts' names and numbers, the master first."""
        return self._roster()["hosts"]

    @property
    def minions(self) -> list[str]:
        """The ids of the master's minions."""
        hosts = list(self.hosts)
        return hosts[1:] if hosts[0] == salt.MASTER else []

    def _roster(self) -> dict:
        try:
            return json.loads((self.state / "bed.json").read_text())
        except FileNotFoundError as error:
            raise BedError(f"the bed {self.name} is not up") from error

    def address(self, host: str) -> str:
        """Return a host's address."""
        return network.address(self.hosts[host])

    def host(self, name: str) -> Host:
        """Return a host; raises BedError when there is none of that name."""
        pid = self.ground_pid
        if name not in self.hosts:
            raise BedError(f"no host {name}: there are {', '.join(self.hosts)}")
        return Host(name, self.group, pid, self.state / f"{name}.log")

    def poweroff(self, name: str) -> None:
        """Cut a host's power and pull its cable: nothing answers at its address any more."""
        host = self.host(name)
        network.plug(self._enter, self.hosts[name], connected=False)
        host.kill()

    def poweron(self, name: str) -> None:
        """Start a host again from the disk it had; returns when its minion, if any, is in again."""
        host = self.host(name)
        if host.running():
            raise BedError(f"{name} is running")
        host.kill()
        network.plug(self._enter, self.hosts[name], connected=True)
        if name not in self.minions or not self.host(salt.MASTER).running():
            self._start(host).wait()
            return
        for fact in self._watch([name]):
            if "answers" in fact:
                self._start(host).wait()

    def replace(self, name: str) -> None:
        """Put a new machine in the place of a minion's host: same id and address, empty disk.

        Returns when its minion, whose new key the master accepts, is in.
        """
        self.poweroff(name)
        self.host(name).unmake()
        roster = self._roster()
        self.host(name).make(self._files(name, roster["hosts"], roster["pillar"]))
        self.run(salt.MASTER, ["salt-key", "--yes", f"--delete={name}"])
        network.plug(self._enter, self.hosts[name], connected=True)
        for fact in self._watch([name]):
            if "answers" in fact:
                self._start(self.host(name)).wait()
                self.run(name, ["systemctl", "enable", "--quiet", "--now", "salt-minion"])

    def restart_minion(self, name: str) -> None:
        """Restart a host's minion; returns when it is in again."""
        for fact in self._watch([name]):
            if "answers" in fact:
                self.run(name, ["systemctl", "restart", "salt-minion"])

    # --- work in it ---

    def run(
        self,
        host: str,
        argv: list[str],
        *,
        input: bytes | None = None,
        check: bool = True,
        timeout: float = 600,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess:
        """Run ``argv`` as root in a host; stdout and stderr are bytes, unchanged.

        Raises BedError when it exits non-zero, unless ``check`` is false, or is not done within
        ``timeout`` seconds, after which it is killed.
        """
        done = run(self.host(host).command(argv, env), stdin=input, check=False, timeout=timeout)
        done.args = argv
        if check and done.returncode:
            said = done.stdout + done.stderr
            raise BedError(f"on {host}: {describe(argv, done.returncode, said)}")
        return done

    def stream(self, host: str, argv: list[str], env: dict[str, str] | None = None) -> int:
        """Run ``argv`` in a host with this process's standard streams; return the exit code."""
        return subprocess.run(self.host(host).command(argv, env), check=False).returncode

    def write(self, host: str, path: str, content: bytes, mode: int = 0o644) -> None:
        """Write a file in a host, with its directories."""
        argv = ["install", "-D", "-m", f"{mode:o}", "/dev/stdin", path]
        self.run(host, argv, input=content)

    def read(self, host: str, path: str) -> bytes:
        """Return the content of a file in a host."""
        return self.run(host, ["cat", "--", path]).stdout

    def salt(self, target: str, function: str, *arguments, check: bool = True, **options) -> dict:
        """Run a function on the minions that ``target``, a glob or a comma list, names.

        Returns minion: answer. Raises SaltError when one of them does not return or fails; with
        ``check`` false what came is returned, be it nothing.
        """
        if self._client is None or not self._client.alive():
            program = (Path(__file__).parent / "jobs.py").read_text()
            command = self.host(salt.MASTER).command([salt.PYTHON, "-c", program])
            self._client = salt.Client(command)
        answers = self._client.do(salt.job(target, function, arguments, options), JOB_TIMEOUT)
        if check:
            salt.insist(answers, salt.targeted(target, self.minions))
        return {minion: answer["ret"] for minion, answer in answers.items()}

    # --- how it is made ---

    def _enter(self, argv: list[str]) -> list[str]:
        return ground.inside(self.ground_pid, argv)

    def _make(self, parts: images.Images, names: list[str], pillar: Path | None) -> None:
        """Make the ground, the network and the hosts' disks."""
        (self.state / "disk").mkdir(parents=True)
        hosts = {name: FIRST_NUMBER + n for n, name in enumerate(names)}
        self.group.create()
        self._ground_group.create()
        mounts = {
            "base": parts.base,
            "salt": parts.salt,
            "packages": parts.packages,
            "checkout": images.CHECKOUT,
            "disk": self.state / "disk",
        }
        if pillar and not pillar.is_dir():
            raise BedError(f"the pillar {pillar} is no directory")
        if pillar:
            mounts["pillar"] = pillar.resolve()
        plan = {
            "claim": self.group.name,
            "group": self.group.name,
            "state": str(self.state),
            "on_disk": bool(os.environ.get("BED_ON_DISK")),
            "parts": {name: str(path) for name, path in mounts.items()},
        }
        self._lifeline = ground.start(self.group, plan, self.state / "ground.log")
        (self.state / "bed.json").write_text(json.dumps({"hosts": hosts, "pillar": bool(pillar)}))
        network.lay(self._enter, hosts)
        for name in hosts:
            self.host(name).make(self._files(name, hosts, bool(pillar)))
        self._said("network and disks made")

    def _files(self, name: str, hosts: dict[str, int], own_pillar: bool) -> dict[str, str]:
        """Return the files that make a host the one it is."""
        own = network.address(hosts[name])
        files = {
            "/etc/hostname": f"{name}\n",
            "/etc/machine-id": f"{secrets.token_hex(16)}\n",
            # No other host has a name here: a bed must not work because of names that real fleets
            # may not have.
            "/etc/hosts": f"127.0.0.1 localhost\n::1 localhost\n{own} {name}\n",
        }
        if salt.MASTER not in hosts:
            files["/etc/salt/minion.d/bed.conf"] = salt.lone_config(name)
        elif name == salt.MASTER:
            pillar = PILLAR if own_pillar else f"{CHECKOUT}/pillar"
            files["/etc/salt/master.d/bed.conf"] = salt.master_config(pillar)
        else:
            master = network.address(hosts[salt.MASTER])
            files["/etc/salt/minion.d/bed.conf"] = salt.minion_config(name, master)
        return files

    def _start(self, host: Host):
        binds = {CHECKOUT: "checkout", PACKAGES: "packages"}
        if host.name == salt.MASTER and self._roster()["pillar"]:
            binds[PILLAR] = "pillar"
        boot = host.start(binds)
        self._boots.append(boot)
        return boot

    def _boot(self) -> None:
        """Boot the hosts, all at once."""
        for boot in [self._start(self.host(name)) for name in self.hosts]:
            boot.wait()
        self._said("hosts booted")

    def _see_in(self) -> None:
        """Start the minions when the master answers; return when all are in.

        A minion that starts before loses 15 s: its first request times out.
        """
        service = ["systemctl", "enable", "--quiet", "--now"]
        self.run(salt.MASTER, [*service, "salt-master"])
        for fact in self._watch(self.minions):
            if "answers" in fact:
                self._said("master answers")
                for name in self.minions:
                    self.run(name, [*service, "--no-block", "salt-minion"])
            else:
                self._said(" ".join(f"{name}: {what}" for what, name in fact.items()))

    def _watch(self, minions: list[str]):
        """Yield what the watcher on the master says, as it says it."""
        program = (Path(__file__).parent / "watch.py").read_bytes()
        argv = [salt.PYTHON, "-c", program.decode(), *minions]
        process = subprocess.Popen(
            self.host(salt.MASTER).command(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with process:
            try:
                for line in process.stdout:
                    yield json.loads(line)
                if process.wait():
                    raise BedError(f"the fleet did not come up:\n{process.stderr.read().decode()}")
            finally:
                process.kill()


def stop(pid: int) -> None:
    """Ask a ground to end and wait until it has; kill it when it doesn't."""
    try:
        end = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(end, signal.SIGTERM)
        if not select.select([end], [], [], STOP_TIMEOUT)[0]:
            signal.pidfd_send_signal(end, signal.SIGKILL)
            select.select([end], [], [], STOP_TIMEOUT)
    except ProcessLookupError:
        pass
    finally:
        os.close(end)
