"""When a config's next run is due, under clocks that behave and clocks that don't."""

import datetime
import json
import zoneinfo

import amanda_due
import pytest
from amanda_errors import ArgumentError, ParseError

UTC = datetime.timezone.utc
DAILY = "0 1 * * *"
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
NEW_YORK = zoneinfo.ZoneInfo("America/New_York")
LORD_HOWE = zoneinfo.ZoneInfo("Australia/Lord_Howe")


def at(text, zone=UTC):
    """Return the moment that a clock in *zone* shows as *text*."""
    return datetime.datetime.fromisoformat(text).replace(tzinfo=zone)


def runs(cron, start, end, zone, step=10, last=None, splay=0):
    """Return the wall-clock times of the runs that ticks every *step* minutes start."""
    moment, end = at(start, zone).astimezone(UTC), at(end, zone).astimezone(UTC)
    started = []
    while moment <= end:
        decision = amanda_due.due(cron, last, moment.astimezone(zone), splay, "server daily")
        last = decision.served
        if decision.run:
            assert decision.served <= decision.planned <= moment
            started.append(moment.astimezone(zone).strftime("%d %H:%M %z"))
        moment += datetime.timedelta(minutes=step)
    return started


def test_a_cron_time_that_has_come_is_due_until_it_is_recorded_and_not_after():
    last = at("2025-03-04T01:00")
    assert not amanda_due.due(DAILY, last, at("2025-03-05T00:59:59")).run
    decision = amanda_due.due(DAILY, last, at("2025-03-05T01:00"))
    assert decision.run
    assert decision.served == at("2025-03-05T01:00")
    assert decision.remark is None
    after = amanda_due.due(DAILY, decision.served, at("2025-03-05T01:00:01"))
    assert not after.run
    assert after.planned == at("2025-03-06T01:00")


def test_every_cron_time_runs_once_under_ticks_of_ten_minutes():
    assert runs(DAILY, "2025-03-04T12:03", "2025-03-07T12:00", UTC) == [
        "05 01:03 +0000",
        "06 01:03 +0000",
        "07 01:03 +0000",
    ]


def test_many_missed_runs_give_one_catch_up_that_says_so():
    decision = amanda_due.due(DAILY, at("2025-03-04T01:00"), at("2025-03-20T09:30"))
    assert decision.run
    assert decision.served == at("2025-03-20T01:00")
    assert "2025-03-20T01:00:00+00:00 was missed" in decision.remark
    assert not amanda_due.due(DAILY, decision.served, at("2025-03-20T09:40")).run


def test_a_catch_up_just_before_todays_splayed_run_serves_today_too():
    splay = 14400
    assert amanda_due.offset(splay, "server1") > 600
    now = at("2025-03-20T01:05")
    decision = amanda_due.due(DAILY, at("2025-03-10T01:00"), now, splay, "server1")
    assert decision.run
    assert decision.served == at("2025-03-20T01:00")
    evening = at("2025-03-20T23:00")
    assert not amanda_due.due(DAILY, decision.served, evening, splay, "server1").run


def test_a_new_config_waits_for_its_first_cron_time():
    decision = amanda_due.due(DAILY, None, at("2025-03-04T14:00"))
    assert not decision.run
    assert decision.planned == at("2025-03-05T01:00")
    assert runs(DAILY, "2025-03-04T14:00", "2025-03-05T12:00", UTC) == ["05 01:00 +0000"]


def test_a_clock_set_back_within_a_day_does_not_run_again_what_ran():
    served = at("2025-03-05T01:00")
    for now in ("2025-03-05T00:30", "2025-03-04T12:00", "2025-03-04T01:00", "2025-03-05T01:10"):
        decision = amanda_due.due(DAILY, served, at(now))
        assert not decision.run
        assert decision.served == served
        assert decision.remark is None
    assert amanda_due.due(DAILY, served, at("2025-03-06T01:00")).run


