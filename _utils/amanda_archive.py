"""The catalogue of a config as one archive, sealed as its dumps are.

With the tapes it is all that a restore needs: configuration, tapelist, logs, planner's history,
index, and what pins the clients. By hand: unseal, ``zstd -d`` (of amcrypt's ``gzip -d``),
``tar -x``; paths are as they were, without the leading slash.
"""

import contextlib
import dataclasses
import os
import shutil
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import amanda_clock
import amanda_identity
import amanda_layout
from amanda_command import popen
from amanda_errors import AmandaError
from amanda_rights import as_user, open_regular

EXTRAS = "salt-amanda"
"""The directory, in the archive, of what only root can read on the server, and of its key."""

ZONE = "zone"
"""The extra with the name of the server's time zone, by whose time Amanda names its dumps."""

_MOST_EXTRA = 256 << 20
"""Bytes that one of them may have; a fleet of ten thousand clients has some ten million."""

_GZIP = ("amcrypt",)
"""Methods that pad what they seal with zeros: gzip takes no notice of them, zstd fails."""


def name(method):
    """Return what an archive is called that is sealed with *method*."""
    return f"catalogue.tar.{'gz' if method in _GZIP else 'zst'}.{method}"


def _compression(method):
    return "--gzip" if method in _GZIP else "--zstd"


@contextlib.contextmanager
def seal(places, method, platform, extras=None):
    """Give the descriptor of a pipe from which the sealed archive can be read to its end.

    places
        The :class:`amanda_layout.ConfigPlaces` of the config.
    method
        The encryption's method, a key of :data:`amanda_layout.CRYPT`.
    platform
        :class:`amanda_platform.Platform`: its user reads and seals, from its home come the pins.
    extras
        Files to add that the dump user can't read, paths by name; None takes :func:`extras_of`.

    Raises :class:`~amanda_errors.AmandaError`, on leaving, if anything was not read or sealed: then
    what came through the pipe is worth nothing.
    """
    extras = extras_of(places.name, method) if extras is None else extras
    texts = [
        [name, path.read_text("utf-8"), path.stat().st_mtime]
        for name, path in extras.items()
        if path.exists()
    ]
    texts.append([ZONE, amanda_clock.zone(), time.time()])
    staging = as_user(platform.user, _stage, texts)
    try:
        with contextlib.ExitStack() as stack:
            heard = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
            members = [*_members(places, platform), f"--directory={staging}", EXTRAS]
            argv = ["tar", "--create", _compression(method), "--file=-", "--directory=/", *members]
            tar = _start(stack, argv, platform.user, heard[0])
            argv = [amanda_layout.CRYPT[method]]
            crypt = _start(stack, argv, platform.user, heard[1], stdin=tar.stdout)
            tar.stdout.close()
            try:
                yield crypt.stdout.fileno()
            except BaseException:
                # Whoever read from the pipe may hang, and hold it open, for ever.
                tar.kill()
                crypt.kill()
                raise
            crypt.stdout.close()
            _finish("reading the catalogue", tar, heard[0])
            _finish("sealing the catalogue", crypt, heard[1])
    finally:
        as_user(platform.user, shutil.rmtree, staging)


def extras_of(config, method):
    """Return the files of a config's server that its archive holds beside Amanda's own, by name.

    With age the server's identity is among them: whoever opens the archive opens the dumps as well,
    and a server that is rebuilt needs it for those of before. Of amcrypt the archive can't hold
    what opens it.
    """
    extras = {
        "fleet.json": amanda_layout.FLEET,
        "retention.json": amanda_layout.RETENTION / f"{config}.json",
        "verified.json": amanda_layout.VERIFIED / f"{config}.json",
    }
    if method == "age":
        extras["identity"] = amanda_layout.AGE_IDENTITY
        extras["recipients"] = amanda_layout.AGE_RECIPIENTS
    return extras


def _members(places, platform):
    pins = [platform.home / ".ssh" / name for name in ("config", "known_hosts")]
    there = as_user(platform.user, _existing, [str(path) for path in pins])
    return [str(path).lstrip("/") for path in (places.conf, places.state, *there)]


def _existing(paths):
    return [path for path in paths if os.path.lexists(path)]


def _stage(texts):
    directory = tempfile.mkdtemp(prefix="salt-amanda-")
    extras = Path(directory, EXTRAS)
    extras.mkdir()
    for name, text, modified in texts:
        (extras / name).write_text(text, "utf-8")
        os.utime(extras / name, (modified, modified))
    return directory


def _start(stack, argv, user, heard, **options):
    options.setdefault("stdout", subprocess.PIPE)
    try:
        process = popen(argv, user=user, stderr=heard, **options)
    except OSError as error:
        raise AmandaError(f"{argv[0]} can't be run: {error.strerror}") from None
    return stack.enter_context(process)


