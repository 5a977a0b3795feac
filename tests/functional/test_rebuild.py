"""A server made anew from a mirror and an offsite identity alone, and all that can go wrong."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import amanda_age
import amanda_catalogue
import amanda_chain
import amanda_encryption
import amanda_fleet
import amanda_fresh
import amanda_host
import amanda_index
import amanda_layout
import amanda_manifest
import amanda_platform
import amanda_results
import pytest

from tests.functional.ssh_fleet import SshFleet
from tests.functional.zones import time_zone

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, Amanda and sshd")

KEPT = Path("/var/tmp/kept")
"""What outlives the server: what is backed up, the mirror as it was last, the offsite identity."""
MIRROR = Path("/var/tmp/mirror-of-rebuild")
IDENTITY = KEPT / "offsite.key"
WHOLE = ["rebuild", "label", "collect"]


def server():
    """Return a fresh server of the pillar that has a mirror and an offsite recipient."""
    fleet = SshFleet()
    (recipient,) = map(amanda_age.public_key, amanda_age.identities(IDENTITY.read_bytes(), ""))
    fleet.pillar["encryption"] = {"recipients": [recipient]}
    fleet.pillar["mirror"] = {"user": "nobody", "directory": str(MIRROR)}
    amanda_encryption.ensure(fleet.settings.encryption, fleet.platform)
    return fleet


def give(directory):
    subprocess.run(["chown", "-R", "nobody", directory], check=True)


@dataclasses.dataclass
class Lost:
    """What the lost server had."""

    dumps: list
    tapelist: str
    fleet: amanda_fleet.Fleet
    notes: dict
    identities: tuple


def identities():
    """Return the server's own age identities."""
    return amanda_age.identities(amanda_layout.AGE_IDENTITY.read_bytes(), "")


def notes():
    """Return the notes of root's, by path below our state."""
    tops = (amanda_layout.RETENTION, amanda_layout.TERMS, amanda_layout.VERIFIED)
    found = [path for top in tops for path in top.glob("*")]
    return {str(path): json.loads(path.read_text()) for path in found}


@pytest.fixture(scope="module")
def lost():
    """Give what a server had that dumped twice and is gone; its mirror is in KEPT."""
    shutil.rmtree(KEPT, ignore_errors=True)
    shutil.rmtree(MIRROR, ignore_errors=True)
    for name in ("web", "other"):
        (KEPT / name).mkdir(parents=True)
        (KEPT / name / "blob").write_bytes(os.urandom(300_000))
    IDENTITY.write_bytes(amanda_age.new_identity())
    IDENTITY.chmod(0o400)
    MIRROR.mkdir(mode=0o700)
    give(MIRROR)
    fleet = server()
    try:
        fleet.client("web1", [str(KEPT / "web"), str(KEPT / "other")])
        assert fleet.run("backup_and_mirror")["success"]
        fleet.clients[0] = dataclasses.replace(
            fleet.clients[0],
            directories=tuple(
                dataclasses.replace(each, retired=amanda_results.now())
                if each.path.endswith("other")
                else each
                for each in fleet.clients[0].directories
            ),
        )
        fleet.save()
        fleet.amanda("amadmin", "daily", "no-reuse", "daily-0005")
        (KEPT / "web/new").write_text("new\n")
        assert fleet.run("backup_and_mirror")["success"]
        (KEPT / "web/last").write_text("in a dump that never came to the mirror\n")
        had = Lost(
            amanda_catalogue.read(fleet.places),
            fleet.places.tapelist.read_text(),
            amanda_fleet.load(amanda_layout.FLEET),
            notes(),
            identities(),
        )
        assert fleet.run("backup")["success"]
    finally:
        fleet.remove()
    MIRROR.rename(KEPT / "mirror")
    yield had
    shutil.rmtree(KEPT)


@pytest.fixture
def fresh(lost):
    """Give a fresh server beside a copy of the mirror."""
    shutil.copytree(KEPT / "mirror", MIRROR)
    give(MIRROR)
    MIRROR.chmod(0o700)
    made = server()
    yield made
    made.remove()
    shutil.rmtree(MIRROR)


