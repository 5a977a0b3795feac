"""Whether this server's disks and users are as the pillar needs them; only looks, makes nothing.

What is someone else's is never taken over: neither a directory that a config would get, nor root's
rights or the dump user's for the mirror.
"""

import dataclasses
import grp
import os
import pwd
from pathlib import Path

import amanda_mirror_user
import amanda_paths
from amanda_errors import AmandaError, PillarError
from amanda_files import owner
from amanda_layout import places
from amanda_rights import as_user

_MIRROR_USER = "backup:mirror:user"
_MIRROR_SECONDS = 30  # for how long its file server may take to answer


def check(settings, platform):
    """Raise :class:`~amanda_errors.PillarError` if this server can't be what *settings* ask for.

    settings
        :class:`amanda_settings.Settings`
    platform
        :class:`amanda_platform.Platform` of this server.

    What is missing is no error: states make it. The mirror's directory isn't looked at, see
    :func:`check_mirror`.
    """
    check_paths(settings)
    _check_links(settings)
    for name in settings.configs:
        check_unclaimed(settings, name, platform)
    if settings.mirror:
        check_mirror_user(settings.mirror.user, platform)


def _check_links(settings):
    """Raise :class:`PillarError` if a directory of *settings* lies by a link where it can't be."""
    leads_to = {key: os.path.realpath(path) for key, path in vars(settings.paths).items()}
    paths = dataclasses.replace(settings.paths, **leads_to)
    try:
        amanda_paths.check(dataclasses.replace(settings, paths=paths))
    except PillarError as error:
        given = settings.pillar.get("paths") or {}
        links = [
            f"{path}{'' if key in given else ' (the default)'} leads to {leads_to[key]}, by a link"
            for key, path in vars(settings.paths).items()
            if leads_to[key] != path
        ]
        remedy = f"Put a directory in the link's place. Or: {error.remedy}"
        raise PillarError(error.key, "; ".join([*links, error.problem]), remedy) from None


def check_paths(settings):
    """Raise :class:`PillarError` if something else is where a directory of *settings* belongs."""
    for key, directory in vars(settings.paths).items():
        path = Path(directory)
        # The parent too: a file in its place would fail half way through the states.
        for place in (path, *path.parents):
            if place.exists() and not place.is_dir():
                raise PillarError(
                    f"backup:paths:{key}",
                    f"{place} is not a directory",
                    "Move it away or name another directory.",
                )


def check_unclaimed(settings, name, platform):
    """Raise :class:`PillarError` if a directory that the config *name* needs is someone else's.

    It is if it has something in it and another owner or group than it would get.
    """
    place = places(name, settings.paths)
    ours = f"{platform.user}:{platform.group}"
    for key in ("tapes", "holding", "state"):
        path = getattr(place, key)
        current = _foreign(path, ours)
        if current:
            raise PillarError(
                f"backup:paths:{key}",
                f"{path} is there already, with something in it, and belongs to {current}: it is "
                "left as it is",
                "Move it away or name another directory; if it is of these backups, give it back: "
                f"'chown -R {ours} {path}'.",
            )
    current = _foreign(place.conf, f"root:{platform.group}")
    if current:
        raise PillarError(
            f"backup:configs:{name}",
            f"{place.conf} is there already, with something in it, and belongs to {current}, so it "
            "is an Amanda config that Salt did not make: it is left as it is",
            "Move it away, or give the config in the pillar another name.",
        )


def _foreign(path, ours):
    """Return owner and group of a directory if they aren't *ours* and it isn't empty, else None."""
    if path.is_symlink() or not path.is_dir():
        return None  # what is no directory is refused where it would be made
    current = owner(path.lstat())
    if current == ours:
        return None
    try:
        return current if any(path.iterdir()) else None
    except PermissionError:  # an export that squashes root
        return current


def check_mirror_user(name, platform):
    """Raise :class:`PillarError` unless *name* is a user who has no right to tapes and keys."""
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise PillarError(
            _MIRROR_USER,
            f"this server knows no user {name!r}",
            "Create it first, or name the user who owns the mirror's directory.",
        ) from None
    if account.pw_uid == 0:
        problem = f"{name!r} is root (uid 0), who could write anything anywhere"
    elif account.pw_uid == _uid(platform.user):
        problem = f"{name!r} is the dump user, who could change the tapes and the mirror alike"
    elif _gid(platform.group) in os.getgrouplist(name, account.pw_gid):
        problem = f"{name!r} is in the dump user's group {platform.group}, which may read all files"
    else:
        return
    raise PillarError(
        _MIRROR_USER,
        problem,
        "Make a user for it that has nothing else: 'useradd --system mirror'.",
    )


def _uid(user):
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:  # the packages make it
        return None


def _gid(group):
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def check_mirror(mirror, platform):
    """Raise :class:`~amanda_errors.AmandaError` unless *mirror* can be written, by its user.

    mirror
        The :class:`amanda_settings.Mirror`.
    """
    check_mirror_user(mirror.user, platform)
    try:
        as_user(
            mirror.user,
            amanda_mirror_user.check_usable,
            mirror.directory,
            patience=_MIRROR_SECONDS,
        )
    except OSError as error:
        raise AmandaError(f"the mirror's directory can't be used: {error}") from error
