"""Tapes of the mirror back into the slots of a fresh server, each file compared with the manifest.

They are read as the mirror's user and written as the dump user, beside the slots; then the slots
are exchanged by renames.
"""

import os
import re
from pathlib import Path

import amanda_copying
import amanda_generations
import amanda_mirror_user
import amanda_sums
import amanda_tapes
import amanda_verified
from amanda_errors import AmandaError
from amanda_fresh import UNFINISHED
from amanda_rights import MOST_FILES, as_user, hand_over

_ROOM = 16 << 20
"""Bytes kept free for what comes with the tapes when room on their disk is checked."""

_PLACE = ("the tapes' disk", "Make room there, then call amanda.rebuild again: it goes on")
_COPYING = ".copying"


class TapesBack:
    """The tapes of one generation on their way.

    work
        The :class:`amanda_run.Run`.
    manifest
        The generation's :class:`amanda_manifest.Manifest`.
    known
        The label and write time of each written tape that its catalogue knows, a set of pairs.

    ``wanted`` has the :class:`amanda_manifest.TapeCopy` by slot; ``lacking`` the labels that the
    catalogue knows and neither mirror nor disk has; ``damaged`` those whose copy on the mirror
    isn't what the manifest says, or what was verified, dicts of ``label`` and ``problem``;
    ``copied`` the bytes brought. ``record``, for whoever has one to set, is the
    :class:`amanda_verified.Record`: whoever writes the mirror can write the manifest as well.
    """

    def __init__(self, work, manifest, known):
        self.work, self.places, self.user = work, work.places, work.user
        self.top = self.places.tapes / UNFINISHED
        copies = {copy.key: copy for copy in manifest.tapes}
        if foreign := set(copies) - known:
            raise AmandaError(
                f"generation {manifest.generation} can't be believed: its catalogue doesn't know "
                f"its tape {min(foreign)[0]}"
            )
        numbers = {key: self._number(key[0]) for key in known}
        self.wanted = {numbers[key]: copy for key, copy in copies.items()}
        self.lacking = sorted(label for label, _ in known - set(copies))
        self.known = known
        self.there = []
        self.damaged = []
        self.copied = 0
        self.record = amanda_verified.Record()

    def _number(self, label):
        """Return the slot of a tape."""
        digits = re.fullmatch(r".*-([0-9]+)", label)
        number = int(digits[1]) if digits else 0
        if not number or amanda_tapes.label(self.places.name, number) != label:
            raise AmandaError(f"the mirror's tape {label!r} is none of {self.places.name}'s")
        return number

    def check(self):
        """Raise :class:`AmandaError` unless the disk has room, and no tape that isn't wanted.

        What is in its slot already, as it should be, stays and isn't copied.
        """
        refusals = []
        for row in self._rows():
            copy, key = self.wanted.get(row["slot"]), (row["label"], row["written"])
            if row["problem"]:
                refusals.append(row["problem"])
            elif row["written"] is None:
                continue
            elif copy is None and key in self.known:
                self.lacking.remove(row["label"])  # of which the mirror has no copy
            elif copy is None or copy.key != key:
                refusals.append(
                    f"slot {row['slot']} holds tape {row['label']} written at {row['written']}, "
                    "which the generation doesn't know. Move it elsewhere"
                )
            elif problems := self._compare(self.places.tapes / f"slot{row['slot']}", copy):
                refusals += [f"{problem}. Move that slot elsewhere" for problem in problems]
            else:
                self.there.append(row["slot"])
        self._refuse(refusals)
        self._check_room()

    def check_lost(self):
        """Take only tapes of which the disk lacks all, or a file; return their labels.

        Nothing is read of the others: what they hold is :mod:`amanda_verify`'s business. Raises as
        :meth:`check` does.
        """
        rows = {row["slot"]: row for row in self._rows()}
        whole = [row for row in rows.values() if not row["problem"]]
        here = {(row["label"], row["written"]) for row in whole}
        self.lacking = sorted(
            label for label, written in self.known - here if label in self.lacking
        )
        refusals, lost = [], []
        for number, copy in sorted(self.wanted.items()):
            row = rows.get(number)
            there = copy.key in here
            if there and self._has_all(number, copy):
                self.there.append(number)
                continue
            lost.append(copy.label)
            blank = row is None or not (row["problem"] or row["written"])
            if not blank and not (there and self._has_only(number, copy)):
                refusals.append(
                    f"slot {number}, where tape {copy.label} belongs, holds something else. Move "
                    f"what is in {self.places.tapes}/slot{number} elsewhere"
                )
        self._refuse(refusals)
        self._check_room()
        return lost

    def _listing(self, number):
        slot = str(self.places.tapes / f"slot{number}")
        return {(name, size) for name, size in as_user(self.user, amanda_sums.listing, slot)}

    def _has_all(self, number, copy):
        return self._listing(number) >= {(file.name, file.size) for file in copy.files}

    def _has_only(self, number, copy):
        return self._listing(number) <= {(file.name, file.size) for file in copy.files}

    def _rows(self):
        if not as_user(self.user, os.path.isdir, str(self.places.tapes)):
            raise AmandaError(
                f"{self.places.tapes} doesn't exist: apply the state backup on this server first; "
                "or is its disk mounted?"
            )
        return amanda_tapes.tapes(self.places, self.user)

    def _refuse(self, refusals):
        if refusals:
            raise AmandaError(
                f"the tapes of {self.places.name} are left as they are: {'; '.join(refusals)}"
            )

    def _compare(self, directory, copy):
        """Return what is wrong with a tape on this server's disk, in words."""
        files = [[file.name, file.size, file.sha256] for file in copy.files]
        progress = {"comparing": copy.label, "done": 0, "bytes": copy.size}

        def report(count):
            progress["done"] += count
            self.work.report.progress(dict(progress))

        work = [[str(directory), files]]
        return as_user(self.user, amanda_sums.compare, work, True, progress=report)

    def _check_room(self):
        as_user(self.user, _remove_unfinished, str(self.top))
        staged = [number for number in self.wanted if self._staged(number)]
        left = set(self.wanted) - {*self.there, *staged}
        needed = sum(self.wanted[number].size for number in left) + _ROOM
        free = as_user(self.user, _free, str(self.places.tapes))
        if needed > free:
            raise AmandaError(
                f"{self.places.tapes} has {free} bytes free, {needed} are needed. Make room there; "
                "or set backup:paths:tapes in the pillar to a larger disk and apply the state "
                "backup. Nothing was changed"
            )

    def _staged(self, number):
        return as_user(self.user, os.path.isdir, str(self.top / f"slot{number}"))

    def copy(self):
        """Copy every tape that isn't in its slot; what can't be had whole is left out and told."""
        as_user(self.user, os.makedirs, str(self.top), 0o700, True)
        missing = []
        for number in sorted(set(self.wanted) - set(self.there)):
            staged, copy = self.top / f"slot{number}", self.wanted[number]
            other = self.record.otherwise(copy)
            if self._staged(number) and (other or self._compare(staged, copy)):
                as_user(self.user, amanda_mirror_user.discard, str(staged))
            if other:
                self.damaged.append({"label": copy.label, "problem": self._otherwise(copy, other)})
            elif not self._staged(number):
                missing.append(number)
        done, total = 0, sum(self.wanted[number].size for number in missing)
        for number in missing:
            copy = self.wanted[number]

            def report(count, label=copy.label):
                nonlocal done
                done += count
                self.work.report.progress({"tape": label, "done": done, "bytes": total})

            if problem := self._copy(copy, self.top / f"slot{number}", report):
                self.damaged.append({"label": copy.label, "problem": problem})
            else:
                self.copied += copy.size

    def _top(self, copy):
        """Return the directory of a tape on the mirror."""
        mirror = self.work.settings.mirror
        return amanda_generations.tape_directory(mirror, self.places.name, *copy.key)

    def _otherwise(self, copy, names):
        return f"{str(self._top(copy) / names[0])!r} is not what was verified on the server"

    def _copy(self, copy, staged, report):
        """Copy one tape; return what is wrong with it on the mirror, in words, or None."""
        partial = f"{staged}{_COPYING}"
        top = self._top(copy)
        for start in range(0, len(copy.files), MOST_FILES):
            files = copy.files[start : start + MOST_FILES]
            if problem := self._copy_some(top, files, partial, report):
                as_user(self.user, remove, partial)
                return problem
        as_user(self.user, _settle, partial, str(staged))
        return None

    def _copy_some(self, top, files, partial, report):
        paths = [str(top / file.name) for file in files]
        try:
            opened = self._open(paths)
        except OSError as error:
            return f"{error.filename or str(top)!r} can't be read: {error.strerror}"
        try:
            for path, file, number in zip(paths, files, opened, strict=True):
                if (size := os.fstat(number).st_size) != file.size:
                    return f"{path!r} has {size} bytes instead of {file.size}"
            work = [[file.name, None, fd] for file, fd in zip(files, opened, strict=True)]
            copied = self._patiently(
                self.user, amanda_copying.copy, partial, work, _PLACE, files=opened, progress=report
            )
        except OSError as error:  # what can't be written is an AmandaError
            return f"{str(top)!r} can't be read: {error.strerror}"
        finally:
            for number in opened:
                os.close(number)
        for path, file, (size, sha256) in zip(paths, files, copied, strict=True):
            if (size, sha256) != (file.size, file.sha256):
                return f"{path!r} has changed: its SHA-256 is another"
        return None

    def _open(self, paths):
        user = self.work.settings.mirror.user
        return self._patiently(user, hand_over, paths, hands_over=True)[1]

    def _patiently(self, *arguments, **options):
        patience = amanda_mirror_user.PATIENCE
        try:
            return as_user(*arguments, patience=patience, **options)
        except TimeoutError:
            raise AmandaError(
                f"the mirror's directory {self.work.settings.mirror.directory} hasn't answered for "
                f"{patience // 60} minutes. See that its file server is up, then call "
                "amanda.rebuild again: it goes on"
            ) from None

    def put_in_place(self):
        """Exchange the slots."""
        slots = [f"slot{number}" for number in sorted(self.wanted)]
        as_user(self.user, swap, str(self.top), str(self.places.tapes), slots)
        as_user(self.user, remove, str(self.top))


# --- as the dump user ---


def _free(directory):
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def _remove_unfinished(directory):
    for path in Path(directory).glob(f"*{_COPYING}"):
        amanda_mirror_user.discard(path)


def _settle(partial, final):
    """Give a directory that is whole its name, and bring that to the disk."""
    amanda_mirror_user.sync(partial)
    os.rename(partial, final)
    amanda_mirror_user.sync(Path(final).parent)


def remove(path):
    """Remove a file or directory, if there is one."""
    if os.path.lexists(path):
        amanda_mirror_user.discard(path)


def swap(source, target, names):
    """Rename what is in *source* into *target*, in the place of what is there; then remove that.

    A name that *source* lacks is there already.
    """
    for name in names:
        new, final = Path(source, name), Path(target, name)
        old = Path(source, f"{name}.old")
        if not new.exists():
            continue
        remove(old)
        if final.is_dir():
            final.rename(old)
        new.rename(final)
    for directory in (source, target):
        amanda_mirror_user.sync(directory)
    for name in names:
        remove(Path(source, f"{name}.old"))
