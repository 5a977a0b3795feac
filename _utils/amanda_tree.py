"""What a DLE held at a moment, and which dump of a chain stores each file of it.

Every incremental dump of GNU tar lists every directory in full: ``Y`` what it stores, ``N`` what
is there unchanged, ``D`` directories, and how directories were renamed since its base. From these
lists alone follows what was there: what isn't listed was deleted. The index can't tell, since it
names only what a dump stores.

Renames are where GNU tar goes wrong: replaying a chain (``--listed-incremental``) it fails if a
directory took the name of a file, or of a directory with files in it, and at exchanges of names
its records are wrong in themselves. Dumps made through our wrapper hold no rename at all, see
:mod:`amanda_snapshot`. In others a plain rename is followed, on names alone, before any file is
written; where the records can't be trusted, no file is guessed: it counts as stored in no dump.
"""

import dataclasses
import itertools

from amanda_errors import ParseError
from amanda_tarstream import TarReader, plain_name


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where the files of a directory are stored.

    dump
        Position in the chain; None if no dump of the chain holds them.
    directory
        The directory's name in that dump; another than today's if it was renamed since.
    """

    dump: int | None
    directory: bytes


@dataclasses.dataclass
class Tree:
    """What there was at the moment of the last dump of a chain.

    directories
        For each directory (a name below the top, bytes), its entries that are no directories:
        name → :class:`Stored`.
    """

    directories: dict

    def kind(self, name):
        """Return "directory", "file" (anything else) or None if no dump stores such a name."""
        if name in self.directories:
            return "directory"
        return "file" if self.stored(name) else None

    def stored(self, name):
        """Return the :class:`Stored` of a file, or None if there is none."""
        parent, _, base = name.rpartition(b"/")
        stored = self.directories.get(parent, {}).get(base)
        return stored if stored and stored.dump is not None else None

    def children(self, name):
        """Return the names in directory *name*: subdirectories, and stored files, sorted."""
        prefix = name + b"/" if name else b""
        below = (
            other[len(prefix) :]
            for other in self.directories
            if other and other.startswith(prefix) and b"/" not in other[len(prefix) :]
        )
        files = (base for base, to in self.directories[name].items() if to.dump is not None)
        return sorted(below), sorted(files)

    def below(self, name):
        """Yield each directory from *name* downwards with its entries."""
        for other, entries in self.directories.items():
            if is_below(other, name):
                yield other, entries


def is_below(name, top):
    """Tell whether *name* is *top* or lies in it; the empty name is the top of all."""
    return not top or name == top or name.startswith(top + b"/")


def join(directory, name):
    """Return the name of an entry of a directory."""
    return directory + b"/" + name if directory else name


def read_dumpdirs(stream):
    """Return each directory's dumpdir from the head of *stream*; the rest stays unread.

    Raises :class:`ParseError` if a directory has none, then it isn't a dump by GNU tar, or a name
    that would lead out of it.
    """
    dumpdirs = {}
    for member in TarReader(stream):
        if not member.is_directory:
            break
        if member.dumpdir is None:
            raise ParseError("a dump: a directory without its list of names", member.name)
        if member.name.startswith(b"/") or b".." in member.name.split(b"/"):
            raise ParseError("a dump: a directory's name that leads out of it", member.name)
        dumpdirs[member.name] = member.dumpdir
    return dumpdirs


def follow(chain):
    """Return the :class:`Tree` that *chain* leads to.

    chain
        For each dump, the full one first, what :func:`read_dumpdirs` gave.
    """
    directories, doubtful = {}, set()
    for position, dumpdirs in enumerate(chain):
        pairs = list(_renames(dumpdirs.get(b"", b"")))
        if doubtful or not _are_plain(pairs, directories):
            doubtful.update(name for pair in pairs for name in pair)
        for old, new in pairs:
            _move(directories, old, new)
        directories = {
            name: _entries(position, name, _base(directories, name, doubtful), dumpdir)
            for name, dumpdir in dumpdirs.items()
        }
    return Tree(directories)


def _base(directories, name, doubtful):
    """Return what directory *name* had in the base, nothing if that can't be told."""
    if any(is_below(name, other) for other in doubtful):
        return {}
    return directories.get(name, {})


def _records(dumpdir):
    """Yield code and name of each record: one letter, the name, a NUL; an empty one ends it."""
    for record in dumpdir.split(b"\0"):
        if not record:
            return
        code = record[:1]
        if code not in b"YNDRTX":
            raise ParseError("a record in a dump's list of names", record)
        yield code, record[1:]


def _entries(position, directory, base, dumpdir):
    here, nowhere = Stored(position, directory), Stored(None, directory)
    entries = {}
    for code, name in _records(dumpdir):
        if code in b"YND" and (b"/" in name or name in (b"", b".", b"..")):
            raise ParseError("a record in a dump's list of names", code + name)
        if code == b"Y":
            entries[name] = here
        elif code == b"N":
            # Unchanged, says tar; or excluded, which it notes in the same way.
            entries[name] = base.get(name, nowhere)
    return entries


def _renames(dumpdir):
    """Yield old and new name of each rename in the top directory's *dumpdir*.

    ``R`` or ``T`` without a name mean a spare one, by which tar exchanges two directories.
    """
    spare = b"\0"  # in a name, no file system allows it
    old = None
    for code, name in _records(dumpdir):
        if code == b"R":
            old = plain_name(name) if name else spare
        elif code == b"T":
            if old is None:
                raise ParseError("a dump's list of names: a rename without its source", name)
            yield old, plain_name(name) if name else spare
            old = None


def _are_plain(pairs, directories):
    """Tell whether each rename is of its own: from a name that was to one that wasn't."""
    names = sorted(name.split(b"/") for pair in pairs for name in pair)
    # Sorted by component, a name comes right before those that lie in it.
    nested = any(after[: len(one)] == one for one, after in itertools.pairwise(names))
    return not nested and all(old in directories and new not in directories for old, new in pairs)


def _move(directories, old, new):
    moved = {name: directories.pop(name) for name in list(directories) if is_below(name, old)}
    for name in [name for name in directories if is_below(name, new)]:
        del directories[name]
    for name, entries in moved.items():
        directories[new + name[len(old) :]] = entries
