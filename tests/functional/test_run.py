"""Runs for real: amdump over SSH, and what is told of clients and tapes that fail."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import amanda_age
import amanda_catalogue
import amanda_chain
import amanda_command
import amanda_encryption
import amanda_fleet
import amanda_generations
import amanda_identity
import amanda_layout
import amanda_restore
import amanda_results
import amanda_sources
import amanda_verified
import pytest
from amanda_errors import AmandaError

from tests.functional.ssh_fleet import PORT, REPOSITORY, ROOT, SWALLOWED, UNANSWERED, SshFleet

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, Amanda and sshd")


@pytest.fixture
def fleet():
    made = SshFleet()
    yield made
    made.remove()


def directory(name, size=200_000):
    """Make a directory with *size* bytes that don't compress; returns its path."""
    path = ROOT / "data" / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "blob").write_bytes(os.urandom(size))
    return str(path)


def mirrored(fleet):
    """Give the config of *fleet* a mirror."""
    mirror = ROOT / "mirror"
    mirror.mkdir(mode=0o700)
    shutil.chown(mirror, "nobody")
    fleet.pillar["mirror"] = {"user": "nobody", "directory": str(mirror)}


def offsite(path):
    """Make an offsite identity in the file *path*; returns its public key."""
    path.write_bytes(amanda_age.new_identity())
    path.chmod(0o400)
    return amanda_age.public_key(*amanda_age.identities(path.read_bytes(), path))


def steps(result):
    return {step["step"]: step for step in result["steps"]}


def dles(result):
    return {(entry["host"], entry["disk"]): entry for entry in steps(result)["dump"]["dles"]}


def test_a_run_dumps_every_client_and_the_catalogue_confirms_it(fleet):
    web, database = directory("web"), directory("database")
    fleet.client("web1", [web])
    fleet.client("db1", [database])
    result = fleet.run("backup")
    assert result["success"], result
    assert result["state"] == "finished"
    names = [step["step"] for step in result["steps"]]
    assert names == ["collect", "cleanup", "canary", "dump", "verify"]
    first = dles(result)
    assert set(first) == {("web1", web), ("db1", database)}
    for entry in first.values():
        assert entry["level"] == 0
        assert entry["bytes"] > 200_000
        assert entry["original_bytes"] > 200_000
        assert entry["labels"] == ["daily-0001"]
        assert entry["reason"] == ""
    second = dles(fleet.run("backup"))
    assert {entry["level"] for entry in second.values()} == {1}
    assert {tuple(entry["labels"]) for entry in second.values()} == {("daily-0002",)}


def test_a_damaged_record_of_verification_is_kept_told_and_made_anew_without_full_dumps(fleet):
    web = directory("web")
    fleet.client("web1", [web])
    assert fleet.run("backup")["success"]
    record = amanda_verified.path("daily")
    record.write_bytes(record.read_bytes()[:-9])
    result = fleet.run("backup")
    assert not result["success"]
    assert {entry["level"] for entry in dles(result).values()} == {1}
    told = steps(result)
    assert (told["record"]["success"], told["record"]["good"]) == (False, 1)
    assert f"{record}, which said what was verified, was damaged" in told["record"]["message"]
    (kept,) = record.parent.glob("daily.json.damaged-*")
    assert str(kept) in told["record"]["message"]
    assert told["dump"]["success"] and told["verify"]["good"] == 1
    result = fleet.run("backup")
    assert result["success"] and "record" not in steps(result)
    assert not amanda_verified.read("daily").incomplete
    fleet.pillar["configs"]["daily"]["verify"] = False
    told = steps(fleet.run("backup"))["verify"]
    assert (told["success"], told["verified"], told["left"]) == (True, False, 1)
    assert "nothing was verified, and 1 dumps on tape wait for it" in told["message"]
    (warning,) = steps(fleet.run("check"))["check"]["warnings"]
    assert "runs verify nothing: backup:configs:daily:verify is false" in warning


