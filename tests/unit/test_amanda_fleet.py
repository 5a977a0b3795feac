"""The fleet: what strangers publish becomes checked data, and what was there is kept."""

import copy
import datetime
import json
import random

import amanda_collect
import amanda_fleet
import pytest
from amanda_errors import AmandaError, ArgumentError
from amanda_fleet import Fleet

from tests.unit.fleets import (
    LATER,
    directories,
    host_keys,
    key,
    minion_id,
    path,
    pattern,
    settings,
    spoil,
)

SETTINGS = settings(configs={"daily": {}, "weekly": {}})
DAY = datetime.datetime(2026, 1, 20, tzinfo=datetime.timezone.utc)


def collect(paths, keys, previous=None, now=DAY, settings=SETTINGS):
    return amanda_collect.collect(paths, keys, previous or Fleet(), settings, now)


def two(previous=None, **changes):
    """Collect web1 and db1 as they are before anything happens to them."""
    paths = {"web1": directories("/etc", "/home"), "db1": directories("/srv")}
    keys = {"web1": host_keys(1), "db1": host_keys(2)}
    return collect({**paths, **changes.get("paths", {})}, {**keys, **changes.get("keys", {})})[0]


def kinds(findings, minion=None):
    return [each["kind"] for each in findings if minion in (None, each["id"])]


def only(findings, kind):
    found = [each for each in findings if each["kind"] == kind]
    assert len(found) == 1, findings
    return found[0]


def names(fleet):
    return {client.id: [each.path for each in client.directories] for client in fleet.clients}


def test_what_clients_publish_is_collected():
    paths = {
        "web1": directories("/etc", **{"/srv": {"exclude": ["./tmp"], "mounts": "include"}}),
        "db1": directories(**{"/data": {"config": "weekly"}}),
    }
    fleet, findings = collect(paths, {"web1": host_keys(1), "db1": host_keys(2, port=2222)})
    assert findings == []
    assert names(fleet) == {"db1": ["/data"], "web1": ["/etc", "/srv"]}
    assert (fleet.client("db1").address, fleet.client("db1").port) == ("192.0.2.2", 2222)
    assert fleet.client("web1").keys == (key(1),)
    assert fleet.client("web1").directory("/srv").exclude == ("./tmp",)
    assert fleet.client("web1").directory("/srv").mounts
    assert fleet.client("web1").directory("/etc").config == "daily"
    assert fleet.client("db1").directory("/data").config == "weekly"


def test_a_client_publishes_what_its_states_added_over_what_the_pillar_says():
    own = {"/srv": {"exclude": ["./a"]}}
    pillar = {"/etc": None, "/srv": {}}
    assert amanda_fleet.published_directories(own, pillar, DAY, server="backup") == {
        "version": 1,
        "time": "2026-01-20T00:00:00+00:00",
        "server": "backup",
        "directories": {"/etc": {}, "/srv": {"exclude": ["./a"]}},
    }


def test_collecting_the_same_again_gives_an_equal_fleet():
    paths = {"web1": directories("/etc"), "gone": directories("/x")}
    keys = {"web1": host_keys(1), "gone": host_keys(3)}
    fleet = collect(paths, keys)[0]
    del paths["gone"]
    first = collect(paths, keys, fleet)[0]
    later = datetime.datetime(2026, 3, 1, tzinfo=datetime.timezone.utc)
    assert collect(paths, keys, first, later)[0] == first


def test_a_vanished_client_stays_and_is_said_to_be_missing_since_then():
    fleet, findings = collect({"web1": directories("/etc", "/home")}, {}, two())
    assert names(fleet) == {"db1": ["/srv"], "web1": ["/etc", "/home"]}
    gone = fleet.client("db1")
    assert gone.missing == gone.directory("/srv").missing == "2026-01-20T00:00:00+00:00"
    assert gone.keys == (key(2),)
    assert "amanda.retire db1" in only(findings, "missing")["message"]


def test_a_vanished_directory_stays_and_is_said_to_be_missing_until_it_comes_back():
    paths = {"web1": directories("/etc"), "db1": directories("/srv")}
    fleet, findings = collect(paths, {}, two())
    assert fleet.client("web1").directory("/home").missing
    assert fleet.client("web1").missing is None
    assert only(findings, "missing")["path"] == "/home"
    paths["web1"] = directories("/etc", "/home")
    assert collect(paths, {}, fleet)[0] == two()


def test_an_empty_answer_of_the_mine_loses_nothing():
    fleet, findings = collect({}, {}, two())
    assert names(fleet) == names(two())
    assert kinds(findings) == ["missing", "missing"]


