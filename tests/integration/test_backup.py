"""Backups of real hosts: what a run does and tells, when all is well and when it isn't."""

import subprocess
import time

import pytest

from tests.integration import backups
from tests.integration import fleet as on_fleet
from tests.integration.backups import MIRROR, SERVER, catalogue, dles, good, steps
from tests.testbed import SaltError, salt

SETTINGS = "/var/lib/salt-amanda/settings.json"
LAST = b"settings of the last good apply:\n"
RUN_ENDS = b"""
end of the run:
  cmd.run:
    - name: |
        systemctl kill --signal=CONT amanda-run.service
        while systemctl -q is-active amanda-run.service; do sleep 0.1; done

"""  # a state for the middle of an apply
DLES = {(host, disk) for host in (SERVER, "web1", "db1") for disk in ("/etc", "/home")}


@pytest.fixture(scope="module")
def first(mirrored):
    """Give the result of a run of the whole fleet."""
    return good(backups.run(mirrored))


# --- all is well ---


def test_each_step_and_each_directory_has_a_result_of_its_own(first):
    assert list(steps(first)) == ["collect", "cleanup", "canary", "dump", "verify", "mirror"]
    for step in first["steps"]:
        assert step["success"] is True and step["message"] and step["seconds"] >= 0
    assert set(dles(first)) >= DLES
    for entry in dles(first).values():
        assert entry["success"] is True
        assert (entry["reason"], entry["detail"], entry["strange"]) == ("", "", False)
        assert entry["original_bytes"] > entry["bytes"] > 0
    assert not {"process", "reported"} & set(first)


def test_every_dump_that_is_claimed_is_in_amandas_own_catalogue_and_on_its_tape(mirrored, first):
    claimed = {
        (*key, entry["level"], label, steps(first)["dump"]["timestamp"])
        for key, entry in dles(first).items()
        for label in entry["labels"]
    }
    assert claimed and claimed <= catalogue(mirrored)
    check = ["amcheckdump", "--timestamp", steps(first)["dump"]["timestamp"], "daily"]
    mirrored.run(SERVER, ["runuser", "-u", "backup", "--", *check], input=b"")


def test_the_mirror_has_every_tape_byte_for_byte_and_belongs_to_its_user(mirrored, first):
    (label,) = {label for entry in dles(first).values() for label in entry["labels"]}
    assert label in steps(first)["mirror"]["copied_tapes"]
    script = """
        set -eu
        cd /var/lib/amanda/vtapes/daily; tape=$(dirname $(ls -d slot*/00000.$1))
        (cd $tape && sha256sum 0* | sort)
        (cd $2/daily/tapes/$1/$3 && sha256sum 0* | sort) >&2
    """
    argv = ["sh", "-c", script, "sh", label, MIRROR, steps(first)["dump"]["timestamp"]]
    done = mirrored.run(SERVER, argv)
    assert len(done.stdout.splitlines()) == 1 + len(dles(first))
    assert done.stdout == done.stderr
    others = ["find", MIRROR, "!", "-user", "mirror"]
    assert mirrored.run(SERVER, others).stdout == b""


@pytest.mark.parametrize(
    "path",
    [
        "/etc/salt-amanda/age/identity",
        "/var/backups/.ssh/id_ed25519",
        "/etc/salt-amanda/ssh/id_ed25519",
        "/var/lib/amanda/daily/index",
        "/var/lib/amanda/vtapes/daily/slot1",
        "/var/lib/salt-amanda/runs",
    ],
)
def test_the_mirrors_user_can_read_neither_keys_nor_names_nor_tapes(mirrored, first, path):
    mirrored.run(SERVER, ["test", "-e", path])
    script = 'if [ -d "$1" ]; then ls "$1"/; else cat "$1"; fi'
    reader = ["runuser", "-u", "mirror", "--", "sh", "-c", script, "sh", path]
    assert mirrored.run(SERVER, reader, check=False).returncode != 0


def test_the_mirrors_user_is_not_in_the_dump_users_group(mirrored):
    groups = mirrored.run(SERVER, ["id", "-Gn", "mirror"]).stdout.split()
    assert groups == [b"mirror"]


