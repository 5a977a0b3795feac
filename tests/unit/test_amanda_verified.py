"""What is recorded of verification, and what goes by it."""

import dataclasses
import json
import os

import amanda_layout
import amanda_pruning
import amanda_retention
import amanda_verification
import amanda_verified
import pytest
from amanda_catalogue import Dump, Part
from amanda_errors import AmandaError, ArgumentError
from amanda_verified import Record

SHA256 = "0123456789abcdef" * 4
WHEN = "2026-11-23T10:00:00+00:00"


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.setattr(amanda_layout, "VERIFIED", tmp_path / "verified")
    return tmp_path / "verified"


def dump(day, level=0, disk="/etc", status="OK", base=None):
    written = f"202611{day:02d}010000"
    based = base and f"202611{base:02d}010000"
    parts = (Part(f"d-{day}", 1, 1, 5, written),)
    crcs = (None, None, None)
    return Dump("daily", "web1", disk, written, level, status, parts, *crcs, 5, "", based)


def judged(good=(), bad=()):
    record = Record()
    for each in good:
        record.judge(each, WHEN)
    for each in bad:
        record.judge(each, WHEN, "its data differs")
    return record


def test_a_record_comes_back_as_it_was_whatever_the_names():
    odd = os.fsdecode(b'/srv/\xff \n"\\ \xc3\xa4')
    record = judged(good=[dump(1, disk=odd)], bad=[dump(2)])
    files = {os.fsdecode(b"00001.web1.\xff.0"): (5, SHA256), "00002.web1._etc.0": (7, None)}
    record.tapes["d-1", dump(1).timestamp] = files
    amanda_verified.write("daily", record)
    again = amanda_verified.read("daily")
    assert again.tapes == record.tapes
    assert again.verdict(dump(1, disk=odd)) == record.verdict(dump(1, disk=odd))
    assert again.verdict(dump(2)).reason == "its data differs"
    names = [os.fsdecode(b"00001.web1.\xff.0")]
    assert [list(files) for files in again.hashes().values()] == [names]


def test_a_record_and_its_directory_are_roots_alone(directory):
    amanda_verified.write("daily", Record())
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "daily.json").stat().st_mode & 0o777 == 0o600


def test_without_a_record_nothing_is_good_or_bad():
    record = amanda_verified.read("daily")
    assert not record
    assert not record.good(dump(1))
    assert not record.failed(dump(1))


def test_a_copy_on_another_tape_has_not_been_verified():
    moved = dataclasses.replace(dump(1), parts=dump(2).parts)
    record = judged(good=[dump(1)])
    assert record.good(dump(1))
    assert record.verdict(moved) is None


def test_what_the_tapelist_no_longer_knows_is_forgotten():
    record = judged(good=[dump(1), dump(2)])
    record.tapes = {("d-1", dump(1).timestamp): {}, ("d-2", dump(2).timestamp): {}}
    record.prune([("d-1", "20261130010000"), ("d-2", dump(2).timestamp)])
    assert list(record.tapes) == [("d-2", dump(2).timestamp)]
    assert record.verdict(dump(1)) is None
    assert record.good(dump(2))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"tapes": [["d-1", "x", [["name", 5, "nothing"]]]], "dumps": []}',
        b'{"tapes": [["d-1", "x", [["name", "5", null]]]], "dumps": []}',
        b'{"tapes": [], "dumps": [{"host": "web1"}]}',
        b'{"tapes": null, "dumps": []}',
        b'{"tapes": [], "dumps": [], "incomplete": 1}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_record_is_an_error_that_names_file_and_remedy(directory, text):
    directory.mkdir()
    (directory / "daily.json").write_bytes(text)
    with pytest.raises(AmandaError, match=r"daily\.json.* is damaged .*next run.*amanda\.verify"):
        amanda_verified.read("daily")
    assert amanda_verified.is_damaged("daily")


def test_a_bad_verdict_must_be_true_or_false(directory):
    amanda_verified.write("daily", judged(good=[dump(1)]))
    data = json.loads((directory / "daily.json").read_text())
    data["dumps"][0]["good"] = "no"
    (directory / "daily.json").write_text(json.dumps(data))
    with pytest.raises(AmandaError, match="is damaged"):
        amanda_verified.read("daily")


def test_the_good_state_before_a_bad_dump_stays_held():
    dumps = [dump(1), dump(2, 1, base=1), dump(3)]
    assert set(amanda_retention.needed(dumps)) == {"d-3"}
    record = judged(good=dumps[:2], bad=dumps[2:])
    assert set(amanda_retention.needed(dumps, record)) == {"d-1", "d-2", "d-3"}
    later = [*dumps, dump(4)]
    assert set(amanda_retention.needed(later, record)) == {"d-1", "d-2", "d-4"}
    record.judge(later[-1], "2026-11-23T01:00:00+00:00")
    assert set(amanda_retention.needed(later, record)) == {"d-4"}


def test_what_builds_on_a_bad_dump_is_no_good_state_either():
    dumps = [dump(1), dump(3), dump(4, 1, base=3)]
    record = judged(good=[dumps[0], dumps[2]], bad=[dumps[1]])
    assert set(amanda_retention.needed(dumps, record)) == {"d-1", "d-3", "d-4"}