def rebuild(fleet, **options):
    return fleet.run("rebuild", **{"identity": str(IDENTITY), **options})


def message(result):
    """Return what the step rebuild said, which failed, and whose followers never began."""
    first, *others = result["steps"]
    assert not result["success"]
    assert not first["success"]
    assert all(step["skipped"] for step in others)
    return first["message"]


def state(fleet):
    """Return the files of a server's state, slots, keys and ours, with their content."""
    tops = (fleet.places.state, fleet.places.tapes, amanda_layout.SETTINGS, amanda_layout.STATE)
    found = {}
    for top in tops:
        for path in top.rglob("*"):
            if path.is_file() and path.parent != amanda_layout.RUNS:
                found[str(path)] = path.read_bytes()
    for name in (amanda_layout.SPECIFICATION, amanda_layout.STATE / "run.lock"):
        found.pop(str(name), None)
    return found


def on_mirror(pattern):
    """Return the file of a tape on the mirror."""
    (path,) = MIRROR.glob(f"daily/tapes/{pattern}")
    return path


def test_a_fresh_server_has_all_that_the_lost_one_had(fresh, lost):
    own, recipients = identities(), amanda_layout.AGE_RECIPIENTS.read_text()
    result = rebuild(fresh)
    assert result["success"], result
    assert [step["step"] for step in result["steps"]] == WHOLE
    assert fresh.places.tapelist.read_text() == lost.tapelist
    assert amanda_catalogue.read(fresh.places) == lost.dumps
    assert amanda_fleet.load(amanda_layout.FLEET) == lost.fleet
    anew = {str(amanda_layout.TERMS / "daily.json"): {"*": None}}
    assert notes() == {**lost.notes, **anew}
    assert len(lost.notes) == 3
    assert identities() == own + lost.identities
    assert amanda_layout.AGE_RECIPIENTS.read_text() == recipients
    for path in (*fresh.places.state.rglob("*"), *fresh.places.tapes.rglob("*")):
        if path.name != "tapelist.last_write":  # a link of Amanda's to the number of a process
            assert path.owner() == fresh.platform.user
    for path in (fresh.places.logs, fresh.places.index, fresh.places.info, fresh.places.tapelist):
        assert path.stat().st_mode & 0o077 == 0, path
    assert all(path.stat().st_mode & 0o077 == 0 for path in fresh.places.tapes.rglob("*"))
    assert not list(fresh.places.state.glob("*.partial"))
    assert not list(fresh.places.tapes.glob("*.partial"))


def test_amanda_and_the_mirror_go_on_where_the_lost_server_was(fresh, lost):
    assert rebuild(fresh)["success"]
    fresh.amanda("amcheckdump", "daily", "--timestamp", lost.dumps[0].timestamp)
    (step,) = [step for step in fresh.run("mirror")["steps"] if step["step"] == "mirror"]
    assert step["success"], step
    assert step["copied_tapes"] == []
    assert step["warnings"] == []
    assert not step["pruned"]["paused"]
    first = min((MIRROR / "daily/generations").iterdir())
    shutil.rmtree(first)
    for accept, gone in ((False, True), (True, False)):
        (step,) = [s for s in fresh.run("mirror", accept=accept)["steps"] if s["step"] == "mirror"]
        assert step["success"] is not gone
        assert (f"generation {first.name} of daily, which this" in step["message"]) is gone


def test_the_next_dumps_are_full_as_the_lost_server_may_have_dumped_after_its_mirror(fresh):
    assert rebuild(fresh)["success"]
    fresh.client("web1", [str(KEPT / "web")])
    levels = []
    for _ in range(2):
        result = fresh.run("backup")
        assert result["success"], result
        (dump,) = [step for step in result["steps"] if step["step"] == "dump"]
        levels += [entry["level"] for entry in dump["dles"]]
    assert levels == [0, 1]
    dumps = amanda_catalogue.read(fresh.places)
    full, _ = amanda_chain.chain(dumps, "web1", str(KEPT / "web"))
    index = amanda_index.path(fresh.places.index, full)
    assert b"/last" in list(amanda_index.names(index))