def test_a_backup_alone_leaves_the_mirror_alone_and_the_mirror_alone_brings_it_up(mirrored, first):
    listing = ["find", MIRROR, "-printf", "%p %s %T@\\n"]
    before = mirrored.run(SERVER, listing).stdout
    alone = good(backups.run(mirrored, "backup"))
    assert list(steps(alone)) == ["collect", "cleanup", "canary", "dump", "verify"]
    assert mirrored.run(SERVER, listing).stdout == before
    brought = good(backups.run(mirrored, "mirror"))
    assert list(steps(brought)) == ["cleanup", "canary", "mirror"]
    labels = {label for entry in dles(alone).values() for label in entry["labels"]}
    assert labels and set(steps(brought)["mirror"]["copied_tapes"]) == labels


def test_what_was_verified_is_verified_again_on_tape_and_in_the_mirror_and_a_change_is_named(
    mirrored, first
):
    new = steps(first)["verify"]
    assert new["dumps"] == new["good"] == len(dles(first))
    (label,) = {label for entry in dles(first).values() for label in entry["labels"]}
    tape = good(backups.run(mirrored, "verify", f"tape={label}"))
    assert steps(tape)["verify"]["good"] == len(dles(first))
    generation = good(backups.run(mirrored, "verify", "source=mirror"))
    assert steps(generation)["verify"]["good"] >= len(dles(first))
    path = mirrored.run(SERVER, ["find", "/var/lib/amanda/vtapes", "-name", "00001.*"]).stdout
    path = path.decode().splitlines()[0]
    mirrored.run(SERVER, ["cp", "-p", path, "/root/kept"])
    change = ["dd", f"of={path}", "bs=1", "seek=32000", "conv=notrunc", "status=none"]
    mirrored.run(SERVER, change, input=b"x")
    result = backups.run(mirrored, "verify")
    mirrored.run(SERVER, ["mv", "/root/kept", path])
    assert result["success"] is False
    assert path in steps(result)["verify"]["problems"][0]
    assert len(steps(result)["verify"]["failed"]) == 1
    good(backups.run(mirrored, "verify"))


def test_a_check_of_a_good_fleet_finds_nothing(mirrored, first):
    result = good(backups.run(mirrored, "check"))
    assert [client["host"] for client in steps(result)["check"]["clients"]] == sorted(
        {host for host, _ in dles(first)}
    )


# --- clients that fail ---


def test_with_one_client_powered_off_the_others_are_dumped_and_mirrored(mirrored, first):
    mirrored.poweroff("db1")
    try:
        check = steps(backups.run(mirrored, "check"))["check"]
        began = time.monotonic()
        with pytest.raises(SaltError) as caught:  # its return code tells, too
            mirrored.salt(SERVER, "amanda.backup_and_mirror")
        took = time.monotonic() - began
        result = caught.value.data[SERVER]
    finally:
        mirrored.poweron("db1")
    assert "2 of 3" in check["message"] and "db1 does not answer on" in check["message"]
    failed = {key: entry for key, entry in dles(result).items() if not entry["success"]}
    assert {host for host, _ in failed} == {"db1"} and len(failed) >= 2
    for entry in failed.values():
        assert f"db1 does not answer on {mirrored.address('db1')} port 22" in entry["reason"]
        assert "is it powered on?" in entry["reason"]
        assert entry["labels"] == []
    assert "db1 /etc: db1 does not answer" in steps(result)["dump"]["message"]
    timestamp = steps(result)["dump"]["timestamp"]
    dumped = {each[:2] for each in catalogue(mirrored) if each[-1] == timestamp}
    assert dumped == {key for key in dles(result) if key[0] != "db1"} >= {("web1", "/home")}
    assert steps(result)["mirror"]["success"] and steps(result)["mirror"]["copied_tapes"]
    assert not result["success"]
    assert took < 90


def test_a_client_that_is_back_is_in_the_next_dump(mirrored, first):
    result = good(backups.run(mirrored, "backup"))
    assert dles(result)["db1", "/home"]["success"] and dles(result)["db1", "/etc"]["success"]


@pytest.fixture
def without_sshd(mirrored):
    """Give a client whose SSH daemon is stopped."""
    # A connection that an amdump started by hand left open would do without it.
    mirrored.run("web1", ["sh", "-c", "systemctl stop ssh; pkill -x sshd || true"])
    yield "web1"
    mirrored.run("web1", ["systemctl", "start", "ssh"])


