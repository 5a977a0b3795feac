"""What verification knows, by config: the hash of each file on tape, and which dumps are good.

``<config>.json`` in :data:`amanda_layout.VERIFIED`, root's alone. Of what the tapelist no longer
knows nothing is kept. Names are any bytes: JSON carries them as escaped surrogates.
"""

import dataclasses
import json
import os
import re

import amanda_files
import amanda_layout
import amanda_results
from amanda_errors import AmandaError

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the last verification of a dump found.

    host, disk, timestamp, level
        Which dump.
    tapes
        Where it was: pairs of label and write time. A copy elsewhere has not been verified by it.
    when
        ISO 8601, UTC.
    good
        Whether all that could be compared was right.
    opened
        False if it was not decrypted, since this server has no key for that.
    reason
        What is wrong, in words; "" if it is good.
    """

    host: str
    disk: str
    timestamp: str
    level: int
    tapes: tuple
    when: str
    good: bool
    opened: bool
    reason: str


def place(dump):
    """Return the tapes of a dump: sorted pairs of label and write time, each once."""
    return tuple(sorted({(part.label, part.written) for part in dump.parts}))


def _key(dump):
    return (dump.host, dump.disk, dump.timestamp, dump.level)


class Record:
    """All that is known of one config.

    tapes
        By label and write time, each file of the tape: ``{name: (size, sha256)}``. The hash is None
        of a file that has not been found good yet.
    incomplete
        Whether an earlier one was lost, and not all that it may have known was verified again.
    """

    def __init__(self, tapes=None, verdicts=(), incomplete=False):
        self.tapes = dict(tapes or {})
        self.incomplete = incomplete
        self._verdicts = {_key(verdict): verdict for verdict in verdicts}

    def verdict(self, dump):
        """Return the :class:`Verdict` on a dump where it is now, or None."""
        found = self._verdicts.get(_key(dump))
        return found if found and found.tapes == place(dump) else None

    def good(self, dump):
        """Whether *dump* was found good when it was verified last."""
        verdict = self.verdict(dump)
        return bool(verdict and verdict.good)

    def failed(self, dump):
        """Whether *dump* was found not to be good when it was verified last."""
        verdict = self.verdict(dump)
        return bool(verdict and not verdict.good)

    def judge(self, dump, when, reason="", opened=True):
        """Note what the verification of a dump found; it is good if there is no *reason*."""
        self._verdicts[_key(dump)] = Verdict(
            *_key(dump), place(dump), when, not reason, opened, reason
        )

    def hashes(self):
        """Return the known hashes: ``{name: sha256}`` by label and write time."""
        return {
            key: {name: sha256 for name, (_, sha256) in files.items() if sha256}
            for key, files in self.tapes.items()
        }

    def otherwise(self, copy):
        """Return the names in a :class:`amanda_manifest.TapeCopy` that were verified otherwise."""
        known = self.tapes.get(copy.key, {})
        return [
            file.name
            for file in copy.files
            if known.get(file.name, (0, None))[1] not in (None, file.sha256)
        ]

    def prune(self, tapes):
        """Forget what is on no tape of *tapes*, pairs of label and write time."""
        known = set(tapes)
        self.tapes = {key: files for key, files in self.tapes.items() if key in known}
        self._verdicts = {
            key: verdict
            for key, verdict in self._verdicts.items()
            if known.issuperset(verdict.tapes)
        }

    def __bool__(self):
        """Tell whether anything was ever verified."""
        return bool(self._verdicts) or self.incomplete

    def encode(self):
        """Return the record as JSON, bytes."""
        tapes = [
            [label, written, [[name, *file] for name, file in sorted(files.items())]]
            for (label, written), files in sorted(self.tapes.items())
        ]
        dumps = [dataclasses.asdict(verdict) for _, verdict in sorted(self._verdicts.items())]
        data = {"tapes": tapes, "dumps": dumps, "incomplete": self.incomplete}
        return json.dumps(data).encode()


def _decode(text):
    data = json.loads(text)
    tapes = {}
    for label, written, files in data["tapes"]:
        for name, size, sha256 in files:
            if not (sha256 is None or _SHA256.fullmatch(sha256)) or type(size) is not int:
                raise ValueError(f"{name!r} has no size or hash")
        tapes[str(label), str(written)] = {name: (size, sha256) for name, size, sha256 in files}
    verdicts = []
    for entry in data["dumps"]:
        verdict = Verdict(**{**entry, "tapes": tuple(tuple(key) for key in entry["tapes"])})
        if not (isinstance(verdict.good, bool) and isinstance(verdict.opened, bool)):
            raise ValueError(f"what is said of {verdict.timestamp} can't be")
        verdicts.append(verdict)
    incomplete = data.get("incomplete", False)
    if not isinstance(incomplete, bool):
        raise ValueError("whether it is complete can't be told")
    return Record(tapes, verdicts, incomplete)


def path(config):
    """Return where the record of *config* is."""
    return amanda_layout.VERIFIED / f"{config}.json"


def read(config):
    """Return the :class:`Record` of *config*; an empty one if nothing was ever verified.

    Raises :class:`~amanda_errors.AmandaError` if it is damaged.
    """
    try:
        return _decode(path(config).read_bytes())
    except FileNotFoundError:
        return Record()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise AmandaError(
            f"{path(config)}, which says what was verified, is damaged ({error}). The next run "
            "begins it anew, and so does, at once and with all that is on tape, 'salt-call "
            f"amanda.verify config={config}'"
        ) from None


def is_damaged(config):
    """Whether :func:`read` would raise."""
    try:
        read(config)
    except AmandaError:
        return True
    except OSError:  # each step that needs it tells
        return False
    return False


def begin_anew(config):
    """Put an empty record, known to be incomplete, in the place of a damaged one.

    Returns where that is kept: beside it, under a name that says what it is, and when.
    """
    damaged = path(config)
    digits = re.sub("[^0-9]", "", amanda_results.now())[:14]
    kept = damaged.with_name(f"{damaged.name}.damaged-{digits}")
    os.link(damaged, kept)
    try:
        write(config, Record(incomplete=True))
    except BaseException:  # a full disk, say: the next run tries again
        kept.unlink()
        raise
    return kept


def write(config, record):
    """Store the :class:`Record` of *config*, in one piece."""
    amanda_layout.VERIFIED.mkdir(mode=0o700, exist_ok=True)
    amanda_files.write(path(config), record.encode(), mode=0o600)
