"""Amanda tells its dumps apart and in order by the server's local time: it must not go back."""

import datetime

import amanda_clock
import pytest
from amanda_errors import AmandaError, ParseError
from amanda_layout import ConfigPlaces

NEWEST = datetime.datetime(2026, 10, 25, 2, 50, 0)


class Clock:
    """A clock that only goes on while somebody sleeps."""

    def __init__(self, moment):
        self.moment = moment
        self.slept = 0

    def now(self):
        return self.moment

    def sleep(self, seconds):
        assert seconds > 0
        self.slept += seconds
        self.moment += datetime.timedelta(seconds=seconds)


class Stopped(Clock):
    """A clock that stands still."""

    def sleep(self, seconds):
        super().sleep(seconds)
        self.moment -= datetime.timedelta(seconds=seconds)


@pytest.fixture
def places(tmp_path):
    """A config whose newest log is of :data:`NEWEST`."""
    (tmp_path / "log").mkdir()
    for name in ("log.20261024025000.0", "log.20261025025000.0", "log.error", "log"):
        (tmp_path / "log" / name).touch()
    (tmp_path / "tapelist").write_text("20261024025000 daily-0001 reuse\n0 daily-0002 reuse\n")
    return ConfigPlaces("daily", tmp_path, tmp_path, tmp_path, tmp_path)


def wait(places, clock, told=None):
    told = [] if told is None else told
    amanda_clock.wait(places, told.append, clock.now, clock.sleep)
    return told


def after(**gap):
    return Clock(NEWEST + datetime.timedelta(**gap))


def test_a_clock_that_went_on_holds_nothing_up(places):
    clock = after(seconds=1)
    assert wait(places, clock) == []
    assert clock.slept == 0


def test_a_config_that_never_ran_holds_nothing_up(places):
    for log in (places.state / "log").iterdir():
        log.unlink()
    (places.state / "log").rmdir()
    places.tapelist.write_text("0 daily-0001 reuse\n")
    assert wait(places, Clock(datetime.datetime(2001, 1, 1))) == []


def test_two_runs_in_one_second_get_two_stamps(places):
    clock = after(seconds=0)
    wait(places, clock)
    assert clock.moment > NEWEST
    assert clock.slept <= 2


@pytest.mark.parametrize("minutes", [1, 50, 60])
def test_in_the_hour_that_comes_twice_the_dump_waits_until_its_stamp_is_later(places, minutes):
    clock = after(minutes=-minutes)
    told = wait(places, clock)
    assert f"{clock.moment:%Y%m%d%H%M%S}" > "20261025025000"
    assert clock.slept < minutes * 60 + 60
    assert "2026-10-25T02:50:00" in told[0]["waiting"]
    assert told[0]["seconds"] == minutes * 60 + 1
    assert told[-1]["seconds"] < told[0]["seconds"] or minutes == 1


def test_a_clock_that_is_far_back_fails_and_names_both_times(places):
    clock = after(days=-3)
    with pytest.raises(AmandaError) as error:
        wait(places, clock)
    assert "clock says 2026-10-22T02:50:00" in str(error.value)
    assert "newest run of daily is of 2026-10-25T02:50:00" in str(error.value)
    assert clock.slept == 0


def test_a_tape_that_was_written_later_than_any_log_counts_too(places):
    places.tapelist.write_text("20261224025000 daily-0001 reuse\n")
    with pytest.raises(AmandaError, match="2026-12-24T02:50:00"):
        wait(places, after(days=1))


def test_a_clock_that_stands_still_is_not_waited_for_without_end(places):
    clock = Stopped(NEWEST)
    with pytest.raises(AmandaError, match="clock"):
        wait(places, clock)
    assert clock.slept < 3 * 3600


def test_a_clock_that_is_set_far_back_while_the_dump_waits_fails(places):
    clock = after(minutes=-30)

    def sleep(seconds):
        clock.moment -= datetime.timedelta(days=1)

    with pytest.raises(AmandaError, match="2026-10-24T02:20:00"):
        amanda_clock.wait(places, lambda told: None, clock.now, sleep)


def test_a_time_that_is_none_is_not_passed_over(places):
    places.tapelist.write_text("99999999999999 daily-0001 reuse\n")
    with pytest.raises(ParseError, match="99999999999999"):
        wait(places, after(days=1))


def test_a_catalogue_of_another_time_zone_is_told_with_the_remedy():
    said = amanda_clock.other_zone("Europe/Berlin", own="Etc/UTC")
    assert "timedatectl set-timezone Europe/Berlin" in said
    assert "that of Etc/UTC" in said


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("Europe/Berlin", "Europe/Berlin"),
        ("Europe/Berlin", "Europe/Rome"),
        ("UTC", "Etc/UTC"),
        ("Nowhere/Known", "Nowhere/Known"),
        ("", "UTC"),
        ("UTC", ""),
        ("$(reboot)", "UTC"),
        ("../../etc/shadow", "UTC"),
        ("a/" * 3000 + "a", "UTC"),
        ("-x", "UTC"),
    ],
)
def test_zones_that_go_the_same_or_are_no_names_are_not_talked_about(name, own):
    assert amanda_clock.other_zone(name, own) is None


@pytest.mark.parametrize(
    ("name", "own"), [("Europe/London", "UTC"), ("Africa/Cairo", "Europe/Athens")]
)
def test_zones_that_differ_for_a_part_of_the_year_differ(name, own):
    assert amanda_clock.other_zone(name, own)


def test_the_machines_zone_is_what_its_localtime_leads_to(tmp_path):
    (zones := tmp_path / "zoneinfo/Asia").mkdir(parents=True)
    (zones / "Tokyo").touch()
    (local := tmp_path / "localtime").symlink_to(zones / "Tokyo")
    assert amanda_clock.zone(local) == "Asia/Tokyo"
    assert amanda_clock.zone(tmp_path / "none") == "UTC"
    (tmp_path / "copied").touch()
    assert amanda_clock.zone(tmp_path / "copied") == ""
