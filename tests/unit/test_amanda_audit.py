"""What an audit finds in what the master knows; what minions say may be anything."""

import copy
import dataclasses
import datetime

import amanda_audit
import amanda_findings
import pytest
from amanda_audit import Known

NOW = datetime.datetime(2026, 11, 24, 12, tzinfo=datetime.timezone.utc)
SERVER = "backup-server"
DAY = 86400


def ago(**span):
    return (NOW - datetime.timedelta(**span)).isoformat(timespec="seconds")


def good():
    """Return what the master knows of a fleet in which all is well."""
    config = {
        "backup": {
            "state": "finished",
            "success": True,
            "steps": [{"step": "dump", "success": True}],
        },
        "drill": {"passed": ago(days=6), "last": {"at": ago(days=6), "success": True}},
        "promise": {"backup": 2 * DAY, "mirror": 2 * DAY, "drill": 35 * DAY, "space": 14 * DAY},
        "sealed": {"method": "age", "offsite": 1, "others": {"count": 0, "names": []}},
        "refused": [],
        "mirror": {"made": ago(hours=11), "success": True, "message": ""},
        "holding": 0,
        "bad": {"count": 0, "names": []},
        "unverified": {"count": 0, "names": []},
        "space": {"free": 10**12, "seconds": None},
        "dles": [
            ["web1", "/etc", ago(hours=11), 1, None, None, None],
            ["web1", "/home", ago(hours=11), 0, None, None, None],
            [SERVER, "/etc", ago(hours=11), 1, None, None, None],
        ],
    }
    summary = {"version": 3, "time": ago(minutes=5), "pillar": None, "configs": {"daily": config}}
    return Known(
        minions=(SERVER, "web1"),
        pillars={
            SERVER: {"server": SERVER, "directories": {"/etc": None}},
            "web1": {"server": SERVER},
        },
        published={SERVER: ["/etc"], "web1": ["/etc", "/home"]},
        summaries={SERVER: summary},
    )


def counted(*names):
    return {"count": len(names), "names": list(names)}


def daily(known):
    return known.summaries[SERVER]["configs"]["daily"]


def found(known, **options):
    """Return severity, kind and the rest of each finding, the worst first."""
    return amanda_audit.audit(known, NOW, **options)


def only(known):
    (finding,) = found(known)
    return finding


def kinds(known):
    return [(each["severity"], each["kind"]) for each in found(known)]


def test_where_all_is_well_nothing_is_found():
    assert found(good()) == []
    assert amanda_findings.outcome([]) == {
        "status": "OK",
        "retcode": 0,
        "message": "OK: all is backed up",
        "findings": [],
    }


# --- who is not covered ---


def test_a_minion_without_a_pillar_is_not_covered():
    known = good()
    known = Known(("db1", *known.minions), known.pillars, known.published, known.summaries)
    finding = only(known)
    assert (finding["severity"], finding["kind"], finding["minion"]) == (
        "warning",
        "uncovered",
        "db1",
    )


def test_a_minion_that_is_left_out_on_purpose_is_no_finding():
    known = good()
    known.pillars["web1"]["directories"] = {}
    known.published.pop("web1")
    assert found(known) == []


def test_a_minion_that_never_published_is_critical():
    known = good()
    known.published.pop("web1")
    assert only(known)["remedy"] == "salt web1 state.apply backup"


def test_a_directory_that_is_published_but_in_no_backup_is_critical():
    known = good()
    known.published["web1"].append("/srv/wiki")
    finding = only(known)
    assert (finding["severity"], finding["path"]) == ("critical", "/srv/wiki")


def test_a_directory_of_the_pillar_that_was_never_applied_is_a_warning():
    known = good()
    known.pillars["web1"]["directories"] = {"/etc": None, "/home": None, "/srv": None}
    finding = only(known)
    assert (finding["severity"], finding["path"]) == ("warning", "/srv")
    assert finding["remedy"] == "salt web1 state.apply backup"


