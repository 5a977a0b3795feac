"""Behind the door: one delivery taken in, found to be what was sent, and put in place; or none.

The program ``receive`` runs this as root in a unit of its own, which :mod:`amanda_door` starts. The
tree comes from the server through the dump user, so neither counts for who sent it: it stays in
a directory that is removed again, until the master tells the SHA-256 of what the server sent.
"""

import contextlib
import errno
import hashlib
import json
import os
import pwd
import shutil
import signal
import socket
import struct
import sys
from pathlib import Path

import amanda_authorized
import amanda_command
import amanda_destination
import amanda_extract
import amanda_files
import amanda_live
import amanda_names
import amanda_restored
from amanda_errors import AmandaError
from amanda_layout import DOOR, DOOR_DATA, DOOR_VERDICT, RECEIVED

OPEN = 600
"""Seconds within which the server must come."""

SILENT = 300
"""Seconds without a byte, after which who sends is given up."""

AWAITED = 600
"""Seconds after the tree within which the master must tell its SHA-256."""

SAMPLE = 20
"""How many names a result shows of those that it counts."""

_ENTRY = 16 << 10  # bytes that a name with all its attributes may take in the stream
_SLACK = 1 << 20
_CHUNK = 1 << 20
_MESSAGE = 4096
_PEER = struct.Struct("3i")  # struct ucred of unix(7)


def main(arguments):
    """Take the delivery in, or with ``clear`` remove what is left of it; return the exit status."""
    if arguments == ["clear"]:
        clear()
        return 0
    expected = load(DOOR)
    if expected is None or arguments != [expected["id"]]:
        print("receive: no delivery of this name is expected", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _shut)
    outcome = {"id": expected["id"], "problem": None}
    try:
        outcome.update(_receive(expected))
    except (AmandaError, OSError) as error:
        outcome["problem"] = _in_words(error, expected)
        print(f"receive: {outcome['problem']}", file=sys.stderr)
    _write(RECEIVED, outcome)
    return 1 if outcome["problem"] else 0


def _shut(number, frame):
    for other in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise AmandaError("it was broken off")


def load(path):
    """Return what stands in the file *path*, None if it isn't there or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def expect(expected):
    """Write down what is to come.

    expected
        ``id``; ``destination``; ``bytes`` and ``entries``, how much at most; ``user``, the dump
        user, and ``authorized``, his ``authorized_keys``; ``drill``, None or what
        :func:`_compared` needs.
    """
    _write(DOOR, expected)


def _write(path, content):
    amanda_files.write(path, (json.dumps(content) + "\n").encode(), mode=0o600)


def incoming(expected):
    """Return the directory that holds the tree until it is known to be the right one."""
    destination = Path(expected["destination"])
    return destination.parent / f".amanda-incoming-{expected['id']}"


def clear():
    """Shut the door and remove what is left of a delivery; nobody may be at it any more."""
    expected = load(DOOR)
    for path in (DOOR_DATA, DOOR_VERDICT):
        path.unlink(missing_ok=True)
    if expected:
        _lock(Path(expected["authorized"]))
        amanda_command.run(["rm", "-rf", "--", incoming(expected)])
    DOOR.unlink(missing_ok=True)


def _lock(authorized):
    """Take the lines of doors out of the file *authorized*."""
    with amanda_authorized.alone():
        text = amanda_authorized.read(authorized)
        rest = amanda_authorized.without_doors(text)
        if rest != text:
            amanda_files.apply([amanda_authorized.managed(authorized, rest)])


def _receive(expected):
    """Return what came of it, once it is where it belongs."""
    scratch = incoming(expected)
    scratch.mkdir(mode=0o700)
    try:
        with (
            _listening(DOOR_VERDICT, "root", 0o600) as verdict,
            _listening(DOOR_DATA, expected["user"], 0o600) as door,
        ):
            _ready()
            out = scratch / "out"
            out.mkdir(mode=0o700)
            sha256 = _take_in(door, out, expected)
            _judge(verdict, sha256)
        return _compared(out, **expected["drill"]) if expected["drill"] else _put(out, expected)
    finally:
        amanda_command.run(["rm", "-rf", "--", scratch])


@contextlib.contextmanager
def _listening(path, user, mode):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(before)
        os.chown(path, pwd.getpwnam(user).pw_uid, -1)
        path.chmod(mode)
        listener.listen(1)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _ready():
    """Tell systemd that the door can be opened; see sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect(address.replace("@", "\0", 1) if address[0] == "@" else address)
            notify.sendall(b"READY=1")


