"""What every host is made of, built once and kept in ``.cache`` of the checkout.

Three parts, each a directory named by the hash of what it is built from, so a changed recipe is a
new directory: ``wheels`` (Salt and the test tools, fetched by the machine's pip, which has the
index configuration that a chroot lacks), ``base`` (a bare Debian, and beside it the packages that
states under test may install), ``salt`` (the layer over ``base`` with Salt in it).
"""

import configparser
import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.command import BedError

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / ".cache"
SUITE = "bookworm"
HERE = Path(__file__).parent
RECIPES = HERE / "recipes"
KINDS = ("wheels", "base", "salt")
BUILD_TIMEOUT = 900
PRUNE_AFTER = 86400  # seconds


@dataclass
class Images:
    """The directories that a host's root is made of."""

    base: Path
    salt: Path
    packages: Path


def salt_version() -> str:
    """Return the version of Salt in the hosts: SALT_VERSION, or the one that setup.cfg pins."""
    pins = dict(requirement.split("==") for requirement in pinned("test"))
    return os.environ.get("SALT_VERSION") or pins["salt"]


def pinned(extra: str) -> list[str]:
    """Return the requirements of an extra of setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(CHECKOUT / "setup.cfg")
    lines = parser["options.extras_require"][extra].splitlines()
    return [line.strip() for line in lines if line.strip()]


def requirements() -> list[str]:
    """Return what is installed beside Salt in the hosts, with Salt's version as asked."""
    others = [line for line in pinned("test") if not line.startswith("salt==")]
    return [f"salt=={salt_version()}", *others]


def key(*inputs: str | Path) -> str:
    """Return a short hash of texts and of files' contents."""
    digest = hashlib.sha256()
    for item in inputs:
        data = item.read_bytes() if isinstance(item, Path) else item.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:12]


def places() -> tuple[Path, Path, Path]:
    """Return where wheels, base and Salt layer lie, whether they are there yet or not."""
    wheels = CACHE / "wheels" / key(*requirements())
    base = CACHE / "base" / key(SUITE, RECIPES / "base", RECIPES / "packages")
    salt = CACHE / "salt" / key(base.name, wheels.name, RECIPES / "salt")
    return wheels, base, salt


@contextmanager
def locked():
    """Hold the cache's lock: one build at a time, and no partial directory without a builder."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prepare(report) -> Images:
    """Return the images, building what is missing; ``report`` is told of each step."""
    wheels, base, salt = places()
    images = Images(base / "rootfs", salt / "root", base / "packages")
    if base.exists() and salt.exists():
        os.utime(base)
        os.utime(salt)
        return images
    with building() as start:
        jobs = []
        if not wheels.exists() and not salt.exists():
            jobs.append(start("wheels", wheels, wheel_command()))
        if not base.exists():
            jobs.append(start("base", base, recipe("base", SUITE, RECIPES / "packages")))
        for job in jobs:
            job.finish(report)
        if not salt.exists():
            argv = recipe("salt", base, wheels, *requirements())
            start("salt", salt, argv).finish(report)
        prune({wheels, base, salt})
    return images


def prune(keep: set[Path]) -> None:
    """Remove images that nobody asked for in a day and no bed has; the caller holds the lock."""
    entries = [entry for kind in KINDS for entry in (CACHE / kind).glob("*")]
    for entry in entries:
        if entry not in keep and time.time() - entry.stat().st_mtime > PRUNE_AFTER:
            if not any(in_use(part) for part in entry.iterdir() if part.is_dir()):
                shutil.rmtree(entry)


def in_use(directory: Path) -> bool:
    """Tell whether a bed's ground has its shared lock on a directory."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def prepare_wheels() -> Path:
    """Return the directory of the wheels, filling it if it is missing."""
    wheels, _, _ = places()
    if not wheels.exists():
        with building() as start:
            if not wheels.exists():
                start("wheels", wheels, wheel_command()).finish(lambda message: None)
    return wheels


@contextmanager
def building():
    """Hold the cache's lock and give the function that starts a Job; none outlives the block."""
    jobs = []

    def start(*arguments) -> Job:
        jobs.append(Job(*arguments))
        return jobs[-1]

    with locked():
        sweep()
        try:
            yield start
        finally:
            for job in jobs:
                job.stop()
            sweep()


def sweep() -> None:
    """Remove what interrupted builds left; the caller holds the lock."""
    for partial in CACHE.glob("*/*.partial"):
        shutil.rmtree(partial)


def sweep_if_idle() -> None:
    """Remove what killed builds left, unless a build is going on."""
    if not CACHE.exists():
        return
    with (CACHE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        sweep()


def wheel_command() -> list[str]:
    """Return the command that puts all wheels into the directory that is its last argument."""
    venv = CHECKOUT / ".venv/bin/python"
    python = str(venv) if venv.exists() else "/usr/bin/python3"
    # Some of old Salt's dependencies come as source that only an isolated build can build.
    pip = [python, "-m", "pip", "wheel", "--quiet", "--use-pep517"]
    return [*pip, "pip", *requirements(), "--wheel-dir"]


def recipe(name: str, *arguments: str | Path) -> list[str]:
    """Return the command of a recipe, run where its mounts and processes can't outlive it."""
    cage = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
    return [*cage, "/bin/sh", "-eu", str(RECIPES / name), *map(str, arguments)]


class Job:
    """A build in the background; its result is there, whole, or not at all."""

    def __init__(self, name: str, target: Path, argv: list[str]):
        self.name = name
        self.target = target
        self.partial = target.with_suffix(".partial")
        (self.partial / "tmp").mkdir(parents=True)
        self.log = self.partial / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", *argv, str(self.partial)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(self.partial / "tmp")},
            )

    def finish(self, report) -> None:
        """Wait for the end and keep the result; raises BedError with the log if it failed."""
        try:
            code = self.process.wait(BUILD_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise BedError(f"building {self.name}: no end after {BUILD_TIMEOUT} s") from error
        if code:
            tail = self.log.read_text(errors="replace")[-4000:]
            raise BedError(f"building {self.name} failed with exit code {code}:\n{tail}")
        shutil.rmtree(self.partial / "tmp")
        self.partial.rename(self.target)
        report(f"{self.name} built")

    def stop(self) -> None:
        """End the build if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
