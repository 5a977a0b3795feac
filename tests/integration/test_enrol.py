"""Who is backed up, and of what: clients come and go by what they publish, and nobody else's word.

A config of one small directory keeps the dumps here short; afterwards the server has forgotten it.
"""

import contextlib
import json
import subprocess
import time

import pytest

from tests.integration.conftest import Pillar, pillar_root
from tests.integration.fleet import apply, changed, edited, forget, listing, single
from tests.testbed.salt import PYTHON

SERVER = "backup-server"
FLEET = "/var/lib/salt-amanda/fleet.json"
OWN = "/etc/salt-amanda/directories.json"
AUTHORIZED = "/var/backups/.ssh/authorized_keys"
WIKI = "/srv/wiki"
SMALL = {"configs": {"small": {"dumpcycle": "1 day", "cron": False}}}


@pytest.fixture(scope="module", autouse=True)
def clean(fleet):
    """Have the server forget at the end what this module's clients published."""
    yield
    forget(fleet, "small")


def collect(bed, **options):
    """Have the server collect and return what it said."""
    return bed.salt(SERVER, "amanda.collect", **options)[SERVER]


def stored(bed):
    """Return the clients that the server knows, as it stores them."""
    return json.loads(bed.read(SERVER, FLEET))["clients"]


def mined(bed, minion, what="directories"):
    """Return what the server finds in the mine of *minion*."""
    return bed.salt(SERVER, "mine.get", minion, f"amanda.{what}")[SERVER].get(minion)


def findings(collected, kind):
    """Return the messages of the findings of a kind, by minion id."""
    return {each["id"]: each["message"] for each in collected["findings"] if each["kind"] == kind}


def impatient(bed):
    """Let clients wait 5 s for the server's key, not 300."""
    return edited(bed, "salt/backup/client.sls", b"timeout: 300", b"timeout: 5")


# --- a client that comes late ---


@pytest.fixture(scope="module")
def late(fleet):
    """Have db1 withdraw and be forgotten, then enrol; web1 add a directory; then dump both.

    Returns what was seen on the way; all is as before when it does.
    """
    pillar = Pillar(fleet, pillar_root(fleet.name))
    seen = {}
    pillar.add("small", SMALL, SERVER)
    pillar.add("withdrawn", {"directories": {}}, "db1")
    pillar.refresh()
    apply(fleet, f"{SERVER},db1")
    fleet.run(SERVER, ["rm", "-f", FLEET])
    seen["before"] = collect(fleet)
    pillar.reset()
    pillar.add("small", SMALL, SERVER)
    pillar.add("small-directory", {"directories": {"/srv/small": {"config": "small"}}}, "db1")
    pillar.refresh()
    fleet.write("db1", "/srv/small/late", b"I came late\n")
    fleet.write("web1", f"{WIKI}/page", b"kept\n")
    fleet.write("web1", f"{WIKI}/cache/page", b"left out\n")
    options = {"exclude": ["./cache"], "config": "small"}
    seen["added"] = single(fleet, "web1", "amanda.directory", WIKI, **options)
    seen["applied"] = apply(fleet, "db1")["db1"]
    seen["result"] = fleet.salt(SERVER, "amanda.backup", "small", check=False)[SERVER]
    for minion, path in (("db1", "/srv/small"), ("web1", WIKI)):
        listed = fleet.salt(SERVER, "amanda.ls", minion, path, config="small", check=False)
        seen[path] = json.dumps(listed[SERVER])
    single(fleet, "web1", "amanda.directory_absent", WIKI)
    pillar.reset()
    pillar.refresh()
    apply(fleet)
    forget(fleet, "small")
    return seen


def test_a_client_added_later_is_in_the_next_dump_with_nothing_applied_on_the_server(late):
    assert sorted(late["before"]["changes"]) == [SERVER, "web1"]
    assert late["result"]["success"] is True, late["result"]
    dumped = {
        (each["host"], each["disk"])
        for step in late["result"]["steps"]
        for each in step.get("dles", [])
        if each["success"]
    }
    assert dumped == {("db1", "/srv/small"), ("web1", WIKI)}
    assert "late" in late["/srv/small"]


