"""Files back from real hosts' backups: all as it was, at each of three moments."""

import json
import time

import pytest
from amanda_names import raw, text

from tests import sheet
from tests.integration import backups
from tests.integration.backups import PICTURE, SERVER, differences, good, now, picture
from tests.testbed import Bed, SaltError, salt

HARD = "/srv/hard"
WHOLE = ("/etc", "/home", "/usr/share/doc", HARD)
RECOVERED = "/var/lib/salt-amanda/recovered"
HAND = "hand"

BEFORE = f"""
    set -eu
    rm -rf {HARD} /home/eve /etc/eve.link
    echo theirs > /usr/share/doc/adduser/copyright
    mkdir -p /home/eve/desk
    echo one > /home/eve/desk/plan
    echo kept > /home/eve/desk/kept
    echo "eve:x:1" > /etc/eve.conf
    setfacl -m u:backup:r /home/eve/desk/plan
    chown -R 4321:4321 /home/eve
    {salt.PYTHON} {PICTURE} build {HARD}
"""
SECOND_DAY = f"""
    set -eu
    {salt.PYTHON} {PICTURE} change {HARD}
    echo two > /home/eve/desk/plan
    rm /home/eve/desk/kept
    mv /home/eve/desk /home/eve/play
    rm /etc/eve.conf
    ln -s hosts /etc/eve.link
    rm /usr/share/doc/adduser/copyright
"""
THIRD_DAY = f"""
    set -eu
    {salt.PYTHON} {PICTURE} again {HARD}
    mv /home/eve/play /home/eve/desk
    echo three > /home/eve/desk/plan
    echo back > /home/eve/desk/kept
"""


class History:
    """Three backups of a client, levels 0, 1 and 2, and what it was at the time of each."""

    def __init__(self, bed):
        self.bed = bed
        self.moments = []
        self.known = []
        self.results = []

    def day(self, script):
        """Change the client by *script* and back it up."""
        self.bed.run("web1", ["sh", "-c", script])
        self.known.append({path: picture(self.bed, "web1", path) for path in WHOLE})
        self.results.append(good(backups.run(self.bed)))
        self.moments.append(now(self.bed))

    def amadmin(self, verb):
        """Give Amanda's planner a hint for each of the client's directories."""
        for path in WHOLE:
            argv = ["runuser", "-u", "backup", "--", "amadmin", "daily", verb, "=web1", f"^{path}$"]
            self.bed.run(SERVER, argv)

    def recover(self, path, day=2, **options):
        """Recover *path* as of a day; return what amanda.recover tells."""
        options.setdefault("at", self.moments[day])
        return self.bed.salt(SERVER, "amanda.recover", "web1", path, **options)[SERVER]

    def missed(self, path, day, **options):
        """Return how *path*, recovered, differs from what it was on a day; both must be there."""
        result = self.recover(path, day, **options)
        (top,) = [each for each in WHOLE if f"{path}/".startswith(f"{each}/")]
        expected = part(self.known[day][top], raw(path.removeprefix(top).lstrip("/")))
        assert expected and result["missing"]["count"] == 0
        return differences(expected, picture(self.bed, SERVER, raw(result["restored"])))


def part(lines, name):
    """Return the part of a picture at *name* (bytes) and below, as a picture of it alone."""
    if not name:
        return lines
    name = name.decode("latin-1")
    found = []
    for line in lines:
        other, attributes = json.loads(line)
        if other == name or other.startswith(name + "/"):
            links = [each for each in attributes["links"] if f"{each}/".startswith(name + "/")]
            attributes["links"] = sorted(each[len(name) :].lstrip("/") for each in links)
            shown = [other[len(name) :].lstrip("/"), attributes]
            found.append(json.dumps(shown, sort_keys=True).encode())
    return found


@pytest.fixture(scope="module")
def history(mirrored):
    with backups.also_backed_up(mirrored, "web1", HARD, "/usr/share/doc"):
        backups.run(mirrored, "check")  # so that Amanda knows them
        history = History(mirrored)
        history.amadmin("force")
        history.day(BEFORE)
        history.day(SECOND_DAY)
        history.amadmin("force-bump")
        history.day(THIRD_DAY)
        yield history


def test_the_three_backups_are_a_full_and_two_levels_above_it(history):
    for path in WHOLE:
        levels = [backups.dles(result)["web1", path]["level"] for result in history.results]
        assert levels == [0, 1, 2], path


# --- as it was ---


@pytest.mark.parametrize("day", [0, 1, 2])
@pytest.mark.parametrize("path", WHOLE)
def test_a_whole_directory_comes_back_from_tape_as_it_was(history, path, day):
    assert history.missed(path, day) == []