def test_a_weekly_run_is_not_repeated_by_a_clock_set_back_three_days():
    served = at("2025-03-09T01:00")
    started = runs("0 1 * * 0", "2025-03-06T00:00", "2025-03-12T00:00", UTC, 60, last=served)
    assert started == []


def test_an_hourly_run_is_not_repeated_by_a_clock_set_back_three_hours():
    served = at("2025-03-05T12:00")
    started = runs("0 * * * *", "2025-03-05T09:05", "2025-03-05T13:05", UTC, last=served)
    assert started == ["05 13:05 +0000"]


def test_a_record_from_years_ahead_is_put_right_said_and_does_not_stop_the_runs():
    served = at("2038-01-01T01:00")
    decision = amanda_due.due(DAILY, served, at("2025-03-04T12:00"))
    assert not decision.run
    assert decision.served == at("2025-03-04T01:00")
    assert "clock was set back" in decision.remark
    assert runs(DAILY, "2025-03-04T12:00", "2025-03-06T12:00", UTC, last=served) == [
        "05 01:00 +0000",
        "06 01:00 +0000",
    ]


def test_a_clock_set_forward_runs_once():
    assert runs(
        DAILY, "2025-06-01T00:00", "2025-06-02T00:50", UTC, last=at("2025-03-04T01:00")
    ) == ["01 00:00 +0000", "01 01:00 +0000"]
    late = runs(DAILY, "2025-06-01T05:00", "2025-06-02T00:50", UTC, last=at("2025-03-04T01:00"))
    assert late == ["01 05:00 +0000"]


@pytest.mark.parametrize(
    ("zone", "cron", "start", "end", "expected"),
    [
        (
            BERLIN,
            "30 2 * * *",
            "2025-03-29T12:00",
            "2025-03-31T12:00",
            ["30 03:00 +0200", "31 02:30 +0200"],
        ),
        (
            BERLIN,
            "30 2 * * *",
            "2025-10-25T12:00",
            "2025-10-27T12:00",
            ["26 02:30 +0200", "27 02:30 +0100"],
        ),
        (
            NEW_YORK,
            "15 2 * * *",
            "2025-03-08T12:00",
            "2025-03-10T12:00",
            ["09 03:00 -0400", "10 02:20 -0400"],
        ),
        (
            NEW_YORK,
            "15 1 * * *",
            "2025-11-01T12:00",
            "2025-11-03T12:00",
            ["02 01:20 -0400", "03 01:20 -0500"],
        ),
        (
            LORD_HOWE,
            "10 2 * * *",
            "2025-10-04T12:00",
            "2025-10-06T12:00",
            ["05 02:30 +1100", "06 02:10 +1100"],
        ),
        (
            LORD_HOWE,
            "40 1 * * *",
            "2025-04-05T12:00",
            "2025-04-07T12:00",
            ["06 01:40 +1100", "07 01:40 +1030"],
        ),
    ],
)
def test_an_hour_that_daylight_saving_skips_or_doubles_runs_once(zone, cron, start, end, expected):
    assert runs(cron, start, end, zone) == expected


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        (BERLIN, "2025-03-27"),
        (BERLIN, "2025-10-23"),
        (NEW_YORK, "2025-03-06"),
        (NEW_YORK, "2025-10-30"),
        (LORD_HOWE, "2025-04-03"),
        (LORD_HOWE, "2025-10-02"),
    ],
)
@pytest.mark.parametrize("cron", ["30 2 * * *", "45 1 * * *"])
def test_around_each_change_of_the_clocks_every_day_runs_exactly_once(zone, day, cron):
    start = f"{day}T12:00"
    end = (at(start) + datetime.timedelta(days=6)).strftime("%Y-%m-%dT%H:%M")
    assert len(runs(cron, start, end, zone, step=30)) == 6