def test_a_second_rebuild_is_refused_and_changes_nothing(fresh):
    assert rebuild(fresh)["success"]
    before = state(fresh)
    said = message(rebuild(fresh))
    assert "this server has dumps of daily on 2 tapes, so nothing is rebuilt over them" in said
    assert state(fresh) == before


def test_lost_tapes_come_back_without_a_key_and_nothing_else_changes(fresh, lost):
    assert rebuild(fresh)["success"]
    first, second = (fresh.places.tapes / f"slot{number}" for number in (1, 2))
    held = {path.name: path.read_bytes() for path in first.iterdir()}
    before = state(fresh)
    shutil.rmtree(first)
    result = fresh.run("rebuild")
    assert result["success"], result
    assert "1 lost tapes are back" in result["steps"][0]["message"]
    assert {path.name: path.read_bytes() for path in first.iterdir()} == held
    assert state(fresh) == before
    (copy,) = (MIRROR / "daily/tapes/daily-0002").glob("*/00001.*")
    content = copy.read_bytes()
    copy.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    shutil.rmtree(first)
    shutil.rmtree(second)
    result = fresh.run("rebuild")
    (damaged,) = result["steps"][0]["damaged"]
    assert not result["success"] and damaged["label"] == "daily-0002"
    assert first.is_dir() and "amrmtape --cleanup daily daily-0002" in result["steps"][0]["message"]
    (told,) = [step for step in fresh.run("check")["steps"] if step["step"] == "check"]
    assert any("lacks tape daily-0002" in each for each in told["server"])


def test_a_single_lost_file_of_a_tape_comes_back(fresh):
    assert rebuild(fresh)["success"]
    before = state(fresh)
    (lost,) = (fresh.places.tapes / "slot1").glob("00001.*")
    lost.unlink()
    assert fresh.run("rebuild")["success"]
    assert state(fresh) == before


def test_a_newest_generation_that_was_doubtful_is_taken_only_if_it_is_named(fresh):
    before = state(fresh)
    name = rewritten(lambda data: data.update(standing="doubtful"), key=None)
    said = message(rebuild(fresh))
    assert "was unlike those before it" in said and "generation= with one of" in said
    assert state(fresh) == before
    assert rebuild(fresh, generation=name)["success"]


def test_a_lost_tapes_slot_that_holds_something_else_is_not_touched(fresh):
    assert rebuild(fresh)["success"]
    slots = fresh.places.tapes
    (slots / "slot1" / "00000.daily-0001").write_bytes(b"no label")
    before = state(fresh)
    said = message(fresh.run("rebuild"))
    assert "slot 1, where tape daily-0001 belongs, holds something else" in said
    assert state(fresh) == before


def test_a_wrong_identity_changes_nothing_and_is_told(fresh):
    other = KEPT / "other.key"
    other.write_bytes(amanda_age.new_identity())
    other.chmod(0o400)
    before = state(fresh)
    said = message(rebuild(fresh, identity=str(other)))
    assert "no identity matched any of the recipients" in said
    assert "identity= takes an offsite identity whose public half was in pillar" in said
    assert state(fresh) == before
    assert "AGE-SECRET-KEY" not in json.dumps(said)


def test_without_any_identity_the_servers_own_key_is_tried_and_the_remedy_told(fresh):
    assert "identity= takes an offsite identity" in message(rebuild(fresh, identity=None))


