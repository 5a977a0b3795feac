"""Reading a mirror back: its generations, whether they are whole, and what is in them.

Everything is read with the rights of the mirror's user, since on an export that squashes root
nobody else can; and nothing that is read is believed before it is checked.
"""

import contextlib
import datetime
import os
from pathlib import Path

import amanda_archive
import amanda_manifest
import amanda_mirror_user
import amanda_sums
from amanda_errors import AmandaError, ArgumentError
from amanda_manifest import GENERATIONS, MANIFEST, MANIFEST_SUM, SUMS, TAPES
from amanda_mirror_user import ask
from amanda_rights import hand_over


def made(generation):
    """Return the moment that a generation's name stands for, an aware datetime."""
    moment = datetime.datetime.strptime(generation, "%Y%m%dT%H%M%SZ")
    return moment.replace(tzinfo=datetime.timezone.utc)


def misdated(generation):
    """Return why no generation can have been made at the time of this name, in words, or None."""
    try:
        moment = made(generation)
    except ValueError:
        return "its name is no time"
    now = datetime.datetime.now(datetime.timezone.utc)
    if moment > now + _AHEAD:
        return f"its name is a time yet to come, by this server's clock ({now:%Y-%m-%d %H:%M} UTC)"
    return None


def timely(names):
    """Return those *names* of generations that are not :func:`misdated`."""
    return [name for name in names if misdated(name) is None]


_AHEAD = datetime.timedelta(days=1)  # how far another server's clock may be ahead

_ANSWER = 30  # seconds that the mirror may take to answer a first question


def names(mirror, config):
    """Return the names of a config's generations, the oldest first; whole or not.

    mirror
        The :class:`amanda_settings.Mirror`.

    Raises :class:`~amanda_errors.AmandaError` if the mirror can't be read, or doesn't answer.
    """
    where = str(mirror.directory)
    try:
        return ask(mirror, amanda_mirror_user.generation_names, where, config, patience=_ANSWER)
    except FileNotFoundError:
        raise AmandaError(f"the mirror's directory {where} doesn't exist. Mount it") from None
    except OSError as error:
        raise _unreadable(mirror, error) from None


def each(mirror, config, names, use, known=None):
    """Call ``use(name, manifest, problem)`` for each generation, in the order of *names*.

    names
        Some of those that :func:`names` returned.
    use
        Gets the :class:`amanda_manifest.Manifest`, None if it can't be believed, and what is wrong,
        in words, or None. One manifest is held at a time, since they are large.
    known
        The :class:`amanda_mirrored.Mirrored` of this server: what it didn't make isn't believed.
    """

    def take(found):
        manifest, problem = None, found["problem"] and _told(config, found["name"], found)
        try:
            if problem is None:
                manifest = amanda_manifest.decode(found["manifest"], config, found["name"])
        except AmandaError as error:
            problem = str(error)
        if problem is None:
            why = known and known.problem(found["name"], amanda_manifest.digest(manifest.source))
            why = why or misdated(found["name"])
            problem = why and f"generation {found['name']} of {config}: {why}"
        use(found["name"], manifest, problem)

    where = (str(mirror.directory), config, list(names))
    try:
        ask(mirror, amanda_mirror_user.generations, *where, progress=take)
    except OSError as error:
        raise _unreadable(mirror, error) from None


def _told(config, name, found):
    return f"generation {name} of {config}: {found['problem']}"


def _unreadable(mirror, error):
    what = repr(error.filename) if error.filename else mirror.directory
    why = amanda_sums.unread(error)
    return AmandaError(f"the mirror can't be read as {mirror.user}: {what} {why}")


def _no_generation(mirror, config):
    return ArgumentError(f"the mirror {mirror.directory} has no generation of {config}")


def generations(mirror, config):
    """Return the generations of a config, the oldest first, a dict each.

    mirror
        The :class:`amanda_settings.Mirror`.

    Each has ``generation`` (its name), ``made`` (ISO 8601), ``run``, ``tapes`` and ``files``
    (numbers), ``bytes``, and ``problem``: why it can't be used, in words, else None.
    """
    rows = []

    def add(name, manifest, problem):
        row = {"generation": name, "made": None, "run": None, "problem": problem}
        row.update(tapes=None, files=None, bytes=None)
        if manifest and not problem:
            row["made"] = made(name).isoformat()
            row["run"] = manifest.run
            row["tapes"] = len(manifest.tapes)
            row["files"] = sum(len(copy.files) for copy in manifest.tapes)
            row["bytes"] = manifest.size
        rows.append(row)

    each(mirror, config, names(mirror, config), add)
    return rows