def test_what_is_retired_is_no_finding_though_it_is_published_and_old():
    known = good()
    daily(known)["dles"][0] = ["web1", "/etc", ago(days=90), 0, ago(days=80), "gone", ago(days=80)]
    assert found(known) == []


def test_no_server_in_any_pillar_is_critical():
    known = Known(("web1",), {}, {}, {})
    assert kinds(known) == [("critical", "no-server")]


def test_a_server_that_is_no_minion_is_critical():
    known = good()
    known = Known(("web1",), known.pillars, known.published, known.summaries)
    assert kinds(known) == [("critical", "no-server")]


# --- the server ---


@pytest.mark.parametrize(
    ("age", "severity"),
    [({"hours": 2}, None), ({"hours": 4}, "warning"), ({"days": 2}, "critical")],
)
def test_a_silent_server_is_a_finding_with_the_age_of_its_last_word(age, severity):
    known = good()
    known.summaries[SERVER]["time"] = ago(**age)
    assert [each[0] for each in kinds(known)] == ([severity] if severity else [])


def test_a_server_that_never_said_anything_is_critical():
    known = good()
    known.summaries.clear()
    assert kinds(known) == [("critical", "silent")]


def test_a_server_whose_clock_is_ahead_is_critical():
    known = good()
    known.summaries[SERVER]["time"] = ago(days=-1)
    assert kinds(known) == [("critical", "clock")]


def test_a_broken_pillar_is_critical():
    known = good()
    known.summaries[SERVER]["pillar"] = "pillar backup:colour: unknown key"
    assert "unknown key" in only(known)["message"]


# --- backups ---


def test_a_directory_without_a_good_dump_is_critical_and_says_why():
    known = good()
    daily(known)["dles"][0] = ["web1", "/etc", None, None, None, "web1 does not answer", None]
    finding = only(known)
    assert (finding["severity"], finding["kind"]) == ("critical", "never")
    assert "web1 does not answer" in finding["message"]


@pytest.mark.parametrize(("hours", "stale"), [(47, False), (49, True)])
def test_a_dump_that_is_older_than_the_promise_is_critical(hours, stale):
    known = good()
    daily(known)["dles"][0][2] = ago(hours=hours)
    assert kinds(known) == ([("critical", "stale")] if stale else [])


def test_where_nothing_is_promised_nothing_is_stale():
    known = good()
    daily(known)["promise"]["backup"] = None
    daily(known)["dles"][0][2] = ago(days=400)
    assert found(known) == []


def test_a_dump_that_failed_while_the_one_before_is_fresh_is_a_warning():
    known = good()
    daily(known)["dles"][0][5] = "its disk is full"
    daily(known)["backup"]["steps"][0].update(success=False, message="2 of 3")
    assert kinds(known) == [("warning", "failed")]  # and not a second time as the step's failure


def test_a_step_that_failed_is_a_warning():
    known = good()
    daily(known)["backup"]["steps"].append({"step": "verify", "success": False, "message": "a bit"})
    assert "verify failed: a bit" in only(known)["message"]


def test_what_vanished_and_is_not_retired_is_a_warning_with_both_remedies():
    known = good()
    daily(known)["dles"][0][4] = ago(days=3)
    assert "amanda.retire web1 /etc" in only(known)["remedy"]


def test_bad_dumps_holding_and_disks_that_fill_up_are_found():
    known = good()
    daily(known).update(
        bad=counted("web1 /etc of then"), holding=2, space={"free": 7, "seconds": 3 * DAY}
    )
    assert kinds(known) == [("critical", "bad"), ("warning", "holding"), ("warning", "space")]


@pytest.mark.parametrize("made", [None, ago(days=3)])
def test_a_mirror_that_is_behind_is_critical_and_says_why(made):
    known = good()
    daily(known)["mirror"] = {"made": made, "success": False, "message": "not mounted"}
    finding = only(known)
    assert finding["severity"] == "critical" and "not mounted" in finding["message"]


