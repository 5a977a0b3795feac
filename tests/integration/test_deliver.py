"""Files delivered to other minions by the master's runner, and drills that are compared there."""

import contextlib
import json
import subprocess

import pytest

from tests.integration import backups
from tests.integration import fleet as on_fleet
from tests.integration.backups import PICTURE, SERVER, differences, good, picture, until
from tests.testbed import salt

TREE = "/srv/parcel"
INTO = "/srv/from web1"
RECOVERED = "/var/lib/salt-amanda/recovered"
KEYS = "/var/backups/.ssh/authorized_keys"
CONNECTOR = "/usr/local/lib/salt-amanda/deliver"
UNIT = "amanda-door.service"
LEFT = f"""
    cd /
    ls -d {RECOVERED}/.amanda-* /run/salt-amanda/[!ad]* /run/salt-amanda/door \
        /run/salt-amanda/delivery-* /var/lib/salt-amanda/door.json 2>/dev/null
    grep amanda-door {KEYS}
    systemctl is-active {UNIT}
"""


class Runner:
    """The runner as the administrator calls it."""

    def __init__(self, bed):
        self.bed = bed

    def command(self, function, *words):
        """Return the command of the machine that does it."""
        argv = ["salt-run", "--out=json", "--log-level=quiet", f"amanda.{function}", *words]
        return self.bed.host(salt.MASTER).command(argv)

    def __call__(self, function, *words, status=0):
        """Return what it gives; *status* is the command's own."""
        argv = self.command(function, *words)
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout)

    def left(self):
        """Return what stands on any host that a delivery should have taken away."""
        found = {}
        for host in self.bed.minions:
            said = self.bed.run(host, ["sh", "-c", LEFT], check=False).stdout.decode().split()
            found[host] = [line for line in said if line != "inactive"]
        return {host: lines for host, lines in found.items() if lines}


@pytest.fixture(scope="module")
def home(fleet):
    """Give the fleet after a backup of a hard tree on web1, and what that tree was."""
    with backups.also_backed_up(fleet, "web1", TREE):
        script = f"rm -rf {TREE}; {salt.PYTHON} {PICTURE} build {TREE}"
        fleet.run("web1", ["sh", "-c", script])
        good(backups.run(fleet, "backup"))
        fleet.run(salt.MASTER, ["salt-run", "saltutil.sync_all"])
        yield fleet
    for host in ("web1", "db1"):
        fleet.run(host, ["rm", "-rf", RECOVERED, INTO, f"{INTO}.sha256"])


@pytest.fixture
def runner(home):
    """Give the runner; nothing may be left of any delivery."""
    runner = Runner(home)
    yield runner
    assert runner.left() == {}


def test_a_tree_comes_to_another_minion_as_it_was_and_nothing_of_it_stays_on_the_server(runner):
    before = runner.bed.run(SERVER, ["ls", "-A", RECOVERED], check=False).stdout
    told = runner("recover", "web1", TREE, "to=db1", f"into={INTO}")
    assert told["to"] == "db1" and told["restored"] == f"{INTO}/parcel"
    assert told["message"].endswith(f"is on db1: {INTO}/parcel")
    known = picture(runner.bed, "web1", TREE)
    assert (
        len(known) > 100 and differences(known, picture(runner.bed, "db1", f"{INTO}/parcel")) == []
    )
    check = 'cd "$1" && stat -c "%U %a" . && sha256sum --quiet --check "$2"'
    argv = ["sh", "-c", check, "sh", INTO, told["manifest"]]
    assert runner.bed.run("db1", argv).stdout == b"root 700\n"
    assert runner.bed.run(SERVER, ["ls", "-A", RECOVERED], check=False).stdout == before


def test_by_default_a_tree_comes_back_to_where_it_is_from_beside_what_is_there(runner):
    told = runner("recover", "web1", f"{TREE}/links")
    assert told["to"] == "web1" and told["restored"].startswith(f"{RECOVERED}/web1-")
    known = picture(runner.bed, "web1", f"{TREE}/links/in")
    assert differences(known, picture(runner.bed, "web1", f"{told['restored']}/in")) == []


