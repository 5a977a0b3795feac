"""Under which terms each DLE's last full dump was made: its dumptype and what it leaves out.

An increment holds what changed since. What an exclude kept out of the full dump, and doesn't any
more, would be in neither; and a chain sealed in two ways, or to two keys of the server's, needs the
keys of both. So when the terms change, the next dump must be a full one; see :mod:`amanda_fulls`.
So it must once the history is lost: a client's snapshot may then stand on a dump that nobody here
knows of.
"""

import json

import amanda_disklist
import amanda_files
from amanda_layout import TERMS

_OTHERS = "*"
"""The name, no DLE's, under which stands what those had that have none of their own."""


def of(fleet, config, dumptype, key=""):
    """Return the terms of each DLE that *config* dumps, texts by host and disk.

    fleet, config, dumptype
        As for :func:`amanda_disklist.disklist`.
    key
        What tells the key that the server opens them with from others, a text.
    """
    sealed = f"\n# sealed to {key}" if key else ""
    return {
        (client.id, directory.path): amanda_disklist.entry(client.id, directory, dumptype) + sealed
        for client in fleet.clients
        for directory in client.directories
        if directory.config == config and directory.retired is None
    }


def changed(config, terms):
    """Return which DLEs of *terms* had others in their last full dump, as far as that is known."""
    known = _read(config)
    return [
        dle
        for dle, text in terms.items()
        if known.get(" ".join(dle), known.get(_OTHERS, text)) != text
    ]


def forget(config):
    """Have :func:`changed` name each DLE of *config*, known yet or not, until its next full dump.

    For a history that may lack what was dumped last, see :mod:`amanda_rebuild`.
    """
    _write(config, {_OTHERS: None})


def record(config, terms, entries):
    """Note the *terms* of each full dump that a client has just made.

    entries
        ``dles`` of :func:`amanda_backup.dump`. One that is lost since is followed by a full one.
    """
    known = _read(config)  # of what is retired, too: it may come back
    made = {(e["host"], e["disk"]) for e in entries if e["level"] == 0 and e["dumped"]}
    known.update({" ".join(dle): text for dle, text in terms.items() if dle in made})
    _write(config, known)


def _read(config):
    """Return the terms that were noted, by DLE; if they are damaged, those that nothing has."""
    try:
        return dict(json.loads((TERMS / f"{config}.json").read_bytes()))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, RecursionError):
        return {_OTHERS: None}


def _write(config, known):
    TERMS.mkdir(mode=0o700, exist_ok=True)
    amanda_files.write(TERMS / f"{config}.json", json.dumps(known).encode(), mode=0o600)
