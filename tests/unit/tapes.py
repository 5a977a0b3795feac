"""Tapes with dumps on them, made byte by byte as Amanda writes them, and a CRC-32C to match.

For tests on a machine without Amanda; the functional tests read what Amanda itself has written.
"""

import gzip
import os

from amanda_catalogue import Dump, Part
from amanda_log import Crc

WRITTEN = "20261123083845"


def _table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _table()


class SlowChecksum:
    """CRC-32C in plain Python, with the interface of :class:`amanda_crc.Checksum`."""

    def __init__(self):
        self.size = 0
        self._crc = 0xFFFFFFFF

    def add(self, buffer, length):
        """Add the first *length* bytes of *buffer*."""
        crc = self._crc
        for byte in memoryview(buffer)[:length]:
            crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
        self._crc = crc
        self.size += length

    def crc(self):
        """Return the Crc of everything added."""
        return Crc(self._crc ^ 0xFFFFFFFF, self.size)


def crc(data):
    """Return the Crc of *data*."""
    checksum = SlowChecksum()
    checksum.add(data, len(data))
    return checksum.crc()


def shift(data):
    """Return *data* as the stand-in for encryption gives it: each byte one up."""
    return bytes(data).translate(bytes((byte + 1) & 0xFF for byte in range(256)))


def label_block(label, written=WRITTEN):
    """Return the file 00000 of a tape."""
    return f"AMANDA: TAPESTART DATE {written} TAPE {label}\n\f\n".encode().ljust(32768, b"\0")


def header_block(number, filters, disk="/etc", parts=-1):
    """Return the header of a part; *filters* is the first line's end, from "comp" on."""
    line = f"AMANDA: SPLIT_FILE {WRITTEN} web1 {disk}  part {number}/{parts}  lev 0 {filters}"
    return f"{line}\nAPPLICATION=amgtar\nDLE=<<ENDDLE\n<dle>\n".encode().ljust(32768, b"\0")


def put(slots, label, number, data, name="web1._etc.0", written=WRITTEN):
    """Write a tape file into ``slots``/slotN, N taken from the label's end; returns its path."""
    slot = slots / f"slot{int(label[-4:])}"
    slot.mkdir(parents=True, exist_ok=True)
    (slot / f"00000.{label}").write_bytes(label_block(label, written))
    path = slot / f"{number:05d}.{name}"
    path.write_bytes(data)
    return path


def write_dump(slots, plain, layout, compress=False, crypt=None, padding=b"", disk="/etc"):
    """Put a dump of *plain* on tapes below *slots*; returns the :class:`Dump`.

    layout
        Where its parts go and how long each is: ``[("d-0001", 1, 500)]``; the last gets the rest.
    crypt
        The path of the stand-in for encryption, None for none.
    padding
        What it adds to the data before it seals it.
    """
    client = gzip.compress(plain, 1) if compress else plain
    server = shift(client + padding) if crypt else client
    filters = f"comp {'.gz' if compress else 'N'} program APPLICATION"
    if crypt:
        filters += f" crypt enc server_encrypt {os.fspath(crypt)} server_decrypt_option -d"
    parts, left = [], server
    for number, (label, file, size) in enumerate(layout, 1):
        piece, left = (left, b"") if number == len(layout) else (left[:size], left[size:])
        put(slots, label, file, header_block(number, filters, disk) + piece)
        parts.append(Part(label, file, number, len(piece), WRITTEN))
    return Dump(
        config="daily",
        host="web1",
        disk=disk,
        timestamp=WRITTEN,
        level=0,
        status="OK",
        parts=tuple(parts),
        native=crc(plain),
        client=crc(client),
        server=crc(server),
        size=len(server),
        message="",
    )