def test_a_directory_that_a_state_added_is_dumped_without_what_it_excludes(late):
    assert late["added"]["result"] is True and list(late["added"]["changes"]) == [WIKI]
    assert "page" in late[WIKI] and "cache" not in late[WIKI]


# --- directories that states add ---


@pytest.fixture
def no_own_directory(fleet):
    """End the test with no directory of a state on web1."""
    yield
    for path in json.loads(fleet.run("web1", ["sh", "-c", f"cat {OWN} || echo {{}}"]).stdout):
        single(fleet, "web1", "amanda.directory_absent", path)


def test_a_dry_run_of_a_directory_publishes_nothing(fleet, no_own_directory):
    before = listing(fleet, "web1")
    said = single(fleet, "web1", "amanda.directory", WIKI, exclude=["./cache"], test=True)
    assert said["result"] is None
    assert said["changes"] == {WIKI: {"old": None, "new": {"exclude": ["./cache"]}}}
    assert listing(fleet, "web1") == before
    assert WIKI not in mined(fleet, "web1")["directories"]


def test_a_directory_comes_changes_and_goes_by_its_state_alone(fleet, no_own_directory):
    def state(function, **options):
        foretold = single(fleet, "web1", f"amanda.{function}", WIKI, test=True, **options)
        done = single(fleet, "web1", f"amanda.{function}", WIKI, **options)
        again = single(fleet, "web1", f"amanda.{function}", WIKI, **options)
        assert foretold["changes"] == done["changes"]
        assert (done["result"], again["result"], again["changes"]) == (True, True, {})
        return done["changes"], mined(fleet, "web1")["directories"]

    first, told = state("directory", exclude=["./cache"])
    assert first == {WIKI: {"old": None, "new": {"exclude": ["./cache"]}}}
    assert told == {"/etc": {}, "/home": {}, WIKI: {"exclude": ["./cache"]}}
    second, told = state("directory", mounts="include")
    assert second == {WIKI: {"old": {"exclude": ["./cache"]}, "new": {"mounts": "include"}}}
    assert told[WIKI] == {"mounts": "include"}
    third, told = state("directory_absent")
    assert third == {WIKI: {"old": {"mounts": "include"}, "new": None}}
    assert told == {"/etc": {}, "/home": {}}


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        ("srv/wiki", {}, "an absolute path"),
        ("/srv/../etc", {}, "without '.', '..'"),
        (WIKI, {"exclude": ["/tmp"]}, "patterns start at the directory"),
        (WIKI, {"exclude": ["./tmp\\"]}, "ends in a backslash"),
        (WIKI, {"exclude": "./cache"}, "a list of patterns is needed"),
        (WIKI, {"mounts": "all"}, "Choose one of: include"),
    ],
)
def test_a_directory_that_can_not_be_is_refused_with_a_remedy(fleet, path, options, words):
    before = fleet.run("web1", ["sh", "-c", f"cat {OWN}"], check=False).stdout
    said = single(fleet, "web1", "amanda.directory", path, **options)
    assert said["result"] is False and said["changes"] == {}
    assert words in said["comment"] and path in said["comment"]
    assert fleet.run("web1", ["sh", "-c", f"cat {OWN}"], check=False).stdout == before


def test_a_minion_that_is_in_no_backup_is_told_so_when_a_state_adds_a_directory(fleet, pillar):
    pillar.write("top.sls", {"base": {SERVER: ["backup", "backup-server"]}})
    pillar.refresh()
    before = listing(fleet, "web1")
    said = single(fleet, "web1", "amanda.directory", WIKI)
    assert said["result"] is False and said["changes"] == {}
    assert said["comment"].startswith("pillar backup: ") and "Traceback" not in said["comment"]
    assert listing(fleet, "web1") == before


# --- what vanishes ---


def test_a_directory_that_vanishes_is_kept_and_reported(fleet, no_own_directory):
    assert single(fleet, "web1", "amanda.directory", WIKI)["result"] is True
    assert WIKI in collect(fleet)["changes"]["web1"]
    single(fleet, "web1", "amanda.directory_absent", WIKI)
    collected = collect(fleet)
    assert "amanda.retire web1 path=/srv/wiki" in findings(collected, "missing")["web1"]
    assert stored(fleet)["web1"]["directories"][WIKI]["missing"]
    checked = fleet.salt(SERVER, "amanda.check", "daily")[SERVER]
    assert f"web1 {WIKI}" in str(checked["steps"][0]["missing"])
    assert f'web1 "{WIKI}"' in fleet.read(SERVER, "/etc/amanda/daily/disklist").decode()
    fleet.run(SERVER, ["rm", FLEET])


