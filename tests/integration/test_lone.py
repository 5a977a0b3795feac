"""A machine without a Salt master backs itself up, by salt-call alone."""

import json

import pytest

from tests.testbed import Bed

SERVER = "backup-server"  # the example pillar's


@pytest.fixture(scope="module")
def lone():
    bed = Bed("lone-test")
    bed.down()
    bed.up_lone(SERVER)
    yield bed
    bed.down()


def call(bed, *words):
    done = bed.run(SERVER, ["salt-call", "--out=json", "--log-level=quiet", *words], check=False)
    return json.loads(done.stdout)["local"]


def test_one_command_sets_it_up_and_a_second_changes_nothing(lone):
    first = call(lone, "state.apply", "backup")
    assert [state["comment"] for state in first.values() if state["result"] is not True] == []
    second = call(lone, "state.apply", "backup")
    assert [state["__id__"] for state in second.values() if state["changes"]] == []


def test_the_result_says_that_no_minion_runs_its_schedule(lone):
    states = call(lone, "state.apply", "backup").values()
    comments = {state["__id__"]: state["comment"] for state in states}
    assert "No salt-minion runs here" in comments["scheduled backups"]


def test_what_was_dumped_there_comes_back(lone):
    lone.write(SERVER, "/home/ada/thesis", b"three years\n")
    assert call(lone, "amanda.backup")["success"]
    lone.run(SERVER, ["rm", "-r", "/home/ada"])
    result = call(lone, "amanda.recover", SERVER, "/home/ada")
    assert lone.read(SERVER, f"{result['restored']}/thesis") == b"three years\n"
