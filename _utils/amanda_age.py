"""age's keys, as text: made, read and checked.

An identity (``AGE-SECRET-KEY-1…``) opens what was sealed to its recipient (``age1…``); both are
Bech32 (BIP 173) of an X25519 key, see age-keygen(1). No message here shows any part of a key.
"""

from amanda_errors import AmandaError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

_IDENTITY = "age-secret-key-"
_RECIPIENT = "age"
_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_CHECKSUM_LENGTH = 6
_X25519_LENGTH = 32  # bytes


def new_identity():
    """Return a new identity as age-keygen writes it, its recipient in a comment; bytes."""
    private = X25519PrivateKey.generate()
    raw = private.private_bytes(
        serialization.Encoding.Raw,
        serialization.PrivateFormat.Raw,
        serialization.NoEncryption(),
    )
    identity = _encode(_IDENTITY, raw).upper()
    return f"# public key: {public_key(identity)}\n{identity}\n".encode()


def identities(content, path):
    """Return the identities in *content*, the bytes of an identity file; a tuple of text.

    path
        The file's name, for messages.

    Raises :class:`~amanda_errors.AmandaError` if there is none, or a line is something else.
    """
    if content.startswith((b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE-----")):
        raise AmandaError(f"{path} is itself sealed with a passphrase: open it with age -d first")
    lines = [line.strip() for line in content.decode("ascii", "replace").splitlines()]
    found = tuple(line for line in lines if line and not line.startswith("#"))
    if not found:
        raise AmandaError(f"{path} holds no identity")
    for identity in found:
        try:
            public_key(identity)
        except ValueError:
            raise AmandaError(f"{path} is no age identity") from None
    return found


def public_key(identity):
    """Return the recipient (``age1…``) of an identity (``AGE-SECRET-KEY-1…``).

    Raises :class:`ValueError` if it is none.
    """
    prefix, raw = _decode(identity)
    if prefix != _IDENTITY or len(raw) != _X25519_LENGTH:
        raise ValueError("it is no age identity")
    public = X25519PrivateKey.from_private_bytes(raw).public_key()
    return _encode(_RECIPIENT, public.public_bytes_raw())


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


# Bech32, without that standard's limit of 90 characters.
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
