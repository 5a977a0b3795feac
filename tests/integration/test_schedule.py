"""Salt's scheduler runs the dumps: one job, and a time kept on disk.

Clock changes and daylight saving are in tests/unit/test_amanda_due.py and, by shifted clocks, in
tests/functional/test_due.py.
"""

import contextlib
import datetime
import json

import pytest

from tests.integration import backups, fleet, leaks
from tests.integration.backups import SERVER, good, steps, until

DUE = "/var/lib/salt-amanda/due.json"


@pytest.fixture(scope="module")
def daily(fleet, module_pillar):
    """Give the fleet whose cron has an hour that doesn't come while the tests run."""
    hour = (datetime.datetime.now(datetime.timezone.utc).hour + 20) % 24
    settings = {"configs": {"daily": {"cron": f"30 {hour} * * *"}}}
    with backups.backup_pillar(fleet, module_pillar, settings):
        yield fleet


def served(bed):
    """Return the cron time that is recorded as served last."""
    return datetime.datetime.fromisoformat(json.loads(bed.read(SERVER, DUE))["served"]["daily"])


def miss(bed, days):
    """Write the record of a server that was last there so many days ago; returns what it was."""
    was = served(bed)
    old = (was - datetime.timedelta(days=days)).isoformat(timespec="seconds")
    bed.write(SERVER, DUE, json.dumps({"served": {"daily": old}}).encode(), 0o600)
    return was


def looks(bed):
    """Return the ids of the jobs that called amanda.run_due and have come to their end."""
    argv = ["salt-run", "--out=json", "jobs.list_jobs", "search_function=amanda.run_due"]
    return set(json.loads(bed.run("master", argv).stdout))


def test_the_job_is_there_after_apply_runs_at_start_and_every_ten_minutes(daily):
    jobs = daily.salt(SERVER, "schedule.list", show_all=True, return_yaml=False)[SERVER]
    job = jobs["amanda.run_due"]
    assert (job["function"], job["minutes"], job["run_on_start"]) == ("amanda.run_due", 10, True)
    assert job["enabled"] and job["maxrunning"] == 1
    assert "amanda.run_due" in daily.read(SERVER, "/etc/salt/minion.d/_schedule.conf").decode()


def test_only_the_server_has_the_job(daily):
    jobs = daily.salt("web1,db1", "schedule.list", show_all=True, return_yaml=False)
    assert not [name for name, has in jobs.items() if "amanda.run_due" in has]


def test_salts_own_scheduler_starts_it(daily):
    """The job as it stands, at an interval that a test can wait for."""
    daily.salt(SERVER, "amanda.run_due")
    was, before = miss(daily, 1), backups.results(daily)
    often = ["schedule.modify", "amanda.run_due", "function=amanda.run_due", "seconds=3"]
    daily.run("master", ["salt", SERVER, *often])
    try:
        until(lambda: backups.results(daily) != before, "a run started by the scheduler", 30)
    finally:
        fleet.apply(daily, SERVER)
        backups.wait_for_end(daily)
    good(backups.newest_result(daily))
    assert len(backups.results(daily)) == len(before) + 1
    assert served(daily) == was
    jobs = daily.salt(SERVER, "schedule.list", show_all=True, return_yaml=False)[SERVER]
    assert jobs["amanda.run_due"].get("minutes") == 10
    assert "seconds" not in jobs["amanda.run_due"]


def test_nothing_is_run_before_its_time(daily):
    daily.salt(SERVER, "amanda.run_due")
    before = backups.results(daily)
    assert daily.salt(SERVER, "amanda.run_due")[SERVER] == {}
    assert backups.results(daily) == before


def test_one_run_makes_up_for_all_that_were_missed(daily):
    was, before = miss(daily, 5), backups.results(daily)
    answer = daily.salt(SERVER, "amanda.run_due")[SERVER]
    (result,) = answer["runs"]
    good(result)
    assert "this run makes up for all that were missed" in result["remark"]
    assert (result["action"], result["config"]) == ("backup", "daily")
    assert set(backups.results(daily)) - set(before) == {f"daily-{result['id']}.json"}
    assert served(daily) == was
    assert daily.salt(SERVER, "amanda.run_due")[SERVER] == {}


def test_a_time_that_passed_while_the_minion_was_down_is_made_up_for_at_its_start_once(daily):
    daily.run(SERVER, ["systemctl", "stop", "salt-minion"])
    was, before = miss(daily, 1), backups.results(daily)
    daily.restart_minion(SERVER)
    until(lambda: backups.results(daily) != before, "a run at the start", 30)
    result = good(backups.wait_for_end(daily))
    earlier = looks(daily)
    daily.restart_minion(SERVER)
    # To its end: it would find what the next test prepares.
    until(lambda: looks(daily) - earlier, "the look at the start", 60)
    assert backups.newest_result(daily)["reported"]
    assert daily.salt(SERVER, "amanda.run_due")[SERVER] == {}
    assert len(backups.results(daily)) == len(before) + 1
    assert list(steps(result)) == ["collect", "cleanup", "canary", "dump", "verify"]
    assert served(daily) == was


