"""The mirror as one user: what is copied, kept, removed and found again; tapes as Amanda's."""

import contextlib
import dataclasses
import datetime
import errno
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
import types
from pathlib import Path

import amanda_check
import amanda_generations
import amanda_layout
import amanda_mirror_user
import amanda_mirrored
import amanda_pruning
import amanda_sources
import amanda_tapes
import amanda_verified
import pytest
from amanda_catalogue import Dump, Part
from amanda_errors import AmandaError, ArgumentError
from amanda_verified import Record

from tests.mirror_site import Site

ME = pwd.getpwuid(os.geteuid()).pw_name
ROT13 = "#!/bin/sh\nexec tr 'A-Za-z' 'N-ZA-Mn-za-m'\n"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Give a site with two written tapes and a new one, and a filter that really changes data."""
    crypt = tmp_path / "crypt"
    crypt.write_text(ROT13)
    crypt.chmod(0o755)
    monkeypatch.setitem(amanda_layout.CRYPT, "age", crypt)
    site = Site(tmp_path, ME, ME)
    site.write(1, "20250101010000", 5000, 300_000)
    site.write(2, "20250102010000", 70_000)
    site.places.tapelist.write_text(site.places.tapelist.read_text() + "0 daily-0003 reuse\n")
    return site


def content(directory):
    """Return every file below *directory*, with its bytes."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def dump(disk, timestamp, level, status, *labels):
    """Return a dump with a part, file 1, on each of some tapes written with it."""
    parts = tuple(Part(label, 1, 1, 1, timestamp) for label in labels)
    return Dump("daily", "web1", disk, timestamp, level, status, parts, None, None, None, 1, "")


def test_a_first_mirror_holds_every_written_tape_under_label_and_time(site):
    done = site.mirror("20250102010000")
    assert site.held() == ["daily-0001/20250101010000", "daily-0002/20250102010000"]
    copy = site.top / "tapes/daily-0001/20250101010000/00002.web1._etc.0"
    assert copy.read_bytes() == (site.places.tapes / "slot1/00002.web1._etc.0").read_bytes()
    assert (done["tapes"], done["files"], done["warnings"]) == (2, 5, [])
    assert done["copied_tapes"] == ["daily-0001", "daily-0002"]
    assert done["copied_bytes"] == 2 * 32768 + 375_000
    (row,) = amanda_generations.generations(site.settings, "daily")
    assert (row["generation"], row["run"], row["problem"]) == (
        done["generation"],
        "20250102010000",
        None,
    )
    assert site.problems() == []


def test_sha256sum_by_hand_agrees_with_the_lists_in_the_mirror(site):
    site.write(3, "20250103010000")
    (site.places.tapes / "slot3" / "00001.odd\\name\nhere.0").write_bytes(b"x" * 100)
    site.mirror()
    for path in [*site.top.rglob("SHA256SUMS"), *site.top.rglob("manifest.sha256")]:
        subprocess.run(["sha256sum", "-c", "--strict", path.name], cwd=path.parent, check=True)


def test_an_unchanged_mirror_copies_nothing_and_is_one_more_generation(site):
    first = site.mirror()
    before = content(site.top)
    second = site.mirror()
    assert (second["copied_tapes"], second["copied_bytes"]) == ([], 0)
    assert second["generation"] > first["generation"]
    after = content(site.top)
    assert {path: after.get(path) for path in before} == before


def test_a_tape_written_again_is_a_second_copy_beside_the_first(site):
    first = site.mirror()["generation"]
    before = content(site.top)
    site.write(1, "20250103010000", 9000)
    assert site.mirror()["copied_tapes"] == ["daily-0001"]
    assert site.held()[:2] == ["daily-0001/20250101010000", "daily-0001/20250103010000"]
    after = content(site.top)
    assert {path: after.get(path) for path in before} == before
    assert site.problems(first) == site.problems() == []


def test_a_tape_that_the_disk_lacks_stops_neither_the_others_nor_hides(site):
    full = [dump("/etc", "20250101010000", 0, "OK", "daily-0001")]
    shutil.rmtree(site.places.tapes / "slot1")
    site.write(2, "20250109010000")
    site.tapes["daily-0002"] = "20250102010000"
    site.write(4, "20250104010000")
    done = site.mirror(dumps=full)
    assert done["lacking"] == ["daily-0001", "daily-0002"]
    (warning,) = done["warnings"]
    assert "daily-0001 written at 20250101010000 (nor has the mirror any)" in warning
    assert f"runuser -u {ME} -- amrmtape --cleanup daily daily-0001; runuser" in warning
    assert site.held() == ["daily-0004/20250104010000"]
    manifest = amanda_generations.load(site.settings, "daily")
    assert ([copy.label for copy in manifest.tapes], manifest.fulls) == (["daily-0004"], {})
    assert site.problems() == []


def test_a_slot_that_may_not_be_read_is_told_as_that_and_nothing_is_to_be_given_up(
    site, monkeypatch
):
    real = os.scandir

    def scandir(path="."):
        if str(path).endswith("slot1"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path)

    site.mirror()
    monkeypatch.setattr(amanda_tapes.os, "scandir", scandir)
    done = site.mirror()
    assert done["lacking"] == ["daily-0001"] and done["pruned"]["paused"]
    (warning,) = done["warnings"]
    assert f"'{site.places.tapes / 'slot1'}' can't be read by the dump user" in warning
    assert "daily-0001 written at 20250101010000 (the mirror has a copy)" in warning
    assert "chown" in warning and "amrmtape" not in warning
    manifest = amanda_generations.load(site.settings, "daily")
    assert [copy.label for copy in manifest.tapes] == ["daily-0001", "daily-0002"]
    work = types.SimpleNamespace(places=site.places, user=ME)
    (problem,) = amanda_check._lost_tapes(work)
    assert "can't be read by the dump user" in problem and "amrmtape" not in problem


def test_while_the_record_of_verification_is_incomplete_nothing_is_removed(site):
    site.age(site.mirror()["generation"], "20200101T000000Z")
    done = site.mirror(keep_days=1, record=Record(incomplete=True), accept=True)
    assert done["pruned"]["paused"] and "its record was lost" in done["warnings"][0]
    assert (done["lacking"], done["differing"]) == ([], [])
    assert site.mirror(keep_days=1, accept=True)["pruned"]["generations"] == ["20200101T000000Z"]


