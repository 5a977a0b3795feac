"""What is on tape, from logs and tapelists that Amanda wrote, against what Amanda says of them."""

import json
import os
import shutil
from pathlib import Path

import amanda_catalogue
import amanda_chain
import amanda_log
import amanda_outcomes
import pytest
from amanda_catalogue import Part
from amanda_errors import AmandaError, ParseError
from amanda_layout import ConfigPlaces
from amanda_log import Crc

CAPTURED = Path(__file__).parent / "captured" / "catalogue"
STORIES = [
    "spanned",
    "overwritten",
    "failed",
    "partial",
    "flushed",
    "killed",
    "unreachable",
    "no-room",
]


def places_of(directory, name="daily"):
    """Return the places of a config whose state is in *directory*."""
    return ConfigPlaces(name, directory, directory, directory, directory)


def captured(story):
    """Return the places of a captured story."""
    return places_of(CAPTURED / story, story)


@pytest.fixture
def copy(tmp_path):
    """Give a function that copies a story, to be changed."""

    def make(story):
        shutil.copytree(CAPTURED / story, tmp_path / story)
        return places_of(tmp_path / story, story)

    return make


def names(dumps):
    """Return disk, timestamp and level of each dump."""
    return [(dump.disk, dump.timestamp, dump.level) for dump in dumps]


def outcomes(story, timestamp):
    """Return the outcomes of a run by disk."""
    return {one.disk: one for one in amanda_catalogue.run_results(captured(story), timestamp)}


@pytest.mark.parametrize("story", STORIES)
def test_the_catalogue_is_amandas_own(story):
    theirs = json.loads((CAPTURED / story / "amanda.json").read_bytes())
    ours = amanda_catalogue.read(captured(story))
    assert {
        (one.host, one.disk, one.timestamp, one.level, one.status, one.size, one.parts[0].written)
        + tuple((part.label, part.file, part.number) for part in one.parts)
        for one in ours
    } == {
        (one["host"], one["disk"], one["timestamp"], one["level"], one["status"], one["size"])
        + (one["written"],)
        + tuple((part["label"], part["file"], part["number"]) for part in one["parts"])
        for one in theirs
        if one["status"] != "FAIL"  # lost parts: such a dump is not on tape any more
    }


def test_a_dump_over_two_tapes_has_its_parts_in_order():
    dump = amanda_chain.newest(amanda_catalogue.read(captured("spanned")), "localhost", "/srv/big")
    assert [(part.label, part.file, part.number) for part in dump.parts] == [
        ("span-0001", 1, 1),
        ("span-0001", 2, 2),
        ("span-0001", 3, 3),
        ("span-0002", 1, 4),
        ("span-0002", 2, 5),
        ("span-0002", 3, 6),
    ]
    assert dump.size == dump.server.size == 1501083
    assert dump.native == Crc(0x54B7289F, 1515520)
    assert {part.written for part in dump.parts} == {"20261123083845"}


def test_names_come_back_as_the_disklist_has_them():
    dumps = amanda_catalogue.read(captured("spanned"))
    assert {dump.disk for dump in dumps} == {
        "/srv/big",
        '/srv/q"uote',
        "/srv/with space",
        "/srv/ümläut",
    }


def test_a_part_for_which_a_tape_had_no_room_at_all_is_no_part():
    dumps = amanda_catalogue.read(captured("no-room"))
    (dump,) = [dump for dump in dumps if Path(dump.disk).name == "plain"]
    assert (dump.status, [part.label for part in dump.parts]) == ("OK", ["catalogue-0003"])
    (outcome,) = [
        one
        for one in amanda_catalogue.run_results(captured("no-room"), "20261123092108")
        if one.disk == dump.disk
    ]
    assert (outcome.success, outcome.labels) == (True, ("catalogue-0003",))