def test_a_run_that_is_due_while_another_goes_on_waits_for_its_turn(daily):
    daily.salt(SERVER, "amanda.run_due")
    miss(daily, 1)
    with backups.held_run(daily, "backup"):
        assert daily.salt(SERVER, "amanda.run_due")[SERVER] == {}
    (result,) = daily.salt(SERVER, "amanda.run_due")[SERVER]["runs"]
    good(result)


@contextlib.contextmanager
def added(bed, pillar, name, backup, target, text=None):
    """Add to the pillar for this block, or an SLS of this text, and apply nothing."""
    top = pillar.root / "top.sls"
    good = top.read_text()
    pillar.add(name, backup, target)
    if text:
        (pillar.root / f"{name}.sls").write_text(text)
    pillar.refresh()
    try:
        yield bed
    finally:
        top.write_text(good)
        pillar.refresh()


@pytest.fixture
def broken(daily, module_pillar):
    """Give the fleet whose server gets a pillar with a slip, which then is repaired."""
    with added(daily, module_pillar, "slip", {"colour": "red"}, SERVER):
        yield daily


def test_a_broken_pillar_stops_no_run_that_is_due_and_is_reported_until_it_is_repaired(broken):
    broken.salt(SERVER, "amanda.run_due", check=False)
    was = miss(broken, 1)
    slip = "pillar backup:colour: unknown key"
    with leaks.events(broken):
        done = broken.run("master", ["salt", "--out=json", SERVER, "amanda.run_due"], check=False)
        told = f"salt/amanda/{SERVER}/pillar/failed".encode()
        until(lambda: told in broken.read("master", leaks.EVENTS), "the event", 10)
    answer = json.loads(done.stdout)[SERVER]
    assert answer["pillar"].startswith(slip) and done.returncode
    (result,) = answer["runs"]
    assert slip in steps(good(result))["collect"]["findings"][-1]["message"]
    assert served(broken) == was
    answer = broken.salt(SERVER, "amanda.run_due", check=False)[SERVER]
    assert answer["pillar"].startswith(slip) and "runs" not in answer


def test_a_broken_pillar_keeps_no_file_from_being_found_and_restored(broken):
    assert broken.salt(SERVER, "amanda.status")[SERVER]["pillar"].startswith("pillar backup:colour")
    assert broken.salt(SERVER, "amanda.tapes")[SERVER]
    assert broken.salt(SERVER, "amanda.ls", "web1", "/etc")[SERVER]["count"]
    assert broken.salt(SERVER, "amanda.versions", "web1", "/etc/hostname")[SERVER]
    assert broken.salt(SERVER, "amanda.recover", "web1", "/etc/hostname")[SERVER]["files"] == 1


@pytest.mark.parametrize("function", ["check", "label", "backup", "mirror", "collect"])
def test_what_an_administrator_starts_by_hand_is_refused_while_the_pillar_is_broken(
    broken, function
):
    said = broken.salt(SERVER, f"amanda.{function}", check=False)[SERVER]
    assert "pillar backup:colour: unknown key" in said


@pytest.fixture
def unrendered(daily, module_pillar):
    """Give the fleet of whose pillar one SLS of all minions can't be rendered; then it is gone."""
    with added(daily, module_pillar, "unrendered", {}, "*", "other: {% hunter2 %}"):
        yield daily


def test_a_pillar_that_can_not_be_rendered_is_broken_though_the_rest_looks_complete(unrendered):
    fault = "pillar backup: the master could not render all of this minion's pillar"
    told = unrendered.salt(SERVER, "amanda.run_due", check=False)[SERVER]
    assert told["pillar"].startswith(fault) and "hunter2" not in told["pillar"]
    assert unrendered.salt(SERVER, "amanda.status")[SERVER]["pillar"].startswith(fault)
    assert unrendered.salt(SERVER, "amanda.ls", "web1", "/etc")[SERVER]["count"]
    for minion, function in ((SERVER, "collect"), (SERVER, "backup"), ("web1", "publish")):
        assert fault in unrendered.salt(minion, f"amanda.{function}", check=False)[minion]
    mined = unrendered.salt("web1", "mine.get", "web1", "amanda.directories")["web1"]
    assert "/etc" in mined["web1"]["directories"]  # what it published before stays


def test_until_other_places_in_the_pillar_are_applied_those_of_amanda_conf_are_used(
    daily, module_pillar
):
    fault = "pillar backup:paths: /etc/amanda/daily/amanda.conf still names others"
    moved = {"paths": {"tapes": "/srv/elsewhere"}}
    with added(daily, module_pillar, "moved", moved, SERVER):
        miss(daily, 1)
        told = daily.salt(SERVER, "amanda.run_due", check=False)[SERVER]
        assert told["pillar"].startswith(fault)
        (result,) = told["runs"]
        assert fault in steps(good(result))["collect"]["findings"][-1]["message"]
        assert daily.salt(SERVER, "amanda.ls", "web1", "/etc")[SERVER]["count"]
        assert fault in daily.salt(SERVER, "amanda.backup", check=False)[SERVER]
    assert daily.run(SERVER, ["ls", "/srv/elsewhere"], check=False).returncode