@pytest.mark.parametrize("answer", [None, "timeout", [], False])
def test_an_answer_that_is_no_mapping_is_an_error(answer):
    with pytest.raises(AmandaError, match="the master answered"):
        collect(answer, {})


def test_a_changed_key_of_the_same_client_replaces_its_pin_and_is_reported():
    paths = {"web1": directories("/etc", "/home"), "db1": directories("/srv")}
    keys = {"web1": host_keys(7, "192.0.2.1"), "db1": host_keys(2)}
    fleet, findings = collect(paths, keys, two())
    assert fleet.client("web1").keys == (key(7),)
    assert kinds(findings) == ["key-changed"]
    assert collect(paths, keys, fleet)[1] == []


def test_a_changed_address_is_reported():
    keys = {"web1": host_keys(1, "2001:DB8::0:1")}
    fleet, findings = collect({"web1": directories("/etc", "/home")}, keys, two())
    assert fleet.client("web1").address == "2001:db8::1"
    assert "from 192.0.2.1 port 22 to" in only(findings, "address-changed")["message"]


def test_a_newcomer_with_anothers_key_is_refused_and_told_of_cloning():
    paths = {"web1": directories("/etc", "/home"), "evil": directories("/x")}
    keys = {"evil": host_keys(1, "192.0.2.66")}
    fleet, findings = collect(paths, keys, two())
    assert fleet.client("evil") is None
    assert fleet.client("web1").keys == (key(1),)
    claim = only(findings, "claimed")
    assert claim["id"] == "evil" and "cloned" in claim["message"] and "web1" in claim["message"]


def test_a_newcomer_with_anothers_address_is_refused_however_it_is_written():
    for address in ("192.0.2.1", "::ffff:192.0.2.1"):
        paths = {"evil": directories("/x")}
        fleet, findings = collect(paths, {"evil": host_keys(9, address)}, two())
        assert fleet.client("evil") is None
        assert only(findings, "claimed")["id"] == "evil"


def test_of_two_newcomers_with_one_key_both_are_refused():
    paths = {"a": directories("/x"), "b": directories("/x"), "c": directories("/x")}
    keys = {"a": host_keys(5, "192.0.2.1"), "b": host_keys(5, "192.0.2.2"), "c": host_keys(3)}
    fleet, findings = collect(paths, keys)
    assert names(fleet) == {"c": ["/x"]}
    assert sorted(each["id"] for each in findings if each["kind"] == "claimed") == ["a", "b"]
    assert collect(paths, keys, fleet)[0] == fleet


def test_a_known_client_that_claims_anothers_key_keeps_its_own():
    paths = {"web1": directories("/etc", "/home"), "db1": directories("/srv")}
    keys = {"web1": host_keys(1), "db1": host_keys(1, "192.0.2.2")}
    fleet, findings = collect(paths, keys, two())
    assert fleet == two()
    assert "stays in use" in only(findings, "claimed")["message"]


def test_a_vanished_client_keeps_its_key_and_address():
    fleet = collect({"web1": directories("/etc")}, {}, two())[0]
    fleet, findings = collect({"new": directories("/x")}, {"new": host_keys(2)}, fleet)
    assert fleet.client("new") is None
    assert "amanda.retire db1" in only(findings, "claimed")["message"]


def test_two_clients_may_swap_their_addresses():
    keys = {"web1": host_keys(1, "192.0.2.2"), "db1": host_keys(2, "192.0.2.1")}
    fleet = collect({}, keys, two())[0]
    assert fleet.client("web1").address == "192.0.2.2"
    assert fleet.client("db1").address == "192.0.2.1"


def test_who_falls_back_on_his_address_keeps_it_from_the_next():
    keys = {
        "web1": host_keys(2, "192.0.2.1"),
        "db1": host_keys(2),
        "new": host_keys(3, "192.0.2.1"),
    }
    keys["web1"]["address"] = "192.0.2.50"
    fleet, findings = collect({"new": directories("/x")}, keys, two())
    assert fleet.client("web1").address == "192.0.2.1"
    assert fleet.client("new") is None
    assert sorted(each["id"] for each in findings if each["kind"] == "claimed") == ["new", "web1"]


def test_the_server_alone_may_be_at_a_loopback_address():
    paths = {"server": directories("/etc"), "web1": directories("/etc")}
    keys = {"server": host_keys(1, "127.0.0.1"), "web1": host_keys(2, "127.0.0.2")}
    fleet, findings = collect(paths, keys)
    assert names(fleet) == {"server": ["/etc"]}
    assert kinds(findings, "web1") == ["refused", "incomplete"]


