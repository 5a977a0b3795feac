"""What verification concludes from what it reads, and when it keeps that."""

import dataclasses
import errno
import gzip
import os
import re
import subprocess
import types

import amanda_catalogue
import amanda_layout
import amanda_pipeline
import amanda_slots
import amanda_sums
import amanda_tapes
import amanda_verification
import amanda_verified
import amanda_verify
import pytest
from amanda_errors import AmandaError, ServerError
from amanda_verify import Scope

from tests.unit import tapes

DISKS = ["/a", "/b", "/c"]


class Site:
    """Three dumps, each on a tape of its own."""

    def __init__(self, top):
        self.places = amanda_layout.ConfigPlaces("daily", top, top, top / "state", top / "tapes")
        (top / "tree").mkdir()
        made = subprocess.run(
            ["tar", "-cf", "-", "-C", top / "tree", "."], check=True, capture_output=True
        )
        self.dumps = []
        for number, disk in enumerate(DISKS, 1):
            layout = [(f"daily-000{number}", 1, None)]
            self.dumps.append(tapes.write_dump(self.places.tapes, made.stdout, layout, disk=disk))
            index = self.places.index / "web1" / disk.replace("/", "_")
            index.mkdir(parents=True)
            (index / f"{tapes.WRITTEN}_0.gz").write_bytes(gzip.compress(b"/\n"))
        self.labels = [(f"daily-000{number}", tapes.WRITTEN) for number in (1, 2, 3)]
        self.record = amanda_verified.Record()
        self.told = []

    def verify(self, dumps, **options):
        known = frozenset(label for label, _ in self.labels)
        scope = Scope(tuple(dumps), tuple(self.labels), known, **options)
        work = (self.places, None, scope, self.record, self.told.append)
        return amanda_verify.verify(*work, lambda label, written: "GIVE UP")

    def file(self, number):
        (path,) = (self.places.tapes / f"slot{number}").glob("00001.*")
        return path

    def stored(self):
        return amanda_verified.read("daily")


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr(amanda_layout, "VERIFIED", tmp_path / "verified")
    monkeypatch.setattr(amanda_pipeline, "Checksum", tapes.SlowChecksum)
    return Site(tmp_path)


def damage(path):
    data = bytearray(path.read_bytes())
    data[-700] ^= 1
    path.write_bytes(data)


def test_a_fault_of_the_server_is_told_and_says_nothing_of_a_dump(site, monkeypatch):
    def missing():
        raise ServerError("libamanda is missing")

    monkeypatch.setattr(amanda_pipeline, "Checksum", missing)
    result = site.verify(site.dumps)
    assert (result["dumps"], result["good"], result["failed"]) == (3, 0, [])
    assert len(result["problems"]) == 3
    assert "was not verified, since this server failed: libamanda" in result["problems"][0]
    assert [site.stored().verdict(dump) for dump in site.dumps] == [None] * 3
    noted = [name for files in site.stored().hashes().values() for name in files]
    assert noted == [f"00000.{label}" for label, _ in site.labels]


def refuse(monkeypatch, part):
    """Have the system refuse to open any directory or file whose path ends in *part*."""

    def guarded(real):
        def call(path, *arguments, **options):
            if isinstance(path, (str, os.PathLike)) and os.fspath(path).endswith(part):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return real(path, *arguments, **options)

        return call

    monkeypatch.setattr(amanda_tapes.os, "scandir", guarded(os.scandir))
    monkeypatch.setattr(amanda_tapes.os, "open", guarded(os.open))


