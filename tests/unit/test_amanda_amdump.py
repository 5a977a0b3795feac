"""What Amanda's exit statuses, logs and complaints mean, from what it really wrote."""

import os
from pathlib import Path

import amanda_amdump
import pytest

CAPTURED = Path(__file__).parent / "captured" / "run"
NAME = "log.20261123083624.0"


def tail_of(tmp_path, name):
    tail = amanda_amdump.LogTail(tmp_path)
    (tmp_path / NAME).write_bytes((CAPTURED / name).read_bytes())
    return tail


def test_status_zero_has_nothing_to_say():
    assert amanda_amdump.words(0) == []


def test_each_bit_of_the_status_has_its_words():
    assert amanda_amdump.words(5) == ["Amanda met an error", "a dump failed"]
    assert amanda_amdump.words(16) == ["not everything could be written to tape"]
    assert len(amanda_amdump.words(31)) == 5


def test_a_status_that_amanda_doesnt_document_and_a_signal_are_named():
    assert amanda_amdump.words(32) == ["amdump ended with status 32"]
    assert amanda_amdump.words(-9) == ["amdump was ended by signal 9"]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("log.fine", {"dles": 2, "dumped": 2, "taped": 2, "failed": 0}),
        ("log.clients-fail", {"dles": 9, "dumped": 2, "taped": 2, "failed": 7}),
        ("log.tape-full", {"dles": 2, "dumped": 1, "taped": 1, "failed": 1}),
        ("log.no-tapes-directory", {"dles": 2, "dumped": 2, "taped": 0, "failed": 0}),
        ("log.too-large", {"dles": 2, "dumped": 1, "taped": 1, "failed": 1}),
    ],
)
def test_progress_counts_the_dles_of_a_real_log(tmp_path, name, counts):
    assert tail_of(tmp_path, name).finish() == counts


def test_a_log_read_in_pieces_gives_the_same_counts(tmp_path):
    whole = (CAPTURED / "log.clients-fail").read_bytes()
    tail = amanda_amdump.LogTail(tmp_path)
    for end in range(0, len(whole) + 97, 97):
        (tmp_path / NAME).write_bytes(whole[:end])
        tail.update()
    assert tail.counts() == {"dles": 9, "dumped": 2, "taped": 2, "failed": 7}


def test_a_log_that_was_there_before_is_not_this_runs(tmp_path):
    (tmp_path / NAME).write_bytes((CAPTURED / "log.fine").read_bytes())
    tail = amanda_amdump.LogTail(tmp_path)
    assert tail.finish()["dles"] == 0


def test_a_log_that_is_a_link_is_not_followed(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (tmp_path / "elsewhere").write_bytes((CAPTURED / "log.fine").read_bytes())
    tail = amanda_amdump.LogTail(logs)
    (logs / NAME).symlink_to(tmp_path / "elsewhere")
    assert tail.finish()["dles"] == 0


def test_a_pipe_in_the_logs_place_holds_nobody_up(tmp_path):
    tail = amanda_amdump.LogTail(tmp_path)
    os.mkfifo(tmp_path / NAME)
    assert tail.finish()["dles"] == 0


@pytest.mark.parametrize(
    ("name", "program", "text"),
    [
        ("log.no-tapes-directory", "taper", "directory '/srv/vtapes/daily' does not exist"),
        ("log.no-tape-to-overwrite", "taper", "No acceptable volumes found"),
        ("log.tape-full", "taper", "runtapes=1 does not allow additional tapes"),
        ("log.empty-disklist", "planner", "empty disklist"),
    ],
)
def test_errors_of_the_whole_run_are_kept_with_the_program_that_met_them(
    tmp_path, name, program, text
):
    tail = tail_of(tmp_path, name)
    tail.finish()
    assert any(found == program and text in said for found, said in tail.errors)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "? /usr/bin/tar: /srv/x: Cannot open: No such file or directory",
            "/srv/x does not exist on web1",
        ),
        (
            '["dump estimate ( 31536 KB ) is larger than available tape space ( 20480 KB ),  '
            'but cannot incremental dump new disk"]',
            "larger than the tapes one run may write",
        ),
        ("no-tape error [No acceptable volumes found]", "no tape may be written"),
        ("[hmm, disk was stranded on waitq]", "Amanda asked web1 for the size of /srv/x and lost"),
        (
            "? /usr/bin/tar: /srv/x: Cannot open: Not a directory",
            "/srv/x on web1 is no directory",
        ),
        (
            "no-tape error [directory '/srv/vtapes/daily' does not exist]",
            "the directory of the tapes, /srv/vtapes/daily, does not exist on the server",
        ),
        (
            "no-tape config [1 tapes filled; runtapes=1 does not allow additional tapes]",
            "the tapes of one run were full",
        ),
    ],
)
def test_what_amanda_says_of_a_dle_becomes_words_for_the_administrator(said, words):
    assert words in amanda_amdump.reason("web1", "/srv/x", ["other", said])


def test_words_that_amanda_never_used_before_are_not_guessed_at():
    assert amanda_amdump.reason("web1", "/srv/x", ["something new"]) is None


def test_braces_in_a_directorys_name_are_no_placeholders():
    said = "Cannot open: No such file or directory"
    assert "/srv/{host}" in amanda_amdump.reason("web1", "/srv/{host}", [said])


def test_a_connection_that_broke_is_recognised():
    said = "[Request to down1 failed: EOF on read from down1]"
    assert amanda_amdump.broken(said) == "EOF on read"
    assert amanda_amdump.broken("tar failed") is None


def test_amchecks_errors_are_read_with_their_hosts():
    assert amanda_amdump.problems((CAPTURED / "amcheck-server").read_text()) == [
        "directory '/srv/vtapes/daily' does not exist"
    ]
    clients = amanda_amdump.problems((CAPTURED / "amcheck-clients").read_text())
    assert len(clients) == 7
    assert "web1: can not stat '/srv/data/missing': No such file or directory" in clients
    assert "down1: selfcheck request failed: EOF on read from down1" in clients


def test_a_setuid_bit_taken_on_purpose_is_no_problem_and_any_other_is():
    found = amanda_amdump.problems((CAPTURED / "amcheck-hardened").read_text())
    assert found and [each for each in found if not amanda_amdump.is_meant(each)] == []
    others = amanda_amdump.problems((CAPTURED / "amcheck-server").read_text())
    assert others and not any(amanda_amdump.is_meant(each) for each in others)
