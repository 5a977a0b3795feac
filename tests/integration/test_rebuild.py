"""The server is gone: from the mirror's files and the offsite identity to a server that goes on.

The first server dumps twice, and once more after its last mirroring; then a bare machine, which
knows nothing of it but the pillar, stands in its place. The client lives on, and with it what tar
noted of the dump that nobody else knows of.
"""

import shutil

import amanda_age
import pytest

from tests.integration import backups, leaks
from tests.integration import fleet as on_fleet
from tests.integration.backups import (
    MIRROR,
    OFFSITE,
    PICTURE,
    SERVER,
    differences,
    dles,
    good,
    picture,
    steps,
)
from tests.integration.conftest import Pillar, pillar_root
from tests.testbed import salt

TREE, RETIRED = "/srv/tree", "/srv/retired"
PINNED = "daily-0005"
IDENTITY = "/root/offsite.key"
FIRST_DAY = f"{salt.PYTHON} {PICTURE} build {TREE}; mkdir -p {RETIRED}; echo kept > {RETIRED}/it"
SECOND_DAY = f"{salt.PYTHON} {PICTURE} change {TREE}"
AFTERWARDS = f"echo only in a dump that is lost > {TREE}/afterwards"


class Lost:
    """What was known of the first server, and what is left of it: the mirror's files."""

    def __init__(self, bed):
        self.moments, self.known = [], []
        for day in (FIRST_DAY, SECOND_DAY):
            bed.run("web1", ["sh", "-ec", day])
            self.known.append(picture(bed, "web1", TREE))
            good(backups.run(bed))
            self.moments.append(backups.now(bed))
            if day == FIRST_DAY:
                bed.salt(SERVER, "amanda.retire", "web1", RETIRED)
                argv = ["runuser", "-u", "backup", "--", "amadmin", "daily", "no-reuse", PINNED]
                bed.run(SERVER, argv)
        self.tapes = bed.salt(SERVER, "amanda.tapes")[SERVER]
        self.catalogue = backups.catalogue(bed)
        self.ssh_key = bed.salt(SERVER, "amanda.ssh_public_key")[SERVER]["key"]
        self.mirror = bed.run(SERVER, ["tar", "-C", MIRROR, "-cf", "-", "."]).stdout
        bed.run("web1", ["sh", "-ec", AFTERWARDS])
        last = dles(good(backups.run(bed, "backup")))
        assert {entry["level"] for entry in last.values()} == {1}


@pytest.fixture
def pillar():
    """Give the root of the bed's pillar: two directories, and a schedule that never comes due."""
    root = pillar_root("rebuild")
    pillar = Pillar(None, root)  # of no bed yet
    pillar.reset()
    pillar.add("rarely", {"configs": {"daily": {"cron": "0 0 29 2 *"}}}, SERVER)
    pillar.add("trees", {"directories": {TREE: {}, RETIRED: {}}}, "web1")
    yield root
    shutil.rmtree(root)


def add_mirror(bed, root):
    pillar = Pillar(bed, root)
    pillar.add("mirror", backups.made_mirror(bed, MIRROR), SERVER)
    pillar.refresh()


def test_a_server_made_anew_from_mirror_and_identity_has_all_and_goes_on(make_bed, pillar):
    bed = make_bed("rebuild", clients=1, pillar=pillar)
    add_mirror(bed, pillar)
    on_fleet.apply(bed)
    lost = Lost(bed)

    bed.replace(SERVER)
    backups.made_mirror(bed, MIRROR)
    bed.run(SERVER, ["tar", "-C", MIRROR, "-xf", "-"], input=lost.mirror)
    bed.run(SERVER, ["chown", "-R", "mirror:", MIRROR])
    (applied,) = on_fleet.apply(bed, SERVER).values()
    (warning,) = next(each["warnings"] for each in applied if each["__id__"] == "mirror")
    assert "amanda.rebuild identity=FILE" in warning
    (refused,) = bed.salt(SERVER, "amanda.run_due", check=False)[SERVER]["runs"]
    assert refused["message"] == warning

    bed.write(SERVER, IDENTITY, OFFSITE, 0o400)
    rebuilt = bed.salt(SERVER, "amanda.rebuild", identity=IDENTITY)[SERVER]
    good(rebuilt["daily"])
    bed.run(SERVER, ["rm", IDENTITY])
    own = amanda_age.identities(bed.read(SERVER, "/etc/salt-amanda/age/identity"), "")
    secrets = [key.encode() for key in (*own, *amanda_age.identities(OFFSITE, ""))]
    assert len(secrets) == 3
    assert leaks.found(bed, secrets) == []
    assert backups.catalogue(bed) == lost.catalogue
    assert bed.salt(SERVER, "amanda.tapes")[SERVER] == lost.tapes
    assert [row["label"] for row in lost.tapes if row["pinned"]] == [PINNED]
    assert bed.salt(SERVER, "amanda.run_due")[SERVER] == {}
    for day, moment in enumerate(lost.moments):
        back = bed.salt(SERVER, "amanda.recover", "web1", TREE, at=moment)[SERVER]
        assert back["missing"]["count"] == 0
        assert differences(lost.known[day], picture(bed, SERVER, back["restored"])) == []

    assert bed.salt(SERVER, "amanda.ssh_public_key")[SERVER]["key"] != lost.ssh_key
    on_fleet.apply(bed, "web1")
    good(backups.run(bed, "check"))
    after = backups.run(bed)
    assert after["success"], after
    assert {entry["level"] for entry in dles(after).values()} == {0}
    assert set(dles(after)) == {(host, disk) for host, disk, *_ in lost.catalogue} - {
        ("web1", RETIRED)
    }
    assert {tuple(entry["labels"]) for entry in dles(after).values()} == {("daily-0003",)}
    assert backups.catalogue(bed) > lost.catalogue
    mirrored = steps(after)["mirror"]
    assert (mirrored["copied_tapes"], mirrored["pruned"]["paused"]) == (["daily-0003"], False)
    assert mirrored["warnings"] == []
    back = bed.salt(SERVER, "amanda.recover", "web1", TREE)[SERVER]
    assert differences(picture(bed, "web1", TREE), picture(bed, SERVER, back["restored"])) == []

    again = bed.salt(SERVER, "amanda.rebuild", check=False)[SERVER]["daily"]
    assert "this server has dumps of daily on 3 tapes" in steps(again)["rebuild"]["message"]
