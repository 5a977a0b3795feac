"""Our programs on this host, as the states install them."""

import shutil
import subprocess
import sys
from pathlib import Path

import amanda_files
import amanda_hardening
import amanda_layout
import amanda_platform
import amanda_provision

SOURCES = Path(__file__).parents[2] / "salt" / "backup" / "files"
SHIPPED_MODES = {"application/amgtar": 0o4750, "runtar": 0o4754, "calcsize": 0o4754}
SHIPPED_CONF = "runtar:gnutar_path=/usr/bin/tar\namgtar:gnutar_path=/usr/bin/tar\n"


def install_client_programs():
    """Install what Amanda runs on a client."""
    names = amanda_provision.CLIENT_MODULES
    wanted = [
        *amanda_provision.programs(
            amanda_provision.CLIENT_PROGRAMS,
            lambda name: (SOURCES / name).read_bytes(),
            sys.executable,
        ),
        *amanda_provision.modules(Path(amanda_layout.__file__).parent, names),
    ]
    amanda_files.apply(wanted)


def unharden():
    """Make Amanda again as Debian ships it."""
    platform = amanda_platform.PLATFORMS["Debian"]
    runtar = platform.libexec / "runtar"
    distributed = runtar.with_name("runtar.distrib")
    if distributed.exists():
        runtar.unlink()
        subprocess.run(
            ["dpkg-divert", "--local", "--rename", "--remove", runtar],
            check=True,
            capture_output=True,
        )
    for name in amanda_hardening.SETUID_PROGRAMS:
        program = platform.libexec / name
        subprocess.run(["dpkg-statoverride", "--remove", program], check=False, capture_output=True)
        shutil.chown(program, "root", platform.group)
        program.chmod(SHIPPED_MODES.get(name, 0o4754))
    amanda_hardening.SECURITY_CONF.write_text(SHIPPED_CONF)
