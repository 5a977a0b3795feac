"""Keys, and who may use them: what strangers send is parsed or refused, never copied."""

import base64
import getpass
import grp
import os
import random
import stat
import subprocess

import amanda_authorized
import amanda_ssh
import pytest
from amanda_errors import AmandaError
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

USER = getpass.getuser()
GROUP = grp.getgrgid(os.getegid()).gr_name
AMANDAD = "/usr/lib/amanda/amandad"


def public(key):
    return amanda_ssh._serialise(key.public_key())


@pytest.fixture(scope="module")
def keys():
    return {
        "ed25519": public(ed25519.Ed25519PrivateKey.generate()),
        "ecdsa": public(ec.generate_private_key(ec.SECP384R1())),
        "rsa": public(rsa.generate_private_key(65537, 2048)),
    }


def make(path):
    return amanda_ssh.ensure_key(path, USER, GROUP)


def test_the_key_that_is_made_is_one_that_ssh_keygen_reads(tmp_path):
    path = tmp_path / "ssh" / "id"
    assert make(path)
    said = subprocess.run(
        ["ssh-keygen", "-y", "-P", "", "-f", path], capture_output=True, text=True
    )
    assert said.stdout.split()[:2] == amanda_ssh.read_public(path).split()


def test_the_key_and_its_directory_are_readable_by_their_owner_alone(tmp_path):
    path = tmp_path / "ssh" / "id"
    make(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    path.parent.chmod(0o755)
    assert not make(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_an_existing_key_is_never_replaced_not_even_a_damaged_one(tmp_path):
    path = tmp_path / "id"
    path.write_text("damaged")
    with pytest.raises(AmandaError, match="restore it, or move it away"):
        make(path)
    assert path.read_text() == "damaged"


def test_of_two_processes_that_make_the_key_one_wins_and_nothing_is_left_behind(tmp_path):
    path = tmp_path / "id"
    assert amanda_ssh._create(path)
    first = path.read_bytes()
    assert not amanda_ssh._create(path)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_key_is_an_error_that_names_the_remedy(tmp_path):
    with pytest.raises(AmandaError, match="Apply the state backup"):
        amanda_ssh.read_public(tmp_path / "id")


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_public_key_loses_its_comment_and_nothing_else(keys, kind):
    assert amanda_ssh.parse_public_key(keys[kind]) == keys[kind]
    assert amanda_ssh.parse_public_key(f"{keys[kind]} root@web1\n") == keys[kind]


def test_keys_of_other_kinds_are_refused(keys):
    weak = public(rsa.generate_private_key(65537, 1024))
    old = keys["ed25519"].replace("ssh-ed25519", "ssh-dss")
    token = keys["ed25519"].replace("ssh-ed25519", "sk-ssh-ed25519@openssh.com")
    certificate = keys["ed25519"].replace("ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com")
    with pytest.raises(AmandaError, match="1024 bits is refused"):
        amanda_ssh.parse_public_key(weak)
    for bad in (old, token, certificate):
        with pytest.raises(AmandaError, match="no SSH public key of a known type"):
            amanda_ssh.parse_public_key(bad)


def test_a_key_that_brings_options_lines_or_another_type_is_refused(keys):
    key = keys["ed25519"]
    kind, blob = key.split()
    for bad in (
        f'command="id" {key}',
        f"{key}\n{key}",
        f"{key} a\nssh-rsa AAAA",
        f"{key}\r",
        f"{key} \x1b[2J",
        f"{key} \ud800",
        f"ssh-rsa {blob}",
        f"{kind} {blob[:-4]}",
        f"{kind} {blob}AAAA",
        f"{kind}\t{blob}",
        f"@cert-authority * {key}",
        f"{kind} " + "A" * 100000,
        "",
        None,
        7,
        [key],
        {"key": key},
        key.encode(),
    ):
        with pytest.raises(AmandaError):
            amanda_ssh.parse_public_key(bad)


def test_a_key_with_any_byte_changed_is_refused_or_is_serialised_as_another_key(keys):
    chance = random.Random(1)
    for _ in range(600):
        kind, blob = chance.choice(list(keys.values())).split()
        raw = bytearray(base64.b64decode(blob))
        raw[chance.randrange(len(raw))] = chance.randrange(256)
        text = f"{kind} {base64.b64encode(raw).decode()}"
        try:
            parsed = amanda_ssh.parse_public_key(text)
        except AmandaError:
            continue
        assert parsed == amanda_ssh.parse_public_key(parsed)
        assert parsed.split()[0] == kind and len(parsed.split()) == 2


def test_host_keys_are_those_that_the_server_would_accept(tmp_path, keys):
    weak = public(rsa.generate_private_key(65537, 1024))
    for name, text in (("ed25519", keys["ed25519"]), ("ecdsa", keys["ecdsa"]), ("rsa", weak)):
        (tmp_path / f"ssh_host_{name}_key.pub").write_text(f"{text} root@web1\n")
    assert amanda_ssh.read_host_keys(tmp_path) == sorted([keys["ed25519"], keys["ecdsa"]])


def test_a_machine_without_host_keys_is_told_how_to_make_them(tmp_path):
    with pytest.raises(AmandaError, match="ssh-keygen -A"):
        amanda_ssh.read_host_keys(tmp_path)


def test_the_servers_publication_is_read_back_as_it_was_meant(keys):
    published = amanda_ssh.published_server_key(
        keys["ed25519"], ["192.0.2.7/32", "2001:db8::/64"], "2026-01-01T00:00:00+00:00"
    )
    assert amanda_ssh.parse_server_key(published) == {
        "key": keys["ed25519"],
        "addresses": ["192.0.2.7", "2001:db8::/64"],
    }


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"key": "ssh-ed25519 AAAA"},
        {"addresses": []},
        {"addresses": "192.0.2.7"},
        {"addresses": ["192.0.2.1/24"]},
        {"addresses": ["0.0.0.0/0"]},
        {"addresses": ["192.0.0.0/7"]},
        {"addresses": ["2000::/3"]},
        {"addresses": ['192.0.2.7",command="sh']},
        {"addresses": ["*"]},
        {"addresses": ["fe80::1%eth0"]},
        {"addresses": [3221225991]},
        {"addresses": [True]},
        {"addresses": ["192.0.2.7"] * 65},
    ],
)
def test_a_dubious_publication_of_the_server_opens_nothing(keys, change):
    published = amanda_ssh.published_server_key(keys["ed25519"], ["192.0.2.7"], "now")
    for bad in ({**published, **change}, None, [], "x"):
        with pytest.raises(AmandaError):
            amanda_ssh.parse_server_key(bad)