def test_a_tape_with_a_flipped_bit_is_left_out_and_named_and_all_others_are_there(fresh, lost):
    path = on_mirror("daily-0001/*/00001.*")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    said = message(rebuild(fresh))
    assert f"tape daily-0001 is left out: '{path}' has changed: its SHA-256 is another" in said
    assert "amrmtape --cleanup daily daily-0001" in said
    assert fresh.places.tapelist.read_text() == lost.tapelist
    assert [path.name for path in sorted((fresh.places.tapes / "slot1").iterdir())] == [
        "00000.daily-0001"
    ]
    assert len(list((fresh.places.tapes / "slot2").iterdir())) > 1
    (label,) = fresh.run("label")["steps"]
    assert "the catalogue says that tape daily-0001 was written" in label["message"]
    fresh.amanda("amrmtape", "--cleanup", "daily", "daily-0001")
    assert fresh.run("label")["success"]


def test_a_tape_that_is_cut_short_or_away_is_left_out_and_named(fresh):
    short, away = on_mirror("daily-0001/*/00001.*"), on_mirror("daily-0002/*/00001.*")
    os.truncate(short, 40_000)
    away.unlink()
    said = message(rebuild(fresh))
    assert f"'{short}' has 40000 bytes instead of" in said
    assert f"'{away}' can't be read: No such file or directory" in said


def rewritten(change, key="tapes"):
    """Have *change* alter the newest manifest's tapes, a list, as whoever writes the mirror can.

    Returns the generation's name; without a *key* it is all of the manifest that can be altered.
    """
    manifest = sorted(MIRROR.glob("daily/generations/*/manifest.json"))[-1]
    data = json.loads(manifest.read_text())
    change(data[key] if key else data)
    text = json.dumps(data)
    manifest.write_text(text)
    manifest.with_suffix(".sha256").write_text(f"{amanda_manifest.digest(text)}  manifest.json\n")
    return manifest.parent.name


def test_a_tape_that_the_mirror_lacks_is_named_with_the_command_that_gives_it_up(fresh, lost):
    rewritten(lambda tapes: tapes.pop(0))
    result = rebuild(fresh)
    first, label, collect = result["steps"]
    assert first["success"]
    assert first["lacking"] == ["daily-0001"]
    assert "the mirror has no copy of tape daily-0001" in first["message"]
    assert f"runuser -u {fresh.platform.user} -- amrmtape --cleanup daily daily-0001" in str(first)
    assert not label["success"]
    assert "the catalogue says that tape daily-0001 was written" in label["message"]
    assert collect["success"]
    assert fresh.places.tapelist.read_text() == lost.tapelist


def test_a_manifest_that_names_tapes_which_its_catalogue_does_not_know_is_not_believed(fresh):
    before = state(fresh)
    rewritten(lambda tapes: tapes[0].update(label="daily-0003"))
    assert "its catalogue doesn't know its tape daily-0003" in message(rebuild(fresh))
    rewritten(lambda tapes: tapes.clear())
    assert "has no tape: name an older one with generation=" in message(rebuild(fresh))
    assert state(fresh) == before


def test_a_changed_catalogue_or_manifest_changes_nothing_here(fresh):
    before = state(fresh)
    (archive,) = sorted(MIRROR.glob("daily/generations/*/catalogue.*"))[-1:]
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")
    before_it = sorted(MIRROR.glob("daily/generations/*"))[0].name
    said = message(rebuild(fresh))
    assert f"the catalogue was changed: {archive}" in said
    assert f"If it is damaged, take the one before: config=daily generation={before_it}" in said
    manifest = archive.with_name("manifest.json")
    manifest.write_text(manifest.read_text().replace("daily-0001", "daily-0003"))
    said = message(rebuild(fresh))
    assert "manifest.json or manifest.sha256 was changed" in said
    assert f"generation={before_it}" in said
    assert state(fresh) == before


def flipped(path):
    """Return another content of the same size for a file of a tape, with its hash."""
    content = path.read_bytes()
    other = content[:-1] + bytes([content[-1] ^ 1])
    return other, hashlib.sha256(other).hexdigest()


