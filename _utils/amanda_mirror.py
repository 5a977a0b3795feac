"""Copying tapes and catalogue to a mirror, as a row of generations.

Tapes are read as the dump user and written as the mirror's user, by children that pass open files
and hashes to each other through this process. Nothing that an earlier generation needs is ever
changed; a new generation counts from the moment its directory, manifest and all, gets its name.
:mod:`amanda_manifest` says what stands where, :mod:`amanda_generations` reads it back.
"""

import contextlib
import datetime
import os
import socket
import time
from pathlib import Path

import amanda_archive
import amanda_catalogue
import amanda_copying
import amanda_generations
import amanda_manifest
import amanda_mirror_user
import amanda_platform
import amanda_tapes
from amanda_errors import AmandaError
from amanda_manifest import (
    GENERATIONS,
    LABEL,
    MANIFEST,
    MANIFEST_SUM,
    PARTIAL,
    SUMS,
    TAPES,
    WRITTEN,
    Archive,
    File,
    Manifest,
    TapeCopy,
)
from amanda_pruning import keep, unusual
from amanda_rights import MOST_FILES, as_user, hand_over, open_as

_ROOM = 16 << 20
"""Bytes kept free for manifest and catalogue when room on the mirror is checked."""


def last_fulls(dumps):
    """Return where the newest good full of each DLE is, as :func:`mirror` takes it.

    dumps
        What :func:`amanda_catalogue.read` returned.
    """
    fulls = {}
    for dump in sorted(dumps, key=lambda dump: dump.timestamp):
        if dump.level == 0 and dump.status == "OK":
            keys = {(part.label, part.written) for part in dump.parts}
            fulls[f"{dump.host} {dump.disk}"] = tuple(sorted(keys))
    return fulls


def mirror(places, settings, method, run="", fulls=None, progress=None, platform=None, extras=None):
    """Bring the mirror up to date and return what was done, as data.

    places
        The :class:`amanda_layout.ConfigPlaces` of the config.
    settings
        The :class:`amanda_settings.Mirror`.
    method
        How the catalogue is sealed: the encryption's method.
    run
        The timestamp of the run that this generation follows.
    fulls
        What :func:`last_fulls` returned: these tapes are kept however old they get.
    progress
        Called now and then with a dict: ``tape``, ``done`` and ``bytes`` (of all to copy).
    platform
        :class:`amanda_platform.Platform`; None is this host's.
    extras
        As for :func:`amanda_archive.seal`.

    Raises :class:`~amanda_errors.AmandaError` if the catalogue knows tapes that the disk lacks, or
    if the mirror can't be used or written; no earlier generation has changed then.
    """
    started = time.monotonic()
    platform = platform or amanda_platform.detect()
    try:
        wanted = _tapes_on_disk(places, platform.user)
        session = _Session(places.name, settings, platform, progress or (lambda data: None))
        copies = session.copy(wanted)
        manifest = session.generation(places, method, run, fulls or {}, copies, extras)
    except OSError as error:
        raise AmandaError(f"mirroring {places.name} failed: {error}") from error
    pruned = session.prune(manifest)
    return {
        "generation": manifest.generation,
        "tapes": len(copies),
        "files": sum(len(copy.files) for copy in copies),
        "bytes": manifest.size,
        "copied_tapes": [label for label, _ in session.copied],
        "copied_bytes": manifest.new_bytes,
        "pruned": pruned,
        "warnings": session.warnings,
        "seconds": round(time.monotonic() - started, 3),
    }


def _tapes_on_disk(places, user):
    """Return ``{(label, written): slot}`` of every written tape that the catalogue knows.

    Raises :class:`~amanda_errors.AmandaError` naming each that the disk lacks.
    """
    slots = {}
    for slot in as_user(user, amanda_tapes.scan, str(places.tapes)):
        slots.setdefault((slot["label"], slot["written"]), []).append(slot)
    wanted, lacking = {}, []
    for label, written in as_user(user, _written, str(places.tapelist)):
        if not (LABEL.fullmatch(label) and WRITTEN.fullmatch(written)):
            raise AmandaError(f"a tape {label!r}, written {written!r}, can't be mirrored")
        found = slots.get((label, written), [])
        if len(found) != 1 or found[0]["problem"]:
            lacking.append(f"{label} (written at {written})")
        else:
            wanted[label, written] = found[0]
    if lacking:
        raise AmandaError(
            f"nothing is mirrored: the catalogue of {places.name} knows tapes that {places.tapes} "
            f"lacks, or holds twice: {', '.join(sorted(lacking))}. Bring them back, or give their "
            f"dumps up with 'amrmtape --cleanup {places.name} LABEL'"
        )
    for (name, _), slot in wanted.items():
        foreign = [file for file, size in slot["files"] if not _whole(file, size)]
        if foreign:
            raise AmandaError(f"tape {name} holds what isn't Amanda's: {foreign[0]!r}")
        slot["path"] = str(places.tapes / slot["name"])
    return dict(sorted(wanted.items()))


def _written(tapelist):
    tapes = amanda_catalogue.read_tapelist(Path(tapelist))
    return [[tape.label, tape.written] for tape in tapes if tape.written != "0"]


def _whole(name, size):
    return size is not None and amanda_manifest.TAPE_FILE.fullmatch(name)


