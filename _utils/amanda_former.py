"""What an amanda.conf of ours said before: where dumps are that the pillar no longer leads to."""

import dataclasses
import re
from pathlib import Path

import amanda_catalogue
import amanda_layout
import amanda_tapes
from amanda_errors import AmandaError, PillarError

_OURS = "# Written by Salt"
_PATHS = {
    "tapes": re.compile(r'^ *tpchanger "chg-disk:(/.*)"$', re.MULTILINE),
    "tapelist": re.compile(r'^ *tapelist "(/.*)"$', re.MULTILINE),
    "holding": re.compile(r'^ *directory "(/.*)"$', re.MULTILINE),
}


@dataclasses.dataclass(frozen=True)
class Former:
    """Where an amanda.conf says that its tapes, tapelist and part of the holding disk are."""

    tapes: Path
    tapelist: Path
    holding: Path

    def written(self):
        """Return how many of its tapes hold dumps, as its tapelist knows."""
        if not self.tapelist.exists():
            return 0
        tapes = amanda_catalogue.read_tapelist(self.tapelist)
        return sum(tape.written != "0" for tape in tapes)

    def waiting(self):
        """Return how many files wait on the holding disk."""
        return sum(path.is_file() for path in self.holding.rglob("*"))


def read(conf):
    """Return the :class:`Former` of the directory *conf*; None if it is none of Salt's."""
    try:
        text = Path(conf, "amanda.conf").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    found = {key: pattern.search(text) for key, pattern in _PATHS.items()}
    if not text.startswith(_OURS) or None in found.values():
        return None
    return Former(**{key: Path(match[1]) for key, match in found.items()})


def check_moved(places, slots, user):
    """Raise :class:`~amanda_errors.PillarError` if dumps of a config are not where they should be.

    places
        The :class:`amanda_layout.ConfigPlaces` that its next amanda.conf names.
    slots
        How many tapes it has.
    user
        The dump user.

    An amanda.conf that named other places would find no dump of before, or write over it.
    """
    former = read(places.conf)
    if former is None:
        return
    if former.holding != places.holding and former.waiting():
        raise PillarError(
            "backup:paths:holding",
            f"{former.waiting()} files in {former.holding} wait to be written on tape",
            f"Write them first: 'amflush -bf {places.name}' as {user}; or move what is in it to "
            f"{places.holding}. Then apply again.",
        )
    if former.tapelist != places.tapelist and former.written() and not places.tapelist.exists():
        raise PillarError(
            "backup:paths:state",
            f"the catalogue of {former.written()} tapes with dumps is in {former.tapelist.parent}",
            f"Move what is in it to {places.state} first, owners and all; then apply again.",
        )
    if (former.tapes, former.tapelist) != (places.tapes, places.tapelist):
        lacking = amanda_tapes.plan(places, slots, user).refusals
        if lacking:
            raise PillarError(
                "backup:paths:tapes",
                f"{len(lacking)} tapes aren't as they should be in {places.tapes}: {lacking[0]}",
                f"The tapes were in {former.tapes}: move what is in it to {places.tapes} first, "
                "owners and all; then apply again.",
            )


def check_in_place(settings):
    """Raise :class:`~amanda_errors.PillarError` if an amanda.conf in use names other places.

    settings
        The server's :class:`amanda_settings.Settings`. The places in them were refused, or not
        applied yet: a run would write where the amanda.conf says, and look for it elsewhere.
    """
    for name in settings.configs:
        place = amanda_layout.places(name, settings.paths)
        former = read(place.conf)
        if former not in (None, Former(place.tapes, place.tapelist, place.holding)):
            raise PillarError(
                "backup:paths",
                f"{place.conf}/amanda.conf still names others: {former.tapes}, "
                f"{former.tapelist.parent}, {former.holding}",
                "Apply the state backup on this server: it says what to move first, if anything",
            )


def left_behind(configs, parent=amanda_layout.AMANDA_CONFIGS):
    """Return in words which configs of ours hold dumps but are none of *configs* any more.

    configs
        The names of those in the pillar.
    """
    warnings = []
    for conf in sorted(path.parent for path in Path(parent).glob("*/amanda.conf")):
        former = None if conf.name in configs else read(conf)
        if former is None:
            continue
        try:
            tapes, files = former.written(), former.waiting()
        except AmandaError as error:
            warnings.append(f"the former config {conf.name} can't be told about: {error}")
            continue
        if tapes or files:
            warnings.append(
                f"{conf.name} is no longer in pillar backup:configs, but {tapes} of its tapes hold "
                f"dumps and {files} files wait on its holding disk: none of them is found, "
                "mirrored or checked any more. Put it back under its name, with 'cron: false' to "
                "let it rest; or, when nobody needs its dumps, remove "
                f"{conf}, {former.tapelist.parent}, {former.tapes} and {former.holding}"
            )
    return warnings