def load(mirror, config, generation=None, known=None):
    """Return the :class:`amanda_manifest.Manifest` of one generation; None is the newest.

    known
        As for :func:`each`; the newest is then the newest that this server made.

    Raises :class:`~amanda_errors.ArgumentError` if there is no such generation, and
    :class:`~amanda_errors.AmandaError`, with the name of the one before, if it can't be believed.
    """
    there = names(mirror, config)
    if not there:
        raise _no_generation(mirror, config)
    asked = generation or max(timely(there), default=there[-1])
    newest = max(known.made or (), default="") if known else ""
    if not generation and newest > asked:
        raise AmandaError(f"{known.gone(there)}{before(mirror, config, newest)}")
    if asked not in there:
        raise ArgumentError(
            f"the mirror has no generation {asked} of {config}; it has {_some(there)}"
        )
    found = []
    each(mirror, config, [asked], lambda *row: found.append(row), known)
    ((_, manifest, problem),) = found
    if problem and not (manifest and generation and misdated(generation)):
        raise AmandaError(f"{problem}{before(mirror, config, asked)}")
    return manifest


def before(mirror, config, generation):
    """Return where to go on if a generation is damaged, in words."""
    older = [name for name in timely(names(mirror, config)) if name < generation]
    if not older:
        return ""
    return f". If it is damaged, take the one before: config={config} generation={older[-1]}"


def _some(there):
    more = f"{len(there)}, the last are " if len(there) > _SHOWN else ""
    return more + ", ".join(there[-_SHOWN:])


_SHOWN = 20  # names of generations in a message


def check_generation(mirror, config, generation=None, hashes=False, progress=None, known=None):
    """Compare one generation with its manifest; return what was found, as data.

    generation
        Its name; None is the newest.
    hashes
        True reads every byte; else names and sizes have to do.
    progress
        Called with the number of bytes read since the last call.
    known
        As for :func:`load`.

    Returns ``generation``, ``files``, ``bytes``, ``copies`` (what tapes it needs) and ``problems``:
    each missing, changed or foreign file, named, in words.
    """
    manifest = load(mirror, config, generation, known)
    expected = _Expected(mirror)
    expected.add(manifest)
    return {
        "generation": manifest.generation,
        "files": expected.files,
        "bytes": expected.bytes,
        "problems": bounded(expected.audit(hashes, progress)),
        "copies": list(manifest.tapes),
    }


def check(mirror, config, hashes=False, progress=None, known=None):
    """Compare all that stands in the mirror of a config with its manifests, each file once.

    hashes, progress, known
        As for :func:`check_generation`. What this server made and is gone is a problem too.

    Returns ``generations`` (how many could be read), ``newest`` (of those nothing is wrong with, or
    None), ``files``, ``bytes``, ``problems``, in which is also what no generation needs (the first
    thousand), and ``copies``: each :class:`amanda_manifest.TapeCopy` that
    any generation needs. Raises :class:`~amanda_errors.ArgumentError` if there is no generation at
    all, and :class:`~amanda_errors.AmandaError` if the mirror can't be read or doesn't answer.
    """
    there = names(mirror, config)
    if not there:
        raise _no_generation(mirror, config)
    expected, problems, good = _Expected(mirror), [], []

    def add(name, manifest, problem):
        if manifest:
            expected.add(manifest)
        if problem:
            problems.append(f"{problem}. {remedy(mirror, config, [name])}")
        else:
            good.append(name)

    each(mirror, config, there, add, known)
    gone = known and known.gone(there)
    problems += [gone] if gone else []
    where = (str(mirror.directory), config, list(expected.copies))
    try:
        problems += ask(mirror, amanda_mirror_user.strangers, *where)
        problems += expected.audit(hashes, progress)
    except OSError as error:
        raise _unreadable(mirror, error) from None
    return {
        "generations": expected.generations,
        "newest": max(good, default=None),
        "files": expected.files,
        "bytes": expected.bytes,
        "problems": bounded(problems),
        "copies": list(expected.copies.values()),
    }


def remedy(mirror, config, names):
    """Return what to do about generations that can't be believed, in words."""
    where = Path(mirror.directory, config, GENERATIONS)
    which = ", ".join(repr(str(where / name)) for name in names)
    return f"Look at it; if nobody needs it, remove {which}, as {mirror.user}"


def bounded(problems, most=1000):
    """Return the first *most* of some texts; the last one tells how many more there are."""
    if len(problems) <= most:
        return list(problems)
    return [*problems[:most], f"and {len(problems) - most} more"]


