"""The engine as Salt synced it last.

A minion keeps what it has imported for as long as it runs: without this, modules that were synced
just now would call the engine of before the sync. This module alone is never imported anew.
"""

import contextlib
import importlib
import sys
import threading
from pathlib import Path

_LOCK = threading.RLock()
_seen = {}  # the engine's files when it was imported last, with their times


@contextlib.contextmanager
def engine():
    """Import the engine's modules in this block: all anew if any was synced since.

    Where jobs are threads (``multiprocessing: False``) another's block waits for this one's end, so
    that no two versions are mixed. Who imported before goes on with what it has.
    """
    directory = Path(__file__).parent
    with _LOCK:
        found = {path.name: path.stat().st_mtime_ns for path in directory.glob("amanda_*.py")}
        if found != _seen:
            for name in [name for name in sys.modules if name.startswith("amanda_")]:
                if name != __name__:
                    del sys.modules[name]
            importlib.invalidate_caches()
            _seen.clear()
            _seen.update(found)
        yield