def forged():
    """Change the first dump of tape 1 on the mirror, and in its manifest, which then is right."""
    path = on_mirror("daily-0001/*/00001.*")
    content, sha256 = flipped(path)
    path.write_bytes(content)

    def change(tapes):
        (copy,) = [tape for tape in tapes if tape["label"] == "daily-0001"]
        (file,) = [file for file in copy["files"] if file["name"] == path.name]
        file["sha256"] = sha256

    rewritten(change)
    return f"'{path}' is not what was verified on the server"


def test_a_tape_that_was_verified_otherwise_is_left_out_though_its_manifest_is_right(fresh):
    problem = forged()
    assert f"tape daily-0001 is left out: {problem}" in message(rebuild(fresh))
    assert [path.name for path in (fresh.places.tapes / "slot1").iterdir()] == ["00000.daily-0001"]
    assert len(list((fresh.places.tapes / "slot2").iterdir())) > 1


def test_a_lost_tape_that_was_verified_otherwise_does_not_come_back(fresh):
    assert rebuild(fresh)["success"]
    problem = forged()
    shutil.rmtree(fresh.places.tapes / "slot1")
    (damaged,) = fresh.run("rebuild")["steps"][0]["damaged"]
    assert damaged == {"label": "daily-0001", "problem": problem}
    assert not (fresh.places.tapes / "slot1").exists()


def resealed(name, text):
    """Have a file of root's in the newest catalogue hold *text*, as who has a recipient can."""
    archive = sorted(MIRROR.glob("daily/generations/*/catalogue.*"))[-1]
    unpacked = MIRROR.with_suffix(".unpacked")
    unpacked.mkdir()
    (recipient,) = map(amanda_age.public_key, amanda_age.identities(IDENTITY.read_bytes(), ""))
    script = f"age -d -i {IDENTITY} {archive} | tar --zstd -xf - -C {unpacked}"
    subprocess.run(["sh", "-ec", script], check=True)
    (unpacked / "salt-amanda" / name).write_text(text)
    script = f"tar --zstd -cf - -C {unpacked} . | age -r {recipient} -o {archive}"
    subprocess.run(["sh", "-ec", script], check=True)
    shutil.rmtree(unpacked)
    content = archive.read_bytes()
    file = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewritten(lambda data: data["file"].update(file), "archive")


@pytest.mark.parametrize("text", ['{"tapes": [[1]]}', "[" * 200_000])
def test_what_the_lost_server_verified_is_told_if_it_can_not_be_read(fresh, lost, text):
    resealed("verified.json", text)
    result = rebuild(fresh)
    assert result["success"], result
    assert "What the lost server verified can't be read" in result["steps"][0]["message"]
    assert not list(amanda_layout.VERIFIED.iterdir())
    assert amanda_catalogue.read(fresh.places) == lost.dumps


def test_another_time_zone_than_the_lost_servers_is_told(fresh, lost):
    with time_zone("Asia/Tokyo"):
        result = rebuild(fresh)
    assert result["success"], result
    said = result["steps"][0]["message"]
    assert "UTC, and this server's is that of Asia/Tokyo" in said
    assert amanda_catalogue.read(fresh.places) == lost.dumps


def test_more_keys_than_any_server_has_are_not_believed_and_change_nothing(fresh):
    before = state(fresh)
    resealed("identity", "".join(amanda_age.new_identity().decode() for _ in range(400)))
    assert "identity has over 30000 characters" in message(rebuild(fresh))
    assert state(fresh) == before


def test_without_room_for_the_tapes_nothing_is_changed(fresh):
    tapes = fresh.places.tapes
    slots = [path.name for path in tapes.iterdir()]
    script = f"mount -t tmpfs -o size=2m,uid=$(id -u {fresh.platform.user}),mode=700 none {tapes}"
    subprocess.run(["sh", "-c", script], check=True)
    try:
        assert f"{tapes} has " in (said := message(rebuild(fresh)))
        assert "bytes free" in said
        assert not list(tapes.iterdir())
        assert not list(fresh.places.state.glob("*.partial"))
    finally:
        subprocess.run(["umount", tapes], check=True)
    assert [path.name for path in tapes.iterdir()] == slots