def test_a_tape_written_again_takes_its_dumps_along():
    dumps = amanda_catalogue.read(captured("overwritten"))
    assert ("/srv/big", "20261123083845", 0) not in names(dumps)
    assert ("/srv/ümläut", "20261123083845", 0) in names(dumps)
    assert ("/srv/big", "20261126083901", 2) in names(dumps)


def test_a_label_that_was_removed_takes_its_dumps_along():
    dumps = amanda_catalogue.read(captured("overwritten"))
    assert not [dump for dump in dumps if dump.timestamp == "20261125083857"]


def test_two_runs_of_one_day_are_two_dumps():
    dumps = amanda_catalogue.read(captured("overwritten"))
    of_day = [dump.level for dump in dumps if dump.timestamp[:8] == "20261124"]
    assert sorted(of_day) == [1, 1, 1, 1, 1, 2]


def test_a_flushed_dump_keeps_the_time_it_was_made_at():
    dumps = amanda_catalogue.read(captured("flushed"))
    (dump,) = [d for d in dumps if (d.disk, d.timestamp) == ("/srv/one", "20261123083925")]
    assert dump.parts == (Part("flush-0002", 1, 1, 10240, "20261123133930"),)


def test_a_dump_whose_tape_ran_out_is_partial_and_says_why():
    dumps = amanda_catalogue.read(captured("partial"))
    (dump,) = [dump for dump in dumps if dump.disk == "/srv/big"]
    assert dump.status == "PARTIAL"
    assert "runtapes=1 does not allow additional tapes" in dump.message
    assert dump.native is None


def test_a_dump_tried_again_stands_there_once_with_its_last_files():
    dumps = amanda_catalogue.read(captured("failed"))
    (dump,) = [dump for dump in dumps if dump.disk == "/srv/ümläut"]
    assert [part.file for part in dump.parts] == [2]


@pytest.mark.parametrize("whole", ["first", "last"])
def test_a_whole_copy_stands_for_a_partial_one_of_the_same_dump(copy, whole):
    places = copy("partial")
    first, last = sorted(places.logs.iterdir())
    last.write_text(last.read_text().replace("/srv/good", "/srv/big"))
    if whole == "first":
        first.write_text(first.read_text().replace("PARTIAL taper", "DONE taper"))
        last.write_text(last.read_text().replace("DONE taper", "PARTIAL taper"))
    dumps = amanda_catalogue.read(places)
    (dump,) = [dump for dump in dumps if dump.disk == "/srv/big"]
    label = {"first": "part-0001", "last": "part-0002"}[whole]
    assert (dump.status, dump.parts[0].label) == ("OK", label)


def test_of_two_whole_copies_the_one_written_last_counts(copy):
    places = copy("partial")
    first, last = sorted(places.logs.iterdir())
    last.write_text(last.read_text().replace("/srv/good", "/srv/big"))
    first.write_text(first.read_text().replace("PARTIAL taper", "DONE taper"))
    (dump,) = amanda_catalogue.read(places)
    assert dump.parts[0].label == "part-0002"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("part-0002 1 localhost /srv/good 20261123083804 1/-1", None, "names none"),
        (" 20261123083804 1/-1 0 ", " 20261123083804 2/-1 0 ", "of 1 parts the log names 2"),
        ("1/-1 0 [sec 0.000351 bytes 10240", "1/-1 0 [sec 0.000351 bytes 10239", "10239 bytes"),
    ],
)
def test_a_dump_called_done_whose_parts_say_otherwise_is_not_whole(copy, old, new, said):
    places = copy("partial")
    log = places.logs / "log.20261124083808.0"
    text = log.read_text()
    assert old in text
    kept = [line for line in text.split("\n") if new is not None or old not in line]
    log.write_text("\n".join(kept).replace(old, new or old))
    dumps = [dump for dump in amanda_catalogue.read(places) if dump.disk == "/srv/good"]
    assert all(dump.status == "PARTIAL" and said in dump.message for dump in dumps)
    (outcome,) = amanda_catalogue.run_results(places, "20261124083808")
    assert not outcome.success
    assert said in outcome.reason


