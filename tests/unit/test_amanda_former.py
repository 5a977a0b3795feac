"""Where dumps were before the pillar changed: none of them gets out of sight without a word."""

import amanda_conf
import amanda_former
import amanda_layout
import amanda_platform
import amanda_settings
import pytest
from amanda_errors import PillarError
from amanda_layout import ConfigPlaces

TEMPLATE = "salt/backup/files/amanda.conf.jinja"


def places(root, tapes="tapes", state="state", holding="holding"):
    return ConfigPlaces(
        "daily",
        root / "etc" / "daily",
        root / state / "daily",
        root / tapes / "daily",
        root / holding / "daily",
    )


def write_tape(place, written="20260101010000"):
    """Write tape 1 as Amanda leaves it, and a tapelist that knows it."""
    slot = place.tapes / "slot1"
    slot.mkdir(parents=True)
    head = f"AMANDA: TAPESTART DATE {written} TAPE daily-0001\n\f\n".encode()
    (slot / "00000.daily-0001").write_bytes(head.ljust(32768, b"\0"))
    (slot / "00001.web1._etc.0").write_bytes(b"dump")
    place.state.mkdir(parents=True)
    place.tapelist.write_text(f"{written} daily-0001 reuse BLOCKSIZE:32 POOL:daily\n")


@pytest.fixture
def before(tmp_path, request, monkeypatch):
    """Give the places of a config with one written tape and its amanda.conf."""
    place = places(tmp_path)
    write_tape(place)
    place.conf.mkdir(parents=True)
    place.holding.mkdir(parents=True)
    settings = amanda_settings.parse({"server": "s"}, "s")
    monkeypatch.setattr(amanda_conf, "places", lambda name, paths: place)
    text = amanda_conf.render(
        (request.config.rootpath / TEMPLATE).read_text(),
        settings,
        settings.config(),
        amanda_platform.PLATFORMS["Debian"],
    )
    (place.conf / "amanda.conf").write_text(text)
    return place


def refused(place):
    with pytest.raises(PillarError) as caught:
        amanda_former.check_moved(place, 1, None)
    return caught.value


def test_our_amanda_conf_says_where_tapes_tapelist_and_holding_disk_are(before):
    former = amanda_former.read(before.conf)
    assert former == amanda_former.Former(before.tapes, before.tapelist, before.holding)


def test_what_stays_where_it_was_is_fine_even_if_a_tape_is_lost(before):
    amanda_former.check_moved(before, 1, None)
    (before.tapes / "slot1").rename(before.tapes / "elsewhere")
    amanda_former.check_moved(before, 1, None)


def test_a_new_config_is_fine(tmp_path):
    amanda_former.check_moved(places(tmp_path), 1, None)


def test_tapes_that_are_still_in_the_old_place_are_named_with_what_to_move(before, tmp_path):
    moved = places(tmp_path, tapes="new")
    error = refused(moved)
    assert error.key == "backup:paths:tapes" and "daily-0001" in error.problem
    assert f"move what is in it to {moved.tapes}" in error.remedy
    assert str(before.tapes) in error.remedy
    moved.tapes.parent.mkdir()
    before.tapes.rename(moved.tapes)
    amanda_former.check_moved(moved, 1, None)


def test_a_catalogue_that_is_still_in_the_old_place_is_named(before, tmp_path):
    moved = places(tmp_path, state="new")
    error = refused(moved)
    assert error.key == "backup:paths:state" and str(before.state) in error.problem
    moved.state.parent.mkdir()
    before.state.rename(moved.state)
    amanda_former.check_moved(moved, 1, None)


def test_tapes_and_catalogue_both_left_behind_are_not_begun_anew(before, tmp_path):
    assert refused(places(tmp_path, "new", "newer")).key == "backup:paths:state"


def test_dumps_that_wait_on_the_old_holding_disk_are_named(before, tmp_path):
    (before.holding / "20260101010000").mkdir()
    (before.holding / "20260101010000" / "web1._etc.0").write_bytes(b"dump")
    error = refused(places(tmp_path, holding="new"))
    assert error.key == "backup:paths:holding" and "amflush" in error.remedy
    amanda_former.check_moved(before, 1, None)


def test_tapes_that_were_never_written_may_be_made_anew_elsewhere(before, tmp_path):
    before.tapelist.write_text("0 daily-0001 reuse BLOCKSIZE:32 POOL:daily\n")
    amanda_former.check_moved(places(tmp_path, tapes="new"), 1, None)


@pytest.mark.parametrize("what", ["tapes", "state", "holding"])
def test_a_pillar_with_other_places_than_the_amanda_conf_in_use_is_told(
    before, tmp_path, monkeypatch, what
):
    settings = amanda_settings.parse({"server": "s"}, "s")
    monkeypatch.setattr(amanda_layout, "places", lambda name, paths: before)
    amanda_former.check_in_place(settings)
    moved = places(tmp_path, **{what: "new"})
    monkeypatch.setattr(amanda_layout, "places", lambda name, paths: moved)
    with pytest.raises(PillarError, match="backup:paths: .*daily/amanda.conf still names others"):
        amanda_former.check_in_place(settings)
    (before.conf / "amanda.conf").unlink()
    amanda_former.check_in_place(settings)


# --- a config that the pillar no longer has ---


def test_a_config_whose_tapes_hold_dumps_is_told_when_the_pillar_has_it_no_more(before, tmp_path):
    assert amanda_former.left_behind(["daily"], tmp_path / "etc") == []
    (told,) = amanda_former.left_behind(["weekly"], tmp_path / "etc")
    assert told.startswith("daily is no longer in pillar backup:configs, but 1 of its tapes")
    assert "Put it back" in told and str(before.tapes) in told


def test_a_config_without_a_dump_or_of_another_s_making_is_not_told_of(before, tmp_path):
    before.tapelist.write_text("0 daily-0001 reuse\n")
    assert amanda_former.left_behind([], tmp_path / "etc") == []
    before.tapelist.write_text("20260101010000 daily-0001 reuse\n")
    (before.conf / "amanda.conf").write_text('org "mine"\ntapelist "/etc/amanda/mine/tapelist"\n')
    assert amanda_former.left_behind([], tmp_path / "etc") == []


def test_a_former_config_whose_tapelist_is_damaged_stops_nothing(before, tmp_path):
    before.tapelist.write_text("nonsense\n")
    (told,) = amanda_former.left_behind([], tmp_path / "etc")
    assert "daily" in told and "nonsense" in told
