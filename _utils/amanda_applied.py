"""The settings of the last good apply: what runs and restores go by while the pillar is broken.

A state writes them once everything that they ask for is in place. They hold no secret: the pillar
has no key for one, and what has unknown keys is never applied.
"""

import json

import amanda_settings
from amanda_errors import AmandaError
from amanda_files import Managed
from amanda_layout import APPLIED as FILE


def files(settings):
    """Return the :class:`~amanda_files.Managed` file, in a list, that keeps *settings*."""
    content = json.dumps(settings.to_dict(), indent=1) + "\n"
    return [Managed(FILE, content.encode(), mode=0o600, hidden=True)]


def load(minion_id, error):
    """Return the :class:`~amanda_settings.Settings` kept for the server *minion_id*.

    error
        The :class:`~amanda_errors.PillarError` of the pillar as it is now; it is raised if there
        are none that can be used.
    """
    try:
        settings = amanda_settings.from_dict(json.loads(FILE.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, AmandaError):
        raise error from None
    if settings.minion_id != minion_id or not settings.is_server:
        raise error
    return settings