def test_the_line_restricts_program_and_source(keys):
    line = amanda_ssh.authorized_key(
        f"{keys['ed25519']} somebody", ["192.0.2.7", "2001:db8::/32"], AMANDAD, "server"
    )
    assert line == (
        'restrict,from="192.0.2.7,2001:db8::/32",command="/usr/lib/amanda/amandad -auth=ssh" '
        f"{keys['ed25519']} amanda-server:server"
    )


def test_the_server_may_reach_itself_by_loopback(keys):
    line = amanda_ssh.authorized_key(keys["rsa"], ["192.0.2.7"], AMANDAD, "server", itself=True)
    assert line.startswith('restrict,from="192.0.2.7,127.0.0.1,::1",')


@pytest.mark.parametrize(
    "addresses", [[], ["0.0.0.0/0"], ["::/0"], ["*"], ["a.example.com"], ['1.2.3.4",pty'], [None]]
)
def test_a_source_that_narrows_nothing_is_refused(keys, addresses):
    with pytest.raises(AmandaError):
        amanda_ssh.authorized_key(keys["ed25519"], addresses, AMANDAD, "server")


@pytest.mark.parametrize("server", ["a b", "a\nb", "", "-x"])
def test_a_server_id_that_could_break_the_line_is_refused(keys, server):
    with pytest.raises(AmandaError, match="no minion id"):
        amanda_ssh.authorized_key(keys["ed25519"], ["192.0.2.7"], AMANDAD, server)


def line_for(key, server="server", address="192.0.2.7"):
    return amanda_ssh.authorized_key(key, [address], AMANDAD, server)