@pytest.mark.parametrize("part", ["slot1", "slot1/00000.daily-0001"])
@pytest.mark.parametrize("verified", [False, True])
def test_a_slot_that_may_not_be_read_is_a_fault_of_the_server(site, monkeypatch, part, verified):
    if verified:
        assert site.verify(site.dumps)["good"] == 3
    hashes = site.record.hashes()
    with monkeypatch.context() as patch:
        refuse(patch, part)
        result = site.verify(site.dumps)
    assert (result["dumps"], result["good"], result["failed"]) == (3, 2, [])
    told = "\n".join(result["problems"])
    slot = site.places.tapes / "slot1"
    assert f"'{slot}' can't be read by the dump user: Permission denied. Let him: chown -R" in told
    assert "was not verified, since this server failed" in told
    assert "amrmtape" not in told and "is missing" not in told
    assert site.stored().good(site.dumps[0]) == verified
    assert not site.stored().failed(site.dumps[0])
    if verified:
        assert site.stored().hashes() == hashes
    again = site.verify(site.dumps)
    assert (again["good"], again["problems"]) == (3, [])


def test_a_file_that_may_not_be_read_is_a_fault_of_the_server(site, monkeypatch):
    extra = site.file(1).with_name("00002.web1._etc.0")
    extra.write_bytes(b"half a dump")

    def refused(path, report):
        if path == str(extra):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return amanda_sums.hash_file(path, report)

    hash_file = types.SimpleNamespace(hash_file=refused)
    monkeypatch.setattr(amanda_slots, "amanda_sums", hash_file)
    result = site.verify(site.dumps)
    assert (result["good"], result["failed"]) == (3, [])
    (problem,) = result["problems"]
    assert f"'{extra}' can't be read by the dump user" in problem
    assert site.record.tapes["daily-0001", tapes.WRITTEN][extra.name][1] is None


def test_what_is_foreign_is_to_be_moved_and_what_is_damaged_may_be_given_up(site):
    site.verify(site.dumps)
    slot = site.file(1).parent
    (slot / "notes.txt").write_text("mine")
    (slot / "00007.web1._x.0").mkdir()
    (slot / "00001.web1._z.0").write_text("x")
    site.file(2).unlink()
    problems = site.verify(site.dumps)["problems"]
    told = {words: [each for each in problems if words in each] for words in ("move", "GIVE UP")}
    assert len(told["move"]) == 3 and len(told["GIVE UP"]) == 1
    assert "slot2" in told["GIVE UP"][0] and "is missing" in told["GIVE UP"][0]


def test_what_lies_beside_the_slots_or_in_a_slot_of_no_tape_is_named(site):
    top = site.places.tapes
    (top / "state").write_text("Amanda's own")
    (top / "data").symlink_to("slot1")
    (top / "lost+found").mkdir()
    assert site.verify(site.dumps)["problems"] == []
    (top / "slot9").mkdir()
    (top / "slot02").mkdir()
    (top / "slot8").write_text("a file")
    (top / "odd\n\x1b[2J\udcff").write_text("x")
    (top / "backup.old" / "slot1").mkdir(parents=True)
    (top / "data").unlink()
    (top / "data").mkdir()
    result = site.verify(site.dumps)
    assert result["good"] == 3 and not result["failed"]
    told = "\n".join(result["problems"])
    assert told.isprintable() or all(line.isprintable() for line in told.split("\n"))
    for name in ("slot9", "slot02"):
        assert f"'{top / name}' is empty, and no tape belongs there. Remove it" in told
    assert f"'{top / 'slot8'}': it isn't a directory. Move it elsewhere" in told
    for name in ("odd\\n\\x1b[2J\\udcff", "backup.old", "data"):
        assert f"'{top}/{name}' doesn't belong there" in told
    assert len(result["problems"]) == 6
    assert site.verify(site.dumps, again=False)["problems"] == []


def test_of_very_many_foreign_files_some_are_named_and_the_others_counted(site):
    for number in range(30):
        (site.places.tapes / f"x{number}").write_text("x")
        (site.file(1).parent / f"x{number}").write_text("x")
    problems = site.verify(site.dumps)["problems"]
    assert len(problems) == 42
    assert sum(each.startswith("10 more things") for each in problems) == 1
    assert sum("10 more files" in each for each in problems) == 1


