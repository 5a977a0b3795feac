"""The lines of run logs, read strictly: all that Amanda wrote, and nothing else."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import amanda_log
import pytest
from amanda_errors import AmandaError, ParseError
from amanda_log import Crc

CAPTURED = Path(__file__).parent / "captured" / "catalogue"
DONE = (
    'DONE taper "ST:daily" "POOL:daily" web1 /etc 20261123083845 2 0 '
    "348cca8e:1515520 53518088:1500481 1bc897c3:1501033 "
    "[sec 0.100000 bytes 1501033 kps 14650.000000 orig-kb 1480]"
)


def log(tmp_path, *lines, end="\n"):
    """Write a log of *lines*; returns its path."""
    path = tmp_path / "log.20261123083845.0"
    path.write_text("\n".join(lines) + end, encoding="utf-8", errors="surrogateescape")
    return path


def only(tmp_path, *lines):
    """Return the one event of a log of *lines*."""
    (event,) = amanda_log.events(log(tmp_path, *lines))
    return event


@pytest.mark.parametrize("path", sorted(CAPTURED.glob("*/log/log.*")), ids=str)
def test_every_line_that_amanda_wrote_can_be_read(path):
    lines = [line for line in path.read_text().split("\n") if line and line[:2] != "  "]
    assert len(list(amanda_log.events(path))) == len(lines)


def test_a_result_of_the_taper_gives_its_dump_and_three_checksums(tmp_path):
    event = only(tmp_path, DONE)
    assert (event.program, event.kind) == ("taper", "DONE")
    assert (event.host, event.disk, event.timestamp) == ("web1", "/etc", "20261123083845")
    assert (event.number, event.level, event.size) == (2, 0, 1501033)
    assert event.crcs == (
        Crc(0x348CCA8E, 1515520),
        Crc(0x53518088, 1500481),
        Crc(0x1BC897C3, 1501033),
    )


def test_a_checksum_that_amanda_did_not_take_is_none(tmp_path):
    event = only(tmp_path, DONE.replace("1bc897c3:1501033", "00000000:0"))
    assert event.crcs[2] is None


def test_a_part_gives_its_tape_file_and_number(tmp_path):
    event = only(
        tmp_path,
        'PART taper "ST:d" "POOL:d" d-0002 17 web1 /etc 20261123083845 9/-1 1 '
        "[sec 0.000233 bytes 135144 kps 562231.759657]",
    )
    assert (event.label, event.file, event.number) == ("d-0002", 17, 9)
    assert (event.level, event.size) == (1, 135144)


def test_a_part_that_met_the_end_of_its_tape_keeps_amandas_words(tmp_path):
    event = only(
        tmp_path,
        'PARTPARTIAL taper "ST:d" "POOL:d" d-0002 17 web1 /etc 20261123083845 9/-1 1 '
        '[sec 0.0 bytes 1024 kps 5.0] "No space left on device"',
    )
    assert (event.kind, event.message) == ("PARTPARTIAL", "No space left on device")


def test_names_of_older_amandas_without_storage_are_read_too(tmp_path):
    event = only(tmp_path, "START taper datestamp 20261123 label d-0001 tape 1")
    assert (event.label, event.timestamp) == ("d-0001", "20261123000000")


@pytest.mark.parametrize(
    ("quoted", "name"),
    [
        ("/etc", "/etc"),
        ('"/srv/with space"', "/srv/with space"),
        ('"/srv/q\\"uote"', '/srv/q"uote'),
        ('"/srv/back\\\\slash"', "/srv/back\\slash"),
        ('"a\\tb\\nc\\rd\\fe"', "a\tb\nc\rd\fe"),
        ('"/srv/\\303\\274"', "/srv/ü"),
        ('"/srv/ümläut"', "/srv/ümläut"),
        ('"/srv/\udcff"', "/srv/\udcff"),
        ('"/srv/\u2028line"', "/srv/\u2028line"),
    ],
)
def test_a_quoted_name_becomes_the_name_it_stands_for(tmp_path, quoted, name):
    assert only(tmp_path, f"DISK planner web1 {quoted}").disk == name


def test_lines_that_continue_another_belong_to_it(tmp_path):
    event = only(
        tmp_path,
        "FAIL dumper web1 /etc 20261123083845 0 [the filter broke]",
        "  sendbackup: info end",
        "  ? data encrypt: exited with status 3",
    )
    assert event.message == "the filter broke"
    assert event.more == ("sendbackup: info end", "? data encrypt: exited with status 3")


def test_a_continuing_line_is_never_taken_for_a_result(tmp_path):
    event = only(tmp_path, "FAIL dumper web1 /etc 20261123083845 0 [x]", "  " + DONE)
    assert event.kind == "FAIL"


@pytest.mark.parametrize("quotes", ['"[{}]"', "[{}]", '["{}"]'])
def test_the_reason_of_a_failure_comes_without_its_wrapping(tmp_path, quotes):
    text = quotes.format("Request to web1 failed")
    event = only(tmp_path, f"FAIL planner web1 /etc 20261123083845 0 {text}")
    assert event.message.strip('"') == "Request to web1 failed"


def test_a_message_that_amanda_cut_at_its_limit_is_kept(tmp_path):
    event = only(tmp_path, 'FAIL planner web1 /etc 20261123083845 0 "[' + "x" * 4000)
    assert event.message.endswith("xxx")


def test_a_retry_gives_its_message(tmp_path):
    event = only(
        tmp_path, 'RETRY dumper web1 /etc 20261123083845 0 delay 1 level 0 message "come back"'
    )
    assert (event.level, event.message) == (0, "come back")


@pytest.mark.parametrize("length", range(5, len(DONE)))
def test_a_result_cut_anywhere_raises_and_quotes_the_line(tmp_path, length):
    if DONE[:length].endswith("]"):
        pytest.skip("whole")
    with pytest.raises(ParseError) as raised:
        list(amanda_log.events(log(tmp_path, DONE[:length])))
    assert raised.value.line == DONE[:length]
    assert "log.20261123083845.0" in str(raised.value)


@pytest.mark.parametrize(
    "damaged",
    [
        DONE.replace("20261123083845", "2026112308384"),
        DONE.replace(" 2 0 ", " 2 "),
        DONE.replace(" 2 0 ", " two 0 "),
        DONE.replace("bytes 1501033", "bytes many"),
        DONE.replace("1bc897c3:", "1bc897cX:"),
        DONE.replace("DONE", "DOME"),
        DONE.replace(" /etc ", ' "/etc '),
        "\0\0\0\0\0\0",
        "garbage",
        "DONE",
        'FAIL taper "ST:d" "POOL:d" 20261123083845 0 error "no"',
        "SUCCESS taper web1 /etc 20261123083845 0 [sec 1 kb 1 kps 1]",
        "START taper datestamp 20261123083845",
        "PART taper d-0001 x web1 /etc 20261123083845 1/-1 0 [sec 0.1 bytes 1 kps 1]",
    ],
)
def test_a_damaged_line_raises_and_quotes_it(tmp_path, damaged):
    with pytest.raises(ParseError) as raised:
        list(amanda_log.events(log(tmp_path, damaged)))
    assert raised.value.line == damaged


def test_a_line_of_a_program_that_dumps_nothing_may_say_what_it_likes(tmp_path):
    lines = ["NOTICE amtrmlog whatever", "ERROR amreport ", "INFO amdump pid-done 1", ""]
    assert [event.program for event in amanda_log.events(log(tmp_path, *lines))] == [
        "amreport",
        "amdump",
    ]


def test_a_line_without_its_end_raises(tmp_path):
    with pytest.raises(ParseError) as raised:
        list(amanda_log.events(log(tmp_path, "INFO amdump pid 1", DONE[:40], end="")))
    assert raised.value.line == DONE[:40]


def test_a_line_that_amanda_is_just_writing_is_waited_for(tmp_path):
    """Amanda writes the first two words and the rest one after the other, under a lock."""
    path = log(tmp_path, "DONE taper ", end="")
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys\n"
            "file = open(sys.argv[1], 'a')\n"
            "fcntl.lockf(file, fcntl.LOCK_EX)\n"
            "print('locked', flush=True)\n"
            "sys.stdin.readline()\n"
            "file.write(sys.argv[2]); file.flush()\n",
            str(path),
            DONE.removeprefix("DONE taper ") + "\n",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdout.readline() == b"locked\n"
    found = []
    reader = threading.Thread(target=lambda: found.extend(amanda_log.events(path)))
    reader.start()
    reader.join(0.2)
    assert reader.is_alive(), "it didn't wait for the writer's lock"
    writer.communicate(b"\n")
    reader.join(10)
    assert [event.disk for event in found] == ["/etc"]


def test_lines_of_programs_not_asked_for_are_passed_over(tmp_path):
    lines = ["SUCCESS chunker damaged", "DISK planner web1 /etc", DONE]
    path = log(tmp_path, *lines)
    assert [event.program for event in amanda_log.events(path, programs=("taper",))] == ["taper"]


def test_a_log_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(AmandaError, match="can't read the log"):
        list(amanda_log.events(tmp_path))


def test_a_damaged_line_without_a_program_is_never_passed_over(tmp_path):
    with pytest.raises(ParseError):
        list(amanda_log.events(log(tmp_path, "DON"), programs=("taper",)))


def test_a_line_of_an_enemy_is_refused_at_once(tmp_path):
    for text in (" " * 100_000, '"' * 100_001, "\\" * 100_001, "a" * 100_000, '"a" ' * 30_000):
        path = log(tmp_path, f"DONE taper web1 {text}x")
        began = time.monotonic()
        with pytest.raises(ParseError):
            list(amanda_log.events(path))
        assert time.monotonic() - began < 2


def test_words_are_split_as_amanda_quotes_them():
    assert amanda_log.split('a "b c"  d\\ e') == ["a", "b c", "d e"]
    assert amanda_log.split('a "b') is None


CUT = DONE[:40]


@pytest.mark.parametrize("after", ["", "\n", "\nINFO amcleanup amcleanup pid 1\n"])
def test_the_line_that_a_crash_cut_is_told_and_the_rest_is_read(tmp_path, after):
    path = log(tmp_path, "DISK planner web1 /etc", CUT, end=after)
    damaged = []
    assert [event.kind for event in amanda_log.events(path, damaged=damaged)] == ["DISK"]
    assert [error.line for error in damaged] == [CUT]


@pytest.mark.parametrize(
    "lines",
    [[CUT, DONE], [CUT, "FINISH driver date 20261123083845 time 1"], [CUT, CUT]],
)
def test_a_damaged_line_that_no_crash_left_raises_all_the_same(tmp_path, lines):
    with pytest.raises(ParseError):
        list(amanda_log.events(log(tmp_path, *lines), damaged=[]))


def test_who_keeps_a_log_locked_holds_up_no_reader_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(amanda_log, "_LINE_SECONDS", 0.2)
    path = log(tmp_path, "INFO amdump amdump pid 7", "STATS driver star", end="")
    program = (
        "import fcntl, sys, time\n"
        "file = open(sys.argv[1], 'r+')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\n"
        "time.sleep(60)\n"
    )
    argv = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"locked\n"
        try:
            with pytest.raises(ParseError, match="STATS driver star"):
                list(amanda_log.events(path))
        finally:
            holder.kill()
