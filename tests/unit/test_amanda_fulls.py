"""Which DLEs need a full dump, told from logs, tapes and holding disk as a crash leaves them."""

from pathlib import Path

import amanda_catalogue
import amanda_chain
import amanda_fulls
import pytest
from amanda_errors import AmandaError, ParseError
from amanda_layout import ConfigPlaces

DLE = ("web1", "/etc")
OTHER = ("db1", "/srv")
FIRST, SECOND = "20261123083845", "20261124083845"
CRCS = "00000001:5 00000001:5"
STATISTICS = "[sec 0.1 bytes 5 kps 1.0]"


def places_of(directory, name="daily"):
    state = Path(directory, name)
    (state / "log").mkdir(parents=True, exist_ok=True)
    (state / "tapelist").touch()
    return ConfigPlaces(name, state, state, state, state)


def listed(*dles):
    return [f"DISK planner {host} {disk}" for host, disk in dles]


def dumped(stamp, dle=DLE, level=0):
    name = f"{dle[0]} {dle[1]} {stamp} {level}"
    return [
        f"SUCCESS dumper {name} {CRCS} {STATISTICS}",
        f"SUCCESS chunker {name} 00000001:5 {STATISTICS}",
    ]


def taped(stamp, dle=DLE, kind="DONE", level=0):
    name = f"{dle[0]} {dle[1]} {stamp}"
    storage = '"ST:daily" "POOL:daily"'
    return [
        f"START taper datestamp {stamp} {storage} label d-{stamp} tape 1",
        f"PART taper {storage} d-{stamp} 1 {name} 1/-1 {level} {STATISTICS}",
        f"{kind} taper {storage} {name} 1 {level} {CRCS} 00000001:5 {STATISTICS}",
    ]


PLANNED = ["FINISH planner date 20261123083845 time 1"]
END = ["FINISH driver date 20261123083845 time 2"]


def log(places, stamp, *lines, end="\n"):
    """Write a run's log, and the tapelist's line if a tape was written."""
    (places.logs / f"log.{stamp}.0").write_text("\n".join(lines) + end)
    if any(line.startswith("START taper") for line in lines):
        with places.tapelist.open("a") as file:
            file.write(f"{stamp} d-{stamp} reuse\n")


@pytest.fixture
def places(tmp_path):
    """Return the places of a config whose first run put the DLE on tape."""
    made = places_of(tmp_path)
    log(made, FIRST, *listed(DLE), *PLANNED, *dumped(FIRST), *taped(FIRST), *END)
    return made


def lost(places, images=(), dles=(DLE,), others=()):
    return amanda_fulls.needed(places, list(dles), images, others)


def image(stamp):
    return {"host": DLE[0], "disk": DLE[1], "timestamp": stamp, "level": 1, "size": 5}


def test_a_dle_whose_last_dump_is_on_tape_needs_none(places):
    assert lost(places) == ([], [])


def test_a_dle_never_tried_needs_none(places):
    assert lost(places, dles=[DLE, OTHER]) == ([], [])


def test_a_run_that_never_finished_may_have_begun_all_that_it_was_to_dump(places):
    log(places, SECOND, *listed(DLE, OTHER), *PLANNED, *dumped(SECOND, OTHER))
    assert lost(places, dles=[DLE, OTHER]) == ([DLE, OTHER], [])


def test_a_run_killed_while_it_planned_counts_as_one_whose_log_lost_its_end(places):
    log(places, SECOND, *listed(DLE))
    assert lost(places) == ([DLE], [])


def test_a_planner_that_died_began_no_dump(places):
    log(places, SECOND, *listed(DLE), "FATAL planner no", "FATAL driver Did not get DATE line")
    assert lost(places) == ([], [])


@pytest.mark.parametrize("end", [END, []])
def test_what_the_planner_could_not_ask_for_began_no_dump(places, end):
    fail = f'FAIL planner web1 /etc {SECOND} 0 "[Request to web1 failed]"'
    log(places, SECOND, *listed(DLE), fail, *PLANNED, *end)
    assert lost(places) == ([], [])


def test_what_the_driver_could_not_start_began_no_dump(places):
    fail = f"FAIL driver web1 /etc {SECOND} 0 [can't dump required holdingdisk]"
    log(places, SECOND, *listed(DLE), *PLANNED, fail, *END)
    assert lost(places) == ([], [])


@pytest.mark.parametrize("line", ["FAIL dumper web1 /etc {} 1 [data timeout]", None])
def test_a_dump_that_failed_or_is_partial_on_tape_is_lost(places, line):
    lines = [line.format(SECOND)] if line else taped(SECOND, kind="PARTIAL")
    log(places, SECOND, *listed(DLE), *PLANNED, *lines, *END)
    assert lost(places) == ([DLE], [])