def test_a_retired_directory_stays_so_while_it_is_published_and_adding_it_again_works(
    fleet, no_own_directory
):
    assert single(fleet, "web1", "amanda.directory", WIKI)["result"] is True
    assert fleet.salt(SERVER, "amanda.retire", "web1", WIKI)[SERVER]["web1"][WIKI]
    listed = fleet.salt(SERVER, "amanda.retire")[SERVER]["web1"]
    assert listed[WIKI]["retired"] < listed[WIKI]["kept_until"]
    time.sleep(1.1)  # publications are told apart by seconds
    fleet.salt("web1", "amanda.publish")
    assert "directory_absent" in findings(collect(fleet), "retired")["web1"]
    assert stored(fleet)["web1"]["directories"][WIKI]["retired"]
    single(fleet, "web1", "amanda.directory_absent", WIKI)
    assert collect(fleet)["findings"] == []
    assert single(fleet, "web1", "amanda.directory", WIKI)["result"] is True
    assert "is back" in findings(collect(fleet), "returned")["web1"]
    single(fleet, "web1", "amanda.directory_absent", WIKI)
    fleet.salt(SERVER, "amanda.retire", "web1", WIKI)
    assert single(fleet, "web1", "amanda.directory", WIKI)["result"] is True
    assert "is back" in findings(collect(fleet), "returned")["web1"]
    fleet.salt(SERVER, "amanda.retire", "web1", WIKI)
    fleet.salt(SERVER, "amanda.retire", "web1", WIKI, undo=True)
    assert "is back" in findings(collect(fleet), "returned")["web1"]
    said = fleet.salt(SERVER, "amanda.collect", test="maybe", check=False)[SERVER]
    assert "test=maybe is neither True nor False" in said
    fleet.run(SERVER, ["rm", FLEET])


def test_no_directories_in_the_pillar_withdraw_a_client_and_the_server_keeps_its_dumps(
    fleet, pillar
):
    collect(fleet)
    pillar.add("withdrawn", {"directories": {}}, "db1")
    pillar.refresh()
    foretold = apply(fleet, "db1", test=True)["db1"]
    assert fleet.read("db1", AUTHORIZED) != b""
    done = apply(fleet, "db1")["db1"]
    assert changed(foretold) == changed(done) == ["withdrawn from the backup"]
    assert foretold[-1]["changes"] == done[-1]["changes"]
    assert changed(apply(fleet, "db1")["db1"]) == []
    assert fleet.read("db1", AUTHORIZED) == b""
    assert mined(fleet, "db1") is None and mined(fleet, "db1", "host_keys") is None
    assert "amanda.publish" not in json.dumps(fleet.salt("db1", "schedule.list")["db1"])
    assert "amanda.retire db1" in findings(collect(fleet), "missing")["db1"]
    assert set(stored(fleet)["db1"]["directories"]) == {"/etc", "/home"}
    pillar.reset()
    pillar.refresh()
    assert changed(apply(fleet, "db1")["db1"]) == [
        "published to the server",
        "server's key authorized",
    ]
    assert collect(fleet)["findings"] == []


def test_directories_left_empty_in_the_pillar_are_the_default_and_withdraw_nobody(fleet, pillar):
    pillar.write("backup.sls", {"backup": {"server": SERVER, "directories": None}})
    pillar.refresh()
    assert changed(apply(fleet, "db1")["db1"]) == []
    assert set(mined(fleet, "db1")["directories"]) == {"/etc", "/home"}


# --- the server's key ---


@pytest.fixture
def elsewhere(fleet, pillar):
    """Give the pillar to send web1 elsewhere; it is the server's client again afterwards."""
    yield pillar
    pillar.reset()
    pillar.refresh()
    apply(fleet, "web1")