@pytest.mark.parametrize(
    "address",
    ["localhost", "a.localhost", "127.1", "0x7f000001", "::1", "0.0.0.0", "fe80::1%eth0"]
    + ["2001:db8::1%eth0"]
    + ["-oProxyCommand=id", "a b", "a\nb", "192.0.2.1\n", "*", "", "x" * 300, None, 7, ["a"]],
)
def test_an_address_that_leads_elsewhere_is_refused(address):
    keys = {"web1": {**host_keys(1), "address": address}}
    fleet, findings = collect({"web1": directories("/x")}, keys)
    assert fleet == Fleet()
    assert "host keys of web1" in only(findings, "refused")["message"]


def test_a_host_name_is_an_address_in_lower_case():
    keys = {"web1": host_keys(1, "Web-1.Example.COM.")}
    fleet, findings = collect({"web1": directories("/x")}, keys)
    assert fleet.client("web1").address == "web-1.example.com" and findings == []


@pytest.mark.parametrize(
    "bad",
    [
        {"port": 0},
        {"port": True},
        {"port": "22"},
        {"port": 65536},
        {"keys": []},
        {"keys": [key(1)] * 9},
        {"keys": "ssh-ed25519 AAAA"},
        {"keys": ["ssh-ed25519 AAAA"]},
        {"version": 2},
        {"version": True},
        {"time": "yesterday"},
        {"time": "2026-01-10T00:00:00"},
        {"more": 1},
    ],
)
def test_host_keys_of_no_known_form_are_refused_and_the_old_ones_stay(bad):
    keys = {"web1": {**host_keys(1), **bad}, "db1": host_keys(2)}
    paths = {"web1": directories("/etc", "/home"), "db1": directories("/srv")}
    fleet, findings = collect(paths, keys, two())
    assert fleet == two()
    assert kinds(findings) == ["refused"]


def test_a_client_that_publishes_one_half_only_is_reported_and_not_backed_up():
    fleet, findings = collect({"a": directories("/x")}, {"b": host_keys(1)})
    assert fleet == Fleet()
    assert kinds(findings) == ["incomplete", "incomplete"]


@pytest.mark.parametrize(
    "bad",
    ["-x", "a b", "a\nb", "", ".a", "a/b", "ä", "\ud800", "a" * 200, 7, None, b"a", ("a",)]
    + ["web2.", "includefile"],
)
def test_an_id_that_could_spoil_the_disklist_is_refused_and_the_others_stay(bad):
    paths = {bad: directories("/x"), "web1": directories("/etc")}
    fleet, findings = collect(paths, {bad: host_keys(9), "web1": host_keys(1)})
    assert names(fleet) == {"web1": ["/etc"]}
    assert "another id" in only(findings, "refused")["message"]


def test_an_id_that_differs_from_a_known_one_by_case_is_refused():
    paths = {"WEB1": directories("/x"), "web1": directories("/etc", "/home")}
    paths["db1"] = directories("/srv")
    fleet, findings = collect(paths, {"WEB1": host_keys(9)}, two())
    assert fleet == two()
    assert "differs only by case from web1" in only(findings, "refused")["message"]
    assert kinds(findings) == ["refused"]


def test_of_two_new_ids_that_differ_by_case_both_are_refused():
    paths = {"Web": directories("/x"), "web": directories("/x")}
    fleet, findings = collect(paths, {"Web": host_keys(1), "web": host_keys(2)})
    assert fleet == Fleet()
    assert kinds(findings) == ["refused", "refused"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("etc", "absolute"),
        ("/a/../b", "without"),
        ("/a/", "without"),
        ("//a", "without"),
        ("/a\nb", "unprintable"),
        ("/a\ud800", "unprintable"),
        ("/a\u202eb", "RIGHT-TO-LEFT OVERRIDE"),
        ("/a#b", "gives up the whole run"),
        ('/a"b', "quotes"),
        ("/a\\b", "escapes"),
        ("/" + "x" * 200, "longer than 200"),
        ("/a b ", "ends in a blank"),
        (7, "absolute"),
        (None, "absolute"),
        (b"/etc", "absolute"),
    ],
)
def test_a_directory_that_amanda_would_trip_over_is_refused_and_the_others_stay(bad, why):
    published = {**directories("/etc"), "directories": {bad: {}, "/etc": {}}}
    fleet, findings = collect({"web1": published}, {"web1": host_keys(1)})
    assert names(fleet) == {"web1": ["/etc"]}
    assert why in only(findings, "refused")["message"]


