"""A restored tree beside live files, whatever their users have made of what leads to them."""

import os
import shutil
import time

import amanda_live
import pytest

from tests.hollow import TERABYTE, hollow, within


@pytest.fixture
def trees(tmp_path):
    """Give a live tree and what was restored of it, the same."""
    live, restored = tmp_path / "live", tmp_path / "restored"
    (live / "work").mkdir(parents=True)
    (live / "work" / "plan").write_text("a plan\n")
    shutil.copytree(live, restored)
    return live, restored


def compared(trees):
    live, restored = trees
    return amanda_live.compare(restored, os.fsencode(live), time.time() + 60)


def test_what_has_not_changed_since_is_compared(trees):
    assert compared(trees) == ({"compared": 1, "changed": 0}, [])
    status = (trees[1] / "work" / "plan").stat()
    (trees[1] / "work" / "plan").write_text("a plot\n")
    os.utime(trees[1] / "work" / "plan", ns=(status.st_atime_ns, status.st_mtime_ns))
    counts, different = compared(trees)
    assert counts["compared"] == 1 and different[0].startswith("work/plan: it isn't what")


def test_the_directory_itself_may_be_a_link(trees, tmp_path):
    (tmp_path / "link").symlink_to(trees[0])
    assert compared((tmp_path / "link", trees[1]))[0]["compared"] == 1


def test_a_link_that_a_user_put_in_a_directorys_place_is_not_followed(trees):
    live, _ = trees
    (live / "work").rename(live.parent / "elsewhere")
    (live / "work").symlink_to(live.parent / "elsewhere")
    assert compared(trees) == ({"compared": 0, "changed": 1}, [])


@pytest.mark.parametrize("what", ["fifo", "directory", "link", "nothing"])
def test_what_is_no_file_any_more_has_changed(trees, what):
    path = trees[0] / "work" / "plan"
    path.unlink()
    make = {
        "fifo": lambda: os.mkfifo(path),
        "directory": path.mkdir,
        "link": lambda: path.symlink_to("/etc/hostname"),
        "nothing": lambda: None,
    }
    make[what]()
    assert compared(trees) == ({"compared": 0, "changed": 1}, [])


def test_files_of_terabytes_of_holes_are_compared_by_their_data(trees):
    islands = {5: b"one", TERABYTE // 2: b"x" * (3 << 20), TERABYTE - 4: b"last"}
    zeros = {TERABYTE // 3: bytes(2 << 20)}  # data there, a hole here
    for tree, more in zip(trees, ({}, zeros), strict=True):
        hollow(tree / "work" / "holes", TERABYTE, {**islands, **more})
        os.utime(tree / "work" / "holes", (1, 1))
    with within(10):
        assert compared(trees) == ({"compared": 2, "changed": 0}, [])


@pytest.mark.parametrize("place", [0, 5, TERABYTE // 2 + (2 << 20), TERABYTE - 1])
@pytest.mark.parametrize("side", [0, 1])
def test_a_byte_that_one_of_two_hollow_files_has_is_a_difference(trees, place, side):
    for tree in trees:
        hollow(tree / "work" / "plan", TERABYTE, {TERABYTE // 2: b"x" * (3 << 20)})
    hollow(trees[side] / "work" / "plan", TERABYTE, {place: b"?"})
    for tree in trees:
        os.utime(tree / "work" / "plan", (1, 1))
    with within(10):
        assert compared(trees)[1] == ["work/plan: it isn't what the host has, unchanged since"]