def test_a_dump_that_fails_verification_is_told_and_the_next_one_is_a_full_one(fleet):
    """What is sealed isn't what came: a filter that damages it, which only reading back shows."""
    good, bad = directory("good"), directory("bad")
    fleet.client("web1", [good])
    fleet.client("db1", [bad])
    first = fleet.run("backup")
    assert steps(first)["verify"]["good"] == 2
    directory("bad")
    program = amanda_layout.CRYPT["age"]
    whole = shutil.copy2(program, ROOT / "crypt-age")
    # What is as small as the canary, or an unchanged directory, it seals as it is.
    program.write_text(
        f'#!/bin/sh\n[ "$1" != -d ] || exec {whole} -d\ndata=$(mktemp); cat >"$data"\n'
        '[ "$(stat -c %s "$data")" -lt 99999 ] || printf X |\n'
        f'dd of="$data" bs=1 seek=77777 conv=notrunc status=none\nexec {whole} <"$data"\n'
    )
    try:
        result = fleet.run("backup")
    finally:
        shutil.copy2(whole, program)
    assert not result["success"]
    assert steps(result)["dump"]["success"], "Amanda noticed nothing"
    (failed,) = steps(result)["verify"]["failed"]
    assert (failed["host"], failed["disk"], failed["level"]) == ("db1", bad, 1)
    assert failed["labels"] == ["daily-0002"]
    assert "decrypted it has" in failed["reason"]
    result = fleet.run("backup")
    assert result["success"], result
    assert {disk: entry["level"] for (_, disk), entry in dles(result).items()} == {good: 1, bad: 0}
    assert steps(result)["verify"]["good"] == steps(result)["verify"]["dumps"] == 2


def test_one_client_that_is_down_does_not_cost_the_others_their_dumps(fleet):
    """Every way of being out of reach, told apart in words; the good ones are on tape."""
    good, lost = directory("good"), directory("lost")
    missing = str(ROOT / "data" / "missing")
    fleet.client("good1", [good, missing])
    other = fleet.client("good2", [good])
    fleet.client("down1", [lost], address=SWALLOWED, daemon=None)
    fleet.client("away1", [lost], address=UNANSWERED, daemon=None)
    fleet.client("refused1", [lost], daemon=None)
    fleet.client("hung1", [lost], daemon="hung")
    fleet.client("changed1", [lost], key=other.keys[0][:-4] + "AAAA")
    result = fleet.run("backup")
    entries = dles(result)
    assert not result["success"]
    assert {key for key, entry in entries.items() if entry["success"]} == {
        ("good1", good),
        ("good2", good),
    }
    reasons = {host: entry["reason"] for (host, disk), entry in entries.items() if disk != good}
    assert f"down1 does not answer on {SWALLOWED} port 2022 (timed out)" in reasons["down1"]
    assert f"away1 does not answer on {UNANSWERED} port 2022 (no route" in reasons["away1"]
    assert "refused1 refuses connections on" in reasons["refused1"]
    assert "its SSH daemon does not answer" in reasons["hung1"]
    assert "changed1 shows another SSH host key" in reasons["changed1"]
    assert f"{missing} does not exist on good1" in reasons["good1"]
    assert "EOF on read" in entries["down1", lost]["detail"]
    assert "2 of 8 directories are on tape" in steps(result)["dump"]["message"]


def test_a_client_that_refuses_the_key_is_told_from_one_that_is_down(fleet):
    lost = directory("lost")
    fleet.client("denied1", [lost])
    (ROOT / "authorized_keys").write_text("")
    (entry,) = dles(fleet.run("backup")).values()
    assert "denied1 does not accept this server's SSH key" in entry["reason"]


