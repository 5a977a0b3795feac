"""Amanda, tar and OpenSSH read what was rendered for them as it was meant.

As root on a host with Amanda's server and client, OpenSSH's server and client, zstd and age.
"""

import concurrent.futures
import dataclasses
import os
import pwd
import random
import re
import shutil
import subprocess
import time
from pathlib import Path

import amanda_authorized
import amanda_collect
import amanda_conf
import amanda_disklist
import amanda_dle
import amanda_encryption
import amanda_fleet
import amanda_platform
import amanda_settings
import amanda_ssh
import pytest

from tests.functional.ssh_fleet import FILES, SshFleet
from tests.unit.fleets import directories, host_keys, key, minion_id, path, pattern

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, Amanda and sshd")

USER = "backup"
ROOT = Path("/var/tmp/fleet-files")
DUMPTYPE = "encrypt-amgtar-ssh"
SETTINGS = amanda_settings.parse(
    {"server": "server", "configs": {"daily": {}, "weekly": {}}}, "server"
)


@pytest.fixture
def root():
    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir(mode=0o755)
    yield ROOT
    shutil.rmtree(ROOT, ignore_errors=True)


def collect(paths, keys, previous=None):
    return amanda_collect.collect(paths, keys, previous or amanda_fleet.Fleet(), SETTINGS)[0]


def large_fleet(seed, clients, each):
    """Collect a fleet of strangers, much of which is refused."""
    chance = random.Random(seed)
    paths, keys = {}, {}
    for number in range(clients):
        options = {}
        for _ in range(each):
            exclude = [pattern(chance) for _ in range(chance.randint(0, 2))]
            options[path(chance)] = {"exclude": exclude} if exclude else None
        options["/srv/shared"] = {"mounts": "include", "config": chance.choice(["daily", "weekly"])}
        name = minion_id(chance)
        paths[name] = directories(**options)
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        keys[name] = host_keys(number, address, port=chance.randint(1, 65535))
    fleet = collect(paths, keys)
    gone = [client.id for client in fleet.clients if chance.random() < 0.05]
    for name in gone:
        fleet = amanda_fleet.retire(fleet, name)
    return fleet


# Amanda's disklist


def config(root, disklist):
    """Write a config with the project's own amanda.conf, which Amanda reads as ``.``."""
    template = (FILES / "amanda.conf.jinja").read_text(encoding="utf-8")
    daily = SETTINGS.config("daily")
    text = amanda_conf.render(template, SETTINGS, daily, amanda_platform.detect())
    (root / "amanda.conf").write_text(text, encoding="utf-8")
    (root / "disklist").write_text(disklist, encoding="utf-8")


def amadmin(root, *argv):
    said = subprocess.run(
        ["runuser", "-u", USER, "--", "amadmin", ".", *argv], cwd=root, capture_output=True
    )
    return said.returncode, said.stdout.decode(), said.stderr.decode()


def parsed(text):
    """Return ``[(host, disk, device's options)]`` of what ``amadmin disklist`` prints."""
    dles = []
    for line in text.splitlines():
        if line.startswith("line "):
            dles.append({"exclude": []})
        name, _, value = line.strip().partition(" ")
        if name in ("host", "disk"):
            dles[-1][name] = value.removesuffix(":")
        elif name == "application":
            dles[-1]["application"] = value.strip('"')
        elif name == "ignore":
            dles[-1]["ignore"] = value
        elif name == "exclude" and "file" in value.lower():
            dles[-1]["exclude"] = re.findall(r'"((?:\\.|[^"\\])*)"|(?<= )(\S+)', value)
    return dles


def test_amanda_reads_thousands_of_directories_as_they_were_collected(root):
    fleet = large_fleet(1, clients=1500, each=12)
    for name in ("daily", "weekly"):
        expected = [
            (client.id, each.path)
            for client in fleet.clients
            for each in client.directories
            if each.config == name or name in each.former
        ]
        config(root, amanda_disklist.disklist(fleet, name, DUMPTYPE))
        status, out, err = amadmin(root, "disklist")
        assert (status, err) == (0, "")
        assert [(each["host"], each["disk"]) for each in parsed(out)] == expected
        assert len(expected) > (2000 if name == "daily" else 100)


