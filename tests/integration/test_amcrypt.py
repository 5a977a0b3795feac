"""The other combination: amcrypt's key files and format, GNUTAR, gzip, through our filter."""

import pytest

from tests.integration import backups, fleet, leaks
from tests.integration.backups import PICTURE, SERVER, catalogue, dles, good, steps
from tests.testbed import salt

TREE = "/srv/seed"
HOME = "/var/backups"
KEY = f"{HOME}/.gnupg/am_key.gpg"
PASSPHRASE = f"{HOME}/.am_passphrase"
FILTER = "/usr/local/lib/salt-amanda/crypt-amcrypt"
AS_BACKUP = ["runuser", "-u", "backup", "--"]


def plain(bed, host, path):
    """Return a picture of what GNUTAR keeps: no extended attributes, whole seconds."""
    return bed.run(host, [salt.PYTHON, PICTURE, "plain", path]).stdout.splitlines()


class History:
    """After a full dump with age three with amcrypt, and what the client was each time."""

    def __init__(self, bed):
        self.bed = bed
        self.known = []
        self.results = []
        self.moments = []

    def day(self, verb):
        self.bed.run("web1", [salt.PYTHON, PICTURE, verb, TREE])
        self.bed.write("web1", "/etc/seed.conf", verb.encode())
        self.known.append({path: plain(self.bed, "web1", path) for path in (TREE, "/etc")})
        self.results.append(good(backups.run(self.bed, "backup")))
        self.moments.append(backups.now(self.bed))


def force_full(bed, path):
    """Have the next dump of a client's directory be a full one."""
    backups.run(bed, "check")  # so that Amanda knows the directory
    bed.run(SERVER, [*AS_BACKUP, "amadmin", "daily", "force", "=web1", f"^{path}$"])


@pytest.fixture(scope="module")
def history(fleet, module_pillar):
    """Give the fleet under amcrypt; all that is told meanwhile is recorded."""
    force_full(fleet, "/etc")
    good(backups.run(fleet, "backup"))
    fleet.run("web1", ["rm", "-rf", TREE])
    settings = backups.made_mirror(fleet, "/srv/mirror-amcrypt")
    settings["encryption"]["method"] = "amcrypt"
    with (
        leaks.watched(fleet),
        backups.backup_pillar(fleet, module_pillar, settings),
        backups.also_backed_up(fleet, "web1", TREE),
    ):
        force_full(fleet, TREE)
        history = History(fleet)
        history.day("build")
        history.day("change")
        fleet.run(SERVER, [*AS_BACKUP, "amadmin", "daily", "force-bump", "=web1", f"^{TREE}$"])
        history.day("again")
        yield history
    leaks.clean(fleet)


def test_the_key_files_are_made_once_for_the_dump_user_alone(history):
    shown = ["sh", "-c", f"stat -c '%a %U' {KEY} {PASSPHRASE}; sha256sum {KEY} {PASSPHRASE}"]
    before = history.bed.run(SERVER, shown).stdout
    assert before.splitlines()[:2] == [b"400 backup"] * 2
    assert fleet.changed(fleet.apply(history.bed, SERVER)[SERVER]) == []
    assert history.bed.run(SERVER, shown).stdout == before


def test_the_dumps_are_a_full_and_two_levels_above_it_by_gnutar_gzip_and_our_filter(history):
    assert [dles(each)["web1", TREE]["level"] for each in history.results] == [0, 1, 2]
    disklist = history.bed.read(SERVER, "/etc/amanda/daily/disklist").decode()
    assert f'web1 "{TREE}" encrypt-gnutar-ssh' in disklist
    header = tape_file(history, 0)[:32768].rstrip(b"\0").decode()
    sealed = f"crypt enc server_encrypt {FILTER} server_decrypt_option -d"
    assert f" comp .gz program /bin/tar {sealed}" in header.splitlines()[0]
    assert "<program>GNUTAR</program>" in header


def tape_file(history, day):
    """Return the content of the tape file that holds the tree's dump of a day."""
    label = dles(history.results[day])["web1", TREE]["labels"][0]
    script = """
        set -eu
        cd /var/lib/amanda/vtapes/daily
        cat "$(dirname "$(ls slot*/00000.$1)")"/*.web1._srv_seed.*
    """
    return history.bed.run(SERVER, ["sh", "-c", script, "sh", label]).stdout


@pytest.mark.parametrize(
    ("path", "day", "chain"),
    [
        (TREE, 0, [0]),
        (TREE, 1, [0, 1]),
        (TREE, 2, [0, 1, 2]),
        ("/etc", 0, [0]),
        ("/etc", 1, [0, 1]),
    ],
)
def test_a_directory_comes_back_as_it_was_by_dumps_that_are_all_sealed_with_amcrypt(
    history, path, day, chain
):
    """The last dump of /etc before was a full one, with age: a new one came in its place."""
    at = history.moments[day]
    result = history.bed.salt(SERVER, "amanda.recover", "web1", path, at=at)[SERVER]
    assert [each["level"] for each in result["dumps"]] == chain
    found = plain(history.bed, SERVER, result["restored"])
    assert backups.differences(history.known[day][path], found) == []


