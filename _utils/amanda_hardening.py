"""Leave Amanda's programs only the power they need: to read every file, and nothing else.

Amanda's way is ``amgtar``, setuid root for the dump user's group, and amanda-security.conf(5) to
say which tar it may run. That is no fence: amgtar checks one path and starts another, so a symbolic
link exchanged in between runs any program as root, within half a second. ``runtar`` writes any
file as root by ``--file``. And the dump user is in the server's hands: a dumptype names the
program that compresses on the client.

So no program stays setuid. amgtar works without; in runtar's place, whose checks don't, stands a
script. Both run a copy of tar that only the dump user's group may run and that has one
capability, ``cap_dac_read_search`` (capabilities(7)): it reads every file, and neither writes nor
runs anything with more rights than the dump user's. What it can't store are ``trusted.*`` extended
attributes; and it can't preserve the atime, which would take ``cap_fowner``: amgtar needs the
property ``ATIME-PRESERVE`` ``NO``, or directories of others are left out.
"""

import contextlib
import grp
import os
import re
import shutil
import stat
import struct
import tempfile
from pathlib import Path

import amanda_files
import amanda_platform
import amanda_tmpdir
from amanda_command import run
from amanda_errors import AmandaError, CommandError
from amanda_files import Managed
from amanda_layout import INCREMENTAL_TAR, PROGRAMS, TAR

SECURITY_CONF = Path("/etc/amanda-security.conf")
INETD_CONF = Path("/etc/inetd.conf")
XINETD_CONF = Path("/etc/xinetd.d/amanda")
SYSTEM_TAR = Path("/usr/bin/tar")

SETUID_PROGRAMS = (
    "ambind",  # privileged ports, for auth bsd and bsdtcp
    "application/amgtar",
    "application/amstar",  # the archiver star
    "calcsize",  # estimate calcsize
    "killpgrp",  # stops what runtar and rundump started as root
    "rundump",  # program DUMP
    "runtar",  # program GNUTAR; its tar's path is compiled in
)
"""What Debian's packages install setuid root, below :attr:`amanda_platform.Platform.libexec`."""

UNSETUID_MODE = 0o750

RUNTAR = f"""\
#!/bin/sh
# Written by Salt (state amanda.hardened) in the place of Amanda's runtar, which wants to be root.
# Amanda starts it as: runtar CONFIG TAR --create ... It has no more rights than who runs it:
# the setuid bit, which Linux ignores on a script, is there because amcheck looks for it.
shift 2
exec {INCREMENTAL_TAR} "$@"
"""

# struct vfs_cap_data of linux/capability.h, revision 2: permitted low, inheritable low, then high.
_CAPABILITY = "security.capability"
_DAC_READ_SEARCH = 2
_EFFECTIVE = 0x02000001
CAPABILITY_DATA = struct.pack("<5I", _EFFECTIVE, 1 << _DAC_READ_SEARCH, 0, 0, 0)

_RAW_DISKS = "disk"  # a group that may write to the disks themselves, which is as good as root
_INETD_LINE = re.compile(r"^\s*amanda\s", re.MULTILINE)
_XINETD_ON = re.compile(r"^(\s*disable\s*=\s*)no\b", re.MULTILINE)


def security_conf():
    """Return the text of amanda-security.conf(5).

    The system's tar is allowed beside ours because root restores with it, and because amcheck
    asks for runtar's. Nobody gets more rights by it, since neither program is setuid.
    """
    system_tar = SYSTEM_TAR.resolve()
    return (
        "# Written by Salt (state amanda.hardened); changes made here are lost.\n"
        "# See amanda-security.conf(5).\n"
        f"amgtar:gnutar_path={INCREMENTAL_TAR}\n"
        f"amgtar:gnutar_path={system_tar}\n"
        f"runtar:gnutar_path={system_tar}\n"
        "restore_by_amanda_user=no\n"
    )


def differences():
    """Return ``{what: {"old": …, "new": …}}`` for all that is not yet as it should be."""
    platform = amanda_platform.detect()
    changes = amanda_files.differences(_managed(platform))
    if str(TAR) not in changes and _capability() != CAPABILITY_DATA:
        changes[str(TAR)] = {"old": "reads what its user may", "new": "cap_dac_read_search=ep"}
    for program in _programs(platform):
        change = _mode_change(program, platform)
        if change:
            changes[str(_real(program, platform))] = change
    if platform.user in _raw_disk_members():
        change = {"old": f"member of {_RAW_DISKS}", "new": f"not a member of {_RAW_DISKS}"}
        changes[f"user {platform.user}"] = change
    for path in _open_services():
        changes[str(path)] = {"old": "amanda on", "new": "amanda off"}
    return {**changes, **amanda_tmpdir.differences(platform)}


