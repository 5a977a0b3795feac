"""What differs between the operating systems that package Amanda: data, no code.

The packages themselves are named where they are installed, in ``salt/backup/packages.yaml``.
Only Debian's Amanda 3.5.1 is tested. The other rows are read from those packages' spec files.
"""

import dataclasses
from pathlib import Path

from amanda_errors import AmandaError


@dataclasses.dataclass(frozen=True)
class Platform:
    """Names that one OS family's packages give to Amanda's parts.

    user, group, home
        The dump user, as Amanda was built to run.
    libexec
        Where ``amandad``, ``amgtar`` and ``runtar`` live.
    sbin
        Where ``amdump`` and the other commands live.
    """

    user: str
    group: str
    home: Path
    libexec: Path
    sbin: Path


PLATFORMS = {
    "Debian": Platform(
        user="backup",
        group="backup",
        home=Path("/var/backups"),
        libexec=Path("/usr/lib/amanda"),
        sbin=Path("/usr/sbin"),
    ),
    "RedHat": Platform(
        user="amandabackup",
        group="disk",
        home=Path("/var/lib/amanda"),
        libexec=Path("/usr/lib64/amanda"),
        sbin=Path("/usr/sbin"),
    ),
    "Suse": Platform(
        user="amanda",
        group="amanda",
        home=Path("/var/lib/amanda"),
        libexec=Path("/usr/lib/amanda"),
        sbin=Path("/usr/sbin"),
    ),
}

# /etc/os-release says ID and ID_LIKE; Salt's os_family grain isn't there outside Salt.
_FAMILIES = {
    "debian": "Debian",
    "ubuntu": "Debian",
    "rhel": "RedHat",
    "fedora": "RedHat",
    "centos": "RedHat",
    "suse": "Suse",
    "opensuse": "Suse",
}


def detect(os_release=Path("/etc/os-release")):
    """Return this machine's :class:`Platform`, by ``ID`` and ``ID_LIKE`` of os-release(5)."""
    fields = {}
    for line in os_release.read_text(encoding="utf-8").splitlines():
        key, separator, value = line.partition("=")
        if separator:
            fields[key] = value.strip("\"'")
    for name in [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]:
        if name in _FAMILIES:
            return PLATFORMS[_FAMILIES[name]]
    raise AmandaError(
        f"no Amanda packages are known for {fields.get('PRETTY_NAME', 'this system')}; "
        "add its names to _utils/amanda_platform.py"
    )
