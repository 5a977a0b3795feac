"""What is done on the mirror with the rights of the mirror's user alone.

Each function is called through :func:`ask`: it gets plain data and open files, and sees neither
keys nor plain text. A file counts once it is on stable storage under its final
name; until then it stands in a directory whose name ends in ``.partial``.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
from pathlib import Path

import amanda_sums
from amanda_copying import CHUNK, in_words
from amanda_errors import AmandaError
from amanda_manifest import (
    GENERATION,
    GENERATIONS,
    LABEL,
    MANIFEST,
    MANIFEST_SUM,
    PARTIAL,
    SUMS,
    TAPES,
    WRITTEN,
)
from amanda_rights import as_user, open_regular
from amanda_tapefile import HEADER_SIZE

PATIENCE = 600
"""Seconds that the mirror may take for a single piece of work, a few megabytes at most."""

MOST_TEXT = 64 << 20
"""Bytes of a manifest, of some 390,000 tape files. Whoever writes the mirror might write more."""

_MOST_SUM = 200  # bytes of a manifest's SHA-256

_PARTS = re.compile(f"{TAPES}|{GENERATIONS}")


def ask(mirror, function, *arguments, patience=None, **options):
    """Return what ``function(*arguments)`` returns, called with the rights of the mirror's user.

    mirror
        The :class:`amanda_settings.Mirror`.
    patience
        Seconds without a word after which the call is given up; None is :data:`PATIENCE`. What
        this process reads itself from a file that was handed over has no such end.
    options
        As for :func:`amanda_rights.as_user`.

    Raises as that, but :class:`~amanda_errors.AmandaError` if the mirror doesn't answer.
    """
    patience = patience or PATIENCE
    try:
        return as_user(mirror.user, function, *arguments, patience=patience, **options)
    except TimeoutError:
        waited = f"{patience // 60} minutes" if patience >= 60 else f"{patience} s"
        raise AmandaError(
            f"the mirror's directory {mirror.directory} hasn't answered for {waited}. See that its "
            "file server is up, then try again; its generations are as they were"
        ) from None


# --- as the mirror's user ---


def prepare(directory, config):
    """Make what is missing below the mirror's *directory*, and take away what is unfinished.

    Raises :class:`~amanda_errors.AmandaError` in words if *directory* can't be used.
    """
    check_usable(directory)
    top = _top(directory, config)
    for path in (top, top / TAPES, top / GENERATIONS):
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            sync(path.parent)
    labels = [path for path in (top / TAPES).iterdir() if LABEL.fullmatch(path.name)]
    for path in labels:
        _no_link(path)
    labels = [path for path in labels if path.is_dir()]
    for parent in (*labels, top / GENERATIONS):
        for path in parent.glob(f"*{PARTIAL}"):
            discard(path)


def _top(directory, config):
    """Return where *config* is on the mirror; nothing below the mirror's directory is a link."""
    top = Path(directory, config)
    for path in (top, top / TAPES, top / GENERATIONS):
        _no_link(path)
    return top


def _no_link(path):
    if path.is_symlink():
        raise AmandaError(
            f"{str(path)!r} on the mirror is a link, and no link is followed there. Put the "
            "directory itself in its place; or, if nobody needs what it leads to, remove the link, "
            f"as the mirror's user (uid {os.geteuid()})"
        )


