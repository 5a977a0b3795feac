"""A strict reader of mappings: what nobody asked for is unknown, what is malformed is named."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path

from amanda_errors import PillarError, holds_secret

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What a minion id may look like; it becomes a host name and a file name."""

CONFIG_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
"""What the name of a config may look like; Amanda takes it as an identifier, too."""

_SHOWN = 80  # characters of a value that an error shows
_MOST_DAYS = 10000  # 27 years
_SHOWN_KEY = 300  # a path may be one
_KINDS = (
    (Mapping, "a mapping"),
    ((list, tuple), "a list"),
    (str, "text"),
    ((bool, int, float), "a number"),
)

REQUIRED = object()
"""The default of a key that has none."""


class Reader:
    """Reads one mapping of the pillar, key by key; what nobody asked for is unknown."""

    def __init__(self, key, mapping, known=()):
        if not isinstance(mapping, Mapping):
            raise PillarError(key, f"a mapping is needed, not {_kind(mapping)}", "See README.md.")
        self.key = key
        self.mapping = mapping
        self.known = set(known)

    def finish(self):
        """Raise for the first key that was never read."""
        for key in self.mapping:
            if key not in self.known:
                close = difflib.get_close_matches(str(key), sorted(self.known), 1)
                hint = f"Did you mean {close[0]}?" if close else "Remove it."
                known = ", ".join(sorted(self.known))
                self.fail(key, "unknown key", f"{hint} Known: {known}.")

    def fail(self, key, problem, remedy):
        raise PillarError(f"{self.key}:{_named(key)}", problem, remedy)

    def get(self, key, default, remedy="See README.md."):
        """Return the value of *key*; None counts as absent."""
        self.known.add(key)
        value = self.mapping.get(key)
        if value is None:
            if default is REQUIRED:
                self.fail(key, "missing", remedy)
            return default
        return value

    def text(self, key, default, remedy="Write one line of text."):
        """Return one line of printable text without quotes or backslashes."""
        value = self.get(key, default, remedy)
        if value is default:
            return value
        if not isinstance(value, str) or not value.isprintable() or set(value) & set('"\\'):
            self.fail(key, f"one line of plain text is needed, not {quoted(value)}", remedy)
        return value

    def name(self, key, default, remedy):
        value = self.text(key, default, remedy)
        if not NAME.fullmatch(value):
            self.fail(
                key, f"{quoted(value)} is no name", "Use letters, digits, dot, dash, underscore."
            )
        return value

    def integer(self, key, default, low, high):
        value = self.get(key, default)
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            problem = f"{quoted(value)} is no whole number from {low} to {high}"
            self.fail(key, problem, f"Give {low} to {high}.")
        return value

    def choice(self, key, default, choices):
        value = self.get(key, default)
        if value != default and value not in choices:
            self.fail(key, f"{quoted(value)} is not known", f"Choose one of: {', '.join(choices)}.")
        return value

    def days(self, key, default):
        """Return a number of days from ``7``, ``7 days`` or ``2 weeks``."""
        value = self.get(key, default)
        days = 0
        if isinstance(value, int) and not isinstance(value, bool):
            days = value
        elif match := re.fullmatch(r"(\d{1,5}) *(day|week)s?", str(value)):
            days = int(match[1]) * (7 if match[2] == "week" else 1)
        if days < 1:
            self.fail(key, f"{quoted(value)} is no time span", "Write it as '7 days' or '2 weeks'.")
        if days > _MOST_DAYS:
            self.fail(key, f"{quoted(value)} is too long", f"Give {_MOST_DAYS} days or less.")
        return days

    def directory(self, key, default):
        value = self.text(key, default, "Name a directory.")
        if not value.startswith("/") or ".." in value.split("/") or value != str(Path(value)):
            self.fail(key, f"{quoted(value)} is no absolute path", "Write it out from /.")
        return value

    def mapping_at(self, key, default):
        return Reader(f"{self.key}:{key}", self.get(key, default))


def quoted(value):
    """Return *value* as an error may show it: short, no secret, and a container by its kind alone.

    Salt 3008 would show asterisks in a container's place.
    """
    if isinstance(value, str):
        if holds_secret(value):
            return "a secret key (not shown)"
        return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}..."
    return repr(value) if isinstance(value, bool | int | float) else _kind(value)


def find_secret(key, value):
    """Return the pillar's key, at or below *key*, whose *value* has a secret key in it, or None."""
    if isinstance(value, Mapping):
        if any(find_secret(key, name) for name in value):
            return key
        below = (find_secret(f"{key}:{name}", value[name]) for name in value)
        return next(filter(None, below), None)
    if isinstance(value, list | tuple):
        return next(filter(None, (find_secret(key, part) for part in value)), None)
    return key if isinstance(value, str) and holds_secret(value) else None


def _named(key):
    plain = isinstance(key, str) and len(key) <= _SHOWN_KEY and key.isprintable()
    return key if plain and not holds_secret(key) else quoted(key)


def _kind(value):
    """Return in YAML's words what *value* is, whatever class Salt made of it."""
    for kinds, name in _KINDS:
        if isinstance(value, kinds):
            return name
    return "nothing" if value is None else "another kind of value"