def test_a_path_that_ends_in_a_blank_and_was_taken_in_once_is_kept_to_be_retired():
    data = amanda_fleet.to_json(two())
    own = data["clients"]["web1"]["directories"]
    own["/a "] = own.pop("/home")
    paths = {"web1": directories("/a ", "/etc"), "db1": directories("/srv")}
    fleet, findings = collect(paths, {}, amanda_fleet.from_json(data))
    assert fleet.client("web1").directory("/a ").missing
    assert "ends in a blank" in only(findings, "refused")["message"]


def test_two_directories_that_amanda_would_give_one_file_name_are_not_both_taken():
    paths = {"web1": directories("/a/b", "/a_b", "/a:b", "/c")}
    fleet, findings = collect(paths, {"web1": host_keys(1)})
    assert names(fleet) == {"web1": ["/a/b", "/c"]}
    assert kinds(findings) == ["refused", "refused"]
    later = {"web1": directories("/A", "/a_b")}
    assert names(collect(later, {}, fleet)[0]) == {"web1": ["/A", "/a/b", "/c"]}


def test_a_long_id_and_a_long_path_are_refused_where_amandas_file_names_end():
    client, long = "x" * 100, "/" + "y" * 120
    fleet, findings = collect({client: directories(long, "/z")}, {client: host_keys(1)})
    assert names(fleet) == {client: ["/z"]}
    assert "longer than 220" in only(findings, "refused")["message"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"dumptype": "no-encryption"},
            "unknown key 'dumptype'; known are exclude, mounts, config",
        ),
        ({"mounts": True}, "write include"),
        ({"config": "monthly"}, "has no config monthly: choose one of daily, weekly"),
        ({"config": 7}, "no name of a config"),
        ({"exclude": "./tmp"}, "a list of patterns"),
        ({"exclude": [7]}, "a pattern is a text"),
        ({"exclude": ["/tmp"]}, "write ./tmp"),
        ({"exclude": ["./a"] * 101}, "more than 100"),
        ({"exclude": ["./x" * 100]}, "longer than 250"),
        ("include", "a mapping is needed"),
        ({7: 7}, "unknown key"),
    ],
)
def test_an_option_that_is_not_allowed_is_named_and_its_directory_alone_refused(options, why):
    paths = {"web1": directories("/etc", **{"/bad": None})}
    paths["web1"]["directories"]["/bad"] = options
    fleet, findings = collect(paths, {"web1": host_keys(1)})
    assert names(fleet) == {"web1": ["/etc"]}
    assert why in only(findings, "refused")["message"]


def test_a_directory_whose_new_options_are_refused_keeps_its_old_ones():
    old = {"web1": directories(**{"/srv": {"exclude": ["./a"]}})}
    fleet = collect(old, {"web1": host_keys(1)})[0]
    new = {"web1": directories(**{"/srv": {"exclude": ["/b"]}})}
    assert collect(new, {}, fleet)[0] == fleet


def test_directories_of_no_known_form_change_nothing():
    for bad in (None, [], {}, {"version": 1}, {**directories("/x"), "directories": ["/x"]}):
        fleet, findings = collect({"web1": bad, "db1": directories("/srv")}, {}, two())
        assert fleet == two()
        assert "directories of web1" in only(findings, "refused")["message"]


def test_a_client_is_bounded_and_so_is_what_is_said_of_it():
    many = {"web1": directories(*(f"/{number}" for number in range(257)))}
    fleet, findings = collect(many, {"web1": host_keys(1)})
    assert fleet == Fleet() and "256 at most" in only(findings, "refused")["message"]
    bad = {"web1": directories(*(f"bad{number}" for number in range(256)))}
    assert len(collect(bad, {"web1": host_keys(1)})[1]) == 21


def test_a_client_can_not_grow_without_end_by_changing_its_directories():
    fleet = Fleet()
    for turn in range(4):
        paths = {"web1": directories(*(f"/{turn}/{number}" for number in range(100)))}
        fleet, findings = collect(paths, {"web1": host_keys(1)}, fleet)
    assert len(fleet.client("web1").directories) == amanda_collect.DIRECTORIES_LIMIT
    assert kinds(findings).count("limit") == 1


def test_clients_over_the_limit_are_left_out_and_known_ones_stay(monkeypatch):
    monkeypatch.setattr(amanda_collect, "CLIENTS_LIMIT", 3)
    paths = {name: directories("/x") for name in ("a1", "a2", "a3", "web1", "db1")}
    keys = {"a1": host_keys(11), "a2": host_keys(12), "a3": host_keys(13)}
    fleet, findings = collect(paths, keys, two())
    assert [client.id for client in fleet.clients] == ["a1", "db1", "web1"]
    assert only(findings, "limit")["id"] == "a2"


