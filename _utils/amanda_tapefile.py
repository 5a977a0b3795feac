"""The files of a tape: where they are, and what their headers say.

A tape is a directory: ``00000.<label>``, then a file a part, ``00001.<host>.<disk>.<level>``, each
a header of 32 KiB and the data. All of it may have been changed by whoever got at the disk, so
names are looked up and never built, and a header is read strictly.
"""

import dataclasses
import os
import re
import stat
from pathlib import Path

import amanda_log
from amanda_errors import AmandaError, ParseError, unreadable
from amanda_log import Crc

HEADER_SIZE = 32768
"""Bytes before the data of each tape file: what ``BLOCKSIZE:32`` of the tapelist says."""

_LABEL = re.compile(r"[A-Za-z0-9][^/\s]*")


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of a tape file.

    kind
        "TAPESTART", "FILE", "SPLIT_FILE", "CONT_FILE" (holding disk) or "TAPEEND".
    datestamp
        The dump's timestamp; of a label, when the tape was written ("X": never).
    label
        The tape's name, in a label; else "".
    host, disk, level
        The DLE and the dump's level; "" and None in a label.
    part, parts
        Which piece this is, from 1, and of how many; ``parts`` is -1 as long as Amanda doesn't
        know, and both are None outside "SPLIT_FILE".
    program, application
        What made the archive: "GNUTAR", or "APPLICATION" and "amgtar".
    compression
        "N" for none, ".gz", or "cust" for *compress_program*.
    compress_program, encrypt_program, decrypt_option
        As the header has them, "" where it has none. Never run: data, to be recognised.
    encrypted
        True if the data is encrypted.
    encrypted_by_client
        True if the client did that: only it has the key.
    partial
        True if Amanda knew that the dump is not whole.
    native, client, server
        :class:`Crc` of the stages, where the header has them.
    """

    kind: str
    datestamp: str
    label: str = ""
    host: str = ""
    disk: str = ""
    level: int | None = None
    part: int | None = None
    parts: int | None = None
    program: str = ""
    application: str = ""
    compression: str = "N"
    compress_program: str = ""
    encrypt_program: str = ""
    decrypt_option: str = ""
    encrypted: bool = False
    encrypted_by_client: bool = False
    partial: bool = False
    native: Crc | None = None
    client: Crc | None = None
    server: Crc | None = None


# The words after the program's name come in pairs.
_OPTIONS = {
    "crypt",
    "server_custom_compress",
    "client_custom_compress",
    "server_encrypt",
    "client_encrypt",
    "server_decrypt_option",
    "client_decrypt_option",
}
_CRC_LINE = re.compile(r"(NATIVE|CLIENT|SERVER)-CRC=([0-9a-f]{8}):([0-9]{1,19})")


class _FirstLine:
    """Takes the words of a header's first line; every fault raises, quoting the line."""

    def __init__(self, line, where):
        self._line = line
        self._where = where
        self._words = amanda_log.split(line)
        if self._words is None:
            raise self.fault()

    def fault(self):
        return ParseError(f"the header of {self._where}", self._line[:500])

    def take(self, pattern=r"(?s).*"):
        if not self._words or not re.fullmatch(pattern, self._words[0]):
            raise self.fault()
        return self._words.pop(0)

    def number(self, pattern=r"[0-9]{1,9}"):
        return int(self.take(pattern))

    def pairs(self):
        options = {}
        while self._words:
            name = self.take("|".join(_OPTIONS))
            if name in options:
                raise self.fault()
            options[name] = self.take()
        return options

    def end(self):
        if self._words:
            raise self.fault()


def parse_header(block, where):
    """Return the :class:`Header` in *block*, the first 32 KiB of a tape file.

    where
        Names the file in errors.

    Raises :class:`amanda_errors.ParseError` on anything that isn't a header of Amanda.
    """
    lines = block.rstrip(b"\0").decode("utf-8", "surrogateescape").split("\n")
    first = _FirstLine(lines[0], where)
    first.take("AMANDA:")
    kind = first.take("TAPESTART|TAPEEND|FILE|CONT_FILE|SPLIT_FILE")
    if kind in ("TAPESTART", "TAPEEND"):
        return _tape_header(first, kind)
    fields = {"kind": kind, "datestamp": first.take(r"[0-9]{14}|[0-9]{8}").ljust(14, "0")}
    fields.update(host=first.take(), disk=first.take())
    if kind == "SPLIT_FILE":
        first.take("part")
        part, parts = first.take(r"[0-9]{1,9}/-?[0-9]{1,9}").split("/")
        fields.update(part=int(part), parts=int(parts))
    first.take("lev")
    fields["level"] = first.number(r"[0-9]{1,3}")
    first.take("comp")
    fields["compression"] = first.take(r"N|\.gz|cust|C|\S{1,16}")
    first.take("program")
    fields["program"] = first.take()
    fields.update(_filters(first, first.pairs()))
    fields.update(_following(lines[1:], first))
    return Header(**fields)


def _tape_header(first, kind):
    """Return the :class:`Header` of a label or of a tape's end."""
    first.take("DATE")
    datestamp = first.take(r"X|[0-9]{8}|[0-9]{14}")
    if datestamp != "X":
        datestamp = datestamp.ljust(14, "0")
    label = ""
    if kind == "TAPESTART":
        first.take("TAPE")
        label = first.take()
    first.end()
    return Header(kind=kind, datestamp=datestamp, label=label)