def work_of(site, monkeypatch, verify=60):
    """Return what the step of a run is given, with the site's dumps in its catalogue."""
    monkeypatch.setattr(amanda_catalogue, "read", lambda places: site.dumps)
    lines = [f"{written} {label} reuse BLOCKSIZE:32\n" for label, written in site.labels]
    site.places.tapelist.write_text("".join(lines))
    settings = types.SimpleNamespace(
        encryption=types.SimpleNamespace(server_identity=True), mirror=None
    )
    report = types.SimpleNamespace(progress=site.told.append)
    config = types.SimpleNamespace(verify=verify)
    return types.SimpleNamespace(
        places=site.places,
        user=None,
        settings=settings,
        config=config,
        report=report,
        options={},
    )


def test_a_run_that_is_to_verify_nothing_says_so_and_how_many_dumps_wait(site, monkeypatch):
    work = work_of(site, monkeypatch, verify=None)
    result = amanda_verification.new(work)
    assert (result["success"], result["verified"], result["left"]) == (True, False, 3)
    words = "nothing was verified, and 3 dumps on tape wait .*configs:daily:verify is false"
    assert re.match(words, result["message"])
    assert not amanda_verified.path("daily").exists()
    assert amanda_verification.asked(work)["good"] == 3
    assert amanda_verification.new(work)["left"] == 0


def test_for_a_damaged_record_all_is_verified_again_and_the_run_says_so(site, monkeypatch):
    site.verify(site.dumps)
    damage(site.file(3))
    amanda_verified.path("daily").write_text("{")
    monkeypatch.setattr(amanda_verification, "_Everything", quiet(amanda_verification._Everything))
    result = amanda_verification.begin_anew(work_of(site, monkeypatch))
    assert not result["success"]
    assert (result["dumps"], result["good"]) == (3, 2)
    assert "daily.json, which said what was verified, was damaged" in result["message"]
    assert "daily.json.damaged-" in result["message"]
    record = site.stored()
    assert not record.incomplete
    assert [record.good(dump) for dump in site.dumps] == [True, True, False]


def quiet(everything):
    """Return the class with a server that works: its filters aren't there in this test."""
    return type("Quiet", (everything,), {"_trial": lambda self: None})


def test_a_record_stays_incomplete_until_all_is_verified_again(site, monkeypatch):
    amanda_verified.write("daily", amanda_verified.Record(incomplete=True))
    site.labels[2] = ("daily-0003", "20261124083845")
    last = site.dumps[2]
    moved = dataclasses.replace(last.parts[0], written="20261124083845")
    site.dumps[2] = dataclasses.replace(last, parts=(moved,))
    slot = site.file(3).parent
    (slot / "00000.daily-0003").write_bytes(tapes.label_block("daily-0003", "20261124083845"))
    work = work_of(site, monkeypatch, verify=0)
    result = amanda_verification.new(work)
    assert (result["good"], result["left"]) == (1, 2)
    assert "The record of what was verified was lost lately" in result["message"]
    assert site.stored().incomplete
    work.config.verify = 60
    assert "was lost lately" not in amanda_verification.new(work)["message"]
    assert not site.stored().incomplete


def test_where_runs_verify_nothing_a_damaged_record_is_told_with_what_that_costs(site, monkeypatch):
    amanda_verified.write("daily", site.record)
    amanda_verified.path("daily").write_text("{")
    result = amanda_verification.begin_anew(work_of(site, monkeypatch, verify=None))
    for words in ("was damaged", "nothing was verified", "aren't written again", "amanda.verify"):
        assert words in result["message"]
    assert site.stored().incomplete


def test_if_nothing_can_be_verified_again_the_damaged_record_is_told_all_the_same(
    site, monkeypatch
):
    site.verify(site.dumps)
    amanda_verified.path("daily").write_text("{")
    work = work_of(site, monkeypatch)
    site.places.tapes.rename(site.places.tapes.with_name("away"))
    result = amanda_verification.begin_anew(work)
    assert not result["success"]
    assert "was damaged" in result["message"] and "Is its disk mounted" in result["message"]
    assert site.stored().incomplete