def test_tapes_of_its_own_in_the_slots_are_refused(fresh):
    before = (fresh.places.tapes / "slot1/00000.daily-0001").read_bytes()
    own = before.replace(b"DATE X", b"DATE 20250101010000").ljust(32768, b"\0")[:32768]
    (fresh.places.tapes / "slot1/00000.daily-0001").write_bytes(own)
    said = message(rebuild(fresh))
    assert "slot 1 holds tape daily-0001 written at 20250101010000" in said
    assert "Move it elsewhere" in said


def test_tapes_that_survived_in_their_slots_are_compared_and_not_copied(fresh, lost):
    """The disk of the system is lost, that of the tapes isn't."""
    user = fresh.platform.user
    for number in (1, 2):
        (source,) = MIRROR.glob(f"daily/tapes/daily-000{number}/*")
        slot = fresh.places.tapes / f"slot{number}"
        shutil.rmtree(slot)
        shutil.copytree(source, slot)
        (slot / "SHA256SUMS").unlink()
        subprocess.run(["chown", "-R", user, slot], check=True)
    blob = next((fresh.places.tapes / "slot2").glob("00001.*"))
    data = blob.read_bytes()
    blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert f"'{blob}' has changed: its SHA-256 is another" in message(rebuild(fresh))
    blob.write_bytes(data)
    result = rebuild(fresh)
    assert result["success"], result
    assert result["steps"][0]["copied_bytes"] == 0
    assert amanda_catalogue.read(fresh.places) == lost.dumps


@pytest.mark.parametrize("moment", ["copying", "swapped", "done"])
def test_killed_half_way_it_is_completed_by_the_next_and_nothing_dumps_between(fresh, lost, moment):
    """Killed where it is worst, by a copy of the engine that kills itself there."""
    file, line, times = {
        "copying": ("amanda_tapes_back", "            if problem := self._copy(copy,", 2),
        "swapped": ("amanda_rebuild", "        self._take_keys(self.extras)", 1),
        "done": ("amanda_rebuild", "        as_user(self.user, remove, str(self.state))", 1),
    }[moment]
    engine = amanda_layout.PROGRAMS / f"{file}.py"
    text = engine.read_text()
    assert text.count(line) == 1
    indent = " " * (len(line) - len(line.lstrip()))
    count = f"{indent}n = globals()['n'] = globals().get('n', 0) + 1\n"
    end = f"{indent}if n == {times}: os.kill(os.getpid(), 9)\n"
    engine.write_text(text.replace(line, f"{count}{end}{line}"))
    process, file = fresh.start("rebuild", identity=str(IDENTITY))
    assert process.wait(timeout=60) == -9
    assert amanda_results.read(file)["state"] == "interrupted"
    engine.write_text(text)
    platform = amanda_platform.detect()
    said = amanda_fresh.awaited(fresh.settings, "daily", platform)
    assert "was interrupted" in said
    places = fresh.places
    assert f"begin anew instead: move all that is in {places.state} and {places.tapes}" in said
    by_hand = fresh.run("backup")
    assert "call amanda.rebuild again" in str(by_hand["steps"])
    assert not amanda_results.read(file)["success"]
    result = rebuild(fresh)
    assert result["success"], result
    assert fresh.places.tapelist.read_text() == lost.tapelist
    assert amanda_catalogue.read(fresh.places) == lost.dumps
    assert amanda_fresh.awaited(fresh.settings, "daily", platform) is None
    assert not list(fresh.places.tapes.glob("*.partial"))