def test_a_log_that_is_gone_is_told_and_not_taken_for_no_dumps():
    with pytest.raises(AmandaError, match=r"fatal-0001 was written at 20261123084542.*no log"):
        amanda_catalogue.read(captured("fatal"))


def test_a_log_that_amanda_put_aside_still_counts(copy):
    places = copy("spanned")
    (places.logs / "oldlog").mkdir()
    (places.logs / "log.20261123083845.0").rename(places.logs / "oldlog" / "log.20261123083845.0")
    assert amanda_catalogue.read(places) == amanda_catalogue.read(captured("spanned"))


def test_a_damaged_log_raises_and_names_the_file(copy):
    places = copy("spanned")
    log = places.logs / "log.20261123083845.0"
    log.write_text(log.read_text().replace("PART taper", "PARK taper", 1))
    with pytest.raises(ParseError, match=r"log\.20261123083845\.0.*PARK taper"):
        amanda_catalogue.read(places)


def test_an_empty_config_has_no_dumps(tmp_path):
    (tmp_path / "tapelist").touch()
    (tmp_path / "log").mkdir()
    assert amanda_catalogue.read(places_of(tmp_path)) == []


# tapelist


def tapelist(tmp_path, text):
    """Write a tapelist of *text*; returns what is read from it."""
    (tmp_path / "tapelist").write_text(text)
    return amanda_catalogue.read_tapelist(tmp_path / "tapelist")


def test_a_tapelist_gives_labels_times_and_pins():
    tapes = amanda_catalogue.read_tapelist(CAPTURED / "overwritten" / "tapelist")
    assert [(tape.label, tape.written, tape.reuse) for tape in tapes] == [
        ("span-0001", "20261126083901", False),
        ("span-0005", "20261124143853", True),
        ("span-0004", "20261124083849", True),
        ("span-0003", "20261123083845", True),
        ("span-0002", "20261123083845", True),
    ]
    assert [tape.position for tape in tapes] == [1, 2, 3, 4, 5]


def test_a_tape_never_written_has_the_time_zero(tmp_path):
    (tape,) = tapelist(tmp_path, "0 d-0001 reuse BLOCKSIZE:32 POOL:d STORAGE:d CONFIG:d\n")
    assert (tape.written, tape.reuse) == ("0", True)


@pytest.mark.parametrize(
    "line",
    [
        "20261123083845 d-0001",
        "20261123083845 d-0001 maybe",
        "2026 d-0001 reuse",
        "20261123083845 ../x reuse",
        "20261123083845 .. reuse",
        "20261123083845 d-0001 reuse rubbish",
        "garbage",
    ],
)
def test_a_damaged_tapelist_raises_and_quotes_the_line(tmp_path, line):
    with pytest.raises(ParseError) as raised:
        tapelist(tmp_path, f"0 d-0009 reuse\n{line}\n")
    assert raised.value.line == line


def test_a_label_that_stands_twice_raises(tmp_path):
    with pytest.raises(ParseError):
        tapelist(tmp_path, "0 d-0001 reuse\n20261123083845 d-0001 reuse\n")


def test_a_missing_tapelist_is_an_error(tmp_path):
    with pytest.raises(AmandaError, match="tapelist"):
        amanda_catalogue.read_tapelist(tmp_path / "tapelist")


# chains


def test_the_base_of_an_overwritten_full_is_remembered_by_its_log():
    dumps = amanda_catalogue.read(captured("overwritten"))
    newest = amanda_chain.newest(dumps, "localhost", "/srv/big")
    assert (newest.level, newest.base) == (2, "20261124083849")
    with pytest.raises(AmandaError, match="2026-11-23T08:38:45 that is on no tape"):
        amanda_chain.chain(dumps, "localhost", "/srv/big")
    whole = amanda_chain.chain(dumps, "localhost", "/srv/with space")
    assert [dump.level for dump in whole] == [0, 1]