EXCLUDES = """\
use lib "/usr/lib/x86_64-linux-gnu/amanda/perl";
use Amanda::Config qw(:init :getconf);
use Amanda::Disklist;
config_init($CONFIG_INIT_USE_CWD, undef);
$cfgerr_level = Amanda::Disklist::read_disklist();
die "refused" if $cfgerr_level;
for my $dle (Amanda::Disklist::all_disks()) {
    my $dumptype = $dle->{'config'};
    my $exclude = dumptype_getconf($dumptype, $DUMPTYPE_EXCLUDE);
    my $parent = dumptype_getconf($dumptype, $DUMPTYPE_APPLICATION);
    my $ignore = dumptype_getconf($dumptype, $DUMPTYPE_IGNORE);
    print join("\\0", $dle->{'host'}->{'hostname'}, $dle->{'name'}, $parent, $ignore ? 1 : 0,
        @{$exclude->{'file'}}), "\\0\\n\\0";
}
"""


def test_amanda_reads_patterns_dumptypes_and_what_is_ignored_as_they_were_meant(root):
    fleet = large_fleet(2, clients=500, each=12)
    config(root, amanda_disklist.disklist(fleet, "daily", DUMPTYPE))
    said = subprocess.run(
        ["runuser", "-u", USER, "--", "perl", "-e", EXCLUDES], cwd=root, capture_output=True
    )
    assert (said.returncode, said.stderr) == (0, b"")
    read = [tuple(line.split("\0")[:-1]) for line in said.stdout.decode().split("\n\0")[:-1]]
    expected = [
        (
            client.id,
            each.path,
            "amgtar-mounts" if each.mounts else "amgtar",
            "1" if each.retired else "0",
            *(amanda_dle.amanda_pattern(item) for item in each.exclude),
        )
        for client in fleet.clients
        for each in client.directories
        if each.config == "daily"
    ]
    assert sorted(read) == sorted(expected)
    assert any(each[2] == "amgtar-mounts" for each in read)
    assert any(each[3] == "1" for each in read)
    assert sum(len(each) > 4 for each in read) > 300


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (('web1 "/a/b" {}', 'web1 "/a_b" {}'), "mapping to the same name"),
        (('web1 "/a" {}', 'Web1 "/b" {}'), "different case"),
        (('web1 "/a" {}', 'web1. "/b" {}'), "Duplicate host name"),
    ],
)
def test_each_name_that_is_refused_would_cost_all_clients_their_dumps(root, lines, complaint):
    good = f'db1 "/etc" {DUMPTYPE}\n'
    config(root, good + "".join(f"{line.format(DUMPTYPE)}\n" for line in lines))
    status, _, err = amadmin(root, "disklist")
    assert status != 0 and complaint in err


def test_a_host_called_includefile_would_have_amanda_read_another_file(root):
    (root / "other").write_text(f'victim "/root" {DUMPTYPE}\n')
    config(root, f'includefile "other" {DUMPTYPE}\n')
    assert [each["host"] for each in parsed(amadmin(root, "disklist")[1])] == ["victim"]


# Amanda's wire, logs and index, and tar


@pytest.fixture
def ssh_fleet():
    made = SshFleet()
    yield made
    made.remove()


def listed(fleet, disk):
    """Return the names in the index of the only dump of *disk*: tar's, with tar's escapes."""
    (file,) = (fleet.places.index / "web1" / amanda_dle.file_name(disk)).glob("*-unsorted.gz")
    text = subprocess.run(["zcat", file], check=True, capture_output=True).stdout
    names = {re.sub(rb"^\d+ ", b"", line) for line in text.splitlines()}
    return {re.sub(rb"\\([0-7]{3}|.)", _unescaped, name).decode() for name in names}


def _unescaped(match):
    known = {b"n": b"\n", b"t": b"\t", b"\\": b"\\"}
    return known.get(match[1]) or bytes([int(match[1], 8)])


def dump(fleet, options):
    """Collect *options* of the client web1, write all files as a run does, and dump."""
    client = fleet.client("web1", [])
    published = {"web1": directories(**options)}
    keys = {"web1": amanda_fleet.published_host_keys(client.keys, "192.0.2.1", client.port)}
    (collected,) = collect(published, keys).clients
    fleet.clients = [dataclasses.replace(collected, address=client.address)]
    fleet.save()
    result = fleet.run("backup")
    (step,) = [each for each in result["steps"] if each["step"] == "dump"]
    return result, {each["disk"]: each for each in step["dles"]}


NAMES = [
    "a b",
    " lead",
    "%s%n%d",
    "it's",
    "a:b",
    "über",
    "日本",
    "a*",
    "a[b]",
    "$HOME;`id`",
    "{",
    "}",
    "<&>",
    "=x",
    "~",
    "a,b",
    "-x",
    "!x",
    "(x)",
    "a|b",
    "a?b",
    "a^b",
]


