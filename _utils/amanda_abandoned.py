"""Deliveries that were broken off: what was asked of one earlier, and comes later, must not begin.

A runner that is interrupted takes back what it asked for, and that may overtake the request itself.
Who calls these holds the lock of what they are about, see :func:`amanda_authorized.alone`.
"""

import time

import amanda_files
from amanda_errors import AmandaError
from amanda_layout import RUNTIME

_PLACE = RUNTIME / "abandoned"
_KEPT = 86400  # seconds; a request that comes later than that has another reason


def note(delivery_id):
    """Remember that the delivery of this id is over, whether it began or not."""
    directories = (RUNTIME, 0o755), (_PLACE, 0o700)
    amanda_files.apply([amanda_files.Managed(path, mode=mode) for path, mode in directories])
    for path in _PLACE.iterdir():
        if time.time() - path.stat().st_mtime > _KEPT:
            path.unlink()
    (_PLACE / delivery_id).touch()


def check(delivery_id):
    """Raise :class:`~amanda_errors.AmandaError` if the delivery of this id is over."""
    if (_PLACE / delivery_id).exists():
        raise AmandaError(f"the delivery {delivery_id} was broken off")
