"""The text of the disklist and of the dump user's SSH files, from the fleet that was collected.

Every value was checked when the fleet was collected or read; what is written here is read back
by Amanda and by OpenSSH as it was meant. See disklist(5), ssh_config(5) and sshd(8).
"""

import hashlib
from pathlib import Path

import amanda_conf
from amanda_command import run
from amanda_dle import amanda_pattern
from amanda_errors import AmandaError, CommandError
from amanda_files import Managed
from amanda_layout import SSH_KEY_INSTALLED
from amanda_pillar import CONFIG_NAME

_HEADER = "# Written anew at each run from what the clients published; changes made here are lost."
# A socket's path has 107 bytes, and ssh appends a dot and 16 characters while it makes one.
_SOCKET_NAME = 32
_CONTROL_BYTES = 107 - 17 - 1 - _SOCKET_NAME


def follows_mounts(dumptype):
    """Tell whether DLEs of *dumptype* can cross into other file systems: GNUTAR never does."""
    return dumptype == amanda_conf.DUMPTYPES["age"]


def disklist(fleet, config, dumptype):
    """Return the disklist(5) of one config.

    fleet
        The :class:`amanda_fleet.Fleet`.
    config
        The config's name.
    dumptype
        The dumptype of its DLEs; those with ``mounts: include`` get ``<dumptype>-mounts``.

    A DLE that was retired, or that another config dumps now, stays with ``ignore yes``: Amanda
    keeps knowing the dumps it made of it and makes no more.
    """
    if not CONFIG_NAME.fullmatch(dumptype):
        raise AmandaError(f"{dumptype!r} is no dumptype")
    lines = [_HEADER]
    for client in fleet.clients:
        for directory in client.directories:
            if directory.config == config:
                ignored = directory.retired is not None
            elif config in directory.former:
                ignored = True
            else:
                continue
            lines.append(entry(client.id, directory, dumptype, ignored))
    return "\n".join([*lines, ""])


def files(fleet, places, dumptype, platform):
    """Return the files that lead Amanda to the clients; the last one is the disklist.

    fleet, dumptype
        As for :func:`disklist`.
    places
        The config's :class:`amanda_layout.ConfigPlaces`.
    platform
        The :class:`amanda_platform.Platform`: whose files they are.
    """
    home, key = platform.home / ".ssh", platform.home / SSH_KEY_INSTALLED
    control, known = home / "control", home / "known_hosts"
    texts = {
        home / "config": ssh_config(fleet, key, known, control),
        known: known_hosts(fleet),
        places.conf / "disklist": disklist(fleet, places.name, dumptype),
    }
    group = platform.group
    return [
        Managed(control, user=platform.user, group=group, mode=0o700),
        *(Managed(path, text.encode(), group=group, mode=0o640) for path, text in texts.items()),
    ]


def check(content, places, user):
    """Have Amanda read a disklist, as the dump user, beside the amanda.conf that is in use.

    Raises :class:`~amanda_errors.AmandaError` quoting Amanda's complaint.
    """
    conf = (places.conf / "amanda.conf").read_bytes()
    with amanda_conf.temporary(conf, content) as directory:
        try:
            run(["amadmin", ".", "hosts"], user=user, cwd=directory)
        except CommandError as error:
            complaint = error.stderr.replace(f"{directory}/", "")
            raise AmandaError(
                f"Amanda can't read the new disklist, the old one stays: {complaint}"
            ) from error


def entry(minion_id, directory, dumptype, ignored=False):
    """Return the lines of one :class:`amanda_fleet.Directory` in the disklist, as a text."""
    if directory.mounts and follows_mounts(dumptype):
        dumptype = f"{dumptype}-mounts"
    options = [f"exclude file append {_quoted(amanda_pattern(x))}" for x in directory.exclude]
    options += ["ignore yes"] if ignored else []
    start = f"{minion_id} {_quoted(directory.path)}"
    if not options:
        return f"{start} {dumptype}"
    return "\n".join([f"{start} {{", *(f"    {option}" for option in [dumptype, *options]), "}"])


def _quoted(text):
    """Return *text* as a string of Amanda's configuration files."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def ssh_config(fleet, identity, known_hosts, control):
    """Return the ssh_config(5) of the dump user, by which Amanda finds each client by its id.

    fleet
        The :class:`amanda_fleet.Fleet`.
    identity
        Path of the server's private key.
    known_hosts
        Path of the file that holds :func:`known_hosts`.
    control
        A directory of the dump user's alone (0700), for the sockets of shared connections.

    Raises :class:`~amanda_errors.AmandaError` if *control* is too long for a socket's path.
    """
    control = _plain(control)
    if len(control.encode()) > _CONTROL_BYTES:
        raise AmandaError(
            f"{control} is too long for SSH's sockets: use a directory of at most "
            f"{_CONTROL_BYTES} bytes"
        )
    lines = [_HEADER]
    for client in fleet.clients:
        if client.retired is None:
            lines += [
                f"Host {client.id}",
                f"    HostName {client.address}",
                f"    Port {client.port}",
                f"    HostKeyAlias {client.id}",
                f"    ControlPath {control}/{_socket(client)}",
            ]
    options = "\n".join(
        (
            f"IdentityFile {_plain(identity)}",
            f"UserKnownHostsFile {_plain(known_hosts)}",
            *_OPTIONS,
        )
    )
    lines += ["Host *", *(f"    {line}" for line in options.split("\n"))]
    return "\n".join([*lines, ""])


_OPTIONS = (
    # Only the keys that were collected count, and only our own key is offered.
    "GlobalKnownHostsFile /dev/null",
    "StrictHostKeyChecking yes",
    "UpdateHostKeys no",
    "CheckHostIP no",
    "VerifyHostKeyDNS no",
    "IdentitiesOnly yes",
    "IdentityAgent none",
    "PreferredAuthentications publickey",
    "BatchMode yes",
    # A client that hangs must not hold up the run.
    "ConnectTimeout 10",
    "ServerAliveInterval 15",
    "ServerAliveCountMax 4",
    # Many DLEs of one client share a connection, which outlasts the gaps between them.
    "ControlMaster auto",
    "ControlPersist 60",
    "ControlPath none",
    # Clients are no one's way into the server.
    "ForwardAgent no",
    "ForwardX11 no",
    "ClearAllForwardings yes",
    "PermitLocalCommand no",
    "CanonicalizeHostname no",
    # The fastest first; the others stay for clients that lack it.
    "Ciphers ^aes128-gcm@openssh.com",
    "Compression no",
)


def _socket(client):
    """Return the name of the socket by which connections to *client* are shared.

    It changes with address and keys, so that a new pin is never met by an old connection.
    """
    pin = "\n".join((client.id, client.address, str(client.port), *client.keys))
    return hashlib.sha256(pin.encode()).hexdigest()[:_SOCKET_NAME]


def _plain(path):
    """Return *path* as text if ssh_config(5) takes it as it is: no blank, no token, no quote."""
    text = str(Path(path))
    if not text.startswith("/") or not text.isprintable() or set(text) & set(" \"'\\%$#~"):
        raise AmandaError(f"{text!r} can't be named in ssh_config: use a plain absolute path")
    return text


def known_hosts(fleet):
    """Return the known_hosts file, by minion id: the keys that each client may show."""
    lines = [_HEADER]
    for client in fleet.clients:
        lines += [f"{client.id} {key}" for key in client.keys]
    return "\n".join([*lines, ""])
