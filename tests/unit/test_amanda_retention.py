"""Which tapes are held back from Amanda, since a DLE's last state lies on them."""

import types

import amanda_retention
import amanda_settings
import amanda_verified
import pytest
from amanda_catalogue import Dump, Part, Tape
from amanda_limits import Limits

LIMITS = Limits(tapes=3, runtapes=1, length=512)


def config(runtapes=1, slots=4):
    return types.SimpleNamespace(name="daily", runtapes=runtapes, slots=slots)


def plan(tapes, dumps, limits=LIMITS, held=()):
    return amanda_retention.plan(tapes, amanda_retention.needed(dumps), limits, held)


def stamp(day):
    return f"202611{day:02d}010000"


def dump(day, level=0, disk="/etc", status="OK", base=None, complete=True):
    part = Part(f"d-{day}", 1, 1, 5, stamp(day))
    based = None if base is None else stamp(base)
    crcs = (None, None, None)
    return Dump(
        "daily", "web1", disk, stamp(day), level, status, (part,), *crcs, 5, "", based, complete
    )


def tapes(*days, pinned=(), blank=0):
    found = [Tape(f"d-{day}", stamp(day), day not in pinned, 1) for day in days]
    return found + [Tape(f"blank-{n}", "0", True, 1) for n in range(blank)]


def held(found):
    return sorted(found.hold)


def test_the_last_full_dump_is_held_back_once_the_next_run_would_overwrite_it():
    dumps = [dump(1)]
    assert held(plan(tapes(3, 2, 1), dumps)) == []
    found = plan(tapes(4, 3, 2, 1), dumps)
    assert found.hold == {"d-1": [("web1", "/etc")]}


def test_a_full_dump_that_a_newer_one_replaced_is_not():
    found = plan(tapes(4, 3, 2, 1), [dump(1), dump(3)])
    assert found.hold == {}
    assert found.writable


def test_a_partial_full_dump_replaces_none():
    dumps = [dump(1), dump(3, status="PARTIAL")]
    assert held(plan(tapes(4, 3, 2, 1), dumps)) == ["d-1"]


def test_the_increments_of_the_last_state_are_held_back_with_their_full_dump():
    dumps = [dump(1), dump(2, 1, base=1), dump(3, 1, base=1), dump(9, disk="/home")]
    found = plan(tapes(9, 8, 3, 2, 1), dumps)
    assert held(found) == ["d-1"]  # Amanda leaves 9, 8 and 3 alone
    found = plan(tapes(10, 9, 8, 3, 2, 1), dumps)
    assert held(found) == ["d-1", "d-3"]
    assert found.writable  # 2, which what is newer has replaced


def test_a_chain_without_its_base_needs_the_full_dump_that_there_is():
    dumps = [dump(1), dump(4, 2, base=3)]
    assert held(plan(tapes(4, 3, 2, 1), dumps)) == ["d-1"]


def test_of_a_broken_chain_the_last_state_that_can_be_had_is_held_back():
    dumps = [dump(1), dump(2, 1, base=1), dump(5, 1, base=4)]
    assert held(plan(tapes(6, 5, 2, 1), dumps)) == ["d-1"]
    assert held(plan(tapes(7, 6, 5, 2, 1), dumps)) == ["d-1", "d-2"]


def test_a_full_dump_that_lacks_what_could_not_be_read_does_not_replace_one_that_does_not():
    dumps = [dump(1), dump(6, complete=False)]
    assert held(plan(tapes(6, 3, 2, 1), dumps)) == ["d-1"]
    assert held(plan(tapes(9, 8, 7, 6, 3, 2, 1), dumps)) == ["d-1", "d-6"]


def verified(*dumps, reason=""):
    record = amanda_verified.Record()
    for each in dumps:
        record.judge(each, "2026-11-23T01:00:00+00:00", reason, opened=False)
    return record


def test_a_full_dump_that_was_not_verified_yet_does_not_replace_one_that_was():
    old, new = dump(1), dump(3)
    needed = amanda_retention.needed([old, new], verified(old))
    assert held(amanda_retention.plan(tapes(4, 3, 2, 1), needed, LIMITS)) == ["d-1"]
    for record in (verified(old, new), verified()):
        needed = amanda_retention.needed([old, new], record)
        assert held(amanda_retention.plan(tapes(4, 3, 2, 1), needed, LIMITS)) == []


def test_of_what_was_verified_the_last_that_lacks_nothing_is_held_back_as_well():
    whole, lacking, new = dump(1), dump(2, complete=False), dump(4)
    needed = amanda_retention.needed([whole, lacking, new], verified(whole, lacking))
    assert set(needed) == {"d-1", "d-2", "d-4"}


def test_what_is_held_back_until_newer_dumps_are_verified_is_no_reason_to_ask_for_more_tapes():
    old, new = dump(1), dump(3)
    states = [amanda_retention.needed([old, new], verified(old), soon) for soon in (False, True)]
    assert [sorted(each) for each in states] == [["d-1", "d-3"], ["d-3"]]
    found = amanda_retention.plan(tapes(3, 2, 1, blank=2), states[0], LIMITS, (), states[1])
    assert amanda_retention.outlook(found, config(), [("web1", "/etc")]) == ""


