"""Which files and directories a minion needs for its part, with owner and mode: one table.

Where Debian gives a directory to the dump user that decides what root or Amanda run
(``/etc/amanda``), it becomes root's here and stays readable by the dump user.
"""

from pathlib import Path

import amanda_conf
from amanda_command import run
from amanda_errors import AmandaError, CommandError
from amanda_files import Managed
from amanda_layout import (
    AMANDA_CONFIGS,
    COMPRESS,
    CRYPT,
    DELIVER,
    INCREMENTAL_TAR,
    PROGRAMS,
    RECEIVE,
    RUNS,
    SETTINGS,
    SSH_KEY,
    SSH_KEY_INSTALLED,
    STATE,
    places,
)

CLIENT_PROGRAMS = (COMPRESS, INCREMENTAL_TAR, DELIVER, RECEIVE)
CLIENT_MODULES = (
    "amanda_authorized",
    "amanda_command",
    "amanda_destination",
    "amanda_errors",
    "amanda_extract",
    "amanda_files",
    "amanda_layout",
    "amanda_live",
    "amanda_names",
    "amanda_receiving",
    "amanda_restored",
    "amanda_snapshot",
    "amanda_tarstream",
    "amanda_tree",
)
"""What CLIENT_PROGRAMS import, all of it."""

SERVER_PROGRAMS = (*CRYPT.values(), PROGRAMS / "label-tapes")


def programs(paths, read, python):
    """Return the :class:`~amanda_files.Managed` programs of ours at *paths*.

    read
        Function from a program's name to its source, bytes.
    python
        The interpreter that stands in for ``@PYTHON@``: Salt's own, which is on every minion.
    """
    files = [Managed(PROGRAMS, mode=0o755)]
    for path in paths:
        content = read(path.name).replace(b"@PYTHON@", python.encode(), 1)
        files.append(Managed(path, content, mode=0o755, hidden=True))
    return files


def modules(directory, names=("amanda_*",)):
    """Return the engine's modules called *names*, as in *directory*, beside the programs."""
    paths = {path for name in names for path in Path(directory).glob(f"{name}.py")}
    return [Managed(PROGRAMS / path.name, path.read_bytes(), hidden=True) for path in sorted(paths)]


def check_incremental_tar(platform):
    """Raise :class:`~amanda_errors.AmandaError` unless the dump user can run Amanda's tar."""
    try:
        run([INCREMENTAL_TAR, "--version"], user=platform.user)
    except CommandError as error:
        raise AmandaError(
            f"{platform.user} can't run {INCREMENTAL_TAR}: {error.stderr}. Its first line names "
            "Salt's Python, which every user must be able to read"
        ) from error


def engine(directory):
    """Return the engine's modules and the directories that it works with."""
    return [
        *modules(directory),
        Managed(SETTINGS, mode=0o755),
        Managed(STATE, mode=0o700),
        Managed(RUNS, mode=0o700),
    ]


def dump_user(platform):
    """Return the dump user's ``.ssh``: root's, so that he can't widen what a key may do."""
    return [Managed(platform.home / ".ssh", mode=0o755)]


def server_ssh(platform):
    """Return the server's SSH key where the dump user's ssh finds it."""
    key = SSH_KEY.read_bytes()
    return [
        *dump_user(platform),
        Managed(
            platform.home / SSH_KEY_INSTALLED,
            key,
            platform.user,
            platform.group,
            mode=0o400,
            hidden=True,
        ),
    ]


def config(settings, name, platform, text):
    """Return what the Amanda config *name* needs on disk, amanda.conf with *text* included."""
    place = places(name, settings.paths)
    owned = {"user": platform.user, "group": platform.group, "mode": 0o700}
    read_only = {"group": platform.group, "mode": 0o640}
    return [
        Managed(AMANDA_CONFIGS, group=platform.group, mode=0o750),
        Managed(place.conf, group=platform.group, mode=0o750),
        *_parents(settings.paths.state, platform),
        *(Managed(path, **owned) for path in (place.state, place.info, place.index, place.logs)),
        *_parents(settings.paths.holding, platform),
        Managed(place.holding, **owned),
        *_parents(settings.paths.tapes, platform),
        Managed(place.tapes, **owned),
        # The run writes it from what the clients published; Amanda's tools want one before.
        Managed(place.conf / "disklist", b"", keep=True, **read_only),
        Managed(place.conf / "amanda.conf", text.encode(), **read_only),
    ]


def client_config(settings, platform):
    """Return amanda-client.conf(5)."""
    text = amanda_conf.render_client(settings, platform)
    return [
        Managed(AMANDA_CONFIGS, group=platform.group, mode=0o750),
        Managed(AMANDA_CONFIGS / "amanda-client.conf", text.encode()),
    ]


def _parents(directory, platform):
    """Return the missing parts of *directory*'s path; what is there, even another's, stays.

    They are root's, except below a directory of the dump user, which is Debian's default place.
    """
    path = Path(directory)
    missing = [part for part in (path, *path.parents) if not part.exists()]
    if not missing:
        return []
    below = missing[-1].parent
    if below.exists() and below.owner() == platform.user:
        owner = {"user": platform.user, "group": platform.group}
    else:
        owner = {}
    return [Managed(part, mode=0o755, **owner) for part in reversed(missing)]
