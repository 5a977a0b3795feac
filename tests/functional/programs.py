"""Our programs on this host, as the states install them."""

import sys
from pathlib import Path

import amanda_files
import amanda_layout
import amanda_provision

SOURCES = Path(__file__).parents[2] / "salt" / "backup" / "files"


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
