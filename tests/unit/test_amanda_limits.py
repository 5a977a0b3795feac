"""What a run may write, from what amadmin really printed of a configuration."""

import re
from pathlib import Path

import amanda_limits
import pytest
from amanda_errors import ParseError
from amanda_limits import Limits

PRINTED = (Path(__file__).parent / "captured" / "run" / "amadmin-config").read_text()


def test_each_limit_is_that_of_the_configs_own_section():
    """Others have the same options: RUNTAPES stands at the top too, LENGTH in a default type."""
    other = PRINTED.replace("RUNTAPES            1", "RUNTAPES            3")
    assert amanda_limits.parse(other, "daily") == Limits(9, 3, 20480 * 1024)


@pytest.mark.parametrize("option", ["RETENTION-TAPES", "RUNTAPES", "LENGTH"])
def test_a_limit_that_is_not_told_or_no_number_is_an_error_that_says_which(option):
    for other in ("x", f"{option} many", option):
        with pytest.raises(ParseError, match=option):
            amanda_limits.parse(re.sub(rf"(?m)^ +{option} .*$", other, PRINTED), "daily")


def test_another_configs_limits_are_not_taken_for_its_own():
    with pytest.raises(ParseError, match="weekly"):
        amanda_limits.parse(PRINTED, "weekly")