def test_what_is_mirrored_is_listed_found_and_recovered(history):
    bed = history.bed
    good(backups.run(bed, "mirror"))
    file = f"{TREE}/kinds/plain"
    listed = bed.salt(SERVER, "amanda.ls", "web1", file, source="mirror")[SERVER]
    assert [entry["name"] for entry in listed["entries"]] == ["plain"]
    assert bed.salt(SERVER, "amanda.versions", "web1", file, source="mirror")[SERVER]
    result = bed.salt(SERVER, "amanda.recover", "web1", TREE, source="mirror")[SERVER]
    found = plain(bed, SERVER, result["restored"])
    assert backups.differences(history.known[-1][TREE], found) == []


def test_amandas_own_amcrypt_opens_what_our_filter_sealed_and_the_other_way_round(history):
    sealed = tape_file(history, 0)[32768:]
    opened = history.bed.run(SERVER, [*AS_BACKUP, "/usr/sbin/amcrypt", "-d"], input=sealed).stdout
    listed = history.bed.run(SERVER, ["sh", "-c", "gzip -dc 2>/dev/null | tar t"], input=opened)
    assert b"./kinds/plain" in listed.stdout.splitlines()
    secret = b"0123456789abcdef" * 300
    theirs = history.bed.run(SERVER, [*AS_BACKUP, "/usr/sbin/amcrypt"], input=secret).stdout
    assert secret[:32] not in theirs
    opened = history.bed.run(SERVER, [*AS_BACKUP, FILTER, "-d"], input=theirs).stdout
    assert opened.rstrip(b"\0") == secret  # aespipe seals blocks of 512 bytes


@pytest.fixture(params=[KEY, PASSPHRASE])
def without(request, history):
    """Give the path of a key file that is away for the time of a test."""
    history.bed.run(SERVER, ["mv", request.param, f"{request.param}.away"])
    yield request.param
    history.bed.run(SERVER, ["mv", f"{request.param}.away", request.param])


def test_without_a_key_no_dump_is_begun_and_the_run_names_it(history, without):
    tapes = ["sh", "-c", "ls -lR /var/lib/amanda/vtapes/daily"]
    before = history.bed.run(SERVER, tapes).stdout, catalogue(history.bed)
    result = backups.run(history.bed, "backup")
    assert not result["success"]
    assert steps(result)["canary"]["success"] is False
    assert without in steps(result)["canary"]["message"]
    assert steps(result)["dump"]["skipped"] is True
    assert (history.bed.run(SERVER, tapes).stdout, catalogue(history.bed)) == before


def test_without_a_key_our_filter_fails_the_dump(history, without):
    """As of an administrator who starts amdump by hand, without the trial of the keys before it."""
    before = catalogue(history.bed)
    amdump = [*AS_BACKUP, "amdump", "daily", "=web1", f"^{TREE}$"]
    status = history.bed.run(SERVER, amdump, check=False).returncode
    assert status & 4  # a dump failed
    assert catalogue(history.bed) == before


def test_without_its_key_amandas_own_filter_fails_open(history):
    """What ours is there for: an empty dump, and success."""
    history.bed.run(SERVER, ["mv", KEY, f"{KEY}.away"])
    try:
        theirs = history.bed.run(SERVER, [*AS_BACKUP, "/usr/sbin/amcrypt"], input=b"x" * 999)
    finally:
        history.bed.run(SERVER, ["mv", f"{KEY}.away", KEY])
    assert (theirs.returncode, len(theirs.stdout)) == (0, 46)  # the header alone


def test_neither_key_nor_passphrase_is_told(history):
    bed = history.bed
    opened = bed.run(
        SERVER,
        [*AS_BACKUP, "gpg", "--batch", "--quiet", "--homedir", f"{HOME}/.gnupg"]
        + ["--pinentry-mode", "loopback", "--passphrase-file", PASSPHRASE, "--decrypt", KEY],
    ).stdout.splitlines()
    armoured = [line for line in bed.read(SERVER, KEY).splitlines() if len(line) == 64]
    passphrase = bed.read(SERVER, PASSPHRASE).splitlines()
    assert len(opened) == 65 and len(armoured) > 10 and len(passphrase) == 1
    processes = bed.read(SERVER, leaks.PROCESSES)
    assert b"aespipe" in processes and b"daily" in bed.read("master", leaks.EVENTS)
    assert leaks.found(bed, [*opened, *armoured, *passphrase]) == []
