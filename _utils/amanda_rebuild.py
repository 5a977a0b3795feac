"""The step ``rebuild``: a fresh server becomes the one that a generation of the mirror was made on.

On a server that has its own catalogue still, but lost tapes, it brings back those alone.

Everything is brought beside its place first, tapes compared with the manifest's hashes as they are
copied; then it is put in place by renames, the tapelist last. Called again after an interruption it
goes on: what is there already is read and compared again, never believed.

The lost server may have dumped after that generation. Its clients' snapshots have moved on then,
which nothing here can tell, and an increment would silently lack what only the lost dump had: so
the next dump of each DLE is a full one.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from pathlib import Path

import amanda_age
import amanda_archive
import amanda_catalogue
import amanda_clock
import amanda_encryption
import amanda_files
import amanda_fleet
import amanda_generations
import amanda_identity
import amanda_layout
import amanda_manifest
import amanda_mirror_user
import amanda_mirrored
import amanda_terms
import amanda_verified
from amanda_errors import AmandaError, ArgumentError
from amanda_fresh import UNFINISHED
from amanda_generations import timely
from amanda_rights import as_user
from amanda_tapes_back import TapesBack, remove, swap

_STATE = ("curinfo", "index", "log")  # what of a config's state is brought back, and the tapelist
_MOST_IDENTITY = 30_000
"""Characters of the lost server's identity file: of a hundred servers, one after the other."""
_NO_MIRROR = "there is no mirror to rebuild from: set mirror in pillar backup"


def configs(settings, config=None, generation=None):
    """Return the configs to rebuild; first the one with the newest generation, whose fleet counts.

    settings
        The server's :class:`amanda_settings.Settings`.
    config, generation
        What was asked for; no config is all that the mirror has.

    Raises :class:`~amanda_errors.ArgumentError` if there is nothing to rebuild from.
    """
    if settings.mirror is None:
        raise ArgumentError(_NO_MIRROR)
    asked = [settings.config(config).name] if config else list(settings.configs)
    found = {name: amanda_generations.names(settings.mirror, name) for name in asked}
    names = [name for name in asked if found[name]]
    if not names:
        raise ArgumentError(
            f"the mirror {settings.mirror.directory} has no generation of {', '.join(asked)}: is "
            "it mounted, and is backup:mirror:directory as it was?"
        )
    if generation and len(names) > 1:
        raise ArgumentError(f"a generation is one config's: add config=, one of {', '.join(names)}")
    return sorted(names, key=lambda name: max(timely(found[name]), default=""), reverse=True)


def rebuild(work):
    """Take over what a generation of the mirror holds: catalogue, tapes, pins, fleet and identity.

    A server that has dumps of its own gets the tapes that it lacks, and nothing else.

    work
        The :class:`amanda_run.Run`; of its options ``identity`` is a path on this server (without
        it the server's own key must do) and ``generation`` a name (without it, the newest).

    Returns the step's result. ``lacking`` has the labels of tapes that the catalogue knows and the
    generation doesn't have, ``damaged`` those whose copy on the mirror isn't what the manifest
    says, or was verified, each with its ``label`` and ``problem``: both are left out. Raises
    :class:`~amanda_errors.AmandaError`, before anything has changed, if this server has dumps of
    its own and lacks none of the tapes, if it has too little room, or if the generation can't be
    believed or opened.
    """
    mirror = work.settings.mirror
    if mirror is None:
        raise AmandaError(_NO_MIRROR)
    asked = work.options.get("generation")
    manifest = amanda_generations.load(mirror, work.config.name, asked)
    if not manifest.tapes:
        raise AmandaError(
            f"generation {manifest.generation} of {manifest.config} on the mirror has no tape: "
            "name an older one with generation="
        )
    if _own(work.places) and not _resumed(work.places):
        return _bring_lost_tapes(work, manifest)
    _check_standing(work, manifest)
    with contextlib.ExitStack() as stack:
        session = _Session(work, manifest, _opened(stack, work, manifest))
        session.tapes.check()
        session.begin()
        session.tapes.copy()
        session.put_in_place()
        return session.result()


def _check_standing(work, manifest):
    """Raise if nobody asked for this generation, and it was unlike those before it."""
    if manifest.standing == "doubtful" and not work.options.get("generation"):
        names = timely(amanda_generations.names(work.settings.mirror, manifest.config))
        raise AmandaError(
            f"the newest generation, {manifest.generation}, was unlike those before it when it was "
            f"made: it has {manifest.size} bytes on {len(manifest.tapes)} tapes, and was written "
            f"by the server {manifest.server!r}. Say which one is to be taken over: "
            f"config={manifest.config} generation= with one of {', '.join(names[-5:])}"
        )


