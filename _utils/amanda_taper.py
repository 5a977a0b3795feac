"""Ends a taper that waits for ever.

Where the disk of the tapes has no room for the header of a dump, Amanda 3.5.1's taper neither fails
nor goes on, and the run with it; nobody could back up any more until someone saw it. Without its
taper Amanda leaves what is dumped on the holding disk, and ends.
"""

import os
import time

import amanda_command

SECONDS = 60
"""How long the disk must be full; what Amanda handles itself is over in less."""

_ROOM = 1 << 20  # bytes; Amanda itself stops a little before the end


class Watch:
    """Looks after the taper of one run.

    places
        :class:`amanda_layout.ConfigPlaces` of the config.
    user
        The dump user: who may end a process whose number stands in a log is he alone.
    """

    def __init__(self, places, user, clock=time.monotonic):
        self.places = places
        self.user = user
        self.problem = ""
        """What is wrong with the disk of the tapes, in words; "" if nothing is."""
        self._clock = clock
        self._since = None

    def look(self, pid):
        """End the taper, process *pid* (None: there is none yet), if it can write no more."""
        if self.problem or pid is None or not self._full():
            self._since = None
            return
        now = self._clock()
        self._since = self._since or now
        if now - self._since >= SECONDS:
            amanda_command.run(["kill", "--", str(pid)], user=self.user, ok=None)
            self.finish()

    def finish(self):
        """Say what :attr:`problem` there is once the run is over."""
        if self._full():
            self.problem = f"the disk of the tapes, {self.places.tapes}, is full"

    def _full(self):
        try:
            room = os.statvfs(self.places.tapes)
        except OSError:  # unmounted: that Amanda notices
            return False
        return room.f_bavail * room.f_frsize < _ROOM