class _Expected:
    """What some generations need, each copy of a tape once: so no manifest has to be kept."""

    def __init__(self, mirror):
        self.mirror = mirror
        self.copies, self.directories, self.problems = {}, {}, []
        self.generations = self.files = self.bytes = 0

    def add(self, manifest):
        """Take in what a generation needs."""
        where = Path(self.mirror.directory, manifest.config, GENERATIONS, manifest.generation)
        listed = f"{amanda_manifest.digest(manifest.source)}  {MANIFEST}\n"
        self.generations += 1
        self._count(manifest.files)
        self.directories[where] = [
            *manifest.files,
            amanda_manifest.of_text(MANIFEST, manifest.source),
            amanda_manifest.of_text(MANIFEST_SUM, listed),
        ]
        for copy in manifest.tapes:
            path = tape_directory(self.mirror, manifest.config, *copy.key)
            known = self.copies.setdefault(copy.key, copy)
            if known is copy:
                self._count(copy.files)
                sums = amanda_manifest.of_text(SUMS, amanda_manifest.sums(copy.files))
                self.directories[path] = [*copy.files, sums]
            elif known != copy:
                self.problems.append(
                    f"{str(path)!r}: generation {manifest.generation} knows it otherwise than "
                    "another generation"
                )

    def _count(self, files):
        self.files += len(files)
        self.bytes += sum(file.size for file in files)

    def audit(self, hashes, progress):
        """Return the problems there are."""
        work = [
            [str(path), [[file.name, file.size, file.sha256] for file in files]]
            for path, files in self.directories.items()
        ]
        progress = progress or (lambda count: None)
        found = ask(self.mirror, amanda_sums.compare, work, hashes, progress=progress)
        return self.problems + found


def tape_directory(mirror, config, label, written):
    """Return the path of the directory that holds a tape on the mirror."""
    return Path(mirror.directory, config, TAPES, label, written)


@contextlib.contextmanager
def open_catalogue(mirror, manifest, user=None, identity=None):
    """Give the catalogue of a generation, unpacked for this block only.

    mirror
        The :class:`amanda_settings.Mirror`.
    manifest
        What :func:`load` returned.
    user
        The dump user, who unseals and unpacks; None is the caller.
    identity
        As for :func:`amanda_archive.unseal`.

    Gives an :class:`amanda_layout.ConfigPlaces` whose tapes and holding disk don't exist. Raises
    :class:`~amanda_errors.AmandaError` if the archive was changed or can't be opened.
    """
    top = Path(mirror.directory, manifest.config, GENERATIONS, manifest.generation)
    file = manifest.archive.file
    try:
        _, (number,) = ask(mirror, hand_over, [str(top / file.name)], hands_over=True)
    except OSError as error:
        raise _unreadable(mirror, error) from None
    with os.fdopen(number, "rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size != file.size or amanda_sums.hash_stream(stream) != file.sha256:
            raise AmandaError(f"the catalogue was changed: {top / file.name}")
        stream.seek(0)
        archive = manifest.archive
        with amanda_archive.unseal(stream, archive, manifest.config, user, identity) as places:
            yield places


def open_tape_file(mirror, config, part):
    """Open the file of a tape that holds *part*, an :class:`amanda_catalogue.Part`.

    Returns an unbuffered stream, opened with the rights of the mirror's user. Raises
    :class:`~amanda_errors.AmandaError` if the mirror has no such file.
    """
    for pattern, value in [
        (amanda_manifest.LABEL, part.label),
        (amanda_manifest.WRITTEN, part.written),
    ]:
        if not pattern.fullmatch(value):
            raise AmandaError(f"{value!r} is no name that a mirror uses")
    directory = tape_directory(mirror, config, part.label, part.written)
    argument = [str(directory), f"{part.file:05d}."]
    try:
        found, opened = ask(mirror, _open_only, *argument, hands_over=True)
    except OSError as error:
        raise _unreadable(mirror, error) from None
    if found == 1:
        return os.fdopen(opened[0], "rb", buffering=0)
    raise AmandaError(
        f"the mirror has {found} files with the number {part.file} in {directory}, not one"
    )


def _open_only(directory, start):
    """Open the one file in *directory* whose name begins with *start*; give how many there are."""
    names = [name for name, _ in amanda_sums.listing(directory) if name.startswith(start)]
    return len(names), hand_over([os.path.join(directory, *names)])[1] if len(names) == 1 else []
