"""What the pillar ``backup`` may say, and what it means: one table, one parser.

An unknown or malformed key is a :class:`~amanda_errors.PillarError` that names the key and the
remedy. It is raised before anything is changed, by the first state of the SLS and by every
function.
"""

import dataclasses
import ipaddress
import re
from collections.abc import Mapping

import amanda_directories
import amanda_options
import amanda_paths
from amanda_age import check_recipient
from amanda_errors import ArgumentError, PillarError
from amanda_pillar import CONFIG_NAME, REQUIRED, Reader, find_secret, quoted

DEFAULT_DIRECTORIES = ("/etc", "/home")
_RESERVED_CONFIGS = (*amanda_paths.RESERVED, "vtapes", "holding")
WIDEST_NETWORK = {4: 8, 6: 16}
"""The shortest prefix of a network from which the server's key may be used, by IP version."""

_MOST_TAPES = 100000
_VERIFY_SECONDS = 3600  # after an upgrade all that is on tape may wait for it, and so does a mirror
_COMPRESS = {"age": "zstd", "amcrypt": "gzip"}


@dataclasses.dataclass(frozen=True)
class Promise:
    """What an audit holds a config to; days.

    backup, mirror
        How old the last good dump of a directory, and the mirror, may be; None: twice the time
        between two runs.
    drill
        How long ago the last drill that passed may be.
    space
        For how long the disks must have room at least.
    """

    backup: int | None = None
    mirror: int | None = None
    drill: int = 35
    space: int = 14


@dataclasses.dataclass(frozen=True)
class Config:
    """One Amanda config: a cycle of dumps on its own set of tapes.

    dumpcycle
        Days within which every DLE gets a full dump.
    runspercycle, tapecycle, runtapes
        As in amanda.conf(5).
    slots
        How many virtual tapes there are; never fewer than tapecycle.
    tapetype, options
        Amanda's options, as the pillar spells them.
    cron
        When it runs, in the server's local time; None: by hand only.
    splay
        Seconds over which servers with the same ``cron`` spread.
    verify
        Seconds that a run may verify older dumps for; None: it verifies nothing.
    promise
        The :class:`Promise`.
    """

    name: str
    dumpcycle: int
    runspercycle: int
    tapecycle: int
    runtapes: int
    slots: int
    tapetype: Mapping
    options: Mapping
    cron: str
    splay: int
    verify: int
    promise: Promise


@dataclasses.dataclass(frozen=True)
class Paths:
    """Where tapes, holding disk and Amanda's state live on the server."""

    tapes: str
    holding: str
    state: str


@dataclasses.dataclass(frozen=True)
class Encryption:
    """How dumps are sealed.

    method
        ``age`` or ``amcrypt``.
    recipients
        Offsite age keys.
    server_identity
        False: the server has no key that opens what it seals.
    """

    method: str
    recipients: tuple
    server_identity: bool = True


@dataclasses.dataclass(frozen=True)
class Mirror:
    """Where tapes are copied to, by whom, and for how many days a generation is kept."""

    user: str
    directory: str
    keep_days: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """The pillar ``backup`` of one minion, checked, defaults filled in.

    keep_retired
        For how many days the last backups of what was retired are kept.
    """

    minion_id: str
    server: str
    directories: Mapping
    address: str
    port: int
    server_addresses: tuple
    configs: Mapping
    paths: Paths
    encryption: Encryption
    compress: str
    mirror: Mirror
    keep_retired: int
    mailto: str
    pillar: Mapping

    @property
    def is_server(self):
        """Whether this minion is the Amanda server."""
        return self.minion_id == self.server

    @property
    def is_client(self):
        """Whether this minion is backed up: ``directories: {}`` takes it out."""
        return bool(self.directories)

    def to_dict(self):
        """Return what :func:`from_dict` reads: the run's specification carries it."""
        return {"minion_id": self.minion_id, "pillar": self.pillar}

    def config(self, name=None):
        """Return the :class:`Config` *name*; without a name, the only one there is."""
        if name is None and len(self.configs) == 1:
            return next(iter(self.configs.values()))
        if isinstance(name, str) and name in self.configs:
            return self.configs[name]
        known = ", ".join(self.configs)
        problem = "several configs exist" if name is None else f"there is no config {name!r}"
        raise ArgumentError(f"{problem} in pillar backup:configs: name one of {known}")


def from_dict(data):
    """Return the :class:`Settings` that ``to_dict`` put into *data*."""
    return parse(data["pillar"], data["minion_id"])


