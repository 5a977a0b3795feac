"""Reports of past runs, from the logs that Amanda wrote of every kind of run."""

import re
import shutil

import amanda_catalogue
import amanda_report
import pytest
from amanda_errors import AmandaError, ArgumentError, ParseError
from amanda_report import Known
from amanda_verified import Record, place

from tests.unit.test_amanda_catalogue import CAPTURED, captured, places_of

RUNS = sorted(
    (path.parents[1].name, path.name.split(".")[1]) for path in CAPTURED.glob("*/log/log.*")
)


def reported(story, timestamp=None, known=None):
    """Return the report of a captured run, by default the newest of its story."""
    places = captured(story)
    timestamp = timestamp or amanda_report.choose(places)
    return amanda_report.report(places, timestamp, known or Known())


def entry(report, disk, part="dles"):
    """Return what a report says of a directory."""
    (found,) = [each for each in report[part] if each["disk"] == disk]
    return found


@pytest.mark.parametrize(("story", "timestamp"), RUNS)
def test_each_directory_of_a_run_has_one_entry_and_the_sums_are_theirs(story, timestamp):
    report = reported(story, timestamp)
    names = [(each["host"], each["disk"]) for each in report["dles"]]
    assert len(names) == len(set(names)) == report["directories"]
    assert report["bytes"] == sum(each["bytes"] for each in report["dles"])
    failed = [each for each in report["dles"] if not each["success"]]
    assert report["dles"][: len(failed)] == failed and report["failed"] == len(failed)
    assert all(bool(each["reason"]) != each["success"] for each in report["dles"])


def test_a_dump_over_two_tapes_has_both_and_its_sizes_times_and_rates():
    found = entry(reported("spanned"), "/srv/big")
    assert (found["labels"], found["level"]) == (["span-0001", "span-0002"], 0)
    assert (found["original_bytes"], found["bytes"], found["ratio"]) == (1515520, 1501083, 0.99)
    assert (found["dump_seconds"], found["dump_rate"]) == (0.144, round(1501083 / 0.144))
    assert (found["tape_seconds"], found["tape_rate"]) == (0.015, round(1501083 / 0.014896))


def test_quoted_names_are_told_as_they_are():
    disks = {each["disk"] for each in reported("spanned")["dles"]}
    assert disks == {"/srv/big", "/srv/with space", '/srv/q"uote', "/srv/ümläut"}


def test_a_dump_that_was_tried_again_is_a_success_that_tells_of_the_first_try():
    found = entry(reported("failed"), "/srv/again")
    assert found["success"] and found["messages"]


def test_a_strange_dump_is_one_that_is_on_tape_and_says_what_was_strange():
    found = entry(reported("failed"), "/srv/strange")
    assert found["success"] and found["strange"] and found["messages"]


def test_what_failed_says_why_in_words():
    report = reported("failed")
    assert "does not exist on localhost" in entry(report, "/srv/missing")["reason"]
    assert "larger than the tapes" in entry(report, "/usr/lib")["reason"]
    assert report["message"].startswith("3 of 8 directories on tape. localhost /srv/good2: ")
    assert report["message"].endswith("(and 4 more)") and not report["success"]


def test_a_dump_for_which_the_tape_had_no_room_is_no_success_whatever_amreport_says():
    found = entry(reported("partial", "20261123083804"), "/srv/big")
    assert (found["success"], found["bytes"]) == (False, 819200)
    assert "the tapes of one run were full" in found["reason"]


def test_what_was_flushed_stands_apart_with_the_time_of_its_dump():
    report = reported("flushed", "20261125083934")
    assert report["message"] == "2 of 2 directories on tape, and 2 that earlier runs had dumped"
    found = entry(report, "/srv/one", "flushed")
    assert (found["timestamp"], found["success"]) == ("2026-11-24T08:39:30", True)
    assert entry(report, "/srv/one")["success"]


def test_what_amvault_copied_is_a_dump_of_an_earlier_run_and_stays_where_it_was():
    report = reported("vaulted")
    assert report["success"] and not report["dles"]
    (copy,) = report["flushed"]
    assert (copy["timestamp"], copy["labels"]) == ("2026-11-24T10:00:02", ["vault-0001"])
    (dump,) = amanda_catalogue.read(captured("vaulted"))
    assert [part.label for part in dump.parts] == ["report-0001"]


def test_a_run_that_was_killed_misses_results_and_says_so():
    report = reported("killed")
    assert (report["finished"], report["seconds"], report["success"]) == (False, None, False)
    assert report["message"].endswith("The run did not finish")
    assert "without a result" in entry(report, '/srv/q"uo\\te')["reason"]