def test_every_name_that_is_let_through_is_dumped_and_named_alike_everywhere(root, ssh_fleet):
    for name in NAMES:
        (root / name).mkdir()
        (root / name / f"content of {name}").write_text("x")
    longest = root / ("y" * (amanda_dle.PATH_BYTES - len(str(root)) - 1))
    longest.mkdir()
    disks = [str(root / name) for name in NAMES] + [str(longest)]
    result, dles = dump(ssh_fleet, dict.fromkeys(disks))
    assert result["success"], result
    assert sorted(dles) == sorted(disks)
    for name in NAMES:
        assert listed(ssh_fleet, f"{root}/{name}") == {"/", f"/content of {name}"}


def test_one_directory_with_a_hash_in_its_name_would_stop_the_run_for_all(root, ssh_fleet):
    for name in ("a#b", "good"):
        (root / name).mkdir()
        (root / name / "file").write_text("x")
    result, dles = dump(ssh_fleet, {f"{root}/a#b": None, f"{root}/good": None})
    assert result["success"] and list(dles) == [f"{root}/good"]
    lines = [f'web1 "{root}/{name}" {DUMPTYPE}\n' for name in ("a#b", "good")]
    (ssh_fleet.places.conf / "disklist").write_text("".join(lines))
    argv = ["runuser", "-u", USER, "--", "amdump", "daily"]
    assert subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL).returncode != 0
    log = (ssh_fleet.places.logs / "log").read_text(encoding="utf-8")
    assert "FATAL driver schedule line" in log and "DONE taper" not in log


FILES_TO_EXCLUDE = [
    "a b",
    "b#c",
    "#x#",
    "per%s",
    "it's",
    "a:b",
    "ü",
    "a*b",
    "axb",
    "a[b]",
    "a\\b",
    'q"b',
    "d e ",
    "d e",
    "~",
    "x.o",
    "<&>",
    "a]b",
    "a;b",
    "a|b",
    "tab\tx",
    "sub/deep",
    "sub/x.o",
    "sub/#e",
    "-x",
    "--exclude=axb",
]
_AB = {"a b", "a*b", "a:b", "a;b", "a\\b", "a]b", "axb", "a|b"}
_SUB = {"sub/", "sub/deep", "sub/x.o", "sub/#e"}
PATTERNS = {
    "./a b": {"a b"},
    "./b#c": {"b#c"},
    "#*#": {"#x#"},
    "./per%s": {"per%s"},
    "./it's": {"it's"},
    "./a:b": {"a:b"},
    "./ü": {"ü"},
    "./a\\*b": {"a*b"},
    "./a*b": _AB,
    "./a\\[b]": {"a[b]"},
    "./a[[]b[]]": {"a[b]"},
    "./a[": set(),
    "./a\\\\b": {"a\\b"},
    './q"b': {'q"b'},
    "./d e ": {"d e "},
    "./d e": {"d e"},
    "*.o": {"x.o", "sub/x.o"},
    "./*.o": {"x.o", "sub/x.o"},
    "deep": {"sub/deep"},
    "./sub": _SUB,
    "sub/deep": {"sub/deep"},
    "./<&>": {"<&>"},
    "./tab?x": {"tab\tx"},
    "./a[]]b": {"a]b"},
    "./a;b": {"a;b"},
    "./a|b": {"a|b"},
    "[[:alpha:]]xb": {"axb"},
    "./[!a]*": {name for name in FILES_TO_EXCLUDE if name[0] != "a"} | {"sub/"},
    "./[^a]*": {name for name in FILES_TO_EXCLUDE if name[0] != "a"} | {"sub/"},
    "\\~": {"~"},
    "sub/[a-e]*": {"sub/deep"},
    "./a?b": _AB,
    "./-x": {"-x"},
    "--exclude=axb": {"--exclude=axb"},
    "-*": {"-x", "--exclude=axb"},
    "x" * amanda_dle.PATTERN_BYTES: set(),
}
"""What each pattern is meant to leave out."""