def test_an_hourly_cron_runs_once_for_every_hour_the_clock_shows_first():
    spring = runs("0 * * * *", "2025-03-30T00:30", "2025-03-30T05:30", BERLIN)
    assert spring == ["30 01:00 +0100", "30 03:00 +0200", "30 04:00 +0200", "30 05:00 +0200"]
    autumn = runs("0 * * * *", "2025-10-26T00:30", "2025-10-26T04:30", BERLIN)
    assert autumn == ["26 01:00 +0200", "26 02:00 +0200", "26 03:00 +0100", "26 04:00 +0100"]


def test_the_tick_within_the_doubled_hour_finds_nothing_new():
    served = at("2025-10-26T02:30", BERLIN).astimezone(UTC)
    again = at("2025-10-26T02:30", BERLIN).replace(fold=1)
    assert not amanda_due.due("30 2 * * *", served, again).run
    before = again.replace(minute=5)
    decision = amanda_due.due("30 2 * * *", at("2025-10-25T00:30"), before)
    assert decision.run, "the first showing of 02:30 has passed and was missed"
    assert decision.served == served


def test_a_machine_that_changes_its_zone_neither_repeats_nor_stops():
    served = at("2025-06-01T01:00", BERLIN).astimezone(UTC)
    assert not amanda_due.due(DAILY, served, at("2025-06-01T00:30", NEW_YORK)).run
    assert amanda_due.due(DAILY, served, at("2025-06-01T01:00", NEW_YORK)).run


def test_splay_is_the_same_for_one_server_and_config_and_spreads_them():
    splay = 3600
    offsets = {amanda_due.offset(splay, f"server{number} daily") for number in range(200)}
    assert amanda_due.offset(splay, "server1 daily") == amanda_due.offset(splay, "server1 daily")
    assert min(offsets) >= 0
    assert max(offsets) <= splay
    assert len(offsets) > 150
    assert amanda_due.offset(0, "server1 daily") == 0


def test_splay_delays_the_run_by_its_offset_to_the_second():
    late = datetime.timedelta(seconds=amanda_due.offset(3600, "s"))
    planned = at("2025-03-05T01:00") + late
    last = at("2025-03-04T01:00")
    early = planned - datetime.timedelta(seconds=1)
    assert not amanda_due.due(DAILY, last, early, 3600, "s").run
    assert amanda_due.due(DAILY, last, early, 3600, "s").planned == planned
    decision = amanda_due.due(DAILY, last, planned, 3600, "s")
    assert decision.run
    assert decision.served == at("2025-03-05T01:00")


def test_splay_near_the_length_of_the_period_loses_no_run():
    started = runs("0 * * * *", "2025-03-05T00:05", "2025-03-06T00:04", UTC, splay=7200)
    assert len(started) in (22, 23, 24)


@pytest.mark.parametrize("cron", ["", "* * * *", "61 * * * *", "a b c d e", "* * * * * *"])
def test_a_cron_that_cant_be_read_is_an_error_that_quotes_it(cron):
    with pytest.raises(ArgumentError) as raised:
        amanda_due.due(cron, None, at("2025-03-05T01:00"))
    assert repr(cron) in str(raised.value)


def test_a_cron_that_never_comes_is_an_error():
    with pytest.raises(ArgumentError, match="never comes"):
        amanda_due.due("0 0 31 2 *", None, at("2025-03-05T01:00"))


def test_the_first_look_records_when_the_config_was_set_up(tmp_path):
    path = tmp_path / "due.json"
    first = amanda_due.look("daily", DAILY, 0, "s", at("2025-03-04T14:00"), path)
    assert not first.run
    assert amanda_due.read(path) == {"daily": at("2025-03-04T01:00")}
    assert amanda_due.look("daily", DAILY, 0, "s", at("2025-03-05T01:02"), path).run


def test_two_configs_of_one_server_are_spread(tmp_path):
    looks = [
        amanda_due.look(
            config, DAILY, 3600, "server1", at("2025-03-04T14:00"), tmp_path / "due.json"
        )
        for config in ("daily", "archive")
    ]
    assert looks[0].planned != looks[1].planned


