"""The keys that dumps are sealed with: compared, made if absent, never overwritten, and tried.

``differences`` and ``recipients`` only read, and need no package; ``ensure`` writes. With age
every dump is sealed to the server's own key and to all offsite ones. With amcrypt two files are the
key: ``~/.gnupg/am_key.gpg`` and ``~/.am_passphrase`` of the dump user, see amcrypt(8).
"""

import base64
import os
import time

import amanda_files
from amanda_command import run
from amanda_errors import AmandaError, CommandError
from amanda_files import Managed
from amanda_layout import AGE_IDENTITY, AGE_RECIPIENTS, CRYPT
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

RECIPIENTS_KEY = "backup:encryption:recipients"

_FULL = (0, "OK")
_IDENTITY = "age-secret-key-"
_RECIPIENT = "age"
_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_CHECKSUM_LENGTH = 6
_X25519_LENGTH = 32  # bytes

_AMCRYPT_LINES = 65  # what aespipe(1) wants for its multi-key-v3 mode
_AMCRYPT_LINE_LENGTH = 60  # characters; it asks for 20 or more
_PASSPHRASE_LENGTH = 30  # bytes, before base64
_CANARY_LENGTH = 5003  # bytes; no multiple of a cipher's block


def differences(encryption, platform):
    """Return ``{path: {"old": …, "new": …}}`` for each key file that isn't as it should be.

    encryption
        The :class:`amanda_settings.Encryption` of the pillar.
    platform
        The :class:`amanda_platform.Platform` of this machine.

    Needs neither package nor user. Raises :class:`~amanda_errors.AmandaError` where half of a key
    is missing.
    """
    changes = {}
    for path in _missing(encryption, platform):
        changes[str(path)] = {"old": None, "new": "made"}
    if encryption.method == "age" and changes:
        changes[str(AGE_RECIPIENTS)] = {
            "old": "differs" if AGE_RECIPIENTS.exists() else None,
            "new": f"the server's new key and {len(encryption.recipients)} offsite",
        }
    made = [wanted for wanted in _managed(encryption, platform) if str(wanted.path) not in changes]
    return amanda_files.differences(made) | changes


def ensure(encryption, platform):
    """Make what :func:`differences` says, secrets readable by the dump user alone.

    Raises :class:`~amanda_errors.AmandaError`, :class:`~amanda_errors.CommandError` if gpg failed.
    """
    missing = _missing(encryption, platform)
    amanda_files.apply([wanted for wanted in _managed(encryption, platform) if wanted.is_directory])
    for path in missing:
        if path == AGE_IDENTITY:
            content = new_identity()
        elif path == _passphrase(platform):
            content = base64.b64encode(os.urandom(_PASSPHRASE_LENGTH)) + b"\n"
        else:
            content = _new_amcrypt_key(platform)
        amanda_files.write(path, content, platform.user, platform.group, 0o400)
    amanda_files.apply(_managed(encryption, platform))


def escrow(encryption, platform):
    """Return the files that open every dump, for a copy offsite; tuple of paths."""
    if encryption.method == "age":
        return (AGE_IDENTITY,)
    return (_passphrase(platform), _amcrypt_key(platform))


def recipients(encryption):
    """Return the age keys that dumps are sealed to: the server's own first, then offsite ones.

    Raises :class:`~amanda_errors.AmandaError` if the server's identity is missing or damaged.
    """
    own = [_public(identity) for identity in _identities()]
    return tuple(dict.fromkeys([*own, *encryption.recipients]))


def sealed_to_others(dumps):
    """Return which DLEs' last state was sealed before the recipients were last changed.

    dumps
        What :func:`amanda_catalogue.read` gives.

    A list of pairs of host and disk. A key that was added since doesn't open all of that state.
    """
    try:
        changed = AGE_RECIPIENTS.stat().st_mtime  # it is only written when it changes
    except FileNotFoundError:  # amcrypt
        return []
    since = time.strftime("%Y%m%d%H%M%S", time.localtime(changed))
    fulls = {(dump.host, dump.disk): dump for dump in dumps if (dump.level, dump.status) == _FULL}
    return [name for name, full in fulls.items() if full.timestamp < since]


