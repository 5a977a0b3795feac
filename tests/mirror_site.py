"""Written tapes as Amanda leaves them, without Amanda, and a mirror for them."""

import dataclasses
import hashlib
import os
import shutil

import amanda_generations
import amanda_mirror
import amanda_platform
from amanda_layout import ConfigPlaces
from amanda_mirrored import Mirrored
from amanda_settings import Mirror


class Site:
    """A config with written tapes, and a mirror for it, all below one directory.

    root
        The directory.
    user, dump_user
        Whose the mirror and the tapes are.
    """

    def __init__(self, root, user, dump_user):
        self.places = ConfigPlaces(
            name="daily",
            conf=root / "etc" / "daily",
            state=root / "state" / "daily",
            tapes=root / "tapes" / "daily",
            holding=root / "holding" / "daily",
        )
        for path in (self.places.conf, self.places.logs, self.places.tapes, root / "home/.ssh"):
            path.mkdir(parents=True)
        (self.places.conf / "amanda.conf").write_text('org "daily"\n')
        (root / "home/.ssh/known_hosts").write_text("web1 ssh-ed25519 AAAA\n")
        self.fleet = root / "fleet.json"
        self.fleet.write_text('{"web1": {}}\n')
        (self.places.logs / "log.20250101010000.0").write_text("START\n")
        self.platform = dataclasses.replace(
            amanda_platform.PLATFORMS["Debian"], user=dump_user, home=root / "home"
        )
        self.settings = Mirror(user=user, directory=str(root / "mirror"), keep_days=30)
        self.top = root / "mirror" / "daily"
        self.top.parent.mkdir()
        self.tapes = {}
        self.mirrored = None  # a file, if what was mirrored is to be known again

    def write(self, number, written, *sizes):
        """Write tape *number*, over what it held, with a file of each size."""
        label = f"daily-{number:04d}"
        slot = self.places.tapes / f"slot{number}"
        shutil.rmtree(slot, ignore_errors=True)
        slot.mkdir()
        head = f"AMANDA: TAPESTART DATE {written} TAPE {label}\n\f\n".encode()
        (slot / f"00000.{label}").write_bytes(head.ljust(32768, b"\0"))
        for file, size in enumerate(sizes, 1):
            (slot / f"{file:05d}.web1._etc.0").write_bytes(os.urandom(size))
        self.tapes[label] = written
        lines = [f"{when} {name} reuse\n" for name, when in self.tapes.items()]
        self.places.tapelist.write_text("".join(sorted(lines, reverse=True)))
        return slot

    def mirror(
        self,
        run="",
        dumps=(),
        method="age",
        accept=False,
        progress=None,
        record=None,
        let_go=(),
        **settings,
    ):
        """Run the mirror."""
        return amanda_mirror.mirror(
            self.places,
            dataclasses.replace(self.settings, **settings),
            method,
            run,
            dumps,
            progress,
            platform=self.platform,
            extras={"fleet.json": self.fleet},
            accept=accept,
            record=record,
            let_go=let_go,
            mirrored=self.mirrored and Mirrored("daily", self.mirrored, self.settings.directory),
        )

    def problems(self, generation=None):
        """Return what a check with hashes finds wrong with a generation."""
        checked = amanda_generations.check_generation(
            self.settings, "daily", generation, hashes=True
        )
        return checked["problems"]

    def age(self, generation, name):
        """Make a generation look older, its manifest true to its name."""
        directory = self.top / "generations" / generation
        text = (directory / "manifest.json").read_text().replace(generation, name)
        (directory / "manifest.json").write_text(text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        (directory / "manifest.sha256").write_text(f"{digest}  manifest.json\n")
        directory.rename(directory.with_name(name))

    def held(self):
        """Return the names of the tape copies in the mirror."""
        paths = sorted((self.top / "tapes").glob("*/*"))
        return [f"{path.parent.name}/{path.name}" for path in paths]