def test_a_dump_that_failed_on_the_server_after_the_client_was_done_counts_as_base(copy):
    """The client has moved its records on: the next increment lacks what that dump had."""
    places = copy("failed")
    later = places.logs / "log.20261124083845.0"
    lines = [
        'START taper datestamp 20261124083845 "ST:fail" "POOL:fail" label fail-0002 tape 1',
        'PART taper "ST:fail" "POOL:fail" fail-0002 1 localhost {} 20261124083845 1/-1 1 '
        "[sec 0.1 bytes 5 kps 1.0]",
        'DONE taper "ST:fail" "POOL:fail" localhost {} 20261124083845 1 1 '
        "00000001:5 00000001:5 00000001:5 [sec 0.1 bytes 5 kps 1.0]",
    ]
    # the filter broke after tar had ended, before it had ended, and tar itself failed
    for disk, base in [
        ("/srv/good2", "20261123084523"),
        ('"/srv/ümläut"', None),
        ("/srv/missing", None),
    ]:
        later.write_text("\n".join(lines).format(disk, disk) + "\n")
        (places.state / "tapelist").write_text(
            "20261124083845 fail-0002 reuse\n20261123084523 fail-0001 reuse\n"
        )
        dump = amanda_catalogue.read(places)[-1]
        assert (dump.disk, dump.base) == (disk.strip('"'), base)


# runs


def test_runs_are_the_logs_in_order():
    assert amanda_catalogue.runs(captured("flushed")) == [
        "20261122083920",
        "20261123083925",
        "20261123133930",
        "20261124083930",
        "20261125083934",
    ]


def test_a_run_that_left_no_log_is_an_error():
    with pytest.raises(AmandaError, match="no log of a run at 2026-01-01T00:00:00"):
        amanda_catalogue.run_results(captured("flushed"), "20260101000000")


def test_a_good_dump_names_its_tapes_and_size():
    outcome = outcomes("spanned", "20261123083845")["/srv/big"]
    assert (outcome.success, outcome.reason, outcome.level) == (True, "", 0)
    assert (outcome.size, outcome.labels) == (1501083, ("span-0001", "span-0002"))


def test_each_failure_says_why_in_amandas_words():
    found = outcomes("failed", "20261123084523")
    assert {disk for disk, one in found.items() if one.success} == {
        "/srv/good",
        "/srv/strange",
        "/srv/again",
    }
    for disk, words in {
        "/srv/missing": "Cannot open: No such file or directory",
        "/srv/good2": "the filter broke; data encrypt: the filter broke",
        "/srv/ümläut": "write to encryption program failed: Broken pipe",
        "/usr/lib": "larger than available tape space",
        "/srv/skip": "skipped: skip-full",
    }.items():
        assert words in found[disk].reason
        assert "Got empty header" not in found[disk].reason


def test_a_strange_dump_is_a_success_with_the_words_of_its_program():
    outcome = outcomes("failed", "20261123084523")["/srv/strange"]
    assert (outcome.success, outcome.strange) == (True, True)
    assert outcome.messages == ("tar: ./data: something odd",)


def test_a_dump_on_tape_that_lacks_what_could_not_be_read_is_not_called_complete(copy):
    places = copy("unread")
    tapes = places.tapelist.read_text().splitlines(keepends=True)
    places.tapelist.write_text("".join(line for line in tapes if line.startswith("20261123092130")))
    found = {(dump.host, dump.disk): dump for dump in amanda_catalogue.read(places)}
    assert found["web1", "/home"].status == "OK" and not found["web1", "/home"].complete
    (log,) = places.logs.glob("log.2*")
    log.write_bytes(log.read_bytes().replace(b"\n  ? ", b"\n  | "))
    assert all(dump.complete for dump in amanda_catalogue.read(places))