def test_a_directory_that_moves_to_another_config_stays_known_to_the_first():
    fleet = collect({"web1": directories(**{"/srv": {"config": "weekly"}})}, {}, Fleet())[0]
    keys = {"web1": host_keys(1)}
    fleet = collect({"web1": directories("/srv")}, keys)[0]
    fleet = collect({"web1": directories(**{"/srv": {"config": "weekly"}})}, keys, fleet)[0]
    moved = fleet.client("web1").directory("/srv")
    assert (moved.config, moved.former) == ("weekly", ("daily",))
    back = collect({"web1": directories("/srv")}, keys, fleet)[0].client("web1").directory("/srv")
    assert (back.config, back.former) == ("daily", ("weekly",))


def test_a_directory_whose_config_left_the_pillar_is_reported():
    paths = {"web1": directories(**{"/srv": {"config": "weekly"}})}
    fleet = collect(paths, {"web1": host_keys(1)})[0]
    kept, findings = collect(paths, {}, fleet, settings=settings(configs={"daily": {}}))
    assert kept == fleet
    assert kinds(findings) == ["refused", "config"]


def test_mounts_that_the_dumptype_can_not_follow_are_reported():
    paths = {"web1": directories(**{"/srv": {"mounts": "include"}})}
    amcrypt = settings(configs={"daily": {}}, encryption={"method": "amcrypt"})
    _, findings = collect(paths, {"web1": host_keys(1)}, settings=amcrypt)
    assert "without what is mounted" in only(findings, "mounts")["message"]


def test_a_retired_client_stays_retired_while_the_mine_holds_what_it_published_before():
    fleet = amanda_fleet.retire(two(), "db1", now=DAY)
    retired = fleet.client("db1")
    assert retired.retired == retired.directory("/srv").retired == "2026-01-20T00:00:00+00:00"
    assert (retired.address, retired.keys) == (None, ())
    paths = {"web1": directories("/etc", "/home"), "db1": directories("/srv")}
    assert collect(paths, {"db1": host_keys(2)}, fleet) == (fleet, [])


def test_a_retired_client_that_is_still_alive_stays_retired_and_the_remedies_are_told():
    fleet = amanda_fleet.retire(two(), "db1", now=DAY)
    paths = {"web1": directories("/etc", "/home"), "db1": directories("/srv", time=LATER)}
    again, findings = collect(paths, {"db1": host_keys(2, time=LATER)}, fleet)
    assert again == fleet
    message = only(findings, "retired")["message"]
    assert "directories: {}" in message and "amanda.retire db1 undo=True" in message


def test_a_retired_client_leaves_its_key_and_address_to_others():
    fleet = amanda_fleet.retire(two(), "db1", now=DAY)
    fleet = collect({"new": directories("/x")}, {"new": host_keys(2)}, fleet)[0]
    assert fleet.client("new").keys == (key(2),)
    paths = {"new": directories("/x"), "db1": directories("/srv", time=LATER)}
    fleet = amanda_fleet.retire(two(), "db1", now=DAY)
    fleet = collect(paths, {"new": host_keys(2), "db1": host_keys(2, time=LATER)}, fleet)[0]
    assert fleet.client("new").keys == (key(2),) and fleet.client("db1").retired


@pytest.mark.parametrize("first", ["retired", "gone"])
def test_a_retired_client_that_was_gone_and_publishes_again_is_back_and_reported(first):
    fleet = two()
    if first == "gone":
        fleet = collect({"web1": directories("/etc", "/home")}, {}, fleet)[0]
    fleet = amanda_fleet.retire(fleet, "db1", now=DAY)
    if first == "retired":
        fleet, findings = collect({"web1": directories("/etc", "/home")}, {}, fleet)
        assert findings == [] and fleet.client("db1").retired
    paths = {"db1": directories("/srv", time=LATER)}
    day_after = DAY + datetime.timedelta(days=1)
    fleet, findings = collect(paths, {"db1": host_keys(2, time=LATER)}, fleet, day_after)
    back = fleet.client("db1")
    assert (back.retired, back.missing, back.keys) == (None, None, (key(2),))
    assert (back.directory("/srv").retired, back.directory("/srv").missing) == (None, None)
    assert kinds(findings, "db1") == ["returned"]