@pytest.mark.parametrize(
    ("path", "day"), [(HARD, 0), (HARD, 1), (HARD, 2), ("/home", 2), ("/etc", 0)]
)
def test_a_whole_directory_comes_back_from_the_mirror_as_it_was(history, path, day):
    assert history.missed(path, day, source="mirror") == []


@pytest.mark.parametrize(
    ("path", "day"),
    [
        ("/home/eve/desk/kept", 0),
        ("/home/eve/play", 1),
        ("/home/eve/desk", 2),
        ("/etc/eve.conf", 0),
        ("/usr/share/doc/adduser/copyright", 0),
        (text(HARD.encode() + b"/names/latin-\xe9\xff"), 2),
        (text(HARD.encode() + b"/names/new/tree/third \xff"), 2),
        (text(HARD.encode() + b"/names/new\nline"), 1),
        (f"{HARD}/names/--checkpoint-action=exec=id", 1),
        (f"{HARD}/links/out/three", 2),
        (f"{HARD}/kinds", 1),
        (f"{HARD}/depth", 1),
        (f"{HARD}/deep", 2),
        *((f"{HARD}/turns", day) for day in (0, 1, 2)),
    ],
)
def test_a_part_comes_back_as_it_was(history, path, day):
    assert history.missed(path, day) == []


def test_a_part_comes_back_from_the_mirror_without_a_tape(history):
    """The defence is real: the tapes are gone for the time of it."""
    tapes = "/var/lib/amanda/vtapes"
    history.bed.run(SERVER, ["mv", tapes, f"{tapes}.away"])
    try:
        assert history.missed("/home/eve/desk", 2, source="mirror") == []
        with pytest.raises(SaltError):
            history.recover("/home/eve/desk")
    finally:
        history.bed.run(SERVER, ["mv", f"{tapes}.away", tapes])


@pytest.fixture
def offsite_key(history):
    """The offsite identity as root's file on the server, whose own is away for the time of it."""
    script = """
        set -eu
        cd /etc/salt-amanda/age; mv identity /root/aside
        umask 077; cat > /root/offsite.key
    """
    history.bed.run(SERVER, ["sh", "-c", script], input=backups.OFFSITE)
    yield "/root/offsite.key"
    script = "mv /root/aside /etc/salt-amanda/age/identity; rm /root/offsite.key"
    history.bed.run(SERVER, ["sh", "-c", script])


@pytest.mark.parametrize("source", ["tapes", "mirror"])
def test_an_offsite_identity_opens_what_the_server_can_not(history, offsite_key, source):
    assert history.missed("/home", 2, source=source, identity=offsite_key) == []
    shown = names(history, "/home/eve/desk", 0, source=source, identity=offsite_key)
    assert shown == {("plan", "file"), ("kept", "file")}
    with pytest.raises(SaltError) as caught:
        history.recover("/home", source=source)
    assert "identity is missing" in caught.value.data[SERVER]


def test_an_identity_that_others_can_read_is_refused(history, offsite_key):
    history.bed.run(SERVER, ["chmod", "644", offsite_key])
    with pytest.raises(SaltError) as caught:
        history.recover("/home", identity=offsite_key)
    assert f"chmod 0400 {offsite_key}" in caught.value.data[SERVER]


def test_what_is_restored_is_roots_alone_and_its_checksums_are_right(history):
    result = history.recover(HARD, 2, destination="/root/hard again")
    try:
        script = """
            set -eu
            stat -c '%U %a' "$1"
            cd "$1"; sha256sum --quiet -c "$2"; wc -l < "$2"
        """
        argv = ["sh", "-c", script, "sh", "/root/hard again", result["manifest"]]
        owner, lines = history.bed.run(SERVER, argv).stdout.decode().splitlines()
        assert owner == "root 700"
        assert int(lines) == result["files"] > 50
        assert result["restored"] == "/root/hard again/hard"
        assert result["as_of"] == iso(history.results[2])
        assert [each["level"] for each in result["dumps"]] == [0, 1, 2]
        assert all(each["checked"] for each in result["dumps"])
    finally:
        history.bed.run(SERVER, ["rm", "-rf", "/root/hard again", "/root/hard again.sha256"])


def iso(result):
    """Return the time of a result's dumps in ISO 8601."""
    moment = time.strptime(backups.steps(result)["dump"]["timestamp"], "%Y%m%d%H%M%S")
    return time.strftime("%Y-%m-%dT%H:%M:%S", moment)


# --- what there is ---


