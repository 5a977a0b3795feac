"""A strict reader of mappings: what nobody asked for is unknown, what is malformed is named."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path

from amanda_errors import PillarError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What a minion id may look like; it becomes a host name and a file name."""

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
                raise PillarError(f"{self.key}:{key}", "unknown key", f"{hint} Known: {known}.")

    def fail(self, key, problem, remedy):
        raise PillarError(f"{self.key}:{key}", problem, remedy)

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
            self.fail(key, f"one line of plain text is needed, not {value!r}", remedy)
        return value

    def name(self, key, default, remedy):
        value = self.text(key, default, remedy)
        if not NAME.fullmatch(value):
            self.fail(key, f"{value!r} is no name", "Use letters, digits, dot, dash, underscore.")
        return value

    def integer(self, key, default, low, high):
        value = self.get(key, default)
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fail(key, f"{value!r} is no whole number", f"Give {low} to {high}.")
        return value

    def choice(self, key, default, choices):
        value = self.get(key, default)
        if value != default and value not in choices:
            self.fail(key, f"{value!r} is not known", f"Choose one of: {', '.join(choices)}.")
        return value

    def days(self, key, default):
        """Return a number of days from ``7``, ``7 days`` or ``2 weeks``."""
        value = self.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
        match = re.fullmatch(r"(\d{1,5}) *(day|week)s?", str(value))
        if not match or int(match[1]) < 1:
            self.fail(key, f"{value!r} is no time span", "Write it as '7 days' or '2 weeks'.")
        return int(match[1]) * (7 if match[2] == "week" else 1)

    def directory(self, key, default):
        value = self.text(key, default, "Name a directory.")
        if not value.startswith("/") or ".." in value.split("/") or value != str(Path(value)):
            self.fail(key, f"{value!r} is no absolute path", "Write it out from /.")
        return value

    def mapping_at(self, key, default):
        return Reader(f"{self.key}:{key}", self.get(key, default))


def _kind(value):
    return "nothing" if value is None else type(value).__name__
