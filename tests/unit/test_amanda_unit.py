"""What can be said of runs without systemd; the rest is shown on a host that has it."""

from pathlib import Path

import amanda_settings
import amanda_unit
import pytest
from amanda_errors import AmandaError


@pytest.fixture
def settings():
    return amanda_settings.parse({"server": "server1"}, "server1")


@pytest.fixture
def not_booted(monkeypatch, tmp_path):
    monkeypatch.setattr(amanda_unit, "_BOOTED", tmp_path / "missing")


def test_without_systemd_nothing_runs_and_nothing_can_be_started(not_booted, settings):
    assert amanda_unit.running() is None
    assert amanda_unit.stop() is False
    with pytest.raises(AmandaError, match="was not booted with systemd"):
        amanda_unit.start("backup", "daily", settings, program=Path(__file__))


def test_an_action_that_doesnt_exist_is_refused_before_anything_else(not_booted, settings):
    with pytest.raises(AmandaError, match="'restore'"):
        amanda_unit.start("restore", "daily", settings)


def test_busy_says_what_is_going_on_since_when():
    run = {"id": "x", "action": "mirror", "config": "daily", "since": "2025-03-04T01:00:00+00:00"}
    error = amanda_unit.Busy(run)
    assert "mirror of daily has been going on since 2025-03-04T01:00:00+00:00" in str(error)
    assert error.run is run


def test_busy_says_how_a_verification_by_hand_is_ended_and_of_nothing_else():
    run = {"id": "x", "config": "daily", "since": "2025-03-04T01:00:00+00:00"}
    assert "'systemctl stop amanda-run.service'" in str(
        amanda_unit.Busy({**run, "action": "verify"})
    )
    assert "systemctl" not in str(amanda_unit.Busy({**run, "action": "backup"}))


def test_busy_has_words_for_what_isnt_known():
    unknown = dict.fromkeys(("id", "action", "config", "since"))
    assert "a run of a config has been going on since a moment ago" in str(
        amanda_unit.Busy(unknown)
    )
