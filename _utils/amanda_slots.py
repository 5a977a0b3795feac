"""The tapes as they lie in their slots, beside what verification has recorded of them."""

import amanda_mirror_user
import amanda_tapes
from amanda_errors import AmandaError, ServerError, unreadable
from amanda_manifest import TAPE_FILE
from amanda_rights import as_user
from amanda_tapefile import HEADER_SIZE

FOREIGN = -1
"""The number of a file that isn't Amanda's."""


def number(path):
    """Return the number of a tape file."""
    return int(path.name[:5]) if TAPE_FILE.fullmatch(path.name) else FOREIGN


class Tapes:
    """The tapes as they are on the disk.

    places
        The :class:`amanda_layout.ConfigPlaces` of the config.
    user
        The dump user, who alone reads them.
    known
        The labels that the tapelist has, a set.
    expected
        Label, write time and number of each file that a dump needs, a set.
    remedy
        Called with a label and a write time; returns what to do about such a tape.

    ``problems`` has what is wrong, in words; ``bad`` the same by label, write time and the file's
    number, None for the whole tape; ``strangers`` tells of slots that hold something else. Raises
    :class:`~amanda_errors.AmandaError` if there are no tapes at all: then nothing can be said of
    any dump.
    """

    def __init__(self, places, user, known, expected, remedy):
        self.places, self.user, self.remedy = places, user, remedy
        self.problems, self.bad, self.expected = [], {}, expected
        self.slots, self.strangers = {}, []
        for slot in as_user(user, amanda_tapes.scan, str(places.tapes)):
            labels = [name[6:] for name, _ in slot["files"] if name.startswith("00000.")]
            for label in labels:
                self.slots.setdefault(label, []).append(slot)
            if slot["files"] and not known.intersection(labels):
                self.strangers.append(
                    f"{str(places.tapes / slot['name'])!r} holds no tape that the tapelist knows. "
                    "Move what is in it elsewhere"
                )
        if known and not known.intersection(self.slots):
            raise AmandaError(
                f"none of the {len(known)} tapes that the tapelist knows is in {places.tapes}. Is "
                "its disk mounted?"
            )

    def tell(self, key, path, problem, whole=False):
        """Note a problem of the tape *key*, as a *whole* or of one file; *path* is what it is."""
        self.bad.setdefault((*key, None if whole else number(path)), f"{path} {problem}")
        self.problems.append(f"tape {key[0]}: {str(path)!r} {problem}. {self.remedy(*key)}")

    def files(self, key, known):
        """Return what is on one tape, sizes by path; nothing if it isn't there.

        known
            What is recorded of it: ``{name: (size, sha256)}``; None: nothing.
        """
        label, written = key
        found = self.slots.get(label, [])
        if len(found) != 1:
            slots = ", ".join(slot["name"] for slot in found) or "none"
            what = f"must have it in one slot; it is in {slots}"
            self.tell(key, self.places.tapes, what, whole=True)
            return {}
        (slot,) = found
        directory = self.places.tapes / slot["name"]
        if slot["problem"]:
            self.tell(key, directory, slot["problem"], whole=True)
            return {}
        sizes = dict(slot["files"])
        name = f"00000.{label}"
        said = amanda_tapes.NEVER if written == "0" else written
        if written == "0" and slot["label"] == label and slot["written"] != said:
            return {}  # a run that was cut off had begun to write it: nothing there counts
        if (slot["label"], slot["written"], sizes[name]) != (label, said, HEADER_SIZE):
            when = "when it was labelled" if written == "0" else f"at {written}"
            self.tell(key, directory / name, f"isn't the label that Amanda wrote {when}")
        self._compare(key, directory, sizes, {name: None} if written == "0" else known)
        return {directory / name: size for name, size in sizes.items() if size is not None}

    def _compare(self, key, directory, sizes, known):
        """Tell of files that don't belong on a tape, and of those that are missing."""
        numbers = {}
        for name, size in sizes.items():
            numbers.setdefault(name[:6], []).append(name)
            if size is None or self.foreign(key, name, known):
                self.tell(key, directory / name, "doesn't belong there")
        for names in numbers.values():
            if len(names) > 1:
                self.tell(key, directory / names[0], f"is there twice: as {names[1]!r} too")
        for name, file in (known or {}).items():
            if name not in sizes:
                self.tell(key, directory / name, "is missing")
            elif file and file[1] and sizes[name] not in (None, file[0]):
                what = f"has {sizes[name]} bytes instead of {file[0]}"
                self.tell(key, directory / name, what)

    def foreign(self, key, name, known):
        """Whether a file is none of Amanda's, or came to a tape after that was verified."""
        if not TAPE_FILE.fullmatch(name):
            return True
        # A dump's file may have been missing then, and been brought back since.
        return bool(known) and name not in known and (*key, int(name[:5])) not in self.expected

    def hash(self, paths, report):
        """Return the SHA-256 of each of *paths*, by path; None of what can't be read."""
        answers = as_user(self.user, _hash, [str(path) for path in paths], progress=report)
        return dict(zip(paths, answers, strict=True))


def _hash(paths, report):
    found = []
    for path in paths:
        try:
            found.append(amanda_mirror_user.hash_file(path, report))
        except OSError as error:
            if isinstance(unreadable(error, ""), ServerError):
                raise
            found.append(None)
    return found