def test_a_server_that_publishes_no_key_fails_its_clients_last_state_alone(fleet, elsewhere):
    elsewhere.add("elsewhere", {"server": "nobody"}, "web1")
    elsewhere.refresh()
    authorized = fleet.read("web1", AUTHORIZED)
    foretold = apply(fleet, "web1", test=True)["web1"]
    assert foretold[-1]["result"] is None
    assert "nobody has not published its key yet" in foretold[-1]["comment"]
    with impatient(fleet):
        states = apply(fleet, "web1", check=False)["web1"]
    assert {each["result"] for each in states[:-1]} == {True}
    assert states[-1]["__id__"] == "server's key authorized"
    assert states[-1]["result"] is False and states[-1]["changes"] == {}
    assert "backup:server" in states[-1]["comment"] and "'nobody'" in states[-1]["comment"]
    assert fleet.read("web1", AUTHORIZED) == authorized


def test_a_client_that_gets_another_server_publishes_to_that_one_at_once(fleet, elsewhere):
    elsewhere.add("elsewhere", {"server": "db1"}, "web1")
    elsewhere.refresh()
    with impatient(fleet):
        apply(fleet, "web1", check=False)
    assert mined(fleet, "web1") is None
    assert fleet.salt("db1", "mine.get", "web1", "amanda.directories")["db1"]["web1"]
    elsewhere.reset()
    elsewhere.refresh()
    assert changed(apply(fleet, "web1")["web1"]) == ["published to the server"]
    assert set(mined(fleet, "web1")["directories"]) == {"/etc", "/home"}


# --- when the master is silent ---

# As the minion's scheduler calls it by night, but for the patience: by default it would wait for
# three minutes.
CALL = """
import json, sys, salt.client, salt.config
options = salt.config.minion_config("/etc/salt/minion")
options.update(request_channel_timeout=2, request_channel_tries=1)
caller = salt.client.Caller(mopts=options)
caller.cmd("test.ping")
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps(caller.cmd(sys.argv[1])))
"""


@contextlib.contextmanager
def frozen_master(bed):
    """Stop the master in the middle of whatever it does."""
    bed.run("master", ["systemctl", "kill", "--signal=STOP", "salt-master"])
    try:
        yield
    finally:
        bed.run("master", ["systemctl", "kill", "--signal=CONT", "salt-master"])


def call_without_master(bed, function):
    """Return what a function returns on the server if the master falls silent just before."""
    argv = bed.host(SERVER).command([PYTHON, "-c", CALL, function])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(argv, **pipes) as process:
        assert process.stdout.readline() == b"ready\n", process.stderr.read().decode()
        with frozen_master(bed):
            said, errors = process.communicate(b"\n", timeout=120)
    assert process.returncode == 0, errors.decode()
    return json.loads(said)


def test_without_its_master_the_server_goes_by_the_last_collection_and_says_so(fleet):
    collect(fleet)
    before = fleet.read(SERVER, FLEET)
    collected = call_without_master(fleet, "amanda.collect")
    assert collected["fresh"] is False and collected["changes"] == {}
    assert "salt-master" in findings(collected, "silent")[SERVER]
    run = call_without_master(fleet, "amanda.check")
    assert run["success"] is True
    step = next(each for each in run["steps"] if each["step"] == "collect")
    assert (step["fresh"], step["clients"]) == (False, 3)
    assert "what was collected last is used" in step["message"]
    assert fleet.read(SERVER, FLEET) == before
    assert collect(fleet)["fresh"] is True


# --- who claims to be another ---

SSH_FILES = ("/var/backups/.ssh/config", "/var/backups/.ssh/known_hosts")


def publish_as(bed, minion, **entry):
    """Have a minion that somebody else controls publish these host keys as its own."""
    options = {"mine_function": "test.kwarg", "allow_tgt": SERVER, "allow_tgt_type": "glob"}
    assert bed.salt(minion, "mine.send", "amanda.host_keys", **options, **entry)[minion]


def sessions(bed, minion):
    """Return how many sessions the amandad of a host has served."""
    found = bed.run(minion, ["sh", "-c", "ls /var/log/amanda/amandad/ | wc -l"]).stdout
    return int(found)


def ask(bed, minion):
    """Ask Amanda's service on a client, as the dump user, the way each dump does."""
    argv = ["runuser", "-u", "backup", "--", "amservice", minion, "ssh", "noop"]
    return bed.run(SERVER, argv, input=b"", check=False)


