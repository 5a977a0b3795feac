"""The text of an ``authorized_keys`` file: the server's line, and the line of a door for a moment.

sshd(8), AUTHORIZED_KEYS FILE FORMAT. Others' lines stay as they are.
"""

import base64
import binascii
import contextlib
import re
import time

import amanda_files
from amanda_errors import AmandaError
from amanda_layout import RUNTIME

MARKER = "amanda-server:"
"""Begins the comment of our lines in ``authorized_keys``; the server's minion id follows."""

DOOR = "amanda-door:"
"""Begins the comment of the line that lets one delivery in; its id follows."""

# A line's first word is a key type or, if not, the line begins with options.
_TYPE = re.compile(r"(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[A-Za-z0-9@.+-]+")
_OPTIONS = re.compile(r'(?:\\"|"(?:\\"|[^"\\]|\\(?!"))*"|[^ \t"])+')
_FROM = re.compile(r'restrict,from="([0-9a-fA-F.:/,]+)",')


@contextlib.contextmanager
def alone(what="authorized"):
    """Let nobody else of ours change an ``authorized_keys`` file during this block.

    what
        ``door``: let nobody open or shut a door, instead; ``delivery``: nobody begin or withdraw a
        delivery.
    """
    amanda_files.apply([amanda_files.Managed(RUNTIME, mode=0o755)])
    with amanda_files.alone(RUNTIME / f"{what}.lock"):
        yield


def read(path):
    """Return the text of the file *path*, "" if it isn't there; comments may be in any bytes."""
    return path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else ""


def managed(path, text):
    """Return the file *path* with *text*: root's, so that the dump user can't add to it."""
    return amanda_files.Managed(path, text.encode("utf-8", "surrogateescape"), mode=0o644)


def with_line(text, line):
    """Return *text*, an ``authorized_keys`` file, with *line* as the only one of the server.

    text
        What the file holds; others' lines stay as they are.
    line
        As :func:`amanda_ssh.authorized_key` gives it; None takes the server's access away.

    Every line with our marker goes, and every other that has the server's key: sshd would take
    it instead of ours and grant what it grants, a shell if it has no options.
    """
    lines = text.removesuffix("\n").split("\n") if text else []
    keys = {_blob(each) for each in lines if _is_ours(each)} | ({_blob(line)} if line else set())
    keys.discard(None)
    gone = [_is_ours(each) or _blob(each) in keys for each in lines]
    if not line and not any(gone):
        return text
    place = gone.index(True) if True in gone else len(lines)
    kept = [each for each, is_gone in zip(lines, gone, strict=True) if not is_gone]
    kept[place:place] = [line] if line else []
    return "".join(f"{each}\n" for each in kept)


def _fields(line):
    """Return ``(base64, comment)`` of a line of ``authorized_keys``, or None for another line."""
    rest = line.strip(" \t\r")
    if not rest or rest.startswith("#"):
        return None
    if not _TYPE.fullmatch(re.split(r"[ \t]", rest, maxsplit=1)[0]):
        options = _OPTIONS.match(rest)
        rest = rest[options.end() :].lstrip(" \t") if options else ""
    words = re.split(r"[ \t]+", rest, maxsplit=2)
    return (words[1], words[2] if len(words) > 2 else "") if len(words) > 1 else None


def _is_ours(line):
    fields = _fields(line)
    return fields is not None and fields[1].startswith(MARKER)


def _blob(line):
    fields = _fields(line)
    try:
        return base64.b64decode(fields[0], validate=True) if fields else None
    except (binascii.Error, ValueError):
        return None


def sources(text, server):
    """Return from where the line of *server* in *text* lets its key in, as ``from=`` has it.

    Raises :class:`~amanda_errors.AmandaError` if it has no line.
    """
    for line in text.split("\n"):
        fields = _fields(line)
        found = _FROM.match(line)
        if fields and found and fields[1] == f"{MARKER}{server}":
            return found[1]
    raise AmandaError(f"this minion doesn't let {server} in yet: apply the state backup on it")


def door_line(key, addresses, program, delivery_id, seconds):
    """Return the line that lets one delivery in, for some seconds: it may start *program* alone.

    key
        The public key that was made for it.
    addresses
        What :func:`sources` gave.
    delivery_id
        The delivery's id.
    seconds
        For how long the key opens anything.
    """
    # In local time: OpenSSH before 9.1 knows no other. The minion may have begun in another zone.
    time.tzset()
    expiry = time.strftime("%Y%m%d%H%M%S", time.localtime(time.time() + seconds))
    options = f'restrict,from="{addresses}",expiry-time="{expiry}"'
    options += f',command="{program} {delivery_id}"'
    return f"{options} {key} {DOOR}{delivery_id}"


def without_doors(text):
    """Return *text* without the lines of doors."""
    lines = text.split("\n")
    return "\n".join(line for line in lines if not (_fields(line) or ("", ""))[1].startswith(DOOR))