def _filters(first, options):
    """Return what the options of the first line say of compression and encryption."""
    if options.get("crypt", "N") not in ("N", "enc"):
        raise first.fault()
    by_client = "client_encrypt" in options
    if by_client and "server_encrypt" in options:
        raise first.fault()
    both = [
        options[side + "_custom_compress"]
        for side in ("server", "client")
        if side + "_custom_compress" in options
    ]
    if len(both) > 1:
        raise first.fault()
    side = "client" if by_client else "server"
    return {
        "compress_program": both[0] if both else "",
        "encrypt_program": options.get(side + "_encrypt", ""),
        "decrypt_option": options.get(side + "_decrypt_option", ""),
        "encrypted": options.get("crypt", "N") != "N" or by_client or "server_encrypt" in options,
        "encrypted_by_client": by_client,
    }


def _following(lines, first):
    """Return what the lines after the first say, down to the client's own description."""
    found = {}
    for line in lines:
        name, separator, value = line.partition("=")
        if line.startswith("DLE=") or not separator:
            break  # what follows comes from the client, or is prose
        if name == "APPLICATION":
            found["application"] = value
        elif name == "PARTIAL":
            found["partial"] = value.lower() == "yes"
        elif name.endswith("-CRC"):
            match = _CRC_LINE.fullmatch(line)
            if not match:
                raise first.fault()
            crc = Crc(int(match.group(2), 16), int(match.group(3)))
            found[match.group(1).lower()] = crc if crc != Crc(0, 0) else None
    return found


def open_regular(path):
    """Open the tape file *path* for reading, unbuffered; neither a link nor a device."""
    try:
        # without O_NONBLOCK a named pipe put there would make us wait for ever
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise unreadable(error, f"can't open {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise AmandaError(f"{path} is no regular file")
    return open(number, "rb", buffering=0)


def take_header(file, where):
    """Read the header at the front of the open *file*; returns it and its bytes."""
    block = b""
    while len(block) < HEADER_SIZE:
        piece = file.read(HEADER_SIZE - len(block))
        if not piece:
            raise AmandaError(f"{where} is cut short: it ends inside its header")
        block += piece
    return parse_header(block, where), block


def read_header(path):
    """Return the :class:`Header` of the tape file *path*."""
    with open_regular(path) as file:
        return take_header(file, path)[0]


def _only(names, what, directory):
    """Return the one name in *names*; none, or several, is an error."""
    if len(names) != 1:
        several = ": " + ", ".join(sorted(names)) if names else ""
        raise AmandaError(f"{directory} has {len(names)} files for {what}, not one{several}")
    return names[0]


def _numbered(directory):
    """Return the names of a tape's files in *directory*, lists by the number they begin with."""
    files = {}
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise unreadable(error, f"can't read {directory}: {error.strerror}") from error
    for name in names:
        if re.match(r"[0-9]{5,9}\.", name):
            files.setdefault(int(name.partition(".")[0]), []).append(name)
    return files


class TapeSource:
    """Tape files in the slots of a config's vtapes.

    tapes
        The directory of ``slot1`` … ``slotN``: ``places.tapes``.

    It remembers what it has seen: make a new one for each piece of work.
    """

    def __init__(self, tapes):
        self.tapes = Path(tapes)
        self._slots = None
        self._tapes = {}

    def path(self, part):
        """Return the tape file of *part*, an :class:`amanda_catalogue.Part`.

        Raises :class:`amanda_errors.AmandaError` if that tape isn't there, was written at another
        time, or hasn't exactly one file of that number.
        """
        directory, files = self._tape(part)
        what = f"file {part.file} of tape {part.label}"
        return directory / _only(files.get(part.file, []), what, directory)

    def open(self, part):
        """Open the tape file of *part*: a binary stream, unbuffered; raises as :meth:`path`."""
        return open_regular(self.path(part))

    def _tape(self, part):
        """Return the directory of the tape that has *part*, and its files' names by number."""
        if not _LABEL.fullmatch(part.label):
            raise AmandaError(f"{part.label!r} is no label of a tape")
        key = (part.label, part.written)
        if key not in self._tapes:
            directory = self._directory(part)
            files = _numbered(directory)
            path = directory / _only(files.get(0, []), f"the label {part.label}", directory)
            header = read_header(path)
            if (header.kind, header.label) != ("TAPESTART", part.label):
                raise AmandaError(f"{path} is not the label of tape {part.label}")
            if header.datestamp != part.written:
                raise AmandaError(
                    f"tape {part.label} in {directory} was written at {header.datestamp}, "
                    f"not at {part.written} as the catalogue says: it holds other dumps"
                )
            self._tapes[key] = directory, files
        return self._tapes[key]

    def _directory(self, part):
        if self._slots is None:
            self._slots = {}
            for path in self.tapes.glob("slot*/00000.*"):
                self._slots.setdefault(path.name[6:], []).append(path.parent)
        slots = self._slots.get(part.label, [])
        if len(slots) != 1:
            names = ": " + ", ".join(sorted(slot.name for slot in slots)) if slots else ""
            raise AmandaError(
                f"tape {part.label} is in {len(slots)} slots of {self.tapes}, not in one{names}"
            )
        return slots[0]