def test_before_a_dump_is_called_bad_this_server_is_tried(site):
    def fails():
        raise AmandaError("the filter does not work")

    damage(site.file(1))
    result = site.verify(site.dumps, trial=fails)
    assert (result["good"], result["failed"]) == (2, [])
    assert "the filter does not work" in result["problems"][0]
    assert site.stored().verdict(site.dumps[0]) is None
    (failed,) = site.verify(site.dumps)["failed"]
    assert failed["disk"] == "/a"


def test_what_was_verified_stays_recorded_when_a_run_is_stopped(site):
    class Stopped(BaseException):
        pass

    def stop(told):
        if told["dumps"] == 2:
            raise Stopped

    known = frozenset(label for label, _ in site.labels)
    scope = Scope(tuple(site.dumps), tuple(site.labels), known)
    with pytest.raises(Stopped):
        amanda_verify.verify(site.places, None, scope, site.record, stop)
    record = site.stored()
    assert sorted(record.good(dump) for dump in site.dumps) == [False, True, True]
    assert sum(len(files) for files in record.hashes().values()) == 2


def test_what_is_verified_is_stored_meanwhile(site, monkeypatch):
    monkeypatch.setattr(amanda_verify, "_SAVED", 0)
    known = frozenset(label for label, _ in site.labels)
    scope = Scope(tuple(site.dumps), tuple(site.labels), known)
    counts = set()

    def look(told):
        counts.add(sum(site.stored().good(dump) for dump in site.dumps))

    amanda_verify.verify(site.places, None, scope, site.record, look)
    assert counts == {0, 1, 2, 3}


def test_what_there_is_no_time_for_is_left_and_is_no_failure(site):
    options = {
        "later": tuple(site.dumps[1:]),
        "seconds": 0,
        "others": tuple(site.dumps),
        "again": False,
    }
    result = site.verify(site.dumps[:1], **options)
    assert (result["dumps"], result["good"], result["left"]) == (1, 1, 2)
    assert result["problems"] == []
    assert list(site.stored().hashes()["daily-0002", tapes.WRITTEN]) == ["00000.daily-0002"]


def test_the_hash_of_a_bad_dumps_file_is_never_recorded(site):
    whole = site.file(1).read_bytes()
    damage(site.file(1))
    assert site.verify(site.dumps)["failed"]
    nightly = {"others": tuple(site.dumps), "again": False}
    result = site.verify([], **nightly)  # there is a newer full: it is due no more
    assert result["files"] == 0
    assert site.file(1).name not in site.stored().hashes()["daily-0001", tapes.WRITTEN]
    site.file(1).write_bytes(whole)
    result = site.verify(site.dumps)
    assert (result["good"], result["problems"]) == (3, [])


def test_progress_moves_while_a_dump_is_read(site):
    site.verify(site.dumps[:1])
    assert {"dumps": 0, "of": 1, "bytes": site.dumps[0].size} in site.told


@pytest.mark.parametrize("text", ["", "0 daily-0001 reuse BLOCKSIZE:32\n"])
def test_a_tapelist_without_a_written_tape_erases_nothing(site, monkeypatch, text):
    site.verify(site.dumps)
    before = amanda_verified.path("daily").read_bytes()
    monkeypatch.setattr(amanda_catalogue, "read", lambda places: [])
    site.places.tapelist.parent.mkdir(parents=True, exist_ok=True)
    site.places.tapelist.write_text(text)
    work = type("Work", (), {"places": site.places, "options": {}, "user": None})
    for step in (amanda_verification.new, amanda_verification.asked):
        with pytest.raises(AmandaError, match="knows no tape that was written.*tapelist back"):
            step(work)
    assert amanda_verified.path("daily").read_bytes() == before
