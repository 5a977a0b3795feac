"""The transient unit, on a host that systemd booted."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import amanda_layout
import amanda_results
import amanda_unit
import pytest
from amanda_errors import AmandaError

from tests.functional.ssh_fleet import REPOSITORY, ROOT, SshFleet

pytestmark = pytest.mark.skipif(
    not Path("/run/systemd/system").is_dir() or os.geteuid() != 0,
    reason="needs root on a host booted with systemd",
)


@pytest.fixture
def fleet():
    amanda_unit.stop()
    made = SshFleet()
    data = ROOT / "data"
    data.mkdir()
    (data / "blob").write_bytes(os.urandom(4_000_000))
    made.client("web1", [str(data)])
    yield made
    amanda_unit.stop()
    made.remove()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def group():
    """Return the processes in the unit's control group."""
    argv = ["systemctl", "show", "--property=ControlGroup", "--value", amanda_layout.RUN_UNIT]
    name = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    file = Path(f"/sys/fs/cgroup{name}/cgroup.procs")
    return file.read_text().split() if name and file.exists() else []


def dumping(fleet):
    return list(fleet.places.holding.glob("*/*"))


def test_a_run_in_the_unit_ends_with_its_result_and_the_next_can_start_at_once(fleet):
    for level in (0, 1):
        run = amanda_unit.start("backup", "daily", fleet.settings)
        assert amanda_unit.running()["id"] == run
        result = amanda_unit.follow("daily", run, 120)
        assert result["success"], result
        assert result["id"] == run
        (dump,) = [step for step in result["steps"] if step["step"] == "dump"]
        assert dump["dles"][0]["level"] == level
        assert amanda_unit.running() is None
        assert group() == []


def test_a_second_run_is_refused_and_told_what_goes_on_since_when(fleet):
    run = amanda_unit.start("backup", "daily", fleet.settings)
    before = amanda_layout.SPECIFICATION.read_bytes()
    with pytest.raises(amanda_unit.Busy) as raised:
        amanda_unit.start("check", "daily", fleet.settings)
    assert "backup of daily has been going on since 20" in str(raised.value)
    assert amanda_layout.SPECIFICATION.read_bytes() == before
    assert amanda_unit.follow("daily", run, 120)["success"]


def test_of_many_callers_at_once_exactly_one_starts_a_run(fleet):
    program = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "import amanda_unit, json, amanda_settings\n"
        "settings = amanda_settings.from_dict(json.loads(sys.argv[3]))\n"
        "try: print(amanda_unit.start('backup', 'daily', settings))\n"
        "except amanda_unit.Busy: print('busy')\n"
    )
    paths = [str(REPOSITORY / "_utils"), str(REPOSITORY)]
    settings = json.dumps(fleet.settings.to_dict())
    argv = [sys.executable, "-c", program, *paths, settings]
    callers = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    answers = [caller.communicate(timeout=60)[0].strip() for caller in callers]
    assert sorted(answers)[1:] == ["busy"] * 5
    # Those who started it have gone, and it goes on.
    assert amanda_unit.follow("daily", min(answers), 120)["success"]


def test_no_run_begins_while_a_state_changes_what_it_would_use(fleet):
    began = threading.Event()

    def start():
        began.set()
        started.append(amanda_unit.start("check", "daily", fleet.settings))

    started = []
    with amanda_unit.no_start():
        caller = threading.Thread(target=start)
        caller.start()
        began.wait()
        time.sleep(1)
        assert amanda_unit.running() is None and not started
    caller.join(30)
    assert amanda_unit.follow("daily", *started, 120)["success"]


def test_following_ends_after_its_time_and_leaves_the_run_going(fleet):
    run = amanda_unit.start("backup", "daily", fleet.settings)
    began = time.monotonic()
    assert amanda_unit.follow("daily", run, 0.5)["state"] == "running"
    assert time.monotonic() - began < 2
    assert amanda_unit.follow("daily", run, 120)["success"]


def test_a_unit_that_is_killed_reads_as_interrupted_and_leaves_no_process(fleet):
    run = amanda_unit.start("backup", "daily", fleet.settings)
    wait_for(lambda: dumping(fleet))
    subprocess.run(["systemctl", "kill", "-s", "KILL", amanda_layout.RUN_UNIT], check=True)
    result = amanda_unit.follow("daily", run, 60)
    assert result["state"] == "interrupted"
    assert not result["success"]
    assert group() == []
    again = amanda_unit.start("backup", "daily", fleet.settings)
    assert amanda_unit.follow("daily", again, 120)["success"]
    stored = amanda_results.read(amanda_results.path("daily", run))
    assert stored["state"] == "interrupted"


def test_a_unit_that_is_stopped_writes_that_it_was(fleet):
    run = amanda_unit.start("backup", "daily", fleet.settings)
    wait_for(lambda: dumping(fleet))
    began = time.monotonic()
    assert amanda_unit.stop()
    assert time.monotonic() - began < amanda_unit.STOP_SECONDS
    result = amanda_unit.follow("daily", run, 10)
    assert result["state"] == "interrupted"
    assert "was stopped" in result["message"]
    assert group() == []
    assert not amanda_unit.stop()


def test_a_run_that_dies_before_its_result_is_an_error_that_leads_to_the_journal(fleet):
    broken = amanda_layout.PROGRAMS / "amanda_run.py"
    broken.write_text("raise SystemExit(3)\n")
    run = amanda_unit.start("backup", "daily", fleet.settings)
    with pytest.raises(AmandaError, match="journalctl -u amanda-run.service"):
        amanda_unit.follow("daily", run, 60)


def test_without_the_engine_nothing_is_started(fleet):
    with pytest.raises(AmandaError, match="apply the state backup"):
        amanda_unit.start("backup", "daily", fleet.settings, program=ROOT / "missing.py")
    assert amanda_unit.running() is None


def test_an_interpreter_that_cant_run_is_an_error_at_once(fleet):
    with pytest.raises(AmandaError, match="could not be started"):
        amanda_unit.start("backup", "daily", fleet.settings, python="/nowhere/python")
    assert amanda_unit.running() is None
