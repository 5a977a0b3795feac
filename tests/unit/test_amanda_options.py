"""Amanda's options in the pillar: what can't be is named by its key before Amanda sees it."""

import amanda_settings
import pytest
from amanda_errors import PillarError


def options(**daily):
    settings = amanda_settings.parse({"server": "s", "configs": {"daily": daily}}, "s")
    return settings.config("daily")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("bumpdays", -1),
        ("bumpdays", "2"),
        ("bumpmult", 0.5),
        ("bumpmult", True),
        ("bumppercent", 101),
        ("bumpsize", "x"),
        ("bumpsize", "10 foobytes"),
        ("bumpsize", "-10 mbytes"),
        ("bumpsize", "1.5 mbytes"),
        ("bumpsize", 20),
        ("ctimeout", 0),
        ("dtimeout", 2.5),
        ("dumporder", "zz"),
        ("dumporder", ""),
        ("estimate", "foo"),
        ("estimate", "client foo"),
        ("estimate", ""),
        ("etimeout", 0),
        ("holding-use", "10%"),
        ("holding-use", "0 mbytes"),
        ("holding_use", "much"),
        ("inparallel", 0),
        ("maxdumps", 0),
        ("mailto", "|sh"),
        ("mailto", "root;reboot"),
        ("mailto", "-s"),
        ("mailto", "root\nada"),
        ("mailto", "root  ada"),
        ("mailto", ["root"]),
        ("netusage", "fast"),
        ("org", "two\nlines"),
        ("cron", "0 0 30 2 *"),
        ("cron", "0 25 * * *"),
        ("cron", True),
    ],
)
def test_what_an_option_can_not_be_is_named_by_its_key(option, value):
    with pytest.raises(PillarError) as caught:
        options(**{option: value})
    assert caught.value.key == f"backup:configs:daily:{option}"
    assert caught.value.remedy


@pytest.mark.parametrize("value", ["20 foobytes", "1 day", "1 tape", "0", "-20 gbytes", 20])
def test_what_a_tape_s_length_can_not_be_is_named_by_its_key(value):
    with pytest.raises(PillarError) as caught:
        options(tapetype={"length": value})
    assert caught.value.key == "backup:configs:daily:tapetype:length"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("bumpmult", 1.5),
        ("bumpsize", "10 Mbytes"),
        ("bumpsize", "10mb"),
        ("dumporder", "sSbBtT"),
        ("estimate", "calcsize"),
        ("estimate", "server client"),
        ("etimeout", -300),
        ("holding-use", "-500 mbytes"),
        ("mailto", "ada@example.org root"),
        ("mailto", ""),
        ("netusage", "80000"),
    ],
)
def test_what_amanda_takes_is_passed_on_as_it_is(option, value):
    assert options(**{option: value}).options == {option: value}


def test_an_option_left_empty_is_amanda_s_own():
    assert options(bumpsize=None).options == {}


@pytest.mark.parametrize("cron", ["0 1 * * *", "0 0 29 2 *", "*/10 * * * 1-5"])
def test_a_time_that_comes_is_taken_however_seldom(cron):
    assert options(cron=cron).cron == cron