def test_a_run_that_was_not_started_stays_due_and_a_recorded_one_does_not(tmp_path):
    path = tmp_path / "due.json"
    amanda_due.record("daily", at("2025-03-04T01:00"), path)
    amanda_due.record("weekly", at("2025-03-02T01:00"), path)
    now = at("2025-03-05T01:02")
    decision = amanda_due.look("daily", DAILY, 0, "s", now, path)
    assert decision == amanda_due.look("daily", DAILY, 0, "s", now, path)
    amanda_due.record("daily", decision.served, path)
    assert not amanda_due.look("daily", DAILY, 0, "s", now, path).run
    assert amanda_due.read(path)["weekly"] == at("2025-03-02T01:00")


def test_a_record_put_right_is_remembered(tmp_path):
    path = tmp_path / "due.json"
    amanda_due.record("daily", at("2038-01-01T01:00"), path)
    assert amanda_due.look("daily", DAILY, 0, "s", at("2025-03-04T12:00"), path).remark
    second = amanda_due.look("daily", DAILY, 0, "s", at("2025-03-04T12:10"), path)
    assert second.remark is None
    assert not second.run


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"served": []}',
        b'{"served": {"daily": 5}}',
        b'{"served": {"daily": "2025-03-04T01:00:00"}}',
        b"\xff\x00",
    ],
)
def test_a_damaged_record_runs_once_and_says_so(tmp_path, content):
    path = tmp_path / "due.json"
    path.write_bytes(content)
    with pytest.raises(ParseError):
        amanda_due.read(path)
    now = at("2025-03-04T14:00")
    decision = amanda_due.look("daily", DAILY, 0, "s", now, path)
    assert decision.run
    assert str(path) in decision.remark
    assert "running once" in decision.remark
    amanda_due.record("daily", decision.served, path)
    assert not amanda_due.look("daily", DAILY, 0, "s", now, path).run


def test_the_record_is_json_that_only_its_owner_reads(tmp_path):
    path = tmp_path / "due.json"
    amanda_due.record("daily", at("2025-03-04T02:00", BERLIN), path)
    assert json.loads(path.read_text()) == {"served": {"daily": "2025-03-04T01:00:00+00:00"}}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [name.name for name in tmp_path.iterdir()] == ["due.json"]


def test_the_local_zone_knows_its_rules_and_is_utc_without_a_file(tmp_path):
    assert amanda_due.local_zone(tmp_path / "missing") is UTC
    zone = amanda_due.local_zone()
    now = datetime.datetime.now(zone)
    assert now.utcoffset() == datetime.datetime.now().astimezone().utcoffset()


@pytest.mark.parametrize(
    ("cron", "hours"),
    [("0 1 * * *", 24), ("0 1 * * 1-5", 72), ("0 */6 * * *", 6), ("0 1 1 * *", 31 * 24)],
)
def test_the_longest_time_between_two_runs_is_that_of_the_weekend_or_the_longest_month(cron, hours):
    found = amanda_due.interval(cron, at("2026-11-24 12:00"))
    assert found == datetime.timedelta(hours=hours)


@pytest.mark.parametrize("day", range(23, 30))
@pytest.mark.parametrize(
    ("cron", "hours"),
    [("0 * * * 1-5", 49), ("*/5 8-17 * * 1-5", 62 + 1 / 6), ("* * * * *", 1 / 6)],
)
def test_a_weekend_between_many_runs_a_day_counts_whatever_day_it_is(cron, hours, day):
    found = amanda_due.interval(cron, at(f"2026-11-{day} 12:30"))
    assert found == datetime.timedelta(hours=hours)


def test_while_the_first_run_after_a_long_pause_goes_on_the_pause_still_counts():
    found = amanda_due.interval("0 1 * 1-6 *", at("2026-01-01 01:30"))
    assert found == datetime.timedelta(days=185)


def test_a_day_of_25_hours_is_between_two_daily_runs():
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    found = amanda_due.interval("0 1 * * *", at("2026-10-20 12:00", berlin))
    assert found == datetime.timedelta(hours=25)
