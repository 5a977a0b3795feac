"""Values from strangers, one function a kind: checked and returned in one form, or refused.

A refusal says in the administrator's words what is wrong; it never shows more than a bounded,
printable part of what was sent.
"""

import datetime
import ipaddress
import re
from collections.abc import Mapping

import amanda_dle
from amanda_dle import shown
from amanda_errors import AmandaError
from amanda_pillar import CONFIG_NAME
from amanda_ssh import parse_public_key

KEYS_LIMIT = 8
# The last part of a name begins with a letter, else getaddrinfo(3) reads 127.1 as an address.
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")


class Refused(Exception):
    """A value is not what it must be; the message says why."""


class Findings(list):
    """What the administrator should know of a collection; see :mod:`amanda_collect`."""

    def add(self, kind, minion_id, message, path=None):
        """Add a finding about *minion_id*, which may be anything."""
        self.append(
            {"id": amanda_dle.name(minion_id), "path": path, "kind": kind, "message": message}
        )


def fields(value, names, optional=()):
    """Return *value*, which must be a mapping that has all *names* and at most *optional* more."""
    if not isinstance(value, Mapping):
        raise Refused(f"a mapping is needed, not {shown(value)}")
    for name in value:
        if name not in names and name not in optional:
            known = ", ".join([*names, *optional])
            raise Refused(f"unknown key {shown(name)}; known are {known}")
    missing = [name for name in names if name not in value]
    if missing:
        raise Refused(f"the key {missing[0]} is missing")
    return value


def version(value):
    """Check the version of a publication."""
    if type(value) is not int or value != 1:
        raise Refused("its version is unknown; sync the modules of client and server alike")


def minion_id(value):
    """Return *value* if it can be a host of the disklist."""
    problem = amanda_dle.id_problem(value)
    if problem:
        raise Refused(f"the minion id {shown(value)}: {problem}")
    return value


def path(client, value):
    """Return *value* if it is one that was taken in as a directory of *client*."""
    return _path(client, value, amanda_dle.path_problem)


def published_path(client, value):
    """Return *value* if it can be a directory of *client* from now on."""
    return _path(client, value, amanda_dle.published_problem)


def _path(client, value, problem_of):
    problem = problem_of(value) or amanda_dle.dle_problem(client, value)
    if problem:
        raise Refused(f"{problem}. Back up the directory above it, or rename it")
    return value


def exclude(value):
    """Return a list of exclude patterns as a tuple."""
    if not isinstance(value, list | tuple):
        raise Refused("exclude is a list of patterns: ['./tmp', '*.o']")
    if len(value) > amanda_dle.PATTERNS_LIMIT:
        raise Refused(f"exclude holds more than {amanda_dle.PATTERNS_LIMIT} patterns")
    for pattern in value:
        try:
            amanda_dle.amanda_pattern(pattern)
        except ValueError as error:
            raise Refused(f"exclude pattern {shown(pattern)}: {error}") from error
    return tuple(value)


def config(value):
    """Return the name of a config."""
    if not isinstance(value, str) or not CONFIG_NAME.fullmatch(value):
        raise Refused(f"{shown(value)} is no name of a config")
    return value


def port(value):
    """Return a TCP port."""
    if type(value) is not int or not 0 < value < 65536:
        raise Refused(f"{shown(value)} is no port: give 1 to 65535")
    return value


def address(value, loopback=False):
    """Return an address or host name, in the one form by which two can be compared.

    loopback
        Whether the machine itself may be meant: only the server is its own client.
    """
    if not isinstance(value, str) or len(value) > 253:
        raise Refused(f"{shown(value)} is no address")
    try:
        found = ipaddress.ip_address(value)
    except ValueError:
        return _host_name(value, loopback)
    found = getattr(found, "ipv4_mapped", None) or found
    if getattr(found, "scope_id", None) or not _is_usable(found, loopback):
        raise Refused(f"{shown(value)} is no address at which the server could reach it")
    return str(found)


def _is_usable(found, loopback):
    if found.is_loopback:
        return loopback
    reserved = found.is_reserved and found.version == 4
    return not (found.is_multicast or found.is_unspecified or found.is_link_local or reserved)


def _host_name(value, loopback):
    name = value.lower().removesuffix(".")
    if not _HOST.fullmatch(name):
        raise Refused(f"{shown(value)} is no address: write it as 192.0.2.7")
    if not loopback and (name == "localhost" or name.endswith(".localhost")):
        raise Refused(f"{shown(value)} is the server itself")
    return name


def keys(value):
    """Return SSH public keys, parsed and serialised anew, sorted, as a tuple."""
    if not isinstance(value, list | tuple) or not 0 < len(value) <= KEYS_LIMIT:
        raise Refused(f"keys is a list of 1 to {KEYS_LIMIT} SSH host keys")
    try:
        return tuple(sorted({parse_public_key(key) for key in value}))
    except AmandaError as error:
        raise Refused(str(error)) from error


def moment(value):
    """Return a time, ISO 8601 with its offset, in UTC and in one form, so that text compares."""
    try:
        if not isinstance(value, str) or len(value) > 40:
            raise ValueError
        parsed = datetime.datetime.fromisoformat(value)
        if parsed.tzinfo is None:
            raise ValueError
        utc = parsed.astimezone(datetime.timezone.utc)
    except (ValueError, OverflowError) as error:
        raise Refused(
            f"{shown(value)} is no time: write it as 2026-01-31T12:00:00+00:00"
        ) from error
    return utc.isoformat(timespec="seconds")


def optional_moment(value):
    """Return a time as :func:`moment` does, or None."""
    return None if value is None else moment(value)
