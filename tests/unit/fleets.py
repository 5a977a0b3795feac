"""What clients publish, true and hostile, for the tests of the fleet."""

import functools
import random

import amanda_fleet
import amanda_settings
import amanda_ssh
from cryptography.hazmat.primitives.asymmetric import ed25519

NOW = "2026-01-10T00:00:00+00:00"
LATER = "2026-02-10T00:00:00+00:00"


@functools.cache
def key(number):
    """Return a public key, the same for the same number."""
    private = ed25519.Ed25519PrivateKey.from_private_bytes(random.Random(number).randbytes(32))
    return amanda_ssh._serialise(private.public_key())


def settings(**pillar):
    """Return the settings of the server ``server``."""
    return amanda_settings.parse({"server": "server", **pillar}, "server")


def directories(*paths, time=NOW, **options):
    """Return what a client publishes that has these directories."""
    merged = {**dict.fromkeys(paths), **options}
    return {**amanda_fleet.published_directories({}, merged), "time": time}


def host_keys(number, address=None, time=NOW, **changes):
    """Return what a client publishes of its SSH server: number gives key and address."""
    address = address or f"192.0.2.{number}"
    published = amanda_fleet.published_host_keys([key(number)], address, 22)
    return {**published, "time": time, **changes}


JUNK = [
    None,
    True,
    0,
    -1,
    2**70,
    1.5,
    float("nan"),
    "",
    "x",
    "\ud800",
    "\x00",
    "a\nb",
    "\x1b[2J",
    "\u202egnp",
    "x" * 100000,
    '"; rm',
    "../../etc",
    "/etc\n/home",
    "192.0.2.1 22",
    b"bytes",
    [],
    {},
    [[[[]]]],
    {"a": {"b": [None]}},
    {1: 2},
    {None: None},
    {("a", 1): {}},
    ("tuple",),
    [0] * 5000,
    {"version": 1},
    {"/etc": {"exclude": [7]}},
    {"/etc": 7},
    "include",
    "2026-01-10T00:00:00+00:00",
    "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+23:59",
    "127.0.0.1",
    "::1",
    "0.0.0.0",
    "fe80::1%eth0",
    "127.1",
    "localhost",
    "*",
    "!web1",
    "ssh-ed25519 AAAA",
    'command="id" ssh-ed25519 AAAA',
]


def spoil(value, chance):
    """Return *value* with some part of it, at any depth, replaced by or joined with junk."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        spoiled = dict(value)
        where = chance.choice(list(spoiled))
        kind = chance.random()
        if kind < 0.6:
            spoiled[where] = spoil(spoiled[where], chance)
        elif kind < 0.75:
            del spoiled[where]
        else:
            spoiled[chance.choice([*_hashable(), "extra"])] = chance.choice(JUNK)
        return spoiled
    if isinstance(value, list) and value and chance.random() < 0.8:
        where = chance.randrange(len(value))
        return [*value[:where], spoil(value[where], chance), *value[where + 1 :]]
    if isinstance(value, str) and value and chance.random() < 0.5:
        where = chance.randrange(len(value))
        return value[:where] + chance.choice(LETTERS) + value[where:]
    return chance.choice(JUNK)


def _hashable():
    return [each for each in JUNK if not isinstance(each, (list, dict))]


LETTERS = [*" \t\n\r\x00\x1b\\\"'`$#%&*?[]{}()<>|;:,!~=+-_./@^", "é", "ü", "日", "\ud800", "\u202e"]


def path(chance):
    """Return the path of a directory, mostly with letters that are hard somewhere."""
    parts = []
    for _ in range(chance.randint(1, 4)):
        letters = [*"abcXYZ019", *LETTERS] if chance.random() < 0.5 else [*"abcXYZ019 .-_é日"]
        parts.append("".join(chance.choice(letters) for _ in range(chance.randint(1, 8))))
    return "/" + "/".join(parts)


def pattern(chance):
    """Return an exclude pattern, mostly a hard one."""
    pieces = ["./", "*", "?", "[", "]", "[!a]", "[a-z]", "[[:digit:]]", "\\*", "\\\\", "a", "b c"]
    return "".join(chance.choice([*pieces, *LETTERS]) for _ in range(chance.randint(1, 8)))


def minion_id(chance):
    """Return the id of a minion, true or hostile."""
    if chance.random() < 0.1:
        return chance.choice(_hashable())
    letters = "abcXYZ019._-" if chance.random() < 0.9 else LETTERS
    return "".join(chance.choice(letters) for _ in range(chance.randint(1, 12)))