def of_minion(pillar, minion_id):
    """Return the :class:`Settings` in the whole *pillar* of the minion *minion_id*.

    Raises :class:`~amanda_errors.PillarError` as :func:`parse` does, and if the master could not
    render all of it: Salt leaves out the SLS that failed, so the rest may well look complete.
    """
    if pillar.get("_errors"):
        # What they say is not repeated: it may quote a line of the pillar.
        raise PillarError(
            "backup",
            "the master could not render all of this minion's pillar, so part of it may be lacking",
            f"See '_errors' in 'salt {minion_id} pillar.items' and the log of salt-master, repair "
            "the pillar's SLS, and apply the state backup",
        )
    return parse(pillar.get("backup"), minion_id)


def parse(pillar, minion_id):
    """Return the :class:`Settings` that the pillar's ``backup`` mapping means for *minion_id*.

    Raises :class:`~amanda_errors.PillarError` at the first key that is unknown or malformed.
    """
    secret = find_secret("backup", pillar)
    if secret:
        raise PillarError(
            secret,
            "a secret key (an identity) stands there; it is not shown here",
            "Recipients are public: write what stands after 'public key:', age1…, in its place. "
            "Who may read the pillar has seen the secret, so make another with 'age-keygen'.",
        )
    reader = Reader("backup", pillar)
    encryption = _encryption(reader)
    settings = Settings(
        minion_id=minion_id,
        server=reader.name("server", REQUIRED, "Give the Amanda server's minion id."),
        directories=_directories(reader),
        address=_address(reader),
        port=reader.integer("port", 22, 1, 65535),
        server_addresses=_networks(reader),
        configs=_configs(reader),
        paths=_paths(reader),
        encryption=encryption,
        compress=reader.choice("compress", _COMPRESS[encryption.method], ("zstd", "gzip")),
        mirror=_mirror(reader),
        keep_retired=reader.days("keep_retired", 365),
        mailto=amanda_options.address(reader, "mailto", "root"),
        pillar=pillar,
    )
    reader.finish()
    amanda_paths.check(settings)
    for path in settings.directories:
        amanda_directories.check_length(minion_id, path)
    if (settings.encryption.method, settings.compress) == ("amcrypt", "zstd"):
        raise PillarError(
            "backup:compress",
            "amcrypt pads what it seals, and zstd can't expand that again",
            "Write gzip, or leave it out; or choose encryption method age.",
        )
    if settings.mirror and encryption.method == "age" and not encryption.recipients:
        raise PillarError(
            "backup:encryption:recipients",
            "a mirror without offsite recipients could not be opened once the server is lost",
            "Run 'age-keygen -o offsite.key' on a machine kept elsewhere, keep that file there, "
            "and list its public key (age1…) here; or remove backup:mirror.",
        )
    return settings


def _directories(reader):
    directories = {}
    inner = reader.mapping_at("directories", dict.fromkeys(DEFAULT_DIRECTORIES))
    for path in inner.mapping:
        inner.known.add(path)
        directories[path] = amanda_directories.directory(path, inner.mapping[path], inner.key)
    return directories


def _address(reader):
    value = reader.text("address", None)
    if value is not None:
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            reader.fail("address", f"{quoted(value)} is no IP address", "Write it as 192.0.2.7.")
    return None


def _networks(reader):
    networks = []
    values = reader.get("server_addresses", [])
    if not isinstance(values, list):
        reader.fail("server_addresses", "a list is needed", "Write ['192.0.2.7'].")
    for value in values:
        try:
            if not isinstance(value, str):  # a number would count as an address, too
                raise ValueError
            network = ipaddress.ip_network(value)
        except ValueError:
            problem = f"{quoted(value)} is no address or network"
            reader.fail("server_addresses", problem, "Write 192.0.2.7 or 192.0.2.0/24.")
        if network.prefixlen < WIDEST_NETWORK[network.version]:
            reader.fail("server_addresses", f"{value} narrows nothing", "Write a smaller network.")
        networks.append(str(network))
    return tuple(networks)


def _configs(reader):
    configs = {}
    inner = reader.mapping_at("configs", {"daily": {}})
    for name in inner.mapping:
        inner.known.add(name)
        if (
            not isinstance(name, str)
            or not CONFIG_NAME.fullmatch(name)
            or name in _RESERVED_CONFIGS
        ):
            inner.fail(name, f"{quoted(name)} can't be the name of a config", "Try: daily.")
        if any(name.lower() == other.lower() for other in configs):
            inner.fail(name, "another config has the same name but for case", "Rename one.")
        configs[name] = _config(name, Reader(f"{inner.key}:{name}", inner.mapping[name] or {}))
    if not configs:
        inner.fail("daily", "no config at all", "Give one, or leave out backup:configs.")
    return configs


def _config(name, reader):
    config = Config(
        name=name,
        **_cycle(reader),
        tapetype=amanda_options.read(reader.mapping_at("tapetype", {}), amanda_options.TAPETYPE),
        options={},
        cron=amanda_options.cron(reader, "cron", "0 1 * * *"),
        splay=reader.integer("splay", 0, 0, 86400),
        verify=_verify(reader),
        promise=_promise(reader.mapping_at("promise", {})),
    )
    options = amanda_options.read(reader, amanda_options.CONFIG)
    return dataclasses.replace(config, options=options)


