"""docs/operating.md, done as it is written: every block, in its order, on a fleet of its own.

Between its sections happens what the page speaks of: a client's sshd stops, a directory is deleted,
the server burns down. What an administrator puts in for himself is put in here as well: his key,
and the day of which he wants something back.
"""

import re
import shutil

import pytest

from tests.integration import backups
from tests.integration.backups import SERVER, dles, good, picture
from tests.integration.conftest import pillar_root
from tests.testbed import Bed, salt
from tests.testbed.fleet import PILLAR
from tests.testbed.images import CHECKOUT

pytestmark = pytest.mark.slow
PAGE = CHECKOUT / "docs/operating.md"
HOSTS = {"the master": salt.MASTER, "your own computer": salt.MASTER}  # which is no minion here
BLOCK = re.compile(r"^```(sh|yaml)\n# ([^\n]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```[a-z]", re.MULTILINE)
RECIPIENT, DAY, ADDRESS = "age1…", "2026-11-16", "backup-team@example.org"
HOME = "/home/ada"
AUDIT = "salt-run amanda.audit"


def sections(text):
    """Return the blocks below each heading: ``{heading: [(kind, first line, content), …]}``."""
    found = {}
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        found[heading] = BLOCK.findall(body)
        assert len(found[heading]) == len(FENCE.findall(body)), f"{heading}: a block of no form"
    return found


class Page:
    """The page and the fleet that it is done on."""

    def __init__(self, bed, root):
        self.bed, self._root = bed, root
        self.sections = sections(PAGE.read_text())
        self.done = []
        self.put_in = {}

    def do(self, heading, before=(), fails=()):
        """Do what a section says; return what each of its blocks of commands printed.

        fails
            Commands that tell by their status that something went wrong, as they should.
        before
            What to wait for before a block that has a command: ``{command: function}``.
        """
        self.done.append(heading)
        said = []
        for kind, first, content in self.sections[heading]:
            for example, real in self.put_in.items():
                content = content.replace(example, real)
            if kind == "yaml":
                self._write(first, content)
                continue
            for command in before:
                if command in content:
                    before[command]()
            for command in fails:
                content = content.replace(f"{command}\n", f"if {command}; then exit 9; fi\n")
            said.append(self._run(first.removeprefix("on "), content))
            for key in re.findall(r"age1[a-z0-9]{58}", said[-1]):
                self.put_in[RECIPIENT] = key
        return said

    def _run(self, where, script):
        argv = ["bash", "-euxo", "pipefail", "-c", f"cd /root\n{script}"]
        done = self.bed.run(HOSTS.get(where, where), argv)
        return (done.stdout + done.stderr).decode()

    def _write(self, path, content):
        if path.startswith(f"{PILLAR}/"):
            (self._root / path.removeprefix(f"{PILLAR}/")).write_text(content)
        else:
            self.bed.write(salt.MASTER, path, content.encode())


@pytest.fixture(scope="module")
def page():
    """Give the page, on a fleet without a pillar as yet."""
    root = pillar_root("operating")
    bed = Bed("operating")
    bed.down()
    bed.up(pillar=root)
    try:
        yield Page(bed, root)
    finally:
        bed.down()
        shutil.rmtree(root)


def accepted_later(bed, minion):
    """Make a minion one that the master has not seen yet, and that is still to be started."""
    script = "systemctl disable --quiet --now salt-minion; rm -rf /etc/salt/pki/minion"
    bed.run(minion, ["sh", "-c", script])
    bed.run(salt.MASTER, ["salt-key", "--yes", f"--delete={minion}"])


def seen_in(bed, minion):
    """Return what an administrator who adds a minion waits for, before which command."""

    def pending():
        listed = bed.run(salt.MASTER, ["salt-key", "--list=unaccepted"]).stdout.decode()
        return minion in listed.split()

    return {
        f"salt-key --yes --accept={minion}": lambda: backups.until(pending, f"{minion}'s key"),
        f"salt {minion} state.apply": lambda: backups.until_in(bed, minion),
    }


def mailed(bed):
    """Return what is in the mailbox of ops, or ""."""
    done = bed.run(salt.MASTER, ["cat", "/var/mail/ops"], check=False)
    return done.stdout.decode()


