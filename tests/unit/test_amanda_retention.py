"""Which tapes are held back from Amanda, since a DLE's last state lies on them."""

import types

import amanda_retention
import pytest
from amanda_catalogue import Dump, Part, Tape


def config(tapecycle=4, runtapes=1, slots=4):
    return types.SimpleNamespace(name="daily", tapecycle=tapecycle, runtapes=runtapes, slots=slots)


def stamp(day):
    return f"202611{day:02d}010000"


def dump(day, level=0, disk="/etc", status="OK", base=None):
    part = Part(f"d-{day}", 1, 1, 5, stamp(day))
    based = None if base is None else stamp(base)
    crcs = (None, None, None)
    return Dump("daily", "web1", disk, stamp(day), level, status, (part,), *crcs, 5, "", based)


def tapes(*days, pinned=(), blank=0):
    found = [Tape(f"d-{day}", stamp(day), day not in pinned, 1) for day in days]
    return found + [Tape(f"blank-{n}", "0", True, 1) for n in range(blank)]


def held(found):
    return sorted(found.hold)


def test_the_last_full_dump_is_held_back_once_the_next_run_would_overwrite_it():
    dumps = [dump(1)]
    assert held(amanda_retention.plan(tapes(3, 2, 1), dumps, config())) == []
    found = amanda_retention.plan(tapes(4, 3, 2, 1), dumps, config())
    assert found.hold == {"d-1": [("web1", "/etc")]}


def test_a_full_dump_that_a_newer_one_replaced_is_not():
    found = amanda_retention.plan(tapes(4, 3, 2, 1), [dump(1), dump(3)], config())
    assert found.hold == {}
    assert found.writable == 1


def test_a_partial_full_dump_replaces_none():
    dumps = [dump(1), dump(3, status="PARTIAL")]
    assert held(amanda_retention.plan(tapes(4, 3, 2, 1), dumps, config())) == ["d-1"]


def test_the_increments_of_the_last_state_are_held_back_with_their_full_dump():
    dumps = [dump(1), dump(2, 1, base=1), dump(3, 1, base=1), dump(9, disk="/home")]
    found = amanda_retention.plan(tapes(9, 8, 3, 2, 1), dumps, config())
    assert held(found) == ["d-1"]  # Amanda leaves 9, 8 and 3 alone
    found = amanda_retention.plan(tapes(10, 9, 8, 3, 2, 1), dumps, config())
    assert held(found) == ["d-1", "d-3"]
    assert found.writable == 1  # 2: what it was for is newer


def test_a_chain_without_its_base_needs_the_full_dump_that_there_is():
    dumps = [dump(1), dump(4, 2, base=3)]
    assert held(amanda_retention.plan(tapes(4, 3, 2, 1), dumps, config())) == ["d-1"]


def test_a_run_of_several_tapes_reaches_as_many_more():
    several = config(tapecycle=6, runtapes=3)
    assert held(amanda_retention.plan(tapes(3, 2, 1), [dump(1)], several)) == []
    assert held(amanda_retention.plan(tapes(4, 3, 2, 1), [dump(1)], several)) == ["d-1"]


def test_what_an_administrator_pinned_is_neither_counted_nor_released():
    found = amanda_retention.plan(tapes(4, 3, 2, 1, pinned=[3]), [dump(1)], config())
    assert (found.hold, found.release) == ({}, ())


def test_a_tape_held_back_is_released_when_a_newer_full_dump_is_there():
    known = tapes(5, 4, 3, 2, 1, pinned=[1])
    found = amanda_retention.plan(known, [dump(1)], config(), held=["d-1"])
    assert (held(found), found.release) == (["d-1"], ())
    found = amanda_retention.plan(known, [dump(1), dump(5)], config(), held=["d-1"])
    assert (held(found), found.release) == ([], ("d-1",))


def test_held_back_tapes_are_neither_written_nor_counted_among_those_amanda_keeps():
    found = amanda_retention.plan(tapes(4, 3, 2, 1, blank=1), [dump(1)], config())
    assert found.writable == 1
    assert amanda_retention.plan(tapes(4, 3, 2, 1), [dump(1)], config()).writable == 0


def test_too_few_tapes_are_told_with_the_number_that_would_do():
    found = amanda_retention.plan(tapes(4, 3, 2, 1), [dump(1)], config())
    said = amanda_retention.shortage(found, config())
    assert "only 0 can be written" in said
    assert "the last state of web1 /etc" in said
    assert "backup:configs:daily:slots" in said
    assert "5 or more" in said


def test_enough_tapes_are_no_matter_to_tell():
    found = amanda_retention.plan(tapes(2, 1, blank=2), [dump(1)], config())
    assert amanda_retention.shortage(found, config()) == ""


def test_a_damaged_note_of_what_is_held_back_is_an_error_that_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(amanda_retention, "RETENTION", tmp_path)
    (tmp_path / "daily.json").write_text("[]")
    with pytest.raises(amanda_retention.AmandaError, match="daily.json is damaged"):
        amanda_retention._held("daily")