def test_without_the_mirror_an_interrupted_rebuild_can_be_left_behind_as_it_says(fresh):
    assert rebuild(fresh)["success"]
    fresh.client("web1", [str(KEPT / "web")])
    (fresh.places.state / amanda_fresh.UNFINISHED).mkdir()
    (cleanup,) = [step for step in fresh.run("backup")["steps"] if step["step"] == "cleanup"]
    assert "begin anew instead: move all that is in" in cleanup["message"]
    for number, top in enumerate((fresh.places.state, fresh.places.tapes)):
        elsewhere = fresh.places.state.with_name(f"elsewhere{number}")
        elsewhere.mkdir()
        for path in top.iterdir():
            path.rename(elsewhere / path.name)
    fresh.configure()
    assert fresh.run("backup")["success"]
    (dump,) = amanda_catalogue.read(fresh.places)
    assert dump.level == 0


def test_of_several_configs_the_fleet_of_the_first_that_is_rebuilt_stays(fresh, lost):
    fresh.pillar["configs"]["weekly"] = dict(fresh.pillar["configs"]["daily"])
    fresh.configure("weekly")
    other = amanda_layout.places("weekly", fresh.settings.paths)
    (other.logs / f"log.{lost.dumps[-1].timestamp}.0").write_text("")
    assert rebuild(fresh)["steps"][0]["success"]
    assert amanda_fleet.load(amanda_layout.FLEET).clients == ()


def test_a_generation_of_before_can_be_named(fresh, lost):
    first, _ = sorted(path.name for path in (MIRROR / "daily/generations").iterdir())
    result = rebuild(fresh, generation=first)
    assert result["success"], result
    assert {dump.timestamp for dump in amanda_catalogue.read(fresh.places)} == {
        lost.dumps[0].timestamp
    }
    assert "is in place: 1 tapes" in result["steps"][0]["message"]


# --- until it is rebuilt ---


def test_a_fresh_server_awaits_its_rebuild_as_long_as_the_mirror_holds_dumps(fresh):
    platform = amanda_platform.detect()
    said = amanda_fresh.awaited(fresh.settings, "daily", platform)
    assert "holds 2 generations of it" in said
    assert "amanda.rebuild identity=FILE" in said
    assert "amanda.backup daily" in said
    amcrypt = dataclasses.replace(fresh.settings.encryption, method="amcrypt")
    settings = dataclasses.replace(fresh.settings, encryption=amcrypt)
    said_of_amcrypt = amanda_fresh.awaited(settings, "daily", platform)
    assert "identity=" not in said_of_amcrypt
    assert f"{platform.home}/.gnupg/am_key.gpg in the place of this one's" in said_of_amcrypt
    (check,) = [step for step in fresh.run("check")["steps"] if step["step"] == "check"]
    assert check["server"] == [said]
    MIRROR.rename(MIRROR.with_suffix(".away"))
    try:
        said = amanda_fresh.awaited(fresh.settings, "daily", platform)
        assert f"the mirror's directory {MIRROR} doesn't exist. Mount it" in said
        MIRROR.mkdir(mode=0o700)
        give(MIRROR)
        assert amanda_fresh.awaited(fresh.settings, "daily", platform) is None
        MIRROR.rmdir()
    finally:
        MIRROR.with_suffix(".away").rename(MIRROR)


def test_once_it_has_dumped_the_mirror_is_not_asked_any_more(fresh):
    fresh.client("web1", [str(KEPT / "web")])
    assert fresh.run("backup")["success"]
    fresh.pillar["mirror"]["directory"] = "/no/where"
    assert amanda_fresh.awaited(fresh.settings, "daily", amanda_platform.detect()) is None
    fresh.pillar["mirror"]["directory"] = str(MIRROR)
    assert "this server has dumps of daily on 1 tapes" in message(rebuild(fresh))


def test_a_mirror_that_hangs_does_not_hold_up_the_schedule(fresh, monkeypatch):
    def hang(directory):
        time.sleep(3600)

    monkeypatch.setattr(amanda_host.amanda_mirror_user, "check_usable", hang)
    monkeypatch.setattr(amanda_host, "_MIRROR_SECONDS", 1)
    began = time.monotonic()
    said = amanda_fresh.awaited(fresh.settings, "daily", amanda_platform.detect())
    assert time.monotonic() - began < 10
    assert "can't see whether the mirror holds the dumps of one before it" in said