def names(history, path, day, **options):
    """Return the names of a directory as amanda.ls lists them."""
    answer = history.bed.salt(
        SERVER, "amanda.ls", "web1", path, at=history.moments[day], **options
    )[SERVER]
    assert answer["count"] == len(answer["entries"]) and answer["as_of"]
    return {(entry["name"], entry["type"]) for entry in answer["entries"]}


def test_a_listing_shows_what_was_there_at_the_time_and_nothing_else(history):
    assert names(history, "/home/eve/desk", 0) == {("plan", "file"), ("kept", "file")}
    assert names(history, "/home/eve", 1, source="mirror") == {("play", "directory")}
    assert names(history, "/home/eve/play", 1) == {("plan", "file")}


def test_a_listing_of_odd_names_gives_each_in_the_form_that_recover_takes(history):
    expected = {
        (text(json.loads(line)[0].encode("latin-1").removeprefix(b"names/")), kind)
        for line in history.known[2][HARD]
        for kind in ["directory" if json.loads(line)[1]["mode"].startswith("0o4") else "file"]
        if json.loads(line)[0].startswith("names/") and json.loads(line)[0].count("/") == 1
    }
    assert names(history, f"{HARD}/names", 2) == expected
    assert ("latin-\\351\\377", "file") in expected


def test_versions_are_the_dumps_that_store_a_file_the_newest_first(history):
    def versions(path, **options):
        found = history.bed.salt(SERVER, "amanda.versions", "web1", path, **options)[SERVER]
        moments = [iso(result) for result in history.results]
        return [moments.index(each["timestamp"]) for each in found if each["timestamp"] in moments]

    assert versions(f"{HARD}/kinds/plain") == [2, 1, 0]
    assert versions(f"{HARD}/names/tab\\there") == [0]
    assert versions(f"{HARD}/names/tab\\tthere", source="mirror") == [1]
    assert versions(text(HARD.encode() + b"/names/new/tree/third \xff")) == [2]


# --- what can't be ---


@pytest.mark.parametrize(
    ("host", "path", "options", "said"),
    [
        ("web9", "/home", {}, "there is no dump of 'web9'; there are dumps of: "),
        ("web1", "/opt", {}, "/opt is in no directory dumped of web1; there are dumps of: /etc"),
        ("web1", "/home/nobody", {}, "/home/nobody wasn't there in the dump of web1 /home"),
        ("web1", "/home/../etc", {}, "is no absolute path without '..'"),
        ("web1", "/home", {"at": "2001-01-01"}, "no dump of web1 /home is as old as 2001-01-01"),
        ("web1", "/home", {"at": "yesterday"}, "write it as 2026-11-23 or 2026-11-23T18:00"),
        ("web1", "/home", {"source": "moon"}, "choose one of tapes, mirror"),
        ("web1", "/home", {"config": "weekly"}, "there is no config 'weekly'"),
        ("web1", "/home", {"destination": "/etc"}, "/etc isn't empty"),
        ("web1", "/home", {"destination": "/no/where"}, "there is no directory /no to make"),
    ],
)
def test_what_can_not_be_restored_is_told_in_words_and_leaves_nothing(
    history, host, path, options, said
):
    before = history.bed.run(SERVER, ["ls", "-A", "/", RECOVERED]).stdout
    with pytest.raises(SaltError) as caught:
        history.bed.salt(SERVER, "amanda.recover", host, path, **options)
    assert said in caught.value.data[SERVER]
    assert history.bed.run(SERVER, ["ls", "-A", "/", RECOVERED]).stdout == before


def test_a_file_deleted_by_then_is_not_restored_and_the_dumps_that_have_it_are_named(history):
    with pytest.raises(SaltError) as caught:
        history.recover("/etc/eve.conf")
    said = caught.value.data[SERVER]
    assert "/etc/eve.conf wasn't there in the dump of web1 /etc" in said
    assert f"the nearest dumps that store it: {iso(history.results[0])} (level 0)" in said


def test_a_full_destination_is_an_error_and_nothing_is_left_there(history):
    small = "/mnt/small"
    script = f"mkdir -p {small} && mount -t tmpfs -o size=1m none {small}"
    history.bed.run(SERVER, ["sh", "-c", script])
    try:
        with pytest.raises(SaltError) as caught:
            history.recover("/usr/share/doc", destination=f"{small}/doc")
        assert f"{small}/doc is full" in caught.value.data[SERVER]
        assert history.bed.run(SERVER, ["ls", "-A", small]).stdout == b""
    finally:
        history.bed.run(SERVER, ["umount", small])