def test_a_foreign_file_in_a_slot_is_named_with_what_to_do_about_it(site):
    foreign = site.places.tapes / "slot1" / "notes.txt"
    foreign.write_text("x")
    with pytest.raises(AmandaError, match=f"'{foreign}'. See what it is, and move it elsewhere"):
        site.mirror()


def test_the_mirrors_copy_of_a_tape_that_was_lost_stays_part_of_each_generation(site):
    site.age(site.mirror()["generation"], "20200101T000000Z")
    shutil.rmtree(site.places.tapes / "slot1")
    site.write(3, "20250103010000", 8000)
    done = site.mirror(keep_days=1, accept=True)
    assert done["lacking"] == ["daily-0001"] and done["copied_tapes"] == ["daily-0003"]
    assert "(the mirror has a copy)" in done["warnings"][0] and done["pruned"]["paused"]
    manifest = amanda_generations.load(site.settings, "daily")
    labels = [copy.label for copy in manifest.tapes]
    assert labels == ["daily-0001", "daily-0002", "daily-0003"]
    assert site.problems() == site.problems("20200101T000000Z") == []


def test_without_any_tape_nothing_is_mirrored_and_the_disk_is_asked_for(site):
    shutil.rmtree(site.places.tapes)
    with pytest.raises(AmandaError, match="none of the 2 tapes .*Is its disk mounted"):
        site.mirror()
    assert list(site.top.parent.iterdir()) == []


def stop_children(progress):
    """Stop the processes that this one has, as a file server does that answers no more."""
    for path in Path("/proc/self/task").glob("*/children"):
        for pid in path.read_text().split():
            os.kill(int(pid), signal.SIGSTOP)


def test_a_mirror_that_hangs_is_given_up_and_named(site, monkeypatch):
    first = site.mirror()["generation"]
    site.write(3, "20250103010000", 20 << 20)
    monkeypatch.setattr(amanda_mirror_user, "PATIENCE", 1)
    began = time.monotonic()
    with pytest.raises(AmandaError, match=f"{site.top.parent} hasn't answered"):
        site.mirror(progress=stop_children)
    assert time.monotonic() - began < 10
    assert site.problems(first) == []
    assert site.mirror()["copied_tapes"] == ["daily-0003"]


def test_a_mirror_that_hangs_as_the_catalogue_is_read_back_is_given_up(site, monkeypatch):
    site.mirror()
    monkeypatch.setattr(amanda_mirror_user, "PATIENCE", 1)
    monkeypatch.setattr(amanda_mirror_user, "pour", hang)
    with pytest.raises(AmandaError, match="hasn't answered"):
        site.mirror()
    assert len(amanda_generations.generations(site.settings, "daily")) == 1


def hang(*arguments, **options):
    """Be stopped in the middle of the work."""
    os.kill(os.getpid(), signal.SIGSTOP)


def read_tape_file(site, manifest):
    part = Part("daily-0001", 2, 1, 300_000 - 32768, "20250101010000")
    amanda_generations.open_tape_file(site.settings, "daily", part).close()


def read_catalogue(site, manifest):
    with amanda_generations.open_catalogue(site.settings, manifest):
        pass


@pytest.mark.parametrize(
    ("hangs", "read"),
    [
        ("amanda_mirror_user._content", lambda site, _: site.problems()),
        (
            "amanda_mirror_user._content",
            lambda site, _: amanda_generations.generations(site.settings, "daily"),
        ),
        ("amanda_sums.compare", lambda site, _: site.problems()),
        (
            "amanda_mirror_user.strangers",
            lambda site, _: amanda_generations.check(site.settings, "daily"),
        ),
        ("amanda_generations._open_only", read_tape_file),
        ("amanda_rights.open_regular", read_catalogue),
    ],
)
def test_a_mirror_that_hangs_as_it_is_read_is_given_up_and_named(site, monkeypatch, hangs, read):
    site.mirror()
    manifest = amanda_generations.load(site.settings, "daily")
    monkeypatch.setattr(amanda_mirror_user, "PATIENCE", 1)
    monkeypatch.setattr(hangs, hang)
    with pytest.raises(AmandaError, match=f"{site.top.parent} hasn't answered for 1 s"):
        read(site, manifest)


def test_of_all_generations_only_the_one_that_is_asked_for_is_read(site, monkeypatch):
    first, second = (site.mirror()["generation"] for _ in range(2))
    text = amanda_mirror_user._content

    def refuse(path, most):
        assert second not in str(path)
        return text(path, most)

    monkeypatch.setattr(amanda_mirror_user, "_content", refuse)
    assert amanda_generations.load(site.settings, "daily", first).generation == first


def test_the_catalogue_comes_back_from_a_generation(site):
    first = site.mirror()["generation"]
    (site.places.logs / "log.20250102010000.0").write_text("START\n")
    (site.places.state / "tapelist.last_write").symlink_to("12345")
    site.mirror()
    logs = []
    for generation in (first, None):
        manifest = amanda_generations.load(site.settings, "daily", generation)
        with amanda_generations.open_catalogue(site.settings, manifest) as places:
            logs.append(sorted(path.name for path in places.logs.iterdir()))
            assert places.tapelist.read_text() == site.places.tapelist.read_text()
            assert (places.conf / "amanda.conf").read_text() == 'org "daily"\n'
            assert not (places.state / "tapelist.last_write").is_symlink()
            unpacked = next(p for p in places.conf.parents if (p / "salt-amanda").exists())
            assert (unpacked / "salt-amanda/fleet.json").read_text() == site.fleet.read_text()
            assert len(list(unpacked.rglob("known_hosts"))) == 1
        assert not unpacked.exists()
    assert logs == [["log.20250101010000.0"], ["log.20250101010000.0", "log.20250102010000.0"]]


def test_no_name_of_the_catalogue_can_be_read_in_the_mirror(site):
    (site.places.logs / "log.SECRETNAME.0").write_text("SECRETTEXT" * 100)
    site.mirror()
    for data in content(site.top).values():
        assert b"SECRETNAME" not in data and b"SECRETTEXT" not in data


