"""The one reader of dumps, from tapes or from a mirror alike.

A tape file is a 32 KiB header and then data; the parts of a dump, one after another, are what the
client sent, encrypted; :func:`open_stream` turns them back into the plain archive and compares
all that Amanda noted about it on the way.
"""

import contextlib
import hashlib
import os

import amanda_identity
import amanda_layout
from amanda_errors import AmandaError
from amanda_pipeline import CHUNK, Pipeline, Stage
from amanda_tapefile import (
    HEADER_SIZE,
    Header,
    TapeSource,
    parse_header,
    read_header,
    take_header,
)

__all__ = [
    "HEADER_SIZE",
    "Header",
    "TapeSource",
    "check_header",
    "check_sealed",
    "open_stream",
    "parse_header",
    "read_header",
]


_AMCRYPT_PADDING = 511  # zero bytes at most: aespipe seals blocks of 512


@contextlib.contextmanager
def open_stream(dump, source, check=True, user=None, hashes=None, identity=None, report=None):
    """Give the plain archive of *dump*, a binary stream that can be read or be a child's stdin.

    dump
        An :class:`amanda_catalogue.Dump`.
    source
        A :class:`TapeSource`, or what has its ``path`` and ``open``.
    check
        True: leaving the block reads what is left of the dump, then compares sizes and CRC-32C of
        all three stages with the catalogue, and the exit status of every filter. False: the block
        may be left early, then nothing but the headers and the tape files' sizes is checked.
    user
        Who the filters run as; None is the caller.
    hashes
        A dict that gets the SHA-256 (hex) of each tape file read to its end, by path; None: none.
    identity
        What :func:`amanda_identity.given` gave, to open it with; None takes the server's own key.
    report
        Called with the number of bytes of each piece read from tape, in another thread; None: not.

    A child that has the stream must have ended when the block is left. An exception in the block
    stops everything at once; if a fault of the dump came first, that is raised instead, since it
    is why the reader got a stream that is cut short. Raises
    :class:`amanda_errors.AmandaError` on whatever doesn't match, naming dump, tape and file;
    :class:`amanda_errors.ServerError` where it is this server that failed.
    """
    if check and not (dump.native and dump.client):
        raise AmandaError(f"the log has no checksum of {describe(dump)}: it can't be checked")
    header = _inspect(dump, source)
    name = f"{describe(dump)}, {_tapes(dump)}"
    decrypt, inherited = decrypter(header, name, identity)
    commands = [decrypt, expander(header, name)]
    with Pipeline(
        _Parts(dump, source, hashes, report),
        [argv for argv in commands if argv],
        _stages(dump, *commands),
        user,
        name,
        inherited,
    ) as pipeline:
        try:
            yield pipeline.out
        except Exception as error:
            if failure := pipeline.failure():
                raise failure from error
            raise
        if check:
            pipeline.finish()


def check_sealed(dump, source, hashes=None, report=None):
    """Compare what is on tape of *dump* with headers and log, as far as that takes no key.

    dump, source, hashes, report
        As for :func:`open_stream`; what that raises is raised.
    """
    if not dump.server:
        raise AmandaError(f"the log has no checksum of {describe(dump)}: it can't be checked")
    _inspect(dump, source)
    stage, buffer = Stage("on tape", dump.server), bytearray(CHUNK)
    parts = _Parts(dump, source, hashes, report)
    try:
        while length := parts.readinto(buffer):
            if stage.take(buffer, length) is None:
                break
    finally:
        parts.close()
    if complaint := stage.complaint():
        raise AmandaError(f"{describe(dump)}, {_tapes(dump)}: {complaint}")


def describe(dump):
    """Return a dump's name for messages."""
    return f"the level {dump.level} dump of {dump.host} {dump.disk} made at {dump.timestamp}"


def _tapes(dump):
    """Return where a dump's parts are, for messages: ``tape x-0001 file 3, 4``."""
    files = {}
    for part in dump.parts:
        files.setdefault(part.label, []).append(str(part.file))
    return "; ".join(f"tape {label} file {', '.join(there)}" for label, there in files.items())


def check_header(dump, part, header, where):
    """Raise unless *header* is that of this *part* of *dump*."""
    wanted = {
        "kind": ("SPLIT_FILE", header.kind),
        "timestamp": (dump.timestamp, header.datestamp),
        "host": (dump.host, header.host),
        "disk": (dump.disk, header.disk),
        "level": (dump.level, header.level),
        "part": (part.number, header.part),
    }
    if header.parts != -1:
        wanted["number of parts"] = (len(dump.parts), header.parts)
    for name, (expected, found) in wanted.items():
        if expected != found:
            raise AmandaError(
                f"{where} is not part of {describe(dump)}: "
                f"its header says {name} {found}, not {expected}"
            )


