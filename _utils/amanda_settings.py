"""What the pillar ``backup`` may say, and what it means: one table, one parser.

An unknown or malformed key is a :class:`~amanda_errors.PillarError` that names the key and the
remedy. It is raised before anything is changed, by the first state of the SLS and by every
function.
"""

import dataclasses
import ipaddress
import pwd
import re
from collections.abc import Mapping
from pathlib import Path

import croniter
from amanda_encryption import check_recipient
from amanda_errors import ArgumentError, PillarError
from amanda_pillar import REQUIRED, Reader

CONFIG_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
"""What the name of a config may look like; Amanda takes it as an identifier, too."""

DEFAULT_DIRECTORIES = ("/etc", "/home")
_RESERVED_CONFIGS = ("gnutar-lists", "vtapes", "holding", "template.d", "example")
WIDEST_NETWORK = {4: 8, 6: 16}
"""The shortest prefix of a network from which the server's key may be used, by IP version."""

_COMPRESS = {"age": "zstd", "amcrypt": "gzip"}

# Amanda's own options that a config may set, beside those we treat ourselves: amanda.conf(5).
AMANDA_OPTIONS = {
    "bumpdays": int,
    "bumpmult": (int, float),
    "bumppercent": int,
    "bumpsize": str,
    "ctimeout": int,
    "dtimeout": int,
    "dumporder": str,
    "estimate": str,
    "etimeout": int,
    "holding-use": str,
    "inparallel": int,
    "mailto": str,
    "maxdumps": int,
    "netusage": str,
    "org": str,
}
TAPETYPE_OPTIONS = {"comment": str, "length": str, "part-size": str}


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


@dataclasses.dataclass(frozen=True)
class Paths:
    """Where tapes, holding disk and Amanda's state live on the server."""

    tapes: str
    holding: str
    state: str


@dataclasses.dataclass(frozen=True)
class Encryption:
    """How dumps are sealed: ``method`` is age or amcrypt, ``recipients`` are offsite age keys."""

    method: str
    recipients: tuple


@dataclasses.dataclass(frozen=True)
class Mirror:
    """Where tapes are copied to, by whom, and for how many days a generation is kept."""

    user: str
    directory: str
    keep_days: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """The pillar ``backup`` of one minion, checked, defaults filled in."""

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


def parse(pillar, minion_id):
    """Return the :class:`Settings` that the pillar's ``backup`` mapping means for *minion_id*.

    Raises :class:`~amanda_errors.PillarError` at the first key that is unknown or malformed.
    """
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
        mailto=reader.text("mailto", "root"),
        pillar=pillar,
    )
    reader.finish()
    if (settings.encryption.method, settings.compress) == ("amcrypt", "zstd"):
        raise PillarError(
            "backup:compress",
            "amcrypt pads what it seals, and zstd can't expand that again",
            "Write gzip, or leave it out; or choose encryption method age.",
        )
    if settings.mirror and not settings.encryption.recipients:
        raise PillarError(
            "backup:encryption:recipients",
            "a mirror without offsite recipients could not be opened once the server is lost",
            "Run 'age-keygen -o offsite.key' on a machine kept elsewhere, keep that file there, "
            "and list its public key (age1…) here; or remove backup:mirror.",
        )
    return settings


def check_host(settings):
    """Raise :class:`PillarError` if this server's disks and users aren't as *settings* need.

    Only looks; nothing is made. A missing tape root is no error: a state makes it.
    """
    check_paths(settings)
    if settings.mirror:
        try:
            pwd.getpwnam(settings.mirror.user)
        except KeyError:
            raise PillarError(
                "backup:mirror:user",
                f"this server knows no user {settings.mirror.user!r}",
                "Create it first, or name the user who owns the mirror's directory.",
            ) from None


def check_paths(settings):
    """Raise :class:`PillarError` if something else is where a directory of *settings* belongs."""
    for key in ("tapes", "holding", "state"):
        path = Path(getattr(settings.paths, key))
        # The parent too: a file in its place would fail half way through the states.
        for place in (path, *path.parents):
            if place.exists() and not place.is_dir():
                raise PillarError(
                    f"backup:paths:{key}",
                    f"{place} is not a directory",
                    "Move it away or name another directory.",
                )


def _directories(reader):
    directories = {}
    inner = reader.mapping_at("directories", dict.fromkeys(DEFAULT_DIRECTORIES))
    for path in inner.mapping:
        inner.known.add(path)
        directories[path] = directory(path, inner.mapping[path], inner.key)
    return directories


def directory(path, options, key="backup:directories"):
    """Return the checked :class:`Directory`; the state ``amanda.directory`` calls this too.

    What Amanda can write into its disklist and logs is checked by the server, which reports it.
    """
    remedy = "Write an absolute path without '.', '..' or a slash at its end."
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise PillarError(f"{key}:{path}", f"{path!r} is no absolute path", remedy)
    if path != "/" and any(part in ("", ".", "..") for part in path[1:].split("/")):
        raise PillarError(f"{key}:{path}", "the path is not in its plain form", remedy)
    reader = Reader(f"{key}:{path}", {} if options is None else options)
    checked = {}
    exclude = reader.get("exclude", None)
    if exclude is not None:
        if not isinstance(exclude, list) or not all(isinstance(item, str) for item in exclude):
            reader.fail("exclude", "a list of patterns is needed", "Write ['./tmp', '*.o'].")
        checked["exclude"] = list(exclude)
    if reader.choice("mounts", None, ("include",)):
        checked["mounts"] = "include"
    config = reader.get("config", None)
    if config is not None:
        checked["config"] = reader.name("config", None, "Name one of the server's configs.")
    reader.finish()
    return Directory(path, checked)