def apply():
    """Make it as it should be, and prove that the tar can do what it is for.

    Raises :class:`~amanda_errors.AmandaError` if the copy of tar can't read what root alone may,
    as where ``/usr/local`` is mounted nosuid.
    """
    platform = amanda_platform.detect()
    amanda_tmpdir.apply(platform)
    # Tar first: were the bits taken before, a dump between the two would miss files.
    files = _managed(platform)
    amanda_files.apply([wanted for wanted in files if wanted.path != _runtar(platform)])
    if _capability() != CAPABILITY_DATA:
        os.setxattr(TAR, _CAPABILITY, CAPABILITY_DATA)
    check_tar(platform)
    for program in _programs(platform):
        if _mode_change(program, platform):
            _unset(program, platform)
    _divert(platform)
    amanda_files.apply(files)
    if platform.user in _raw_disk_members():
        run(["gpasswd", "-d", platform.user, _RAW_DISKS])
    for path in _open_services():
        _close(path)


def check_tar(platform):
    """Raise :class:`~amanda_errors.AmandaError` unless the dump user's tar reads root's files."""
    with tempfile.TemporaryDirectory() as directory:  # 0700, root's
        Path(directory, "file").write_bytes(b"for root alone")
        command = [TAR, "--create", "--file", "-", "--directory", directory, "file"]
        try:
            archive = run(command, user=platform.user).stdout
        except CommandError as error:
            raise AmandaError(
                f"{TAR} can't read for the dump user what root alone may: {error}. Is "
                f"{PROGRAMS} on a file system mounted nosuid, or this host a container without "
                "cap_dac_read_search?"
            ) from error
    if b"for root alone" not in archive:
        raise AmandaError(f"{TAR} left out what root alone may read")


def _managed(platform):
    tar = SYSTEM_TAR.resolve().read_bytes()
    return [
        Managed(PROGRAMS, mode=0o755),
        Managed(TAR, tar, group=platform.group, mode=0o750),
        Managed(SECURITY_CONF, security_conf().encode()),
        Managed(_runtar(platform), RUNTAR.encode(), group=platform.group, mode=0o4750),
    ]


def _runtar(platform):
    return platform.libexec / "runtar"


def _real(program, platform):
    """Return where the package's *program* lies: runtar aside, ours is in its place."""
    if program == _runtar(platform):
        return program.with_name("runtar.distrib")
    return program


def _divert(platform):
    """Move the package's runtar aside, on Debian so that an upgrade puts its own there, too."""
    program = _runtar(platform)
    aside = _real(program, platform)
    if aside.exists():
        return
    if shutil.which("dpkg-divert"):
        where = ["--divert", aside, "--rename", "--add", program]
        run(["dpkg-divert", "--local", "--quiet", *where])
    else:
        program.rename(aside)


def _capability():
    """Return the capabilities that the file gives, as the kernel stores them; None if none."""
    try:
        return os.getxattr(TAR, _CAPABILITY)
    except OSError:
        return None


def _programs(platform):
    """Return the names, as the packages know them, of the programs that are installed."""
    names = [platform.libexec / name for name in SETUID_PROGRAMS]
    return [name for name in names if name.exists()]


def _mode_change(program, platform):
    path = _real(program, platform)
    if not path.exists():
        path = program  # runtar, not yet moved aside
    old = stat.S_IMODE(path.stat().st_mode)
    kept = _dpkg() is None or _override(program) == _wanted_override(platform)
    if not old & (stat.S_ISUID | stat.S_ISGID) and kept:
        return None
    new = f"{UNSETUID_MODE:04o}" + (", kept so by dpkg-statoverride" if _dpkg() else "")
    return {"old": f"{old:04o}", "new": new}


def _unset(program, platform):
    """Take the bits from *program*, and on Debian have dpkg remember that at upgrades."""
    path = _real(program, platform)
    (path if path.exists() else program).chmod(UNSETUID_MODE)
    if _dpkg() is None:
        return
    if _override(program) is not None:
        run([_dpkg(), "--quiet", "--remove", program])
    run([_dpkg(), "--add", *_wanted_override(platform), program])


def _dpkg():
    return shutil.which("dpkg-statoverride")


def _wanted_override(platform):
    return ["root", platform.group, f"{UNSETUID_MODE:o}"]


def _override(program):
    """Return owner, group and mode that dpkg keeps for *program*, or None."""
    listed = run([_dpkg(), "--list", program], ok=(0, 1)).stdout.decode().split()
    return listed[:3] if listed else None


def _raw_disk_members():
    with contextlib.suppress(KeyError):
        return grp.getgrnam(_RAW_DISKS).gr_mem
    return []


def _open_services():
    """Return the files of inetd and xinetd that let amandad answer without SSH."""
    return [
        path
        for path, pattern in ((INETD_CONF, _INETD_LINE), (XINETD_CONF, _XINETD_ON))
        if path.exists() and pattern.search(path.read_text(encoding="utf-8", errors="replace"))
    ]


def _close(path):
    if path == INETD_CONF:
        run(["update-inetd", "--disable", "amanda"])  # tells a running inetd, too
        return
    text = _XINETD_ON.sub(r"\1yes", path.read_text(encoding="utf-8"))
    amanda_files.write(path, text.encode())