def _cycle(reader):
    """Return how often a config dumps and on how many tapes, as :class:`Config` names it."""
    dumpcycle = reader.days("dumpcycle", 7)
    runspercycle = reader.integer("runspercycle", dumpcycle, 1, 10000)
    runtapes = reader.integer("runtapes", 1, 1, 1000)
    # One tape more with a single run a cycle: Amanda wants retention-tapes above runtapes.
    needed = max(runspercycle * runtapes, runtapes + 1) + 1
    if needed + 2 > _MOST_TAPES:
        reader.fail(
            "runtapes",
            f"{runspercycle} runs × {runtapes} tapes are more than {_MOST_TAPES} tapes a cycle",
            "Give less, or shorten dumpcycle.",
        )
    tapecycle = reader.integer("tapecycle", runspercycle * runtapes + 3, 1, _MOST_TAPES)
    if tapecycle < needed:
        reader.fail(
            "tapecycle",
            f"{tapecycle} tapes are too few: a cycle writes {runspercycle} runs × {runtapes} "
            "tapes, and the next full must not overwrite the last",
            f"Give at least {needed}, or shorten dumpcycle.",
        )
    # The last fulls of what fails, or was retired, are held back: as many as a cycle has tapes.
    slots = reader.integer("slots", tapecycle + runspercycle * runtapes, 1, _MOST_TAPES)
    if slots > _MOST_TAPES:
        reader.fail(
            "tapecycle",
            f"{tapecycle} tapes, and by default as many slots more as a cycle has tapes, are more "
            f"than {_MOST_TAPES}",
            "Give less, or give slots.",
        )
    if slots < tapecycle:
        reader.fail(
            "slots", f"{slots} slots can't hold {tapecycle} tapes", f"Give {tapecycle} or more."
        )
    return {
        "dumpcycle": dumpcycle,
        "runspercycle": runspercycle,
        "tapecycle": tapecycle,
        "runtapes": runtapes,
        "slots": slots,
    }


def _verify(reader):
    """Return the seconds that a run may verify older dumps for, None for ``false``."""
    if reader.get("verify", True) is True:
        return _VERIFY_SECONDS
    return None if reader.get("verify", True) is False else reader.integer("verify", 0, 0, 86400)


def _promise(reader):
    given = {
        field.name: reader.days(field.name, field.default)
        for field in dataclasses.fields(Promise)
        if reader.get(field.name, None) is not None
    }
    reader.finish()
    return Promise(**given)


def _paths(reader):
    inner = reader.mapping_at("paths", {})
    paths = Paths(
        tapes=inner.directory("tapes", "/var/lib/amanda/vtapes"),
        holding=inner.directory("holding", "/var/lib/amanda/holding"),
        state=inner.directory("state", "/var/lib/amanda"),
    )
    inner.finish()
    return paths


def _encryption(reader):
    inner = reader.mapping_at("encryption", {})
    method = inner.choice("method", "age", ("age", "amcrypt"))
    recipients = inner.get("recipients", [])
    server_identity = inner.get("server_identity", True)
    inner.finish()
    if not isinstance(recipients, list):
        inner.fail("recipients", "a list is needed", "Write one age1… key a line.")
    for number, recipient in enumerate(recipients, 1):
        try:
            check_recipient(recipient)
        except ValueError as error:
            # What isn't surely public is not shown.
            public = isinstance(recipient, str) and re.fullmatch("age1[0-9a-z]{1,99}", recipient)
            shown = repr(recipient) if public else f"entry {number}"
            inner.fail(
                "recipients",
                f"{shown} is no age public key: {error}",
                "Copy the line 'public key: age1…' that age-keygen printed.",
            )
    if not isinstance(server_identity, bool):
        problem = f"{quoted(server_identity)} is neither true nor false"
        inner.fail(
            "server_identity", problem, "Write false if offsite keys alone shall open dumps."
        )
    if not server_identity and (method != "age" or not recipients):
        inner.fail(
            "server_identity",
            "without a key of its own a server can seal dumps only with age, to offsite recipients",
            "Choose method age and list at least one recipient; or leave server_identity out.",
        )
    return Encryption(method, tuple(recipients), server_identity)


def _mirror(reader):
    if reader.get("mirror", None) is None:
        return None
    inner = reader.mapping_at("mirror", None)
    mirror = Mirror(
        user=inner.name("user", REQUIRED, "Name the user who owns the mirror's directory."),
        directory=inner.directory("directory", REQUIRED),
        keep_days=inner.days("keep", 30),
    )
    inner.finish()
    if mirror.user == "root":
        inner.fail(
            "user",
            "root could write anything anywhere, and the mirror is written with its user's rights",
            "Name a user that has nothing but the mirror's directory.",
        )
    return mirror