NEW_KEYS = """
    set -eu
    mkdir /root/ssh-keys
    mv /etc/ssh/ssh_host_*_key* /root/ssh-keys
    ssh-keygen -A >/dev/null
    systemctl stop ssh; pkill -x sshd || true; systemctl start ssh
"""
OLD_KEYS = """
    set -eu
    rm /etc/ssh/ssh_host_*_key*
    mv /root/ssh-keys/* /etc/ssh
    rmdir /root/ssh-keys
    systemctl restart ssh
"""


@pytest.fixture
def with_another_key(mirrored):
    """Give a client that shows other SSH host keys than those it published."""
    mirrored.run("db1", ["sh", "-c", NEW_KEYS])
    yield "db1"
    mirrored.run("db1", ["sh", "-c", OLD_KEYS])
    mirrored.salt("db1", "amanda.publish")


def test_a_refused_connection_and_a_changed_key_are_told_in_words_and_stop_nobody_else(
    mirrored, first, without_sshd, with_another_key
):
    result = backups.run(mirrored, "backup")
    reasons = {host: entry["reason"] for (host, _), entry in dles(result).items()}
    assert f"{without_sshd} refuses connections on" in reasons[without_sshd]
    assert "is its SSH daemon running?" in reasons[without_sshd]
    assert f"{with_another_key} shows another SSH host key" in reasons[with_another_key]
    assert reasons[SERVER] == ""
    assert {host for (host, _), entry in dles(result).items() if entry["success"]} == {SERVER}


def test_a_changed_key_that_the_same_client_publishes_replaces_its_pin_and_is_reported(
    mirrored, first, with_another_key
):
    mirrored.salt(with_another_key, "amanda.publish")
    result = good(backups.run(mirrored, "backup"))
    found = steps(result)["collect"]["findings"]
    assert "key-changed" in [each["kind"] for each in found if each["id"] == with_another_key]


DEEP = """
import os
path = "/home/deep"
for _ in range(25):
    os.mkdir(path)
    os.chdir(path)
    path = "d" * 200
"""


def test_what_may_not_be_read_is_a_failure_though_the_rest_is_on_tape(mirrored, first):
    """The defence of the dump user's tar is taken out: without it he reads what anybody may."""
    tar = "/usr/local/lib/salt-amanda/amanda-tar"
    locked = ["sh", "-c", "echo secret > /home/locked; chmod 0 /home/locked"]
    mirrored.run("web1", locked)
    mirrored.run("web1", [salt.PYTHON, "-c", DEEP])
    mirrored.run("web1", ["setcap", "-r", tar])
    try:
        result = backups.run(mirrored, "backup")
    finally:
        mirrored.run("web1", ["setcap", "cap_dac_read_search=ep", tar])
        mirrored.run("web1", ["rm", "-rf", "/home/deep"])
    entry = dles(result)["web1", "/home"]
    assert entry["success"] is False and not result["success"]
    assert "could not be read on web1" in entry["reason"]
    assert "./locked: Warning: Cannot open: Permission denied" in entry["detail"]
    assert any("its path is too long to be read" in unread for unread in entry["unread"])
    assert entry["labels"] and entry["bytes"]
    again = good(backups.run(mirrored, "backup"))
    assert dles(again)["web1", "/home"]["strange"] is False
    listed = mirrored.salt(SERVER, "amanda.versions", "web1", "/home/locked")[SERVER]
    assert listed[0]["timestamp"] > result["requested"].removesuffix("+00:00")


def test_a_file_that_changes_while_it_is_read_is_strange_and_no_failure(mirrored, first):
    script = """
        head -c 40000000 /dev/urandom > /home/growing
        while sleep 0.01; do head -c 1000 /dev/zero >> /home/growing; done
    """
    writer = subprocess.Popen(mirrored.host("web1").command(["sh", "-c", script]))
    try:
        result = good(backups.run(mirrored, "backup"))
    finally:
        writer.kill()
        writer.wait()
        mirrored.run("web1", ["sh", "-c", "rm -f /home/growing"])
    entry = dles(result)["web1", "/home"]
    assert (entry["success"], entry["strange"], entry["reason"]) == (True, True, "")
    assert "./growing: file changed as we read it" in entry["detail"]


# --- whatever becomes of who started it ---