def canary(encryption, user):
    """Seal and open random bytes through the installed filter, as the dump user.

    encryption
        The :class:`amanda_settings.Encryption` of the pillar: age must seal to its recipients.
    user
        The dump user's login name.

    Raises :class:`~amanda_errors.AmandaError` that says what failed and what to do.
    """
    method = encryption.method
    program = CRYPT[method]
    secret = os.urandom(_CANARY_LENGTH)
    try:
        sealed = run([program], user=user, stdin=secret).stdout
        opened = run([program, "-d"], user=user, stdin=sealed).stdout
    except CommandError as error:
        raise AmandaError(
            f"the encryption filter {program} does not work: {error}. "
            "Apply the state backup on this server; if a key is lost, bring its copy back"
        ) from error
    # aespipe pads what it seals with zeros.
    padding = opened[len(secret) :]
    if opened[: len(secret)] != secret or padding.strip(b"\0") or (padding and method == "age"):
        raise AmandaError(
            f"what {program} seals it does not open again: its keys don't belong together. "
            "Bring back the copy of both"
        )
    if secret[:64] in sealed:
        raise AmandaError(f"{program} lets data through unsealed; apply the state backup")
    if method == "age":
        _check_seals(sealed, encryption)


def public_key(identity):
    """Return the recipient (``age1…``) of an age identity (``AGE-SECRET-KEY-1…``).

    Raises :class:`~amanda_errors.AmandaError`, which doesn't show the identity, if it is none.
    """
    return _public(identity)


def check_recipient(text):
    """Raise :class:`ValueError`, saying what is wrong, unless *text* is an age recipient.

    The message doesn't quote *text*, which may be a secret key put there by mistake.
    """
    if not isinstance(text, str):
        raise ValueError("it is no text")
    prefix, data = _decode(text)
    if prefix != _RECIPIENT or text != text.lower():
        raise ValueError("it doesn't begin with age1")
    if len(data) != _X25519_LENGTH:
        raise ValueError("it has not the length of a key")


def _check_seals(sealed, encryption):
    """Raise unless *sealed* has a seal for each key of the pillar and of the installed list."""
    listed = AGE_RECIPIENTS.read_text(encoding="ascii").split()
    if set(encryption.recipients) - set(listed):
        raise AmandaError(
            f"pillar {RECIPIENTS_KEY} has keys that {AGE_RECIPIENTS} lacks: apply the state "
            "backup on this server, so that dumps are sealed to all of them"
        )
    header = sealed.partition(b"\n--- ")[0]
    seals = header.count(b"\n-> X25519 ")
    if seals != len(listed):
        raise AmandaError(
            f"{CRYPT['age']} seals to {seals} keys where {AGE_RECIPIENTS} lists {len(listed)}; "
            "apply the state backup"
        )


def _managed(encryption, platform):
    """Return the files as they should be; keys that aren't there yet stand with no content."""
    owned = {"user": platform.user, "group": platform.group}
    secret = {**owned, "content": b"", "mode": 0o400, "hidden": True, "keep": True}
    if encryption.method == "amcrypt":
        return [
            Managed(_amcrypt_key(platform).parent, mode=0o700, **owned),
            *(Managed(path, **secret) for path in escrow(encryption, platform)),
        ]
    files = [
        Managed(AGE_IDENTITY.parent.parent, mode=0o755),
        Managed(AGE_IDENTITY.parent, mode=0o755),
        Managed(AGE_IDENTITY, **secret),
    ]
    if AGE_IDENTITY.exists():
        text = "".join(f"{key}\n" for key in recipients(encryption))
        files.append(Managed(AGE_RECIPIENTS, text.encode()))
    return files


def _missing(encryption, platform):
    """Return the secret files that are to be made, in order."""
    missing = [path for path in escrow(encryption, platform) if not path.exists()]
    if missing == [_passphrase(platform)]:
        raise AmandaError(
            f"{_amcrypt_key(platform)} is there, but {missing[0]}, which opens it, is missing: "
            "bring its copy back, or move the key away if no dump was sealed with it"
        )
    return missing


def _passphrase(platform):
    return platform.home / ".am_passphrase"


def _amcrypt_key(platform):
    return platform.home / ".gnupg" / "am_key.gpg"


