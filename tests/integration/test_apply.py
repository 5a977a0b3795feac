"""One ``salt '*' state.apply backup`` makes a bare fleet ready, and says truly what it will do."""

import json
import re

import amanda_age
import pytest

from tests.integration import backups
from tests.integration.fleet import apply, changed, edited, single

SERVER = "backup-server"
HOSTS = ("backup-server", "web1", "db1")
LIBEXEC = "/usr/lib/amanda"
PROGRAMS = "/usr/local/lib/salt-amanda"
ATTRIBUTES = re.compile(r"\w+:\w+ [0-7]{4}")

# The package manager's, who looks for new versions to tell which it would install.
APT = (" /var/cache/apt/", " /var/lib/apt/lists/")

# Path, owner, group, mode; a directory ends with a slash.
EVERYWHERE = f"""
/etc/amanda/                                root:backup 750
/etc/amanda/amanda-client.conf              root:root 644
/etc/amanda-security.conf                   root:root 644
/etc/tmpfiles.d/salt-amanda.conf            root:root 644
{LIBEXEC}/runtar                            root:backup 4750
{LIBEXEC}/runtar.distrib                    root:backup 750
{LIBEXEC}/application/amgtar                root:backup 750
{PROGRAMS}/                                 root:root 755
{PROGRAMS}/amanda-tar                       root:backup 750
{PROGRAMS}/compress-zstd                    root:root 755
/var/backups/.ssh/                          root:root 755
/var/backups/.ssh/authorized_keys           root:root 644
"""
ON_THE_SERVER = f"""
/etc/amanda/daily/                          root:backup 750
/etc/amanda/daily/amanda.conf               root:backup 640
/etc/amanda/daily/disklist                  root:backup 640
/etc/salt-amanda/                           root:root 755
/etc/salt-amanda/age/                       root:root 755
/etc/salt-amanda/age/identity               backup:backup 400
/etc/salt-amanda/age/recipients             root:root 644
/etc/salt-amanda/ssh/                       root:root 700
/etc/salt-amanda/ssh/id_ed25519             root:root 600
{PROGRAMS}/amanda_program.py                root:root 644
{PROGRAMS}/crypt-age                        root:root 755
{PROGRAMS}/crypt-amcrypt                    root:root 755
{PROGRAMS}/label-tapes                      root:root 755
/var/backups/.ssh/id_ed25519                backup:backup 400
/var/lib/amanda/daily/                      backup:backup 700
/var/lib/amanda/daily/tapelist              backup:backup 600
/var/lib/amanda/holding/daily/              backup:backup 700
/var/lib/amanda/vtapes/daily/               backup:backup 700
/var/lib/amanda/vtapes/daily/slot10/        backup:backup 700
/var/lib/salt-amanda/                       root:root 700
/var/lib/salt-amanda/keys                   root:root 600
/var/lib/salt-amanda/runs/                  root:root 700
/var/lib/salt-amanda/settings.json          root:root 600
"""


@pytest.fixture
def fresh(first_apply):
    """Give what the first apply said, if this session saw it."""
    if first_apply is None:
        pytest.skip("a kept bed is no bare fleet: its first apply was in another session")
    return first_apply


def attributes(bed, host, paths):
    """Return ``{path: "owner:group mode"}`` of those paths that are there."""
    if not paths:
        return {}
    said = bed.run(host, ["stat", "--format=%n\t%U:%G %a", "--", *paths], check=False).stdout
    return dict(line.split("\t") for line in said.decode().splitlines())


# --- bare hosts ---


def test_a_dry_run_on_bare_hosts_meets_no_error(fresh):
    assert sorted(fresh.predicted) == sorted(HOSTS)
    for minion, states in fresh.predicted.items():
        bad = [each for each in states if each["result"] not in (True, None)]
        assert not bad, minion
        assert {each["__id__"] for each in states} == {
            each["__id__"] for each in fresh.applied[minion]
        }


def test_a_dry_run_on_bare_hosts_leaves_their_disks_as_they_were(fresh):
    for minion, lines in fresh.touched.items():
        assert not [line for line in lines if not any(path in line for path in APT)], minion