def test_what_waits_whole_on_the_holding_disk_is_not_lost(places):
    log(places, SECOND, *listed(DLE), *PLANNED, *dumped(SECOND))
    assert lost(places) == ([DLE], [])
    assert lost(places, [image(SECOND)]) == ([], [])


def test_an_older_dump_on_the_holding_disk_does_not_stand_for_the_last(places):
    log(places, SECOND, *listed(DLE), *PLANNED, *dumped(SECOND), *END)
    assert lost(places, [image(FIRST)]) == ([DLE], [])


def test_half_a_dump_on_the_holding_disk_is_lost(places):
    log(places, SECOND, *listed(DLE), *PLANNED, dumped(SECOND)[0])
    assert lost(places, [image(SECOND)]) == ([DLE], [])


def test_what_could_not_be_read_is_dumped_in_full_later(places):
    strange = [
        f"STRANGE dumper web1 /etc 1 {CRCS} {STATISTICS}",
        "  ? tar: ./x: Cannot open: Permission denied",
    ]
    log(places, SECOND, *listed(DLE), *PLANNED, *strange, *taped(SECOND), *END)
    assert lost(places) == ([DLE], [])


@pytest.mark.parametrize("cleaned", ["", "\n", "INFO amcleanup amcleanup pid 1\n"])
def test_a_line_cut_by_a_crash_makes_all_of_that_run_unknown(places, cleaned):
    log(places, SECOND, *PLANNED, "DONE taper we", end=cleaned)
    names, (damage,) = lost(places, dles=[DLE, OTHER])
    assert names == [DLE, OTHER]
    assert "DONE taper we" in damage
    assert SECOND in damage


def test_a_log_that_a_crash_emptied_makes_all_unknown(places):
    log(places, SECOND, end="")
    assert lost(places)[0] == [DLE]


def test_a_damaged_line_in_a_log_of_a_run_that_finished_raises(places):
    log(places, SECOND, "DONE taper we", *END)
    with pytest.raises(ParseError):
        lost(places)


def test_a_dump_that_another_config_made_meanwhile_needs_a_full_one(places, tmp_path):
    weekly = places_of(tmp_path, "weekly")
    log(weekly, SECOND, *listed(DLE), *PLANNED, *dumped(SECOND), *taped(SECOND), *END)
    assert lost(places, others=[weekly]) == ([DLE], [])


def test_a_dump_that_another_config_made_before_needs_none(places, tmp_path):
    weekly = places_of(tmp_path, "weekly")
    log(weekly, "20261122083845", *listed(DLE), *PLANNED, *dumped("20261122083845"), *END)
    assert lost(places, others=[weekly, places_of(tmp_path, "never")]) == ([], [])


def test_an_increment_whose_base_is_on_no_tape_any_more_is_followed_by_a_full_one(places):
    log(
        places,
        SECOND,
        *listed(DLE),
        *PLANNED,
        *dumped(SECOND, level=1),
        *taped(SECOND, level=1),
        *END,
    )
    assert lost(places) == ([], [])
    places.tapelist.write_text(f"{SECOND} d-{SECOND} reuse\n")
    assert lost(places) == ([DLE], [])


def test_once_the_full_one_is_on_tape_no_other_is_needed(places):
    log(places, SECOND, *listed(DLE), *PLANNED, "DONE taper we", end="")
    third = "20261125083845"
    log(places, third, *listed(DLE), *PLANNED, *dumped(third), *taped(third), *END)
    assert lost(places) == ([], [])


# what the catalogue makes of the same logs


def test_a_line_cut_by_a_crash_costs_no_other_run_its_dumps(places):
    log(places, SECOND, *listed(DLE), *PLANNED, "DONE taper we", end="")
    (dump,) = amanda_catalogue.read(places)
    assert dump.timestamp == FIRST
    with pytest.raises(ParseError):  # it alone can't be told of
        amanda_catalogue.run_results(places, SECOND)


def test_an_increment_on_a_partial_dump_is_not_put_on_an_older_full(places):
    third = "20261125083845"
    log(places, FIRST, *taped(FIRST), *END)
    log(places, SECOND, *taped(SECOND, kind="PARTIAL"))
    log(places, third, *dumped(third, level=1), *taped(third, level=1), *END)
    places.tapelist.write_text("".join(f"{s} d-{s} reuse\n" for s in (FIRST, SECOND, third)))
    dumps = amanda_catalogue.read(places)
    assert [(one.level, one.status) for one in dumps] == [(0, "OK"), (0, "PARTIAL"), (1, "OK")]
    assert dumps[-1].base == SECOND
    with pytest.raises(AmandaError, match="that is on no tape"):
        amanda_chain.chain(dumps, *DLE)