@pytest.fixture
def rogue(fleet):
    """Give what web1 publishes, for db1 to claim; db1 is honest again afterwards."""
    collect(fleet)
    fleet.salt(SERVER, "amanda.check")
    yield {**mined(fleet, "web1", "host_keys"), "time": mined(fleet, "db1", "host_keys")["time"]}
    fleet.salt("db1", "amanda.publish")
    assert collect(fleet)["findings"] == []
    fleet.salt(SERVER, "amanda.check")


def test_who_has_anothers_address_and_key_in_the_ssh_config_is_served_by_the_other(fleet, rogue):
    """What the refusal is for: the server would dump web1 in db1's name, and db1 choose what."""
    before = {name: fleet.read(SERVER, name) for name in SSH_FILES}
    try:
        config, known_hosts = (before[name].decode() for name in SSH_FILES)
        config = config.replace(fleet.address("db1"), fleet.address("web1"))
        config = "\n".join(line for line in config.split("\n") if "ControlPath /" not in line)
        known_hosts += "".join(f"db1 {key}\n" for key in rogue["keys"])
        fleet.write(SERVER, SSH_FILES[0], config.encode())
        fleet.write(SERVER, SSH_FILES[1], known_hosts.encode())
        served = sessions(fleet, "web1"), sessions(fleet, "db1")
        assert ask(fleet, "db1").returncode == 0
        assert (sessions(fleet, "web1"), sessions(fleet, "db1")) == (served[0] + 1, served[1])
    finally:
        for name, content in before.items():
            fleet.write(SERVER, name, content, 0o640)
            fleet.run(SERVER, ["chgrp", "backup", name])


@pytest.mark.parametrize("claim", ["keys", "address"])
def test_a_known_client_that_claims_anothers_key_or_address_is_refused_and_reported(
    fleet, rogue, claim
):
    honest = mined(fleet, "db1", "host_keys")
    publish_as(fleet, "db1", **{**honest, claim: rogue[claim]})
    before = stored(fleet)
    collected = collect(fleet)
    message = findings(collected, "claimed")["db1"]
    assert "db1 publishes" in message and "that web1 has, too: refused" in message
    assert collected["changes"] == {} and stored(fleet) == before
    checked = fleet.salt(SERVER, "amanda.check")[SERVER]
    assert checked["success"] is True, checked
    assert message in str(checked["steps"][0])
    assert ask(fleet, "db1").returncode == 0
    for name in SSH_FILES:
        text = fleet.read(SERVER, name).decode()
        assert text.count(fleet.address("web1")) == (1 if name.endswith("config") else 0)
        assert sum(text.count(key) for key in rogue["keys"]) in (0, len(rogue["keys"]))


def test_a_newcomer_that_claims_anothers_key_is_not_backed_up_at_all(fleet, rogue):
    fleet.run(SERVER, ["rm", FLEET])
    fleet.salt("db1", "mine.delete", "amanda.host_keys")
    collect(fleet)
    publish_as(fleet, "db1", **rogue)
    collected = collect(fleet)
    assert "db1 publishes" in findings(collected, "claimed")["db1"]
    assert sorted(stored(fleet)) == [SERVER, "web1"]
    checked = fleet.salt(SERVER, "amanda.check", check=False)[SERVER]
    assert not checked["success"]  # db1 is without a backup
    disklist = fleet.read(SERVER, "/etc/amanda/daily/disklist").decode()
    assert "web1 " in disklist and "db1" not in disklist


def test_what_a_client_puts_into_the_mine_never_reaches_a_file_as_it_came(fleet, rogue):
    evil = [f"{rogue['keys'][0]}\nweb1 ssh-ed25519 AAAA", "ProxyCommand touch /tmp/owned"]
    honest = mined(fleet, "db1", "host_keys")
    before = stored(fleet)
    for entry in ({"keys": evil}, {"address": "1.2.3.4\n ProxyCommand x"}, {"port": "22\nHost *"}):
        publish_as(fleet, "db1", **{**honest, **entry})
        collected = collect(fleet)
        assert "db1" in findings(collected, "refused"), collected
        assert collected["changes"] == {} and stored(fleet) == before