def test_a_dry_run_on_bare_hosts_foretells_which_states_change_something(fresh):
    for minion, states in fresh.predicted.items():
        done = {each["__id__"]: bool(each["changes"]) for each in fresh.applied[minion]}
        for each in states:
            if each["result"] is True:
                assert not done[each["__id__"]], f"{minion}: {each['__id__']}"
            if each["changes"]:
                assert done[each["__id__"]], f"{minion}: {each['__id__']}"


def test_a_dry_run_says_why_it_can_not_tell_what_would_change(fresh):
    for minion, states in fresh.predicted.items():
        for each in states:
            if each["result"] is None and not each["changes"]:
                told = "Can't be told: " in each["comment"]
                assert told or "not present" in each["comment"], f"{minion}: {each}"


def test_owners_and_modes_are_as_the_dry_run_foretold(fresh, fleet):
    compared = 0
    for minion, states in fresh.predicted.items():
        foretold = {
            path: change["new"]
            for each in states
            for path, change in each["changes"].items()
            if isinstance(change, dict) and ATTRIBUTES.fullmatch(str(change.get("new")))
        }
        found = attributes(fleet, minion, sorted(foretold))
        found = {path: f"{text.split()[0]} {text.split()[1]:0>4}" for path, text in found.items()}
        assert found == foretold, minion
        compared += len(found)
    assert compared > 60


def test_one_command_makes_a_bare_fleet_ready(fresh, fleet):
    for minion, states in fresh.applied.items():
        assert {each["result"] for each in states} == {True}, minion
    checked = fleet.salt(SERVER, "amanda.check")[SERVER]
    assert checked["success"] is True, checked
    assert checked["steps"][0]["findings"] == []


def test_what_the_first_apply_returns_holds_no_secret(fresh, fleet):
    told = json.dumps(fresh.applied)
    secrets = [
        fleet.read(SERVER, "/etc/salt-amanda/age/identity").split()[-1],
        *fleet.read(SERVER, "/etc/salt-amanda/ssh/id_ed25519").splitlines()[1:-1],
    ]
    for secret in secrets:
        assert len(secret) > 10 and secret.decode() not in told


# --- the second time ---


def test_a_second_apply_changes_nothing(fleet):
    for minion, states in apply(fleet).items():
        assert {each["result"] for each in states} == {True}, minion
        assert changed(states) == [], minion


def test_a_dry_run_on_the_converged_fleet_foretells_nothing(fleet):
    answers = apply(fleet, test=True)
    assert sorted(answers) == sorted(HOSTS)
    for minion, states in answers.items():
        assert {each["result"] for each in states} == {True}, minion
        assert changed(states) == [], minion


def test_what_was_changed_by_hand_is_foretold_and_put_right(fleet):
    spoil = """
        chmod 4755 /usr/lib/amanda/calcsize
        echo '# mine' >>/etc/amanda-security.conf
        chsh -s /usr/sbin/nologin backup
        sed -i s/from=/environment=\\"A=b\\",from=/ /var/backups/.ssh/authorized_keys
        setcap -r /usr/local/lib/salt-amanda/amanda-tar
    """
    fleet.run("web1", ["sh", "-ec", spoil])
    expected = ["dump user", "hardened Amanda", "server's key authorized"]
    foretold = apply(fleet, "web1", test=True)["web1"]
    assert changed(foretold) == expected
    assert {each["result"] for each in foretold if each["changes"]} == {None}
    assert [each["changes"] for each in foretold] == [
        each["changes"] for each in apply(fleet, "web1")["web1"]
    ]
    assert changed(apply(fleet, "web1", test=True)["web1"]) == []


def test_a_key_that_the_server_is_to_hold_no_more_is_told_of_and_left_there(fleet, pillar):
    def keys():
        return single(fleet, SERVER, "amanda.encryption_keys", "keys")

    identity = "/etc/salt-amanda/age/identity"
    before = fleet.read(SERVER, identity)
    (offsite,) = amanda_age.identities(backups.OFFSITE, "offsite")
    encryption = {"recipients": [amanda_age.public_key(offsite)], "server_identity": False}
    pillar.reset()
    pillar.add("no-identity", {"encryption": encryption}, SERVER)
    pillar.refresh()
    try:
        first, second = keys(), keys()
        recipients = fleet.read(SERVER, "/etc/salt-amanda/age/recipients").decode().split()
    finally:
        pillar.reset()
        pillar.refresh()
        keys()
    assert list(first["changes"]) == ["/etc/salt-amanda/age/recipients"]
    assert (second["result"], second["changes"]) == (True, {})
    assert f"shred -u {identity}" in second["warnings"][0]
    assert recipients == encryption["recipients"]
    assert fleet.read(SERVER, identity) == before