@pytest.mark.parametrize("path", [None, "/home"])
@pytest.mark.parametrize("first", ["retired", "gap"])
def test_what_was_retired_and_is_still_published_survives_gaps_in_the_mine(path, first):
    published = {
        "web1": directories("/etc", "/home", time=LATER),
        "db1": directories("/srv", time=LATER),
    }
    keys = {"web1": host_keys(1, time=LATER), "db1": host_keys(2, time=LATER)}
    fleet = two() if first == "retired" else collect({}, {}, two())[0]
    fleet = amanda_fleet.retire(fleet, "web1", path, now=DAY)
    wanted = collect(published, keys, amanda_fleet.retire(two(), "web1", path, now=DAY))[0]
    for hours in (0, 23, 46):  # each gap is less than a day
        now = DAY + datetime.timedelta(hours=hours)
        fleet = collect({}, {}, fleet, now)[0]
        fleet = collect({}, {}, fleet, now + datetime.timedelta(hours=1))[0]
        fleet, findings = collect(published, keys, fleet, now + datetime.timedelta(hours=22))
        assert fleet == wanted and kinds(findings, "web1") == ["retired"]


@pytest.mark.parametrize("path", [None, "/home"])
def test_an_undo_in_a_gap_of_the_mine_counts_once_it_is_over(path):
    published = {"web1": directories("/etc", "/home"), "db1": directories("/srv")}
    keys = {"web1": host_keys(1), "db1": host_keys(2)}
    fleet = collect({}, {}, amanda_fleet.retire(two(), "web1", path, now=DAY))[0]
    hour_later = DAY + datetime.timedelta(hours=1)
    fleet = amanda_fleet.unretire(fleet, "web1", path, now=hour_later)
    fleet = collect({}, {}, fleet, hour_later)[0]
    assert collect(published, keys, fleet, hour_later)[0] == two()


def test_a_directory_that_was_taken_out_before_a_gap_in_the_mine_is_back_when_it_is_added():
    fleet = amanda_fleet.retire(two(), "web1", "/home", now=DAY)
    fleet = collect({"web1": directories("/etc", time=LATER)}, {}, fleet)[0]
    hour_later = DAY + datetime.timedelta(hours=1)
    fleet = collect({}, {}, fleet, hour_later)[0]
    paths = {"web1": directories("/etc", "/home", time=LATER)}
    fleet, findings = collect(paths, {}, fleet, hour_later)
    assert fleet.client("web1").directory("/home").retired is None
    assert kinds(findings, "web1") == ["returned"]


def test_a_retired_client_whose_clock_is_fast_is_not_taken_for_alive():
    paths = {"db1": directories("/srv", time=LATER)}
    keys = {"db1": host_keys(2, time=LATER)}
    fleet = amanda_fleet.retire(collect(paths, keys)[0], "db1", now=DAY)
    assert collect(paths, keys, fleet) == (fleet, [])


def test_what_a_retired_client_publishes_is_not_even_read():
    fleet = amanda_fleet.retire(two(), "db1", now=DAY)
    for junk in (None, 7, {"time": 5}, {"time": "soon"}):
        paths = {"web1": directories("/etc", "/home"), "db1": junk}
        assert collect(paths, {"db1": junk}, fleet)[0] == fleet


def test_a_retired_directory_stays_retired_while_it_is_published():
    fleet = amanda_fleet.retire(two(), "web1", "/home", now=DAY)
    paths = {"web1": directories("/etc", "/home"), "db1": directories("/srv")}
    assert collect(paths, {}, fleet) == (fleet, [])
    paths["web1"] = directories("/etc", "/home", time=LATER)
    again, findings = collect(paths, {}, fleet)
    assert again.client("web1").directory("/home") == fleet.client("web1").directory("/home")
    told = only(findings, "retired")
    assert told["path"] == "/home" and "amanda.directory_absent" in told["message"]
    assert "amanda.retire web1 /home undo=True" in told["message"]


def test_a_retired_directory_that_was_taken_out_and_added_again_is_back():
    fleet = amanda_fleet.retire(two(), "web1", "/home", now=DAY)
    paths = {"web1": directories("/etc", time=LATER), "db1": directories("/srv")}
    fleet, findings = collect(paths, {}, fleet)
    assert findings == [] and fleet.client("web1").directory("/home").retired
    paths["web1"] = directories("/etc", "/home", time=LATER)
    fleet, findings = collect(paths, {}, fleet)
    back = fleet.client("web1").directory("/home")
    assert (back.retired, back.missing) == (None, None)
    assert only(findings, "returned")["path"] == "/home"