def _finish(what, process, heard):
    if process.wait() != 0:
        heard.seek(0)
        said = heard.read(2000).decode(errors="replace").strip() or "nothing on stderr"
        if error := amanda_identity.refusal(said):
            raise type(error)(f"{what} failed: {error}")
        raise AmandaError(f"{what} failed with status {process.returncode}: {said}")


@dataclasses.dataclass(frozen=True)
class Unpacked(amanda_layout.ConfigPlaces):
    """The places of a config in an unpacked archive.

    extras
        The directory of what :func:`extras_of` names, and of :data:`ZONE`.
    """

    extras: Path


def read_extras(places, user):
    """Return the extras of an archive, texts by name, as far as it has them.

    places
        What :func:`unseal` gave.
    user
        Who unpacked it.

    Raises :class:`~amanda_errors.AmandaError` if one is no text, or larger than any of ours.
    """
    return as_user(user, _texts, str(places.extras), [*extras_of(places.name, "age"), ZONE])


def _texts(directory, names):
    texts = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError), open_regular(Path(directory, name)) as file:
            content = file.read(_MOST_EXTRA + 1)
            if len(content) > _MOST_EXTRA:
                raise AmandaError(f"the catalogue holds a {name} of over {_MOST_EXTRA} bytes")
            texts[name] = content.decode()
    return texts


@contextlib.contextmanager
def unseal(stream, archive, config, user, identity=None):
    """Give the :class:`amanda_layout.ConfigPlaces` of an archive, unpacked for this block only.

    stream
        The sealed archive, an open file.
    archive
        Its :class:`amanda_manifest.Archive`.
    config
        The config's name.
    user
        Who unseals, unpacks, and owns what is unpacked; None is the caller.
    identity
        What :func:`amanda_identity.given` gave; None takes the server's own key.

    They are :class:`Unpacked`: without tapes and holding disk. Raises
    :class:`~amanda_errors.AmandaError` if the archive can't be opened, or lacks what its manifest
    says is in it.
    """
    if archive.method not in amanda_layout.CRYPT:
        raise AmandaError(f"the catalogue is sealed with {archive.method!r}, which is unknown")
    directory = as_user(user, tempfile.mkdtemp, "", "salt-amanda-")
    try:
        options = ["--extract", *_SAFELY, f"--directory={directory}"]
        with _reading(stream, archive.method, options, user, identity):
            pass
        places = {"conf": Path(directory, archive.conf), "state": Path(directory, archive.state)}
        as_user(user, _check, directory, [str(path) for path in places.values()])
        nothing = Path(directory, "nothing")
        extras = Path(directory, EXTRAS)
        yield Unpacked(name=config, tapes=nothing, holding=nothing, extras=extras, **places)
    finally:
        as_user(user, _remove, directory)


@contextlib.contextmanager
def trial(method, user):
    """Give the descriptor of a pipe: what is written to it is unsealed and listed, and no more.

    method, user
        As for :func:`seal`, and for :func:`unseal`.

    Raises :class:`~amanda_errors.AmandaError`, on leaving, if that archive could not be had back.
    """
    reader, writer = os.pipe()
    with open(reader, "rb") as stream, open(writer, "wb") as pipe:
        with _reading(stream, method, ["--list"], user) as children:
            try:
                yield pipe.fileno()
            except BrokenPipeError:  # who didn't read on will say why
                pass
            except BaseException:
                for child in children:
                    child.kill()
                raise
            pipe.close()


_SAFELY = ("--no-same-owner", "--no-same-permissions", "--delay-directory-restore")


@contextlib.contextmanager
def _reading(stream, method, options, user, identity=None):
    """Unseal *stream* and have tar read it, for this block.

    Gives the two processes; leaving the block waits for them.
    """
    with contextlib.ExitStack() as stack:
        heard = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
        argv, inherited = amanda_identity.opener(method, identity, "the catalogue")
        crypt = _start(stack, argv, user, heard[0], stdin=stream, pass_fds=inherited)
        stream.close()
        argv = ["tar", *options, _compression(method), "--file=-"]
        nowhere = subprocess.DEVNULL
        tar = _start(stack, argv, user, heard[1], stdin=crypt.stdout, stdout=nowhere)
        crypt.stdout.close()
        yield crypt, tar
        tar.wait()
        _finish("unsealing the catalogue", crypt, heard[0])
        _finish("unpacking the catalogue", tar, heard[1])


def _check(directory, paths):
    """Raise unless each path is a directory; take away what is no plain file or directory.

    A link in a catalogue, named like a log, could show root's files to whoever reads the log.
    """
    for path, directories, files in os.walk(directory):
        for name in (*directories, *files):
            mode = os.lstat(os.path.join(path, name)).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                os.unlink(os.path.join(path, name))
    for path in paths:
        if not os.path.isdir(path):
            raise AmandaError(f"the catalogue lacks {os.path.relpath(path, directory)}")


def _remove(directory):
    for path, names, _ in os.walk(directory):
        for name in names:
            if not os.path.islink(os.path.join(path, name)):
                os.chmod(os.path.join(path, name), 0o700)
    shutil.rmtree(directory)