@pytest.mark.parametrize(
    ("script", "said"),
    [("#!/bin/sh\ncat >/dev/null; echo no key >&2; exit 3\n", "no key"), (None, "can't be run")],
)
def test_a_filter_that_fails_leaves_no_generation(site, script, said):
    before = site.mirror()["generation"]
    crypt = amanda_layout.CRYPT["age"]
    crypt.unlink() if script is None else crypt.write_text(script)
    with pytest.raises(AmandaError, match=said):
        site.mirror()
    rows = amanda_generations.generations(site.settings, "daily")
    assert [row["generation"] for row in rows] == [before]


def test_a_catalogue_that_could_not_be_opened_again_makes_no_generation(site):
    before = site.mirror()["generation"]
    amanda_layout.CRYPT["age"].write_text(f"{ROT13[:-1]} | head -c 300\n")
    with pytest.raises(AmandaError, match=r"no generation is made.*can't be opened again"):
        site.mirror()
    rows = amanda_generations.generations(site.settings, "daily")
    assert [row["generation"] for row in rows] == [before]


def test_a_filter_that_pads_with_zeros_opens_again_under_amcrypt(site, monkeypatch):
    padding = "#!/bin/sh\ncat; head -c 300 /dev/zero\n"
    amanda_layout.CRYPT["age"].write_text(padding)
    monkeypatch.setitem(amanda_layout.CRYPT, "amcrypt", amanda_layout.CRYPT["age"])
    generation = site.mirror(method="amcrypt")["generation"]
    manifest = amanda_generations.load(site.settings, "daily", generation)
    with amanda_generations.open_catalogue(site.settings, manifest) as places:
        assert places.tapelist.read_text() == site.places.tapelist.read_text()


def test_what_an_interrupted_run_left_is_cleaned_and_its_whole_tapes_are_used(site):
    site.mirror()
    (generation,) = (site.top / "generations").iterdir()
    generation.rename(f"{generation}.partial")
    site.write(3, "20250103010000", 8000)
    partial = site.top / "tapes/daily-0003/20250103010000.partial"
    partial.mkdir(parents=True)
    (partial / "00001.web1._etc.0").write_bytes(b"half")
    assert site.mirror()["copied_tapes"] == ["daily-0003"]
    assert not list(site.top.rglob("*.partial"))
    assert site.problems() == []


def test_what_an_interrupted_run_left_counts_only_as_it_was_verified(site):
    generation = site.mirror()["generation"]
    shutil.rmtree(site.top / "generations" / generation)
    directory = site.top / "tapes/daily-0001/20250101010000"
    names = ["00001.web1._etc.0", "00002.web1._etc.0"]
    hashes = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in names}
    flip(directory / names[1])
    changed = hashlib.sha256((directory / names[1]).read_bytes()).hexdigest()
    sums = directory / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(hashes[names[1]], changed))
    verified = {name: ((directory / name).stat().st_size, hashes[name]) for name in names}
    done = site.mirror(record=Record({("daily-0001", "20250101010000"): verified}))
    assert (done["copied_tapes"], done["differing"]) == (["daily-0001"], [])
    assert hashlib.sha256((directory / names[1]).read_bytes()).hexdigest() == hashes[names[1]]
    assert site.problems() == []


def test_a_damaged_copy_is_told_and_made_good_from_the_tape(site):
    first = site.mirror()["generation"]
    (site.top / "tapes/daily-0001/20250101010000/00002.web1._etc.0").write_bytes(b"short")
    done = site.mirror()
    assert "daily-0001 written at 20250101010000 was damaged" in done["warnings"][0]
    assert done["pruned"]["paused"]
    assert site.problems(first) == []


def test_a_tape_cut_short_after_it_was_mirrored_does_not_reach_the_mirror(site):
    site.mirror()
    before = content(site.top / "tapes")
    (site.places.tapes / "slot1/00002.web1._etc.0").write_bytes(b"short")
    done = site.mirror()
    assert "no longer as it was mirrored" in done["warnings"][0]
    assert done["differing"] == ["daily-0001"]
    assert done["pruned"]["paused"]
    assert content(site.top / "tapes") == before
    assert site.problems() == []


def test_a_damaged_copy_of_a_changed_tape_is_not_made_good_with_it(site):
    site.mirror()
    copy = site.top / "tapes/daily-0001/20250101010000/00002.web1._etc.0"
    copy.unlink()
    (site.places.tapes / "slot1/00002.web1._etc.0").write_bytes(os.urandom(300_000))
    done = site.mirror()
    assert "can't be made good" in " ".join(done["warnings"])
    assert done["differing"] == ["daily-0001"]
    assert site.problems() == [f"{str(copy)!r} is missing"]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def link(path):
    path.unlink()
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("spoil", [flip, Path.unlink, link, lambda path: os.truncate(path, 7)])
def test_every_file_of_a_generation_that_is_spoiled_is_named(site, spoil):
    site.mirror()
    files = sorted(content(site.top))
    assert len(files) == 3 + 5 + 3
    for path in files:
        data = path.read_bytes()
        spoil(path)
        (problem,) = amanda_generations.check(site.settings, "daily", hashes=True)["problems"][:1]
        assert path.name in problem
        path.unlink(missing_ok=True)
        path.write_bytes(data)
    assert amanda_generations.check(site.settings, "daily", hashes=True)["problems"] == []