@pytest.mark.parametrize(
    ("dumps", "bad", "full"),
    [
        ([dump(1), dump(2, 1, base=1)], [], False),
        ([dump(1), dump(2, 1, base=1)], [dump(2, 1, base=1)], True),
        ([dump(1), dump(2, 1, base=1)], [dump(1)], True),
        ([dump(1), dump(2)], [dump(1)], False),
    ],
)
def test_the_next_dump_is_full_where_the_last_state_is_bad(monkeypatch, tmp_path, dumps, bad, full):
    monkeypatch.setattr(amanda_retention.amanda_catalogue, "read", lambda places: dumps)
    amanda_verified.write("daily", judged(good=dumps, bad=bad))
    places = amanda_layout.ConfigPlaces("daily", tmp_path, tmp_path, tmp_path, tmp_path)
    dles = [("web1", "/etc"), ("web1", "/home")]
    assert amanda_retention.unsound(places, dles) == (dles[:1] if full else [])


def test_a_damaged_record_is_kept_beside_the_new_one_which_is_known_to_be_incomplete(directory):
    directory.mkdir()
    (directory / "daily.json").write_text("x")
    kept = amanda_verified.begin_anew("daily")
    assert kept.parent == directory and kept.name.startswith("daily.json.damaged-2")
    assert kept.read_text() == "x"
    record = amanda_verified.read("daily")
    assert record.incomplete and record and record.tapes == {}
    record.judge(dump(1), WHEN)
    amanda_verified.write("daily", record)
    assert amanda_verified.read("daily").incomplete


def test_a_damaged_record_stays_where_it_is_if_no_new_one_can_be_written(directory, monkeypatch):
    directory.mkdir()
    (directory / "daily.json").write_text("x")

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(amanda_verified.amanda_files, "write", full)
    with pytest.raises(OSError, match="No space"):
        amanda_verified.begin_anew("daily")
    assert [path.name for path in directory.iterdir()] == ["daily.json"]


def test_what_an_incomplete_record_does_not_know_to_be_replaced_is_held_back():
    dumps = [dump(1), dump(2, 1, base=1), dump(3), dump(4, 1, base=3)]
    record = Record(incomplete=True)
    assert set(amanda_retention.needed(dumps, record)) == {"d-1", "d-2", "d-3", "d-4"}
    assert set(amanda_retention.needed(dumps, record, soon=True)) == {"d-3", "d-4"}
    record.judge(dumps[3], WHEN)
    assert set(amanda_retention.needed(dumps, record)) == {"d-1", "d-2", "d-3", "d-4"}
    record.judge(dumps[2], WHEN, "its data differs")
    assert set(amanda_retention.needed(dumps, record)) == {"d-1", "d-2", "d-3", "d-4"}
    record.judge(dumps[0], WHEN)
    assert set(amanda_retention.needed(dumps, record)) == {"d-1", "d-2", "d-3", "d-4"}
    record.judge(dumps[2], WHEN)
    assert set(amanda_retention.needed(dumps, record)) == {"d-3", "d-4"}


def test_by_an_incomplete_record_only_what_was_verified_again_keeps_a_generation():
    dumps = [dump(1), dump(3)]
    record = Record(incomplete=True)
    assert amanda_pruning.last_fulls(dumps, record) == {}
    record.judge(dumps[0], WHEN)
    assert list(amanda_pruning.last_fulls(dumps, record).values()) == [
        (("d-1", dumps[0].timestamp),)
    ]


def test_where_the_record_is_damaged_all_is_dumped_in_full(directory, tmp_path):
    directory.mkdir()
    (directory / "daily.json").write_text("x")
    places = amanda_layout.ConfigPlaces("daily", tmp_path, tmp_path, tmp_path, tmp_path)
    assert amanda_retention.unsound(places, [("web1", "/etc")]) == [("web1", "/etc")]


def test_once_anything_was_verified_only_good_fulls_keep_generations():
    dumps = [dump(1), dump(2), dump(3), dump(3, disk="/home")]
    last = {each.disk: each.timestamp for each in dumps}
    plain = amanda_pruning.last_fulls(dumps)
    assert plain["web1 /etc"] == (("d-3", last["/etc"]),)
    record = judged(good=[dumps[0], dumps[1]], bad=[dumps[2]])
    assert amanda_pruning.last_fulls(dumps, record) == {"web1 /etc": (("d-2", dumps[1].timestamp),)}


def test_what_is_asked_for_comes_in_one_form():
    asked = {"run": None, "tape": None, "generation": None, "source": None}
    assert amanda_verification.check(asked) == {}
    assert amanda_verification.check({**asked, "source": "tapes"}) == {}
    assert amanda_verification.check({**asked, "run": 20261123083845}) == {"run": "20261123083845"}
    iso = amanda_verification.check({**asked, "run": "2026-11-23T08:38:45"})
    assert iso == {"run": "20261123083845"}
    name = {"generation": "20261123T092714Z"}
    assert amanda_verification.check({**asked, **name, "source": "mirror"}) == name


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"run": "20261123083845", "tape": "d-1"}, "run and tape can't be verified together"),
        ({"source": "moon"}, "'moon' is no source: choose one of tapes, mirror"),
        ({"source": "tapes", "generation": "20261123T092714Z"}, "leave out source=tapes"),
        ({"source": "mirror", "tape": "d-1"}, "can't be verified together"),
        ({"run": "yesterday"}, "'yesterday' is no moment"),
    ],
)
def test_what_cant_be_asked_for_is_refused_in_words(asked, words):
    with pytest.raises(ArgumentError, match=words):
        amanda_verification.check(asked)