def test_what_could_not_be_read_is_told_apart_from_what_changed_or_went_meanwhile():
    (outcome,) = [
        one
        for one in amanda_catalogue.run_results(captured("unread"), "20261123092130")
        if (one.host, one.disk) == ("web1", "/home")
    ]
    assert outcome.strange and len(outcome.messages) == 4
    assert outcome.unread == (
        "./shut: Cannot open: Permission denied",
        "./locked: Cannot open: Permission denied",
    )


@pytest.mark.parametrize(
    ("words", "left_out"),
    [
        ("Warning: Cannot open: Permission denied", True),
        ("Cannot open: Operation not permitted", True),
        ("Warning: Cannot stat: Permission denied", True),
        ("Warning: Cannot open: Too many levels of symbolic links", True),
        ("Warning: Read error at byte 0, while reading 512 bytes: Input/output error", True),
        ("Warning: Cannot stat: No such file or directory", False),
        ("Warning: Cannot open: No such file or directory", False),
        ("File removed before we read it", False),
        ("file changed as we read it", False),
        ("File shrank by 1 bytes; padding with zeros", False),
    ],
)
def test_each_of_tars_complaints_is_a_loss_or_none(words, left_out):
    log = amanda_log.Event(
        "dumper", "STRANGE", "web1", "/srv", level=0, more=(f"? tar: ./a: b: {words}",)
    )
    (outcome,) = amanda_outcomes.of_run([log], "20261123092130")
    said = f"./a: b: {words.removeprefix('Warning: ')}"
    assert outcome.unread == ((said,) if left_out else ())


def strange(*more):
    """Return the outcome of a dump whose program said this."""
    log = amanda_log.Event("dumper", "STRANGE", "web1", "/srv", level=0, more=more)
    (outcome,) = amanda_outcomes.of_run([log], "20261123092130")
    return outcome


def test_a_name_so_long_that_amanda_cut_off_what_tar_said_of_it_is_a_loss():
    name = "./" + "/".join("d" * 200 for _ in range(25))
    whole = f"  ? /usr/local/lib/salt-amanda/amanda-tar: {name}: Cannot stat: File name too long"
    outcome = strange(whole[:4095].strip(), "? tar: ./a: file changed as we read it")
    (unread,) = outcome.unread  # as a real run's log had it
    assert len(outcome.messages[0]) < 300 and "./a:" in outcome.messages[1]
    assert unread.startswith("./ddd") and unread.endswith(": its path is too long to be read")
    assert len(unread) < 300


def test_a_long_name_does_not_hide_why_it_could_not_be_read():
    name = "./" + "/".join("d" * 200 for _ in range(15))
    (unread,) = strange(f"? tar: {name}: Cannot open: Permission denied").unread
    assert "…" in unread and unread.endswith("d: Cannot open: Permission denied")
    assert len(unread) < 300


def test_what_is_strange_is_told_in_whatever_words_there_are():
    assert strange("sendbackup: info end", "| total: 12", "odd").messages == ("| total: 12", "odd")


def test_what_could_not_be_read_is_told_however_much_else_is_strange():
    changed = tuple(f"? tar: ./{number}: file changed as we read it" for number in range(50))
    locked = "? tar: ./locked: Warning: Cannot open: Permission denied"
    log = amanda_log.Event("dumper", "STRANGE", "web1", "/srv", level=0, more=(*changed, locked))
    (outcome,) = amanda_outcomes.of_run([log], "20261123092130")
    assert outcome.unread == ("./locked: Cannot open: Permission denied",)
    assert len(outcome.messages) < 20


def test_a_dump_that_succeeded_at_its_second_try_tells_of_the_first():
    outcome = outcomes("failed", "20261123084523")["/srv/again"]
    assert (outcome.success, outcome.reason) == (True, "")
    assert "come back later" in outcome.messages


def test_a_host_that_could_not_be_reached_does_not_hide_the_others():
    found = outcomes("unreachable", "20261123084542")
    assert found["/srv/good"].success
    assert "Request to nowhere.invalid failed" in found["/etc"].reason


