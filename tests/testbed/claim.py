"""Claims: who may make or end a bed, held by a process and gone with it, without a file.

A claim is an abstract Unix socket, which the kernel keeps per network namespace and frees when the
last process that has it open ends, however it ends.
"""

import errno
import socket
import time

from tests.testbed.command import BedError


def try_claim(name: str) -> socket.socket | None:
    """Return the claim on ``name``, to be closed, or None when another process has it."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0{name}")
    except OSError as error:
        claim.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return claim


def claim(name: str, timeout: float, why: str) -> socket.socket:
    """Return the claim on ``name``; raises BedError, saying ``why``, if it isn't free in time."""
    end = time.monotonic() + timeout
    while True:
        found = try_claim(name)
        if found:
            return found
        if time.monotonic() > end:
            raise BedError(why)
        time.sleep(0.02)  # the kernel tells nobody when an address is free again
