"""A restored tree beside the files that this host has now: those that haven't changed since."""

import contextlib
import os
import stat

import amanda_names
import amanda_restored

_CHUNK = 1 << 20


def compare(root, top, since):
    """Compare restored files with those of this host that haven't changed since the dump.

    root
        The restored tree, a path.
    top
        What it is of, an absolute path (bytes).
    since
        When the dump began, in seconds since 1970.

    Returns ``{"compared": …, "changed": …}``, how many there were, and what differs, in words.
    """
    counts, different = {"compared": 0, "changed": 0}, []
    live = os.path.realpath(top)  # the directory itself may be a link; what users made in it not
    for name, status in amanda_restored.walk(root):
        if not stat.S_ISREG(status.st_mode):
            continue
        same = _same(os.path.join(os.fsencode(root), name), live, name, since)
        counts["changed" if same is None else "compared"] += 1
        if same is False:
            told = f"{amanda_names.text(name)}: it isn't what the host has, unchanged since"
            different.append(told)
    return counts, different


def _same(restored, top, name, since):
    """Tell whether two files are the same; None if the live one has changed or gone meanwhile.

    No attribute can change, nor any content, without the time of change that the kernel keeps. The
    live one is *name* below *top*, in no link that somebody may have put there, and no device.
    """
    directory, _, base = name.rpartition(b"/")
    try:
        with contextlib.ExitStack() as stack:
            there = stack.enter_context(amanda_restored.opened(top, directory))
            before = os.stat(base, dir_fd=there, follow_symlinks=False)
            if not stat.S_ISREG(before.st_mode) or before.st_ctime >= since:
                return None
            now = stack.enter_context(_opened(base, there))
            if not os.path.samestat(os.fstat(now), before):
                return None
            then = stack.enter_context(_opened(restored))
            same = _alike(os.fstat(then), before) and _same_content(then, now, before.st_size)
            return same if os.fstat(now).st_ctime == before.st_ctime else None
    except OSError:
        return None


@contextlib.contextmanager
def _opened(name, directory=None):
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _alike(restored, live):
    """Tell whether all that tar keeps is the same; GNUTAR's format keeps whole seconds alone."""
    times = {live.st_mtime_ns, live.st_mtime_ns // 10**9 * 10**9}
    return restored.st_mtime_ns in times and all(
        getattr(restored, field) == getattr(live, field)
        for field in ("st_mode", "st_uid", "st_gid", "st_size")
    )


def _same_content(one, other, size):
    """Tell whether two files of *size* bytes have the same; where both have a hole, they have."""
    position = 0
    while position < size:
        begins = [amanda_restored.next_data(file, position) for file in (one, other)]
        begins = [begin for begin in begins if begin is not None]
        if not begins:
            return True
        begin = min(begins)
        ends = [os.lseek(file, begin, os.SEEK_HOLE) for file in (one, other)]
        length = min([_CHUNK, *(end - begin for end in ends if end > begin)])
        piece = os.pread(one, length, begin)
        if not piece or piece != os.pread(other, length, begin):
            return False
        position = begin + len(piece)
    return True