def test_a_lost_key_is_asked_for_and_not_replaced(fleet):
    identity = "/etc/salt-amanda/age/identity"
    before = fleet.read(SERVER, identity)
    fleet.run(SERVER, ["mv", identity, "/root/aside"])
    try:
        for dry in (True, False):
            said = single(fleet, SERVER, "amanda.encryption_keys", "keys", test=dry)
            assert (said["result"], said["changes"]) == (False, {})
            assert f"{identity} is missing, and was here before" in said["comment"]
            assert "owned by backup:backup, with mode 0400" in said["comment"]
        assert fleet.run(SERVER, ["test", "-e", identity], check=False).returncode == 1
    finally:
        fleet.run(SERVER, ["mv", "/root/aside", identity])
    assert single(fleet, SERVER, "amanda.encryption_keys", "keys")["changes"] == {}
    assert fleet.read(SERVER, identity) == before


def test_a_new_version_counts_at_once_on_a_minion_that_goes_on_running(fleet):
    # Its scheduler imports the engine into the minion's own process, of which each job is a copy.
    fleet.salt("web1", "schedule.run_job", "amanda.publish", force=True)
    old, new = b"# Written by Salt; changes made here", b"# Written by Salt. Changes made here"
    with edited(fleet, "_utils/amanda_conf.py", old, new):
        upgraded = apply(fleet, "web1")["web1"]
        assert fleet.read("web1", "/etc/amanda/amanda-client.conf").startswith(new)
    assert changed(upgraded) == ["amrecover's configuration"]
    assert changed(apply(fleet, "web1")["web1"]) == ["amrecover's configuration"]


# --- what is installed ---


@pytest.mark.parametrize("host", HOSTS)
def test_everything_has_its_owner_and_mode(fleet, host):
    table = EVERYWHERE + (ON_THE_SERVER if host == SERVER else "")
    expected = dict(line.split(maxsplit=1) for line in table.splitlines() if line)
    assert attributes(fleet, host, sorted(expected)) == expected


@pytest.mark.parametrize("host", HOSTS)
def test_the_dump_user_can_write_nothing_that_root_or_sshd_goes_by(fleet, host):
    places = ["/etc/amanda", "/etc/salt-amanda", "/etc/tmpfiles.d", PROGRAMS, "/var/backups/.ssh"]
    there = [path for path in places if path != "/etc/salt-amanda" or host == SERVER]
    # His ssh's shared connections have their sockets in control, which is his.
    control = "/var/backups/.ssh/control"
    find = ["find", *there, "-path", control, "-prune", "-o", "-writable", "-not", "-type", "l"]
    found = fleet.run(host, ["runuser", "-u", "backup", "--", *find, "-print"], check=False)
    assert found.stdout == b""
    assert b"No such file" not in found.stderr


@pytest.mark.parametrize("host", HOSTS)
def test_the_dump_user_has_a_shell_that_can_be_used(fleet, host):
    said = fleet.run(host, ["su", "-", "backup", "-c", "id -un; echo $0"]).stdout
    assert said == b"backup\n-sh\n"


@pytest.mark.parametrize("host", HOSTS)
def test_the_server_s_key_may_run_amandad_from_its_addresses_and_nothing_else(fleet, host):
    public = fleet.run(
        SERVER, ["ssh-keygen", "-y", "-f", "/etc/salt-amanda/ssh/id_ed25519"]
    ).stdout.split()
    server = fleet.address(SERVER)
    sources = f"{server},127.0.0.1,::1" if host == SERVER else server
    assert fleet.read(host, "/var/backups/.ssh/authorized_keys").decode() == (
        f'restrict,from="{sources}",command="{LIBEXEC}/amandad -auth=ssh" '
        f"ssh-ed25519 {public[1].decode()} amanda-server:backup-server\n"
    )


