"""What is rendered from the fleet, and what Amanda may be given; real readers judge elsewhere."""

import datetime
import random
import re

import amanda_collect
import amanda_disklist
import amanda_dle
import amanda_fleet
import pytest
from amanda_errors import AmandaError
from amanda_fleet import Fleet

from tests.unit.fleets import directories, host_keys, key, minion_id, path, pattern, settings

DUMPTYPE = "encrypt-amgtar-ssh"
DAY = datetime.datetime(2026, 1, 20, tzinfo=datetime.timezone.utc)
SETTINGS = settings(configs={"daily": {}, "weekly": {}})


def fleet(previous=None, keys=None, **paths):
    keys = keys or {name: host_keys(number + 1) for number, name in enumerate(sorted(paths))}
    return amanda_collect.collect(paths, keys, previous or Fleet(), SETTINGS, DAY)[0]


def body(text):
    first, _, rest = text.partition("\n")
    assert first.startswith("# ") and text.endswith("\n")
    return rest.splitlines()


def test_a_directory_without_options_is_one_line():
    rendered = amanda_disklist.disklist(fleet(web1=directories("/etc", "/a b")), "daily", DUMPTYPE)
    assert body(rendered) == [f'web1 "/a b" {DUMPTYPE}', f'web1 "/etc" {DUMPTYPE}']


def test_options_stand_in_a_block():
    options = {"/srv": {"exclude": ["./tmp", '\\*"x'], "mounts": "include"}}
    rendered = amanda_disklist.disklist(fleet(web1=directories(**options)), "daily", DUMPTYPE)
    assert body(rendered) == [
        'web1 "/srv" {',
        f"    {DUMPTYPE}-mounts",
        '    exclude file append "./tmp"',
        '    exclude file append "[*]\\"x"',
        "}",
    ]


def test_a_dumptype_that_can_not_follow_mounts_is_never_given_a_name_amanda_lacks():
    one = fleet(web1=directories(**{"/srv": {"mounts": "include"}}))
    rendered = amanda_disklist.disklist(one, "daily", "encrypt-gnutar-ssh")
    assert body(rendered) == ['web1 "/srv" encrypt-gnutar-ssh']


def test_a_directory_is_dumped_by_one_config_only():
    one = fleet(web1=directories("/etc", **{"/srv": {"config": "weekly"}}))
    assert body(amanda_disklist.disklist(one, "daily", DUMPTYPE)) == [f'web1 "/etc" {DUMPTYPE}']
    assert body(amanda_disklist.disklist(one, "weekly", DUMPTYPE)) == [f'web1 "/srv" {DUMPTYPE}']


IGNORED = ['web1 "/srv" {', f"    {DUMPTYPE}", "    ignore yes", "}"]


def test_a_retired_directory_stays_known_and_is_ignored():
    one = amanda_fleet.retire(fleet(web1=directories("/srv")), "web1")
    assert body(amanda_disklist.disklist(one, "daily", DUMPTYPE)) == IGNORED


def test_a_directory_that_moved_stays_known_to_its_former_config():
    one = fleet(web1=directories("/srv"))
    one = fleet(one, web1=directories(**{"/srv": {"config": "weekly"}}))
    assert body(amanda_disklist.disklist(one, "daily", DUMPTYPE)) == IGNORED
    assert body(amanda_disklist.disklist(one, "weekly", DUMPTYPE)) == [f'web1 "/srv" {DUMPTYPE}']


def test_a_missing_directory_is_still_dumped():
    one = fleet(fleet(web1=directories("/etc", "/srv")), web1=directories("/etc"))
    assert f'web1 "/srv" {DUMPTYPE}' in amanda_disklist.disklist(one, "daily", DUMPTYPE)


@pytest.mark.parametrize(
    ("written", "given"),
    [
        ("./tmp", "./tmp"),
        ("*.o", "*.o"),
        ("#*#", "#*#"),
        ("./new?line", "./new?line"),
        ("\\*", "[*]"),
        ("a\\?b\\[c", "a[?]b[[]c"),
        ("a\\\\b", "a\\b"),
        ("\\a", "a"),
        ("[a-z]x", "[a-z]x"),
        ("[!]]x", "[!]]x"),
        ("[[:digit:]]", "[[:digit:]]"),
        ("a[b", "a[[]b"),
        ("a[]", "a[[]]"),
        ("a ", "a[ ]"),
        ("a  ", "a [ ]"),
        ("é'\"", "é'\""),
    ],
)
def test_a_pattern_is_given_to_amanda_so_that_tar_reads_what_was_written(written, given):
    assert amanda_dle.amanda_pattern(written) == given


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("", "a pattern is a text"),
        (None, "a pattern is a text"),
        ("/srv/tmp", r"write \./tmp"),
        ("./tmp/", "slash at its end"),
        ("./*", "exclude everything"),
        ("a\\", "escapes nothing"),
        ("[\\]]", "inside"),
        ("[[.a.]]", "inside"),
        ("a\tb", "unprintable"),
        ("a\ud800", "unprintable"),
    ],
)
def test_a_pattern_that_would_mean_something_else_is_refused(bad, why):
    with pytest.raises(ValueError, match=why):
        amanda_dle.amanda_pattern(bad)