def check_usable(directory):
    """Raise :class:`~amanda_errors.AmandaError`, in words, unless *directory* is ours to write.

    It is never made, since it may be that it isn't mounted.
    """
    directory = Path(directory)
    user = f"the mirror's user (uid {os.geteuid()})"
    try:
        status = directory.stat()
    except FileNotFoundError:
        raise AmandaError(
            f"the mirror's directory {directory} doesn't exist. Mount it, or make it for {user}"
        ) from None
    except PermissionError:
        raise AmandaError(f"{user} may not look into {directory.parent}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise AmandaError(f"the mirror's directory {directory} isn't a directory")
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        raise AmandaError(f"the mirror's file system is read-only: {directory}")
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise AmandaError(f"{user} may not write in the mirror's directory {directory}")


def survey(directory, config):
    """Return what the mirror holds, as data; nothing if it holds nothing of *config*.

    ``free`` is what may still be written, in bytes; ``tapes`` has a dict for each copy of a tape:
    ``label``, ``written`` and ``files`` (pairs of name and size, None for what is no file).
    """
    top = _top(directory, config)
    status = os.statvfs(directory)
    return {
        "free": status.f_bavail * status.f_frsize,
        "tapes": [
            {"label": label.name, "written": written.name, "files": amanda_sums.listing(written)}
            for label in _entries(top / TAPES, LABEL)
            for written in _entries(label, WRITTEN)
        ],
    }


def generations(directory, config, names, report):
    """Report what each generation of *names* says of itself, one after the other: a dict.

    It has ``name``, ``manifest`` (the text), and ``problem``: why there is none, in words, or None.
    """
    for name in names:
        top = Path(directory, config, GENERATIONS, name)
        found = {"name": name, "manifest": None, "problem": None}
        try:
            found["manifest"] = _manifest(top)
        except (AmandaError, UnicodeDecodeError) as error:
            found["problem"] = str(error)
        report(found)


def _manifest(top):
    """Return the text of a manifest, once it agrees with its sum: before that nobody decodes it."""
    listed = _content(top / MANIFEST_SUM, _MOST_SUM)
    data = _content(top / MANIFEST, MOST_TEXT)
    if listed != f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n".encode():
        raise AmandaError(f"{MANIFEST} or {MANIFEST_SUM} was changed")
    return data.decode()


def generation_names(directory, config):
    """Return the names of the generations of *config*, sorted; they may be damaged.

    Raises :class:`OSError` if *directory* can't be read.
    """
    os.listdir(directory)
    return [path.name for path in _entries(_top(directory, config) / GENERATIONS, GENERATION)]


def _entries(directory, pattern):
    try:
        names = sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return []
    return [directory / name for name in names if _ours(directory / name, pattern)]


def _content(path, most):
    """Return the bytes of a file that has no more than *most*; AmandaError says why not."""
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > most:
                raise AmandaError(f"{path.name} has {size} bytes, where {most} are the most")
            return stream.read(size)
    except OSError as error:
        raise AmandaError(f"{path.name} {amanda_sums.unread(error)}") from None


def write(path, text):
    """Write a new file, down to the disk."""
    try:
        with open(path, "x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise in_words(error, path) from None


def finish(partial, final, texts, replace=False):
    """Write *texts* (pairs of name and content) into the directory *partial*, and rename it.

    replace
        Whether *final* gives way if it is there already, since it is damaged.
    """
    for name, text in texts:
        write(Path(partial, name), text)
    sync(partial)
    final = Path(final)
    damaged = _set_aside(final) if replace and os.path.lexists(final) else None
    Path(partial).rename(final)
    sync(final.parent)
    sync(final.parent.parent)
    if damaged:
        discard(damaged)


def remove(path):
    """Remove a directory; from its first moment on nobody takes it for a whole one."""
    path = Path(path)
    dying = _set_aside(path)
    sync(path.parent)
    shutil.rmtree(dying)


def _set_aside(path):
    return path.rename(path.with_name(f"{path.name}.old{PARTIAL}"))


def prune(directory, config, generations, tapes):
    """Remove generations, by name, then copies of tapes, pairs of label and write time."""
    top = Path(directory, config)
    for name in generations:
        remove(top / GENERATIONS / name)
    for label, written in tapes:
        remove(top / TAPES / label / written)
        with contextlib.suppress(OSError):
            (top / TAPES / label).rmdir()  # unless another copy is in it


def discard(path):
    """Remove something partial, whatever it is."""
    path = Path(path)
    if not path.is_symlink() and path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def sync(directory):
    """Bring a directory's names to the disk; not every file system has a way to ask for that."""
    number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(number)


def pour(path, pipe, report):
    """Write the content of a file into a *pipe*, a descriptor."""
    with open_regular(path) as stream:
        while data := stream.read(CHUNK):
            report(len(data))
            while data:
                data = data[os.write(pipe, data) :]


def read_sums_file(directory):
    """Return the text of a tape copy's SHA256SUMS, or None."""
    try:
        return _content(Path(directory, SUMS), MOST_TEXT).decode()
    except (AmandaError, UnicodeDecodeError):
        return None


def heads(top, paths, report):
    """Return the first bytes of some files, as many as Amanda's header has, as text of Latin-1.

    top
        The directory that *paths* are relative to.

    Each is a pair: the text and None, or None and why the file can't be read.
    """
    found = []
    for path in paths:
        try:
            with open_regular(Path(top, path)) as stream:
                text = stream.read(HEADER_SIZE).rstrip(b"\0").decode("latin-1")
            found.append([text, None])
        except OSError as error:
            found.append([None, error.strerror])
        report(len(found))
    return found


def strangers(directory, config, tapes):
    """Return what no generation of *config* needs, in words.

    tapes
        Label and write time of all that any generation needs. What is in these directories, and in
        those of generations, is left to :func:`amanda_sums.compare`.
    """
    top = Path(directory, config)
    needed = {tuple(tape) for tape in tapes}
    _, problems = _apart(top, _PARTS)
    problems += _apart(top / GENERATIONS, GENERATION)[1]
    labels, others = _apart(top / TAPES, LABEL)
    problems += others
    for label in labels:
        copies, others = _apart(label, WRITTEN)
        problems += others
        problems += [
            f"{str(path)!r} isn't needed by any generation"
            for path in copies
            if (label.name, path.name) not in needed
        ]
    return problems


def _apart(parent, pattern):
    """Return the directories in *parent* that are named as ours are; what else is there, in words.

    What a mirror that was cut off left unfinished is told as such.
    """
    try:
        paths = sorted(parent.iterdir())
        ours = [path for path in paths if _ours(path, pattern)]
    except OSError as error:
        return [], [f"{str(parent)!r} can't be read: {error.strerror}"]
    known = set(ours)
    ends = PARTIAL if pattern in (WRITTEN, GENERATION) else "/"  # as prepare looks for them
    return ours, [
        f"{str(path)!r} is unfinished; the next mirror removes it"
        if path.name.endswith(ends)
        else f"{str(path)!r} doesn't belong there"
        for path in paths
        if path not in known
    ]


def _ours(path, pattern):
    return pattern.fullmatch(path.name) is not None and not path.is_symlink() and path.is_dir()
