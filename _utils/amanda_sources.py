"""Where files can come back from: this server's tapes or the mirror, alike to a reader."""

import contextlib
import dataclasses
import datetime
import re
from pathlib import Path

import amanda_catalogue
import amanda_dump
import amanda_find
import amanda_generations
import amanda_layout
import amanda_mirrored
import amanda_names
from amanda_errors import AmandaError, ArgumentError, SealedError, ServerError

SOURCES = ("tapes", "mirror")

_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})?)?"
)


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """What one config's backups hold, and where to read them.

    dumps
        What :func:`amanda_catalogue.read` returned.
    source
        :class:`amanda_dump.TapeSource` or :class:`MirrorSource`.
    index
        The directory of the names in each dump.
    user
        Who the filters run as.
    identity
        What they open dumps with: see :func:`amanda_identity.given`.
    unread
        Other configs that may hold a newer dump but can't be read: their names, and why.
    """

    config: str
    dumps: list
    source: object
    index: Path
    user: str
    identity: int | None = None
    unread: dict = dataclasses.field(default_factory=dict)


class MirrorSource:
    """Tape files of a mirror, opened with the rights of its user.

    On an export that squashes root nobody else can read them. What a file says it holds is
    checked by who reads it; see :func:`amanda_dump.open_stream`.

    mirror
        The :class:`amanda_settings.Mirror`.
    config
        The config's name.
    """

    def __init__(self, mirror, config):
        self.mirror = mirror
        self.config = config

    def path(self, part):
        """Return what to call the tape file of *part* in a message."""
        where = (self.mirror, self.config, part.label, part.written)
        return amanda_generations.tape_directory(*where) / f"{part.file:05d}.*"

    def open(self, part):
        """Open the tape file of *part*, an :class:`amanda_catalogue.Part`: a binary stream."""
        return amanda_generations.open_tape_file(self.mirror, self.config, part)


@contextlib.contextmanager
def catalogue(settings, config, source, user, generation=None, identity=None):
    """Give the :class:`Catalogue` of one config for this block.

    settings
        The server's :class:`amanda_settings.Settings`.
    source
        One of :data:`SOURCES`.
    user
        The dump user.
    generation
        Which generation of the mirror; None is the newest.
    identity
        What :func:`amanda_identity.given` gave; None takes the server's own key.
    """
    if source not in SOURCES:
        raise ArgumentError(f"{source!r} is no source: choose one of {', '.join(SOURCES)}")
    if generation and source != "mirror":
        raise ArgumentError("a generation is one of the mirror: add source=mirror")
    if source == "tapes":
        places = amanda_layout.places(config, settings.paths)
        dumps = amanda_catalogue.read(places)
        tapes = amanda_dump.TapeSource(places.tapes)
        yield Catalogue(config, dumps, tapes, places.index, user, identity)
        return
    if settings.mirror is None:
        raise ArgumentError("there is no mirror: pillar backup:mirror is not set")
    known = amanda_mirrored.read(settings.mirror, config)
    manifest = amanda_generations.load(settings.mirror, config, generation, known)
    opened = amanda_generations.open_catalogue(settings.mirror, manifest, user, identity)
    with contextlib.ExitStack() as stack:
        try:
            places = stack.enter_context(opened)
        except (SealedError, ServerError):  # nothing is damaged
            raise
        except AmandaError as error:
            hint = amanda_generations.before(settings.mirror, config, manifest.generation)
            raise AmandaError(f"{error}{hint}") from None
        dumps = amanda_catalogue.read(places)
        mirror = MirrorSource(settings.mirror, config)
        yield Catalogue(config, dumps, mirror, places.index, user, identity)


@contextlib.contextmanager
def holding(
    settings, host, path, source, user, config=None, generation=None, at=None, identity=None
):
    """Give the :class:`Catalogue` with the newest dump of *path* of *host*, for this block.

    path
        Absolute; None is any.
    config
        The config's name; None looks through all of them.
    generation, identity
        As for :func:`catalogue`.
    at
        A timestamp (14 digits): the newest by then. None is now.

    Raises :class:`~amanda_errors.ArgumentError` if none has any.
    """
    names = [settings.config(config).name] if config else list(settings.configs)
    wanted = path and amanda_names.absolute(path)
    found, reasons = [], {}
    with contextlib.ExitStack() as stack:
        for name in names:
            try:
                opened = catalogue(settings, name, source, user, generation, identity)
                one = stack.enter_context(opened)
                last = amanda_find.newest(one.dumps, host, wanted, at)
                found.append((last.timestamp if last else "", one))
            except AmandaError as error:
                reasons[name] = error
        if found:
            unread = {
                name: str(reason)
                for name, reason in reasons.items()
                if not isinstance(reason, ArgumentError)  # it merely has no such dump
            }
            newest = max(found, key=lambda pair: pair[0])[1]
            yield dataclasses.replace(newest, unread=unread)
            return
    if len(reasons) == 1:
        raise next(iter(reasons.values()))
    asked_wrongly = all(isinstance(reason, ArgumentError) for reason in reasons.values())
    told = [f"in {name}, {reason}" for name, reason in reasons.items()]
    raise (ArgumentError if asked_wrongly else AmandaError)("; ".join(told))


def timestamp(at):
    """Return the moment *at* as Amanda writes it: 14 digits, local time; None stays None.

    at
        ``YYYY-MM-DD``, which means the end of that day, or ``YYYY-MM-DDTHH:MM[:SS]``, or with a
        space for the T; in local time, unless ``Z`` or an offset (``+01:00``) follows.
    """
    if at is None:
        return None
    text = str(at).strip()
    try:
        # Which other forms fromisoformat takes depends on Python's version.
        if not _MOMENT.fullmatch(text):
            raise ValueError(text)
        if len(text) == len("2026-11-23"):
            text += "T23:59:59"
        moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
        if moment.tzinfo is not None:
            moment = moment.astimezone()
    except (ValueError, OverflowError):
        raise ArgumentError(
            f"{at!r} is no moment: write it as 2026-11-23 or 2026-11-23T18:00"
        ) from None
    return f"{moment.year:04}{moment:%m%d%H%M%S}"