@pytest.mark.parametrize(
    "where",
    [
        "stranger",
        "tapes/stranger",
        "tapes/daily-0001/stranger",
        "tapes/daily-0001/20250101010000/stranger",
        "generations/stranger",
        "generations/GENERATION/stranger",
        "generations/GENERATION/directory/stranger",
        "generations/20250101T000000Z.partial",
        "tapes/daily-0001/20250101010000.partial",
        "tapes/daily-0009/20250101010000/00000.daily-0009",
    ],
)
def test_what_does_not_belong_in_the_mirror_is_named(site, where):
    path = site.top / where.replace("GENERATION", site.mirror()["generation"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    (problem,) = amanda_generations.check(site.settings, "daily")["problems"]
    named = path.parent if path.parent.name in ("directory", "20250101010000") else path
    assert str(named) in problem
    assert re.search("doesn't belong there|isn't needed|is unfinished; the next mirror", problem)


def test_a_check_of_the_whole_mirror_reads_each_file_once_in_every_generation(site):
    site.mirror()
    old = site.mirror()["generation"]
    site.write(1, "20250103010000", 9000)
    site.mirror()
    read = []
    checked = amanda_generations.check(site.settings, "daily", hashes=True, progress=read.append)
    assert (checked["generations"], checked["problems"]) == (3, [])
    there = content(site.top)
    own = [
        path for path in there if path.suffix in (".json", ".sha256") or path.name == "SHA256SUMS"
    ]
    assert sum(read) == sum(len(data) for data in there.values())
    assert checked["files"] == len(there) - len(own)
    assert {copy.key for copy in checked["copies"]} == {
        tuple(name.split("/")) for name in site.held()
    }
    flip(site.top / "generations" / old / "EMERGENCY.txt")
    (problem,) = amanda_generations.check(site.settings, "daily", hashes=True)["problems"]
    assert old in problem


def test_generations_past_their_days_go_and_with_them_what_only_they_need(site):
    old = site.mirror()["generation"]
    site.age(old, "20200101T000000Z")
    site.age(site.mirror()["generation"], "20250101T000000Z")
    site.write(1, "20250103010000", 300_000)
    site.age(site.mirror(keep_days=9999)["generation"], "20250115T000000Z")
    done = site.mirror(keep_days=9999)
    assert done["pruned"] == {"paused": False, "generations": [], "tapes": []}
    done = site.mirror(keep_days=1000)
    assert done["pruned"]["generations"] == ["20200101T000000Z"]
    assert done["pruned"]["tapes"] == []
    gone = [row["generation"] for row in amanda_generations.generations(site.settings, "daily")]
    assert "20250101T000000Z" in gone
    done = site.mirror(keep_days=1)
    assert done["pruned"]["tapes"] == [["daily-0001", "20250101010000"]]
    assert site.held() == ["daily-0001/20250103010000", "daily-0002/20250102010000"]
    checked = amanda_generations.check(site.settings, "daily", hashes=True)
    assert (checked["problems"], checked["generations"]) == ([], 3)


def test_the_last_full_of_every_dle_stays_however_old(site):
    full = [dump("/etc", "20250101010000", 0, "OK", "daily-0001")]
    site.age(site.mirror(dumps=full)["generation"], "20250101T000000Z")
    site.age(site.mirror(dumps=full)["generation"], "20250102T000000Z")
    site.write(1, "20250103010000", 300_000)  # over the only full, as Amanda does
    site.age(site.mirror(keep_days=9999)["generation"], "20250103T000000Z")
    site.age(site.mirror(keep_days=9999)["generation"], "20250104T000000Z")
    done = site.mirror(keep_days=9999)
    assert site.mirror(keep_days=1)["pruned"]["generations"] == [
        "20250101T000000Z",
        "20250103T000000Z",
        "20250104T000000Z",
    ]
    assert "daily-0001/20250101010000" in site.held()
    assert site.problems("20250102T000000Z") == site.problems(done["generation"]) == []
    newer = [dump("/etc", "20250103010000", 0, "OK", "daily-0001")]
    assert site.mirror(dumps=newer)["pruned"]["generations"] == ["20250102T000000Z"]
    assert "daily-0001/20250101010000" not in site.held()


def test_a_full_of_what_was_let_go_keeps_no_generation_and_is_not_missed(site):
    full = [dump("/etc", "20250101010000", 0, "OK", "daily-0001")]
    site.age(site.mirror(dumps=full)["generation"], "20250101T000000Z")
    site.write(1, "20250103010000", 300_000)  # over the only full, as Amanda does
    let_go = {("web1", "/etc")}
    for dumps in (full, []):
        done = site.mirror(dumps=dumps, keep_days=9999, let_go=let_go)
        assert not any("can't restore" in warning for warning in done["warnings"])
    assert site.mirror(keep_days=1)["pruned"]["generations"] == []
    done = site.mirror(keep_days=1, let_go=let_go)
    assert done["pruned"]["generations"] == ["20250101T000000Z"]
    assert "daily-0001/20250101010000" not in site.held()


def test_a_removal_that_stops_half_way_leaves_nothing_that_looks_whole(site, monkeypatch):
    first, second = (site.mirror()["generation"] for _ in range(2))

    def half(path):
        (path / "manifest.sha256").unlink()
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="Input/output"):
        broken.setattr(shutil, "rmtree", half)
        amanda_mirror_user.remove(site.top / "generations" / first)
    (row,) = amanda_generations.generations(site.settings, "daily")
    assert (row["generation"], row["problem"]) == (second, None)
    site.mirror()
    assert not list(site.top.rglob("*.partial"))


def test_an_unusual_size_is_mirrored_and_told_and_nothing_is_removed_until_it_is_accepted(site):
    for day in range(3):
        site.age(site.mirror(keep_days=9999)["generation"], f"2025010{day + 1}T000000Z")
    site.write(1, "20250104010000", 10)
    site.write(2, "20250104020000", 10)
    for _ in range(4):  # however often it is seen, it is no measure
        done = site.mirror(keep_days=1000)
        assert "are usual. Nothing is removed" in done["warnings"][0]
        assert "accept=True" in done["warnings"][0]
        assert done["pruned"] == {"paused": True, "generations": [], "tapes": []}
    assert len(site.held()) == 4
    assert site.problems() == []
    done = site.mirror(accept=True)
    assert (done["warnings"], len(done["pruned"]["tapes"])) == ([], 2)
    done = site.mirror()
    assert (done["warnings"], done["pruned"]["paused"]) == ([], False)


def test_a_clock_that_was_ahead_leaves_no_generation_that_others_are_measured_by(site):
    site.mirror()
    old = amanda_generations.load(site.settings, "daily")
    ahead = dataclasses.replace(old, generation="20990101T000000Z", standing="doubtful")
    after = dataclasses.replace(old, generation="20990101T000001Z")
    assert "Check the clock" in amanda_pruning.unusual(after, [old, ahead], 30)[0]
    accepted = dataclasses.replace(ahead, standing="accepted")
    assert amanda_pruning.unusual(after, [old, accepted], 30) == []


def test_a_damaged_manifest_pauses_pruning_and_its_generation_is_left(site):
    old = site.mirror()["generation"]
    flip(site.top / "generations" / old / "manifest.json")
    site.write(1, "20250103010000", 300_000)
    done = site.mirror(keep_days=0)
    assert old in done["warnings"][0] and done["pruned"]["paused"]
    assert "daily-0001/20250101010000" in site.held()
    rows = amanda_generations.generations(site.settings, "daily")
    assert "was changed" in rows[0]["problem"] and rows[1]["problem"] is None
    assert done["damaged"] == [old]
    assert f"remove '{site.top}/generations/{old}', as {ME}" in done["warnings"][0]


@pytest.mark.parametrize("name", ["99991231T235959Z", "20991231T235959Z", "20989931T000000Z"])
def test_a_generation_from_a_time_to_come_counts_for_nothing_and_is_named_with_a_remedy(site, name):
    site.age(site.mirror()["generation"], "20240101T000000Z")
    old = site.mirror()["generation"]
    (site.top / "generations" / name).mkdir()
    done = site.mirror(keep_days=1, accept=True)
    assert old < done["generation"] < "2099"
    assert done["damaged"] == [name] and done["pruned"]["paused"]
    (warning,) = done["warnings"]
    assert f"remove '{site.top}/generations/{name}', as {ME}" in warning
    assert amanda_generations.load(site.settings, "daily").generation == done["generation"]
    problems = amanda_generations.check(site.settings, "daily")["problems"]
    assert len(problems) == 1 and name in problems[0]
    (site.top / "generations" / name).rmdir()
    done = site.mirror(keep_days=1, accept=True)
    assert done["pruned"]["generations"] == ["20240101T000000Z"] and done["damaged"] == []


def test_a_whole_generation_that_is_dated_ahead_is_not_the_newest(site):
    ahead = site.mirror()["generation"]
    site.age(ahead, "20991231T235959Z")
    done = site.mirror()
    assert done["generation"] < "2099" and done["damaged"] == ["20991231T235959Z"]
    assert "yet to come, by this server's clock" in done["warnings"][0]
    (problem,) = amanda_generations.check(site.settings, "daily", hashes=True)["problems"]
    assert "20991231T235959Z" in problem
    assert amanda_generations.load(site.settings, "daily").generation == done["generation"]
    asked = amanda_generations.load(site.settings, "daily", "20991231T235959Z")
    assert asked.generation == "20991231T235959Z"


def test_thousands_of_directories_that_are_no_generations_are_told_in_one_short_message(site):
    site.mirror()
    for number in range(3000):
        (site.top / "generations" / f"20240101T{number:06d}Z").mkdir()
    began = time.monotonic()
    done = site.mirror()
    assert time.monotonic() - began < 10
    (warning,) = done["warnings"]
    assert "(and 2995 more)" in warning and len(warning) < 2000
    assert done["damaged"] == [f"20240101T{number:06d}Z" for number in range(5)]
    problems = amanda_generations.check(site.settings, "daily")["problems"]
    assert len(problems) == 1001 and problems[-1] == "and 2000 more"


def test_a_manifest_that_is_huge_is_neither_read_nor_handed_over(site, monkeypatch):
    generation = site.mirror()["generation"]
    where = site.top / "generations" / generation
    read = []
    real = amanda_mirror_user.open_regular

    def watch(path):
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(amanda_mirror_user, "open_regular", watch)
    for name in ("manifest.json", "manifest.sha256"):
        data = (where / name).read_bytes()
        os.truncate(where / name, 200 << 20)
        with pytest.raises(AmandaError, match=f"{name} has {200 << 20} bytes, where"):
            amanda_generations.load(site.settings, "daily")
        (where / name).write_bytes(data)
    os.truncate(where / "manifest.json", amanda_mirror_user.MOST_TEXT)
    found = []
    amanda_mirror_user.generations(str(site.top.parent), "daily", [generation], found.append)
    assert found[0]["manifest"] is None and "was changed" in found[0]["problem"]
    assert read == ["manifest.sha256", "manifest.json"]


def no_manifest(where):
    (where / "manifest.json").unlink()


def linked_manifest(where):
    (where / "manifest.json").rename(where / "other")
    (where / "manifest.json").symlink_to("other")


def piped_manifest(where):
    (where / "manifest.json").unlink()
    os.mkfifo(where / "manifest.json")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_manifest, "manifest.json is missing"),
        (linked_manifest, "manifest.json is a link"),
        (piped_manifest, "manifest.json is no regular file"),
    ],
)
def test_a_newest_generation_that_is_damaged_is_told_with_the_one_before(site, spoil, said):
    first, second = (site.mirror()["generation"] for _ in range(2))
    spoil(site.top / "generations" / second)
    with pytest.raises(AmandaError, match=f"{second} of daily: {said}.*config=daily .*={first}$"):
        amanda_generations.load(site.settings, "daily")