def test_the_last_state_of_what_fails_is_not_overwritten_and_too_few_tapes_are_told(fleet):
    """Three tapes do while all is well; the fourth run would write over web2's only full dump."""
    fleet.pillar["configs"]["daily"].update(dumpcycle=1, tapecycle=3, slots=3)
    fleet.configure()
    good, lost = directory("good"), directory("lost")
    fleet.client("web1", [good])
    there = fleet.client("web2", [lost])
    assert fleet.run("backup")["success"]
    fleet.clients[1] = dataclasses.replace(there, port=PORT + 1)  # where it refuses
    fleet.save()
    for _ in range(2):
        assert dles(fleet.run("backup"))["web1", good]["success"]
    short = steps(fleet.run("backup"))["dump"]
    assert short["held"] == ["daily-0001"]
    assert "only 0 can be written" in short["message"]
    assert "the last state of web1 /" in short["message"]
    assert "slots in the pillar to 4 or more" in short["message"]
    assert "amrmtape --cleanup daily LABEL" in short["message"]
    assert [(image["host"], image["level"]) for image in short["holding"]] == [("web1", 1)]
    check = fleet.run("check")
    assert not check["success"]
    assert steps(check)["check"]["holding"] == short["holding"] == status(fleet)["holding"]["daily"]
    told = f"on the holding disk, for the next run: 1 (web1 {good} of "
    assert told in steps(check)["check"]["message"]
    fleet.pillar["configs"]["daily"]["slots"] = 4
    fleet.configure()
    later = steps(fleet.run("backup"))["dump"]
    assert [(entry["host"], entry["success"]) for entry in later["flushed"]] == [("web1", True)]
    fleet.run("backup")
    dumps = amanda_catalogue.read(fleet.places)
    assert amanda_chain.chain(dumps, "web2", lost)[0].parts[0].label == "daily-0001"
    assert len(amanda_chain.chain(dumps, "web1", good)) == 2


