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

import os
import re
from pathlib import Path

from amanda_errors import ParseError

_HEAD = re.compile(rb"GNU tar-[^\n]{1,80}-2\n\d+\0\d+\0")
_RECORD = re.compile(rb"[01]\0-?\d+\0\d+\0(\d+)\0(\d+)\0([^\0]+)\0(?:[^\0]+\0)*\0\0")


def cleanse(path, top):
    """Rewrite the snapshot *path* without the directories below *top* that were renamed.

    path
        The file that tar is given with ``--listed-incremental``. One that is absent or empty
        stands for a full dump and stays as it is.
    top
        The directory that tar is given with ``--directory``.

    Returns the number of entries taken out. Raises :class:`amanda_errors.ParseError` if the file
    isn't a snapshot of version 2.
    """
    path = Path(path)
    content = path.read_bytes() if path.exists() else b""
    if not content:
        return 0
    kept, dropped = _unchanged(content, os.fsencode(top))
    if dropped:
        # In place: amgtar made the file, with its owner and mode, and gives tar its name.
        path.write_bytes(kept)
    return dropped


def _unchanged(content, top):
    """Return *content* without the entries that don't fit the disk, and how many those were."""
    head = _HEAD.match(content)
    if not head:
        raise ParseError("a snapshot of GNU tar", content[:80])
    pieces, dropped, start = [head[0]], 0, head.end()
    while start < len(content):
        record = _RECORD.match(content, start)
        if not record:
            raise ParseError("an entry of a tar snapshot", content[start : start + 80])
        if _is_there(top + b"/" + record[3], int(record[1]), int(record[2])):
            pieces.append(record[0])
        else:
            dropped += 1
        start = record.end()
    return b"".join(pieces), dropped


def _is_there(path, device, inode):
    try:
        status = os.lstat(path)
    except OSError:
        return False  # gone or out of reach: tar will look itself
    return status.st_ino == inode and status.st_dev == device
