"""Copying tapes and catalogue to a mirror, as a row of generations.

Tapes are read as the dump user and written as the mirror's user, by children that pass open files
and hashes to each other through this process. Nothing that an earlier generation needs is ever
changed; a new generation counts from the moment its directory, manifest and all, gets its name.
:mod:`amanda_manifest` says what stands where, :mod:`amanda_generations` reads it back.
"""

import dataclasses
import os
import socket
import time
from pathlib import Path

import amanda_archive
import amanda_copying
import amanda_earlier
import amanda_manifest
import amanda_mirror_user
import amanda_mirrored
import amanda_platform
import amanda_sheet
import amanda_verified
import amanda_written
from amanda_errors import AmandaError
from amanda_manifest import (
    GENERATIONS,
    MANIFEST,
    MANIFEST_SUM,
    PARTIAL,
    SHEET,
    SUMS,
    TAPES,
    Archive,
    File,
    Manifest,
    TapeCopy,
)
from amanda_pruning import forgetting, keep, last_fulls, unrestorable, unusual
from amanda_retired import without
from amanda_rights import MOST_FILES, as_user, hand_over

_ROOM = 16 << 20
"""Bytes kept free for manifest and catalogue when room on the mirror is checked."""


def mirror(
    places,
    settings,
    method,
    run="",
    dumps=(),
    progress=None,
    platform=None,
    extras=None,
    accept=False,
    trial=True,
    record=None,
    mirrored=None,
    let_go=(),
):
    """Bring the mirror up to date and return what was done, as data.

    places
        The :class:`amanda_layout.ConfigPlaces` of the config.
    settings
        The :class:`amanda_settings.Mirror`.
    method
        How the catalogue is sealed: the encryption's method.
    run
        The timestamp of the run that this generation follows.
    dumps
        What :func:`amanda_catalogue.read` returned: the tapes of the last fulls are kept
        however old they get, and the emergency sheet says how to restore.
    progress
        Called now and then with a dict: ``tape``, ``done`` and ``bytes`` (of all to copy).
    platform
        :class:`amanda_platform.Platform`; None is this host's.
    extras
        As for :func:`amanda_archive.seal`.
    accept
        True: an administrator says that what is unusual now is right.
    trial
        Whether the sealed catalogue is opened again before it counts; it needs the server's key.
    record
        The :class:`amanda_verified.Record`: which SHA-256 each file should have, and which fulls
        are good. None: nothing was verified.
    mirrored
        The :class:`amanda_mirrored.Mirrored`: which generations were made here; it is kept up to
        date. None: nothing is known of them.
    let_go
        DLEs that no generation is kept for, see :func:`amanda_retired.let_go`.

    ``lacking`` has the labels of tapes that the catalogue knows and the disk lacks. The mirror's
    own copy of such a tape stays part of the generation; without one the generation lacks it too.
    ``differing`` has those of which the mirror's copy isn't what is on the disk; it stays. It also
    has those that were copied and aren't what was verified: the manifest has the hash that was.
    ``damaged`` has the first generations that can't be believed; they stay. ``gone`` tells of those
    that were made and aren't there, or is None. Both pause pruning.
    Raises :class:`~amanda_errors.AmandaError` if the disk lacks all tapes, or if the mirror can't
    be used or written, or doesn't answer; no earlier generation has changed then.
    """
    started = time.monotonic()
    platform = platform or amanda_platform.detect()
    try:
        wanted, lacking, unread = amanda_written.on_disk(places, platform.user)
        mirrored = mirrored or amanda_mirrored.Mirrored(places.name)
        known = (amanda_verified.Record() if record is None else record, mirrored)
        progress = progress or (lambda data: None)
        session = _Session(places.name, settings, platform, progress, known, accept, let_go)
        copies = session.copy(wanted)
        copies += session.copies_of(lacking, unread, places)
        manifest = session.generation(places, method, run, dumps, copies, extras, accept, trial)
    except OSError as error:
        raise AmandaError(f"mirroring {places.name} failed: {error}") from error
    if not lacking:  # which says it as well
        session.warnings += unrestorable(manifest, session.manifests, without(dumps, let_go))
    pruned = session.prune(manifest)
    return {
        "generation": manifest.generation,
        "tapes": len(copies),
        "files": sum(len(copy.files) for copy in copies),
        "bytes": manifest.size,
        "tried": trial,
        "copied_tapes": [label for label, _ in session.copied],
        "copied_bytes": manifest.new_bytes,
        "lacking": [label for label, _ in lacking],
        "differing": session.differing,
        "damaged": session.earlier.damaged[: amanda_earlier.SHOWN],
        "gone": session.earlier.gone,
        "pruned": pruned,
        "warnings": session.warnings,
        "seconds": round(time.monotonic() - started, 3),
    }


