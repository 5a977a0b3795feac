"""Labels and slots by Amanda itself; as root on a host with all of Amanda, and faketime."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import amanda_catalogue
import amanda_tapes
import pytest
from amanda_errors import AmandaError

from tests.functional.local_amanda import USER, LocalAmanda

LABELLER = Path(__file__).parents[2] / "salt" / "backup" / "files" / "label-tapes"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changes rights")


@pytest.fixture
def amanda():
    """Give an Amanda with one small DLE and no slots."""
    source = Path("/var/tmp/local-amanda-source")
    source.mkdir(exist_ok=True)
    (source / "file").write_bytes(os.urandom(200_000))
    local = LocalAmanda("vtest", [(str(source), "plain")], slots=0)
    local.places.tapes.mkdir(mode=0o700)
    subprocess.run(["chown", f"{USER}:", local.places.tapes], check=True)
    yield local
    local.remove()
    shutil.rmtree(source)


def apply(local, slots):
    """Bring the tapes to *slots*."""
    return amanda_tapes.apply(local.places, slots, USER, labeller=LABELLER)


def tapelist(local):
    """Return the labels of the tapelist, in its order."""
    return [tape.label for tape in amanda_catalogue.read_tapelist(local.places.tapelist)]


def snapshot(local):
    """Return every file below the tapes and the tapelist, with content."""
    found = {local.places.tapelist: local.places.tapelist.read_bytes()}
    for path in sorted(local.places.tapes.rglob("*")):
        found[path] = path.read_bytes() if path.is_file() else None
    return found


def dump(local, shift="+0d"):
    """Run amdump; it must succeed."""
    status = local.dump(shift)
    assert status == 0, local.command("amreport", local.places.name).stdout.decode()


def test_new_slots_are_labelled_private_and_amanda_finds_them(amanda):
    changed = apply(amanda, 3)
    assert changed["labelled"] == ["vtest-0001", "vtest-0002", "vtest-0003"]
    said = amanda.command("amtape", "vtest", "inventory")
    assert "label vtest-0003" in (said.stdout + said.stderr).decode()
    assert (amanda.places.tapes / "slot1").stat().st_mode & 0o077 == 0
    assert (amanda.places.tapes / "slot1").owner() == USER


def test_a_second_apply_changes_nothing(amanda):
    apply(amanda, 3)
    before = snapshot(amanda)
    assert apply(amanda, 3) == {"made": [], "labelled": [], "dropped": [], "kept": []}
    assert snapshot(amanda) == before


def test_amanda_uses_the_lowest_label_first_even_of_one_that_came_back(amanda):
    apply(amanda, 4)
    (amanda.places.tapes / "slot1" / "00000.vtest-0001").unlink()
    apply(amanda, 4)
    assert tapelist(amanda) == ["vtest-0004", "vtest-0003", "vtest-0002", "vtest-0001"]
    dump(amanda)
    dump(amanda, "+1d")
    written = {row["label"]: row["written"] for row in amanda_tapes.tapes(amanda.places, USER)}
    assert [label for label in written if written[label]] == ["vtest-0001", "vtest-0002"]
    assert written["vtest-0001"] < written["vtest-0002"]


def test_the_set_grows_and_shrinks_around_a_tape_with_data(amanda):
    apply(amanda, 2)
    dump(amanda)
    dump(amanda, "+1d")
    data = snapshot(amanda)
    assert apply(amanda, 5)["made"] == ["vtest-0003", "vtest-0004", "vtest-0005"]
    shrunk = apply(amanda, 1)
    assert shrunk["dropped"] == ["vtest-0003", "vtest-0004", "vtest-0005"]
    assert shrunk["kept"] == ["vtest-0002"]
    assert tapelist(amanda) == ["vtest-0002", "vtest-0001"]
    assert not (amanda.places.tapes / "slot3").exists()
    state = amanda.places.tapes / "state"  # the changer's own notes
    for path, content in data.items():
        assert path == state or not path.is_file() or path.read_bytes() == content
    assert apply(amanda, 1)["dropped"] == []


def test_a_foreign_slot_is_refused_and_nothing_changes(amanda):
    apply(amanda, 2)
    foreign = amanda.places.tapes / "slot3"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("the only copy")
    before = snapshot(amanda)
    with pytest.raises(AmandaError, match=r"thesis\.tex"):
        apply(amanda, 10)
    assert snapshot(amanda) == before


def test_the_labeller_itself_refuses_to_blank_a_written_tape(amanda):
    apply(amanda, 1)
    dump(amanda)
    before = snapshot(amanda)
    places = amanda.places
    for line in [("blank", 1), ("forget", 1), ("label", 1)]:
        with pytest.raises(AmandaError, match="labelling the tapes of vtest failed"):
            amanda_tapes._label(places, [line], USER, None, LABELLER, None)
        after = snapshot(amanda)
        assert {p: c for p, c in after.items() if p.name != "state"} == {
            p: c for p, c in before.items() if p.name != "state"
        }


def test_an_interrupted_labelling_is_finished_by_the_next(amanda):
    apply(amanda, 3)
    # As a kill leaves it: the label on the tape, its line not yet in the tapelist.
    lines = amanda.places.tapelist.read_text().splitlines(keepends=True)
    amanda.places.tapelist.write_text("".join(line for line in lines if "0002" not in line))
    (amanda.places.tapes / "slot3" / "00000.vtest-0003").write_bytes(b"")
    assert apply(amanda, 3)["labelled"] == ["vtest-0002", "vtest-0003"]
    assert sorted(tapelist(amanda)) == ["vtest-0001", "vtest-0002", "vtest-0003"]
    assert not amanda_tapes.plan(amanda.places, 3, USER)


def test_a_broken_amanda_conf_is_said_in_amandas_words(amanda):
    conf = amanda.places.conf / "amanda.conf"
    conf.write_text(conf.read_text() + "nonsense 12\n")
    with pytest.raises(AmandaError, match=r"amanda\.conf.*not a keyword"):
        apply(amanda, 1)


def test_a_thousand_new_slots_take_less_than_thirty_seconds(amanda):
    started = time.monotonic()
    assert len(apply(amanda, 1000)["labelled"]) == 1000
    took = time.monotonic() - started
    print(f"1000 new slots: {took:.1f} s")
    assert took < 30
    started = time.monotonic()
    assert not amanda_tapes.plan(amanda.places, 1000, USER)
    assert time.monotonic() - started < 2
