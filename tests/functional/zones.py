"""The time zone that this host is really in, changed for as long as a test needs it."""

import contextlib
import importlib.resources
import os
import time
from pathlib import Path

ZONES = Path(str(importlib.resources.files("tzdata"))) / "zoneinfo"
"""A bare Debian has no zones; those come with croniter, by dateutil."""
_LOCALTIME = Path("/etc/localtime")


@contextlib.contextmanager
def time_zone(name):
    """Put the host into a time zone, for this block; processes that ran before don't see it."""
    before = os.readlink(_LOCALTIME) if _LOCALTIME.is_symlink() else None
    assert before or not _LOCALTIME.exists(), "the zone is no link: it could not be put back"
    assert (ZONES / name).is_file()
    _put(ZONES / name)
    try:
        yield
    finally:
        _put(before)
        time.tzset()


def _put(target):
    _LOCALTIME.unlink(missing_ok=True)
    if target:
        _LOCALTIME.symlink_to(target)
