"""File names, which are bytes, as text that survives JSON, a terminal and a shell argument.

The form is GNU tar's escape quoting, which Amanda's index uses too: a backslash is ``\\\\``, a
newline ``\\n``, a tab ``\\t``, any other byte that is no printable UTF-8 a backslash and three
octal digits. All else stands for itself, so most names look as they are. The same form is
understood wherever a name or path is asked for; text to bytes and back is exact both ways.
"""

import os.path
import re

from amanda_errors import ArgumentError, ParseError

_LETTERS = {
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"v": b"\v",
    b"\\": b"\\",
}
_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPE = re.compile(rb"\\([0-3][0-7]{2}|[abfnrtv\\]|)")


def unescape(quoted):
    """Return the bytes that *quoted* (bytes, in escape quoting) stands for.

    Raises :class:`amanda_errors.ParseError` on a backslash that begins no escape.
    """
    if b"\\" not in quoted:
        return quoted

    def replace(match):
        if not match[1]:
            raise ParseError("a name in escape quoting", quoted)
        return _LETTERS.get(match[1]) or bytes([int(match[1], 8)])

    return _ESCAPE.sub(replace, quoted)


def text(name):
    """Return *name* (bytes) as text; :func:`raw` turns it back."""
    return "".join(_show(character) for character in name.decode("utf-8", "surrogateescape"))


def _show(character):
    if character in _SHORT:
        return _SHORT[character]
    if character.isprintable():
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))


def raw(name):
    """Return the bytes of *name*, text as :func:`text` gives it.

    Raises :class:`amanda_errors.ArgumentError` on a backslash that begins no escape.
    """
    try:
        return unescape(name.encode("utf-8", "surrogateescape"))
    except ParseError:
        raise ArgumentError(
            f"{name!r}: a backslash in a name is written twice, a newline as \\n, "
            "any byte as \\ and three octal digits"
        ) from None


def absolute(path):
    """Return the bytes of *path*, an absolute path as :func:`text` gives it, in plain form.

    Doubled slashes, ``.`` and a slash at the end are taken out. Raises
    :class:`amanda_errors.ArgumentError` if it isn't absolute, or has ``..`` or a NUL in it.
    """
    if not isinstance(path, str):
        raise ArgumentError(f"{path!r} is no absolute path: write it as text")
    name = raw(path)
    parts = name.split(b"/")
    if not name.startswith(b"/") or b".." in parts or b"\0" in name:
        raise ArgumentError(f"{path!r} is no absolute path without '..'")
    return b"/" + os.path.normpath(name).lstrip(b"/")


def checksum_line(digest, name):
    """Return the line of ``sha256sum`` for the file *name* (bytes); ``sha256sum -c`` reads it."""
    quoted = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    mark = b"\\" if quoted != name else b""
    return mark + digest.encode() + b"  " + quoted + b"\n"
