"""Which generations of the mirror this server made, with the SHA-256 of each one's manifest.

``<config>.json`` in :data:`amanda_layout.MIRRORED`, root's alone. By it a generation is missed that
was removed on the mirror, and none is believed that somebody else wrote there.
"""

import json
from pathlib import Path

import amanda_files
import amanda_layout
from amanda_manifest import GENERATION, SHA256


class Mirrored:
    """What is known of one config; a program that is interrupted leaves it true.

    config
        The config's name.
    file
        Where it is stored; None: nowhere, and nothing is known.
    directory
        The mirror's directory: of another that the pillar named before nothing is known.

    ``made`` has the SHA-256 by the generation's name, None if nothing is known. ``unsettled`` has
    it of those that were being written or removed, or were damaged: they may be there or not.
    """

    def __init__(self, config, file=None, directory=None):
        self.config, self.directory = config, directory
        self.file = file and Path(file)
        self.made, self.unsettled = None, {}
        self.damaged = False
        try:
            if self.file:
                where, made, unsettled = _decode(self.file.read_bytes())
                if where == directory:
                    self.made, self.unsettled = made, unsettled
        except FileNotFoundError:
            pass
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self.damaged = True

    def problem(self, name, sha256):
        """Return why a generation with this SHA-256 isn't one of this server, in words, or None."""
        if self.made is None:
            return None
        known = self.made.get(name) or self.unsettled.get(name)
        if known == sha256:
            return None
        what = "its manifest isn't the one that this server wrote" if known else "it isn't its own"
        return f"{what}, by {self.file}; if it is right all the same, {self.accept}"

    @property
    def accept(self):
        """How an administrator says that all is right as it stands on the mirror."""
        return f"say so with 'salt-call amanda.mirror {self.config} accept=True'"

    def gone(self, names):
        """Return what to do about the generations that aren't there, in words, or None.

        names
            All that are there.
        """
        lost = sorted(set(self.made or ()) - set(names))
        if not lost:
            return None
        more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        return (
            f"generation {', '.join(lost[-_SHOWN:])}{more} of {self.config}, which this server "
            "made, is gone from the mirror. Bring it back, as from a snapshot of the mirror's file "
            f"system; or, if it isn't needed, {self.accept}"
        )

    def begin(self, found):
        """Begin anew with what is *found* on the mirror: SHA-256 by name."""
        self.made, self.unsettled, self.damaged = dict(found), {}, False
        self._store()

    def unsettle(self, changing):
        """Take note that generations are about to come or go: SHA-256 by name."""
        for name in changing:
            self.made.pop(name, None)
        self.unsettled.update(changing)
        self._store()

    def settle(self, names, found):
        """Take note of which of the unsettled *names* are *found*; the others are forgotten.

        found
            SHA-256 by name.
        """
        for name in names:
            sha256 = self.unsettled.pop(name)
            if found.get(name) == sha256:
                self.made[name] = sha256
        self._store()

    def _store(self):
        if self.file:
            self.file.parent.mkdir(mode=0o700, exist_ok=True)
            data = {"directory": self.directory, "made": self.made, "unsettled": self.unsettled}
            text = json.dumps(data, indent=1) + "\n"
            amanda_files.write(self.file, text.encode(), mode=0o600)


_SHOWN = 5  # generations in a message


def _decode(text):
    data = json.loads(text)
    for part in (data["made"], data["unsettled"]):
        for name, sha256 in part.items():
            if not (GENERATION.fullmatch(name) and SHA256.fullmatch(sha256)):
                raise ValueError(f"{name!r} has no SHA-256")
    return data["directory"], data["made"], data["unsettled"]


def read(mirror, config):
    """Return the :class:`Mirrored` of a config of this server.

    mirror
        The :class:`amanda_settings.Mirror`.
    """
    return Mirrored(config, amanda_layout.MIRRORED / f"{config}.json", mirror.directory)
