"""What stands on the mirror before a generation is made: which ones count, and what is amiss."""

import dataclasses
import datetime

import amanda_generations
import amanda_manifest

SHOWN = 5
"""How many generations a message names."""


class Earlier:
    """The generations that are on the mirror; what can't be believed is left as it is, and told.

    mirror
        The :class:`amanda_settings.Mirror`.
    mirrored
        The :class:`amanda_mirrored.Mirrored` of the config; it is brought up to date.
    accept
        Whether an administrator says that all that can be believed is this server's own.

    ``manifests`` are those that count, the oldest first, without their source. ``damaged`` names
    those that don't, ``gone`` says which are missing or is None; ``warnings`` says what is wrong,
    and ``doubts`` what is so wrong that nothing may be removed.
    """

    def __init__(self, mirror, mirrored, accept):
        self.config, self.mirrored = mirrored.config, mirrored
        self.names = amanda_generations.names(mirror, self.config)
        self.manifests, self.damaged, self.gone = [], [], None
        self.warnings, self.doubts = [], []
        problems, found = [], {}

        def add(name, manifest, problem):
            if problem:
                self.damaged.append(name)
                problems.append(problem)
            else:
                found[name] = amanda_manifest.digest(manifest.source)
                self.manifests.append(dataclasses.replace(manifest, source=""))  # it is large

        known = None if accept else mirrored
        amanda_generations.each(mirror, self.config, self.names, add, known)
        if accept or mirrored.made is None:
            self._begin(found, accept)
        else:
            self._compare(found)
        if problems:
            more = len(problems) - SHOWN
            told = "; ".join(problems[:SHOWN]) + (f" (and {more} more)" if more > 0 else "")
            what = amanda_generations.remedy(mirror, self.config, self.damaged[:SHOWN])
            self.doubts.append(
                f"{told}. {what}. Until then each mirror of {self.config} fails, and nothing is "
                "removed from the mirror"
            )

    def _begin(self, found, accept):
        """Begin the record anew with what is *found*, SHA-256 by name; tell of it once."""
        if found and self.mirrored.file and not accept:
            why = "was damaged" if self.mirrored.damaged else "was not there"
            self.warnings.append(
                f"{self.mirrored.file}, which says what generations this server made, {why}. It is "
                f"begun anew with the {len(found)} that are on the mirror: see that none is "
                "missing there"
            )
        self.mirrored.begin(found)

    def _compare(self, found):
        """Compare what is *found*, SHA-256 by name, with what was made; tell what is gone.

        What is damaged isn't missed once an administrator has removed it.
        """
        made, unsettled = self.mirrored.made, self.mirrored.unsettled
        self.mirrored.settle(set(unsettled) - set(self.damaged), found)
        self.mirrored.unsettle({name: made[name] for name in self.damaged if name in made})
        self.gone = self.mirrored.gone(self.names)
        if self.gone:
            self.doubts.append(self.gone)

    def next_name(self):
        """Return a new generation's name: now, but after the newest that was made."""
        second = datetime.timedelta(seconds=1)
        moment = datetime.datetime.now(datetime.timezone.utc)
        if mine := amanda_generations.timely(self.mirrored.made):
            moment = max(moment, amanda_generations.made(max(mine)) + second)
        while (name := moment.strftime("%Y%m%dT%H%M%SZ")) in self.names:
            moment += second
        return name
