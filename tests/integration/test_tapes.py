"""Virtual tapes: as many as the pillar says, and none that holds anything is ever touched."""

import pytest

from tests.integration.conftest import Pillar, pillar_root
from tests.integration.fleet import apply, forget, single

SERVER = "backup-server"
CONFIG = "small"
TAPES = f"/var/lib/amanda/vtapes/{CONFIG}"
TAPELIST = f"/var/lib/amanda/{CONFIG}/tapelist"
ID = f"tapes of {CONFIG}"


def pillar_with(number):
    """Return what the pillar backup says more, to have so many slots."""
    return {"configs": {CONFIG: {"dumpcycle": "1 day", "cron": False, "slots": number}}}


@pytest.fixture(scope="module")
def slots(fleet):
    """Give the function that applies the state with so many slots and returns what it did."""
    pillar = Pillar(fleet, pillar_root(fleet.name))

    def ask(number):
        pillar.reset()
        pillar.add(CONFIG, pillar_with(number), SERVER)
        return next(each for each in apply(fleet, SERVER)[SERVER] if each["__id__"] == ID)

    ask(4)
    yield ask
    pillar.reset()
    pillar.refresh()
    single(fleet, "web1", "amanda.directory_absent", "/srv/small")
    forget(fleet, CONFIG)


def state_alone(bed, number, **options):
    """Run the state of the tapes alone, with so many slots in the pillar."""
    pillar = Pillar(bed, pillar_root(bed.name))
    pillar.write(f"{CONFIG}.sls", {"backup": pillar_with(number)})
    bed.salt(SERVER, "saltutil.refresh_pillar", wait=True)
    return single(bed, SERVER, "amanda.labelled", CONFIG, **options)


def inventory(bed):
    """Return what the server tells of each tape."""
    return bed.salt(SERVER, "amanda.tapes", CONFIG)[SERVER]


def labels(first, last):
    """Return the labels of the tapes from one number to another."""
    return [f"{CONFIG}-{number:04d}" for number in range(first, last + 1)]


def contents(bed):
    """Return names, owners, modes and contents of all slots, and the tapelist."""
    script = (
        f"cd {TAPES}; find . -printf '%p %y %u %m %l\\n' -type f -exec sha256sum {{}} \\; | sort"
    )
    return bed.run(SERVER, ["sh", "-c", f"{script}; cat {TAPELIST}"]).stdout.decode()


def change(what, old, new):
    """Return the changes of the state, as Salt shows them."""
    return {what: {"old": old, "new": new}}


def test_more_slots_in_the_pillar_are_more_labelled_tapes(fleet, slots):
    assert [tape["label"] for tape in inventory(fleet)] == labels(1, 4)
    foretold = state_alone(fleet, 7, test=True)
    assert foretold["result"] is None
    assert len(inventory(fleet)) == 4
    done = slots(7)
    assert done["result"] is True
    expected = change("label 3 tapes, small-0005 to small-0007", None, "labelled")
    assert done["changes"] == foretold["changes"] == expected
    assert state_alone(fleet, 7)["changes"] == {}
    assert [(tape["slot"], tape["label"]) for tape in inventory(fleet)] == list(
        enumerate(labels(1, 7), 1)
    )
    assert not any(tape["written"] or tape["problem"] for tape in inventory(fleet))
    listed = fleet.run(SERVER, ["runuser", "-u", "backup", "--", "amtape", CONFIG, "inventory"])
    said = (listed.stdout + listed.stderr).decode()
    assert [label for label in labels(1, 8) if f"label {label} " in said] == labels(1, 7), said


def test_fewer_slots_in_the_pillar_are_fewer_tapes_if_nothing_is_on_them(fleet, slots):
    slots(7)
    done = slots(5)
    assert done["changes"] == change("drop 2 tapes, small-0006 to small-0007", "unused", None)
    assert state_alone(fleet, 5)["changes"] == {}
    assert [tape["label"] for tape in inventory(fleet)] == labels(1, 5)
    assert fleet.run(SERVER, ["ls", TAPES]).stdout.split().count(b"slot6") == 0
    assert b"small-0006" not in fleet.read(SERVER, TAPELIST)


