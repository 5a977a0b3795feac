"""Where tapes, holding disk, state and mirror may lie, by their names: apart, and nobody else's."""

import itertools
from pathlib import PurePath

from amanda_errors import PillarError

RESERVED = ("gnutar-lists", "template.d", "example")
"""Names in Amanda's own directories; no config, and none of our directories, can have them."""

_SYSTEM = """
    / /home /media /mnt /opt /srv /tmp /var /var/backups /var/lib /var/mail /var/spool /var/tmp
""".split()
# What is in these is someone else's, is lost at the next boot, or is cleared of old files.
_SYSTEM_TREES = """
    /bin /boot /dev /etc /lib /lib32 /lib64 /proc /root /run /sbin /sys /usr /var/cache
    /var/lib/salt-amanda /var/log /var/run
""".split()
_MOUNTS = ("/media", "/mnt", "/srv")  # where the mirror may itself be mounted


def check(settings):
    """Raise :class:`~amanda_errors.PillarError` if a directory of *settings* can't be where it is.

    Nothing on this host is looked at.
    """
    places = {f"backup:paths:{key}": path for key, path in vars(settings.paths).items()}
    if settings.mirror:
        places["backup:mirror:directory"] = settings.mirror.directory
    for key, path in places.items():
        _check_system(key, path)
    for (key, path), (other_key, other) in itertools.permutations(places.items(), 2):
        if path == other:
            problem = f"it is the same directory as {other_key}"
        elif PurePath(path).is_relative_to(other) and not _free(key, path, other_key, settings):
            problem = f"{path} lies inside {other_key}, {other}"
        else:
            continue
        raise PillarError(key, problem, "Give each a directory of its own, none inside another.")


def _check_system(key, path):
    mounted = key == "backup:mirror:directory" and path in _MOUNTS
    below = any(PurePath(path).is_relative_to(tree) for tree in _SYSTEM_TREES)
    if below or (path in _SYSTEM and not mounted):
        remedy = "Name a directory for the backups alone, such as /srv/backup/vtapes."
        raise PillarError(key, f"{path} is a directory of the system", remedy)


def _free(key, path, other_key, settings):
    """Tell whether *path* may be inside the directory of state: beside what the configs have there.

    That is so by default, in the place that Debian gives to Amanda.
    """
    if other_key != "backup:paths:state" or not key.startswith("backup:paths:"):
        return False
    first = PurePath(path).relative_to(settings.paths.state).parts[0]
    return first not in RESERVED and first not in settings.configs
