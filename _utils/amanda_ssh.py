"""SSH between the server and its clients: the server's key, strangers' keys, who may do what.

A public key from the mine is parsed and serialised anew, so that no text of a stranger's ever
reaches an ``authorized_keys`` or ``known_hosts`` file: sshd(8), AUTHORIZED_KEYS FILE FORMAT and
SSH_KNOWN_HOSTS FILE FORMAT, say what such text could do.
"""

import contextlib
import ipaddress
import json
import os
import re
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

import amanda_files
from amanda_authorized import MARKER
from amanda_command import run
from amanda_dle import shown
from amanda_errors import AmandaError, ParseError
from amanda_pillar import NAME
from amanda_settings import WIDEST_NETWORK
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
)
"""What a public key may be; DSA, certificates and keys held on tokens are refused."""

RSA_BITS = range(2048, 16385)
ADDRESSES_LIMIT = 64
_LONGEST_KEY = 8192


def ensure_key(path, user="root", group="root"):
    """Make an ed25519 key at *path* if there is none; return whether one was made.

    An existing key is never replaced; its directory becomes 0700 and the key 0600. It needs no
    program, so that the server can publish the key before any package is installed.

    user, group
        Who owns the key and its directory.
    """
    path = Path(path)
    amanda_files.apply([amanda_files.Managed(path.parent, user=user, group=group, mode=0o700)])
    made = not path.exists() and _create(path)
    wanted = amanda_files.Managed(path, b"", user, group, 0o600, hidden=True, keep=True)
    amanda_files.apply([wanted])
    read_public(path)
    return made


def _create(path):
    """Write a new private key; return False if another process was faster, whose key stays."""
    text = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        # A link, unlike a rename, fails where a key is.
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
    return True


def read_public(path):
    """Return the public half of the private key at *path*: ``ssh-ed25519 AAAA…``.

    Raises :class:`~amanda_errors.AmandaError` if there is no key, or none that can be read.
    """
    try:
        key = serialization.load_ssh_private_key(Path(path).read_bytes(), password=None)
    except OSError as error:
        raise AmandaError(
            f"can't read the SSH key {path}: {error.strerror}. Apply the state backup on the "
            "server, which makes it"
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AmandaError(
            f"{path} is no SSH private key without a passphrase ({error}): restore it, or move "
            "it away and apply the state backup, first on the server, then on all clients"
        ) from error
    return _serialise(key.public_key())


def _serialise(key):
    return key.public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    ).decode("ascii")


def parse_public_key(text):
    """Return the public key in *text*, from a stranger, serialised anew: ``type base64``.

    text
        One line as in a ``.pub`` file; a comment is dropped, options are refused.

    Raises :class:`~amanda_errors.AmandaError` saying what is wrong with it.
    """
    if not isinstance(text, str) or len(text) > _LONGEST_KEY:
        raise AmandaError("an SSH public key is one line of text: ssh-ed25519 AAAA…")
    words = text.strip(" \t\n").split(" ", 2)
    if len(words) < 2 or words[0] not in KEY_TYPES or not text.strip("\n").isprintable():
        raise AmandaError(
            f"{shown(text)} is no SSH public key of a known type ({', '.join(KEY_TYPES)})"
        )
    try:
        key = serialization.load_ssh_public_key(" ".join(words[:2]).encode("ascii"))
    except (ValueError, TypeError, NotImplementedError, UnsupportedAlgorithm) as error:
        raise AmandaError(f"damaged SSH public key {shown(text)}: {error}") from error
    if isinstance(key, rsa.RSAPublicKey) and key.key_size not in RSA_BITS:
        raise AmandaError(
            f"an RSA key of {key.key_size} bits is refused: make one of {RSA_BITS[0]} or more"
        )
    return _serialise(key)


def read_host_keys(directory=Path("/etc/ssh")):
    """Return the public host keys of this machine's sshd, sorted; see sshd_config(5), HostKey.

    Keys of a type or size that the server would refuse are left out. Raises
    :class:`~amanda_errors.AmandaError` if none is left.
    """
    keys = set()
    for path in sorted(Path(directory).glob("ssh_host_*_key.pub")):
        # A key that sshd offers beside a good one does no harm: the good one is pinned.
        with contextlib.suppress(AmandaError):
            keys.add(parse_public_key(path.read_text(encoding="utf-8", errors="replace")))
    if not keys:
        raise AmandaError(
            f"{directory} holds no SSH host key that can be used: install the SSH server and "
            "run 'ssh-keygen -A'"
        )
    return sorted(keys)


