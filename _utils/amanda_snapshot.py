"""What GNU tar remembers between dumps, cleansed of what makes its incrementals lose files.

For an incremental, tar compares each directory with its snapshot file by name, device and inode.
When a directory was renamed it records that instead of dumping the files again, and gets it wrong
as soon as names are reused. After ``mv site old; mkdir -p site/css; …`` tar 1.34 leaves the new
``site/css`` out of the dump and exits with 0; after an exchange of two names it repeats the
exchange in each later level, so that a restore swaps their files back.

Without the entries of directories that are no longer what they were, tar sees a new directory
and dumps all of it: more bytes, nothing lost, no rename to replay.

Format: GNU tar manual, "Format of the Incremental Snapshot Files", version 2.
"""

import itertools
import os
import re
from pathlib import Path

import amanda_command
from amanda_errors import AmandaError, ParseError

_HEAD = re.compile(rb"GNU tar-[^\n]{1,80}-2\n\d+\0\d+\0")
_RECORD = re.compile(rb"([01])\0-?\d+\0\d+\0(\d+)\0(\d+)\0([^\0]+)\0(?:[^\0]+\0)*\0\0")

_SNAPSHOT = "--listed-incremental"
_ARCHIVE = "--file"


def prepare(tar, arguments):
    """Cleanse the snapshot that *tar* is about to use, if it is one of an incremental dump.

    tar
        The tar to run, which may read all that is dumped; it looks at the directories once more.
    arguments
        What amgtar or runtar gives it, without the program's name. Those of a restore, a full
        dump or an estimate are left alone.

    Returns the number of entries taken out. Raises :class:`amanda_errors.AmandaError` if tar
    can't say how things are now; then no dump should be made.
    """
    snapshot = Path(_value(arguments, _SNAPSHOT) or "/dev/null")
    estimate = _value(arguments, _ARCHIVE) == "/dev/null"
    if "--create" not in arguments or estimate or not snapshot.is_file():
        return 0
    if snapshot.stat().st_size == 0:
        return 0  # a full dump
    now = snapshot.with_name(f"{snapshot.name}.{os.getpid()}")
    try:
        walk = _replaced(_replaced(arguments, _ARCHIVE, "/dev/null"), _SNAPSHOT, str(now))
        # Files that change or vanish make tar's status 1 or 2: what counts is what it writes.
        said = amanda_command.run([tar, *walk], ok=None)
        if not now.is_file():
            raise AmandaError(f"{tar} left no snapshot: {said.stderr.decode(errors='replace')}")
        return cleanse(snapshot, now)
    finally:
        now.unlink(missing_ok=True)


def cleanse(snapshot, now):
    """Rewrite *snapshot* without the directories that were renamed since.

    snapshot
        The file that tar is given with ``--listed-incremental``.
    now
        A snapshot of how things are now, as a full dump leaves it.

    Returns the number of entries taken out. Raises :class:`amanda_errors.ParseError` if either
    isn't a snapshot of version 2; the file stays as it was.
    """
    snapshot = Path(snapshot)
    content = snapshot.read_bytes()
    today = {name: place for name, place, _ in _records(Path(now).read_bytes())}
    kept, dropped = [_head(content)], 0
    for name, place, record in _records(content):
        if _is_same(place, today.get(name)):
            kept.append(record)
        else:
            dropped += 1
    if dropped:
        # In place: amgtar made the file, with its owner and mode, and gives tar its name.
        snapshot.write_bytes(b"".join(kept))
    return dropped


def _value(arguments, option):
    """Return the value of *option*, whose value is a word of its own or follows a ``=``."""
    for word, after in itertools.zip_longest(arguments, arguments[1:]):
        if word == option:
            return after
        if word.startswith(option + "="):
            return word[len(option) + 1 :]
    return None


def _replaced(arguments, option, value):
    result, words = [], iter(arguments)
    for word in words:
        if word == option:
            next(words, None)
            word = f"{option}={value}"
        elif word.startswith(option + "="):
            word = f"{option}={value}"
        result.append(word)
    return result


def _head(content):
    head = _HEAD.match(content)
    if not head:
        raise ParseError("a snapshot of GNU tar", content[:80])
    return head[0]


def _records(content):
    """Yield name, place (on NFS or not, device, inode) and bytes of each directory's entry."""
    start = len(_head(content))
    while start < len(content):
        record = _RECORD.match(content, start)
        if not record:
            raise ParseError("an entry of a tar snapshot", content[start : start + 80])
        yield record[4], (record[1], record[2], record[3]), record[0]
        start = record.end()


def _is_same(before, now):
    if now is None:
        return False
    # As tar does: an NFS file system may have another device number at each mount.
    on_nfs = before[0] == now[0] == b"1"
    return before[2] == now[2] and (on_nfs or before[1] == now[1])