def _bring_lost_tapes(work, manifest):
    """Bring back tapes that this server knows and its disk has lost; return the step's result."""
    own = _own(work.places)
    copies = tuple(copy for copy in manifest.tapes if copy.key in own)
    tapes = TapesBack(work, dataclasses.replace(manifest, tapes=copies), own)
    tapes.record = amanda_verified.read(work.config.name)
    lost = tapes.check_lost()
    if not lost:
        raise _refusal(work.places, own)
    tapes.copy()
    tapes.put_in_place()
    done = [label for label in lost if label not in {tape["label"] for tape in tapes.damaged}]
    what = (
        f"{len(done)} lost tapes are back in {work.places.tapes}, {tapes.copied} bytes; catalogue "
        "and all other tapes are as they were"
    )
    return _result(what, manifest, tapes, len(done))


def _opened(stack, work, manifest):
    """Return the unpacked catalogue of a generation, until *stack* is left."""
    identity = stack.enter_context(amanda_identity.given(work.options.get("identity"), work.user))
    opened = amanda_generations.open_catalogue(work.settings.mirror, manifest, work.user, identity)
    try:
        return stack.enter_context(opened)
    except AmandaError as error:
        which = (work.settings.mirror, manifest.config, manifest.generation)
        before = amanda_generations.before(*which)
        what = f"the catalogue of generation {which[-1]} can't be opened: {error}{before}"
    if manifest.archive.method == "age":
        raise AmandaError(
            f"{what}. If it is sealed to other keys: identity= takes an offsite identity whose "
            f"public half was in pillar {amanda_encryption.RECIPIENTS_KEY} when it was made"
        )
    amcrypt = dataclasses.replace(work.settings.encryption, method="amcrypt")
    keys = " and ".join(map(str, amanda_encryption.escrow(amcrypt, work.platform)))
    raise AmandaError(
        f"{what}. It is sealed with amcrypt, whose keys no mirror holds: first put your copies of "
        f"the lost server's {keys} in the place of this server's, owned by {work.user} and with "
        "mode 0400"
    )


def _written(tapelist):
    """Return label and write time of each written tape, a set of pairs."""
    tapes = amanda_catalogue.read_tapelist(tapelist)
    return {(tape.label, tape.written) for tape in tapes if tape.written != "0"}


def _own(places):
    """Return label and write time of the tapes with dumps of this server, a set of pairs."""
    return _written(places.tapelist) if os.path.lexists(places.tapelist) else set()


def _resumed(places):
    return os.path.lexists(places.state / UNFINISHED)


def _refusal(places, own):
    return AmandaError(
        f"this server has dumps of {places.name} on {len(own)} tapes, so nothing is rebuilt over "
        "them, and none that the mirror has is missing. What the mirror holds can be had with "
        "amanda.recover source=mirror. If this server's own dumps are not needed, move what is in "
        f"{places.state} and {places.tapes} elsewhere, apply the state backup, and call "
        "amanda.rebuild again"
    )


