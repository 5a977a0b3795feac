"""What a dump's archive holds, listed by tar, beside Amanda's index of it.

The index was made from tar's own words when the dump was, so both are the same lines in the same
order. tar lists a hundred thousand members in 0.2 s, where reading them here takes over 1 s.
"""

import itertools
import subprocess
import tempfile

import amanda_command
import amanda_names
from amanda_errors import AmandaError, ParseError

_TAR = ("tar", "--list", "--file=-", "--quoting-style=escape")
_SHOWN = 5
_LONGEST_LINE = 1 << 16


def compare(stream, expected, user=None):
    """Return how the names in an archive differ from those expected, in words; "" if they don't.

    stream
        What :func:`amanda_dump.open_stream` gives.
    expected
        The lines of the index; see :func:`amanda_index.lines`.
    user
        Who tar runs as.

    Raises :class:`~amanda_errors.AmandaError` if the index is damaged, or with tar's words if it
    can't read the archive.
    """
    with tempfile.TemporaryFile() as said:
        tar = amanda_command.popen(_TAR, user, stdin=stream, stdout=subprocess.PIPE, stderr=said)
        try:
            with tar.stdout as listed:
                lines = (line[1:-1] for line in _lines(listed))  # "./etc/hosts" is "/etc/hosts"
                differing = _differences(lines, expected)
        except BaseException:
            tar.kill()
            raise
        finally:
            status = tar.wait()
        if status:
            said.seek(0)
            words = said.read(1000).decode(errors="replace").strip()
            raise AmandaError(f"tar can't list it (status {status}): {words}")
    return differing


def _lines(stream):
    return iter(lambda: stream.readline(_LONGEST_LINE), b"")


def _differences(found, expected):
    """Compare two lists of names; the usual case, that they are the same, takes no memory."""
    pairs = itertools.zip_longest(found, expected)
    for ours, theirs in pairs:
        if ours != theirs:
            break
    else:
        return ""
    there, known = {ours}, {theirs}
    for ours, theirs in pairs:
        there.add(ours)
        known.add(theirs)
    there, known = ({_name(each) for each in names if each is not None} for names in (there, known))
    return "; ".join(
        f"{len(names)} {what}: {_shown(names)}"
        for names, what in [
            (known - there, "names in the index are not in the archive"),
            (there - known, "names in the archive are not in the index"),
        ]
        if names
    )


def _name(line):
    """Return the name that a line stands for: another locale escapes otherwise."""
    try:
        return amanda_names.unescape(line)
    except ParseError:
        return line


def _shown(names):
    some = [amanda_names.text(name[:200]) for name in sorted(names)[:_SHOWN]]
    return ", ".join([*some, "…"] if len(names) > _SHOWN else some)
