"""What the plan says of slots and tapelists, on directories as Amanda leaves them."""

import os

import amanda_tapes
import pytest
from amanda_errors import AmandaError
from amanda_layout import ConfigPlaces


@pytest.fixture
def places(tmp_path):
    """Return a config without slots, whose tapelist is empty."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "tapelist").touch()
    (tmp_path / "tapes").mkdir()
    return ConfigPlaces(
        name="daily",
        conf=tmp_path / "conf",
        state=tmp_path / "state",
        tapes=tmp_path / "tapes",
        holding=tmp_path / "holding",
    )


def label_file(name, written="X"):
    """Return what Amanda writes at the head of a virtual tape."""
    return f"AMANDA: TAPESTART DATE {written} TAPE {name}\n\f\n".encode().ljust(32768, b"\0")


def put(places, number, name=None, written="X", dumps=0):
    """Make a slot with a tape in it, as Amanda would have left it."""
    slot = places.tapes / f"slot{number}"
    slot.mkdir()
    if name:
        (slot / f"00000.{name}").write_bytes(label_file(name, written))
    for dump in range(1, dumps + 1):
        (slot / f"{dump:05d}.web1._etc.0").write_bytes(b"x" * 40000)
    return slot


def know(places, *tapes):
    """Write a tapelist of (label, written) or (label, written, "no-reuse")."""
    lines = []
    for name, written, *pin in tapes:
        rest = "BLOCKSIZE:32 POOL:daily STORAGE:daily CONFIG:daily"
        lines.append(f"{written} {name} {pin[0] if pin else 'reuse'} {rest}\n")
    places.tapelist.write_text("".join(lines))


def test_on_a_fresh_server_every_slot_is_made_and_labelled(places):
    places.tapes.rmdir()
    plan = amanda_tapes.plan(places, 3)
    assert plan == amanda_tapes.Plan((1, 2, 3), (1, 2, 3), (), (), (), ())


def test_a_fresh_server_has_no_tapelist_either(places):
    places.tapelist.unlink()
    assert amanda_tapes.plan(places, 2).label == (1, 2)


def test_a_complete_set_leaves_nothing_to_do(places):
    put(places, 1, "daily-0001", "20250101010000", dumps=2)
    put(places, 2, "daily-0002")
    know(places, ("daily-0001", "20250101010000"), ("daily-0002", "0"))
    assert not amanda_tapes.plan(places, 2)


def test_a_growing_set_leaves_the_old_slots_alone(places):
    put(places, 1, "daily-0001", "20250101010000", dumps=1)
    know(places, ("daily-0001", "20250101010000"))
    plan = amanda_tapes.plan(places, 3)
    assert (plan.make, plan.label, plan.refusals) == ((2, 3), (2, 3), ())


def test_an_empty_slot_that_is_there_is_labelled_where_it_stands(places):
    put(places, 1)
    plan = amanda_tapes.plan(places, 1)
    assert (plan.make, plan.label) == ((), (1,))


def test_a_shrinking_set_gives_up_only_tapes_never_written(places):
    put(places, 1, "daily-0001")
    put(places, 2, "daily-0002", "20250101010000", dumps=1)
    put(places, 3, "daily-0003")
    put(places, 4)
    know(
        places,
        ("daily-0002", "20250101010000"),
        ("daily-0003", "0"),
        ("daily-0001", "0"),
    )
    plan = amanda_tapes.plan(places, 1)
    assert (plan.drop, plan.blank, plan.kept) == ((3, 4), (3,), ("daily-0002",))
    assert plan.refusals == ()


def test_a_pinned_tape_is_kept_though_it_was_never_written(places):
    put(places, 1, "daily-0001")
    put(places, 2, "daily-0002")
    know(places, ("daily-0001", "0"), ("daily-0002", "0", "no-reuse"))
    plan = amanda_tapes.plan(places, 1)
    assert (plan.drop, plan.kept) == ((), ("daily-0002",))


def test_a_label_without_its_slot_is_forgotten_when_the_set_shrinks(places):
    put(places, 1, "daily-0001")
    know(places, ("daily-0001", "0"), ("daily-0002", "0"))
    plan = amanda_tapes.plan(places, 1)
    assert (plan.blank, plan.drop) == ((2,), ())


@pytest.mark.parametrize("size", [None, 0])
def test_a_label_that_was_cut_off_while_it_was_written_is_written_again(places, size):
    slot = put(places, 1)
    if size is not None:
        (slot / "00000.daily-0001").touch()
    know(places, ("daily-0001", "0"))
    plan = amanda_tapes.plan(places, 1)
    assert (plan.label, plan.blank, plan.refusals) == ((1,), (1,), ())


def test_a_new_tape_that_the_tapelist_missed_is_labelled_again(places):
    put(places, 1, "daily-0001")
    plan = amanda_tapes.plan(places, 1)
    assert (plan.label, plan.blank, plan.refusals) == ((1,), (1,), ())


def foreign_file(places):
    (put(places, 1, "daily-0001") / "holiday.jpg").write_bytes(b"x")


def foreign_directory(places):
    (put(places, 1, "daily-0001") / "00001.web1._etc.0").mkdir()


def foreign_bytes(places):
    (put(places, 1, "daily-0001") / "\udcff\n").write_bytes(b"x")


def label_of_another_config(places):
    put(places, 1, "weekly-0001")


def label_of_another_slot(places):
    put(places, 1, "daily-0002")


def header_that_says_another_label(places):
    (put(places, 1) / "00000.daily-0001").write_bytes(label_file("weekly-0001"))


def unreadable_header(places):
    (put(places, 1) / "00000.daily-0001").write_bytes(b"\x7fELF".ljust(32768, b"\0"))


def dumps_without_a_label(places):
    put(places, 1, dumps=1)


def dumps_under_a_label_never_written(places):
    put(places, 1, "daily-0001", dumps=1)


def link_instead_of_a_slot(places):
    (places.tapes / "slot1").symlink_to("/srv")


def link_instead_of_a_label(places):
    (put(places, 1) / "00000.daily-0001").symlink_to("/etc/passwd")


def slot_named_twice(places):
    put(places, "01", "daily-0001")


@pytest.mark.parametrize(
    "spoil",
    [
        foreign_file,
        foreign_directory,
        foreign_bytes,
        label_of_another_config,
        label_of_another_slot,
        header_that_says_another_label,
        unreadable_header,
        dumps_without_a_label,
        dumps_under_a_label_never_written,
        link_instead_of_a_slot,
        link_instead_of_a_label,
        slot_named_twice,
    ],
)
def test_a_slot_with_something_foreign_is_refused_by_name(places, spoil):
    know(places, ("daily-0001", "0"))
    spoil(places)
    refusals = amanda_tapes.plan(places, 1).refusals
    assert len(refusals) == 1
    assert str(places.tapes / "slot") in refusals[0]


def test_a_written_tape_that_the_tapelist_does_not_know_is_refused(places):
    put(places, 1, "daily-0001", "20250101010000", dumps=1)
    (refusal,) = amanda_tapes.plan(places, 1).refusals
    assert "20250101010000" in refusal and "tapelist" in refusal


@pytest.mark.parametrize("blank", [None, "X"])
def test_a_tape_that_the_catalogue_says_was_written_is_never_labelled_anew(places, blank):
    if blank:
        put(places, 1)
    know(places, ("daily-0001", "20250101010000"))
    (refusal,) = amanda_tapes.plan(places, 1).refusals
    assert "daily-0001 was written at 20250101010000" in refusal


def test_nothing_at_all_is_done_when_one_slot_is_refused(places):
    foreign_file(places)
    with pytest.raises(AmandaError, match=r"holiday\.jpg"):
        amanda_tapes.apply(places, 3)
    assert [path.name for path in places.tapes.iterdir()] == ["slot1"]
    assert places.tapelist.read_text() == ""


def test_a_tape_root_that_is_a_file_is_named_in_the_error(places):
    places.tapes.rmdir()
    places.tapes.touch()
    with pytest.raises(AmandaError, match=f"{places.tapes} isn't a directory"):
        amanda_tapes.plan(places, 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_tape_root_that_the_dump_user_may_not_enter_is_named_in_the_error(places):
    places.tapes.chmod(0o700)
    with pytest.raises(AmandaError, match=f"{places.tapes}, can't be read by the dump user"):
        amanda_tapes.tapes(places, "nobody")


def test_the_inventory_says_what_each_slot_holds(places):
    put(places, 10, "daily-0010", "20250101010000", dumps=2)
    put(places, 2, "daily-0002")
    put(places, 3)
    know(places, ("daily-0010", "20250101010000", "no-reuse"), ("daily-0002", "0"))
    new, blank, written = amanda_tapes.tapes(places)
    assert written == {
        "slot": 10,
        "label": "daily-0010",
        "written": "20250101010000",
        "files": 2,
        "bytes": 32768 + 2 * 40000,
        "pinned": True,
        "problem": None,
    }
    assert (new["slot"], new["written"], new["pinned"]) == (2, None, False)
    assert (blank["slot"], blank["label"], blank["pinned"]) == (3, None, None)


def test_the_inventory_shows_a_foreign_slot_with_its_problem(places):
    foreign_file(places)
    (row,) = amanda_tapes.tapes(places)
    assert "holiday.jpg" in row["problem"]
