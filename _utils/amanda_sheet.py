"""The emergency sheet: how to restore everything by hand, for who has neither Salt nor Amanda.

It stands in each generation of the mirror and holds the exact commands for what is there: for each
DLE the dumps of its last state, where they are, and how they were sealed.
"""

import dataclasses
import os
import re

import amanda_chain
import amanda_dump
import amanda_layout
import amanda_sheet_text
from amanda_errors import AmandaError
from amanda_manifest import TAPES

_BEGINS = re.compile(r"([^\n]* part )[0-9]+/-?[0-9]+ +lev ")


@dataclasses.dataclass(frozen=True)
class About:
    """What a sheet is of.

    config, generation, server
        As in the :class:`amanda_manifest.Manifest`.
    directory
        Where the server has the config's mirror.
    archive
        The :class:`amanda_manifest.Archive` of the generation.
    """

    config: str
    generation: str
    server: str
    directory: str
    archive: object


@dataclasses.dataclass
class Restore:
    """How a DLE comes back.

    steps
        For each dump of its chain, in order, the :class:`amanda_catalogue.Dump` and its tape files,
        paths below the config's mirror. Without any it can't be had.
    filters
        For each step the encryption's method and the compressor, either may be None.
    begins
        For each step how the header of each of its tape files begins, up to the part's number.
    problem
        Why the filters can't be told, "" if they can.
    damaged
        Each :class:`amanda_catalogue.Dump` that is newer than the last of *steps*, and was found
        not to be good when it was verified.
    """

    host: str
    disk: str
    steps: list
    filters: list = dataclasses.field(default_factory=list)
    begins: list = dataclasses.field(default_factory=list)
    problem: str = ""
    damaged: list = dataclasses.field(default_factory=list)


def write(about, dumps, copies, heads, failed):
    """Return the text of the sheet, and warnings of what it can't tell, a list of text.

    about
        An :class:`About`.
    dumps
        What :func:`amanda_catalogue.read` returned.
    copies
        The generation's :class:`amanda_manifest.TapeCopy` objects.
    heads
        A function that returns the headers of tape files, given a list of their paths below the
        config's mirror: for each a pair of text of Latin-1 and why it can't be read, one is None.
    failed
        A function that tells whether a dump was found not to be good; it is left out then.
    """
    restores = _plan(dumps, copies, failed)
    paths = [paths[0] for restore in restores for _, paths in restore.steps]
    read = iter(heads(paths))
    for restore in restores:
        for dump, paths in restore.steps:
            try:
                filters, begins = _header(dump, *next(read), paths[0])
                restore.filters.append(filters)
                restore.begins.append(begins)
            except AmandaError as error:
                restore.problem = str(error)
    problems = [
        f"the emergency sheet can't say how to restore {restore.host} {restore.disk}: "
        f"{restore.problem}"
        for restore in restores
        if restore.problem
    ]
    return amanda_sheet_text.render(about, restores), problems


def _plan(dumps, copies, failed):
    """Return a :class:`Restore` for each DLE: its last good state that is whole in *copies*."""
    files = {
        (*copy.key, int(file.name[:5])): f"{TAPES}/{copy.label}/{copy.written}/{file.name}"
        for copy in copies
        for file in copy.files
    }
    found, bad, paths = {}, {}, {}
    for dump in dumps:
        held = found.setdefault((dump.host, dump.disk), [])
        keys = [(part.label, part.written, part.file) for part in dump.parts]
        if failed(dump):
            bad.setdefault((dump.host, dump.disk), []).append(dump)
        elif files.keys() >= set(keys):
            paths[dump] = [files[key] for key in keys]
            held.append(dump)
    return [_restore(dle, held, bad.get(dle, []), paths) for dle, held in sorted(found.items())]


def _restore(dle, held, bad, paths):
    chain = amanda_chain.last_chain(held, *dle)
    last = chain[-1].timestamp if chain else ""
    damaged = sorted(
        (dump for dump in bad if dump.timestamp > last), key=lambda dump: dump.timestamp
    )
    return Restore(*dle, [(dump, paths[dump]) for dump in chain], damaged=damaged)


def _header(dump, head, unread, path):
    """Return what the header *head* of the first tape file of *dump*, *path*, tells.

    Method and compressor; and how it begins, up to the part's number.
    """
    if unread:
        raise AmandaError(f"{path} can't be read: {unread}")
    header = amanda_dump.parse_header(head.encode("latin-1"), path)
    amanda_dump.check_header(dump, dump.parts[0], header, path)
    begins = _BEGINS.match(head)
    if begins is None:
        raise AmandaError(f"the header of {path} isn't as Amanda writes it")
    decrypt, _ = amanda_dump.decrypter(header, path)
    expand = amanda_dump.expander(header, path)
    methods = {program: method for method, program in amanda_layout.CRYPT.items()}
    compressor = expand and ("zstd" if expand[0] == amanda_layout.COMPRESS else "gzip")
    return (decrypt and methods[decrypt[0]], compressor), os.fsdecode(begins[1].encode("latin-1"))
