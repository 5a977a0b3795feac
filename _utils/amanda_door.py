"""A door for one delivery: opened on the minion that is to receive a tree, and shut again.

The server's key runs amandad there and nothing else. So for one tree, and for minutes, a line in
the dump user's ``authorized_keys`` lets in a key that was made for it: it may come from the
server's addresses, and start a program that passes what it sends to a unit of root's
(:mod:`amanda_receiving`). The unit takes the line away as soon as somebody came in; whatever
becomes of the unit, systemd has the rest removed; and sshd itself takes the key for ten minutes.
"""

import contextlib
import os
import re
import shutil
import socket
import time

import amanda_abandoned
import amanda_authorized
import amanda_destination
import amanda_dle
import amanda_files
import amanda_layout
import amanda_names
import amanda_receiving
import amanda_results
import amanda_ssh
import amanda_unit
from amanda_command import run
from amanda_errors import AmandaError, ArgumentError, CommandError

_LONGEST = 86400  # seconds; the longest that a delivery may take
_ROOM = 64 << 20  # bytes that stay free
_BLOCK = 4096  # bytes that a name takes at least
_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{4,16}")
_POLL = 0.1
_STOPPED = (0, 5)  # of systemctl stop; 5: there is no such unit any more
_PROPERTIES = (
    "Description=Delivery of a restored tree, started by Salt",
    "NotifyAccess=main",
    "KillMode=control-group",
    f"RuntimeMaxSec={_LONGEST}",
    "TimeoutStopSec=300",  # to remove half a tree
    f"ExecStopPost={amanda_layout.RECEIVE} clear",
    "LimitCORE=0",
    "NoNewPrivileges=yes",
    "RestrictAddressFamilies=AF_UNIX",
    "Nice=10",
)


def check(settings, into, host, platform):
    """Return the directory, a path, into which a tree could be delivered; change nothing.

    settings
        This minion's :class:`amanda_settings.Settings`.
    into
        Where the user wants it; None: a new directory below
        :data:`amanda_layout.RECOVERED`.
    host
        Whose tree it is, for a name.

    Raises :class:`~amanda_errors.AmandaError` naming the remedy.
    """
    if os.geteuid() != 0:
        raise AmandaError("only root can restore owners, devices and capabilities")
    for program in (amanda_layout.DELIVER, amanda_layout.RECEIVE):
        if not program.is_file():
            raise AmandaError(f"{program} is missing: apply the state backup on {settings.id}")
    amanda_authorized.sources(amanda_authorized.read(authorized(platform)), settings.server)
    _check_shut()
    if into is None:
        for path in (amanda_layout.STATE, amanda_layout.RECOVERED):
            path.mkdir(mode=0o700, exist_ok=True)
        into = str(amanda_layout.RECOVERED / f"{host}-{amanda_results.new_id()}")
    return amanda_destination.check(into)


def authorized(platform):
    """Return the path of the dump user's ``authorized_keys``."""
    return platform.home / ".ssh" / "authorized_keys"


def open_for(offer, settings, into, platform):
    """Open the door for a delivery; return where the tree is to be.

    offer
        What :func:`amanda_delivery.offer` gave on the server: ``id``, ``host``, ``key``, ``bytes``
        and ``entries``; for a drill also ``drill``.
    settings, into, platform
        As for :func:`check`.

    Raises :class:`~amanda_errors.AmandaError`; then the door is shut.
    """
    offer = _checked(offer)
    destination = check(settings, into, offer["host"], platform)
    _check_room(offer, destination)
    with amanda_authorized.alone("door"):
        amanda_abandoned.check(offer["id"])
        _check_shut()
        amanda_receiving.clear()
        amanda_layout.STATE.mkdir(mode=0o700, exist_ok=True)
        amanda_layout.RECEIVED.unlink(missing_ok=True)
        amanda_receiving.expect(
            {
                **{key: offer[key] for key in ("id", "bytes", "entries", "drill")},
                "destination": os.fspath(destination),
                "user": platform.user,
                "authorized": os.fspath(authorized(platform)),
            }
        )
        try:
            _launch(offer["id"])
            _let_in(offer, settings.server, authorized(platform))
        except BaseException:
            run(["systemctl", "stop", "--", amanda_layout.DOOR_UNIT], ok=_STOPPED)
            amanda_receiving.clear()
            raise
    return os.fspath(destination)


def _check_shut():
    if is_open():
        raise AmandaError(
            "another delivery to this minion is going on: wait for its end, or end it by "
            f"systemctl stop {amanda_layout.DOOR_UNIT}"
        )


def _let_in(offer, server, file):
    """Add the line that lets the key of *offer* in."""
    with amanda_authorized.alone():
        text = amanda_authorized.read(file)
        line = amanda_authorized.door_line(
            offer["key"],
            amanda_authorized.sources(text, server),
            amanda_layout.DELIVER,
            offer["id"],
            amanda_receiving.OPEN,
        )
        text = text.removesuffix("\n") + f"\n{line}\n"
        amanda_files.apply([amanda_authorized.managed(file, text)])


