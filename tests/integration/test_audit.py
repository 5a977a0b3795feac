"""``salt-run amanda.audit``: who is not backed up, told by the master, which asks nobody."""

import json

import pytest

from tests.integration import backups, leaks
from tests.integration.backups import SERVER, good, until
from tests.testbed import salt


class Auditor:
    """Audits a fleet that has a mirror, an offsite key and a drill: all is well there."""

    def __init__(self, bed):
        self.bed = bed
        bed.run(salt.MASTER, ["salt-run", "saltutil.sync_all"])
        good(backups.run(bed))
        assert bed.salt(SERVER, "amanda.drill", sample="all")[SERVER]["success"]

    def __call__(self, *words):
        """Return the exit status and what it tells."""
        argv = ["salt-run", "--out=json", "--log-level=quiet", "amanda.audit", *words]
        done = self.bed.run(salt.MASTER, argv, check=False)
        return done.returncode, json.loads(done.stdout)

    def kinds(self):
        return {(each["kind"], each["minion"], each["path"]) for each in self()[1]["findings"]}


@pytest.fixture(scope="module")
def audit(mirrored):
    return Auditor(mirrored)


def test_where_all_is_well_it_says_so_and_exits_with_0(audit):
    status, told = audit()
    assert (status, told["findings"]) == (0, []), told
    assert told["message"] == "OK: all is backed up"


def test_for_people_each_finding_is_a_line_with_the_remedy(audit):
    with unpublished(audit.bed, "web1"):
        argv = ["salt-run", "--log-level=quiet", "amanda.audit"]
        done = audit.bed.run(salt.MASTER, argv, check=False)
    assert done.returncode == 2
    line = "CRITICAL: web1 is to be backed up and has never published what. Remedy: salt web1 "
    assert line in done.stdout.decode()


class unpublished:
    """What a minion published is gone from the mine for this block."""

    def __init__(self, bed, minion):
        self.bed, self.minion = bed, minion

    def __enter__(self):
        self.bed.salt(self.minion, "mine.flush")

    def __exit__(self, *_):
        self.bed.salt(self.minion, "amanda.publish")


def test_the_last_word_of_a_server_is_kept_when_the_mine_has_none_any_more(audit):
    with unpublished(audit.bed, SERVER):
        status, told = audit()
        kinds = {each["kind"] for each in told["findings"]}
        assert status == 2 and "uncovered" in kinds and "silent" not in kinds


def test_a_failed_dump_is_found_with_its_reason_and_gone_when_it_is_repaired(audit):
    audit.bed.run("web1", ["sh", "-c", "systemctl stop ssh; pkill -x sshd || true"])
    try:
        backups.run(audit.bed, "backup")
    finally:
        audit.bed.run("web1", ["systemctl", "start", "ssh"])
    status, told = audit()
    found = [each for each in told["findings"] if each["path"] == "/etc"]
    assert (status, len(found)) == (1, 1), told
    (finding,) = found
    assert (finding["kind"], finding["minion"], finding["config"]) == ("failed", "web1", "daily")
    assert "is its SSH daemon running?" in finding["message"]
    good(backups.run(audit.bed))
    assert audit()[0] == 0


def test_a_finding_is_an_event_when_it_appears_and_when_it_is_gone_and_not_in_between(audit):
    with leaks.events(audit.bed):
        with unpublished(audit.bed, "web1"):
            assert audit()[0] == audit()[0] == 2
        assert audit()[0] == 0
        gone = f"salt/amanda/{SERVER}/audit/gone".encode()
        until(lambda: gone in audit.bed.read(salt.MASTER, leaks.EVENTS), "the event", 20)
        heard = audit.bed.read(salt.MASTER, leaks.EVENTS).decode().splitlines()
    tags = [line.split("\t")[0] for line in heard if "/audit/" in line.split("\t")[0]]
    assert tags == [f"salt/amanda/{SERVER}/audit/found", f"salt/amanda/{SERVER}/audit/gone"]


def test_a_directory_that_is_in_no_backup_yet_is_found(audit):
    path = "/srv/new"
    with backups.also_backed_up(audit.bed, "db1", path):
        assert audit.kinds() == {("uncovered", "db1", path)}
    audit.bed.salt(SERVER, "amanda.collect")


def test_a_summary_that_is_garbage_is_a_finding_beside_the_last_readable_one(audit):
    audit.bed.salt(SERVER, "mine.send", "amanda.summary", mine_function="grains.items")
    try:
        status, told = audit()
        assert status == 2 and [each["kind"] for each in told["findings"]] == ["unreadable"]
    finally:
        audit.bed.salt(SERVER, "amanda.publish")
    assert audit()[0] == 0


def test_a_client_publishes_which_file_systems_its_dumps_leave_out(audit):
    argv = ["salt-run", "--out=json", "--log-level=quiet", "cache.mine", "web1"]
    mined = json.loads(audit.bed.run(salt.MASTER, argv).stdout)["web1"]["amanda.mounts"]
    assert mined["allow_tgt"] == ["web1"]
    assert mined["__data__"]["left_out"] == []  # no host of the bed has a second disk


def test_a_master_that_can_not_find_it_out_says_unknown_and_exits_with_3(audit):
    """So that a monitoring system doesn't take its own blindness for a warning."""
    module = "/var/cache/salt/master/extmods/runners/amanda.py"
    text = audit.bed.read(salt.MASTER, module)
    broken = text.replace(b"self._cache = salt.cache.factory", b'raise OSError("no cache")  # ')
    assert broken != text
    audit.bed.write(salt.MASTER, module, broken)
    try:
        status, told = audit()
        assert (status, told["status"]) == (3, "UNKNOWN") and "no cache" in told["message"]
    finally:
        audit.bed.write(salt.MASTER, module, text)
