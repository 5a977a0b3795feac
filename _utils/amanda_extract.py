"""From one dump's stream into a directory: the members that are wanted, and no others.

tar gets an archive made of just those members, as they stand in the dump: no list of names, whose
matching costs tar a search per member, and no pattern. What makes the content safe is tar's own
care (no ``..``, no absolute name, links that lead out made last), in a directory that nobody else
can enter.
"""

import contextlib
import dataclasses
import errno
import os
import re
import subprocess
import tempfile

import amanda_command
from amanda_errors import CommandError
from amanda_tarstream import END, LINK, TarReader
from amanda_tree import is_below

TAR = (
    "tar",
    "--extract",
    "--file=-",
    "--preserve-permissions",
    "--same-owner",
    "--numeric-owner",
    "--xattrs",
    "--xattrs-include=*",  # without it tar brings back the user namespace alone
    "--acls",
    "--selinux",
)


# At the ends of lines, where no name stands. tar says the last of a write that came to the end of
# the room half way.
_NO_ROOM = re.compile(
    rb": (?:No space left on device|Disk quota exceeded|Wrote only \d+ of \d+ bytes)$", re.MULTILINE
)


@dataclasses.dataclass
class Wanted:
    """What to take from a dump.

    files
        Names of members that are no directories, a set of bytes.
    top
        Take the directories from here downwards; None takes none.
    """

    files: set
    top: bytes | None = None

    def __contains__(self, member):
        if member.is_directory:
            return self.top is not None and is_below(member.name, self.top)
        return member.name in self.files


@dataclasses.dataclass
class Extracted:
    """What came of it.

    missing
        Files that were wanted and aren't in the dump, a set: gone before tar came to read them,
        or of a kind that tar doesn't store, as sockets.
    links
        Wanted hard links that were left out because what they link to isn't wanted: name → that
        other name.
    """

    missing: set
    links: dict


class Untar:
    """A tar that extracts into *root* what is written to it; leaving the block ends it.

    Raises :class:`amanda_errors.CommandError` with tar's words if it fails, and :class:`OSError`
    with ENOSPC if that was for want of room.
    """

    def __init__(self, root):
        self._root = root

    def __enter__(self):
        self._argv = [*TAR, f"--directory={os.fspath(self._root)}"]
        self._stderr = tempfile.TemporaryFile()
        self._tar = amanda_command.popen(
            self._argv, stdin=subprocess.PIPE, stdout=self._stderr, stderr=self._stderr
        )
        return self

    def write(self, data):
        """Give tar more of its archive."""
        try:
            self._tar.stdin.write(data)
        except BrokenPipeError:
            self._finish()
            raise

    def __exit__(self, kind, error, trace):
        with self._stderr:
            if kind is not None:
                self._tar.kill()
                self._close()
                return
            self.write(END)
            self._finish()

    def _finish(self):
        """Wait for tar to end, and raise in its words if it failed."""
        status = self._close()
        if status:
            self._stderr.seek(0)
            said = self._stderr.read(4096)
            if _NO_ROOM.search(said):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(self._root))
            raise CommandError(self._argv, status, said.decode(errors="replace"))

    def _close(self):
        with contextlib.suppress(BrokenPipeError):  # tar's status says why it didn't read
            self._tar.stdin.close()
        return self._tar.wait()


def extract(stream, root, wanted, early=False, seen_bytes=lambda position: None):
    """Extract what is *wanted* of the dump *stream* into the directory *root*.

    wanted
        A :class:`Wanted`.
    early
        Leave the rest of the stream unread once all is found; otherwise it is read to its end.
    seen_bytes
        Called with the number of bytes read so far, after each member.

    Returns :class:`Extracted`. Of a name that comes twice the first counts.
    """
    missing, links = set(wanted.files), {}
    reader = TarReader(stream)
    with Untar(root) as tar:
        for member in reader:
            seen_bytes(reader.position)
            if early and not missing and not member.is_directory:
                return Extracted(missing, links)
            if member not in wanted or (not member.is_directory and member.name not in missing):
                continue
            missing.discard(member.name)
            if member.kind == LINK and (member.link not in wanted.files or member.link in missing):
                links[member.name] = member.link
                continue
            tar.write(member.head)
            reader.copy(tar.write)
        reader.drain()
        seen_bytes(reader.position)
    return Extracted(missing, links)
