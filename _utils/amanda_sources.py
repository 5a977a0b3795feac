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
class Origin:
    """Where backups are to be read from, as whom, and with which key.

    settings
        The server's :class:`amanda_settings.Settings`.
    user
        The dump user, as whom filters run.
    source
        One of :data:`SOURCES`.
    generation
        Which generation of the mirror; None is the newest.
    identity
        What :func:`amanda_identity.given` gave; None takes the server's own key.
    """

    settings: object
    user: str
    source: str = "tapes"
    generation: str | None = None
    identity: int | None = None


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """What one config's backups hold, and how to read them.

    dumps
        What :func:`amanda_catalogue.read` returned.
    source
        :class:`amanda_dump.TapeSource` or :class:`MirrorSource`.
    index
        The directory of the names in each dump.
    user
        Who the filters run as; None is the caller.
    identity
        What they open dumps with: see :func:`amanda_identity.given`.
    unread
        Other configs that may hold a newer dump but can't be read: their names, and why.
    """

    config: str
    dumps: list
    source: object
    index: Path
    user: str | None = None
    identity: int | None = None
    unread: dict = dataclasses.field(default_factory=dict)

    def open(self, dump, check=True):
        """Give the plain archive of *dump* for a block, as :func:`amanda_dump.open_stream` does."""
        return amanda_dump.open_stream(
            dump, self.source, check, user=self.user, identity=self.identity
        )


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
def catalogue(origin, config=None):
    """Give the :class:`Catalogue` of one config for this block.

    origin
        An :class:`Origin`.
    config
        The config's name; None is the only one.
    """
    config = origin.settings.config(config).name
    if origin.source not in SOURCES:
        raise ArgumentError(f"{origin.source!r} is no source: choose one of {', '.join(SOURCES)}")
    if origin.generation and origin.source != "mirror":
        raise ArgumentError("a generation is one of the mirror: add source=mirror")
    if origin.source == "tapes":
        places = amanda_layout.places(config, origin.settings.paths)
        yield on_tape(places, origin.user, origin.identity)
        return
    with _mirrored(origin, config) as places:
        dumps = amanda_catalogue.read(places)
        source = MirrorSource(origin.settings.mirror, config)
        yield Catalogue(config, dumps, source, places.index, origin.user, origin.identity)


def on_tape(places, user=None, identity=None):
    """Return the :class:`Catalogue` of what is on this server's tapes.

    places
        The config's :class:`amanda_layout.ConfigPlaces`.
    user, identity
        As for :class:`Catalogue`.
    """
    dumps, source = amanda_catalogue.read(places), amanda_dump.TapeSource(places.tapes)
    return Catalogue(places.name, dumps, source, places.index, user, identity)


@contextlib.contextmanager
def _mirrored(origin, config):
    """Give the places of a generation's catalogue, unpacked for this block."""
    mirror = origin.settings.mirror
    if mirror is None:
        raise ArgumentError("there is no mirror: pillar backup:mirror is not set")
    known = amanda_mirrored.read(mirror, config)
    manifest = amanda_generations.load(mirror, config, origin.generation, known)
    opened = amanda_generations.open_catalogue(mirror, manifest, origin.user, origin.identity)
    with contextlib.ExitStack() as stack:
        try:
            places = stack.enter_context(opened)
        except (SealedError, ServerError):  # nothing is damaged
            raise
        except AmandaError as error:
            hint = amanda_generations.before(mirror, config, manifest.generation)
            raise AmandaError(f"{error}{hint}") from None
        yield places


@contextlib.contextmanager
def holding(origin, host, path, config=None, at=None):
    """Give the :class:`Catalogue` with the newest dump of *path* of *host*, for this block.

    origin
        An :class:`Origin`.
    path
        Absolute; None is any.
    config
        The config's name; None looks through all of them.
    at
        A timestamp (14 digits): the newest by then. None is now.

    Raises :class:`~amanda_errors.ArgumentError` if none has any.
    """
    names = [config] if config else list(origin.settings.configs)
    wanted = path and amanda_names.absolute(path)
    found, reasons = [], {}
    with contextlib.ExitStack() as stack:
        for name in names:
            try:
                one = stack.enter_context(catalogue(origin, name))
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