def test_a_run_goes_on_when_the_salt_command_is_interrupted(mirrored, first):
    with backups.held_run(mirrored) as command:
        ours = f"salt --out=json {SERVER} amanda.backup_and_mirror"
        mirrored.run("master", ["pkill", "--signal=INT", "--full", ours])
        said = command.communicate(timeout=30)[0].decode()
        assert "Ctrl-c" in said
        assert backups.is_running(mirrored)
    result = backups.newest_result(mirrored)
    assert result["state"] == "finished"
    assert list(steps(good(result))) == ["collect", "cleanup", "canary", "dump", "verify", "mirror"]


def test_a_second_run_is_refused_and_told_which_is_going_on(mirrored, first):
    with backups.held_run(mirrored, "backup"):
        status = mirrored.salt(SERVER, "amanda.status")[SERVER]
        assert (status["running"]["action"], status["running"]["step"]) == ("backup", "dump")
        assert status["last"]["daily"]["id"] != status["running"]["id"]
        for action in ("backup_and_mirror", "check"):
            with pytest.raises(SaltError) as caught:
                mirrored.salt(SERVER, f"amanda.{action}")
            said = caught.value.data[SERVER]
            assert "backup of daily has been going on since 20" in said
            assert "amanda.status" in said


def test_a_state_leaves_what_a_run_uses_and_a_config_that_is_not_there_yet_is_a_failure(
    mirrored, first
):
    more = {"configs": {"daily": {"org": "another"}, "second": {"cron": False}}}
    options = {"pillar": {"backup": more}, "check": False}
    conf = mirrored.read(SERVER, "/etc/amanda/daily/amanda.conf")
    with backups.held_run(mirrored, "backup"):
        states = {
            each["__id__"]: each for each in on_fleet.apply(mirrored, SERVER, **options)[SERVER]
        }
        kept = mirrored.read(SERVER, SETTINGS)
        with on_fleet.edited(mirrored, "salt/backup/server.sls", LAST, RUN_ENDS + LAST):
            daily_alone = {"backup": {"configs": {"daily": more["configs"]["daily"]}}}
            on_fleet.apply(mirrored, SERVER, pillar=daily_alone)
        # What was not applied yet isn't kept as if it were, though the run was over by then.
        assert not backups.is_running(mirrored)
        assert mirrored.read(SERVER, SETTINGS) == kept and b"another" not in kept
    daily, second = states["Amanda config daily"], states["Amanda config second"]
    assert (daily["result"], daily["changes"]) == (True, {}) and daily["warnings"]
    assert daily["comment"].startswith("Deferred: what is in use stays as it is")
    assert mirrored.read(SERVER, "/etc/amanda/daily/amanda.conf") == conf
    assert (second["result"], second["changes"]) == (False, {})
    assert second["comment"].startswith("Not there yet, since a backup is running")
    assert states["settings of the last good apply"]["result"] is False
    on_fleet.apply(mirrored, SERVER, pillar={"backup": more})
    assert b"another" in mirrored.read(SERVER, "/etc/amanda/daily/amanda.conf")
    assert b"second" in mirrored.read(SERVER, SETTINGS)
    on_fleet.apply(mirrored, SERVER)
    on_fleet.forget(mirrored, "second")


def test_a_run_goes_on_when_the_minion_is_restarted_and_is_reported_later_once(mirrored, first):
    with backups.held_run(mirrored, "backup"):
        mirrored.restart_minion(SERVER)
        assert backups.is_running(mirrored)
        assert mirrored.salt(SERVER, "amanda.run_due")[SERVER] == {}
    result = good(backups.newest_result(mirrored))
    assert result["state"] == "finished" and not result.get("reported")
    told = mirrored.salt(SERVER, "amanda.run_due")[SERVER]
    assert [each["id"] for each in told["reported"]] == [result["id"]]
    assert mirrored.salt(SERVER, "amanda.run_due")[SERVER] == {}


def test_a_run_that_was_killed_is_reported_as_interrupted_and_the_next_one_works(mirrored, first):
    with backups.held_run(mirrored, "backup"):
        mirrored.run(SERVER, ["systemctl", "kill", "--signal=KILL", backups.UNIT])
    told = mirrored.salt(SERVER, "amanda.status")[SERVER]
    assert told["running"] is None and told["last"]["daily"]["state"] == "interrupted"
    assert "interrupted in its step dump: it was killed" in told["last"]["daily"]["message"]
    good(backups.run(mirrored, "backup"))