def test_a_run_whose_driver_died_has_no_dump_on_tape_whatever_amreport_says():
    report = reported("fatal")
    assert report["failed"] == 2 and not report["finished"]
    assert any("infofile update failed" in problem for problem in report["problems"])


def test_whether_a_dump_is_verified_and_mirrored_is_what_is_known_today():
    dumps = tuple(amanda_catalogue.read(captured("overwritten")))
    good, bad, *_ = [dump for dump in dumps if dump.timestamp == dumps[-1].timestamp]
    record = Record()
    record.judge(good, "2026-11-26T09:00:00+00:00")
    record.judge(bad, "2026-11-26T09:00:00+00:00", reason="a bit")
    known = Known(dumps, record, frozenset(place(good)))
    report = reported("overwritten", good.timestamp, known)
    assert entry(report, good.disk)["verified"] is True
    assert entry(report, bad.disk)["verified"] is False
    assert {each["mirrored"] for each in report["dles"]} == {True}  # they share a tape
    gone = reported("overwritten", "20261123083845", known)
    assert {each["mirrored"] for each in gone["dles"]} <= {None, False}


def test_a_trend_has_a_row_for_each_run_the_newest_first():
    rows = amanda_report.trend(captured("overwritten"), None, 3, Known())
    assert [row["run"] for row in rows] == [
        "2026-11-26T08:39:01",
        "2026-11-25T08:38:57",
        "2026-11-24T14:38:53",
    ]
    assert all(row["bytes"] and row["success"] and "dles" not in row for row in rows)
    assert len(amanda_report.trend(captured("overwritten"), "20261124999999", 99, Known())) == 3


def test_a_run_is_chosen_by_the_moment_by_which_it_had_begun():
    places = captured("overwritten")
    assert amanda_report.choose(places) == "20261126083901"
    assert amanda_report.choose(places, "20261124120000") == "20261124083849"
    with pytest.raises(ArgumentError, match="the first is of 2026-11-23T08:38:45"):
        amanda_report.choose(places, "20200101000000")


def test_before_the_first_run_there_is_nothing_to_report(tmp_path):
    with pytest.raises(ArgumentError, match="there was no run of daily yet"):
        amanda_report.choose(places_of(tmp_path))


@pytest.mark.parametrize("story", sorted({story for story, _ in RUNS} - {"headers"}))
def test_a_line_that_is_garbled_is_quoted_and_never_a_success(story, tmp_path):
    """Each line that tells of a dump, in turn, loses its end."""
    shutil.copytree(CAPTURED / story, tmp_path / story)
    places = places_of(tmp_path / story, story)
    timestamp = amanda_report.choose(places)
    (path,) = amanda_catalogue.all_logs(places)[timestamp]
    lines = path.read_text().splitlines(keepends=True)
    whole = amanda_report.report(places, timestamp, Known())
    tried = 0
    for number, line in enumerate(lines):
        if not re.match(r"(SUCCESS|DONE|PART|FAIL|STRANGE|PARTIAL) ", line):
            continue
        tried += 1
        cut = line[: line.index(" ", line.index(" ") + 1) + 4] + "\n"
        path.write_text("".join([*lines[:number], cut, *lines[number + 1 :]]))
        try:
            report = amanda_report.report(places, timestamp, Known())
        except ParseError as error:
            assert cut.strip()[:20] in str(error)
        else:
            assert report["failed"] > whole["failed"] or not whole["success"], line
    assert tried


def test_what_is_not_known_today_is_told_and_hides_no_report(tmp_path):
    places = captured("spanned")
    known = Known(problems=("the record is damaged",))
    report = amanda_report.report(places, amanda_report.choose(places), known)
    assert report["unknown"] == ["the record is damaged"] and report["dles"]


def test_a_run_whose_log_is_damaged_costs_the_trend_no_other(tmp_path):
    shutil.copytree(CAPTURED / "overwritten", tmp_path / "overwritten")
    places = places_of(tmp_path / "overwritten", "overwritten")
    (path,) = amanda_catalogue.all_logs(places)["20261125083857"]
    path.write_text(path.read_text().replace("DONE taper", "DONE tapir"))
    rows = amanda_report.trend(places, None, 3, Known())
    assert ["problem" in row for row in rows] == [False, True, False]
    assert "DONE tapir" in rows[1]["problem"]
    with pytest.raises(AmandaError):
        amanda_report.report(places, "20261125083857", Known())
