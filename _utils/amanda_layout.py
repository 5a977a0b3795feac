"""Where everything lives: one table of paths for states, engine and tests.

What is ours stands apart from what is Amanda's, since Debian gives ``/etc/amanda`` and
``/var/lib/amanda`` to the dump user, who must not be able to change what root runs.
"""

import dataclasses
from pathlib import Path

PROGRAMS = Path("/usr/local/lib/salt-amanda")
"""The installed engine, the filters and Amanda's tar: root's.

Amanda writes the filter's path into each dump's header, so it never changes.
"""

SETTINGS = Path("/etc/salt-amanda")
"""Keys (each readable by whom it serves alone) and the client's own list of directories."""

STATE = Path("/var/lib/salt-amanda")
"""What runs leave behind: last collection, due times, results. Root's alone (0700)."""

AMANDA_CONFIGS = Path("/etc/amanda")
LOGS = Path("/var/log/amanda")

# SETTINGS
SSH_KEY = SETTINGS / "ssh" / "id_ed25519"  # root 0600: installed for the dump user from here
SSH_KEY_INSTALLED = Path(".ssh") / "id_ed25519"  # below the dump user's home
AGE_IDENTITY = SETTINGS / "age" / "identity"  # dump user 0400
NEW_KEY = SETTINGS / "new-key"  # made by the administrator: a new key instead of a lost one
AGE_RECIPIENTS = SETTINGS / "age" / "recipients"  # root 0644: the server's own first, then offsite
OWN_DIRECTORIES = SETTINGS / "directories.json"  # written by the state amanda.directory

# PROGRAMS
CRYPT = {  # server_custom_encrypt: stdin to stdout, -d decrypts; by encryption method
    "age": PROGRAMS / "crypt-age",
    "amcrypt": PROGRAMS / "crypt-amcrypt",
}
COMPRESS = PROGRAMS / "compress-zstd"  # client_custom_compress: stdin to stdout, -d expands
INCREMENTAL_TAR = PROGRAMS / "incremental-tar"  # what Amanda runs: TAR, its snapshot cleansed
TAR = PROGRAMS / "amanda-tar"  # a copy of tar that reads every file for the dump user's group
ENGINE = PROGRAMS / "amanda_program.py"  # what the transient unit runs
DELIVER = PROGRAMS / "deliver"  # what the key of one delivery may run: standard input to the door
RECEIVE = PROGRAMS / "receive"  # what stands behind the door

# STATE
FLEET = STATE / "fleet.json"  # what amanda.collect last saw
SPECIFICATION = STATE / "specification.json"  # what the run in progress was asked
APPLIED = STATE / "settings.json"  # the settings of the last good apply
KEYS = STATE / "keys"  # which secret keys this server has, or had: a path a line
DUE = STATE / "due.json"  # when each config last ran
RETENTION = STATE / "retention"  # which tapes we hold back, <config>.json
TERMS = STATE / "terms"  # of each DLE's last full dump, <config>.json
DRILLS = STATE / "drills"  # what was tried to restore, and when, <config>.json
VERIFIED = STATE / "verified"  # hashes of what is on tape, and which dumps are good, <config>.json
MIRRORED = STATE / "mirrored"  # which generations we made on the mirror, <config>.json
RECOVERED = STATE / "recovered"  # where restored trees go unless something else is asked
DELIVERIES = STATE / "deliveries"  # trees on their way to other minions, <id>.json
DOOR = STATE / "door.json"  # on the receiving minion: what is expected
RECEIVED = STATE / "received.json"  # and what came of the last one
RUNS = STATE / "runs"  # one result file per run, <config>-<run>.json

RUNTIME = Path("/run/salt-amanda")
"""What doesn't outlive a boot: the keys and sockets of deliveries."""

DOOR_DATA = RUNTIME / "door"  # a socket, for the dump user: takes the tree
DOOR_VERDICT = RUNTIME / "verdict"  # a socket, for root alone: is told whether it is the right one

RUN_UNIT = "amanda-run.service"
"""The transient unit of the one run per server; its name is the lock."""

DOOR_UNIT = "amanda-door.service"
"""The transient unit of the one delivery that a minion may be receiving."""


@dataclasses.dataclass(frozen=True)
class ConfigPlaces:
    """The paths of one Amanda config; of a copy elsewhere, when read from a mirror.

    conf
        The directory of ``amanda.conf`` and ``disklist``.
    state
        The directory of ``tapelist``, ``curinfo``, ``index`` and ``log``.
    tapes
        The directory of ``slot1`` … ``slotN``.
    holding
        This config's part of the holding disk.
    """

    name: str
    conf: Path
    state: Path
    tapes: Path
    holding: Path

    @property
    def tapelist(self):
        """Label, write time and pin of each tape; see tapelist(5)."""
        return self.state / "tapelist"

    @property
    def logs(self):
        """``log.<timestamp>.<n>``, a line per event of each run."""
        return self.state / "log"

    @property
    def index(self):
        """Names in each dump, ``<host>/<disk>/<timestamp>_<level>.gz``."""
        return self.state / "index"

    @property
    def info(self):
        """The planner's history of each DLE."""
        return self.state / "curinfo"


def places(config, paths):
    """Return the :class:`ConfigPlaces` of *config* on this server.

    paths
        The :class:`amanda_settings.Paths` of the pillar.
    """
    return ConfigPlaces(
        name=config,
        conf=AMANDA_CONFIGS / config,
        state=Path(paths.state) / config,
        tapes=Path(paths.tapes) / config,
        holding=Path(paths.holding) / config,
    )
