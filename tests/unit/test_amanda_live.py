"""A restored tree beside live files, whatever their users have made of what leads to them."""

import os
import shutil
import time

import amanda_live
import pytest


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