def test_a_dle_without_any_result_is_a_failure():
    outcome = outcomes("killed", "20261123083303")['/srv/q"uo\\te']
    assert (outcome.success, outcome.level) == (False, None)
    assert outcome.reason == "the run ended without a result for it"


def test_a_driver_that_died_is_the_reason_for_the_missing_result():
    outcome = outcomes("fatal", "20261124084558")["/srv/good"]
    assert not outcome.success
    assert "driver: infofile update failed" in outcome.reason


def test_a_dump_left_on_the_holding_disk_is_no_success_and_says_why():
    outcome = outcomes("flushed", "20261123083925")["/srv/one"]
    assert not outcome.success
    assert outcome.reason.startswith("dumped, but not written to tape; taper: no-tape error")


def test_a_flush_gives_the_time_at_which_the_dump_was_made():
    found = amanda_catalogue.run_results(captured("flushed"), "20261123133930")
    assert [(one.disk, one.timestamp, one.success) for one in found] == [
        ("/srv/one", "20261123083925", True),
        ("/srv/two", "20261123083925", True),
    ]


def test_a_run_that_also_flushes_has_both_dumps_of_a_dle():
    found = amanda_catalogue.run_results(captured("flushed"), "20261125083934")
    assert sorted((one.disk, one.timestamp) for one in found if one.success) == [
        ("/srv/one", "20261124083930"),
        ("/srv/one", "20261125083934"),
        ("/srv/two", "20261124083930"),
        ("/srv/two", "20261125083934"),
    ]


def test_a_flush_that_never_came_to_a_dump_names_it(copy):
    places = copy("flushed")
    log = places.logs / "log.20261123133930.0"
    kept = [line for line in log.read_text().split("\n") if " /srv/two " not in line]
    log.write_text("\n".join(kept))
    found = {one.disk: one for one in amanda_catalogue.run_results(places, "20261123133930")}
    assert not found["/srv/two"].success
    assert found["/srv/two"].timestamp == ""


# what the dump user may put in a file's place


@pytest.mark.parametrize("name", ["tapelist", "log/log.20261123083845.0"])
def test_a_link_in_a_files_place_is_refused_and_shows_nothing(copy, name):
    places = copy("spanned")
    secret = places.state.parent / "secret"
    secret.write_text("secret\n")
    (places.state / name).unlink()
    (places.state / name).symlink_to(secret)
    with pytest.raises(AmandaError, match="can't read the (tapelist|log)") as raised:
        amanda_catalogue.read(places)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("name", ["tapelist", "log/log.20261123083845.0"])
def test_a_fifo_in_a_files_place_holds_nobody_up(copy, name):
    places = copy("spanned")
    (places.state / name).unlink()
    os.mkfifo(places.state / name)
    with pytest.raises(AmandaError, match="can't read the (tapelist|log)"):
        amanda_catalogue.read(places)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", ["tapelist", "log/log.20261123083845.0"])
def test_a_file_that_is_not_the_state_directorys_owners_is_refused(copy, name):
    places = copy("spanned")
    for path in (places.state, *places.state.rglob("*")):
        os.chown(path, 65534, 65534)
    assert amanda_catalogue.read(places)
    os.chown(places.state / name, 0, 0)
    with pytest.raises(AmandaError, match="can't read the (tapelist|log).*another user"):
        amanda_catalogue.read(places)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_link_in_the_logs_place_does_not_lead_to_another_users_logs(copy):
    places = copy("spanned")
    places.logs.rename(places.state.parent / "other")
    places.logs.symlink_to(places.state.parent / "other")
    for path in (places.state, places.tapelist):
        os.chown(path, 65534, 65534)
    with pytest.raises(AmandaError, match="can't read the log.*another user"):
        amanda_catalogue.read(places)


def test_a_long_damaged_line_is_quoted_in_part(tmp_path):
    with pytest.raises(ParseError) as raised:
        tapelist(tmp_path, "x" * 100_000 + "\n")
    assert len(str(raised.value)) < 1000