def test_a_run_may_write_again_what_it_makes_free_itself():
    """As Amanda does: of three written tapes, of which it keeps two, it takes all in turn."""
    found = plan(tapes(3, 2, 1), [dump(3)], Limits(tapes=2, runtapes=2, length=512))
    assert found.writable >= 2
    assert amanda_retention.shortage(found, config(runtapes=2), "backup") == ""


def test_a_run_of_several_tapes_reaches_as_many_more():
    several = Limits(tapes=5, runtapes=3, length=512)
    assert held(plan(tapes(3, 2, 1), [dump(1)], several)) == []
    assert held(plan(tapes(4, 3, 2, 1), [dump(1)], several)) == ["d-1"]


def test_what_an_administrator_pinned_is_neither_counted_nor_released():
    found = plan(tapes(4, 3, 2, 1, pinned=[3]), [dump(1)])
    assert (found.hold, found.release) == ({}, ())


def test_a_tape_held_back_is_released_when_a_newer_full_dump_is_there():
    known = tapes(5, 4, 3, 2, 1, pinned=[1])
    found = plan(known, [dump(1)], held=["d-1"])
    assert (held(found), found.release) == (["d-1"], ())
    found = plan(known, [dump(1), dump(5)], held=["d-1"])
    assert (held(found), found.release) == ([], ("d-1",))


def test_held_back_tapes_are_neither_written_nor_counted_among_those_amanda_keeps():
    assert plan(tapes(4, 3, 2, 1, blank=1), [dump(1)]).writable
    assert plan(tapes(4, 3, 2, 1), [dump(1)]).writable == 0


def test_too_few_tapes_are_told_with_the_number_that_would_do():
    found = plan(tapes(4, 3, 2, 1), [dump(1)])
    said = amanda_retention.shortage(found, config(), "backup")
    assert "only 0 can be written" in said
    assert "the last state of web1 /etc" in said
    assert "backup:configs:daily:slots" in said
    assert "5 or more" in said


def test_the_number_that_would_do_counts_tapes_that_are_there_beyond_it():
    found = plan(tapes(6, 5, 4, 3, 2, 1), [dump(day, disk=f"/{day}") for day in range(1, 7)])
    assert "7 or more" in amanda_retention.shortage(found, config(slots=3), "backup")


def test_enough_tapes_are_no_matter_to_tell():
    found = plan(tapes(2, 1, blank=2), [dump(1)])
    assert amanda_retention.shortage(found, config(), "backup") == ""


def test_a_damaged_note_of_what_is_held_back_is_an_error_that_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(amanda_retention, "RETENTION", tmp_path)
    (tmp_path / "daily.json").write_text("[]")
    with pytest.raises(amanda_retention.AmandaError, match="daily.json is damaged"):
        amanda_retention._held("daily")


def said(known, dumps, dles, limits=LIMITS, slots=4):
    return amanda_retention.outlook(plan(known, dumps, limits), config(slots=slots), dles)


def test_by_default_there_are_tapes_enough_for_a_client_that_fails():
    """Be its chains as long as a cycle, and the cycle as long as it will."""
    for days in (1, 7, 12):
        pillar = {"server": "web1", "configs": {"daily": {"dumpcycle": days, "cron": False}}}
        own = amanda_settings.parse(pillar, "web1").config("daily")
        known = tapes(*range(days, 0, -1), blank=own.slots - days)
        names = [f"/{day}" for day in range(days)]
        dumps = [dump(day + 1, disk=name) for day, name in enumerate(names)]
        limits = Limits(own.tapecycle - 1, own.runtapes, 512)
        found = plan(known, dumps, limits)
        assert len(found.wanted) == days
        assert amanda_retention.outlook(found, own, [("web1", name) for name in names]) == ""


def test_tapes_that_will_be_too_few_once_a_client_fails_are_told_before_it_does():
    dumps = [dump(1), dump(2, 1, base=1)]
    assert said(tapes(3, 2, 1, blank=3), dumps, [("web1", "/etc")]) == ""
    words = said(tapes(3, 2, 1, blank=2), dumps, [("web1", "/etc")], slots=5)
    assert "should web1 fail from now on, its last state needs 2 tapes, and runs lack 1" in words
    assert "backup:configs:daily:slots in the pillar to 6 or more" in words
    assert not plan(tapes(3, 2, 1, blank=2), dumps).hold


def test_what_was_retired_takes_its_tapes_from_those_for_the_next_client_that_fails():
    dumps = [dump(1), dump(2, disk="/home")]
    known = tapes(3, 2, 1, blank=2)
    assert said(known, dumps[1:], [("web1", "/home")]) == ""
    words = said(known, dumps, [("web1", "/home")])
    assert words.startswith("1 tapes are held back with last states already; should web1 fail")


def test_tapes_that_an_administrator_pinned_are_not_there_for_a_client_that_fails():
    dumps = [dump(2)]
    assert said(tapes(3, 2, 1, blank=2), dumps, [("web1", "/etc")]) == ""
    assert said(tapes(3, 2, 1, blank=2, pinned=(1,)), dumps, [("web1", "/etc")])