def test_a_tape_with_data_is_not_touched_even_beyond_the_number_of_slots(fleet, slots):
    slots(7)
    fleet.write("web1", "/srv/small/file", b"precious\n")
    single(fleet, "web1", "amanda.directory", "/srv/small", config=CONFIG)
    # Amanda would write on the first.
    amadmin = ["runuser", "-u", "backup", "--", "amadmin", CONFIG]
    fleet.run(SERVER, [*amadmin, "no-reuse", *labels(1, 5)])
    run = fleet.salt(SERVER, "amanda.backup", CONFIG)[SERVER]
    fleet.run(SERVER, [*amadmin, "reuse", *labels(1, 5)])
    (written,) = [tape for tape in inventory(fleet) if tape["written"]]
    assert run["success"] and written["slot"] > 4 and written["files"] == 1
    sums = ["sh", "-c", f"cd {TAPES}/slot{written['slot']} && sha256sum *"]
    before = fleet.run(SERVER, sums).stdout
    slots(4)
    again = fleet.salt(SERVER, "amanda.label", CONFIG)[SERVER]
    assert again["success"] and again["steps"][0]["kept"] == [written["label"]]
    assert [tape["label"] for tape in inventory(fleet)] == [*labels(1, 4), written["label"]]
    assert fleet.run(SERVER, sums).stdout == before
    slots(7)
    assert [tape["label"] for tape in inventory(fleet)] == labels(1, 7)
    assert fleet.run(SERVER, sums).stdout == before


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("echo mine >slot2/notes.txt", "slot2 holds 'notes.txt', which isn't Amanda's"),
        ("sed -i s/small-0002/other-0002/ slot2/00000.*", "slot2 has no readable label"),
        ("mv slot2/00000.small-0002 slot2/00000.other", "slot2 holds another tape, 'other'"),
        ("mv slot2 moved; ln -s moved slot2", "slot2: it isn't a directory"),
    ],
    ids=["foreign file", "foreign label", "foreign tape", "a link"],
)
def test_a_slot_with_foreign_data_is_refused_and_nothing_at_all_is_changed(
    fleet, slots, spoil, words
):
    """There are seven slots, and nine are asked for."""
    fleet.run(SERVER, ["cp", "-a", f"{TAPES}/slot2", "/root/slot2"])
    fleet.run(SERVER, ["sh", "-ec", f"cd {TAPES}; {spoil}"])
    try:
        before = contents(fleet)
        for options in ({"test": True}, {}):
            refused = state_alone(fleet, 9, **options)
            assert refused["result"] is False and refused["changes"] == {}
            assert words in refused["comment"] and "lsewhere" in refused["comment"]
            assert contents(fleet) == before
        labelled = fleet.salt(SERVER, "amanda.label", CONFIG, check=False)[SERVER]
        assert labelled["success"] is False and words in labelled["steps"][0]["message"]
        assert contents(fleet) == before
    finally:
        fleet.run(SERVER, ["sh", "-ec", f"cd {TAPES}; rm -rf slot2 moved; mv /root/slot2 ."])
    assert state_alone(fleet, 7)["changes"] == {}


def test_what_the_servers_own_system_refuses_is_told_in_words_by_state_and_function(fleet, slots):
    lock = "/var/lib/salt-amanda/start.lock"
    fleet.run(SERVER, ["sh", "-ec", f"rm {lock}; mkdir {lock}"])
    try:
        told = state_alone(fleet, 9)
        called = fleet.salt(SERVER, "amanda.label", CONFIG, check=False)[SERVER]
    finally:
        fleet.run(SERVER, ["rmdir", lock])
    assert told["result"] is False and told["changes"] == {}
    for words in (told["comment"], called):
        assert f"Is a directory: '{lock}'" in words and "Traceback" not in words, words
    assert len(inventory(fleet)) == 7


@pytest.mark.slow  # the same without Salt is in tests/functional/test_tapes.py
def test_a_thousand_slots_are_labelled_within_half_a_minute(fleet, slots):
    done = slots(1000)
    assert done["result"] is True
    assert done["duration"] < 30_000  # milliseconds
    assert [tape["label"] for tape in inventory(fleet) if not tape["problem"]] == labels(1, 1000)
    assert len(str(done["changes"])) < 200
    again = state_alone(fleet, 1000)
    assert again["changes"] == {} and again["duration"] < 10_000
    assert slots(4)["result"] is True
    assert len(inventory(fleet)) < 10