def catalogue(site, generation=None):
    """Return what opens the catalogue of a generation, the newest if none is named."""
    config = types.SimpleNamespace(name="daily")
    settings = types.SimpleNamespace(mirror=site.settings, config=lambda name: config)
    return amanda_sources.catalogue(amanda_sources.Origin(settings, ME, "mirror", generation))


def linked_catalogue(path):
    path.rename(path.with_name("other"))
    path.symlink_to("other")


def piped_catalogue(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (Path.unlink, "is missing"),
        (linked_catalogue, "is a link"),
        (piped_catalogue, "is no regular file"),
        (lambda path: os.truncate(path, 7), "was changed"),
    ],
)
def test_a_catalogue_that_can_not_be_read_is_told_in_words_with_the_one_before(site, spoil, said):
    first, _ = (site.mirror()["generation"] for _ in range(2))
    spoil(sorted(site.top.rglob("catalogue.*"))[-1])
    with (
        pytest.raises(AmandaError, match=f"{said}.*config=daily generation={first}$") as raised,
        catalogue(site),
    ):
        pass
    assert "Errno" not in str(raised.value)


def test_a_tape_that_is_a_link_is_replaced_and_what_it_leads_to_is_left(site, tmp_path):
    site.mirror()
    where = site.top / "tapes/daily-0001/20250101010000"
    where.rename(tmp_path / "elsewhere")
    where.symlink_to(tmp_path / "elsewhere")
    before = content(tmp_path / "elsewhere")
    assert site.mirror()["copied_tapes"] == ["daily-0001"]
    assert not where.is_symlink() and site.problems() == []
    assert content(tmp_path / "elsewhere") == before


