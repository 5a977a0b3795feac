"""Which dumps give a DLE's state at a moment."""

import dataclasses

import amanda_chain
import pytest
from amanda_catalogue import Dump, Part
from amanda_errors import AmandaError
from amanda_log import Crc


def made(timestamp, level, base=None, disk="/etc"):
    """Return a good dump of web1."""
    crc = Crc(1, 1)
    part = Part("d-0001", 1, 1, 1, timestamp)
    return Dump(
        "daily", "web1", disk, timestamp, level, "OK", (part,), crc, crc, crc, 1, "", base=base
    )


FULL = made("20260101000000", 0)
ONE = made("20260102000000", 1, base=FULL.timestamp)
TWO = made("20260103000000", 2, base=ONE.timestamp)
ONE_AGAIN = made("20260104000000", 1, base=FULL.timestamp)
FULL_AGAIN = made("20260105000000", 0)
ALL = [FULL, ONE, TWO, ONE_AGAIN, FULL_AGAIN, made("20260106000000", 0, disk="/home")]


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("20260101000000", [FULL]),
        ("20260102235959", [FULL, ONE]),
        ("20260103120000", [FULL, ONE, TWO]),
        ("20260104120000", [FULL, ONE_AGAIN]),
        ("20260105000000", [FULL_AGAIN]),
        (None, [FULL_AGAIN]),
    ],
)
def test_a_chain_is_the_full_and_the_increments_that_apply_at_that_moment(at, expected):
    assert amanda_chain.chain(ALL, "web1", "/etc", at) == expected


def test_a_time_before_the_first_dump_names_the_first():
    with pytest.raises(AmandaError, match="the first on tape is of 2026-01-01T00:00:00"):
        amanda_chain.chain(ALL, "web1", "/etc", "20251231235959")


def test_a_dle_without_dumps_is_an_error():
    with pytest.raises(AmandaError, match="no whole dump of web1 /srv is on tape"):
        amanda_chain.chain(ALL, "web1", "/srv")


def test_an_increment_whose_base_is_gone_is_not_put_on_an_older_full():
    later = made("20260107000000", 1, base="20260106000000")
    with pytest.raises(AmandaError) as raised:
        amanda_chain.chain([FULL, ONE, later], "web1", "/etc")
    assert "of 2026-01-06T00:00:00 that is on no tape" in str(raised.value)
    assert "the last state before that can be had is of 2026-01-02T00:00:00" in str(raised.value)


def test_increments_without_any_full_are_no_state():
    with pytest.raises(AmandaError, match="no state before that can be had"):
        amanda_chain.chain([ONE, TWO], "web1", "/etc")


def test_a_partial_dump_does_not_hide_an_older_good_one():
    good = made("20260101000000", 0)
    partial = dataclasses.replace(made("20260102000000", 0), status="PARTIAL")
    assert amanda_chain.newest([good, partial], "web1", "/etc") == good
    assert amanda_chain.chain([good, partial], "web1", "/etc") == [good]
