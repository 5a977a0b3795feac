"""Drills on real dumps, on a host with Amanda, as root: what they compare, and what they notice."""

import gzip
import os
import shutil
import time
from pathlib import Path

import amanda_drill
import amanda_index
import amanda_scratch
import amanda_sources
import pytest

from tests.functional import hard_tree
from tests.functional.local_amanda import LocalAmanda
from tests.hollow import TERABYTE, hollow

TOP = Path("/srv/drilled")


@pytest.fixture(scope="module")
def dumped():
    """Give the catalogue of a hard tree's full dump and an increment, made two days from now.

    To those dumps all that happens to the tree today has happened before.
    """
    shutil.rmtree(TOP, ignore_errors=True)
    hard_tree.build(os.fsencode(TOP))
    hollow(TOP / "terabyte", TERABYTE, {TERABYTE // 2: b"island"})  # hours, if it were read
    amanda = LocalAmanda("drill", [(str(TOP), "gzip")], length="16 mbytes")
    assert amanda.dump("+1d") == 0
    time.sleep(0.1)
    (TOP / "links").rename(TOP / "knots")
    (TOP / "kinds" / "plain").write_text("changed\n")
    (TOP / "kinds" / "nothing").unlink()
    assert amanda.dump("+2d") == 0
    yield amanda_sources.on_tape(amanda.places)
    amanda.remove()
    shutil.rmtree(TOP)


def _drill(catalogue, directory, own=True):
    names = amanda_drill.choose(catalogue.dumps, "drill")
    host = "localhost" if own else None
    found = amanda_drill.drill(catalogue, names, str(directory), host)
    assert not list(directory.iterdir()), "a drill leaves nothing behind"
    (entry,) = found["directories"]
    assert found["success"] == entry["success"] and (
        found["success"] or entry["message"] in found["message"]
    )
    return entry


@pytest.fixture
def last_index(dumped):
    """Give the lines of the last dump's index, and a function that writes others."""
    path = amanda_index.path(dumped.index, dumped.dumps[-1])
    content, owner = path.read_bytes(), path.stat()

    def write(lines):
        path.write_bytes(gzip.compress(b"".join(lines)))
        os.chown(path, owner.st_uid, owner.st_gid)

    lines = gzip.decompress(content).splitlines(keepends=True)
    yield lines, write
    write(lines)


def test_what_was_dumped_comes_back_and_is_found_to_be_the_same(dumped, tmp_path):
    assert [dump.level for dump in dumped.dumps] == [0, 1]
    found = _drill(dumped, tmp_path)
    files = sum(path.is_file() and not path.is_symlink() for path in TOP.rglob("*"))
    assert found["success"] and found["different"] == [], found
    assert found["message"] == f"{found['files']} files are as they were dumped"
    assert found["files"] == files and found["live"] == {"compared": files, "changed": 0}


def test_another_hosts_files_are_not_compared_with_this_ones(dumped, tmp_path):
    found = _drill(dumped, tmp_path, own=False)
    assert found["success"] and found["live"] is None


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_text("another\n"),
        lambda file: file.chmod(0o604),
        lambda file: os.chown(file, 7, 7),
        lambda file: os.utime(file, (1, 1)),
    ],
    ids=["content", "mode", "owner", "time"],
)
def test_a_file_that_did_not_change_since_and_differs_is_named(dumped, tmp_path, change):
    file = TOP / "knots" / "in" / "one"
    content, status = file.read_bytes(), file.stat()
    try:
        change(file)
        found = _drill(dumped, tmp_path)
        names = {name.partition(":")[0] for name in found["different"]}
        # all three names of one file
        assert names == {"knots/in/one", "knots/in/two", "knots/out/three"}, found
        assert "isn't what the host has" in found["message"] and not found["success"]
    finally:
        file.write_bytes(content)
        os.chown(file, status.st_uid, status.st_gid)
        file.chmod(status.st_mode & 0o7777)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_file_that_is_gone_since_is_no_difference(dumped, tmp_path):
    (TOP / "kinds" / "setuid").rename(TOP / "moved")
    try:
        found = _drill(dumped, tmp_path)
    finally:
        (TOP / "moved").rename(TOP / "kinds" / "setuid")
    assert found["success"] and found["live"]["changed"] == 1, found


def test_a_name_that_the_index_lacks_is_named(dumped, tmp_path, last_index):
    lines, write = last_index
    write([line for line in lines if line != b"/kinds/plain\n"])
    found = _drill(dumped, tmp_path)
    assert found["different"] == [
        "kinds/plain: the index of the dump that it came from lacks it",
    ]


def test_a_name_that_the_index_has_and_that_did_not_come_back_is_named(
    dumped, tmp_path, last_index
):
    lines, write = last_index
    write([*lines, b"/kinds/nothing\n"])  # removed before that dump
    found = _drill(dumped, tmp_path)
    assert found["different"] == ["kinds/nothing: the index has it, but it didn't come back"]


def test_without_its_index_a_drill_fails_and_names_the_dump(dumped, tmp_path, last_index):
    path = amanda_index.path(dumped.index, dumped.dumps[-1])
    path.unlink()
    found = _drill(dumped, tmp_path)
    assert not found["success"]
    assert f"the index of the level 1 dump of localhost {TOP}" in found["message"]


def test_a_flipped_bit_on_tape_fails_the_drill_and_names_the_tape(dumped, tmp_path):
    path = dumped.source.path(dumped.dumps[0].parts[-1])
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 4]) + content[-8:])
        found = _drill(dumped, tmp_path)
    finally:
        path.write_bytes(content)
    assert not found["success"] and "drill-0001" in found["message"], found


def test_what_a_killed_drill_left_is_gone_after_the_next(dumped, tmp_path):
    left = tmp_path / ".amanda-drill-left"
    left.mkdir()
    (left / "plain").write_text("text")
    os.utime(left, (1, 1))
    assert _drill(dumped, tmp_path)["success"]  # which sees that nothing is left


def test_a_drill_that_goes_on_is_not_disturbed_by_another(dumped, tmp_path):
    with amanda_scratch.scratch(tmp_path, "drill") as other:
        os.utime(other, (1, 1))
        with amanda_scratch.scratch(tmp_path, "drill"):
            assert other.is_dir()


def test_without_room_for_all_of_it_nothing_is_restored(dumped, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    found = _drill(dumped, tmp_path)
    assert not found["success"] and "1000 are free" in found["message"]
    assert "directory=" in found["message"]
