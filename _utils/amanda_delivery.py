"""A restored tree on its way to another minion: offered, sent through the door there, forgotten.

The minion's side is :mod:`amanda_door`; the master's runner goes between the two. The key that
opens the door is made for one delivery, is the dump user's, as whom ssh runs, and never leaves this
server. The tree is removed from here at the end, or by a later delivery if nobody came back for it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import select
import stat
import subprocess
import threading
import time
from pathlib import Path

import amanda_abandoned
import amanda_authorized
import amanda_command
import amanda_disklist
import amanda_files
import amanda_fleet
import amanda_names
import amanda_reach
import amanda_restored
import amanda_results
import amanda_ssh
from amanda_dle import shown
from amanda_errors import AmandaError, ArgumentError, CommandError
from amanda_layout import DELIVERIES, RUNTIME

SILENT = 300
"""Seconds in which a minion that takes nothing more is given up."""

_FORGOTTEN = 90000  # seconds after which nobody comes back for a tree: a delivery takes a day
_CHUNK = 1 << 20
_HEARD = 4096  # bytes kept of what the other side says
_TAR = (
    "tar",
    "--create",
    "--file=-",
    "--format=posix",
    "--pax-option=delete=atime,delete=ctime",
    "--sparse",
    "--numeric-owner",
    "--xattrs",
    "--xattrs-include=*",
    "--acls",
    "--selinux",
)


@dataclasses.dataclass(frozen=True)
class Delivery:
    """A tree on its way.

    id
        Its name.
    to
        The minion that is to have it.
    config
        The Amanda config that it came from.
    place
        The directory, root's alone, in which the tree is.
    bytes
        How many are to be sent, about; None before the offer.
    """

    id: str
    to: str
    config: str
    place: Path
    bytes: int | None = None

    @property
    def tree(self):
        """What is delivered: the directory's content."""
        return self.place / "tree"


def client(fleet, to):
    """Return the :class:`amanda_fleet.Client` *to*; raise ArgumentError if it can't be reached."""
    found = fleet.client(to)
    if found is None or found.address is None:
        known = ", ".join(each.id for each in fleet.clients if each.address) or "none"
        raise ArgumentError(
            f"{shown(to)} is no client of this server, which knows: {known}. Apply the state "
            "backup on it, so that it publishes its address and SSH host keys"
        )
    return found


@contextlib.contextmanager
def preparing(delivery_id, to, config, directory):
    """Give a :class:`Delivery` whose tree is to be made in this block; an error removes it all.

    delivery_id
        A new name for it, as :func:`amanda_results.new_id` makes them: who asked for it can
        :func:`withdraw` it before it is ready.
    to
        The minion's id.
    config
        The config's name.
    directory
        Where there is room: root's, as :func:`amanda_destination.check` has it.
    """
    sweep()
    place = Path(directory) / f".amanda-delivery-{delivery_id}"
    delivery = Delivery(delivery_id, to, config, place)
    DELIVERIES.mkdir(mode=0o700, exist_ok=True)
    with amanda_authorized.alone("delivery"):
        amanda_abandoned.check(delivery_id)
        _save(delivery)
    try:
        delivery.place.mkdir(mode=0o700)
        yield delivery
    except BaseException:
        _remove(delivery)
        raise


def while_wanted(delivery, progress):
    """Return *progress*, a function, as one that raises when the delivery has been withdrawn.

    So a restore of hours doesn't go on for somebody who has left.
    """

    def tell(*what):
        amanda_abandoned.check(delivery.id)
        progress(*what)

    return tell


def _save(delivery):
    note = {**dataclasses.asdict(delivery), "place": os.fspath(delivery.place)}
    amanda_files.write(_note(delivery.id), (json.dumps(note) + "\n").encode(), mode=0o600)


def _note(delivery_id):
    return amanda_results.path("delivery", delivery_id, DELIVERIES)


def load(delivery_id):
    """Return the :class:`Delivery` of that id."""
    try:
        note = json.loads(_note(delivery_id).read_bytes())
        return Delivery(**{**note, "place": Path(note["place"])})
    except FileNotFoundError:
        raise ArgumentError(f"there is no delivery {delivery_id!r}: it is over") from None


def offer(delivery, user):
    """Make the key for a delivery; return ``id``, the public ``key``, ``bytes`` and ``entries``.

    user
        The dump user.
    """
    key = _keys(delivery.id) / "own" / "key"
    places = (RUNTIME, _keys(delivery.id))  # whatever the umask
    amanda_files.apply([amanda_files.Managed(place, mode=0o755) for place in places])
    amanda_ssh.ensure_key(key, user, user_group(user))
    size, entries = measure(delivery.tree)
    _save(dataclasses.replace(delivery, bytes=size))
    public = amanda_ssh.read_public(key)
    return {"id": delivery.id, "key": public, "bytes": size, "entries": entries}


def user_group(user):
    """Return the name of a user's own group."""
    return amanda_command.run(["id", "-gn", "--", user]).stdout.decode().strip()


def _keys(delivery_id):
    return RUNTIME / f"delivery-{delivery_id}"


def measure(tree):
    """Return how many bytes the files below *tree* have, without their holes, and how many names.

    A file with several names counts as often.
    """
    size = entries = 0
    with amanda_restored.opened(tree) as root:
        for name, status in amanda_restored.walk(tree):
            entries += 1
            if stat.S_ISREG(status.st_mode):
                size += amanda_restored.data_bytes(name, root, status)
    return size, entries