@pytest.mark.parametrize("path", [None, "/etc"])
def test_what_was_retired_by_mistake_is_back_with_the_next_collection_after_the_undo(path):
    published = {"web1": directories("/etc", "/home"), "db1": directories("/srv")}
    keys = {"web1": host_keys(1), "db1": host_keys(2)}
    fleet = amanda_fleet.retire(two(), "web1", path, now=DAY)
    fleet = collect(published, keys, amanda_fleet.unretire(fleet, "web1", path, now=DAY))[0]
    assert fleet == two()


def test_the_undo_of_a_client_leaves_a_directory_retired_that_was_so_before():
    published = {"web1": directories("/etc", "/home"), "db1": directories("/srv")}
    keys = {"web1": host_keys(1), "db1": host_keys(2)}
    before = amanda_fleet.retire(two(), "web1", "/home", now=DAY)
    later = DAY + datetime.timedelta(hours=1)
    fleet = amanda_fleet.retire(before, "web1", now=later)
    fleet = amanda_fleet.unretire(fleet, "web1", now=later)
    assert collect(published, keys, fleet, later)[0] == before


def test_only_what_is_retired_can_be_taken_back():
    with pytest.raises(ArgumentError, match="web1 is not retired"):
        amanda_fleet.unretire(two(), "web1")
    with pytest.raises(ArgumentError, match="/etc of web1 is not retired"):
        amanda_fleet.unretire(two(), "web1", "/etc")
    fleet = amanda_fleet.retire(two(), "web1")
    with pytest.raises(ArgumentError, match="amanda.retire web1 undo=True"):
        amanda_fleet.unretire(fleet, "web1", "/etc")


def test_a_retired_directory_is_never_said_to_be_missing():
    fleet = amanda_fleet.retire(two(), "web1", "/home", now=DAY)
    paths = {"web1": directories("/etc"), "db1": directories("/srv")}
    assert collect(paths, {}, fleet)[1] == []
    del paths["web1"]
    _, findings = collect(paths, {}, fleet)
    assert "/home" not in str(findings)


def test_directories_that_come_and_go_never_block_a_client_nor_fill_the_fleet():
    fleet = Fleet()
    limit = amanda_collect.DIRECTORIES_LIMIT
    for turn in range(5):
        names = [f"/srv/{turn}/{number}" for number in range(limit)]
        published = {"web1": directories(*names)}
        fleet, findings = collect(published, {"web1": host_keys(1)}, fleet)
        assert findings == []
        now = DAY + datetime.timedelta(days=turn)
        fleet = collect({"web1": directories()}, {"web1": host_keys(1)}, fleet)[0]
        for name in names:
            fleet = amanda_fleet.retire(fleet, "web1", name, now=now)
    kept = collect({"web1": directories()}, {"web1": host_keys(1)}, fleet)[0].client("web1")
    assert len(kept.directories) == amanda_collect.RETIRED_LIMIT
    assert all(each.path.startswith("/srv/4/") for each in kept.directories)


def test_a_retired_directory_that_is_still_published_is_never_forgotten(monkeypatch):
    monkeypatch.setattr(amanda_collect, "RETIRED_LIMIT", 1)
    fleet = two()
    for name in ("/etc", "/home"):
        fleet = amanda_fleet.retire(fleet, "web1", name, now=DAY)
    paths = {"web1": directories("/etc", "/home"), "db1": directories("/srv")}
    assert collect(paths, {}, fleet)[0] == fleet


def test_retiring_what_is_not_there_names_what_is():
    with pytest.raises(ArgumentError, match="Clients: db1, web1"):
        amanda_fleet.retire(two(), "web9")
    with pytest.raises(ArgumentError, match="Directories: /etc, /home"):
        amanda_fleet.retire(two(), "web1", "/nope")


def test_a_stored_fleet_is_read_back_equal(tmp_path):
    file = tmp_path / "fleet.json"
    assert amanda_fleet.load(file) == Fleet()
    fleet = amanda_fleet.retire(two(), "db1", now=DAY)
    fleet = collect({"web1": directories("/etc")}, {}, fleet)[0]
    amanda_fleet.save(fleet, file)
    assert amanda_fleet.load(file) == fleet
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"version":1}', "[" * 100000, "\xff"])
def test_a_damaged_file_is_an_error_that_names_it_and_the_remedy(tmp_path, text):
    file = tmp_path / "fleet.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(AmandaError, match=r"fleet\.json is damaged.*amanda\.collect"):
        amanda_fleet.load(file)