def test_unfinished_links_are_removed_and_not_followed(site, tmp_path):
    site.mirror()
    kept = tmp_path / "kept" / "20250101010000.partial"
    kept.mkdir(parents=True)
    links = [
        site.top / "generations/20250101T000000Z.partial",
        site.top / "tapes/daily-0001/20250101010000.partial",
    ]
    for path in links:
        path.symlink_to(kept)
    site.mirror()
    assert kept.is_dir() and not any(map(os.path.lexists, links))


def test_an_unfinished_link_into_a_directory_that_may_not_be_entered_is_removed(
    site, tmp_path, monkeypatch
):
    site.mirror()
    path = site.top / "generations/20250101T000000Z.partial"
    path.symlink_to(tmp_path)
    real = Path.is_dir

    def is_dir(self):
        if self == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return real(self)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    site.mirror()
    assert not os.path.lexists(path)


@pytest.mark.parametrize("name", ["", "generations", "tapes", "tapes/daily-0001"])
def test_a_directory_of_the_mirror_that_is_a_link_is_not_followed_but_named(site, tmp_path, name):
    site.mirror()
    where = site.top / name
    where.rename(tmp_path / "elsewhere")
    where.symlink_to(tmp_path / "elsewhere")
    before = content(tmp_path / "elsewhere")
    with pytest.raises(AmandaError, match=f"'{where}' on the mirror is a link.*Put the directory"):
        site.mirror()
    assert content(tmp_path / "elsewhere") == before
    try:
        problems = amanda_generations.check(site.settings, "daily", hashes=True)["problems"]
    except AmandaError as error:
        problems = [str(error)]
    assert f"'{where}'" in problems[0]


@pytest.fixture
def known(site, tmp_path, monkeypatch):
    """Give a site with three generations that the server knows to be its own."""
    monkeypatch.setattr(amanda_layout, "MIRRORED", tmp_path / "mirrored")
    site.mirrored = tmp_path / "mirrored" / "daily.json"
    site.made = [site.mirror()["generation"] for _ in range(3)]
    return site


def source(site, generation=None):
    """Open the catalogue of a generation as amanda.recover source=mirror does."""
    with catalogue(site, generation):
        pass


def load(site, generation=None):
    known = amanda_mirrored.read(site.settings, "daily")
    return amanda_generations.load(site.settings, "daily", generation, known).generation


def problems(site):
    known = amanda_mirrored.read(site.settings, "daily")
    return amanda_generations.check(site.settings, "daily", hashes=True, known=known)["problems"]


def test_a_mirror_in_another_directory_is_another_mirror_that_lacks_nothing(known, tmp_path):
    """The pillar said so, which only an administrator writes."""
    (tmp_path / "new").mkdir()
    known.settings = dataclasses.replace(known.settings, directory=str(tmp_path / "new"))
    known.top = tmp_path / "new" / "daily"
    done = known.mirror()
    assert done["warnings"] == [] and problems(known) == []
    assert amanda_mirrored.read(known.settings, "daily").made.keys() == {done["generation"]}


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_generation_that_was_removed_on_the_mirror_is_missed_until_an_administrator_agrees(
    known, which
):
    shutil.rmtree(known.top / "generations" / known.made[which])
    gone = f"generation {known.made[which]} of daily, which this server made, is gone"
    assert gone in problems(known)[0]
    work = types.SimpleNamespace(
        settings=types.SimpleNamespace(mirror=known.settings), config=known.places
    )
    assert gone in amanda_check._generation_problems(work)[0]
    if which == 2:
        with pytest.raises(AmandaError, match=f"{gone}.*generation={known.made[1]}$"):
            source(known)
    assert load(known, known.made[which - 1]) == known.made[which - 1]
    for _ in range(2):
        done = known.mirror(keep_days=0)
        assert gone in done["gone"] and gone in done["warnings"][0]
        assert "salt-call amanda.mirror daily accept=True" in done["gone"]
        assert done["pruned"]["paused"]
    assert known.mirror(accept=True, keep_days=999)["gone"] is None
    assert problems(known) == []
    assert known.mirror(keep_days=999)["warnings"] == []


def test_what_this_server_pruned_itself_is_not_missed(known):
    known.mirrored.unlink()
    known.age(known.made[0], "20240101T000000Z")
    assert f"{known.mirrored}, which says what" in known.mirror(keep_days=9999)["warnings"][0]
    done = known.mirror(keep_days=1, accept=True)
    assert done["pruned"]["generations"] == ["20240101T000000Z"]
    assert (known.mirror()["warnings"], problems(known)) == ([], [])


def forged(site):
    """Let the newest generation say something else, its sums as they should be."""
    path = site.top / "generations" / site.made[2] / "manifest.json"
    path.write_text(path.read_text().replace('"run": ""', '"run": "20250101000000"'))
    site.age(site.made[2], site.made[2])
    return site.made[2]


def foreign(site):
    """Put one more generation there, made of the newest."""
    where = site.top / "generations" / site.made[2]
    later = amanda_generations.made(site.made[2]) + datetime.timedelta(seconds=30)
    name = later.strftime("%Y%m%dT%H%M%SZ")
    shutil.copytree(where, where.with_name("kept"))
    site.age(site.made[2], name)
    where.with_name("kept").rename(where)
    return name


@pytest.mark.parametrize(
    ("forge", "said"),
    [(forged, "isn't the one that this server wrote"), (foreign, "it isn't its own")],
)
def test_a_generation_that_somebody_else_wrote_is_not_believed(known, forge, said):
    name = forge(known)
    (problem,) = problems(known)
    assert name in problem and said in problem
    with pytest.raises(AmandaError, match=f"{said}.*accept=True'.*take the one before"):
        source(known)
    with pytest.raises(AmandaError, match=said):
        source(known, name)
    done = known.mirror()
    assert done["damaged"] == [name] and said in done["warnings"][0]
    shutil.rmtree(known.top / "generations" / name)
    done = known.mirror()
    assert (done["warnings"], done["gone"]) == ([], None)


