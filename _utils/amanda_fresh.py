"""Whether a server may begin by itself, or is one that replaces another and was not rebuilt yet.

A dump onto the fresh tapes of a server whose catalogue is still on the mirror would begin
everything anew; and one between the halves of a rebuild would belong to neither.
"""

import os

import amanda_catalogue
import amanda_encryption
import amanda_generations
import amanda_host
import amanda_layout
from amanda_errors import AmandaError, ParseError

UNFINISHED = "rebuild.partial"
"""The directory, below a config's state and its tapes, of a rebuild that has not come to its end.

:mod:`amanda_rebuild` makes the one in the state first, and removes it last.
"""


def check_whole(places):
    """Raise :class:`~amanda_errors.AmandaError` if a rebuild of a config was interrupted.

    places
        The :class:`amanda_layout.ConfigPlaces` of the config.
    """
    if os.path.lexists(places.state / UNFINISHED):
        raise AmandaError(
            f"the rebuild of {places.name} was interrupted, so part of what this server has is the "
            "old server's and part is not: call amanda.rebuild again, which completes it. If the "
            "mirror is lost as well, begin anew instead: move all that is in "
            f"{places.state} and {places.tapes} elsewhere, and apply the state backup"
        )


def awaited(settings, config, platform):
    """Return why no dump of *config* may begin by itself, in words; None if one may.

    settings
        The server's :class:`amanda_settings.Settings`.
    config
        The config's name.
    platform
        This server's :class:`amanda_platform.Platform`.

    The mirror is asked only as long as this server has never dumped, and for a minute at most.
    """
    places = amanda_layout.places(config, settings.paths)
    try:
        check_whole(places)
    except AmandaError as error:
        return str(error)
    if settings.mirror is None or has_begun(places):
        return None
    anew = f"To begin anew all the same, do the first backup by hand: amanda.backup {config}"
    try:
        amanda_host.check_mirror(settings.mirror, platform)
        generations = amanda_generations.names(settings.mirror, config)
    except AmandaError as error:
        return (
            f"this server has never dumped {config}, and can't see whether the mirror holds the "
            f"dumps of one before it: {error}. Until it can, no scheduled run begins. {anew}"
        )
    if not generations:
        return None
    how = "amanda.rebuild identity=FILE, where FILE has an offsite identity"
    if settings.encryption.method == "amcrypt":
        keys = " and ".join(map(str, amanda_encryption.escrow(settings.encryption, platform)))
        how = f"put your copies of the old server's {keys} in the place of this one's, owned by "
        how += f"{platform.user} and with mode 0400, then amanda.rebuild"
    return (
        f"this server has never dumped {config}, but the mirror {settings.mirror.directory} holds "
        f"{len(generations)} generations of it, up to {generations[-1]}. If they are of the server "
        f"that this one replaces, take over what they hold: {how}. If they are not, set "
        "backup:mirror:directory in the pillar to another directory. Until then no scheduled run "
        f"begins. {anew}"
    )


def has_begun(places):
    """Tell whether a config of this server has a dump on tape, or a log of a run."""
    if amanda_catalogue.all_logs(places):
        return True
    try:
        tapes = amanda_catalogue.read_tapelist(places.tapelist)
    except ParseError:
        return True  # there is one, and a run will say what is wrong with it
    except AmandaError:
        return False
    return any(tape.written != "0" for tape in tapes)
