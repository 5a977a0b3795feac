"""How a run goes through its steps; what the steps do is shown with a real Amanda."""

import fcntl
import os
import signal
import types

import amanda_fleet
import amanda_layout
import amanda_results
import amanda_run
import amanda_settings
import pytest
from amanda_errors import AmandaError

RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"


@pytest.fixture
def state(tmp_path):
    (tmp_path / "runs").mkdir()
    return tmp_path


def specification(action="check", mirror=None):
    pillar = {"server": "server1"}
    if mirror:
        pillar["mirror"] = {"user": "nobody", "directory": "/srv/mirror"}
        pillar["encryption"] = {"recipients": [RECIPIENT]}
    return {
        "id": amanda_results.new_id(),
        "action": action,
        "config": "daily",
        "requested": amanda_results.now(),
        "settings": amanda_settings.parse(pillar, "server1").to_dict(),
    }


def fine(work):
    return {"success": True, "message": "fine"}


def failed(work):
    raise AmandaError("it failed")


def full(work):
    raise OSError(28, "No space left on device", "/srv/x")


def faulty(work):
    raise ZeroDivisionError("a fault of ours")


def steps(result):
    return [(step["step"], step["success"], step["message"]) for step in result["steps"]]


def test_a_damaged_record_of_verification_is_seen_to_before_the_dump_and_by_no_check(
    state, monkeypatch, tmp_path
):
    monkeypatch.setattr(amanda_layout, "VERIFIED", tmp_path)
    settings = amanda_settings.from_dict(specification(mirror=True)["settings"])
    work = types.SimpleNamespace(settings=settings, config=settings.config())

    def names(action):
        return [name for name, _, _ in amanda_run._steps(action, work)]

    whole = {action: names(action) for action in amanda_run.ACTIONS}
    assert "record" not in sum(whole.values(), [])
    (tmp_path / "daily.json").write_text("{")
    for action in ("backup", "backup_and_mirror", "mirror", "verify"):
        assert [name for name in names(action) if name != "record"] == whole[action]
        assert names(action)[names(action).index("record") - 1] == "canary"
    for action in ("check", "label", "rebuild"):
        assert names(action) == whole[action]


def test_a_step_that_fails_in_any_way_hides_no_other(state, monkeypatch, capsys):
    made = (("a", failed, ()), ("b", full, ()), ("c", faulty, ()), ("d", fine, ()))
    monkeypatch.setitem(amanda_run.ACTIONS, "check", made)
    result = amanda_run.run(specification(), state)
    assert not result["success"]
    assert steps(result) == [
        ("a", False, "it failed"),
        ("b", False, "[Errno 28] No space left on device: '/srv/x'"),
        (
            "c",
            False,
            "a fault in the program, please report it: ZeroDivisionError: a fault of ours",
        ),
        ("d", True, "fine"),
    ]
    assert "Traceback" in capsys.readouterr().err


def test_nothing_is_dumped_once_a_step_failed_that_a_dump_needs(state, monkeypatch):
    made = (("canary", failed, ()), ("dump", fine, ("canary",)), ("report", fine, ()))
    monkeypatch.setitem(amanda_run.ACTIONS, "check", made)
    result = amanda_run.run(specification(), state)
    assert steps(result)[1] == ("dump", False, "not started, since the step canary failed")
    assert steps(result)[2] == ("report", True, "fine")


def test_without_a_mirror_in_the_pillar_there_is_no_such_step(state, monkeypatch):
    made = (("dump", fine, ()), ("mirror", fine, ()))
    monkeypatch.setitem(amanda_run.ACTIONS, "backup_and_mirror", made)
    result = amanda_run.run(specification("backup_and_mirror"), state)
    assert [step["step"] for step in result["steps"]] == ["dump"]
    result = amanda_run.run(specification("backup_and_mirror", mirror=True), state)
    assert [step["step"] for step in result["steps"]] == ["dump", "mirror"]


