"""What a DLE may be called and what its exclude patterns mean: what Amanda carries unharmed.

A client chooses these texts, and one that Amanda trips over costs the dumps of all clients: a
``#`` in a directory's name makes the driver give up the whole run, and of two names that become
one file name, or a host called ``includefile``, not a line of the disklist is read any more.
What is let through here was seen to come back the same from disklist, wire, log and index.
"""

import re
import unicodedata

from amanda_pillar import NAME

ID_BYTES = 128
PATH_BYTES = 200
# Amanda joins host and disk, and a suffix of its own, to one file name of at most 255 bytes.
ID_AND_PATH_BYTES = 220
PATTERN_BYTES = 250
PATTERNS_LIMIT = 100

_PLAIN = {
    "#": "Amanda's driver takes '#' for a comment and gives up the whole run",
    '"': "Amanda quotes names with it",
    "\\": "Amanda escapes characters with it",
}
_CLASS = re.compile(r"\[:[a-z]+:\]")


def shown(value):
    """Return *value*, a stranger's, short and in plain ASCII, fit for a log or a terminal."""
    if not isinstance(value, str):
        return f"({type(value).__name__})"
    return ascii(value) if len(value) <= 80 else f"{ascii(value[:80])}..."


def name(value):
    """Return *value* as it is where it could be a minion id, else as :func:`shown` does."""
    plain = isinstance(value, str) and len(value) <= 2 * ID_BYTES and NAME.fullmatch(value)
    return value if plain else shown(value)


def id_problem(minion_id):
    """Return in words why *minion_id* can't be a host of the disklist, or None."""
    if not isinstance(minion_id, str) or not NAME.fullmatch(minion_id):
        return (
            "a minion id is letters, digits, '.', '_' and '-', and begins with one of the first two"
        )
    if len(minion_id) > ID_BYTES:
        return f"it is longer than {ID_BYTES} characters"
    if minion_id.endswith("."):
        return "Amanda takes a name with a dot at its end for the same host as without"
    if minion_id == "includefile":
        return "Amanda takes this word in its disklist for a command"
    return None


def path_problem(path):
    """Return in words why Amanda can't be given the directory *path*, or None."""
    if not isinstance(path, str) or not path.startswith("/"):
        return "a directory is an absolute path"
    if path != "/" and any(part in ("", ".", "..") for part in path[1:].split("/")):
        return "write it without '.', '..', doubled slashes or one at its end"
    strange = next((letter for letter in path if not letter.isprintable()), None)
    if strange is not None:
        name = unicodedata.name(strange, f"character {ord(strange):#x}")
        return f"its name holds an unprintable character ({name})"
    for letter, reason in _PLAIN.items():
        if letter in path:
            return f"its name holds {letter}: {reason}"
    if len(path.encode()) > PATH_BYTES:
        return f"its name is longer than {PATH_BYTES} bytes"
    return None


def published_problem(path):
    """Return in words why the directory *path* can't be one to back up, or None.

    More than :func:`path_problem`: what was taken in earlier must still be read, and retired.
    """
    if isinstance(path, str) and path.endswith(" "):
        return "its name ends in a blank: each dump of such a directory fails"
    return path_problem(path)


def dle_problem(minion_id, path):
    """Return in words why *path* of *minion_id* is too long for Amanda's file names, or None."""
    if len(minion_id) + len(path.encode()) > ID_AND_PATH_BYTES:
        return f"with the minion id its name is longer than {ID_AND_PATH_BYTES} bytes"
    return None


def file_name(path):
    """Return the name that Amanda gives to its own files about *path*; two paths may share one."""
    return re.sub(r"[/:\\]", "_", path)


def amanda_pattern(pattern):
    r"""Return *pattern* as Amanda must be given it so that tar excludes what the user meant.

    Amanda doubles each backslash on its way to tar's ``--exclude-from``, so that ``\*`` would
    mean a backslash and anything after it: escaped characters are put into brackets instead. tar
    cuts blanks off a pattern's end; they are put into brackets, too.

    Raises :class:`ValueError`, in words, if *pattern* can't mean what it says.
    """
    if not isinstance(pattern, str) or not pattern:
        raise ValueError("a pattern is a text such as ./tmp or *.o")
    if not pattern.isprintable():
        raise ValueError("it holds an unprintable character; write ? in its place")
    if len(pattern.encode()) > PATTERN_BYTES:
        raise ValueError(f"it is longer than {PATTERN_BYTES} bytes")
    if pattern.startswith("/"):
        raise ValueError("patterns start at the directory: write ./tmp for its entry tmp")
    if pattern in (".", "./", "*", "./*", "**"):
        raise ValueError("it would exclude everything; take the directory out instead")
    if pattern.endswith("/"):
        raise ValueError("leave out the slash at its end, with which it never matches")
    parts = list(_parts(pattern))
    if parts[-1] == " ":
        parts[-1] = "[ ]"
    return "".join(parts)


def _parts(pattern):
    position = 0
    while position < len(pattern):
        letter = pattern[position]
        if letter == "\\":
            position += 1
            if position == len(pattern):
                raise ValueError("it ends in a backslash that escapes nothing")
            letter = pattern[position]
            yield f"[{letter}]" if letter in "*?[" else letter
        elif letter == "[":
            bracket = _bracket(pattern, position)
            position += len(bracket) - 1
            yield "[[]" if bracket == "[" else bracket
        else:
            yield letter
        position += 1


def _bracket(pattern, start):
    """Return the bracket expression at *start*, or ``[`` if none ends there; see fnmatch(3)."""
    position = start + 1
    if pattern[position : position + 1] in ("!", "^"):
        position += 1
    first = position
    while position < len(pattern):
        found = _CLASS.match(pattern, position)
        if found:
            position = found.end()
        elif pattern[position] == "\\":
            raise ValueError("a backslash inside [ ] is not carried through; write it outside")
        elif pattern[position] == "[" and pattern[position + 1 : position + 2] in (".", "=", ":"):
            raise ValueError("inside [ ] only names such as [:digit:] can stand in [: :]")
        elif pattern[position] == "]" and position > first:
            return pattern[start : position + 1]
        else:
            position += 1
    return "["