@pytest.mark.parametrize("host", HOSTS)
def test_no_service_answers_for_amanda_but_sshd(fleet, host):
    config = fleet.run(host, ["cat", "/etc/inetd.conf", "/etc/xinetd.d/amanda"]).stdout.decode()
    assert "#<off># amanda" in config  # Debian's package had turned it on
    assert not re.search(r"^\s*amanda", config, re.MULTILINE)
    assert re.search(r"^\s*disable\s*=\s*yes$", config, re.MULTILINE)
    listening = fleet.run(host, ["ss", "-Hlntu"]).stdout.decode()
    ports = {line.split()[4].rsplit(":", 1)[1] for line in listening.splitlines()}
    assert "22" in ports and not ports & {"10080", "10081", "10082", "10083"}


@pytest.mark.parametrize("host", HOSTS)
def test_nothing_of_amanda_s_is_setuid_but_a_script_whose_bit_counts_for_nothing(fleet, host):
    packages = ["amanda-common", "amanda-client", *(["amanda-server"] if host == SERVER else [])]
    owned = fleet.run(host, ["dpkg", "--listfiles", *packages]).stdout
    find = ["find", "-files0-from", "-", "-maxdepth", "0", "-type", "f", "-perm", "/6000"]
    paths = b"".join(path + b"\0" for path in owned.split(b"\n") if path.startswith(b"/"))
    found = fleet.run(host, find, input=paths, check=False).stdout.decode()
    assert found == f"{LIBEXEC}/runtar\n"
    assert fleet.read(host, f"{LIBEXEC}/runtar").startswith(b"#!/bin/sh\n")
    who = ["runuser", "-u", "backup", "--", f"{LIBEXEC}/runtar", "daily", "tar", "--version"]
    assert b"GNU tar" in fleet.run(host, who).stdout
    trace = fleet.run(host, ["runuser", "-u", "backup", "--", "sh", "-c", "id -u"]).stdout
    assert trace == b"34\n"


@pytest.mark.parametrize("host", HOSTS)
def test_the_dump_user_is_in_no_group_that_can_write_to_disks(fleet, host):
    assert b"disk" not in fleet.run(host, ["id", "-Gn", "backup"]).stdout.split()


def test_the_dump_user_s_mail_goes_to_root(fleet):
    assert b"\nbackup: root\n" in fleet.read(SERVER, "/etc/aliases")
    routed = fleet.run(SERVER, ["exim4", "-bt", "backup"], check=False).stdout
    assert b"root@backup-server" in routed


@pytest.mark.parametrize("host", HOSTS)
def test_amanda_s_debug_files_are_pruned_when_they_are_old(fleet, host):
    rule = "/etc/tmpfiles.d/salt-amanda.conf"
    prune = ["systemd-tmpfiles", "--clean", rule]
    old = "/var/log/amanda/amandad/old.debug"
    as_dump_user = ["runuser", "-u", "backup", "--"]
    fleet.run(host, [*as_dump_user, "install", "-D", "-m", "600", "/dev/null", old])
    fleet.run(host, prune)
    assert fleet.read(host, old) == b""
    # The clock is shifted for this one program; NO_FAKE_STAT: the files' times are not.
    fleet.run(host, ["faketime", "-f", "+15d", *prune], env={"NO_FAKE_STAT": "1"})
    assert fleet.run(host, ["test", "-e", old], check=False).returncode == 1
    timer = fleet.run(host, ["systemctl", "is-active", "systemd-tmpfiles-clean.timer"])
    assert timer.stdout == b"active\n"


def test_amanda_s_own_check_of_the_server_misses_a_setuid_bit_and_nothing_else(fleet):
    argv = ["runuser", "-u", "backup", "--", "amcheck", "-l", "-s", "-t", "daily"]
    said = fleet.run(SERVER, argv, check=False).stdout.decode()
    assert re.findall(r"(?:ERROR|WARNING).*", said) == [
        f"ERROR: program {LIBEXEC}/ambind: not setuid-root"
    ]