def test_other_peoples_lines_keep_their_text_and_order(keys):
    others = (
        "# mine\n\n"
        f'from="*.example.com",command="say \\"hi there\\"" {keys["rsa"]} admin\'s key\n'
        f"  {keys['ecdsa']}\n"
        "not a key at all \x0b \u2028 x\n"
    )
    line = line_for(keys["ed25519"])
    once = amanda_authorized.with_line(others, line)
    assert once == f"{others}{line}\n"
    assert amanda_authorized.with_line(once, line) == once
    assert amanda_authorized.with_line(once, None) == others


def test_the_servers_line_is_replaced_in_its_place_by_a_new_one(keys):
    old = line_for(keys["ed25519"], "old-server")
    new = line_for(keys["ecdsa"], "new-server", "192.0.2.8")
    assert amanda_authorized.with_line(f"# a\n{old}\n# b\n{old}", new) == f"# a\n{new}\n# b\n"


def test_the_servers_key_without_our_restriction_is_taken_out(keys):
    key = keys["ed25519"]
    line = line_for(key)
    for loose in (
        key,
        f"{key} admin",
        f'environment="A=\\" x" {key} admin',
        f"\tno-pty {key}",
        f"cert-authority {key}",
        f"{key}\r",
    ):
        assert amanda_authorized.with_line(f"{loose}\n# b\n", line) == f"{line}\n# b\n"
        assert amanda_authorized.with_line(f"{line}\n{loose}\n# b\n", None) == "# b\n"


def test_a_file_that_holds_nothing_of_ours_is_not_touched_when_access_is_withdrawn(keys):
    for text in ("", "\n", "# no newline", f"{keys['rsa']} admin\n\n"):
        assert amanda_authorized.with_line(text, None) == text


def test_a_file_of_one_line_without_a_newline_gets_one(keys):
    line = line_for(keys["ed25519"])
    assert amanda_authorized.with_line("# a", line) == f"# a\n{line}\n"
    assert amanda_authorized.with_line("", line) == f"{line}\n"


def test_a_hostile_line_is_read_in_no_time(keys):
    text = '"' + '\\"' * 20000 + "\n" + '\\"' * 20000 + "\n"
    assert amanda_authorized.with_line(text, line_for(keys["ed25519"])).startswith(text)


def test_the_address_towards_a_host_is_the_one_packets_would_leave_from():
    assert amanda_ssh.address_towards("127.0.0.1") == "127.0.0.1"


def test_an_unknown_host_is_an_error_that_names_it():
    with pytest.raises(AmandaError, match="no-such-host.invalid"):
        amanda_ssh.address_towards("no-such-host.invalid")


INTERFACES = b"""[{"ifname":"lo","addr_info":[{"local":"127.0.0.1","scope":"host"},
    {"local":"192.0.2.99","scope":"host"}]},
  {"ifname":"eth0","addr_info":[{"local":"192.0.2.10","scope":"global"},
    {"local":"192.0.2.9","scope":"global"},{"local":"169.254.1.1","scope":"global"},
    {"local":"2001:db8::1","scope":"global"},{"local":"fe80::1","scope":"link"}]},{}]"""


def saying(monkeypatch, text):
    """Let ip(8) say *text*: a machine's interfaces can't be changed for a unit test."""
    done = subprocess.CompletedProcess(["ip"], 0, text, b"")
    monkeypatch.setattr(amanda_ssh, "run", lambda argv: done)


def test_own_addresses_are_the_global_ones_of_all_interfaces(monkeypatch):
    saying(monkeypatch, INTERFACES)
    assert amanda_ssh.own_addresses() == ["192.0.2.9", "192.0.2.10", "2001:db8::1"]


def test_a_machine_without_a_network_reaches_itself_only(monkeypatch):
    saying(monkeypatch, b"[]")
    assert amanda_ssh.own_addresses() == ["127.0.0.1", "::1"]


@pytest.mark.parametrize("text", [b"", b"{}x", b'[{"addr_info":[{"local":"x"}]}]', b"[7]"])
def test_what_ip_says_is_quoted_if_it_can_not_be_read(monkeypatch, text):
    saying(monkeypatch, text)
    with pytest.raises(AmandaError, match="ip\\(8\\)"):
        amanda_ssh.own_addresses()