def test_a_drill_restores_all_there_is_from_the_mirror_and_says_when_it_passed(history):
    found = history.bed.salt(SERVER, "amanda.drill", sample="all")[SERVER]
    hosts = {entry["host"] for entry in found["directories"]}
    assert found["success"] and hosts == {SERVER, "web1", "db1"}, found
    assert {(entry["host"], entry["disk"]) for entry in found["directories"]} >= {
        ("web1", path) for path in WHOLE
    }
    for entry in found["directories"]:
        # its own files are on the server; what others have can't be seen from there
        assert bool(entry["live"] and entry["live"]["compared"]) == (
            entry["host"] == SERVER and entry["disk"] == "/etc"
        ), entry
    status = history.bed.salt(SERVER, "amanda.status")[SERVER]
    assert status["drills"]["daily"]["passed"] == found["at"]
    listing = history.bed.run(SERVER, ["ls", "-A", RECOVERED]).stdout.decode().split()
    assert not [name for name in listing if name.startswith(".amanda-drill")]


def test_the_master_sees_how_backups_stand_and_other_minions_do_not(history):
    ask = ["salt-run", "--out=json", "cache.mine", SERVER]
    mined = json.loads(history.bed.run("master", ask).stdout)[SERVER]["amanda.summary"]
    mined = mined["__data__"]["configs"]["daily"]
    assert mined["backup"]["success"] and mined["backup"]["id"] == history.results[-1]["id"]
    assert [step["step"] for step in mined["backup"]["steps"]][-1] == "mirror"
    assert mined["drill"]["passed"] == mined["drill"]["last"]["at"]
    assert history.bed.salt("web1", "mine.get", SERVER, "amanda.summary") == {"web1": {}}


def test_a_drill_finds_the_one_bit_that_is_wrong_on_the_mirror(history):
    file = "$(ls /srv/mirror/daily/tapes/*/*/*.web1._srv_hard.0 | head -n 1)"
    flip = f'printf "\\\\377" | dd of="{file}" bs=1 seek=40000 conv=notrunc status=none'
    keep = f'cp -p "{file}" /root/kept'
    history.bed.run(SERVER, ["sh", "-euc", f"{keep}; {flip}"])
    try:
        options = {"host": "web1", "path": HARD}
        found = history.bed.salt(SERVER, "amanda.drill", check=False, **options)[SERVER]
        assert not found["success"] and "web1 /srv/hard" in found["message"], found
        status = history.bed.salt(SERVER, "amanda.status")[SERVER]["drills"]["daily"]
        assert status["last"]["success"] is False and status["passed"] < status["last"]["at"]
    finally:
        history.bed.run(SERVER, ["sh", "-euc", f'cat /root/kept > "{file}"'])


# --- by hand ---


@pytest.fixture
def hand(history):
    """A bare host that has the mirror's files and the offsite key, and nothing else of ours."""
    bed = Bed(f"{history.bed.name}-hand")
    bed.down()
    bed.up_lone(HAND)
    tree = history.bed.run(SERVER, ["tar", "-cf", "-", "-C", backups.MIRROR, "."]).stdout
    unpack = f"mkdir {backups.MIRROR} && tar -xf - -C {backups.MIRROR}"
    bed.run(HAND, ["sh", "-c", unpack], input=tree)
    bed.run(HAND, ["sh", "-c", "umask 077; cat > /root/offsite.key"], input=backups.OFFSITE)
    yield bed
    bed.down()


def test_the_emergency_sheet_brings_all_back_without_salt_or_amanda(history, hand):
    newest = hand.run(HAND, ["sh", "-c", f"ls {backups.MIRROR}/daily/generations | tail -n 1"])
    generation = newest.stdout.decode().strip()
    path = f"{backups.MIRROR}/daily/generations/{generation}/EMERGENCY.txt"
    text = hand.read(HAND, path).decode()
    hand.run(HAND, ["bash", "-c", sheet.script(text, 1)], input=b"y\n")
    # Salt's own place is bound into every host of a bed, used or not.
    hide = "mount -t tmpfs none /opt/saltstack && mount -t tmpfs none /checkout"
    script = f'{hide} && ! command -v amadmin salt-call && exec bash -c "$1"'
    argv = ["unshare", "--mount", "bash", "-c", script, "bash", sheet.script(text, 2, 3, 4, 5)]
    said = hand.run(HAND, argv).stdout.decode()
    assert "DAMAGED" not in said
    for path in WHOLE:  # of others there may be dumps that another key opens
        assert f"RESTORED: web1 {path}\n" in said
        (line,) = [
            each for each in text.splitlines() if f"  web1 {path}," in each and each[0] == " "
        ]
        restored = hand.run(HAND, ["sh", "-c", f"echo /root/restored/{line.split()[0]}.*"]).stdout
        found = picture(hand, HAND, restored.decode().strip())
        assert differences(history.known[2][path], found) == [], path
