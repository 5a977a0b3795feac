"""A reader of the tar stream inside a dump, one pass, keeping each member's bytes as they were.

GNU tar writes a dump's directories first, each with the list of what it held (a *dumpdir*), then
everything else. So the head of a stream says what there was, and a restore can hand to tar just
the members it wants: no list of names, no pattern, no limit on how odd a name is.

Format: GNU tar manual, "Tar Internals" (basic format, sparse formats, dumpdir); POSIX pax.
"""

import dataclasses
import re

from amanda_errors import ParseError

BLOCK = 512
CHUNK = 1 << 20
END = bytes(2 * BLOCK)
"""What ends an archive: two empty blocks."""

DIRECTORY_KINDS = (b"5", b"D")
LINK = b"1"
_KINDS = b"0\x001234567DS"
_LONGEST_EXTENSION = 1 << 28  # bytes; a dumpdir of some ten million names
_PAX_RECORD = re.compile(rb"(\d{1,10}) ([^=]+)=")  # an attribute's name may hold a newline


@dataclasses.dataclass
class Member:
    """One member of an archive.

    name
        Its path below the top directory, bytes, without ``./`` and final slash; empty for the
        top directory itself.
    kind
        The type flag of its header; see :data:`DIRECTORY_KINDS` and :data:`LINK`.
    link
        For a hard link, the name of the member it links to, as *name*.
    head
        Its header blocks, extensions included, as they stand in the archive.
    data
        How many bytes of content follow, padding included.
    dumpdir
        What tar noted of a directory's content, or None.
    """

    name: bytes
    kind: bytes
    link: bytes
    head: bytes
    data: int
    dumpdir: bytes | None = None

    @property
    def is_directory(self):
        """Whether this is a directory."""
        return self.kind in DIRECTORY_KINDS


def plain_name(name):
    """Return *name* without ``./`` in front and slashes at the end, as this module keys names."""
    while name.startswith(b"./"):
        name = name[2:].lstrip(b"/")
    name = name.rstrip(b"/")
    return b"" if name == b"." else name


class TarReader:
    """Iterates over the members of *stream*; content not copied is skipped.

    stream
        A binary file with ``read``; never sought.
    """

    def __init__(self, stream):
        self._stream = stream
        self._left = 0
        self.position = 0

    def __iter__(self):
        while (member := self._next()) is not None:
            yield member

    def copy(self, write):
        """Pass the current member's content, with its padding, to *write* in pieces."""
        while self._left:
            piece = self._read(min(CHUNK, self._left))
            self._left -= len(piece)
            write(piece)

    def drain(self):
        """Read what follows the last member to the stream's end, so that all of it is checked."""
        self.copy(lambda _: None)
        while piece := self._stream.read(CHUNK):
            self.position += len(piece)

    def _read(self, count):
        pieces, missing = [], count
        while missing:
            piece = self._stream.read(missing)
            if not piece:
                raise ParseError("a tar archive: it ends too early, at byte", self.position)
            pieces.append(piece)
            missing -= len(piece)
            self.position += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _next(self):
        self.copy(lambda _: None)
        head, extended = bytearray(), {}
        while True:
            block = self._read(BLOCK)
            if not any(block):
                return self._end(head)
            _check(block)
            head += block
            kind = block[156:157]
            if kind not in (b"x", b"L", b"K"):
                return self._member(head, block, extended)
            body = self._extension(block, head)
            if kind == b"x":
                extended.update(_pax_records(body))
            else:
                extended[b"path" if kind == b"L" else b"linkpath"] = body.split(b"\0")[0]

    def _end(self, head):
        if head:
            raise ParseError("a tar archive: an extended header without its member", bytes(head))

    def _extension(self, block, head):
        size = _number(block[124:136])
        if size > _LONGEST_EXTENSION:
            raise ParseError("a tar archive: an extended header of too many bytes", size)
        body = self._read(_padded(size))
        head += body
        return body[:size]

    def _member(self, head, block, extended):
        kind = block[156:157]
        if kind not in _KINDS:
            raise ParseError("a tar archive: a member of unknown kind", bytes(block[:157]))
        size = int(extended.get(b"size", _number(block[124:136])))
        dumpdir = extended.get(b"GNU.dumpdir")
        if kind == b"S":
            self._sparse_map(block, head)
        if kind == LINK:
            size = 0  # tar itself takes no content from a hard link, whatever its header says
        if kind == b"D":
            dumpdir = self._extension(block, head)
            size = 0
        self._left = _padded(size)
        name = extended.get(b"GNU.sparse.name") or extended.get(b"path") or _name(block)
        link = extended.get(b"linkpath", block[157:257].split(b"\0")[0])
        link = plain_name(link) if kind == LINK else b""
        return Member(plain_name(name), kind, link, bytes(head), self._left, dumpdir)

    def _sparse_map(self, block, head):
        more = block[482]
        while more:
            block = self._read(BLOCK)
            head += block
            more = block[504]


def _padded(size):
    return -(-size // BLOCK) * BLOCK


def _number(field):
    """Return the number in a header field: octal digits, or base 256 if the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
    digits = field.strip(b" \0") or b"0"
    try:
        return int(digits, 8)
    except ValueError:
        raise ParseError("a number in a tar header", field) from None


def _check(block):
    if sum(block) - sum(block[148:156]) + 8 * 32 != _number(block[148:156]):
        raise ParseError("a tar header: its checksum is wrong", bytes(block[:157]))


def _name(block):
    name = block[:100].split(b"\0")[0]
    prefix = block[345:500].split(b"\0")[0]
    # GNU's own format keeps times where ustar keeps the prefix.
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _pax_records(body):
    """Yield the key and value of each record; values may hold any byte, their length decides."""
    start = 0
    while start < len(body):
        match = _PAX_RECORD.match(body, start)
        end = start + int(match[1]) if match else 0
        if not match or not match.end() < end <= len(body) or body[end - 1 : end] != b"\n":
            raise ParseError("an extended tar header", body[start : start + 80])
        yield match[2], body[match.end() : end - 1]
        start = end