def _checked(offer):
    """Return an offer whose every value is what it should be."""
    try:
        drill = offer.get("drill")
        checked = {
            "id": _ID.fullmatch(offer["id"])[0],
            "host": offer["host"],
            "key": amanda_ssh.parse_public_key(offer["key"]),
            "bytes": int(offer["bytes"]),
            "entries": int(offer["entries"]),
            "drill": drill
            and {
                "base": _step(drill["base"]),
                "disk": drill["disk"] and str(drill["disk"]),
                "since": float(drill["since"]),
            },
        }
        if min(checked["bytes"], checked["entries"]) < 0:
            raise ValueError("less than nothing")
        if problem := amanda_dle.id_problem(checked["host"]):
            raise ValueError(f"its host: {problem}")
        return checked
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArgumentError(
            f"this is no offer that a server made ({error}): deliver by salt-run amanda.recover"
        ) from None


def _step(name):
    """Return *name*, in the form of :mod:`amanda_names`, if it leads one step down."""
    if amanda_names.raw(name) in (b"", b".", b"..") or b"/" in amanda_names.raw(name):
        raise ValueError("its base is no plain name")
    return name


def _check_room(offer, destination):
    needed = offer["bytes"] + offer["entries"] * _BLOCK + _ROOM
    free = shutil.disk_usage(destination.parent).free
    if needed > free:
        raise AmandaError(
            f"the tree may need {needed} bytes in {destination.parent}, where {free} are free: "
            "make room there, or name another directory (into=)"
        )


def is_open():
    """Tell whether a delivery to this minion is going on."""
    return amanda_unit.active(amanda_layout.DOOR_UNIT)


def _launch(delivery_id):
    argv = ["systemd-run", f"--unit={amanda_layout.DOOR_UNIT}", "--collect", "--quiet"]
    argv += ["--no-ask-password", "--service-type=notify", "--working-directory=/"]
    argv += [f"--property={line}" for line in _PROPERTIES]
    try:
        run([*argv, "--", amanda_layout.RECEIVE, delivery_id])
    except CommandError as error:
        raise AmandaError(
            f"nothing can be received: {error.stderr.strip()}. See: journalctl -u "
            f"{amanda_layout.DOOR_UNIT}"
        ) from error


def accept(delivery_id, sha256):
    """Say what the server has sent, and return what came of it once the tree is in its place.

    delivery_id
        The delivery's id.
    sha256
        What :func:`amanda_delivery.send` gave.

    Returns ``destination``, ``manifest`` and counts, or for a drill what differs. Raises
    :class:`~amanda_errors.AmandaError` if it isn't what was sent, or anything else went wrong;
    then nothing of it is left.
    """
    expected = amanda_receiving.load(amanda_layout.DOOR)
    if expected and expected["id"] == delivery_id:
        with (
            contextlib.suppress(ConnectionError, FileNotFoundError),  # it has ended, and says why
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as verdict,
        ):
            verdict.connect(os.fspath(amanda_layout.DOOR_VERDICT))
            verdict.sendall(str(sha256).encode())
        while is_open():
            time.sleep(_POLL)
    outcome = _outcome(delivery_id)
    if outcome is None:
        raise AmandaError(
            f"the delivery {delivery_id} ended without a result, and nothing of it is left. See: "
            f"journalctl -u {amanda_layout.DOOR_UNIT}"
        )
    if outcome["problem"]:
        raise AmandaError(f"nothing was received: {outcome['problem']}")
    return {key: outcome[key] for key in outcome if key not in ("id", "problem")}


def refuse(delivery_id):
    """Break a delivery off and shut the door; return why it failed by itself, or None.

    delivery_id
        The delivery's id; another's is left alone. A door for it isn't opened any more.
    """
    if not _ID.fullmatch(str(delivery_id)):
        raise ArgumentError(f"{delivery_id!r} is not the id of a delivery")
    with amanda_authorized.alone("door"):
        amanda_abandoned.note(delivery_id)
        expected = amanda_receiving.load(amanda_layout.DOOR)
        if expected and expected["id"] == delivery_id:
            run(["systemctl", "stop", "--", amanda_layout.DOOR_UNIT], ok=_STOPPED)
            amanda_receiving.clear()
    outcome = _outcome(delivery_id)
    return outcome and outcome["problem"]


def _outcome(delivery_id):
    outcome = amanda_receiving.load(amanda_layout.RECEIVED)
    return outcome if outcome and outcome["id"] == delivery_id else None


def left_over():
    """Tell whether a delivery that is over has left something: the power failed, for example."""
    return amanda_layout.DOOR.exists() and not is_open()


def sweep():
    """Remove what a delivery that is over has left."""
    with amanda_authorized.alone("door"):
        if left_over():
            amanda_receiving.clear()


def shut(text):
    """Return *text*, an ``authorized_keys`` file, without doors that are no longer open."""
    return text if is_open() else amanda_authorized.without_doors(text)