@pytest.mark.parametrize("method", ["age", "amcrypt"])
def test_each_pattern_leaves_out_of_a_dump_what_it_is_meant_to_and_nothing_else(
    root, ssh_fleet, method
):
    """By amgtar and by GNUTAR, each as tar itself does by ``--exclude``."""
    ssh_fleet.pillar["encryption"] = {"method": method}
    amanda_encryption.ensure(ssh_fleet.settings.encryption, ssh_fleet.platform)
    ssh_fleet.configure()
    options, everything = {}, {"", "sub/", *FILES_TO_EXCLUDE}
    for number, each in enumerate(PATTERNS):
        disk = root / str(number)
        for name in FILES_TO_EXCLUDE:
            (disk / name).parent.mkdir(parents=True, exist_ok=True)
            (disk / name).write_text("x")
        options[str(disk)] = {"exclude": [each]}
        tar = f"--directory={disk}", "--create", f"--exclude={each}", "--file=-", "."
        archive = subprocess.run(["tar", *tar], check=True, capture_output=True).stdout
        names = subprocess.run(
            ["tar", "--list", "--quoting-style=literal"],
            input=archive,
            check=True,
            capture_output=True,
        ).stdout.decode()
        by_tar = {line.removeprefix("./") for line in names.splitlines()}
        assert everything - by_tar == PATTERNS[each], each
    # As many and as long ones as there may be.
    most = [f"./none{number:0{amanda_dle.PATTERN_BYTES - 6}}" for number in range(99)]
    options[str(root / "0")]["exclude"] = [*most, *options[str(root / "0")]["exclude"]]
    result, dles = dump(ssh_fleet, options)
    assert result["success"], result
    assert sorted(dles) == sorted(options)
    differ = {}
    for number, (each, meant) in enumerate(PATTERNS.items()):
        left_out = everything - {name[1:] for name in listed(ssh_fleet, str(root / str(number)))}
        if left_out != meant:
            differ[each] = (left_out - meant, meant - left_out)
    assert differ == {}


# OpenSSH


def effective(file, host):
    """Return what ssh would do for *host*, as it says itself."""
    said = subprocess.run(
        ["ssh", "-G", "-F", file, "-x", "-o", "BatchMode=yes", "-l", USER, host],
        capture_output=True,
        text=True,
        check=True,
    )
    pairs = [line.split(" ", 1) for line in said.stdout.splitlines() if " " in line]
    return {name: value for name, value in pairs}


