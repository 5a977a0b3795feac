"""The test bed itself: its hosts are real, and it leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.testbed import Bed, BedError, SaltError
from tests.testbed.images import CACHE, CHECKOUT

COMMAND = CHECKOUT / "tests/bed"
MARK = "BED_TEST_MARK"


# --- the hosts ---


def test_every_host_runs_its_own_systemd(bed):
    identities = set()
    for host in bed.hosts:
        state = bed.run(host, ["systemctl", "is-system-running"], check=False).stdout
        assert state == b"running\n", host
        identities.add(bed.read(host, "/etc/machine-id"))
    assert len(identities) == len(bed.hosts) == 4


def test_the_machine_has_no_way_to_the_hosts(bed):
    addresses = subprocess.run(["ip", "-o", "address"], capture_output=True, check=True).stdout
    assert bed.address("web1").rsplit(".", 1)[0].encode() not in addresses


def test_only_the_expected_keys_are_accepted(bed):
    keys = bed.run("master", ["salt-key", "--out=json", "--list=accepted"]).stdout
    assert sorted(json.loads(keys)["minions"]) == sorted(bed.minions)
    config = bed.read("master", "/etc/salt/master.d/bed.conf")
    assert b"auto_accept" not in config and b"open_mode" not in config


def test_exec_passes_bytes_and_exit_code_through(bed):
    raw = bytes(range(256)) * 4096
    argv = [COMMAND, "--name", bed.name, "exec", "db1", "--", "sh", "-c", "cat; exit 7"]
    done = subprocess.run(argv, input=raw, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (7, raw)


def test_a_command_that_takes_too_long_is_killed_in_the_host(bed):
    with pytest.raises(BedError, match="no end after"):
        bed.run("db1", ["sleep", "86399"], timeout=1)
    assert bed.run("db1", ["pgrep", "-f", "sleep 86399"], check=False).returncode == 1


def test_disks_keep_what_backups_must_keep(bed):
    script = """
        set -eu
        mkdir -p /srv/kept; cd /srv/kept; touch f; cp /usr/bin/id i
        setfattr -n user.note -v x f; setfattr -n trusted.note -v y f; setfacl -m u:backup:r f
        setcap cap_net_raw+ep i; mknod null c 1 3; mknod pipe p
        getfattr --absolute-names -d -m - f; getfacl -cp f; getcap i; stat -c %F null pipe
        chmod 4755 i; setpriv --reuid=backup --clear-groups ./i -u
    """
    said = bed.run("web1", ["sh", "-c", script]).stdout.decode()
    for expected in ('user.note="x"', 'trusted.note="y"', "user:backup:r", "cap_net_raw=ep"):
        assert expected in said
    assert "character special file\nfifo\n0\n" in said


def test_nothing_under_test_is_preinstalled_and_apt_needs_no_network(bed):
    for name in ("amanda-common", "openssh-server", "rsync", "age", "zstd", "gnupg"):
        assert bed.run("db1", ["dpkg", "--status", name], check=False).returncode, name
    answer = bed.salt("db1", "state.single", "pkg.installed", name="tools", pkgs=["age", "zstd"])
    (result,) = answer["db1"].values()
    assert result["result"] is True and {"age", "zstd"} <= set(result["changes"])


# --- Salt on them ---


def test_salt_keeps_the_types_of_arguments(bed):
    positional = ["x: y", 1, None, "5", ["a", {"b": "é #"}], True]
    answer = bed.salt("db1,web1", "test.arg", *positional, text="1", none=None, number=1)
    assert set(answer) == {"db1", "web1"}
    assert answer["db1"]["args"] == positional
    options = answer["db1"]["kwargs"]
    assert (options["text"], options["none"], options["number"]) == ("1", None, 1)


def test_a_failing_function_is_an_error_with_its_data(bed):
    with pytest.raises(SaltError) as caught:
        bed.salt("db1", "test.nosuchfunction")
    assert "not available" in caught.value.data["db1"]
    with pytest.raises(SaltError):
        bed.salt("db1", "state.single", "test.fail_without_changes", name="x")
    with pytest.raises(SaltError, match="no minion of the bed"):
        bed.salt("nobody", "test.ping")


def test_the_master_serves_salt_and_nothing_else(bed):
    listed = bed.run("master", ["salt-run", "--out=json", "fileserver.file_list"]).stdout
    files = json.loads(listed)
    assert not [name for name in files if name.startswith(("pillar", "tests", "_utils/../", "."))]
    expected = {f"_utils/{path.name}" for path in (CHECKOUT / "_utils").glob("*.py")}
    assert expected <= set(files)


def test_the_pillar_changes_live(bed, pillar):
    pillar.set("colour", {"colour": "green"}, targets="web1")
    seen = bed.salt("web1,db1", "config.get", "colour")  # pillar.get shows asterisks only
    assert seen == {"web1": "green", "db1": ""}


def test_power_off_is_a_host_down_and_power_on_brings_it_back(bed):
    bed.write("web1", "/srv/kept-over-power-off", b"still here")
    bed.poweroff("web1")
    attempt = ["bash", "-c", f"echo > /dev/tcp/{bed.address('web1')}/22"]
    refused = bed.run("db1", attempt, check=False, timeout=30)
    assert b"No route to host" in refused.stderr
    with pytest.raises(SaltError, match="no answer from web1") as caught:
        bed.salt("db1,web1", "test.ping")
    assert caught.value.data == {"db1": True}
    bed.poweron("web1")
    assert bed.salt("web1", "test.ping") == {"web1": True}
    assert bed.read("web1", "/srv/kept-over-power-off") == b"still here"


def test_a_replaced_host_has_the_old_ones_name_and_nothing_else_of_it(bed):
    key = bed.read("db1", "/etc/salt/pki/minion/minion.pub")
    bed.write("db1", "/srv/lost-with-the-disk", b"gone")
    bed.replace("db1")
    assert bed.salt("db1", "test.ping") == {"db1": True}
    assert bed.run("db1", ["ls", "/srv/lost-with-the-disk"], check=False).returncode
    assert bed.read("db1", "/etc/salt/pki/minion/minion.pub") != key
    assert bed.salt("web1", "test.ping") == {"web1": True}


def test_two_beds_do_not_meet(bed, make_bed):
    other = make_bed("second", clients=1)
    assert other.address("web1") == bed.address("web1")
    assert other.salt("*", "test.ping") == {"backup-server": True, "web1": True}
    other.down()
    assert bed.salt("*", "test.ping") == {name: True for name in bed.minions}


# --- what is left ---


class Traces:
    """What a bed could leave on the machine: taken before it, compared after it."""

    def __init__(self, name: str):
        self.name = name
        self.before = self._now()

    def _now(self) -> set[str]:
        found = {f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines()}
        links = subprocess.run(["ip", "-o", "link"], capture_output=True, check=True).stdout
        found |= {f"link {line.split()[1]}" for line in links.decode().splitlines()}
        # Namespaces end with their processes, unless a mount, which is listed above, holds them.
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment = (process / "environ").read_bytes()
                group = (process / "cgroup").read_text()
            except OSError:
                continue
            if f"{MARK}={self.name}".encode() in environment or self._is_ours(group):
                found.add(f"process {process.name}")
        for directory, _, _ in os.walk("/sys/fs/cgroup"):
            if self._is_ours(directory):
                found.add(f"cgroup {directory}")
        for pattern in ("/run/netns/*", "/run/systemd/nspawn/*", "/tmp/nspawn-*", "/tmp/mmdeb*"):
            found |= {f"file {path}" for path in Path("/").glob(pattern[1:])}
        found |= {f"file {path}" for path in (CACHE / "beds").glob(f"{self.name}*")}
        return found | {f"file {path}" for path in CACHE.glob("*/*.partial")}

    def _is_ours(self, path: str) -> bool:
        return Bed(self.name).group.name in path

    def left(self) -> set[str]:
        """Return what is there now and was not before."""
        return self._now() - self.before

    def gone_within(self, seconds: float, *kinds: str) -> set[str]:
        """Return what (of these kinds) is left once nothing is, or after so many seconds."""
        end = time.monotonic() + seconds
        while True:
            left = {item for item in self.left() if not kinds or item.split()[0] in kinds}
            if not left or time.monotonic() > end:
                return left
            time.sleep(0.05)


@pytest.fixture
def traces():
    """Give the traces of the bed called ``brief``."""
    subprocess.run([COMMAND, "--name", "brief", "down"], check=True)
    return Traces("brief")


def start(*words: str) -> subprocess.Popen:
    """Start ``tests/bed`` on the bed ``brief``."""
    return subprocess.Popen(
        [COMMAND, "--name", "brief", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, MARK: "brief"},
    )


def up_until(moment: str, delay: float) -> subprocess.Popen:
    """Start ``up`` and return when it has said ``moment`` and so many seconds have passed.

    The delay is there to hit it between two of its words; what it hits is left to chance.
    """
    process = start("up")
    for line in process.stderr:
        if moment in line:
            time.sleep(delay)
            return process
    raise AssertionError(f"up ended before it said {moment}")


def test_down_leaves_nothing(traces):
    process = start("up")
    assert process.wait(120) == 0, process.stderr.read()
    assert {item.split()[0] for item in traces.left()} == {"process", "cgroup", "file"}
    assert start("down").wait(60) == 0
    assert traces.left() == set()


@pytest.mark.parametrize(
    ("moment", "delay", "number"),
    [
        ("making", 0, signal.SIGINT),
        ("making", 0.04, signal.SIGINT),
        ("making", 0.1, signal.SIGTERM),
        ("disks made", 0, signal.SIGINT),
        ("disks made", 0.3, signal.SIGHUP),
        ("booted", 0, signal.SIGTERM),
        ("answers", 0.2, signal.SIGINT),
        ("started", 0, signal.SIGINT),
    ],
)
def test_an_interrupted_up_leaves_nothing(traces, moment, delay, number):
    process = up_until(moment, delay)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert traces.left() == set()


@pytest.mark.parametrize(
    ("moment", "delay"),
    [("making", 0), ("making", 0.05), ("disks made", 0.2), ("booted", 0), ("accepted", 0)],
)
def test_a_killed_up_leaves_nothing_running_and_down_removes_the_rest(traces, moment, delay):
    process = up_until(moment, delay)
    process.kill()
    process.wait()
    assert traces.gone_within(20, "process", "mount", "link") == set()
    assert start("down").wait(60) == 0
    assert traces.left() == set()


def test_a_killed_ground_takes_the_bed_with_it(traces):
    assert start("up").wait(120) == 0
    os.kill(Bed("brief").ground_pid, signal.SIGKILL)
    assert traces.gone_within(20, "process", "mount", "link") == set()
    assert start("down").wait(60) == 0
    assert traces.left() == set()


def test_a_bed_ends_with_the_process_that_made_it(traces):
    program = "import os; from tests.testbed import Bed; Bed('brief').up(); os.kill(os.getpid(), 9)"
    argv = [sys.executable, "-c", program]
    done = subprocess.run(argv, cwd=CHECKOUT, env={**os.environ, MARK: "brief"}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert traces.gone_within(20) == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_nothing(traces, tmp_path, number):
    (tmp_path / "slow").write_text("mount -t tmpfs none /mnt; echo on; sleep 600")
    program = """
import sys
from pathlib import Path
from tests.testbed import cli, images
images.CACHE = images.RECIPES = Path(sys.argv[1])
cli.heed(cli.interrupt)
with images.building() as start:
    job = start("slow", images.CACHE / "slow.d" / "key", images.recipe("slow"))
    print("building", flush=True)
    job.finish(print)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, MARK: "brief"},
    )
    assert process.stdout.readline() == b"building\n"
    log = tmp_path / "slow.d/key.partial/log"
    while log.read_text() != "on\n":
        time.sleep(0.01)
    process.send_signal(number)
    process.wait(20)
    assert traces.gone_within(10) == set()
    partial = list(tmp_path.glob("*/*.partial"))
    assert bool(partial) == (number == signal.SIGKILL)  # and then the next build or down removes it