def test_a_drill_is_compared_on_the_minion_with_its_own_files_and_the_server_knows(runner):
    runner.bed.run("web1", ["sh", "-c", "echo '# changed since' >> /etc/fstab"])
    found = runner("drill", "to=web1", "path=/etc", "source=tapes")
    (entry,) = found["directories"]
    assert found["success"] and entry["delivered_to"] == entry["host"] == "web1", found
    assert entry["live"]["compared"] > 100 and entry["live"]["changed"] >= 1
    last = runner.bed.salt(SERVER, "amanda.status")[SERVER]["drills"]["daily"]["last"]
    assert last["success"] and "delivered to web1, which compared" in last["message"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["web1", "/etc", "to=web9"], "web9 is no minion that this master has accepted"),
        (["web1", "/etc", "into=/usr"], "web1: /usr isn't empty"),
        (["web1", "/nowhere"], "backup-server: /nowhere is in no directory dumped of web1"),
        (["web1", "/etc", "server=db1"], "web1: this minion is a client of 'backup-server'"),
    ],
)
def test_what_can_not_be_delivered_is_told_in_a_line(runner, words, said):
    told = runner("recover", *words, status=1)
    assert told.startswith(said) and "Traceback" not in told


@contextlib.contextmanager
def held(runner, *words):
    """Hold a delivery to db1 as soon as it has come in, for this block; give the command."""
    wait = b"#!/bin/sh\necho $$ > /var/tmp/held\nexec sleep 300\n"
    original = runner.bed.read("db1", CONNECTOR)
    runner.bed.write("db1", CONNECTOR, wait, mode=0o755)
    runner.bed.run("db1", ["install", "-o", "backup", "/dev/null", "/var/tmp/held"])
    argv = runner.command("recover", "web1", TREE, "to=db1", *words)
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        until(lambda: runner.bed.read("db1", "/var/tmp/held"), "the delivery")
        yield process
    finally:
        runner.bed.run("db1", ["sh", "-c", "kill $(cat /var/tmp/held); rm /var/tmp/held"])
        runner.bed.write("db1", CONNECTOR, original, mode=0o755)
        process.kill()
        process.wait()


@pytest.mark.parametrize("signal", ["INT", "HUP"])
def test_an_interrupt_shuts_the_door_and_an_apply_before_it_does_no_harm(runner, signal):
    with held(runner) as process:
        assert b"amanda-door:" in runner.bed.read("db1", KEYS)
        single = on_fleet.single(
            runner.bed, "db1", "amanda.server_authorized", "server's key authorized"
        )
        assert single["result"] is True and not single["changes"], single
        assert b"amanda-door:" in runner.bed.read("db1", KEYS)
        # to the command itself, as a terminal would: the test's own process only goes there
        argv = ["pkill", "--oldest", f"--signal={signal}", "--full", "salt-run.*amanda.recover"]
        runner.bed.run(salt.MASTER, argv)
        until(lambda: process.poll() is not None, "the end of the command")
        assert b"broken off: nothing was delivered" in process.stdout.read()
        assert runner.left() == {}


def test_an_apply_takes_away_what_a_delivery_left_when_the_power_failed(runner):
    expected = {"id": "20261123T120000Z-abcdef", "destination": "/srv/lost", "authorized": KEYS}
    runner.bed.write("db1", "/var/lib/salt-amanda/door.json", json.dumps(expected).encode())
    scratch = f"/srv/.amanda-incoming-{expected['id']}"
    line = (
        "restrict ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGFueQ== amanda-door:20261123T120000Z-abcdef"
    )
    script = f"mkdir -p {scratch}/out; echo '{line}' >> {KEYS}"
    runner.bed.run("db1", ["sh", "-c", script])
    assert on_fleet.changed(on_fleet.apply(runner.bed, "db1")["db1"]) == ["server's key authorized"]
    assert runner.bed.run("db1", ["ls", "-A", "/srv"]).stdout.count(b"incoming") == 0


@pytest.mark.slow  # Salt waits twice for who doesn't answer
def test_a_minion_that_is_down_is_named_and_a_drill_on_it_is_kept_as_failed(runner):
    runner.bed.run("db1", ["systemctl", "stop", "salt-minion"])
    try:
        told = runner("recover", "web1", "/etc", "to=db1", status=1)
        assert told.startswith("db1 doesn't answer: is it up, and its salt-minion running?")
        assert runner("drill", "to=db1", status=1) == told
        last = runner.bed.salt(SERVER, "amanda.status")[SERVER]["drills"]["daily"]["last"]
        assert not last["success"] and last["message"] == told
    finally:
        runner.bed.restart_minion("db1")