def status(fleet):
    """Return what amanda.status gives, by a minion without a master."""
    directory = ROOT / "minion"
    (directory / "pillar").mkdir(parents=True)
    options = {
        "id": "server1",
        "root_dir": str(directory),
        "file_client": "local",
        "pillar_roots": {"base": [str(directory / "pillar")]},
        "module_dirs": [str(REPOSITORY / "_modules")],
    }
    for name, content in (
        ("minion", options),
        ("pillar/top.sls", {"base": {"*": ["backup"]}}),
        ("pillar/backup.sls", {"backup": fleet.pillar}),
    ):
        (directory / name).write_text(json.dumps(content))
    argv = [Path(sys.executable).with_name("salt-call"), "--local", "--out=json", "amanda.status"]
    answer = subprocess.run(
        [*argv, f"--config-dir={directory}", "--log-level=error"],
        env={"PATH": "/usr/bin", "PYTHONPATH": str(REPOSITORY / "_utils")},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(answer.stdout)["local"]


def test_what_is_held_back_is_let_go_when_a_newer_full_dump_is_on_tape(fleet):
    fleet.pillar["configs"]["daily"].update(dumpcycle=1, tapecycle=3, slots=4)
    fleet.configure()
    path = directory("web")
    fleet.client("web1", [path])
    for level in (0, 1, 1):
        (entry,) = dles(fleet.run("backup")).values()
        assert (entry["success"], entry["level"]) == (True, level)
    assert steps(fleet.run("backup"))["dump"]["held"] == ["daily-0001"]
    fleet.amanda("amadmin", "daily", "force", "web1")
    assert fleet.run("backup")["success"]
    tapes = amanda_catalogue.read_tapelist(fleet.places.tapelist)
    assert {tape.label for tape in tapes if not tape.reuse} == set()


def test_when_an_exclude_is_taken_out_what_it_kept_out_is_in_the_next_dump(fleet):
    path = directory("web")
    client = fleet.client("web1", [path])
    plain = client.directories
    fleet.clients[0] = dataclasses.replace(
        client, directories=(dataclasses.replace(plain[0], exclude=("./blob",)),)
    )
    fleet.save()
    (first,) = dles(fleet.run("backup")).values()
    (second,) = dles(fleet.run("backup")).values()
    assert (first["level"], second["level"]) == (0, 1)
    assert max(first["bytes"], second["bytes"]) < 200_000
    fleet.clients[0] = client
    fleet.save()
    (entry,) = dles(fleet.run("backup")).values()
    assert entry["level"] == 0
    assert entry["bytes"] > 200_000


def test_a_lost_log_keeps_the_tapes_from_being_written_but_not_the_run_from_dumping(fleet):
    path = directory("web")
    fleet.client("web1", [path])
    assert fleet.run("backup")["success"]
    (log,) = fleet.places.logs.glob("log.[0-9]*")
    log.rename(ROOT / log.name)
    lost = steps(fleet.run("backup"))["dump"]
    assert not lost["success"]
    assert "has no log" in lost["message"]
    tapes = {tape.label: tape for tape in amanda_catalogue.read_tapelist(fleet.places.tapelist)}
    assert not tapes["daily-0001"].reuse
    assert tapes["daily-0002"].written != "0"
    (ROOT / log.name).rename(log)
    assert fleet.run("backup")["success"]
    tapes = amanda_catalogue.read_tapelist(fleet.places.tapelist)
    assert all(tape.reuse for tape in tapes)


def test_after_a_dump_that_failed_late_the_next_is_a_full_one(fleet):
    """By then tar's snapshot has moved on: an increment would leave out what was lost."""
    path = directory("web")
    fleet.client("web1", [path])
    assert fleet.run("backup")["success"]
    directory("web")
    program = amanda_layout.CRYPT["age"]
    whole = shutil.copy2(program, ROOT / "crypt-age")
    # It takes what is as small as the canary; of a dump it fails when all has been read.
    program.write_text(
        '#!/bin/sh\n[ "$1" = -d ] || { data=$(mktemp) && cat >"$data" && exec <"$data"; }\n'
        f'[ -z "$data" ] || [ "$(stat -c %s "$data")" -lt 9999 ] || exit 1\nexec {whole} "$@"\n'
    )
    try:
        result = fleet.run("backup")
    finally:
        shutil.copy2(whole, program)
    (entry,) = dles(result).values()
    assert not entry["success"], entry
    (entry,) = dles(fleet.run("backup")).values()
    assert entry["success"], entry
    assert entry["level"] == 0


def test_after_a_killed_run_the_next_is_a_full_one(fleet):
    """What the killed run had read is in no dump, and tar's snapshot says that it is."""
    path = directory("large", 8_000_000)
    fleet.client("web1", [path])
    assert fleet.run("backup")["success"]
    directory("large", 8_000_000)
    process, _ = fleet.start("backup")
    wait_for(lambda: list(fleet.places.holding.glob("*/*large*")))
    fleet.kill_run(process)
    with (fleet.places.logs / "log").open("a") as log:
        log.write("DONE taper web")
    result = fleet.run("backup")
    (entry,) = dles(result).values()
    assert entry["success"], result
    assert entry["level"] == 0
    assert "DONE taper web" in steps(result)["dump"]["message"]
    result = fleet.run("backup")
    assert result["success"], result
    (entry,) = dles(result).values()
    assert entry["level"] == 1


def test_a_directory_that_comes_back_to_its_config_is_dumped_in_full(fleet):
    """The other config's dumps have moved on tar's snapshot, which is one per directory."""
    path = directory("web")
    fleet.pillar["configs"]["weekly"] = dict(fleet.pillar["configs"]["daily"])
    fleet.configure("weekly")
    fleet.client("web1", [path])
    client = fleet.clients[0]

    def move(config, former):
        moved = amanda_fleet.Directory(path, config, former=(former,))
        fleet.clients[0] = dataclasses.replace(client, directories=(moved,))
        fleet.save()

    for config, former in (("daily", "weekly"), ("weekly", "daily"), ("daily", "weekly")):
        move(config, former)
        result = fleet.run("backup", config)
        assert result["success"], result
        assert [entry["level"] for entry in dles(result).values()] == [0]
    (entry,) = dles(fleet.run("backup")).values()
    assert entry["level"] == 1


def test_a_dump_too_large_for_the_tapes_never_blocks_those_of_others(fleet):
    small, large = directory("small"), directory("large", 30_000_000)
    fleet.client("web1", [small])
    fleet.client("db1", [large])
    first = fleet.run("backup")
    assert not first["success"]
    (aside,) = steps(first)["dump"]["set_aside"]
    assert aside["host"] == "db1"
    assert dles(first)["db1", large]["reason"] == aside["message"]
    assert "larger than the tapes one run may write" in aside["message"]
    assert len(os.listdir(aside["path"])) == 1
    # The other may have come too late for the tape; what matters is that nothing lasting blocks it.
    assert "db1" not in fleet.amanda("amadmin", "daily", "holding", "list")
    for _ in range(2):
        result = fleet.run("backup")
        assert dles(result)["web1", small]["success"], result
        reason = dles(result)["db1", large]["reason"]
        assert "is larger than the tapes one run may write" in reason
        assert steps(result)["dump"]["set_aside"] == []
    directory("large", 300_000)
    result = fleet.run("backup")
    assert result["success"], result
    assert dles(result)["db1", large]["level"] == 0


def test_without_the_tapes_directory_dumps_wait_and_the_next_run_writes_them(fleet):
    data = directory("data")
    fleet.client("web1", [data])
    assert fleet.run("backup")["success"]
    tapes = fleet.places.tapes
    tapes.rename(tapes.with_name("away"))
    result = fleet.run("backup")
    assert not result["success"]
    (entry,) = dles(result).values()
    assert f"the directory of the tapes, {tapes}, does not exist" in entry["reason"]
    assert "waits on the holding disk" in entry["reason"]
    assert len(steps(result)["dump"]["holding"]) == 1
    tapes.with_name("away").rename(tapes)
    result = fleet.run("backup")
    assert result["success"], result
    (flushed,) = steps(result)["dump"]["flushed"]
    assert flushed["success"]
    assert flushed["level"] == 1


def test_when_every_tape_is_too_recent_the_reason_says_so(fleet):
    data = directory("data")
    fleet.client("web1", [data])
    for number in range(1, fleet.settings.config("daily").slots + 1):
        fleet.amanda("amadmin", "daily", "no-reuse", f"daily-{number:04}")
    (entry,) = dles(fleet.run("backup")).values()
    assert "no tape may be written" in entry["reason"]


def test_without_a_key_nothing_is_dumped_and_the_step_that_failed_is_named(fleet):
    fleet.client("web1", [directory("data")])
    amanda_layout.AGE_IDENTITY.unlink()
    result = fleet.run("backup")
    assert not result["success"]
    assert not steps(result)["canary"]["success"]
    assert steps(result)["dump"]["skipped"]
    assert not list(fleet.places.logs.glob("log.*"))


def test_a_run_killed_like_by_a_power_cut_is_known_as_interrupted_and_blocks_nothing(fleet):
    fleet.client("web1", [directory("data", 8_000_000)])
    process, file = fleet.start("backup")
    wait_for(lambda: list(fleet.places.holding.glob("*/*")))
    fleet.kill_run(process)
    lost = amanda_results.read(file)
    assert lost["state"] == "interrupted"
    assert "it was killed" in lost["message"]
    result = fleet.run("backup")
    assert result["success"], result
    assert json.loads(file.read_bytes())["state"] == "interrupted"


def test_a_run_that_is_stopped_says_so_and_leaves_nothing_of_amanda(fleet):
    fleet.client("web1", [directory("data", 8_000_000)])
    process, file = fleet.start("backup")
    wait_for(lambda: list(fleet.places.holding.glob("*/*")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 1
    result = amanda_results.read(file)
    assert result["state"] == "interrupted"
    assert "was stopped" in result["message"]
    wait_for(lambda: not amanda_processes())
    assert fleet.run("backup")["success"]


def amanda_processes():
    """Return the command lines of this config's programs of Amanda."""
    found = []
    for path in ROOT.parent.parent.parent.glob("proc/[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(str(ROOT).encode() in word for word in words if b"log.2" in word):
            found.append(words)
    return found


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_second_run_beside_the_first_is_refused(fleet):
    fleet.client("web1", [directory("data")])
    process, file = fleet.start("backup")
    wait_for(file.exists)
    second, other = fleet.start("check")
    assert second.wait(timeout=30) == 2
    assert not other.exists()
    assert process.wait(timeout=60) == 0


def test_progress_shows_the_dump_while_it_goes_on(fleet):
    fleet.client("web1", [directory("a"), directory("b")])
    process, file = fleet.start("backup")
    seen = []

    def look():
        content = amanda_results.read(file) if file.exists() else {}
        if content.get("progress"):
            seen.append((content["step"], content["progress"]["dles"]))
        return process.poll() is not None

    wait_for(look)
    assert ("dump", 2) in seen


def test_a_disklist_that_amanda_cant_read_leaves_the_old_one_and_its_clients_dumped(fleet):
    data = directory("data")
    fleet.client("web1", [data])
    assert fleet.run("backup")["success"]
    before = (fleet.places.conf / "disklist").read_bytes()
    conf = fleet.places.conf / "amanda.conf"
    text = conf.read_text()
    conf.write_text(text.replace("define dumptype encrypt-amgtar-ssh-mounts", "define dumptype x"))
    mounts = fleet.clients[0].directories[0].__class__(data, "daily", mounts=True)
    fleet.clients[0] = fleet.clients[0].__class__(
        **{**vars(fleet.clients[0]), "directories": (mounts,)}
    )
    fleet.save()
    result = fleet.run("backup")
    assert not result["success"]
    assert "can't read the new disklist" in steps(result)["collect"]["message"]
    assert "encrypt-amgtar-ssh-mounts" in steps(result)["collect"]["message"]
    assert (fleet.places.conf / "disklist").read_bytes() == before
    assert dles(result)["web1", data]["success"]


def test_with_nobody_to_back_up_the_run_says_so(fleet):
    result = fleet.run("backup")
    assert not result["success"]
    assert "no client has published a directory for it" in steps(result)["collect"]["message"]


def test_check_tells_of_server_and_clients_without_dumping(fleet):
    missing = str(ROOT / "data" / "missing")
    fleet.client("web1", [directory("data")])
    assert fleet.run("check")["success"]
    fleet.client("db1", [missing])
    fleet.client("down1", [missing], address=SWALLOWED, daemon=None)
    shutil.rmtree(fleet.places.tapes)
    held = amanda_layout.RETENTION / "daily.json"
    held.parent.mkdir(exist_ok=True)
    held.write_text("nonsense")
    result = fleet.run("check")
    answer = steps(result)["check"]
    assert not answer["success"]
    clients = {client["host"]: client for client in answer["clients"]}
    assert clients["web1"]["success"]
    assert f"can not stat '{missing}'" in clients["db1"]["message"]
    assert "does not answer" in clients["down1"]["message"]
    assert any("does not exist" in problem for problem in answer["server"])
    assert any(str(held) in problem for problem in answer["server"])
    assert not list(fleet.places.logs.glob("log.2*"))


def test_a_mirror_that_fails_hides_nothing_of_the_dump(fleet):
    data = directory("data")
    fleet.client("web1", [data])
    recipient = amanda_layout.AGE_RECIPIENTS.read_text().split()[0]
    fleet.pillar["encryption"] = {"recipients": [recipient]}
    fleet.pillar["mirror"] = {"user": "nobody", "directory": str(ROOT / "nowhere")}
    result = fleet.run("backup_and_mirror")
    assert [step["step"] for step in result["steps"]][-2:] == ["verify", "mirror"]
    assert dles(result)["web1", data]["success"]
    assert not steps(result)["mirror"]["success"]
    assert not result["success"]


def test_with_one_client_down_what_the_others_dumped_is_mirrored(fleet):
    data = directory("data")
    fleet.client("web1", [data])
    fleet.client("down1", [data], address=SWALLOWED, daemon=None)
    mirrored(fleet)
    recipient = amanda_layout.AGE_RECIPIENTS.read_text().split()[0]
    fleet.pillar["encryption"] = {"recipients": [recipient]}
    result = fleet.run("backup_and_mirror")
    assert not result["success"]
    assert "down1 does not answer" in steps(result)["dump"]["message"]
    assert steps(result)["mirror"]["success"], result
    assert steps(result)["mirror"]["copied_tapes"] == ["daily-0001"]


def test_trouble_with_the_holding_disk_does_not_hide_what_was_dumped(fleet):
    # One after the other, the small one first, so that it is on tape when the large one fails.
    fleet.pillar["configs"]["daily"].update(inparallel=1, dumporder="s")
    fleet.configure()
    data, large = directory("data"), directory("large", 30_000_000)
    fleet.client("web1", [data])
    fleet.client("db1", [large])
    aside = fleet.places.holding.with_name("daily.too-large")
    aside.write_text("something in the way")
    result = fleet.run("backup")
    assert dles(result)["web1", data]["success"]
    assert not result["success"]
    assert "the holding disk could not be looked after" in steps(result)["dump"]["message"]
    assert str(aside) in steps(result)["dump"]["message"]


def test_a_dump_started_by_hand_is_not_disturbed_and_named_as_the_reason(fleet):
    fleet.client("web1", [directory("data", 4_000_000)])
    assert fleet.run("backup")["success"]
    by_hand = amanda_command.popen(["amdump", "daily"], user=fleet.platform.user)
    wait_for(lambda: list(fleet.places.holding.glob("*/pid")))
    result = fleet.run("backup")
    assert "started by hand" in steps(result)["cleanup"]["message"]
    assert steps(result)["dump"]["skipped"]
    assert by_hand.wait(timeout=60) == 0


def test_a_server_without_an_identity_dumps_and_mirrors_and_an_offsite_one_restores(
    fleet, tmp_path
):
    data = directory("data")
    fleet.client("web1", [data])
    mirrored(fleet)
    key = tmp_path / "offsite.key"
    fleet.pillar["encryption"] = {"recipients": [offsite(key)], "server_identity": False}
    amanda_layout.AGE_IDENTITY.unlink()
    settings, user = fleet.settings, fleet.platform.user
    amanda_encryption.ensure(settings.encryption, fleet.platform)
    assert not amanda_layout.AGE_IDENTITY.exists()
    result = fleet.run("backup_and_mirror")
    assert result["success"], result
    assert "that these open them was not tried" in steps(result)["canary"]["message"]
    assert steps(result)["verify"]["good"] == steps(result)["verify"]["unopened"] == 1
    assert "1 dumps could not be opened" in steps(result)["verify"]["message"]
    assert "can be opened was not tried" in steps(result)["mirror"]["message"]

    def recover(source, identity, destination):
        origin = amanda_sources.Origin(settings, user, source, identity=identity)
        with amanda_sources.holding(origin, "web1", data) as catalogue:
            amanda_restore.recover(catalogue, "web1", data, str(destination))

    room = ROOT / "room"
    room.mkdir(mode=0o700)
    for source in ("tapes", "mirror"):
        with pytest.raises(AmandaError, match="identity=/root/offsite.key"):
            recover(source, None, room / "none")
        with amanda_identity.given(str(key), user) as identity:
            recover(source, identity, room / source)
        blob = room / source / "data" / "blob"
        assert blob.read_bytes() == (ROOT / "data" / "data" / "blob").read_bytes()
    assert sorted(path.name for path in room.iterdir()) == [
        "mirror",
        "mirror.sha256",
        "tapes",
        "tapes.sha256",
    ]


def test_a_lost_key_stops_everything_and_a_new_one_makes_full_dumps_and_old_ones_keep_their_name(
    fleet, tmp_path
):
    data = directory("data")
    fleet.client("web1", [data])
    mirrored(fleet)
    key = tmp_path / "offsite.key"
    fleet.pillar["encryption"] = {"recipients": [offsite(key)]}
    encryption = fleet.settings.encryption
    amanda_encryption.ensure(encryption, fleet.platform)
    assert fleet.run("backup_and_mirror")["success"]
    amanda_layout.AGE_IDENTITY.unlink()
    with pytest.raises(AmandaError, match="Bring its copy back"):
        amanda_encryption.ensure(encryption, fleet.platform, dumped=True)
    lost = fleet.run("backup_and_mirror")
    assert "If a key is lost, bring its copy back" in steps(lost)["canary"]["message"]
    assert steps(lost)["dump"]["skipped"]
    assert steps(fleet.run("verify"))["verify"]["skipped"]
    for what in ({}, {"source": "mirror"}):  # what everybody wants to know on that day
        result = fleet.run("verify", identity=str(key), **what)
        assert result["success"], result
        assert (steps(result)["verify"]["good"], steps(result)["verify"]["unopened"]) == (1, 0)
    amanda_layout.NEW_KEY.touch()
    amanda_encryption.ensure(encryption, fleet.platform, dumped=True)
    result = fleet.run("backup_and_mirror")
    assert result["success"], result
    assert [entry["level"] for entry in dles(result).values()] == [0]
    assert [entry["level"] for entry in dles(fleet.run("backup")).values()] == [1]
    result = fleet.run("verify")
    assert result["success"], result
    told = steps(result)["verify"]
    assert (told["dumps"], told["good"], told["unopened"], told["sealed"]) == (3, 3, 1, 1)
    assert "1 dumps are sealed to another key than this server's" in told["message"]
    record = amanda_verified.read("daily")
    for dump in amanda_catalogue.read(fleet.places):
        assert (record.verdict(dump).good, record.verdict(dump).opened) == (True, True)
    answer = steps(fleet.run("mirror"))["mirror"]
    assert answer["success"], answer
    manifest = amanda_generations.load(fleet.settings.mirror, "daily")
    assert set(manifest.fulls) == {f"web1 {data}"}
