"""What waits on the holding disk for a tape, and what can never get onto one.

Every run first writes what older runs left there. A dump larger than all tapes of one run would
fill them at each run, and nothing else of the fleet would ever be written again. Such a dump is
set aside.
"""

import os
import re
import stat
from pathlib import Path

import amanda_command
import amanda_files
from amanda_errors import AmandaError, ParseError
from amanda_rights import as_user

_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\S+')
_HEADER = re.compile(r'AMANDA: FILE (\d{14}) (\S+) ("(?:[^"\\]|\\.)*"|\S+) ')
_CONTINUED = "AMANDA: CONT_FILE "
_MARGIN = 512 * 1024  # bytes of a tape that labels, headers and the end of the tape take


def images(places, user):
    """Return the dumps on the holding disk of a config, oldest first.

    A list of dicts: ``host``, ``disk`` as the disklist spells it, ``timestamp``, ``level`` and
    ``size`` in bytes, rounded up to 1024.
    """
    argv = ["amadmin", places.name, "holding", "list", "-l"]
    return parse(amanda_command.run(argv, user=user).stdout.decode(errors="replace"))


def parse(text):
    """Return what ``amadmin CONF holding list -l`` printed, as :func:`images` does.

    Raises :class:`~amanda_errors.ParseError` on a line of another form.
    """
    found = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("size (kB)"):
            continue
        word = _WORD.findall(line)
        if len(word) == 6 and word[2] == "*":  # outdated: a newer dump of the DLE is there
            del word[2]
        if len(word) != 5 or not all(re.fullmatch("[0-9]+", word[n]) for n in (0, 1, 4)):
            raise ParseError("amadmin's list of the holding disk", line)
        size, level, host, disk, stamp = word
        found.append(
            {
                "host": host,
                "disk": disk.strip('"'),
                "timestamp": stamp,
                "level": int(level),
                "size": int(size) * 1024,
            }
        )
    return sorted(found, key=lambda image: image["timestamp"])


def capacity(places, user):
    """Return how many bytes of dumps one run can write, by Amanda's own configuration."""
    name = places.name
    options = (f"storage:{name}:runtapes", f"tapetype:{name}:length")
    tapes, kilobytes = (
        int(amanda_command.run(["amgetconf", name, option], user=user).stdout) for option in options
    )
    return tapes * (kilobytes * 1024 - _MARGIN)


def set_aside(places, user):
    """Move dumps that are too large for one run's tapes out of Amanda's way.

    They go to a directory beside this config's holding disk, the newest of each DLE only, where
    they can still be read by hand. Amanda forgets the DLE's history, so that its next dump is a
    full one: an increment on top of a dump that is on no tape could never be restored.

    Returns a list of dicts: those of :func:`images`, with ``path`` and ``message``.
    """
    limit = capacity(places, user)
    large = [image for image in images(places, user) if image["size"] > limit]
    if not large:
        return []
    target = places.holding.parent / f"{places.name}.too-large"
    group = places.holding.group()
    amanda_files.apply([amanda_files.Managed(target, None, user, group, 0o700)])
    moved = []
    for image in large:
        wanted = [image["timestamp"], image["host"], image["disk"]]
        path = as_user(user, _move, str(places.holding), str(target), wanted)
        forget(places, user, image["host"], image["disk"])
        message = (
            f"the dump of {image['timestamp']} ({image['size']} bytes) is larger than the tapes "
            f"one run may write ({limit} bytes) and was set aside in {path}; raise runtapes or "
            "the tapetype's length, or split the directory"
        )
        moved.append({**image, "path": path, "message": message})
    return moved


def forget(places, user, host, disk):
    """Make Amanda forget the history of a DLE: its next dump is full, its size asked anew."""
    argv = ["amadmin", "--exact-match", places.name, "delete", host, disk]
    amanda_command.run(argv, user=user)


def _move(holding, target, wanted):
    """Move the files of one dump, as the dump user; return the directory they are in now."""
    stamp, host, disk = wanted
    source = Path(holding, stamp)
    heads = {file: _head(source / file) for file in sorted(os.listdir(source))}
    found = [file for file, head in heads.items() if _identity(head) == wanted]
    if not found:
        raise AmandaError(f"Amanda lists a dump of {host} {disk} in {source}, but no file is it")
    name = found[0]
    aside = Path(target, name.rpartition(".")[0])
    aside.mkdir(mode=0o700, exist_ok=True)
    for old in os.listdir(aside):
        (aside / old).unlink()
    for file, head in heads.items():
        rest = file.removeprefix(f"{name}.")
        if file == name or (rest.isdecimal() and head.startswith(_CONTINUED)):
            (source / file).rename(aside / f"{stamp}.{file}")
    return str(aside)


def _identity(head):
    match = _HEADER.match(head)
    return match and [match[1], match[2], match[3].strip('"')]


def _head(path):
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return ""
        return file.read(4096).decode(errors="replace")
