"""Amanda's own options that a config of the pillar may set: how each may look.

Amanda has the last word, see :func:`amanda_conf.check`; but it is asked when much has changed
already, and what it takes isn't always what it can use: a tape's length in days, for example.
"""

import re

import croniter
from amanda_pillar import quoted

# One address, as aliases(5) and Amanda's mailer take it: no pipe, no file, no option.
_ADDRESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(@[A-Za-z0-9][A-Za-z0-9.-]*)?")
_DUMPORDER = re.compile(r"[sStTbB]+")
_ESTIMATES = ("client", "server", "calcsize")
# amanda.conf(5), "Parameter types": each also with a capital, or several.
UNITS = """
    b byte bytes bps k kb kbyte kbytes kilobyte kilobytes kps kbps
    m mb meg mbyte mbytes megabyte megabytes mps mbps
    g gb gbyte gbytes gigabyte gigabytes gbps t tb tbyte tbytes terabyte terabytes tbps
""".split()
_SIZE = re.compile(r"(-?)([0-9]{1,15}) *([A-Za-z]*)")
_MOST_SECONDS = 10**6


def _whole(low, high):
    return lambda reader, key: reader.integer(key, None, low, high)


def _size(negative=False):
    def read(reader, key):
        value = reader.get(key, None)
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        fits = match and int(match[2]) > 0 and (negative or not match[1])
        if not fits or match[3].lower() not in ("", *UNITS):
            reader.fail(key, f"{quoted(value)} is no size", "Write it as '20 gbytes'.")
        return value

    return read


def _text(reader, key):
    return reader.text(key, None)


def _factor(reader, key):
    value = reader.get(key, None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 1000:
        reader.fail(key, f"{quoted(value)} is no factor", "Give a number from 1 to 1000.")
    return value


def _etimeout(reader, key):
    value = reader.integer(key, None, -_MOST_SECONDS, _MOST_SECONDS)
    if value == 0:
        reader.fail(key, "no time at all", "Give seconds for each directory; negative: for all.")
    return value


def _dumporder(reader, key):
    value = reader.get(key, None)
    if not isinstance(value, str) or not _DUMPORDER.fullmatch(value):
        remedy = "Write a letter of s, S, t, T, b, B for each dump at a time, as in amanda.conf(5)."
        reader.fail(key, f"{quoted(value)} is no order of dumps", remedy)
    return value


def _estimate(reader, key):
    value = reader.get(key, None)
    words = value.lower().split(" ") if isinstance(value, str) else []
    if not words or set(words) - set(_ESTIMATES):
        remedy = f"Choose of {', '.join(_ESTIMATES)}, in the order in which they are tried."
        reader.fail(key, f"{quoted(value)} is no way to estimate", remedy)
    return value


def _addresses(reader, key):
    """Read ``mailto`` of amanda.conf(5): addresses with a space between; none, if it is empty."""
    value = reader.get(key, None)
    words = value.split(" ") if isinstance(value, str) and value else []
    if value != "" and (not words or not all(map(_ADDRESS.fullmatch, words))):
        reader.fail(key, f"{quoted(value)} is no mail address", "Write root or ada@example.org.")
    return value


CONFIG = {
    "bumpdays": _whole(0, 10000),
    "bumpmult": _factor,
    "bumppercent": _whole(0, 100),
    "bumpsize": _size(),
    "ctimeout": _whole(1, _MOST_SECONDS),
    "dtimeout": _whole(1, _MOST_SECONDS),
    "dumporder": _dumporder,
    "estimate": _estimate,
    "etimeout": _etimeout,
    "holding-use": _size(negative=True),
    "inparallel": _whole(1, 1000),
    "mailto": _addresses,
    "maxdumps": _whole(1, 1000),
    "netusage": _size(),
    "org": _text,
}
"""The options of a config, each with the function that reads it."""

TAPETYPE = {"comment": _text, "length": _size(), "part-size": _size()}
"""The options of its tapetype."""


def read(reader, table):
    """Return Amanda's options that *table* knows, checked; underscores count as dashes.

    Raises :class:`~amanda_errors.PillarError` for a malformed or unknown one.
    """
    options = {}
    for key, value in reader.mapping.items():
        option = str(key).replace("_", "-")
        if option in table and key not in reader.known:
            reader.known.add(key)
            if value is not None:
                options[option] = table[option](reader, key)
    reader.known.update(table)
    reader.finish()
    return options


def address(reader, key, default):
    """Return one mail address or local user."""
    value = reader.get(key, default)
    if not isinstance(value, str) or not _ADDRESS.fullmatch(value):
        reader.fail(key, f"{quoted(value)} is no mail address", "Write root or ada@example.org.")
    return value


def cron(reader, key, default):
    """Return a time of cron(5) that comes, None for ``false``."""
    value = reader.get(key, default)
    if value is False:
        return None
    remedy = "Write '0 1 * * *', or false for none."
    if not isinstance(value, str) or not croniter.croniter.is_valid(value):
        reader.fail(key, f"{quoted(value)} is no cron time", remedy)
    try:
        croniter.croniter(value).get_next()
    except croniter.CroniterBadDateError:
        reader.fail(key, f"{quoted(value)} never comes", remedy)
    return value
