"""Which tapes are to be mirrored: what the catalogue knows beside what is on the disk."""

from pathlib import Path

import amanda_catalogue
import amanda_tapes
from amanda_errors import AmandaError, ServerError
from amanda_manifest import LABEL, TAPE_FILE, WRITTEN
from amanda_rights import as_user


def on_disk(places, user):
    """Return ``{(label, written): slot}`` of every written tape that the catalogue knows.

    Then a list of the keys of those that the disk lacks, or has twice; and one of what this server
    failed to read, in words: then some of them may well be there. Raises
    :class:`~amanda_errors.AmandaError` if that is all of them, or one holds what it shouldn't.
    """
    slots, found = {}, as_user(user, amanda_tapes.scan, str(places.tapes))
    unread = [slot["fault"] for slot in found if slot["fault"]]
    for slot in found:
        slots.setdefault((slot["label"], slot["written"]), []).append(slot)
    wanted, lacking = {}, []
    for label, written in as_user(user, _written, str(places.tapelist)):
        if not (LABEL.fullmatch(label) and WRITTEN.fullmatch(written)):
            raise AmandaError(f"a tape {label!r}, written {written!r}, can't be mirrored")
        found = slots.get((label, written), [])
        if len(found) != 1 or found[0]["problem"]:
            lacking.append((label, written))
        else:
            wanted[label, written] = found[0]
    if lacking and not wanted and unread:
        raise ServerError(f"nothing is mirrored: {unread[0]}")
    if lacking and not wanted:
        raise AmandaError(
            f"nothing is mirrored: none of the {len(lacking)} tapes that the catalogue of "
            f"{places.name} knows is in {places.tapes}. Is its disk mounted?"
        )
    for (name, _), slot in wanted.items():
        foreign = [file for file, size in slot["files"] if not _whole(file, size)]
        if foreign:
            raise AmandaError(
                f"nothing is mirrored: tape {name} holds what isn't Amanda's: "
                f"{str(places.tapes / slot['name'] / foreign[0])!r}. See what it is, and move it "
                "elsewhere"
            )
        slot["path"] = str(places.tapes / slot["name"])
    return dict(sorted(wanted.items())), sorted(lacking), unread


def _written(tapelist):
    tapes = amanda_catalogue.read_tapelist(Path(tapelist))
    return [[tape.label, tape.written] for tape in tapes if tape.written != "0"]


def _whole(name, size):
    return size is not None and TAPE_FILE.fullmatch(name)
