"""Amanda's directory for temporary files, in nobody's hands but the dump user's.

Amanda 3.5.1 has its path compiled in and takes it as it is: who makes it first on a server keeps
every dump off the tapes (its taper can't make its status file), and may exchange what is written
in one of his own. Once it is the dump user's, the sticky bit of ``/tmp`` keeps all others off.
"""

import os
import stat
import tempfile
from pathlib import Path

import amanda_files
from amanda_errors import AmandaError
from amanda_files import Managed
from amanda_layout import LOGS

PATH = Path("/tmp/amanda")
TMPFILES = Path("/etc/tmpfiles.d/salt-amanda.conf")


def differences(platform):
    """Return ``{path: {"old": …, "new": …}}`` for what is not yet as it should be.

    platform
        The :class:`amanda_platform.Platform` of this host.
    """
    changes = amanda_files.differences([_tmpfiles(platform)])
    wanted = _wanted(platform)
    foreign = _foreign(wanted)
    if foreign:
        new = f"{wanted.attributes}; what was there is moved aside"
        changes[str(PATH)] = {"old": foreign, "new": new}
        return changes
    return {**changes, **amanda_files.differences([wanted])}


def apply(platform):
    """Make it as it should be; another user's is moved to a new directory of root's beside it.

    Raises :class:`~amanda_errors.AmandaError` if somebody is quicker than that.
    """
    amanda_files.apply([_tmpfiles(platform)])
    wanted = _wanted(platform)
    try:
        if _foreign(wanted):
            PATH.rename(
                Path(tempfile.mkdtemp(prefix="amanda-foreign-", dir=PATH.parent), PATH.name)
            )
        if not os.path.lexists(PATH):
            PATH.mkdir(mode=0o700)  # fails if it is there again: it would be another's
    except OSError as error:
        raise AmandaError(
            f"{PATH} can't be made Amanda's: {error.strerror}. Does a user of this host make it "
            "at this moment? Apply the state backup again"
        ) from None
    amanda_files.apply([wanted])


def _tmpfiles(platform):
    text = (
        "# Written by Salt (state amanda.hardened); see tmpfiles.d(5).\n"
        "# Whoever made it first could stop every dump: it is there before anybody can log in.\n"
        f"D {PATH} 0700 {platform.user} {platform.group} -\n"
        "# Amanda's debug files grow by about a megabyte a run, for ever.\n"
        f"e {LOGS} - - - 14d\n"
    )
    return Managed(TMPFILES, text.encode())


def _wanted(platform):
    return Managed(PATH, None, platform.user, platform.group, 0o700)


def _foreign(wanted):
    """Return what is in the place of *wanted*, in words, if another could write there; or None."""
    try:
        status = PATH.lstat()
    except FileNotFoundError:
        return None
    owner = amanda_files.owner(status)
    trusted = owner.split(":")[0] in ("root", wanted.user)
    if trusted and stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o022:
        return None
    return f"{owner} {stat.S_IMODE(status.st_mode):04o}, {_kind(status.st_mode)}"


def _kind(mode):
    return "a directory" if stat.S_ISDIR(mode) else "no directory"