def test_a_damaged_generation_that_comes_back_whole_is_known_again(known):
    path = known.top / "generations" / known.made[1] / "manifest.json"
    flip(path)
    for _ in range(2):
        assert known.mirror()["damaged"] == [known.made[1]]
    flip(path)
    assert known.mirror()["warnings"] == problems(known) == []
    shutil.rmtree(path.parent)
    assert known.made[1] in known.mirror()["gone"]


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"made": {"x": 1}, "unsettled": {}}'])
def test_a_record_of_generations_that_is_damaged_or_lost_is_begun_anew_and_told_once(
    known, content
):
    known.mirrored.unlink() if content is None else known.mirrored.write_text(content)
    assert load(known) == known.made[2]
    (warning,) = known.mirror()["warnings"]
    assert f"{known.mirrored}, which says what generations" in warning and "with the 3" in warning
    assert known.mirror()["warnings"] == []


@pytest.mark.parametrize(("stops", "after"), [("finish", False), ("finish", True), ("prune", True)])
def test_a_mirror_that_stops_between_its_record_and_the_mirror_misses_nothing(
    known, monkeypatch, stops, after
):
    real = getattr(amanda_mirror_user, stops)

    def stop(*arguments):
        if after:
            real(*arguments)
        if "tapes" not in str(arguments[0]):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken, contextlib.suppress(AmandaError):
        broken.setattr(amanda_mirror_user, stops, stop)
        known.mirror(keep_days=-1)
    done = known.mirror(keep_days=999)
    assert (done["warnings"], problems(known)) == ([], [])


def test_a_long_pause_and_another_server_are_unusual(site):
    site.mirror()
    old = amanda_generations.load(site.settings, "daily")
    assert amanda_pruning.unusual(old, [old], 30) == []
    late = dataclasses.replace(old, generation="20990101T000000Z")
    assert "Check the clock" in amanda_pruning.unusual(late, [old], 30)[0]
    other = dataclasses.replace(old, server="elsewhere")
    assert "own mirror directory" in amanda_pruning.unusual(other, [old], 30)[0]


def test_a_generation_that_restores_less_than_one_before_says_so(site):
    good = [dump(disk, "20250101010000", 0, "OK", "daily-0001") for disk in ("/etc", "/home")]
    when = ("daily-0001", "20250101010000")
    first = site.mirror(dumps=good)
    assert not any("can't restore" in warning for warning in first["warnings"])
    record = amanda_verified.Record()
    for full, reason in zip(good, ("", "bad"), strict=True):
        record.judge(full, "2025-01-01T02:00:00Z", reason)
    manifest = amanda_generations.load(site.settings, "daily")
    assert amanda_pruning.unrestorable(manifest, [manifest], good) == []
    lost = dataclasses.replace(manifest, fulls={"web1 /etc": (when,)})
    (warning,) = amanda_pruning.unrestorable(lost, [manifest, lost], good)
    assert f"can't restore web1 /home (generation {first['generation']} can): no full" in warning
    nothing = dataclasses.replace(manifest, fulls={})
    (warning,) = amanda_pruning.unrestorable(nothing, [], good)
    assert "can't restore web1 /etc, web1 /home: no full" in warning
    assert amanda_pruning.unrestorable(nothing, [], []) == []
    warnings = site.mirror(dumps=good, record=record)["warnings"]
    assert any("can't restore web1 /home (generation" in warning for warning in warnings)


def test_a_burst_of_new_data_is_unusual(site):
    site.mirror()
    old = dataclasses.replace(amanda_generations.load(site.settings, "daily"), new_bytes=100)
    burst = dataclasses.replace(old, new_bytes=401)
    assert amanda_pruning.unusual(burst, [old, old], 30) == []
    assert "adds 401 bytes" in amanda_pruning.unusual(burst, [old, old, old], 30)[0]
    doubted = dataclasses.replace(burst, standing="doubtful")
    told = amanda_pruning.unusual(old, [old, old, old, doubted], 30)
    assert f"generation {old.generation} adds 401 bytes" in told[0]
    accepted = dataclasses.replace(old, standing="accepted")
    assert amanda_pruning.unusual(old, [old, old, old, doubted, accepted], 30) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"label": "daily-0001"', '"label": "../../../etc"'),
        ('"label": "daily-0001"', '"label": ".."'),
        ('"written": "20250101010000"', '"written": "../x"'),
        ('"name": "00001.web1._etc.0"', '"name": "00001./../../x"'),
        ('"name": "00001.web1._etc.0"', '"name": "00002.web1._etc.0"'),
        ('"conf": "', '"conf": "/etc/'),
        ('"conf": "', '"conf": "../../'),
        ('"name": "catalogue', '"name": "../catalogue'),
        ('"size": 5000', '"size": -1'),
        ('"size": 5000', '"size": true'),
        ('"config": "daily"', '"config": "weekly"'),
        ('"format": 1', '"format": 2'),
        ('"tapes": [', '"tapes": [[], '),
        ('"run": ""', '"run": null'),
        ('"standing": "usual"', '"standing": "good"'),
        ("{", "["),
    ],
)
def test_a_manifest_that_names_what_it_may_not_is_refused(site, old, new):
    name = site.mirror()["generation"]
    path = site.top / "generations" / name / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    site.age(name, name)  # with a sum that is right
    with pytest.raises(AmandaError, match=f"{name} of daily.*can't be believed"):
        amanda_generations.load(site.settings, "daily", name)


@pytest.mark.parametrize("generation", ["20200101T000000Z", "../../etc", ["x"]])
def test_a_generation_that_is_not_there_is_an_error_that_lists_what_is(site, generation):
    name = site.mirror()["generation"]
    with pytest.raises(ArgumentError, match=name):
        amanda_generations.load(site.settings, "daily", generation)


def test_a_mirror_without_a_generation_is_never_called_good(site):
    for read in (
        amanda_generations.check,
        amanda_generations.check_generation,
        amanda_generations.load,
    ):
        with pytest.raises(ArgumentError, match="has no generation of daily"):
            read(site.settings, "daily")
    assert amanda_generations.generations(site.settings, "daily") == []


def test_a_mirror_that_is_not_mounted_is_an_error_that_names_it(site):
    site.top.parent.rmdir()
    with pytest.raises(AmandaError, match=f"{site.top.parent} doesn't exist. Mount it"):
        amanda_generations.generations(site.settings, "daily")


def test_an_archive_with_links_shows_nothing_outside(site, tmp_path):
    (site.places.logs / "log.20250105010000.0").symlink_to("/etc/passwd")
    site.mirror()
    manifest = amanda_generations.load(site.settings, "daily")
    with amanda_generations.open_catalogue(site.settings, manifest) as places:
        assert [path.name for path in places.logs.iterdir()] == ["log.20250101010000.0"]