class _Session:
    """One run of the mirror: what it found there, what it has done, what it has to say."""

    def __init__(self, config, settings, platform, progress, known, accept, let_go):
        self.config, self.settings, self.platform = config, settings, platform
        self.progress = progress
        self.record, self.mirrored = known
        self.directory = str(settings.directory)
        self.top = Path(self.directory, config)
        self.warnings = []
        self.copied, self.differing = [], []
        self.doubts = False  # whatever is doubtful pauses pruning
        self._there(amanda_mirror_user.prepare, self.directory, config)
        held = self._there(amanda_mirror_user.survey, self.directory, config)
        self.free = held["free"]
        self.held = {(tape["label"], tape["written"]): tape["files"] for tape in held["tapes"]}
        self.earlier = amanda_earlier.Earlier(settings, self.mirrored, accept)
        self.let_go = let_go
        self.manifests = [forgetting(old, let_go) for old in self.earlier.manifests]
        self.warnings += self.earlier.warnings
        for warning in self.earlier.doubts:
            self.doubt(warning)
        self.known = {copy.key: copy for old in self.manifests for copy in old.tapes}
        if self.record.incomplete:
            self.doubt(
                "what was verified is not all known again since its record was lost, so nothing "
                "is removed from the mirror"
            )

    def doubt(self, warning):
        """Say what is wrong; nothing is removed from the mirror in such a run."""
        self.warnings.append(warning)
        self.doubts = True

    def _there(self, function, *arguments, **options):
        """Call a function with the rights of the mirror's user; it must keep moving."""
        return amanda_mirror_user.ask(self.settings, function, *arguments, **options)

    def copies_of(self, lacking, unread, places):
        """Return the copies that the mirror has of tapes that the disk *lacks*, and tell of all.

        unread
            What this server could not read of the disk, in words: that comes first then.
        """
        copies, told = [], []
        for key in lacking:
            copy = self.known.get(key)
            here = [[file.name, file.size] for file in copy.files] if copy else None
            held = [entry for entry in self.held.get(key, ()) if entry[0] != SUMS]
            copies += [copy] if copy and held == here else []
            where = "the mirror has a copy" if copy and held == here else "nor has the mirror any"
            told.append(f"{' written at '.join(key)} ({where})")
        if unread:
            unknown = ", ".join(told) or "what is there"
            self.doubt(
                f"{unread[0]}. Until then nothing can be said of {unknown}, and nothing is removed "
                "from the mirror. All that can be read is mirrored"
            )
        elif lacking:
            commands = [
                f"runuser -u {self.platform.user} -- amrmtape --cleanup {places.name} {label}"
                for label, _ in lacking
            ]
            self.doubt(
                f"{places.tapes} lacks tapes that the catalogue of {places.name} knows, or holds "
                f"them twice: {', '.join(told)}. All others are mirrored, and nothing is removed "
                "from the mirror until each is back, once, or given up for good, as root, with: "
                f"{'; '.join(commands)}"
            )
        return tuple(copies)

    def copy(self, wanted):
        """Bring every tape of *wanted* to the mirror; return the :class:`TapeCopy` of each."""
        copies, missing = {}, []
        for key, slot in wanted.items():
            copies[key] = self._held(key, slot["files"])
            if copies[key] is None:
                missing.append(key)
        sizes = {key: sum(size for _, size in wanted[key]["files"]) for key in missing}
        total = sum(sizes.values())
        if total + _ROOM > self.free:
            raise AmandaError(
                f"the mirror {self.directory} has {self.free} bytes free, {total + _ROOM} are "
                "needed. Make room there, or keep fewer days (mirror:keep in pillar backup)"
            )
        done = 0
        for key in missing:
            copies[key] = self._copy(key, wanted[key], done, total)
            done += sizes[key]
        return tuple(copies.values())

    def _held(self, key, files):
        """Return the copy that the mirror has of a tape, None if it has none, or none whole."""
        held, known = self.held.get(key), self.known.get(key)
        if held is None:
            return None
        here = [[name, size] for name, size in held if name != SUMS]
        if known and here != [[file.name, file.size] for file in known.files]:
            self.doubt(f"the mirror's copy of tape {' written at '.join(key)} was damaged")
            return None
        if known:
            if here != files or self.record.otherwise(known):
                self._differs(key, "The mirror's copy stays; see which of them is right")
            return known
        return self._unlisted(key, here) if here == files else None

    def _differs(self, key, consequence):
        """Tell of a tape on the disk that isn't what earlier generations say it was."""
        self.differing.append(key[0])
        tape = " written at ".join(key)
        self.doubt(f"tape {tape} is no longer as it was mirrored. {consequence}")

    def _unlisted(self, key, files):
        """Return the copy of a tape that an interrupted run brought here in full, and unchanged."""
        where = str(self.top / TAPES / Path(*key))
        text = self._there(amanda_mirror_user.read_sums_file, where)
        try:
            sums = amanda_manifest.read_sums(text or "")
            whole = tuple(File(name, size, sums[name]) for name, size in files)
        except (AmandaError, KeyError):
            return None
        copy = TapeCopy(*key, whole)
        return None if self.record.otherwise(copy) else copy

    def _copy(self, key, slot, done, total):
        """Copy one tape, file by file, under a name that nobody takes for a whole one."""
        final = self.top / TAPES / Path(*key)
        partial = f"{final}{PARTIAL}"

        def report(count):
            nonlocal done
            done += count
            self.progress({"tape": key[0], "done": done, "bytes": total})

        files = []
        for start in range(0, len(slot["files"]), MOST_FILES):
            files += self._copy_some(
                slot, slot["files"][start : start + MOST_FILES], partial, report
            )
        copy = self._as_verified(TapeCopy(*key, tuple(files)))
        known = self.known.get(key)
        if known and known != copy:
            self._there(amanda_mirror_user.discard, partial)
            self._differs(key, "So the mirror's damaged copy can't be made good")
            return known
        texts = [[SUMS, amanda_manifest.sums(copy.files)]]
        self._there(amanda_mirror_user.finish, partial, str(final), texts, True)
        self.copied.append(key)
        return copy

    def _as_verified(self, copy):
        """Return a copy with the hashes that its files had when they were verified."""
        changed = self.record.otherwise(copy)
        files = tuple(
            dataclasses.replace(file, sha256=self.record.tapes[copy.key][file.name][1])
            if file.name in changed
            else file
            for file in copy.files
        )
        if changed:
            where = self.top / TAPES / Path(*copy.key)
            self.differing.append(copy.label)
            self.doubt(
                f"tape {copy.label} written at {copy.written} has changed since it was verified: "
                f"{', '.join(repr(name) for name in changed)}. It was copied as it is, to {where}, "
                "and each check of the mirror tells of it. Once the tape is made good, remove that "
                "directory then, and the next mirror copies it again"
            )
        return dataclasses.replace(copy, files=files)

    def _copy_some(self, slot, files, partial, report):
        paths = [str(Path(slot["path"], name)) for name, _ in files]
        _, opened = as_user(self.platform.user, hand_over, paths, hands_over=True)
        try:
            work = [[name, size, fd] for (name, size), fd in zip(files, opened, strict=True)]
            copied = self._there(
                amanda_copying.copy,
                partial,
                work,
                files=opened,
                progress=report,
            )
        finally:
            for number in opened:
                os.close(number)
        return [
            File(name, size, sha256)
            for (name, _), (size, sha256) in zip(files, copied, strict=True)
        ]

    def generation(self, places, method, run, dumps, copies, extras, accept, trial):
        """Write the generation: catalogue, sheet, manifest, and at last its name."""
        name = self.earlier.next_name()
        final = self.top / GENERATIONS / name
        partial = f"{final}{PARTIAL}"
        archive = self._archive(places, method, partial, extras)
        if trial:
            self._try(Path(partial, archive.file.name), method)
        there = {copy.key for copy in copies}
        server = socket.gethostname()
        about = amanda_sheet.About(self.config, name, server, str(self.top), archive)
        sheet = self._sheet(about, dumps, copies)
        fulls = last_fulls(without(dumps, self.let_go), self.record)
        manifest = Manifest(
            config=self.config,
            generation=name,
            run=run,
            server=server,
            tapes=tuple(sorted(copies, key=lambda copy: copy.key)),
            archive=archive,
            fulls={dle: keys for dle, keys in fulls.items() if there.issuperset(keys)},
            new_bytes=sum(copy.size for copy in copies if copy.key in self.copied),
            sheet=amanda_manifest.of_text(SHEET, sheet),
        )
        manifest = dataclasses.replace(manifest, standing=self._standing(manifest, accept))
        text = amanda_manifest.encode(manifest)
        if len(text) > amanda_mirror_user.MOST_TEXT:
            raise AmandaError(
                f"the manifest of a new generation of {self.config} has {len(text)} bytes, where "
                f"{amanda_mirror_user.MOST_TEXT} are the most: keep fewer tapes, or spread what is "
                "dumped over more configs (backup:configs in the pillar)"
            )
        listed = f"{amanda_manifest.digest(text)}  {MANIFEST}\n"
        texts = [[SHEET, sheet], [MANIFEST, text], [MANIFEST_SUM, listed]]
        made = {name: amanda_manifest.digest(text)}
        self.mirrored.unsettle(made)
        self._there(amanda_mirror_user.finish, partial, str(final), texts)
        self.mirrored.settle(made, made)
        return manifest

    def _archive(self, places, method, partial, extras):
        """Write the catalogue, sealed; return its :class:`Archive`."""
        name = amanda_archive.name(method)
        with amanda_archive.seal(places, method, self.platform, extras) as pipe:
            ((size, sha256),) = self._there(
                amanda_copying.copy,
                partial,
                [[name, None, pipe]],
                files=[pipe],
                progress=lambda count: None,
            )
        conf, state = (str(path).lstrip("/") for path in (places.conf, places.state))
        return Archive(File(name, size, sha256), method, conf, state)

    def _sheet(self, about, dumps, copies):
        """Return the text of the emergency sheet; the mirror's files say how each is sealed."""

        def heads(paths):
            where = (amanda_mirror_user.heads, str(self.top), paths)
            return self._there(*where, progress=lambda count: None)

        text, problems = amanda_sheet.write(about, dumps, copies, heads, self.record.failed)
        self.warnings += problems
        return text

    def _standing(self, manifest, accept):
        """Return what to think of a new generation beside the earlier ones; doubts are told."""
        if accept:
            return "accepted"
        unlike = unusual(manifest, self.manifests, self.settings.keep_days)
        if unlike:
            self.doubt(
                f"{'. '.join(unlike)}. Nothing is removed from the mirror until this is settled: "
                f"if it is right, say so with 'salt-call amanda.mirror {self.config} accept=True'"
            )
        return "doubtful" if unlike else "usual"

    def _try(self, archive, method):
        """See that a sealed catalogue, as it stands on the mirror, can be opened again."""
        try:
            with amanda_archive.trial(method, self.platform.user) as pipe:
                self._there(
                    amanda_mirror_user.pour,
                    str(archive),
                    pipe,
                    files=[pipe],
                    progress=lambda count: None,
                )
        except AmandaError as error:
            raise AmandaError(
                "no generation is made, since the catalogue that was sealed for it can't be opened "
                f"again: {error}"
            ) from error

    def prune(self, manifest):
        """Remove what no kept generation needs; return the names of what went, and why none did."""
        if self.doubts:
            return {"paused": True, "generations": [], "tapes": []}
        everything = [*self.manifests, manifest]
        kept = keep(everything, self.settings.keep_days)
        needed = {key for old in kept for key in old.keys}
        gone = [old.generation for old in everything if old not in kept]
        tapes = sorted({*self.held} - needed)
        try:
            removing = (self.directory, self.config, gone, tapes)
            self.mirrored.unsettle({name: self.mirrored.made[name] for name in gone})
            self._there(amanda_mirror_user.prune, *removing)
            self.mirrored.settle(gone, {})
        except (AmandaError, OSError) as error:
            self.doubt(f"the generation is whole, but older ones can't be removed: {error}")
            return {"paused": True, "generations": [], "tapes": []}
        return {"paused": False, "generations": gone, "tapes": [list(key) for key in tapes]}