def test_where_no_mirror_is_asked_for_none_is_missed_and_a_drill_is_of_the_tapes():
    known = good()
    daily(known)["mirror"] = None
    assert found(known) == []
    daily(known)["drill"] = {"passed": None, "last": None}
    assert only(known)["remedy"].endswith("amanda.drill config=daily source=tapes")


def test_a_mirror_that_is_fresh_but_whose_last_try_failed_is_a_warning_once():
    known = good()
    daily(known)["mirror"].update(success=False, message="not mounted")
    step = {"step": "mirror", "success": False, "message": "not mounted"}
    daily(known)["backup"]["steps"].append(step)
    assert kinds(known) == [("warning", "mirror")]


@pytest.mark.parametrize("what", ["dump", "mirror", "drill"])
def test_what_bears_a_time_that_is_yet_to_come_is_not_believed(what):
    known = good()
    if what == "dump":
        daily(known)["dles"][0][2] = ago(days=-3650)
    elif what == "mirror":
        daily(known)["mirror"]["made"] = ago(days=-1)
    else:
        daily(known)["drill"]["passed"] = ago(days=-1)
    assert "20" in only(known)["message"]


def test_what_a_collection_refused_is_a_warning_about_who_published_it():
    known = good()
    daily(known)["refused"] = [["web1", "/x", "directory /x of web1: no"], ["db1", None, "cloned"]]
    told = {(each["kind"], each["minion"], each["path"]) for each in found(known)}
    assert told == {("refused", "web1", "/x"), ("refused", "db1", None)}


def test_dumps_that_nobody_verified_are_found():
    known = good()
    daily(known)["unverified"] = counted("web1 /etc of then")
    assert only(known)["remedy"] == "salt backup-server amanda.verify daily"


@pytest.mark.parametrize(
    ("drill", "severity"),
    [
        ({"passed": None, "last": None}, "warning"),
        ({"passed": ago(days=36), "last": {"success": True}}, "warning"),
        ({"passed": ago(days=3), "last": {"success": False, "message": "bits"}}, "critical"),
        ({"problem": "damaged"}, "warning"),
    ],
)
def test_a_drill_that_is_overdue_or_failed_is_found(drill, severity):
    known = good()
    daily(known)["drill"] = drill
    assert kinds(known) == [(severity, "drill")]


def test_dumps_that_no_offsite_key_opens_are_found():
    known = good()
    daily(known)["sealed"]["offsite"] = 0
    assert kinds(known) == [("warning", "offsite")]
    daily(known)["sealed"] = {"method": "age", "offsite": 2, "others": counted("web1 /etc")}
    assert "not yet all of web1 /etc" in only(known)["message"]


# --- what is mounted below a directory ---


def test_a_file_system_that_a_dump_leaves_out_is_a_warning_with_three_remedies():
    known = good()
    known.mounts["web1"] = {
        "left_out": [{"directory": "/home", "mount": "/home/ada", "type": "xfs"}]
    }
    finding = only(known)
    assert (finding["kind"], finding["path"]) == ("left-out", "/home/ada")
    assert "mounts: include" in finding["remedy"]


@pytest.mark.parametrize("garbage", [None, 7, {}, {"left_out": 7}, {"left_out": [[]]}])
def test_garbage_where_the_mounts_belong_is_no_finding(garbage):
    known = good()
    known.mounts["web1"] = garbage
    assert found(known) == []


# --- what strangers say ---


def test_a_pillar_that_can_not_be_rendered_is_told_instead_of_a_minion_not_covered():
    known = good()
    pillars = {**known.pillars, "web1": None}
    known = dataclasses.replace(known, pillars=pillars, broken={"web1": "SLS 'x' failed"})
    assert kinds(known) == [("critical", "pillar")]


def test_garbage_in_the_place_of_a_summary_is_told_beside_what_the_last_readable_one_says():
    known = dataclasses.replace(good(), unreadable=frozenset([SERVER]))
    assert kinds(known) == [("critical", "unreadable")]
    daily(known)["holding"] = 1
    assert kinds(known) == [("critical", "unreadable"), ("warning", "holding")]
    assert not amanda_audit.is_readable({"time": "now", "configs": {}})