def published_server_key(key, addresses, now):
    """Return what the server publishes to the mine.

    key
        As :func:`read_public` gives it.
    addresses
        Where the server's connections come from.
    now
        The time, ISO 8601.
    """
    return {"version": 1, "time": now, "key": key, "addresses": list(addresses)}


def parse_server_key(published):
    """Return ``{"key": …, "addresses": […]}`` from what the server published, both checked.

    Raises :class:`~amanda_errors.AmandaError`: a client opens its door to nothing dubious.
    """
    if not isinstance(published, Mapping) or published.get("version") != 1:
        raise AmandaError(
            "what the server published (amanda.ssh_public_key) is of no known form: apply the "
            "state backup on the server"
        )
    addresses = published.get("addresses")
    if not isinstance(addresses, list | tuple) or not 0 < len(addresses) <= ADDRESSES_LIMIT:
        raise AmandaError(
            "the server published no list of its addresses: apply the state backup there, or set "
            "the pillar backup:server_addresses"
        )
    return {
        "key": parse_public_key(published.get("key")),
        "addresses": [_network(item) for item in addresses],
    }


def _network(value):
    """Return *value*, an address or network, as ``from=`` in sshd(8) takes it."""
    try:
        # A number would be an address, too; % begins a scope, which sshd does not know.
        if not isinstance(value, str) or "%" in value:
            raise ValueError("no text")
        network = ipaddress.ip_network(value)
        if network.prefixlen < WIDEST_NETWORK[network.version]:
            raise ValueError("too wide")
    except ValueError as error:
        raise AmandaError(
            f"{shown(value)} is no IP address or network that could narrow who may use the "
            "server's key: write it as 192.0.2.7 or 192.0.2.0/24"
        ) from error
    return str(network.network_address if network.num_addresses == 1 else network)


def authorized_key(key, addresses, amandad, server, itself=False):
    """Return the line of ``authorized_keys`` that lets the server run amandad and nothing else.

    key
        The server's public key.
    addresses
        Where the server may come from: IP addresses and networks.
    amandad
        Path of the program.
    server
        The server's minion id.
    itself
        Whether the line is for the server's own ``authorized_keys``: it may reach itself by
        loopback, too.
    """
    addresses = [*addresses, "127.0.0.1", "::1"] if itself else addresses
    if not NAME.fullmatch(server):
        raise AmandaError(f"{server!a} is no minion id")
    if not re.fullmatch(r"/[A-Za-z0-9/._+-]+", str(amandad)):
        raise AmandaError(f"{str(amandad)!a} can't be named in authorized_keys: no plain path")
    if not addresses or len(addresses) > ADDRESSES_LIMIT:
        raise AmandaError(f"1 to {ADDRESSES_LIMIT} addresses of the server are needed")
    sources = ",".join(dict.fromkeys(_network(address) for address in addresses))
    return (
        f'restrict,from="{sources}",command="{amandad} -auth=ssh" '
        f"{parse_public_key(key)} {MARKER}{server}"
    )


def own_addresses():
    """Return this machine's addresses that others can reach, sorted; of a lone one, loopback's.

    Raises :class:`~amanda_errors.ParseError` if ip(8) says what can't be read.
    """
    text = run(["ip", "-json", "address", "show"]).stdout
    found = set()
    try:
        for interface in json.loads(text):
            for entry in interface.get("addr_info", []):
                address = ipaddress.ip_address(entry["local"])
                if entry.get("scope") == "global" and _is_reachable(address):
                    found.add(address)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParseError("what ip(8) says of the addresses", text[:200]) from error
    ordered = sorted(found, key=lambda address: (address.version, address))
    return [str(address) for address in ordered] or ["127.0.0.1", "::1"]


def _is_reachable(address):
    return not (address.is_loopback or address.is_link_local or address.is_multicast)


def address_towards(host, port=4505):
    """Return the address from which this machine reaches *host*, its Salt master for example.

    No packet is sent: connecting a UDP socket only asks the routing table.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise AmandaError(f"can't find the address of {host}: {error}") from error
    problem = None
    for family, kind, protocol, _, target in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(target)
                return str(ipaddress.ip_address(probe.getsockname()[0].split("%")[0]))
        except OSError as error:
            problem = error
    raise AmandaError(
        f"no way to {host}: {problem}. Set the pillar backup:address to this machine's address"
    )