def test_the_ssh_configuration_binds_each_id_to_address_and_port():
    one = fleet(keys={"Web1": host_keys(1, "2001:db8::1", port=2222)}, Web1=directories("/etc"))
    text = amanda_disklist.ssh_config(one, "/k/id", "/k/known", "/run/c")
    lines = [line.strip() for line in body(text)]
    assert lines[:4] == ["Host Web1", "HostName 2001:db8::1", "Port 2222", "HostKeyAlias Web1"]
    assert re.fullmatch(r"ControlPath /run/c/[0-9a-f]{32}", lines[4])
    assert lines[5:8] == ["Host *", "IdentityFile /k/id", "UserKnownHostsFile /k/known"]
    assert "StrictHostKeyChecking yes" in lines


def test_the_shared_connection_is_another_one_after_the_pin_changed():
    def sockets(*keys):
        texts = [
            amanda_disklist.ssh_config(
                fleet(keys={"web1": each}, web1=directories("/etc")), "/i", "/k", "/c"
            )
            for each in keys
        ]
        return [re.search(r"ControlPath (/c/\S+)", text)[1] for text in texts]

    same, again, other_key, other_port = sockets(
        host_keys(1), host_keys(1), host_keys(2, "192.0.2.1"), host_keys(1, port=23)
    )
    assert same == again
    assert len({same, other_key, other_port}) == 3


@pytest.mark.parametrize("control", ["/" + "x" * 57, "/a b", "/a%h", "relative", "/a\nb", "/a'b"])
def test_a_directory_that_can_not_hold_sockets_is_refused(control):
    with pytest.raises(AmandaError):
        amanda_disklist.ssh_config(Fleet(), "/i", "/k", control)
    amanda_disklist.ssh_config(Fleet(), "/i", "/k", "/" + "x" * 56)


def test_known_hosts_has_each_clients_keys_and_a_retired_ones_none():
    one = fleet(web1=directories("/etc"), db1=directories("/etc"))
    assert body(amanda_disklist.known_hosts(one)) == [f"db1 {key(1)}", f"web1 {key(2)}"]
    one = amanda_fleet.retire(one, "db1")
    assert body(amanda_disklist.known_hosts(one)) == [f"web1 {key(2)}"]
    assert "Host db1" not in amanda_disklist.ssh_config(one, "/i", "/k", "/c")


WORD = re.compile(r'"((?:\\.|[^"\\])*)"')


def read(text):
    """Read a disklist by the rules of disklist(5), as simply as can be."""
    dles, block = [], None
    for line in body(text):
        if block is not None:
            if line == "}":
                block = None
            elif line.startswith("    exclude file append "):
                quoted = WORD.fullmatch(line.removeprefix("    exclude file append "))
                block.append(re.sub(r"\\(.)", r"\1", quoted[1]))
            else:
                assert line == f"    {DUMPTYPE}"
        else:
            host, rest = line.split(" ", 1)
            quoted = WORD.match(rest)
            tail = rest[quoted.end() :]
            assert tail in (" {", f" {DUMPTYPE}")
            dles.append((host, quoted[1], []))
            block = dles[-1][2] if tail == " {" else None
    return dles


def test_whatever_is_let_in_is_read_back_from_the_disklist():
    chance = random.Random(3)
    seen = 0
    for _ in range(600):
        options = {path(chance): {"exclude": [pattern(chance)]} for _ in range(3)}
        name = minion_id(chance)
        published = {name: directories(**options, **{path(chance): None})}
        one = amanda_collect.collect(published, {name: host_keys(1)}, Fleet(), SETTINGS)[0]
        expected = [
            (client.id, each.path, [amanda_dle.amanda_pattern(item) for item in each.exclude])
            for client in one.clients
            for each in client.directories
        ]
        assert read(amanda_disklist.disklist(one, "daily", DUMPTYPE)) == expected
        seen += len(expected)
    assert seen > 300