def _address(reader):
    value = reader.text("address", None)
    if value is not None:
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            reader.fail("address", f"{value!r} is no IP address", "Write it as 192.0.2.7.")
    return None


def _networks(reader):
    networks = []
    values = reader.get("server_addresses", [])
    if not isinstance(values, list):
        reader.fail("server_addresses", "a list is needed", "Write ['192.0.2.7'].")
    for value in values:
        try:
            network = ipaddress.ip_network(value)
        except ValueError as error:
            reader.fail("server_addresses", str(error), "Write addresses or networks.")
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
            inner.fail(name, f"{name!r} can't be the name of a config", "Try: daily.")
        if any(name.lower() == other.lower() for other in configs):
            inner.fail(name, "another config has the same name but for case", "Rename one.")
        configs[name] = _config(name, Reader(f"{inner.key}:{name}", inner.mapping[name] or {}))
    if not configs:
        inner.fail("daily", "no config at all", "Give one, or leave out backup:configs.")
    return configs


def _config(name, reader):
    dumpcycle = reader.days("dumpcycle", 7)
    runspercycle = reader.integer("runspercycle", dumpcycle, 1, 10000)
    runtapes = reader.integer("runtapes", 1, 1, 1000)
    needed = runspercycle * runtapes + 1
    tapecycle = reader.integer("tapecycle", needed + 2, 1, 100000)
    if tapecycle < needed:
        reader.fail(
            "tapecycle",
            f"{tapecycle} tapes are too few: a cycle writes {runspercycle} runs × {runtapes} "
            "tapes, and the next full must not overwrite the last",
            f"Give at least {needed}, or shorten dumpcycle.",
        )
    # The last fulls of what fails, or was retired, are held back: as many as a cycle has tapes.
    slots = reader.integer("slots", tapecycle + runspercycle * runtapes, 1, 100000)
    if slots < tapecycle:
        reader.fail(
            "slots", f"{slots} slots can't hold {tapecycle} tapes", f"Give {tapecycle} or more."
        )
    config = Config(
        name=name,
        dumpcycle=dumpcycle,
        runspercycle=runspercycle,
        tapecycle=tapecycle,
        runtapes=runtapes,
        slots=slots,
        tapetype=_options(reader.mapping_at("tapetype", {}), TAPETYPE_OPTIONS),
        options={},
        cron=_cron(reader),
        splay=reader.integer("splay", 0, 0, 86400),
    )
    options = _options(reader, AMANDA_OPTIONS)
    return dataclasses.replace(config, options=options)


def _options(reader, table):
    """Return Amanda's options that *table* knows, by type; underscores count as dashes."""
    options = {}
    for key, value in reader.mapping.items():
        option = str(key).replace("_", "-")
        if option not in table or key in reader.known:
            continue
        reader.known.add(key)
        if table[option] is str:
            value = reader.text(key, None)
        elif isinstance(value, bool) or not isinstance(value, table[option]):
            reader.fail(key, f"{value!r} is no number", "See amanda.conf(5).")
        options[option] = value
    reader.known.update(table)
    reader.finish()
    return options


def _cron(reader):
    value = reader.get("cron", "0 1 * * *")
    if value is False:
        return None
    if not isinstance(value, str) or not croniter.croniter.is_valid(value):
        reader.fail("cron", f"{value!r} is no cron time", "Write '0 1 * * *', or false for none.")
    return value


def _paths(reader):
    inner = reader.mapping_at("paths", {})
    paths = Paths(
        tapes=inner.directory("tapes", "/var/lib/amanda/vtapes"),
        holding=inner.directory("holding", "/var/lib/amanda/holding"),
        state=inner.directory("state", "/var/lib/amanda"),
    )
    inner.finish()
    if len({paths.tapes, paths.holding, paths.state}) < 3:
        raise PillarError(inner.key, "two of the paths are the same", "Give each its own.")
    return paths


def _encryption(reader):
    inner = reader.mapping_at("encryption", {})
    method = inner.choice("method", "age", ("age", "amcrypt"))
    recipients = inner.get("recipients", [])
    inner.finish()
    if not isinstance(recipients, list):
        inner.fail("recipients", "a list is needed", "Write one age1… key a line.")
    for recipient in recipients:
        try:
            check_recipient(str(recipient))
        except ValueError as error:
            # A secret key put there by mistake must not be shown.
            shown = repr(recipient) if str(recipient).startswith("age1") else "one of them"
            inner.fail(
                "recipients",
                f"{shown} is no age public key: {error}",
                "Copy the line 'public key: age1…' that age-keygen printed.",
            )
    return Encryption(method, tuple(recipients))


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
    return mirror
