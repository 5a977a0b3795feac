"""Which directories a drill takes, and what is kept of it."""

import amanda_drill
import pytest
from amanda_errors import AmandaError

from tests.unit.test_amanda_find import _dump

DUMPS = [_dump(disk, "20261101000000", host=host) for host in ("db1", "web1") for disk in "abc"]


@pytest.fixture(autouse=True)
def _drills(tmp_path, monkeypatch):
    monkeypatch.setattr(amanda_drill, "DRILLS", tmp_path / "drills")


def _result(at, names, success=True):
    return {
        "config": "daily",
        "at": at,
        "success": success,
        "message": "told",
        "directories": [{"host": host, "disk": disk, "success": success} for host, disk in names],
    }


def test_drill_after_drill_comes_to_every_directory():
    seen = []
    for day in range(1, 4):
        names = amanda_drill.choose(DUMPS, "daily", 2)
        amanda_drill.record(_result(f"2026-11-0{day}T00:00:00+00:00", names), DUMPS)
        seen += names
    assert sorted(seen) == sorted((dump.host, dump.disk) for dump in DUMPS)
    assert amanda_drill.choose(DUMPS, "daily", 2) == seen[:2]


def test_one_host_or_one_directory_can_be_asked_for():
    assert amanda_drill.choose(DUMPS, "daily", None, "db1") == [("db1", each) for each in "abc"]
    assert amanda_drill.choose(DUMPS, "daily", 3, "db1", "b") == [("db1", "b")]
    with pytest.raises(AmandaError, match="there are dumps of: db1 a, db1 b"):
        amanda_drill.choose(DUMPS, "daily", 3, "db2")


def test_when_one_last_passed_outlives_one_that_failed():
    assert amanda_drill.summary("daily") == {"passed": None, "last": None}
    amanda_drill.record(_result("2026-11-01T00:00:00+00:00", [("db1", "a")]), DUMPS)
    amanda_drill.record(_result("2026-11-02T00:00:00+00:00", [("db1", "b")], False), DUMPS)
    assert amanda_drill.summary("daily") == {
        "passed": "2026-11-01T00:00:00+00:00",
        "last": {"at": "2026-11-02T00:00:00+00:00", "success": False, "message": "told"},
    }


def test_a_directory_without_any_dump_is_forgotten():
    amanda_drill.record(_result("2026-11-01T00:00:00+00:00", [("db1", "a")]), DUMPS)
    amanda_drill.record(_result("2026-11-02T00:00:00+00:00", [("web1", "a")]), DUMPS[1:])
    rows = amanda_drill.read("daily")["directories"]
    assert [(row["host"], row["disk"]) for row in rows] == [("web1", "a")]


@pytest.mark.parametrize("content", ["{", "[]", '{"directories": [{}]}', '{"directories": []}'])
def test_a_damaged_record_is_an_error_that_says_what_to_do(content):
    amanda_drill.DRILLS.mkdir()
    (amanda_drill.DRILLS / "daily.json").write_text(content)
    with pytest.raises(AmandaError, match="is damaged: remove it"):
        amanda_drill.read("daily")
    assert "is damaged" in amanda_drill.summary("daily")["problem"]


def test_a_drill_that_could_not_begin_is_recorded_as_failed_and_forgets_nothing():
    amanda_drill.record(_result("2026-11-01T00:00:00+00:00", [("db1", "a")]), DUMPS)
    told = amanda_drill.failure("daily", AmandaError("the mirror is gone"))
    assert (told["success"], told["message"]) == (False, "the mirror is gone")
    found = amanda_drill.read("daily")
    assert found["passed"] == "2026-11-01T00:00:00+00:00" and len(found["directories"]) == 1
    assert found["last"]["message"] == "the mirror is gone"
    amanda_drill.failure("daily", "web1: \x1b[2J" + "no answer" * 10**5)
    told = amanda_drill.read("daily")["last"]["message"]
    assert told.startswith("web1: ?[2Jno answer") and len(told) < 10**4


ENTRY = {
    "host": "web1",
    "disk": "/etc",
    "success": True,
    "message": "7 files are as they were dumped",
    "different": [],
    "live": None,
    "delivered_to": None,
    "seconds": 1.5,
}


def test_what_a_minion_found_at_home_counts_and_its_name_is_kept():
    answer = {"live": {"compared": 5, "changed": 2}, "count": 0, "different": []}
    good = amanda_drill.delivered(ENTRY, "web1", answer, 0.5)
    assert good == {**ENTRY, "delivered_to": "web1", "live": answer["live"], "seconds": 2.0}
    answer.update(count=2, different=["one: it isn't", "two: it isn't"])
    bad = amanda_drill.delivered(ENTRY, "web1", answer, 0.5)
    assert not bad["success"] and bad["message"] == "2 names differ, one of them: one: it isn't"
    told = amanda_drill.result("daily", "2026-11-01T00:00:00+00:00", [good, bad])
    assert not told["success"]
    assert told["message"] == (
        "1 of 2 directories came back as dumped; they were delivered to web1, which compared them "
        "with what it has. web1 /etc: 2 names differ, one of them: one: it isn't"
    )
    amanda_drill.record(told)
    assert amanda_drill.read("daily")["directories"][0]["delivered_to"] == "web1"


@pytest.mark.parametrize(
    "answer",
    [
        "the door on web1 is shut again",
        {},
        [],
        7,
        {"live": {"compared": 1}, "count": 0, "different": []},
        {"live": {"compared": "many", "changed": 0}, "count": 0, "different": []},
        {"live": None, "count": 3, "different": []},
        {"live": None, "count": float("inf"), "different": ["x"]},
        {"live": None, "count": 0, "different": ["x" * 10**6]},
    ],
)
def test_an_answer_that_can_not_be_read_is_no_drill_that_passed(answer):
    entry = amanda_drill.delivered(ENTRY, "web1", answer, 1)
    assert entry["success"] is False and entry["delivered_to"] == "web1"
    assert len(repr(entry)) < 5000


def test_what_a_hostile_minion_tells_is_bounded():
    answer = {"live": None, "count": 10**6, "different": ["x" * 10**5] * 1000}
    assert len(repr(amanda_drill.delivered(ENTRY, "web1", answer, 1))) < 50000
    answer = {"live": None, "count": 1, "different": ["\x1b[2J\r\nall is well"]}
    assert amanda_drill.delivered(ENTRY, "web1", answer, 1)["different"] == ["?[2J??all is well"]
