"""Why a client can't be reached, from what ssh really said."""

from pathlib import Path

import amanda_reach
import pytest

CAPTURED = Path(__file__).parent / "captured" / "run"


def interpreted(name, status=255):
    said = (CAPTURED / f"ssh-{name}.txt").read_text()
    return amanda_reach.interpret("web1", "10.0.0.3", 22, status, said)


@pytest.mark.parametrize(
    ("name", "problem", "words"),
    [
        ("timeout", "timeout", "web1 does not answer on 10.0.0.3 port 22 (timed out): is it"),
        ("route", "route", "web1 does not answer on 10.0.0.3 port 22 (no route to it)"),
        ("network", "route", "web1 does not answer on 10.0.0.3 port 22 (no route to it)"),
        ("refused", "refused", "web1 refuses connections on 10.0.0.3 port 22"),
        ("hung", "hung", "its SSH daemon does not answer"),
        ("changed-key", "changed-key", "another SSH host key than the one it published"),
        ("unknown-key", "unknown-key", "the SSH host key of web1 is not known here"),
        ("denied", "denied", "web1 does not accept this server's SSH key"),
        ("name", "name", "the name 10.0.0.3 of web1 can't be resolved"),
    ],
)
def test_each_complaint_of_ssh_becomes_a_sentence_that_names_the_host(name, problem, words):
    reach = interpreted(name)
    assert reach.problem == problem
    assert words in reach.message
    assert "web1" in reach.message
    assert reach.detail


def test_a_host_where_amandad_starts_has_no_problem_whatever_was_said():
    reach = interpreted("denied", status=0)
    assert reach.problem is None
    assert reach.message == ""


def test_a_host_that_lets_in_but_cant_start_amandad_says_so():
    said = "sh: 1: /usr/lib/amanda/amandad: not found\n"
    reach = amanda_reach.interpret("web1", "10.0.0.3", 22, 127, said)
    assert reach.problem == "amandad"
    assert "status 127" in reach.message
    assert "amandad: not found" in reach.message


def test_a_host_that_had_to_be_given_up_counts_as_hung():
    reach = amanda_reach.interpret("web1", "10.0.0.3", 22, None, "", seconds=10)
    assert reach.problem == "hung"
    assert "did not finish within 10 s" in reach.message


def test_what_ssh_says_in_words_unknown_is_passed_on_short_and_printable():
    said = "first\nBad thing \x1b[31m" + "x" * 5000
    reach = amanda_reach.interpret("web1", "10.0.0.3", 22, 255, said)
    assert reach.problem == "other"
    assert "Bad thing ?[31m" in reach.message
    assert len(reach.message) < 500


def test_an_ssh_that_was_killed_here_is_not_held_against_the_client():
    reach = amanda_reach.interpret("web1", "10.0.0.3", 22, -9, "")
    assert reach.problem == "other"
    assert "was killed on this server (signal 9)" in reach.message


def test_a_changed_key_is_told_from_an_unknown_one_though_ssh_ends_both_the_same():
    ends = [
        (CAPTURED / f"ssh-{name}.txt").read_text().splitlines()[-1]
        for name in ("changed-key", "unknown-key")
    ]
    assert ends[0] == ends[1]
    assert interpreted("changed-key").problem != interpreted("unknown-key").problem


def test_no_hosts_are_no_question():
    assert amanda_reach.probe([], None) == {}