def _take_in(door, out, expected):
    """Unpack into *out* what the first who comes sends; return its SHA-256."""
    door.settimeout(OPEN)
    try:
        connection, _ = door.accept()
    except TimeoutError:
        raise AmandaError(f"the server did not come within {OPEN} s") from None
    with connection:
        DOOR_DATA.unlink()
        _lock(Path(expected["authorized"]))  # its key has done what it was for
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        if _PEER.unpack(peer)[1] != pwd.getpwnam(expected["user"]).pw_uid:
            raise AmandaError(f"another than {expected['user']} came to the door")
        connection.settimeout(SILENT)
        try:
            sha256 = _unpack(connection, out, expected)
        except (AmandaError, OSError) as error:
            _answer(connection, _in_words(error, expected))
            raise
        _answer(connection, "")
        return sha256


def most_bytes(expected):
    """Return how many bytes of an archive are taken in."""
    return expected["bytes"] + expected["entries"] * _ENTRY + _SLACK


def _unpack(connection, out, expected):
    sha256, left = hashlib.sha256(), most_bytes(expected)
    with amanda_extract.Untar(out) as tar:
        while piece := connection.recv(_CHUNK):
            left -= len(piece)
            if left < 0:
                raise AmandaError(f"more was sent than the {expected['bytes']} bytes announced")
            sha256.update(piece)
            tar.write(piece)
    return sha256.hexdigest()


def _answer(connection, problem):
    with contextlib.suppress(OSError):
        connection.sendall(problem.encode()[:_MESSAGE])


def _judge(listener, sha256):
    """Wait for the master's word; raise unless it tells this SHA-256."""
    listener.settimeout(AWAITED)
    try:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(AWAITED)
            said = connection.recv(_MESSAGE).decode(errors="replace")
    except TimeoutError:
        raise AmandaError(
            f"the master did not say within {AWAITED} s that it is the right one"
        ) from None
    if said != sha256:
        raise AmandaError(
            "what came is not what the server sent: somebody else used the door, or it changed on "
            "the way"
        )


def _put(out, expected):
    """Move the tree to its destination; return where it is and what there is."""
    destination = Path(expected["destination"])
    os.chown(out, 0, 0)
    out.chmod(0o700)  # whatever the archive said of its top
    checksums = out.parent / "sha256"
    counts = amanda_restored.write_checksums(out, checksums, SAMPLE)
    amanda_destination.publish(out, checksums, destination)
    manifest = amanda_destination.manifest(destination)
    return {"destination": _text(destination), "manifest": _text(manifest), **counts}


def _compared(out, base, disk, since):
    """Compare a drill's tree with what this host has; return counts, and what differs.

    base
        The tree's name below *out*.
    disk
        The directory of this host that it is of, or None for another's.
    since
        When the dump began, in seconds since 1970.
    """
    counts, different = None, []
    if disk is not None:
        root = os.fsencode(out) + b"/" + amanda_names.raw(base)
        counts, different = amanda_live.compare(root, amanda_names.raw(disk), since)
    return {"live": counts, "count": len(different), "different": different[:SAMPLE]}


def _text(path):
    return amanda_names.text(os.fsencode(path))


def _in_words(error, expected):
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        parent = Path(expected["destination"]).parent
        free = shutil.disk_usage(parent).free
        return f"{parent} is full, {free} bytes are free: make room there, or choose another into="
    if isinstance(error, TimeoutError):
        return f"nothing more came for {SILENT} s"
    return str(error)
