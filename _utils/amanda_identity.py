"""An age identity given for one restore or verification, which the server does not keep.

It goes to the filter as an open file without a name: root reads the administrator's file, and the
dump user, as whom the filter runs, can read only what is in memory, for as long as the block lasts.
However the process ends, nothing is left behind.
"""

import contextlib
import fcntl
import os
import pwd
import stat

import amanda_age
import amanda_layout
from amanda_errors import AmandaError, ArgumentError, SealedError, ServerError
from amanda_rights import open_regular

_MOST_BYTES = 1 << 16
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@contextlib.contextmanager
def given(path, user):
    """Give the identity in the file *path* for this block: a descriptor, or None for no path.

    path
        Absolute, of a file that root alone can read; None: the server's own identity will do.
    user
        The dump user, as whom filters run; None is the caller.

    What is given is passed on as ``identity=`` and means nothing to another process. Raises
    :class:`~amanda_errors.ArgumentError` if *path* is no such file; its content is never shown.
    """
    if path is None:
        yield None
        return
    lines = "".join(f"{identity}\n" for identity in _read(path))
    number = os.memfd_create("age-identity", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(number, lines.encode())
        if user is not None:
            os.fchown(number, pwd.getpwnam(user).pw_uid, -1)
        os.fchmod(number, 0o400)
        fcntl.fcntl(number, fcntl.F_ADD_SEALS, _SEALS)
        yield number
    finally:
        os.close(number)


def _read(path):
    """Return the identities in the file *path*."""
    if not isinstance(path, str) or not os.path.isabs(path):
        raise ArgumentError(
            "identity= takes the absolute path of a file on this server, such as "
            "/root/offsite.key, never the key itself"
        )
    try:
        with open_regular(path) as stream:
            _check(path, os.fstat(stream.fileno()))
            return amanda_age.identities(stream.read(), path)
    except OSError as error:
        raise ArgumentError(
            f"identity={path} can't be read: {error.strerror}. Put the offsite identity there, "
            "on this server, as a plain file of root's with mode 0400"
        ) from None
    except ArgumentError:
        raise
    except AmandaError as error:
        raise ArgumentError(
            f"identity={path} can't be used: {error}. Give the file that age-keygen wrote"
        ) from None


def _check(path, status):
    """Raise unless the file is the caller's alone."""
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise ArgumentError(
            f"identity={path} can be read or changed by others than root: "
            f"chown root {path}; chmod 0400 {path}"
        )
    if status.st_size > _MOST_BYTES:
        raise ArgumentError(f"identity={path} is too large for an identity")


def opener(method, identity, what):
    """Return the command that opens what is sealed with *method*, and descriptors it is to inherit.

    method
        A key of :data:`amanda_layout.CRYPT`.
    identity
        What :func:`given` gave; None takes the server's own key.
    what
        What is to be opened, for messages.

    Raises :class:`~amanda_errors.AmandaError` if *method* knows no such identities.
    """
    command = [amanda_layout.CRYPT[method], "-d"]
    if identity is None:
        return command, ()
    if method != "age":
        raise AmandaError(
            f"{what} is sealed with {method}, which identity= can't open: bring the two key files "
            "back to their places on the server, and leave identity= out"
        )
    return [*command, f"/dev/fd/{identity}"], (identity,)


def refusal(said):
    """Return the error that says which key is missing, if that is what a filter *said*; or None."""
    if "no identity matched any of the recipients" in said:  # age
        return SealedError(
            f"it is sealed to other keys than what was tried ({said}). Name a file with one that "
            "opens it, such as an offsite one: identity=/root/offsite.key"
        )
    if "is missing, or not readable by" in said:  # crypt-age
        return ServerError(said)
    return None