def _new_amcrypt_key(platform):
    """Return a new am_key.gpg, sealed with the passphrase that is on disk."""
    length = _AMCRYPT_LINES * _AMCRYPT_LINE_LENGTH
    text = base64.b64encode(os.urandom(length * 3 // 4))
    lines = [
        text[start : start + _AMCRYPT_LINE_LENGTH]
        for start in range(0, length, _AMCRYPT_LINE_LENGTH)
    ]
    command = ["gpg", "--batch", "--no-tty", "--quiet", "--no-options"]
    command += ["--pinentry-mode", "loopback", "--passphrase-file", _passphrase(platform)]
    command += ["--symmetric", "--armor", "--output", "-"]
    try:
        return run(command, user=platform.user, stdin=b"\n".join([*lines, b""])).stdout
    finally:
        # gpg 2 starts an agent even where it has nothing to ask, and leaves it behind.
        run(["gpgconf", "--kill", "gpg-agent"], user=platform.user, ok=None)


def new_identity():
    private = X25519PrivateKey.generate()
    raw = private.private_bytes(
        serialization.Encoding.Raw,
        serialization.PrivateFormat.Raw,
        serialization.NoEncryption(),
    )
    identity = _encode(_IDENTITY, raw).upper()
    return f"# public key: {_public(identity)}\n{identity}\n".encode()


def _identities():
    """Return the identities on disk, text; a second one opens dumps of before a change of keys."""
    try:
        lines = AGE_IDENTITY.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        raise AmandaError(f"{AGE_IDENTITY} is missing; apply the state backup") from None
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise AmandaError(f"{AGE_IDENTITY} holds no identity; bring its copy back")
    return found


def _public(identity):
    try:
        prefix, raw = _decode(identity)
        if prefix != _IDENTITY or len(raw) != _X25519_LENGTH:
            raise ValueError("it is none")
    except ValueError:  # whose text must not be shown: it may quote the secret
        raise AmandaError(f"{AGE_IDENTITY} is no age identity; bring its copy back") from None
    public = X25519PrivateKey.from_private_bytes(raw).public_key()
    return _encode(_RECIPIENT, public.public_bytes_raw())


# Bech32 (BIP 173), in which age writes its keys; without that standard's limit of 90 characters.
def _checksum(prefix, groups):
    values = [*(ord(c) >> 5 for c in prefix), 0, *(ord(c) & 31 for c in prefix), *groups]
    generators = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(generators):
            checksum ^= generator if top >> bit & 1 else 0
    return checksum


def _regroup(values, width, new_width):
    """Return *values* of *width* bits as values of *new_width*, and what is left as a pair."""
    number = bits = 0
    groups = []
    for value in values:
        number = number << width | value
        bits += width
        while bits >= new_width:
            bits -= new_width
            groups.append(number >> bits & (1 << new_width) - 1)
    return groups, (number & (1 << bits) - 1, bits)


def _encode(prefix, data):
    groups, (left, bits) = _regroup(data, 8, 5)
    if bits:
        groups.append(left << 5 - bits)
    remainder = _checksum(prefix, groups + [0] * _CHECKSUM_LENGTH) ^ 1
    groups += [remainder >> 5 * (5 - place) & 31 for place in range(_CHECKSUM_LENGTH)]
    return f"{prefix}1" + "".join(_ALPHABET[group] for group in groups)


def _decode(text):
    """Return prefix and data of *text*; raises :class:`ValueError` that doesn't quote it."""
    if text not in (text.lower(), text.upper()):
        raise ValueError("capital and small letters are mixed")
    prefix, separator, body = text.lower().rpartition("1")
    if not separator or not prefix or len(body) < _CHECKSUM_LENGTH or not text.isascii():
        raise ValueError("it doesn't begin with age1")
    if set(body) - set(_ALPHABET):
        raise ValueError("it has a character that no key has")
    groups = [_ALPHABET.index(character) for character in body]
    if _checksum(prefix, groups) != 1:
        raise ValueError("its checksum is wrong, so it was not copied as it is")
    data, (left, bits) = _regroup(groups[:-_CHECKSUM_LENGTH], 5, 8)
    if left or bits >= 5:
        raise ValueError("its last characters are damaged")
    return prefix, bytes(data)
