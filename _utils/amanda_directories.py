"""A directory to back up: what may be said of it, in the pillar or by a state.

Those that states added on this client are kept in a file of root's, so that a state can add one at
any time and the next publication holds them all.
"""

import dataclasses
import json
from collections.abc import Mapping

import amanda_dle
import amanda_files
from amanda_errors import AmandaError
from amanda_layout import OWN_DIRECTORIES, SETTINGS
from amanda_pillar import CONFIG_NAME, Reader, quoted


@dataclasses.dataclass(frozen=True)
class Directory:
    """A directory to back up, one Amanda DLE.

    path
        Absolute.
    options
        ``exclude`` (patterns), ``mounts`` (``include``), ``config`` (the config that dumps it).
    """

    path: str
    options: Mapping


def directory(path, options, key="backup:directories"):
    """Return the checked :class:`Directory`, which Amanda can write into its disklist and logs.

    The state ``amanda.directory`` calls this too. The server checks again what it is sent.
    """
    reader = Reader(f"{key}:{path}", {} if options is None else options)
    problem = amanda_dle.published_problem(path)
    if problem:
        remedy = "Write a plain absolute path, back up the directory above it, or rename it."
        Reader(key, {}).fail(path, problem, remedy)
    checked = {}
    exclude = reader.get("exclude", None)
    if exclude is not None:
        checked["exclude"] = _exclude(reader, exclude)
    if reader.choice("mounts", None, ("include",)):
        checked["mounts"] = "include"
    config = reader.get("config", None)
    if config is not None:
        if not isinstance(config, str) or not CONFIG_NAME.fullmatch(config):
            reader.fail("config", f"{quoted(config)} is no name", "Name one of the server's.")
        checked["config"] = config
    reader.finish()
    return Directory(path, checked)


def _exclude(reader, patterns):
    if not isinstance(patterns, list) or not all(isinstance(item, str) for item in patterns):
        reader.fail("exclude", "a list of patterns is needed", "Write ['./tmp', '*.o'].")
    if len(patterns) > amanda_dle.PATTERNS_LIMIT:
        problem = f"more than {amanda_dle.PATTERNS_LIMIT} patterns"
        reader.fail("exclude", problem, "Exclude directories instead of single names.")
    for pattern in patterns:
        try:
            amanda_dle.amanda_pattern(pattern)
        except ValueError as error:
            reader.fail("exclude", f"{quoted(pattern)}: {error}", "Write ['./tmp', '*.o'].")
    return list(patterns)


def check_length(minion_id, path, key="backup:directories"):
    """Raise :class:`PillarError` if *path* of this minion is too long for Amanda's file names."""
    problem = amanda_dle.dle_problem(minion_id, path)
    if problem:
        Reader(key, {}).fail(path, problem, "Back up the directory above it.")


def read(path=OWN_DIRECTORIES):
    """Return ``{directory: options}`` of what states added.

    Raises :class:`~amanda_errors.AmandaError` if the file is damaged.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        # The server judges what each one says: an entry of old must not hold back the others.
        return {name: dict(options or {}) for name, options in entries.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise AmandaError(
            f"{path} is damaged ({error}): remove it and apply your states again"
        ) from error


def write(entries, path=OWN_DIRECTORIES):
    """Store *entries*, ``{directory: options}``."""
    amanda_files.apply([amanda_files.Managed(SETTINGS, mode=0o755)])
    amanda_files.write(path, (json.dumps(entries, indent=1, sort_keys=True) + "\n").encode())
