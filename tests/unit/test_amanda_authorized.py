"""The lines of doors in authorized_keys: one more for a moment, and no trace of it afterwards."""

import re
import time

import amanda_authorized
import pytest
from amanda_errors import AmandaError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB"
SERVER = 'restrict,from="192.0.2.7,2001:db8::/64",command="/usr/lib/amanda/amandad -auth=ssh" '
SERVER += f"{KEY}c2VydmVy amanda-server:server1"
OTHERS = f"# a comment amanda-door:x\n{KEY}b3RoZXI= amanda-dooring\nodd \x0b \u2028 x\n\n"


def door():
    return amanda_authorized.door_line(
        f"{KEY}ZG9vcg==",
        amanda_authorized.sources(SERVER, "server1"),
        "/usr/local/lib/salt-amanda/deliver",
        "20261123T120000Z-abcdef",
        600,
    )


def test_a_door_lets_one_key_in_from_where_the_server_comes_to_one_program_for_a_while():
    found = re.fullmatch(
        r'restrict,from="192\.0\.2\.7,2001:db8::/64",expiry-time="([0-9]{14})",'
        r'command="/usr/local/lib/salt-amanda/deliver 20261123T120000Z-abcdef" '
        rf"{KEY}ZG9vcg== amanda-door:20261123T120000Z-abcdef",
        door(),
    )
    expiry = time.mktime(time.strptime(found[1], "%Y%m%d%H%M%S"))
    assert 590 < expiry - time.time() < 610


def test_doors_are_taken_out_and_all_else_stays_as_it_is():
    text = f"{OTHERS}{SERVER}\n"
    assert amanda_authorized.without_doors(text) == text
    assert amanda_authorized.without_doors(f"{text}{door()}\n") == text
    assert amanda_authorized.without_doors(f"{door()}\n{text}{door()}\n") == text
    assert amanda_authorized.without_doors("") == ""


def test_the_servers_line_stays_beside_a_door():
    both = f"{OTHERS}{SERVER}\n{door()}\n"
    assert amanda_authorized.with_line(both, SERVER) == both


@pytest.mark.parametrize(
    "text",
    [
        "",
        OTHERS,
        SERVER.replace("server1", "server10"),
        SERVER.replace("restrict,", "pty,"),
        f"# {SERVER}",
    ],
)
def test_without_the_servers_line_nobody_knows_from_where_it_comes(text):
    with pytest.raises(AmandaError, match="doesn't let server1 in yet: apply the state backup"):
        amanda_authorized.sources(text, "server1")