def send(delivery, fleet, user, progress=None):
    """Send the tree of a delivery through the door that its minion has opened.

    fleet
        The :class:`amanda_fleet.Fleet`, for the minion's address and host keys.
    user
        The dump user, as whom ssh runs.
    progress
        Called with bytes sent, bytes in all and words that say what is sent.

    Returns ``sha256`` of what was sent, ``bytes`` and ``seconds``. Raises
    :class:`~amanda_errors.AmandaError` if the minion can't be reached or doesn't take it; its key
    opens nothing any more in either case.
    """
    began = time.monotonic()
    minion = client(fleet, delivery.to)
    argv = [*_TAR, f"--directory={delivery.tree}", "."]
    try:
        ssh = _Ssh(_ssh(delivery, minion, user), minion, user)
        tar = amanda_command.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with ssh, tar:
            said = _Heard(tar.stderr)
            try:
                sha256, count = _pump(tar.stdout, ssh, delivery, progress)
                if tar.wait():
                    raise CommandError(argv, tar.returncode, said.text())
                ssh.finish()
            except BaseException:
                tar.kill()
                raise
    finally:
        _forget_key(delivery.id)
    seconds = round(time.monotonic() - began, 3)
    return {"sha256": sha256, "bytes": count, "seconds": seconds}


def _pump(source, ssh, delivery, progress):
    """Pass all of *source* to ssh; return the SHA-256 and number of its bytes."""
    sha256, count = hashlib.sha256(), 0
    while piece := source.read(_CHUNK):
        sha256.update(piece)
        ssh.write(piece)
        count += len(piece)
        if progress:
            progress(count, max(count, delivery.bytes), f"sent to {delivery.to}")
    return sha256.hexdigest(), count


def _ssh(delivery, minion, user):
    """Return the command that comes to the door with this delivery's key and no other.

    It finds the minion by the pins that Amanda's own connections go by.
    """
    place = _keys(delivery.id)
    fleet = amanda_fleet.Fleet((minion,))
    known_hosts, config = place / "known_hosts", place / "config"
    text = amanda_disklist.ssh_config(fleet, place / "own" / "key", known_hosts, place / "own")
    amanda_files.write(known_hosts, amanda_disklist.known_hosts(fleet).encode())
    amanda_files.write(config, text.encode())
    argv = ["ssh", "-F", config, "-x", "-T", "-l", user]
    # A connection of Amanda's own would open amandad instead.
    argv += ["-o", "ControlMaster=no", "-o", "ControlPath=none"]
    return [*argv, "--", minion.id, "deliver"]


class _Ssh:
    """An ssh that takes what it is given to the other side; what that says is bounded."""

    def __init__(self, argv, minion, user):
        self._argv, self._minion, self._user = argv, minion, user

    def __enter__(self):
        pipe = subprocess.PIPE
        self._process = amanda_command.popen(
            self._argv, self._user, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0
        )
        self._heard = [_Heard(self._process.stdout), _Heard(self._process.stderr)]
        os.set_blocking(self._process.stdin.fileno(), False)
        return self

    def __exit__(self, kind, error, trace):
        self._process.kill()
        with self._process:
            pass

    def write(self, data):
        """Give it more, as fast as the other side takes it."""
        data = memoryview(data)
        while data:
            _, ready, _ = select.select([], [self._process.stdin], [], SILENT)
            if not ready:
                raise AmandaError(f"{self._minion.id} took nothing more for {SILENT} s")
            try:
                data = data[os.write(self._process.stdin.fileno(), data) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._failed(self._end()) from None

    def finish(self):
        """Wait until the other side has taken it all; raise in its words if it hasn't."""
        self._process.stdin.close()
        status = self._end()
        if status:
            raise self._failed(status)

    def _end(self):
        try:
            return self._process.wait(SILENT)
        except subprocess.TimeoutExpired:
            told = f"{self._minion.id} did not say within {SILENT} s that all is there"
            raise AmandaError(told) from None

    def _failed(self, status):
        said = self._heard[1].text()
        if status != 255:  # it came in
            told = amanda_names.text(said.encode().strip()) or "it doesn't say why"
            return AmandaError(f"{self._minion.id} broke the delivery off: {told}")
        where = (self._minion.id, self._minion.address, self._minion.port)
        reach = amanda_reach.interpret(*where, status, said)
        if reach.problem == "denied":
            return AmandaError(f"the door on {self._minion.id} is shut again: {reach.detail}")
        return AmandaError(reach.message)


class _Heard:
    """Reads a stream to its end, and keeps the beginning."""

    def __init__(self, stream):
        self._stream, self._kept = stream, b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        with contextlib.suppress(OSError, ValueError):  # it was closed
            while piece := self._stream.read(_HEARD):
                self._kept += piece[: _HEARD - len(self._kept)]

    def text(self):
        """Return what was kept, once the stream has ended."""
        self._thread.join(SILENT)
        return self._kept.decode(errors="replace")


def _forget_key(delivery_id):
    amanda_command.run(["rm", "-rf", "--", _keys(delivery_id)])


def withdraw(delivery_id):
    """Remove the tree and the key of a delivery, if they are there; it can't begin any more."""
    _note(delivery_id)  # raises if this is no id
    with amanda_authorized.alone("delivery"):
        amanda_abandoned.note(delivery_id)
        with contextlib.suppress(ArgumentError):
            _remove(load(delivery_id))


def _remove(delivery):
    _forget_key(delivery.id)
    amanda_command.run(["rm", "-rf", "--", delivery.place])
    _note(delivery.id).unlink(missing_ok=True)


def sweep():
    """Remove what nobody came back for."""
    if not DELIVERIES.is_dir():
        return
    for note in DELIVERIES.glob("delivery-*.json"):
        if time.time() - note.stat().st_mtime > _FORGOTTEN:
            withdraw(note.stem.removeprefix("delivery-"))
