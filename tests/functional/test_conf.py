"""Amanda itself reads what the pillar may say; as root on a host with Amanda's server."""

import dataclasses
import os

import amanda_conf
import amanda_options
import amanda_platform
import amanda_settings
import pytest
from amanda_errors import AmandaError, PillarError

from tests.functional.ssh_fleet import FILES

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root and Amanda")

TEMPLATE = (FILES / "amanda.conf.jinja").read_text(encoding="utf-8")


def ask(template=TEMPLATE, options=None, tapetype=None, **daily):
    """Have Amanda read a config; *options* and *tapetype* are not looked at by us before."""
    settings = amanda_settings.parse({"server": "s", "configs": {"daily": daily}}, "s")
    config = settings.config("daily")
    config = dataclasses.replace(
        config,
        options=options or config.options,
        tapetype=tapetype or config.tapetype,
    )
    text = amanda_conf.render(template, settings, config, amanda_platform.detect())
    amanda_conf.check(text, "backup", config)


@pytest.mark.parametrize("unit", amanda_options.UNITS)
def test_amanda_takes_every_unit_that_we_let_through(unit):
    settings = amanda_settings.parse(
        {"server": "s", "configs": {"daily": {"tapetype": {"length": f"10000000 {unit}"}}}}, "s"
    )
    ask(bumpsize=f"10000000 {unit}", tapetype=settings.config("daily").tapetype)


def test_amanda_takes_every_option_that_we_let_through():
    ask(
        bumpdays=0,
        bumpmult=1.5,
        bumppercent=100,
        ctimeout=1,
        dtimeout=1,
        dumporder="sStTbB",
        estimate="calcsize client server",
        etimeout=-300,
        holding_use="-500 mbytes",
        inparallel=1000,
        mailto="root ada@example.org",
        maxdumps=1000,
        netusage="80000",
        org="ours",
    )


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"options": {"bumpsize": "x"}}, "backup:configs:daily:bumpsize"),
        ({"options": {"estimate": "foo"}}, "backup:configs:daily:estimate"),
        ({"options": {"holding-use": "10%"}}, "backup:configs:daily:holding-use"),
        ({"tapetype": {"length": "20 bananas"}}, "backup:configs:daily:tapetype:length"),
        ({"bumpsize": "999999999999999 tbytes"}, "backup:configs:daily:bumpsize"),
        ({"tapetype": {"part-size": "x"}}, "backup:configs:daily:tapetype:part-size"),
    ],
)
def test_what_amanda_alone_objects_to_is_named_by_the_key_of_the_pillar(given, key):
    with pytest.raises(PillarError, match="Amanda can't read it: 'amanda.conf', line") as caught:
        ask(**given)
    assert caught.value.key == key


def test_what_the_pillar_did_not_say_is_no_fault_of_the_pillar():
    with pytest.raises(AmandaError, match="Amanda can't read this amanda.conf") as caught:
        ask(TEMPLATE.replace("dumpcycle {{", "dumpcicle {{"), bumpsize="10 mbytes")
    assert not isinstance(caught.value, PillarError)