class _Session:
    """One run of the mirror: what it found there, what it has done, what it has to say."""

    def __init__(self, config, settings, platform, progress):
        self.config, self.settings, self.platform = config, settings, platform
        self.progress = progress
        self.directory = str(settings.directory)
        self.top = Path(self.directory, config)
        self.warnings = []
        self.copied = []
        self.doubts = False  # whatever is doubtful pauses pruning
        as_user(settings.user, amanda_mirror_user.prepare, self.directory, config)
        held = as_user(settings.user, amanda_mirror_user.survey, self.directory, config)
        self.free = held["free"]
        self.held = {(tape["label"], tape["written"]): tape["files"] for tape in held["tapes"]}
        self.made = []
        self.manifests = []
        for found in held["generations"]:
            with contextlib.suppress(ValueError):
                self.made.append(amanda_generations.made(found["name"]))
            try:
                self.manifests.append(amanda_generations.parse(config, found))
            except AmandaError as error:
                self.doubt(f"{error}. It is left as it is")
        self.known = {copy.key: copy for old in self.manifests for copy in old.tapes}

    def doubt(self, warning):
        """Say what is wrong; nothing is removed from the mirror in such a run."""
        self.warnings.append(warning)
        self.doubts = True

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
            if here != files:
                self.doubt(
                    f"tape {' written at '.join(key)} is no longer as it was mirrored. The "
                    "mirror's copy stays; verify the tape"
                )
            return known
        return self._unlisted(key, here) if here == files else None

    def _unlisted(self, key, files):
        """Return the copy of a tape that an interrupted run brought here in full."""
        where = str(self.top / TAPES / Path(*key))
        text = as_user(self.settings.user, amanda_mirror_user.read_sums_file, where)
        try:
            sums = amanda_manifest.read_sums(text or "")
            whole = tuple(File(name, size, sums[name]) for name, size in files)
        except (AmandaError, KeyError):
            return None
        return TapeCopy(*key, whole)

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
        copy = TapeCopy(*key, tuple(files))
        known = self.known.get(key)
        if known and known != copy:
            as_user(self.settings.user, amanda_mirror_user.discard, partial)
            self.doubt(
                f"tape {' written at '.join(key)} is no longer as it was mirrored, so the "
                "mirror's damaged copy can't be made good"
            )
            return known
        texts = [[SUMS, amanda_manifest.sums(files)]]
        as_user(self.settings.user, amanda_mirror_user.finish, partial, str(final), texts, True)
        self.copied.append(key)
        return copy

    def _copy_some(self, slot, files, partial, report):
        paths = [str(Path(slot["path"], name)) for name, _ in files]
        _, opened = as_user(self.platform.user, hand_over, paths, hands_over=True)
        try:
            work = [[name, size, fd] for (name, size), fd in zip(files, opened, strict=True)]
            copied = as_user(
                self.settings.user,
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

    def generation(self, places, method, run, fulls, copies, extras):
        """Write the generation: catalogue, manifest, and at last its name."""
        name = self._name()
        final = self.top / GENERATIONS / name
        partial = f"{final}{PARTIAL}"
        archive = amanda_archive.name(method)
        with amanda_archive.seal(places, method, self.platform, extras) as pipe:
            ((size, sha256),) = as_user(
                self.settings.user,
                amanda_copying.copy,
                partial,
                [[archive, None, pipe]],
                files=[pipe],
                progress=lambda count: None,
            )
        with open_as(self.settings.user, Path(partial, archive)) as stream:
            try:
                amanda_archive.try_open(stream, method, self.platform.user)
            except AmandaError as error:
                raise AmandaError(
                    "no generation is made, since the catalogue that was sealed for it can't be "
                    f"opened again: {error}"
                ) from error
        conf, state = (str(path).lstrip("/") for path in (places.conf, places.state))
        manifest = Manifest(
            config=self.config,
            generation=name,
            run=run,
            server=socket.gethostname(),
            tapes=copies,
            archive=Archive(File(archive, size, sha256), method, conf, state),
            fulls=fulls,
            new_bytes=sum(copy.size for copy in copies if copy.key in self.copied),
        )
        text = amanda_manifest.encode(manifest)
        texts = [[MANIFEST, text], [MANIFEST_SUM, f"{amanda_manifest.digest(text)}  {MANIFEST}\n"]]
        as_user(self.settings.user, amanda_mirror_user.finish, partial, str(final), texts)
        return manifest

    def _name(self):
        """Return the new generation's name: now, but always after the newest there is."""
        now = datetime.datetime.now(datetime.timezone.utc)
        if self.made:
            now = max(now, self.made[-1] + datetime.timedelta(seconds=1))
        return now.strftime("%Y%m%dT%H%M%SZ")

    def prune(self, manifest):
        """Remove what no kept generation needs; return the names of what went, and why none did."""
        for warning in unusual(manifest, self.manifests, self.settings.keep_days):
            self.doubt(warning)
        if self.doubts:
            return {"paused": True, "generations": [], "tapes": []}
        everything = [*self.manifests, manifest]
        kept = keep(everything, self.settings.keep_days)
        needed = {key for old in kept for key in old.keys}
        gone = [old.generation for old in everything if old not in kept]
        tapes = sorted({*self.held} - needed)
        try:
            removing = (self.directory, self.config, gone, tapes)
            as_user(self.settings.user, amanda_mirror_user.prune, *removing)
        except OSError as error:
            self.doubt(f"the generation is whole, but older ones can't be removed: {error}")
            return {"paused": True, "generations": [], "tapes": []}
        return {"paused": False, "generations": gone, "tapes": [list(key) for key in tapes]}
