"""Files that are nearly all hole, and a bound on what is done with them."""

import contextlib
import os
import signal

TERABYTE = 1 << 40


def hollow(path, size, islands):
    """Make *path* a file of *size* bytes; *islands*: where data are → which."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.ftruncate(handle, size)
        for place, data in islands.items():
            os.pwrite(handle, data, place)
    finally:
        os.close(handle)


@contextlib.contextmanager
def within(seconds):
    """Fail if this block takes longer."""

    def late(number, frame):
        raise AssertionError(f"it took over {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