def _sealing(header):
    """Return what must be the same in the headers of all parts of a dump."""
    return (
        header.compression,
        header.compress_program,
        header.encrypted,
        header.encrypt_program,
        header.decrypt_option,
    )


def _inspect(dump, source):
    """Read the header and size of each part; returns the first :class:`Header`."""
    if not dump.parts:
        raise AmandaError(f"{describe(dump)} has no parts on tape")
    first = None
    for part in dump.parts:
        where = f"tape {part.label} file {part.file}"
        with source.open(part) as file:
            where = f"{where} ({source.path(part)})"
            header, _ = take_header(file, where)
            size = os.fstat(file.fileno()).st_size - HEADER_SIZE
        check_header(dump, part, header, where)
        if size != part.size:
            raise AmandaError(
                f"{where} has {size} bytes of {describe(dump)}, not {part.size} as the log says"
            )
        first = first or header
        if _sealing(header) != _sealing(first):
            raise AmandaError(f"{where} is sealed otherwise than the first part of its dump")
    return first


def decrypter(header, where, identity=None):
    """Return the command that decrypts what *header* describes, and descriptors it is to inherit.

    The command is None if it isn't encrypted. For *identity* see :func:`open_stream`.

    The program comes from our own table; the header's is only compared with it, since whoever
    could write a tape file must not choose what runs. Raises
    :class:`amanda_errors.AmandaError` if it is none of ours.
    """
    if not header.encrypted:
        return None, ()
    ours = {os.fspath(path): method for method, path in amanda_layout.CRYPT.items()}
    method = ours.get(header.encrypt_program)
    if header.encrypted_by_client or method is None or header.decrypt_option != "-d":
        raise AmandaError(
            f"{where} was encrypted by {header.encrypt_program or 'an unnamed program'}, which is "
            f"none of {', '.join(ours)}: it is not run. Decrypt it by hand if you trust it"
        )
    return amanda_identity.opener(method, identity, where)


def expander(header, where):
    """Return the command that expands what *header* describes, None if it isn't compressed.

    Raises :class:`amanda_errors.AmandaError` if that is a program that is none of ours.
    """
    if header.compression == "N" and not header.compress_program:
        return None
    if header.compression == ".gz" and not header.compress_program:
        return ["/bin/gzip", "-dc"]
    ours = os.fspath(amanda_layout.COMPRESS)
    if header.compression == "cust" and header.compress_program == ours:
        return [amanda_layout.COMPRESS, "-d"]
    program = header.compress_program or header.compression
    raise AmandaError(
        f"{where} was compressed by {program}, which is neither gzip nor {ours}: it is not run. "
        "Expand it by hand if you trust it"
    )


class _Parts:
    """The data of a dump's tape files, one after another, without their headers."""

    def __init__(self, dump, source, hashes, report):
        self._left = list(dump.parts)
        self._source = source
        self._hashes = hashes
        self._report = report or (lambda count: None)
        self._file = None

    def readinto(self, buffer):
        """Fill *buffer*, a bytearray, as far as one read does; returns the length, 0 at the end."""
        while self._file or self._left:
            if not self._file:
                self._open(self._left.pop(0))
            length = self._file.readinto(buffer)
            if length:
                self._report(length)
                if self._hash:
                    self._hash.update(memoryview(buffer)[:length])
                return length
            self.close()
            if self._hash:
                self._hashes[self._path] = self._hash.hexdigest()
        return 0

    def _open(self, part):
        self._path = self._source.path(part)
        self._file = self._source.open(part)
        _, block = take_header(self._file, self._path)
        self._hash = hashlib.sha256(block) if self._hashes is not None else None

    def close(self):
        if self._file:
            self._file.close()
        self._file = None


def _stages(dump, decrypt, expand):
    """Return the :class:`Stage` lists that each pump measures, from tape to archive."""
    server = Stage("on tape", dump.server)
    # compressed by the server, what the client sent was the archive itself
    by_server = expand and dump.client == dump.native
    by_amcrypt = decrypt and decrypt[0] == amanda_layout.CRYPT.get("amcrypt")
    padding = _AMCRYPT_PADDING if by_amcrypt else 0
    client = Stage("decrypted", None if by_server else dump.client, padding)
    native = Stage("expanded", dump.native)
    stages = [[server]]
    for command, stage, same in [
        (decrypt, client, dump.client == dump.server),
        (expand, native, dump.native == dump.client),
    ]:
        if command:
            stages.append([stage])
        elif not same:  # the same bytes, compared with the same numbers, say nothing more
            stages[-1].append(stage)
    return stages
