"""Where secrets could leak to while something goes on: watched on every host, then searched."""

import contextlib
import subprocess

from tests.integration.backups import SERVER, until
from tests.testbed import Bed, salt

EVENTS = "/var/tmp/leaks-events"
PROCESSES = "/var/tmp/leaks-processes"
JOURNAL = "/var/tmp/leaks-journal"
_NEEDLES = "/run/leaks-needles"

# What is told to others: logs, Salt's caches (jobs with their results, mine), what was watched.
TOLD = ["/var/log", "/var/cache/salt", "/var/tmp", "/var/lib/salt-amanda"]
# On a client nothing of the server's secrets may be anywhere.
ANYWHERE = ["/etc", "/home", "/root", "/srv", "/tmp", "/usr/local", "/var"]

# A process is looked at a few times, since it may become another program after its start.
_SAMPLER = f"""
import os, time
looks, seen = {{}}, set()
with open("{PROCESSES}", "wb", 0) as out:
    while True:
        now = set(filter(str.isdigit, os.listdir("/proc")))
        looks = {{pid: looks.get(pid, 0) + 1 for pid in now}}
        for pid in (pid for pid in now if looks[pid] < 6):
            for kind in ("cmdline", "environ"):
                try:
                    with open(f"/proc/{{pid}}/{{kind}}", "rb") as file:
                        data = file.read()
                except OSError:
                    continue
                if data not in seen:
                    seen.add(data)
                    out.write(data + b"\\n")
        time.sleep(0.02)
"""


@contextlib.contextmanager
def watched(bed: Bed):
    """Record for this block the event bus, and all processes' arguments and environments."""
    started = [_start(bed, host, [salt.PYTHON, "-c", _SAMPLER]) for host in bed.hosts]
    try:
        with events(bed):
            yield
    finally:
        _end(started)


@contextlib.contextmanager
def events(bed: Bed):
    """Record the event bus for this block, on the master in the file EVENTS."""
    listen = f"exec salt-run --no-color state.event > {EVENTS} 2>/dev/null"
    started = [_start(bed, salt.MASTER, ["sh", "-c", listen])]
    try:
        until(lambda: _hears(bed), "the first event heard")
        yield
    finally:
        _end(started)


def _end(started: list[subprocess.Popen]) -> None:
    for process in started:
        process.kill()
        process.wait()


def _start(bed: Bed, host: str, argv: list[str]) -> subprocess.Popen:
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    return subprocess.Popen(bed.host(host).command(argv), **streams)


def _hears(bed: Bed) -> bool:
    bed.salt("db1", "test.ping", check=False)
    return bed.run(salt.MASTER, ["test", "-s", EVENTS], check=False).returncode == 0


def found(bed: Bed, needles: list[bytes]) -> list[str]:
    """Return ``host:file`` of each place where one of *needles* is, none of them a newline."""
    assert needles and all(len(needle) >= 16 and b"\n" not in needle for needle in needles)
    places = []
    for host in bed.hosts:
        where = TOLD if host in (SERVER, salt.MASTER) else ANYWHERE
        script = f"""
            journalctl --quiet --output=cat --no-pager > {JOURNAL}
            for place in "$@"; do test ! -e "$place" || grep -raFl -f {_NEEDLES} "$place"; done
            rm {_NEEDLES}
        """
        bed.write(host, _NEEDLES, b"\n".join(needles), 0o600)
        done = bed.run(host, ["sh", "-c", script, "sh", *where])
        places += [f"{host}:{line}" for line in done.stdout.decode().splitlines()]
    return places


def clean(bed: Bed) -> None:
    """Remove what was recorded."""
    for host in bed.hosts:
        bed.run(host, ["rm", "-f", EVENTS, PROCESSES, JOURNAL])