class _Session:
    """One rebuild: what there is, what is wanted, what was found."""

    def __init__(self, work, manifest, unpacked):
        self.work, self.manifest, self.unpacked = work, manifest, unpacked
        self.places, self.user = work.places, work.user
        self.state = self.places.state / UNFINISHED
        known = _written(unpacked.tapelist)
        if (own := _own(self.places)) - known:  # that is no rebuild which goes on
            raise _refusal(self.places, own)
        self.tapes = TapesBack(work, manifest, known)
        self.extras = amanda_archive.read_extras(unpacked, self.user)
        if "retention.json" in self.extras:
            _mapping("the catalogue's retention.json", self.extras["retention.json"])
        _check_length(self.extras.get("identity", ""))
        self.fleet = self._fleet(self.extras)
        zone = amanda_clock.other_zone(self.extras.get(amanda_archive.ZONE, ""))
        self.problems = [zone] if zone else []

    def begin(self):
        """Mark the rebuild as begun: from now on nothing else may dump here.

        What the lost server verified is in place first: no tape is to contradict it.
        """
        as_user(self.user, os.makedirs, str(self.state), 0o700, True)
        self._note("verified.json", amanda_layout.VERIFIED)
        name = self.places.name
        try:
            self.tapes.record = amanda_verified.read(name)
        except (AmandaError, RecursionError):
            amanda_verified.path(name).unlink()
            self.problems.append(
                "What the lost server verified can't be read in that generation, so the tapes are "
                "compared with its manifest alone: verify everything anew with 'salt-call "
                f"amanda.verify config={name}'"
            )

    def _note(self, name, directory):
        """Put one of the lost server's notes into its place."""
        if name in self.extras:
            directory.mkdir(mode=0o700, exist_ok=True)
            content = self.extras[name].encode()
            amanda_files.write(directory / f"{self.places.name}.json", content, mode=0o600)

    def put_in_place(self):
        """Put all that was brought into its place; the tapelist, which makes it count, last."""
        as_user(self.user, _stage, str(self.unpacked.state), str(self.state))
        as_user(self.user, swap, str(self.state), str(self.places.state), list(_STATE))
        self.tapes.put_in_place()
        self._note("retention.json", amanda_layout.RETENTION)
        amanda_terms.forget(self.places.name)
        self._take_keys(self.extras)
        if self.fleet is not None:
            with amanda_fleet.alone(amanda_layout.FLEET):
                amanda_fleet.save(self.fleet, amanda_layout.FLEET)
        as_user(self.user, swap, str(self.state), str(self.places.state), ["tapelist"])
        self._take_generations()
        as_user(self.user, remove, str(self.state))

    def _take_generations(self):
        """Take what generations there are for this server's own: it misses them from now on."""
        mirror, config, found = self.work.settings.mirror, self.work.config.name, {}

        def add(name, manifest, problem):
            if not problem:
                found[name] = amanda_manifest.digest(manifest.source)

        names = amanda_generations.names(mirror, config)
        amanda_generations.each(mirror, config, names, add)
        amanda_mirrored.read(mirror, config).begin(found)

    def _fleet(self, extras):
        """Return the old server's fleet; None if there is none, or this server has a newer one."""
        if "fleet.json" not in extras:
            return None
        origin = f"the fleet in generation {self.manifest.generation}"
        fleet = amanda_fleet.from_json(_mapping(origin, extras["fleet.json"]), origin)
        for name in set(self.work.settings.configs) - {self.places.name}:
            other = amanda_layout.places(name, self.work.settings.paths)
            if amanda_catalogue.all_logs(other):
                return None  # it came with that one, or was collected since
        return fleet

    def _take_keys(self, extras):
        """Add the old server's identities to this one's, if it is to hold any: they open dumps.

        Nothing new is sealed to them.
        """
        path, encryption = amanda_layout.AGE_IDENTITY, self.work.settings.encryption
        text = extras.get("identity")
        if not text or path not in amanda_encryption.escrow(encryption, self.work.platform):
            return
        own = path.read_bytes()
        had = amanda_age.identities(own, path)
        found = amanda_age.identities(text.encode(), "the catalogue's identity")
        new = [identity for identity in found if identity not in had]
        if new:
            lines = "".join(f"{identity}\n" for identity in new)
            content = own.rstrip(b"\n") + b"\n# of the server before this one\n" + lines.encode()
            amanda_files.write(path, content, self.user, self.work.platform.group, 0o400)
        if set(extras.get("recipients", "").split()).issuperset(encryption.recipients):
            # The time says since when dumps are sealed to all of them: no longer than there.
            since = (self.unpacked.extras / "recipients").lstat().st_mtime
            os.utime(amanda_layout.AGE_RECIPIENTS, (since, since))

    def result(self):
        """Return the step's result."""
        whole = len(self.tapes.wanted) - len(self.tapes.damaged)
        what = (
            f"generation {self.manifest.generation} of {self.manifest.config} is in place: "
            f"{whole} tapes, {self.tapes.copied} bytes of them copied. The next run dumps every "
            "directory in full, as the lost server may have dumped after that"
        )
        return _result(". ".join([what, *self.problems]), self.manifest, self.tapes, whole)


def _check_length(identity):
    """Raise if an identity file is longer than any of ours: to read one takes some effort."""
    if len(identity) > _MOST_IDENTITY:
        raise AmandaError(
            f"the catalogue's identity has over {_MOST_IDENTITY} characters, as no server's has: "
            "that generation isn't believed"
        )


def _result(what, manifest, tapes, whole):
    """Return the step's result: *what* is in place, *whole* tapes, and what isn't."""
    parts = [what]
    parts += [f"tape {tape['label']} is left out: {tape['problem']}" for tape in tapes.damaged]
    if tapes.lacking:
        parts.append(f"the mirror has no copy of tape {', '.join(tapes.lacking)}")
    if gone := [*tapes.lacking, *(tape["label"] for tape in tapes.damaged)]:
        give_up = f"runuser -u {tapes.user} -- amrmtape --cleanup {tapes.places.name}"
        parts.append(
            "Bring such a tape back from another copy, into its slot; or give its dumps up, as "
            f"root, with: {'; '.join(f'{give_up} {label}' for label in gone)}"
        )
    return {
        "success": not tapes.damaged,
        "message": ". ".join(parts),
        "generation": manifest.generation,
        "run": manifest.run,
        "tapes": whole,
        "bytes": manifest.size,
        "copied_bytes": tapes.copied,
        "lacking": tapes.lacking,
        "damaged": tapes.damaged,
    }


def _mapping(what, text):
    """Return the mapping that a JSON *text* of the archive is."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AmandaError(f"{what} can't be read: {error}") from None
    if not isinstance(data, dict):
        raise AmandaError(f"{what} can't be read: it is no mapping")
    return data


# --- as the dump user ---


def _stage(source, directory):
    """Copy a catalogue's state into *directory*, from nothing, and bring it to the disk."""
    for path in Path(directory).iterdir():
        amanda_mirror_user.discard(path)
    for name in (*_STATE, "tapelist"):
        found = Path(source, name)
        if found.is_dir():
            shutil.copytree(found, Path(directory, name))
        elif found.exists():
            shutil.copyfile(found, Path(directory, name))
        else:
            Path(directory, name).mkdir()
    os.sync()