def test_a_stored_fleet_with_a_forged_value_is_refused():
    good = amanda_fleet.to_json(two())
    for where, value in (
        (("clients", "web1", "address"), "-oProxyCommand=id"),
        (("clients", "web1", "address"), "192.0.2.2"),
        (("clients", "web1", "keys"), ["x"]),
        (("clients", "web1", "port"), None),
        (("clients", "web1", "directories", "/etc", "exclude"), ["\n"]),
        (("clients", "web1", "directories", "/etc", "config"), "a/../b"),
        (("clients", "web1", "directories", "/etc", "former"), ["a/../b"]),
        (("clients", "web1", "directories", "/etc", "mounts"), "no"),
        (("clients", "web1", "directories", "/a\nb"), {}),
        (("clients", "a b"), {}),
        (("version",), 2),
    ):
        data = copy.deepcopy(good)
        inner = data
        for step in where[:-1]:
            inner = inner[step]
        inner[where[-1]] = value
        with pytest.raises(AmandaError, match="is damaged"):
            amanda_fleet.from_json(data)


def test_a_difference_names_what_appeared_changed_and_vanished():
    old = two()
    assert amanda_fleet.diff(old, old) == {}
    paths = {"web1": directories("/etc", "/new", time=LATER), "new": directories("/x")}
    new = collect(paths, {"web1": host_keys(1, "192.0.2.9"), "new": host_keys(3)}, old)[0]
    change = amanda_fleet.diff(old, new)
    assert change["web1"]["address"] == {"old": "192.0.2.1", "new": "192.0.2.9"}
    assert set(change["web1"]) == {"address", "/home", "/new"}
    assert change["web1"]["/new"]["old"] is None
    assert change["new"]["client"]["old"] is None and change["new"]["/x"]["new"]
    assert set(change["db1"]) == {"missing", "/srv"}
    json.dumps(change)


def check(fleet, findings):
    """Check what must hold of any collection."""
    assert amanda_fleet.from_json(json.loads(json.dumps(amanda_fleet.to_json(fleet)))) == fleet
    for finding in findings:
        assert set(finding) == {"id", "path", "kind", "message"}
        assert finding["message"].isprintable() and len(finding["message"]) < 1500
        assert finding["id"].isascii() and finding["id"].isprintable() and len(finding["id"]) < 300


def test_whatever_strangers_publish_the_others_are_collected_and_it_is_reported():
    chance = random.Random(1)
    for _ in range(400):
        options = {"exclude": ["./a", "*.o"], "mounts": "include", "config": "weekly"}
        paths = {"evil": spoil(directories("/etc", **{"/srv": options}), chance)}
        keys = {"evil": spoil(host_keys(9), chance)}
        stranger = minion_id(chance)
        paths[stranger] = spoil(directories("/etc"), chance)
        paths |= {"web1": directories("/etc", "/home"), "db1": directories("/srv")}
        keys |= {"web1": host_keys(1), "db1": host_keys(2)}
        fleet, findings = collect(paths, keys, two())
        assert (fleet.client("web1"), fleet.client("db1")) == two().clients[::-1]
        assert kinds(findings, "web1") == kinds(findings, "db1") == []
        check(fleet, findings)
        assert collect(paths, keys, fleet)[0] == fleet
        if fleet.client("evil") is None:
            assert kinds(findings, "evil")


def test_any_history_of_a_fleet_keeps_keys_apart_and_settles_at_once():
    chance = random.Random(2)
    for _ in range(60):
        fleet = Fleet()
        for turn in range(6):
            ids = [name for name in ("a", "b", "c", "d", "e") if chance.random() < 0.8]
            time = f"2026-01-{10 + turn}T00:00:00+00:00"
            paths = {name: directories(path(chance), "/etc", time=time) for name in ids}
            for published in paths.values():
                published["directories"]["/var"] = {"exclude": [pattern(chance)]}
            keys = {
                name: host_keys(chance.randint(1, 6), f"192.0.2.{chance.randint(1, 6)}", time)
                for name in ids
            }
            before = fleet
            fleet, findings = collect(paths, keys, fleet)
            check(fleet, findings)
            assert collect(paths, keys, fleet)[0] == fleet
            lost = {client.id for client in before.clients} - {each.id for each in fleet.clients}
            assert not lost
            for client in before.clients:
                kept = {each.path for each in fleet.client(client.id).directories}
                assert {each.path for each in client.directories} <= kept
            if fleet.clients and chance.random() < 0.3:
                fleet = amanda_fleet.retire(fleet, chance.choice(fleet.clients).id, now=DAY)
