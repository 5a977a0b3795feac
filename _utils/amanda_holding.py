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
import amanda_limits
import amanda_log
from amanda_errors import AmandaError, ParseError
from amanda_rights import as_user

# amadmin quotes names as Perl does, everybody else as Amanda's C library does.
_WORD = re.compile(r"'(?:[^'\\]|\\.)*'|\S+")
_FIRST = "AMANDA: FILE "
_CONTINUED = "AMANDA: CONT_FILE "
_MARGIN = 512 * 1024  # bytes of a tape that labels, headers and the end of the tape take


def images(places, user):
    """Return the dumps on the holding disk of a config, oldest first.

    A list of dicts: ``host``, ``disk`` as the disklist spells it, ``timestamp``, ``level`` and
    ``size`` in bytes, rounded up to 1024.
    """
    argv = ["amadmin", places.name, "holding", "list", "-l"]
    return parse(amanda_command.run(argv, user=user).stdout.decode(errors="replace"))


def told(waiting):
    """Return in words what *waiting*, images, are."""
    names = [f"{each['host']} {each['disk']} of {each['timestamp']}" for each in waiting[:5]]
    more = " …" if len(waiting) > 5 else ""
    return f"on the holding disk, for the next run: {len(waiting)} ({', '.join(names)}{more})"


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
                "disk": _unquoted(disk),
                "timestamp": stamp,
                "level": int(level),
                "size": int(size) * 1024,
            }
        )
    return sorted(found, key=lambda image: image["timestamp"])


def _unquoted(word):
    return re.sub(r"\\(.)", r"\1", word[1:-1]) if word.startswith("'") else word


def capacity(places, user):
    """Return how many bytes of dumps one run can write, by Amanda's own configuration."""
    limits = amanda_limits.read(places.name, user)
    return limits.runtapes * (limits.length - _MARGIN)


def set_aside(places, user):
    """Move dumps that are too large for one run's tapes out of Amanda's way.

    They go to a directory beside this config's holding disk, the newest of each DLE only, where
    they can still be read by hand; see :func:`forget`.

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
    """Make Amanda forget the dumps of a DLE, but not how well it compresses.

    Its next dump is a full one, since what it would be an increment to is on no tape. Its size is
    asked of the client, not taken from history, so that it is dumped again as soon as it fits; the
    ratio of compression keeps the planner from trying before.
    """
    admin = ["amadmin", "--exact-match", places.name]
    known = amanda_command.run([*admin, "export", host, disk], user=user).stdout
    amanda_command.run([*admin, "delete", host, disk], user=user)
    amanda_command.run([*admin, "import"], user=user, stdin=without_dumps(known))


def without_dumps(export):
    """Return what ``amadmin export`` wrote, bytes, without the dumps it tells of."""
    kept = []
    for line in export.splitlines(keepends=True):
        if line.startswith(b"last_level:"):
            kept.append(b"last_level: -1 -1\n")
        elif not line.startswith((b"stats:", b"history:")):
            kept.append(line)
    return b"".join(kept)


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
    """Return timestamp, host and disk of the dump whose first file begins with *head*."""
    words = amanda_log.split(head.partition("\n")[0]) if head.startswith(_FIRST) else None
    return words[2:5] if words else None


def _head(path):
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return ""
        return file.read(4096).decode(errors="replace")
