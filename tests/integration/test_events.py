"""What a run tells on the event bus."""

import json

from tests.integration import backups, leaks
from tests.integration.backups import SERVER, good, until
from tests.testbed import salt


def heard(bed):
    """Return tag and data of each event of a run that was recorded, in order."""
    lines = bed.read(salt.MASTER, leaks.EVENTS).decode().splitlines()
    told = [
        line.split("\t", 1) for line in lines if line.startswith(f"salt/amanda/{SERVER}/daily/")
    ]
    return [(tag.rpartition("/")[2], json.loads(data)["data"]) for tag, data in told]


def told_of(bed, action, end):
    """Do a run; return its result and its events, once it has told of its end."""
    with leaks.events(bed):
        result = backups.run(bed, action)
        until(lambda: end in dict(heard(bed)), f"the event {end}", 20)
        return result, heard(bed)


def test_a_run_tells_of_its_start_each_step_and_its_end_once(fleet):
    result, events = told_of(fleet, "backup", "finished")
    names = [name for name, _ in events]
    assert names[0] == "started" and names[-1] == "finished"
    assert set(names[1:-1]) == {"progress"}
    assert {data["id"] for _, data in events} == {result["id"]}
    counts = [len(data["steps"]) for _, data in events]
    assert counts == sorted(counts) and counts[-1] == len(result["steps"])
    assert max(counts[:-1]) >= 3  # those that took long enough to be told of on the way
    assert events[-1][1]["steps"] == good(result)["steps"]


def test_a_run_in_which_something_fails_is_told_by_its_tag(fleet):
    fleet.run("web1", ["systemctl", "stop", "ssh"])
    try:
        result, events = told_of(fleet, "check", "failed")
    finally:
        fleet.run("web1", ["systemctl", "start", "ssh"])
    assert not result["success"] and "finished" not in dict(events)
    assert "is its SSH daemon running?" in json.dumps(events[-1])


def test_a_run_that_was_killed_is_told_of_as_failed(fleet):
    with leaks.events(fleet):
        with backups.held_run(fleet, "backup"):
            fleet.run(SERVER, ["systemctl", "kill", "--signal=KILL", backups.UNIT])
        until(lambda: "failed" in dict(heard(fleet)), "the event", 20)
        assert dict(heard(fleet))["failed"]["state"] == "interrupted"
