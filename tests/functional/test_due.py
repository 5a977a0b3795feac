"""Due times under clocks that are really shifted, in the zone that the host is really in."""

import contextlib
import datetime
import os
import subprocess
import sys
from pathlib import Path

import amanda_due
import pytest

from tests.functional.zones import time_zone

UTILS = Path(amanda_due.__file__).parent

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to set the host's zone")

PROGRAM = """
import sys, pathlib
sys.path.insert(0, sys.argv[1])
import amanda_due
path = pathlib.Path(sys.argv[2])
decision = amanda_due.look("daily", sys.argv[3], 0, "server1", path=path)
if decision.run:
    amanda_due.record("daily", decision.served, path)
print("run" if decision.run else "wait", decision.served.isoformat())
print(decision.remark or "")
"""


@pytest.fixture
def zone():
    """Give a function that puts the host into a time zone; undone afterwards."""
    with contextlib.ExitStack() as stack:
        yield lambda name: stack.enter_context(time_zone(name))


def look(path, moment, cron="30 2 * * *"):
    """Look with the clock at *moment* (ISO 8601 with its offset); whether a run was due."""
    seconds = datetime.datetime.fromisoformat(moment).timestamp()
    program = [sys.executable, "-c", PROGRAM, UTILS, path, cron]
    answer = subprocess.run(
        ["faketime", f"@{int(seconds)}", *program],
        env={"PATH": "/usr/bin:/bin", "TZ": ":/etc/localtime"},
        check=True,
        capture_output=True,
        text=True,
    )
    return answer.stdout.split()[0] == "run", answer.stdout.splitlines()[1]


@pytest.mark.parametrize(
    ("name", "moments"),
    [
        (
            "Europe/Berlin",  # skips 02:30
            {
                "2025-03-29T12:00+01:00": False,
                "2025-03-30T01:59+01:00": False,
                "2025-03-30T03:01+02:00": True,
                "2025-03-30T03:40+02:00": False,
                "2025-03-31T02:29+02:00": False,
                "2025-03-31T02:30+02:00": True,
            },
        ),
        (
            "Europe/Berlin",  # shows 02:30 twice
            {
                "2025-10-25T12:00+02:00": False,
                "2025-10-26T02:31+02:00": True,
                "2025-10-26T02:59+02:00": False,
                "2025-10-26T02:31+01:00": False,
                "2025-10-27T02:31+01:00": True,
            },
        ),
        (
            "Australia/Lord_Howe",  # skips half an hour, from 02:00 to 02:30
            {
                "2025-10-04T12:00+10:30": False,
                "2025-10-05T01:59+10:30": False,
                "2025-10-05T02:31+11:00": True,
                "2025-10-05T02:41+11:00": False,
            },
        ),
    ],
)
def test_daylight_saving_runs_each_night_once(tmp_path, zone, name, moments):
    zone(name)
    path = tmp_path / "due.json"
    assert {moment: look(path, moment)[0] for moment in moments} == moments


def test_a_clock_that_jumps_about_runs_each_cron_time_once(tmp_path, zone):
    zone("America/New_York")
    path = tmp_path / "due.json"
    moments = {
        "2025-06-01T12:00-04:00": False,  # set up
        "2025-06-02T02:30-04:00": True,
        "2025-06-02T01:00-04:00": False,  # set back
        "2025-06-02T02:35-04:00": False,  # it comes again
        "2025-06-20T09:00-04:00": True,  # forward, past many: one catch-up
        "2025-06-20T09:10-04:00": False,
    }
    assert {moment: look(path, moment)[0] for moment in moments} == moments
    due, remark = look(path, "2025-06-03T01:00-04:00")  # back by weeks
    assert not due
    assert "clock was set back" in remark
    assert look(path, "2025-06-03T02:31-04:00")[0]
