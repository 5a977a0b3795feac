"""Backups on the bed: start them, wait for them, read what they tell, and the trees they hold."""

import contextlib
import json
import re
import subprocess
import time

import amanda_age

from tests.integration import fleet as on_fleet
from tests.testbed import Bed, salt

SERVER = "backup-server"
MIRROR = "/srv/mirror"
RUNS = "/var/lib/salt-amanda/runs"
UNIT = "amanda-run.service"
OFFSITE = amanda_age.new_identity()
PICTURE = "/checkout/tests/picture.py"
_FOUND = re.compile(
    r"(?P<day>\S+) (?P<time>\S+) +(?P<host>\S+) +(?P<disk>/\S*) +(?P<level>\d+) +\S+ +\S+ +"
    r"(?P<label>\S+) +(?P<file>\d+) +\S+ +OK *"
)


def until(condition, what: str, seconds: float = 60):
    """Return what *condition* gives once that is true; fail the test after so many seconds."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return answer


def until_in(bed: Bed, *minions: str) -> None:
    """Wait until each of *minions* answers."""
    wanted = dict.fromkeys(minions, True)

    def answer():
        return bed.salt(",".join(minions), "test.ping", check=False) == wanted

    until(answer, f"an answer of {', '.join(minions)}")


# --- runs ---


def run(bed: Bed, action: str = "backup_and_mirror", *arguments: str) -> dict:
    """Do it and return its result, be it a failure."""
    result = bed.salt(SERVER, f"amanda.{action}", *arguments, check=False)[SERVER]
    assert isinstance(result, dict), result
    return result


def good(result: dict) -> dict:
    """Return a result, once it is sure that all went well."""
    assert result["success"], [step["message"] for step in result["steps"] if not step["success"]]
    return result


def steps(result: dict) -> dict:
    """Return the steps of a result by name, in their order."""
    return {step["step"]: step for step in result["steps"]}


def dles(result: dict) -> dict:
    """Return what the step dump tells of each DLE, by host and disk."""
    return {(entry["host"], entry["disk"]): entry for entry in steps(result)["dump"]["dles"]}


def catalogue(bed: Bed) -> set[tuple]:
    """Return host, disk, level, label and time of each dump that Amanda calls OK."""
    argv = ["runuser", "-u", "backup", "--", "amadmin", "daily", "find"]
    lines = bed.run(SERVER, argv).stdout.decode().splitlines()[2:]
    found = [_FOUND.fullmatch(line) for line in lines if re.search(r" OK *$", line)]
    assert found and None not in found, lines
    return {
        (
            *each.group("host", "disk"),
            int(each["level"]),
            each["label"],
            re.sub(r"\D", "", each["day"] + each["time"]),
        )
        for each in found
    }


def newest_result(bed: Bed) -> dict:
    """Return the newest result as it stands on the server's disk."""
    return json.loads(
        bed.run(SERVER, ["sh", "-c", f"cat $(ls -t {RUNS}/*.json | head -n 1)"]).stdout
    )


def results(bed: Bed) -> list[str]:
    """Return the names of all results."""
    return sorted(bed.run(SERVER, ["ls", RUNS]).stdout.decode().split())


def is_running(bed: Bed) -> bool:
    """Tell whether a run is going on."""
    argv = ["systemctl", "is-active", UNIT]
    return bed.run(SERVER, argv, check=False).stdout == b"active\n"


def wait_for_end(bed: Bed) -> dict:
    """Return the newest result once no run is going on."""
    until(lambda: not is_running(bed), "the end of the run", 120)
    return newest_result(bed)


@contextlib.contextmanager
def held_run(bed: Bed, action: str = "backup_and_mirror"):
    """Start a run by the salt command and hold it in its dump for this block; give the command."""
    before = results(bed)
    process = subprocess.Popen(
        bed.host(salt.MASTER).command(["salt", "--out=json", SERVER, f"amanda.{action}"]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        until(lambda: results(bed) != before and newest_result(bed)["step"] == "dump", "a dump")
        bed.run(SERVER, ["systemctl", "kill", "--signal=STOP", UNIT])
        try:
            yield process
        finally:
            # The block may have killed it.
            bed.run(SERVER, ["systemctl", "kill", "--signal=CONT", UNIT], check=False)
            wait_for_end(bed)
    finally:
        process.kill()
        process.wait()


# --- the pillar that has it all ---


@contextlib.contextmanager
def backup_pillar(bed: Bed, pillar, settings: dict, name: str = "backups"):
    """Add *settings* to the server's pillar and apply it there, for this block."""
    pillar.reset()
    pillar.add(name, settings, SERVER)
    pillar.refresh()
    on_fleet.apply(bed, SERVER)
    try:
        yield
    finally:
        pillar.reset()
        pillar.refresh()
        on_fleet.apply(bed, SERVER)


def mirrored(bed: Bed, pillar):
    """Add a mirror, whose user can read no tape and no key, and an offsite recipient."""
    return backup_pillar(bed, pillar, made_mirror(bed, MIRROR))


def made_mirror(bed: Bed, directory: str) -> dict:
    """Make a mirror's directory and its user; return what the pillar says then, with OFFSITE."""
    script = (
        f"id mirror >/dev/null 2>&1 || useradd --system mirror; "
        f"install -d -m 700 -o mirror {directory}"
    )
    bed.run(SERVER, ["sh", "-c", script])
    (identity,) = amanda_age.identities(OFFSITE, "offsite")
    return {
        "encryption": {"recipients": [amanda_age.public_key(identity)]},
        "mirror": {"user": "mirror", "directory": directory},
    }


# --- trees ---


@contextlib.contextmanager
def also_backed_up(bed: Bed, host: str, *paths: str):
    """Have directories of a client backed up for this block, by states; then they are retired."""
    for path in paths:
        assert on_fleet.single(bed, host, "amanda.directory", path)["result"] is True
    try:
        yield
    finally:
        for path in paths:
            on_fleet.single(bed, host, "amanda.directory_absent", path)
            bed.salt(SERVER, "amanda.retire", host, path, check=False)


def picture(bed: Bed, host: str, path: str | bytes) -> list[bytes]:
    """Return a line for each name of a tree on a host: all that a restore has to bring back."""
    return bed.run(host, [salt.PYTHON, PICTURE, "show", path]).stdout.splitlines()


def differences(expected: list[bytes], found: list[bytes]) -> list[bytes]:
    """Return the lines that only one of two pictures has."""
    return sorted(set(expected) ^ set(found))


def now(bed: Bed) -> str:
    """Return the server's time, ISO 8601, once that second is over: dumps are told by seconds."""
    moment = bed.run(SERVER, ["date", "+%Y-%m-%dT%H:%M:%S"]).stdout.decode().strip()
    time.sleep(1.1)  # what happens next is later
    return moment
