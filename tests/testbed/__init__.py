"""Real hosts on one machine: a Salt master and its minions, booted by systemd-nspawn.

A bed is a ``ground`` (one process that is PID 1 of a PID namespace of its own and owns a mount and
a network namespace) and the hosts that are booted in it. Whatever a bed mounts, connects or runs
lives in those namespaces, so the kernel takes it all away when the ground dies, for whatever
reason. Outside them are only the bed's cgroups and its directory under ``.cache/beds``: the ground
removes both on its way out, and ``down`` removes what a killed ground left.
"""

from tests.testbed.command import BedError
from tests.testbed.fleet import Bed
from tests.testbed.salt import SaltError

__all__ = ["Bed", "BedError", "SaltError"]
