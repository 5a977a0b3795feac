"""What verification concludes from what it reads, and when it keeps that."""

import gzip
import subprocess

import amanda_catalogue
import amanda_layout
import amanda_pipeline
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
        return amanda_verify.verify(self.places, None, scope, self.record, self.told.append)

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


def test_what_there_is_no_time_for_is_left_and_is_no_failure(site, monkeypatch):
    monkeypatch.setattr(amanda_verify, "_LATER", 0)
    options = {"later": tuple(site.dumps[1:]), "others": tuple(site.dumps), "again": False}
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
    work = type("Work", (), {"places": site.places, "options": {}})
    for step in (amanda_verification.new, amanda_verification.asked):
        with pytest.raises(AmandaError, match="knows no tape that was written.*tapelist back"):
            step(work)
    assert amanda_verified.path("daily").read_bytes() == before
