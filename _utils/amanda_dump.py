"""The one reader of dumps, from tapes or from a mirror alike.

A tape file is a 32 KiB header and then data; the parts of a dump, one after another, are what the
client sent, encrypted; :func:`open_stream` turns them back into the plain archive and compares
all that Amanda noted about it on the way.
"""

import contextlib
import dataclasses

HEADER_SIZE = 32768
"""Bytes before the data of each tape file: what ``BLOCKSIZE:32`` of the tapelist says."""


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of a tape file.

    kind
        "TAPESTART", "FILE", "SPLIT_FILE", "CONT_FILE" (holding disk) or "TAPEEND".
    datestamp
        The dump's timestamp; of a label, when the tape was written ("X": never).
    host, disk, level
        The DLE and the dump's level; "" and None in a label.
    part, parts
        Which piece this is, from 1, and of how many; ``parts`` is -1 as long as Amanda doesn't
        know, and both are None outside "SPLIT_FILE".
    label
        The tape's name, in a label; else "".
    program, application
        What made the archive: "GNUTAR", or "APPLICATION" and "amgtar".
    compressed
        True if the data is compressed.
    encrypted
        True if the data is encrypted.
    compress_program, decompress_command, encrypt_program, decrypt_command
        As the header has them; "" where it has none. Never run: data, to be recognised.
    """

    kind: str
    datestamp: str
    host: str
    disk: str
    level: int | None
    part: int | None
    parts: int | None
    label: str
    program: str
    application: str
    compressed: bool
    encrypted: bool
    compress_program: str
    decompress_command: str
    encrypt_program: str
    decrypt_command: str


class TapeSource:
    """Tape files in the slots of a config's vtapes.

    tapes
        The directory of ``slot1`` … ``slotN``: ``places.tapes``.
    """

    def __init__(self, tapes):
        self.tapes = tapes

    def path(self, part):
        """Return the tape file of *part*, an :class:`amanda_catalogue.Part`.

        Raises :class:`amanda_errors.AmandaError` if no slot, or more than one, has that label or
        file.
        """
        raise NotImplementedError

    def files(self, label):
        """Return every file of the tape *label*, sorted by number, the label file first."""
        raise NotImplementedError


class MirrorSource:
    """Tape files in a mirror: ``<directory>/tapes/<label>/<written>/NNNNN.…``, named as in a slot.

    directory
        The mirror's directory of one config, the one that has ``tapes``.
    """

    def __init__(self, directory):
        self.directory = directory

    def path(self, part):
        """Return the tape file of *part*; raises as :meth:`TapeSource.path` does."""
        raise NotImplementedError


def parse_header(block, where):
    """Return the :class:`Header` in *block*, the first 32 KiB of a tape file.

    where
        Names the file in errors.

    Raises :class:`amanda_errors.ParseError` on anything that isn't a header of Amanda.
    """
    raise NotImplementedError


def read_header(path):
    """Return the :class:`Header` of the tape file *path*."""
    raise NotImplementedError


@contextlib.contextmanager
def open_stream(dump, source, check=True, user=None, hashes=None):
    """Give the plain archive of *dump*, a binary stream that can be read or be a child's stdin.

    dump
        An :class:`amanda_catalogue.Dump`.
    source
        A :class:`TapeSource` or :class:`MirrorSource`.
    check
        True: leaving the block reads what is left of the dump, then compares sizes and CRC-32C of
        all three stages with the catalogue, and the exit status of every filter. False: the block
        may be left early, then nothing but the headers has been checked.
    user
        Who the filters run as; None is the caller.
    hashes
        A dict that gets the SHA-256 (hex) of each tape file read to its end, by path; None: none.

    An exception in the block stops everything at once. Raises
    :class:`amanda_errors.AmandaError` on whatever doesn't match, naming dump, tape and file.
    """
    raise NotImplementedError
    yield
