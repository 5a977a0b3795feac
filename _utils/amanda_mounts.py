"""File systems mounted below a directory that is backed up, and left out of its dumps.

tar stays in the file system where a directory begins, and says nothing of what it doesn't enter;
``mounts: include`` lets it. A client publishes what is left out, for the master's audit.
"""

import fnmatch
import os
import re
from pathlib import Path

import amanda_dle
import amanda_fleet

VERSION = 1

SHOWN = 100
"""How many mount points a client publishes; it counts all of them."""

MOUNTS = Path("/proc/self/mountinfo")

_PATH = 1024  # characters of one that are published

# What the kernel makes up, what is gone at the next boot, what can't be written, layers of others.
_PSEUDO = frozenset(
    "autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs erofs "
    "fuse.gvfsd-fuse fuse.lxcfs fuse.portal fusectl hugetlbfs iso9660 mqueue nsfs overlay proc "
    "pstore ramfs rootfs rpc_pipefs securityfs selinuxfs squashfs sysfs tmpfs tracefs udf".split()
)
# Another machine has these files: it is backed up there. To ask such a mount may hang.
_NETWORK = frozenset(
    "9p afs beegfs ceph cifs coda fuse.ceph fuse.glusterfs fuse.rclone fuse.s3fs fuse.sshfs gpfs "
    "lustre ncpfs nfs nfs4 pvfs2 smb3 smbfs virtiofs".split()
)


def published(directories, mounts=None, device=None):
    """Return what a client publishes of the mount points that its dumps leave out.

    directories
        ``{path: options}`` of all that it backs up, as :func:`amanda_fleet.published_directories`
        publishes them.
    mounts, device
        As for :func:`left_out`.

    ``left_out`` has a list of ``directory``, ``mount`` and ``type``; ``omitted`` says how many more
    there are.
    """
    found = left_out(directories, read() if mounts is None else mounts, device or _device)
    return {
        "version": VERSION,
        "time": amanda_fleet.moment(),
        "left_out": found[:SHOWN],
        "omitted": max(len(found) - SHOWN, 0),
    }


def left_out(directories, mounts, device):
    """Return the mount points of real, local file systems that no dump of *directories* enters.

    mounts
        What :func:`parse` gives.
    device
        Returns the device that a directory is on, None if there is no such directory.

    Those of the same device aren't left out, as of a directory that is mounted elsewhere, too.
    """
    found = []
    for mount, kind in sorted(mounts.items()):
        if kind in _PSEUDO or kind in _NETWORK:
            continue
        above = [path for path in directories if _within(mount, path)]
        if not above:
            continue
        directory = max(above, key=len)
        options = directories[directory] or {}
        if directory == mount or options.get("mounts") == "include":
            continue
        if _excluded(mount, directory, options.get("exclude") or ()):
            continue
        there = device(mount)
        if there is None or there == device(directory):
            continue
        entry = {"directory": directory, "mount": mount[:_PATH], "type": kind}
        found.append({key: _plain(text) for key, text in entry.items()})
    return found


def _within(path, directory):
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def _excluded(mount, directory, patterns):
    """Tell whether tar leaves *mount* out of *directory* since a pattern names it, or one above.

    A pattern may match from the beginning of any part of a name on.
    """
    parts = os.path.relpath(mount, directory).split("/")
    above = [f"./{'/'.join(parts[:end])}" for end in range(1, len(parts) + 1)]
    starts = {name[start:] for name in above for start in _starts(name)}
    return any(
        fnmatch.fnmatchcase(name, _pattern(pattern)) for name in starts for pattern in patterns
    )


def _starts(name):
    return [0, *(position + 1 for position, letter in enumerate(name) if letter == "/")]


def _pattern(pattern):
    """Return *pattern* as fnmatch takes it; one that tar isn't given matches nothing."""
    try:
        return amanda_dle.amanda_pattern(pattern).replace("[^", "[!")
    except ValueError:
        return ""


def _device(path):
    try:
        return os.stat(path).st_dev if os.path.isdir(path) else None
    except OSError:
        return None


def _plain(text):
    """Return *text* without what msgpack or a terminal can't carry."""
    return "".join(each if each.isprintable() else "?" for each in text)


def read(path=MOUNTS):
    """Return what is mounted now; see :func:`parse`."""
    return parse(os.fsdecode(path.read_bytes()))


def parse(text):
    """Return the file system's type by mount point, in what /proc/PID/mountinfo says; proc(5).

    Of several at one place the last is on top. A line of another form is not for us to judge.
    """
    found = {}
    for line in text.splitlines():
        first, _, last = line.partition(" - ")
        words, kind = first.split(" "), last.split(" ")[0]
        if len(words) >= 6 and kind:
            found[_unescaped(words[4])] = kind
    return found


def _unescaped(word):
    """Return a name of mountinfo: blanks and the like stand there as octal numbers."""
    raw = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), os.fsencode(word))
    return os.fsdecode(raw)