def test_a_changed_archive_is_never_opened(site):
    site.mirror()
    manifest = amanda_generations.load(site.settings, "daily")
    (archive,) = site.top.rglob("catalogue.*")
    flip(archive)
    with (
        pytest.raises(AmandaError, match="was changed"),
        amanda_generations.open_catalogue(site.settings, manifest),
    ):
        pass


def test_a_part_is_read_from_the_mirror_by_label_time_and_number(site):
    site.mirror()
    part = Part("daily-0001", 2, 1, 300_000 - 32768, "20250101010000")
    with amanda_generations.open_tape_file(site.settings, "daily", part) as stream:
        assert stream.read() == (site.places.tapes / "slot1/00002.web1._etc.0").read_bytes()
    for wrong in ({"file": 3}, {"label": "../x"}, {"written": "20250102010000"}):
        with pytest.raises(AmandaError):
            other = dataclasses.replace(part, **wrong)
            amanda_generations.open_tape_file(site.settings, "daily", other)


def test_a_file_that_changed_since_it_was_verified_is_copied_told_and_known_as_damaged(site):
    key, name = ("daily-0001", "20250101010000"), "00001.web1._etc.0"
    record = Record({key: {name: (5000, "0" * 64)}})
    answer = site.mirror(record=record)
    assert answer["differing"] == ["daily-0001"]
    assert repr(name) in answer["warnings"][0]
    manifest = amanda_generations.load(site.settings, "daily")
    (copy,) = [copy for copy in manifest.tapes if copy.key == key]
    assert {file.name: file.sha256 for file in copy.files}[name] == "0" * 64
    (problem,) = site.problems()
    assert f"{name}' has changed" in problem
    assert site.mirror(record=record)["differing"] == []


def test_a_copy_that_is_not_what_was_verified_later_is_told(site):
    assert site.mirror()["differing"] == []
    files = {"00001.web1._etc.0": (5000, "0" * 64)}
    answer = site.mirror(record=Record({("daily-0001", "20250101010000"): files}))
    assert answer["differing"] == ["daily-0001"]
    assert answer["pruned"]["paused"]


def test_a_file_of_the_mirror_that_can_not_be_read_stops_no_generation(site, monkeypatch):
    name, regular = "00001.web1._etc.0", amanda_mirror_user.open_regular
    full = [dump("/etc", "20250101010000", 0, "OK", "daily-0001")]
    site.mirror()

    def refuse(path):
        if Path(path).name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return regular(path)

    monkeypatch.setattr(amanda_mirror_user, "open_regular", refuse)
    done = site.mirror(dumps=full)
    (warning,) = done["warnings"]
    assert "how to restore web1 /etc: " in warning
    assert f"{name} can't be read: Permission denied" in warning
    sheet = site.top / "generations" / done["generation"] / "EMERGENCY.txt"
    assert f"{name} can't be read" in sheet.read_text()


def test_a_dump_that_verification_found_bad_is_not_offered_by_the_sheet(site):
    full = dump("/etc", "20250101010000", 0, "OK", "daily-0001")
    record = Record()
    record.judge(full, "2025-01-01T02:00:00Z", "its CRC is another")
    done = site.mirror(dumps=[full], record=record)
    text = (site.top / "generations" / done["generation"] / "EMERGENCY.txt").read_text()
    assert "DAMAGED BACKUPS" in text and "web1 /etc, level 0, made on 2025-01-01" in text


def test_a_generation_of_before_there_was_a_sheet_can_be_read_and_is_whole(site):
    generation = site.mirror()["generation"]
    directory = site.top / "generations" / generation
    data = json.loads((directory / "manifest.json").read_text())
    del data["sheet"]
    (directory / "manifest.json").write_text(json.dumps(data))
    (directory / "EMERGENCY.txt").unlink()
    site.age(generation, generation)  # the manifest's sum
    assert amanda_generations.load(site.settings, "daily").sheet is None
    assert site.problems() == []
    assert site.mirror()["warnings"] == []


@pytest.mark.parametrize("name", ["../EMERGENCY.txt", "manifest.json", "x", None, 5])
def test_a_sheet_under_another_name_is_not_believed(site, name):
    generation = site.mirror()["generation"]
    directory = site.top / "generations" / generation
    data = json.loads((directory / "manifest.json").read_text())
    data["sheet"]["name"] = name
    (directory / "manifest.json").write_text(json.dumps(data))
    site.age(generation, generation)
    with pytest.raises(AmandaError, match="can't be believed"):
        amanda_generations.load(site.settings, "daily")


def test_last_fulls_are_the_newest_good_level_zero_of_each_dle():
    dumps = [
        dump("/etc", "20250103000000", 0, "PARTIAL", "daily-0003"),
        dump("/etc", "20250102000000", 0, "OK", "daily-0002", "daily-0001", "daily-0002"),
        dump("/etc", "20250101000000", 0, "OK", "daily-0009"),
        dump("/etc", "20250104000000", 1, "OK", "daily-0004"),
        dump("/home", "20250104000000", 1, "OK", "daily-0004"),
    ]
    when = "20250102000000"
    assert amanda_pruning.last_fulls(dumps) == {
        "web1 /etc": (("daily-0001", when), ("daily-0002", when))
    }
    gap = dataclasses.replace(dump("/etc", "20250105000000", 0, "OK", "daily-0005"), complete=False)
    assert amanda_pruning.last_fulls([*dumps, gap])["web1 /etc"] == (
        *(("daily-0001", when), ("daily-0002", when)),
        ("daily-0005", "20250105000000"),
    )


def missing(site):
    site.top.parent.rmdir()


def no_directory(site):
    site.top.parent.rmdir()
    site.top.parent.touch()


@pytest.mark.parametrize(
    ("spoil", "said"), [(missing, "doesn't exist. Mount it"), (no_directory, "isn't a directory")]
)
def test_a_mirror_directory_that_is_not_there_is_never_made(site, spoil, said):
    spoil(site)
    with pytest.raises(AmandaError, match=said):
        site.mirror()
    assert not site.top.exists()


def test_a_mirror_user_who_does_not_exist_is_named(site):
    with pytest.raises(AmandaError, match="no user 'v45_nobody'"):
        site.mirror(user="v45_nobody")
