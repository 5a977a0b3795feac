"""The directories that states added on this client, beside those of the pillar.

They are kept in a file of root's, so that a state can add one at any time and the next publication
holds them all.
"""

import json

import amanda_files
from amanda_errors import AmandaError
from amanda_layout import OWN_DIRECTORIES, SETTINGS


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
