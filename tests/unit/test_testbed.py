"""What of the test bed needs no hosts."""

import json
import os
import time

import pytest

from tests.testbed import BedError, SaltError, fleet, images, salt


def test_names_of_the_fleet():
    assert fleet.minion_names(2) == ["backup-server", "web1", "db1"]
    assert fleet.minion_names(1) == ["backup-server", "web1"]
    assert fleet.minion_names(4)[-2:] == ["client3", "client4"]


def test_a_bed_has_a_plain_name():
    with pytest.raises(BedError, match="lower case"):
        fleet.Bed("../bed")


def test_two_checkouts_have_different_beds_of_one_name(monkeypatch, tmp_path):
    here = fleet.Bed("bed").group.name
    monkeypatch.setattr(images, "CHECKOUT", tmp_path)
    assert fleet.Bed("bed").group.name != here


def test_a_silent_minion_is_an_error_with_what_came():
    with pytest.raises(SaltError, match="no answer from web1") as caught:
        salt.insist({"db1": {"ret": True, "retcode": 0}}, ["db1", "web1"])
    assert caught.value.data == {"db1": True}


def test_a_failing_minion_is_an_error_with_its_words():
    with pytest.raises(SaltError, match="oops"):
        salt.insist({"db1": {"ret": "oops", "retcode": 1}}, ["db1"])
    salt.insist({"db1": {"ret": "oops", "retcode": 0}}, ["db1"])


def test_no_minion_is_an_error():
    with pytest.raises(SaltError, match="no minion"):
        salt.insist({}, [])


def test_targets_are_globs_or_lists():
    minions = ["backup-server", "web1", "db1"]
    assert salt.targeted("*", minions) == minions
    assert salt.targeted("web*", minions) == ["web1"]
    assert salt.targeted("db1,web1", minions) == ["db1", "web1"]


def test_the_master_takes_only_keys_that_were_accepted():
    config = json.loads(salt.master_config("/srv/pillar"))
    assert not {"auto_accept", "open_mode", "autosign_file"} & set(config)
    assert config["file_roots"] == {"base": ["/checkout/salt"]}


def test_images_depend_on_the_recipes_and_on_salts_version(monkeypatch, tmp_path):
    before = images.places()
    monkeypatch.setenv("SALT_VERSION", "3006.28")
    wheels, base, layer = images.places()
    assert (wheels != before[0], base == before[1], layer != before[2]) == (True, True, True)
    assert images.requirements()[0] == "salt==3006.28"


def test_only_images_that_nobody_asked_for_or_has_are_pruned(monkeypatch, tmp_path):
    monkeypatch.setattr(images, "CACHE", tmp_path)
    old = time.time() - 2 * images.PRUNE_AFTER
    for name, age in (("kept", old), ("used", old), ("gone", old), ("new", time.time())):
        (tmp_path / "base" / name / "rootfs").mkdir(parents=True)
        os.utime(tmp_path / "base" / name, (age, age))
    handle = os.open(tmp_path / "base/used/rootfs", os.O_RDONLY)
    images.fcntl.flock(handle, images.fcntl.LOCK_SH)
    images.prune({tmp_path / "base/kept"})
    os.close(handle)
    assert {path.name for path in (tmp_path / "base").iterdir()} == {"kept", "used", "new"}