def test_to_mirror_alone_without_a_mirror_is_a_failure_that_says_so(state):
    result = amanda_run.run(specification("mirror"), state)
    ((name, success, message),) = steps(result)
    assert (name, success) == ("mirror", False)
    assert "set mirror in pillar backup" in message


def test_a_second_run_is_refused_while_the_lock_is_held(state, monkeypatch):
    monkeypatch.setitem(amanda_run.ACTIONS, "check", (("a", fine, ()),))
    with (state / "run.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with pytest.raises(AmandaError, match="another run"):
            amanda_run.run(specification(), state)
    assert not list((state / "runs").iterdir())
    assert amanda_run.run(specification(), state)["success"]


def test_a_signal_ends_the_run_within_its_step_and_is_written_down(state, monkeypatch):
    before = {number: signal.getsignal(number) for number in amanda_run.SIGNALS}

    def stopped(work):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    monkeypatch.setitem(
        amanda_run.ACTIONS, "check", (("a", fine, ()), ("b", stopped, ()), ("c", fine, ()))
    )
    asked = specification()
    try:
        signal.signal(signal.SIGTERM, amanda_run.stop)
        result = amanda_run.run(asked, state)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert result["state"] == "interrupted"
    assert result["success"] is False
    assert "was stopped (signal 15)" in result["message"]
    assert [step["step"] for step in result["steps"]] == ["a"]
    file = amanda_results.path("daily", asked["id"], state / "runs")
    assert amanda_results.read(file) == result


def test_an_earlier_run_that_was_interrupted_is_settled(state, monkeypatch):
    monkeypatch.setitem(amanda_run.ACTIONS, "check", (("a", fine, ()),))
    lost = amanda_results.Report(
        {**specification(), "id": "20250304T010203Z-abcdef"}, state / "runs"
    )
    lost.content["process"]["boot"] = "another"
    lost.begin("dump")
    amanda_run.run(specification(), state)
    assert amanda_results.interrupted(state / "runs") == []
    assert amanda_results.read(lost.path)["state"] == "interrupted"


def test_no_dump_is_begun_while_the_clock_is_behind_the_last_run(state, monkeypatch):
    asked = specification("backup")
    asked["settings"]["pillar"]["paths"] = {"state": str(state / "amanda")}
    (state / "amanda" / "daily" / "log").mkdir(parents=True)
    (state / "amanda" / "daily" / "log" / "log.29990101000000.0").touch()
    (state / "amanda" / "daily" / "tapelist").touch()
    monkeypatch.setitem(amanda_run.ACTIONS, "backup", (("dump", amanda_run.dump, ()),))
    monkeypatch.setattr(amanda_run.amanda_backup, "dump", faulty)
    ((_, success, message),) = steps(amanda_run.run(asked, state))
    assert not success
    assert "newest run of daily is of 2999-01-01T00:00:00" in message


def test_only_a_finding_that_leaves_something_without_backup_is_a_failure():
    directory = amanda_fleet.Directory("/etc", "daily")
    key = "ssh-ed25519 AAAA"
    client = amanda_fleet.Client("web1", "192.0.2.1", 22, (key,), "2026-11-23", (directory,))
    fleet = amanda_fleet.Fleet((client,))
    findings = [
        {"id": "web1", "path": None, "kind": "claimed", "message": "the old pin stays"},
        {"id": "web1", "path": "/etc", "kind": "refused", "message": "the old form stays"},
        {"id": "web1", "path": "/srv", "kind": "config", "message": "dumped by none"},
        {"id": "db1", "path": None, "kind": "claimed", "message": "it is nowhere"},
        {"id": "db2", "path": None, "kind": "missing", "message": "gone, but kept"},
    ]
    left = amanda_run._uncovered(fleet, findings)
    assert [each["message"] for each in left] == ["dumped by none", "it is nowhere"]