def test_openssh_reads_each_client_as_it_was_collected(root):
    fleet = large_fleet(3, clients=1200, each=1)
    (root / "config").write_text(
        amanda_disklist.ssh_config(fleet, root / "id", root / "known", root / "c")
    )
    (root / "known").write_text(amanda_disklist.known_hosts(fleet))
    clients = [client for client in fleet.clients if client.retired is None]
    assert len(clients) > 500

    def read(client):
        options = effective(root / "config", client.id)
        known = subprocess.run(
            ["ssh-keygen", "-F", client.id, "-f", root / "known"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        keys = [line for line in known.splitlines() if not line.startswith("#")]
        return options, keys

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(read, clients))
    sockets = set()
    for client, (options, keys) in zip(clients, answers, strict=True):
        assert (options["hostname"], options["port"]) == (client.address, str(client.port))
        assert options["hostkeyalias"] == client.id.lower()
        assert keys == [f"{client.id} {each}" for each in client.keys]
        assert options["identityfile"] == str(root / "id")
        assert options["userknownhostsfile"] == str(root / "known")
        assert options["stricthostkeychecking"] == "true"
        assert options["ciphers"].startswith("aes128-gcm@openssh.com,")
        sockets.add(options["controlpath"])
    assert len(sockets) == len(clients)


def test_a_host_that_was_never_collected_gets_nothing_of_another(root):
    fleet = collect({"Web1": directories("/etc")}, {"Web1": host_keys(1)})
    (root / "config").write_text(
        amanda_disklist.ssh_config(fleet, root / "id", root / "known", root / "c")
    )
    for other in ("web1", "Web1.example.com", "xWeb1", "Web"):
        options = effective(root / "config", other)
        assert options["hostname"] == other.lower() or options["hostname"] == other
        assert "controlpath" not in options and "hostkeyalias" not in options


class Daemon:
    """An sshd on this host and the dump user's way to it, as the project's files say."""

    def __init__(self, root, port=2092):
        self.root, self.port = root, port
        self.user = pwd.getpwnam(USER)
        subprocess.run(["usermod", "-s", "/bin/sh", USER], check=True)
        amanda_ssh.ensure_key(root / "ssh" / "id", USER, USER)
        root.joinpath("ssh").chmod(0o755)
        self.key = amanda_ssh.read_public(root / "ssh" / "id")
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / "host"], check=True
        )
        self.host_key = amanda_ssh.parse_public_key((root / "host.pub").read_text())
        self.authorized = root / "authorized_keys"
        (root / "sshd").write_text(
            f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {root}/host\nPidFile none\n"
            f"AuthorizedKeysFile {self.authorized}\nStrictModes no\nUsePAM no\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            ["/usr/sbin/sshd", "-D", "-f", root / "sshd"], stderr=subprocess.DEVNULL
        )
        (root / "c").mkdir(mode=0o700)
        shutil.chown(root / "c", USER)
        deadline = time.monotonic() + 20
        listening = ["ss", "-Hltn", f"sport = {port}"]
        while not subprocess.run(listening, capture_output=True, check=True).stdout:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def allow(self, *addresses, before=""):
        line = amanda_ssh.authorized_key(self.key, addresses, "/usr/lib/amanda/amandad", "server")
        self.authorized.write_text(amanda_authorized.with_line(before, line))

    def pin(self, name, pinned):
        """Write the dump user's files for a client *name* at this sshd, with the key *pinned*."""
        client = amanda_fleet.Client(name, "127.0.0.1", self.port, (pinned,), "")
        fleet = amanda_fleet.Fleet((client,))
        arguments = (self.root / "ssh" / "id", self.root / "known", self.root / "c")
        (self.root / "config").write_text(amanda_disklist.ssh_config(fleet, *arguments))
        (self.root / "known").write_text(amanda_disklist.known_hosts(fleet))
        return client

    def ssh(self, name, *command):
        """Run ssh as Amanda does; returns its status, output and complaint."""
        argv = ["ssh", "-F", self.root / "config", "-x", "-o", "BatchMode=yes", "-l", USER]
        said = subprocess.run(
            ["runuser", "-u", USER, "--", *argv, name, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return said.returncode, said.stdout, said.stderr

    def hang_up(self):
        """End the connections that are kept for the next DLE."""
        for name in (self.root / "c").iterdir():
            argv = ["ssh", "-F", self.root / "config", "-O", "exit", "-S", name, "any"]
            subprocess.run(["runuser", "-u", USER, "--", *argv], capture_output=True)

    def stop(self):
        self.hang_up()
        self.process.terminate()
        self.process.wait(timeout=10)


@pytest.fixture
def daemon(root):
    made = Daemon(root)
    yield made
    made.stop()


def test_an_id_with_capitals_meets_the_key_that_was_pinned_for_it(daemon):
    daemon.allow("127.0.0.1")
    daemon.pin("Web-1.Example", daemon.host_key)
    _, out, err = daemon.ssh("Web-1.Example", "echo", "shell")
    assert "Host key verification failed" not in err and "Permission denied" not in err
    assert "shell" not in out
    assert list((daemon.root / "c").iterdir()), "the connection was to be kept for the next DLE"


def test_a_client_that_shows_another_key_than_its_pin_is_not_talked_to(daemon):
    daemon.allow("127.0.0.1")
    daemon.pin("web1", key(1))
    status, _, err = daemon.ssh("web1", "true")
    assert status == 255 and "Host key verification failed" in err


def test_a_shared_connection_does_not_outlive_the_pin_it_was_made_under(daemon):
    daemon.allow("127.0.0.1")
    daemon.pin("web1", daemon.host_key)
    daemon.ssh("web1", "true")
    assert list((daemon.root / "c").iterdir())
    daemon.pin("web1", key(1))
    status, _, err = daemon.ssh("web1", "true")
    assert status == 255 and "Host key verification failed" in err


def test_the_servers_key_runs_amandad_and_nothing_else(daemon):
    daemon.pin("web1", daemon.host_key)
    daemon.authorized.write_text(f"{daemon.key}\n")
    assert daemon.ssh("web1", "echo", "shell")[:2] == (0, "shell\n")  # what is defended against
    daemon.allow("127.0.0.1", before=f"{daemon.key} a key that somebody pasted\n")
    assert len(daemon.authorized.read_text().splitlines()) == 1
    daemon.hang_up()  # it was made under the old rules
    _, out, err = daemon.ssh("web1", "echo", "shell")
    assert "shell" not in out and "Permission denied" not in err


def test_the_servers_key_works_from_the_servers_addresses_only(daemon):
    daemon.pin("web1", daemon.host_key)
    daemon.allow("192.0.2.7", "2001:db8::7")
    status, _, err = daemon.ssh("web1", "true")
    assert status == 255 and "Permission denied" in err
    daemon.allow("192.0.2.7", "127.0.0.0/8")
    assert "Permission denied" not in daemon.ssh("web1", "true")[2]


def test_the_host_keys_of_this_hosts_own_sshd_are_read():
    if not list(Path("/etc/ssh").glob("ssh_host_*_key.pub")):
        subprocess.run(["ssh-keygen", "-A"], check=True, capture_output=True)
    assert any(each.startswith("ssh-ed25519 ") for each in amanda_ssh.read_host_keys())


def test_own_addresses_are_among_those_that_ip_shows():
    shown = subprocess.run(["ip", "address"], capture_output=True, text=True, check=True).stdout
    for address in amanda_ssh.own_addresses():
        assert f" {address}/" in shown