def test_the_first_day(page):
    bed = page.bed
    packages = ["age", "exim4-daemon-light"]  # Debian's own mail system, as it is installed
    bed.run(salt.MASTER, ["apt-get", "-qq", "install", "--no-install-recommends", *packages])
    bed.run(salt.MASTER, ["useradd", "--create-home", "ops"])
    page.put_in[ADDRESS] = "ops@localhost"
    accepted_later(bed, "db1")
    bed.write("web1", f"{HOME}/diary.txt", b"dear diary\n")
    page.do(
        "The first day",
        before={"salt '*' state.apply": lambda: backups.until_in(bed, SERVER, "web1")},
    )
    assert good(backups.newest_result(bed))["action"] == "backup_and_mirror"
    page.known, page.put_in[DAY] = picture(bed, "web1", HOME), backups.now(bed)


def test_every_day(page):
    (said,) = page.do("Every day")
    assert "directories on tape" in said


def test_a_backup_failed(page):
    page.bed.run("web1", ["systemctl", "stop", "ssh"])
    assert not backups.run(page.bed)["success"]
    mail = backups.until(lambda: mailed(page.bed), "the mail")
    assert "Subject: Amanda on backup-server: daily failed" in mail
    assert "- web1 /etc: web1 refuses connections" in mail
    said = page.do("A backup failed", fails=(AUDIT, "salt backup-server amanda.report"))
    assert "is its SSH daemon running?" in " ".join(said[0].split())
    assert {entry["success"] for entry in dles(backups.newest_result(page.bed)).values()} == {True}


def test_what_stays_broken_is_mailed_once_a_day(page):
    tag = f"salt/amanda/{SERVER}/pillar/failed"
    argv = ["salt-run", "--log-level=quiet", "amanda.mail", tag, "{message: it is broken}"]
    told = [page.bed.run(salt.MASTER, argv).stdout.decode().split(":")[0] for _ in range(2)]
    assert told == ["mailed", "not mailed again"]
    backups.until(lambda: "it is broken" in mailed(page.bed), "the mail")
    assert mailed(page.bed).count("it is broken") == 1


def test_somebody_deleted_files(page):
    page.bed.run("web1", ["rm", "-r", HOME])
    page.do("Somebody deleted files")
    assert picture(page.bed, "web1", HOME) == page.known


def test_adding_a_client(page):
    page.bed.write("db1", "/srv/data/rows", b"1 2 3\n")
    page.do("Adding a client", before=seen_in(page.bed, "db1"))
    result = good(backups.run(page.bed))
    assert {disk for host, disk in dles(result) if host == "db1"} == {"/etc", "/srv/data"}


def test_retiring_a_client(page):
    page.bed.poweroff("db1")
    page.do("Retiring a client")
    assert page.bed.read("web1", "/root/from-db1/data/rows") == b"1 2 3\n"
    assert "db1" not in {host for host, _ in dles(good(backups.run(page.bed)))}


def test_more_and_fewer_tapes(page):
    page.do("More and fewer tapes")
    assert len(page.bed.salt(SERVER, "amanda.tapes")[SERVER]) == 30


def test_new_keys(page):
    before = page.bed.read(SERVER, "/etc/salt-amanda/age/identity")
    page.do("New keys")
    assert picture(page.bed, "web1", "/root/ada-then/ada") == page.known
    assert page.bed.read(SERVER, "/etc/salt-amanda/age/identity") != before
    result = good(backups.newest_result(page.bed))
    assert {entry["level"] for entry in dles(result).values()} == {0}


def test_the_server_is_dead(page):
    bed = page.bed
    key = bed.read(salt.MASTER, f"/etc/salt/pki/master/minions/{SERVER}")
    mirror = bed.run(SERVER, ["tar", "-C", backups.MIRROR, "-cf", "-", "."]).stdout
    bed.replace(SERVER)
    accepted_later(bed, SERVER)
    bed.write(salt.MASTER, f"/etc/salt/pki/master/minions/{SERVER}", key)
    bed.run(SERVER, ["mkdir", backups.MIRROR])
    bed.run(SERVER, ["tar", "-C", backups.MIRROR, "-xf", "-"], input=mirror)
    offsite = bed.read(salt.MASTER, "/root/offsite.key")
    bed.write(SERVER, "/media/usb/offsite.key", offsite, 0o400)
    page.do("The server is dead", before=seen_in(bed, SERVER))
    assert picture(bed, "web1", "/root/ada-again/ada") == page.known
    assert good(backups.newest_result(bed))["action"] == "backup_and_mirror"


def test_every_section_of_the_page_was_done(page):
    assert page.done == list(page.sections)
