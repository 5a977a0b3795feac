"""For how long the last backups of what was retired are kept."""

import datetime

import amanda_fleet
import amanda_layout
import amanda_limits
import amanda_retention
import amanda_retired
import pytest
from amanda_catalogue import Dump, Part
from amanda_errors import CommandError
from amanda_limits import Limits

from tests.unit.fleets import key

UTC = datetime.timezone.utc
SINCE = datetime.datetime(2026, 1, 1, 12, tzinfo=UTC)
DLE = ("db1", "/srv")
LIMITS = Limits(tapes=3, runtapes=1, length=512)


@pytest.fixture
def places(monkeypatch, tmp_path):
    """A server that dumps a directory of web1, and retired one of db1; tapes take three nights."""
    monkeypatch.setattr(amanda_layout, "FLEET", tmp_path / "fleet.json")
    monkeypatch.setattr(amanda_retention, "RETENTION", tmp_path / "retention")
    monkeypatch.setattr(amanda_layout, "VERIFIED", tmp_path / "verified")
    monkeypatch.setattr(amanda_limits, "read", lambda name, user: LIMITS)
    places = amanda_layout.ConfigPlaces("daily", tmp_path, tmp_path, tmp_path, tmp_path)
    clients = tuple(client(*each) for each in (DLE, ("web1", "/etc")))
    store(amanda_fleet.retire(amanda_fleet.Fleet(clients), "db1", now=SINCE))
    write(places, SINCE)
    return places


def client(host, path):
    number = {"db1": 1, "web1": 2}[host]
    at, keys = f"192.0.2.{number}", (key(number),)
    directory = amanda_fleet.Directory(path, "daily")
    return amanda_fleet.Client(host, at, 22, keys, amanda_fleet.moment(SINCE), (directory,))


def store(fleet):
    amanda_fleet.save(fleet, amanda_layout.FLEET)


def after(days):
    return SINCE + datetime.timedelta(days=days)


def stamp(moment):
    return moment.astimezone().strftime("%Y%m%d%H%M%S")


def write(places, *moments):
    """Have tapes written at *moments*, and none else."""
    lines = [
        f"{stamp(moment)} d-{number} reuse BLOCKSIZE:32 POOL:daily STORAGE:daily CONFIG:daily\n"
        for number, moment in enumerate(sorted(moments))
    ]
    places.tapelist.write_text("".join(reversed(lines)))


def let_go(places, day, days=30):
    return amanda_retired.let_go(places, "backup", days, now=after(day))


def nights(*days):
    return [after(day + 0.5) for day in days]


def test_what_was_retired_is_let_go_when_its_time_is_over_and_all_else_stays(places):
    write(places, SINCE, *nights(30, 31, 32))
    assert let_go(places, 33) == {DLE}
    assert let_go(places, 33, days=32) == frozenset()  # only one night since then


def test_it_is_kept_while_the_time_lasts(places):
    write(places, SINCE, *nights(26, 27, 28))
    assert let_go(places, 29) == frozenset()


def test_a_clock_that_is_wrong_for_one_night_lets_nothing_go(places):
    write(places, SINCE, *nights(1, 2, 3))
    assert let_go(places, 4000) == frozenset()
    write(places, SINCE, *nights(1, 2, 3, 4000))
    assert let_go(places, 4001) == frozenset()


def test_a_clock_that_was_ahead_for_long_lets_nothing_go_once_it_is_right_again(places):
    write(places, SINCE, *nights(4000, 4001, 4002))
    assert let_go(places, 4003) == {DLE}
    assert let_go(places, 4) == frozenset()


def test_what_is_taken_back_or_retired_anew_is_not_let_go(places):
    write(places, SINCE, *nights(30, 31, 32))
    fleet = amanda_fleet.load(amanda_layout.FLEET)
    (db1, web1) = fleet.clients
    store(amanda_fleet.Fleet((client(*DLE), web1)))
    assert let_go(places, 33) == frozenset()
    store(amanda_fleet.retire(amanda_fleet.Fleet((client(*DLE), web1)), "db1", now=after(33)))
    assert let_go(places, 34) == frozenset()
    assert db1.directory("/srv").retired == amanda_fleet.moment(SINCE)


def test_what_can_not_be_told_lets_nothing_go(places, monkeypatch):
    write(places, SINCE, *nights(30, 31, 32))

    def broken(name, user):
        raise CommandError(["amadmin"], 1, "bad amanda.conf")

    with monkeypatch.context() as patch:
        patch.setattr(amanda_limits, "read", broken)
        assert let_go(places, 33) == frozenset()
    places.tapelist.write_text("what?\n")
    assert let_go(places, 33) == frozenset()
    write(places, SINCE, *nights(30, 31, 32))
    amanda_layout.FLEET.write_text("{")
    assert let_go(places, 33) == frozenset()


def test_no_tape_is_held_back_for_what_was_let_go(places, monkeypatch):
    dumps = [dump(DLE, 0), dump(("web1", "/etc"), 1)]
    write(places, *[after(day) for day in range(6)])
    monkeypatch.setattr(amanda_retention.amanda_catalogue, "read", lambda places: dumps)
    assert sorted(amanda_retention.look(places, "backup").hold) == ["d-0", "d-1"]
    assert sorted(amanda_retention.look(places, "backup", {DLE}).hold) == ["d-1"]


def dump(dle, day):
    part = Part(f"d-{day}", 1, 1, 5, stamp(after(day)))
    return Dump("daily", *dle, stamp(after(day)), 0, "OK", (part,), None, None, None, 5, "")


def test_the_list_says_until_when_each_is_kept(places):
    assert amanda_retired.listing(amanda_fleet.load(amanda_layout.FLEET), 30) == {
        "db1": {
            "/srv": {
                "retired": "2026-01-01T12:00:00+00:00",
                "kept_until": "2026-01-31T12:00:00+00:00",
            }
        }
    }