def test_a_hostile_server_or_client_can_not_make_findings_without_end():
    known = good()
    daily(known)["dles"] = [
        ["web1", f"/{number}", None, 0, None, None, None] for number in range(10**5)
    ]
    known.published["web1"] = [f"/x{number}" for number in range(10**5)]
    known.summaries[SERVER]["configs"].update({str(number): {} for number in range(10**4)})
    assert len(found(known)) < 15_000


def paths(value, at=()):
    """Yield the place of each value in nested data."""
    yield at
    if isinstance(value, dict):
        for name in value:
            yield from paths(value[name], (*at, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from paths(item, (*at, number))


@pytest.mark.parametrize(
    "garbage", [None, 7, "text", [], {}, [[]], {"x": 1}, "\x1b[2J", float("nan")]
)
def test_whatever_stands_anywhere_in_a_summary_an_audit_ends_with_findings(garbage):
    """What a server says of itself may lack anything; it is never an exception."""
    whole = good()
    for at in paths(whole.summaries[SERVER]):
        known = copy.deepcopy(whole)
        target = known.summaries
        for step in (SERVER, *at)[:-1]:
            target = target[step]
        target[(SERVER, *at)[-1]] = garbage
        if not amanda_audit.is_readable(known.summaries[SERVER]):
            continue  # the master keeps none of these
        for finding in amanda_audit.audit(known, NOW):
            assert "\x1b" not in "".join(map(str, finding.values()))


@pytest.mark.parametrize("name", ["daily; reboot", "-rf", "", 7])
def test_a_config_that_could_be_more_than_a_name_is_in_no_command(name):
    known = good()
    configs = known.summaries[SERVER]["configs"]
    configs[name] = {**configs["daily"], "holding": 3}
    assert all("reboot" not in each["remedy"] for each in found(known))
    assert (("critical", "unreadable") in kinds(known)) == (name != 7)


def test_a_path_in_a_command_that_somebody_is_to_type_is_quoted():
    known = good()
    path = "/srv/$(reboot); x"
    daily(known)["dles"].append(["web1", path, ago(hours=1), 0, ago(days=3), None, None])
    assert f"amanda.retire web1 '{path}'" in only(known)["remedy"]


def test_a_summary_that_names_not_all_directories_makes_no_false_alarm_of_those_left_out():
    known = good()
    daily(known)["dles"].pop(0)
    daily(known)["dles_omitted"] = 1
    assert found(known) == []


# --- what it comes to ---


def test_the_worst_comes_first_and_decides_the_exit_status():
    known = good()
    daily(known)["holding"] = 1
    assert amanda_findings.outcome(found(known))["retcode"] == 1
    daily(known)["dles"][0][2] = ago(days=9)
    outcome = amanda_findings.outcome(found(known))
    assert (outcome["retcode"], outcome["status"]) == (2, "CRITICAL")
    assert outcome["message"].startswith(
        "CRITICAL: 2 findings, the worst: the last good dump of /etc"
    )
    assert outcome["findings"][0].endswith("Remedy: salt backup-server amanda.report")


def test_a_finding_is_news_when_it_comes_goes_or_gets_worse_and_not_when_it_only_gets_older():
    def audited(**age):
        known = good()
        known.summaries[SERVER]["time"] = ago(**age)
        return {amanda_findings.key(each): each for each in found(known)}

    def told(old, new):
        return [(what, each["severity"]) for what, each in amanda_findings.changes(old, new)]

    assert told({}, audited(hours=4)) == [("found", "warning")]
    assert told(audited(hours=4), audited(hours=5)) == []
    assert told(audited(hours=5), audited(days=2)) == [("found", "critical")]
    assert told(audited(days=2), audited(hours=1)) == [("gone", "critical")]


def test_one_server_alone_can_be_audited():
    known = good()
    known.pillars["db1"] = {"server": "other"}
    known = Known(("db1", *known.minions), known.pillars, known.published, known.summaries)
    assert found(known, server=SERVER) == []
    assert {each["server"] for each in found(known)} == {"other"}
