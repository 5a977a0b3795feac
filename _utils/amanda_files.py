"""Files and directories as they should be: compared first, replaced whole.

A file appears under its name only when it is complete and has its owner and mode, so that a
reader never sees half of it and a secret is never readable by others, not even for a moment.
"""

import contextlib
import dataclasses
import difflib
import fcntl
import grp
import os
import pwd
import stat
import tempfile
from pathlib import Path

from amanda_command import run
from amanda_errors import AmandaError


@dataclasses.dataclass(frozen=True)
class Managed:
    """A file (or, with ``content`` None, a directory) as it should be.

    content
        Bytes, or None for a directory.
    hidden
        Never show the content, not even as a difference: it is a secret, or nobody's interest.
    keep
        An existing file keeps its content: keys are never overwritten.
    """

    path: Path
    content: bytes = None
    user: str = "root"
    group: str = "root"
    mode: int = 0o644
    hidden: bool = False
    keep: bool = False

    @property
    def is_directory(self):
        """Whether this is a directory."""
        return self.content is None

    @property
    def attributes(self):
        """Owner, group and mode, as ``changes`` shows them."""
        return f"{self.user}:{self.group} {self.mode:04o}"


def write(path, content, user="root", group="root", mode=0o644):
    """Write *content* (bytes) to *path* atomically: complete, owned and on disk, then renamed."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            if os.geteuid() == 0:
                os.fchown(stream.fileno(), *_ids(user, group))
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def differences(managed):
    """Return ``{path: {"old": …, "new": …}}`` for each of *managed* that isn't as it should be.

    Text is shown as a unified difference, what is hidden not at all. Raises
    :class:`~amanda_errors.AmandaError` where a directory stands in a file's place or the reverse.
    """
    changes = {}
    for wanted in managed:
        change = _difference(wanted)
        if change:
            changes[str(wanted.path)] = change
    return changes


@contextlib.contextmanager
def alone(lock, wait=True):
    """Let no other process of ours into a block that names the same *lock*.

    lock
        A file, which is made for this and stays; its directory is there.
    wait
        False: raise :class:`BlockingIOError` if another is in such a block.
    """
    number = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(number)


def apply(managed):
    """Make each of *managed* as it should be, in order; parents come before what is in them."""
    for wanted in managed:
        if _difference(wanted) is None:
            continue
        if wanted.is_directory and owner(wanted.path.parent.lstat()).split(":")[0] != "root":
            # Below another user's directory root could be led astray by a link: let him do it.
            mode = f"{wanted.mode:04o}"
            run(["install", "-d", "-m", mode, "--", wanted.path], user=wanted.user)
            continue
        if wanted.is_directory:
            with contextlib.suppress(FileExistsError):
                wanted.path.mkdir(mode=0o700)
            _set_attributes(wanted)
        elif wanted.path.exists() and (wanted.keep or wanted.path.read_bytes() == wanted.content):
            _set_attributes(wanted)
        else:
            write(wanted.path, wanted.content, wanted.user, wanted.group, wanted.mode)


def _set_attributes(wanted):
    """Set owner and mode of what is there; through no link that took its place meanwhile."""
    kind = os.O_DIRECTORY if wanted.is_directory else os.O_NONBLOCK
    handle = os.open(wanted.path, os.O_RDONLY | os.O_NOFOLLOW | kind)
    try:
        if os.geteuid() == 0:
            os.fchown(handle, *_ids(wanted.user, wanted.group))
        os.fchmod(handle, wanted.mode)
    finally:
        os.close(handle)


def _difference(wanted):
    try:
        status = wanted.path.lstat()
    except FileNotFoundError:
        return {"old": None, "new": wanted.attributes}
    except NotADirectoryError as error:
        raise AmandaError(f"{error.filename} lies below a file: move that away") from error
    expected = stat.S_ISDIR if wanted.is_directory else stat.S_ISREG
    if not expected(status.st_mode):
        kind = "a directory" if wanted.is_directory else "a regular file"
        raise AmandaError(f"{wanted.path} is in the way: {kind} belongs there; move it away")
    if not wanted.is_directory and not wanted.keep:
        current = wanted.path.read_bytes()
        if current != wanted.content:
            return {"old": "differs", "new": _shown(wanted, current)}
    current = f"{owner(status)} {stat.S_IMODE(status.st_mode):04o}"
    return None if current == wanted.attributes else {"old": current, "new": wanted.attributes}


def _shown(wanted, current):
    if wanted.hidden:
        return "replaced"
    try:
        old, new = current.decode().splitlines(), wanted.content.decode().splitlines()
    except UnicodeDecodeError:
        return "replaced"
    return "\n".join(list(difflib.unified_diff(old, new, "old", "new", lineterm="", n=1))[:200])


def _ids(user, group):
    try:
        return pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise AmandaError(f"this machine lacks a user or group: {error.args[0]}") from None


def owner(status):
    """Return owner and group of a file's *status*, ``user:group``; numbers that have no name."""
    try:
        user = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        user = str(status.st_uid)
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return f"{user}:{group}"
