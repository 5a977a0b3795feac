"""Files are compared first, replaced whole, and never led astray."""

import getpass
import grp
import os
import stat

import amanda_files
import pytest
from amanda_errors import AmandaError
from amanda_files import Managed

USER = getpass.getuser()
GROUP = grp.getgrgid(os.getegid()).gr_name


def managed(path, content=None, **options):
    return Managed(path, content, **{"user": USER, "group": GROUP, "mode": 0o640, **options})


def test_what_was_applied_shows_no_more_differences(tmp_path):
    wanted = [managed(tmp_path / "d", mode=0o755), managed(tmp_path / "d" / "f", b"x\n")]
    assert list(amanda_files.differences(wanted)) == [
        str(tmp_path / "d"),
        str(tmp_path / "d" / "f"),
    ]
    amanda_files.apply(wanted)
    assert amanda_files.differences(wanted) == {}
    assert (tmp_path / "d" / "f").read_bytes() == b"x\n"
    assert stat.S_IMODE((tmp_path / "d" / "f").stat().st_mode) == 0o640


def test_a_changed_line_is_shown_as_a_difference(tmp_path):
    path = tmp_path / "f"
    amanda_files.apply([managed(path, b"one\ntwo\n")])
    change = amanda_files.differences([managed(path, b"one\nthree\n")])[str(path)]
    assert "-two" in change["new"]
    assert "+three" in change["new"]


def test_a_secret_is_never_shown(tmp_path):
    path = tmp_path / "f"
    amanda_files.apply([managed(path, b"old secret", hidden=True)])
    changes = amanda_files.differences([managed(path, b"new secret", hidden=True)])
    assert "secret" not in str(changes[str(path)])


def test_a_kept_file_keeps_its_content_but_gets_its_mode(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"grown")
    path.chmod(0o666)
    amanda_files.apply([managed(path, b"", keep=True)])
    assert path.read_bytes() == b"grown"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_in_a_directory_s_place_is_an_error_and_stays(tmp_path):
    path = tmp_path / "d"
    path.write_text("mine")
    with pytest.raises(AmandaError, match="in the way"):
        amanda_files.apply([managed(path)])
    assert path.read_text() == "mine"


def test_a_link_in_a_file_s_place_is_not_followed(tmp_path):
    target = tmp_path / "target"
    target.write_text("untouched")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(AmandaError, match="in the way"):
        amanda_files.apply([managed(tmp_path / "link", b"x")])
    assert target.read_text() == "untouched"


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(AmandaError, match="lacks a user"):
        amanda_files.write(path, b"new", user="nobody-here", group=GROUP)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_wrong_mode_is_set_right_without_writing_anew(tmp_path):
    path = tmp_path / "f"
    amanda_files.apply([managed(path, b"x")])
    inode = path.stat().st_ino
    path.chmod(0o777)
    amanda_files.apply([managed(path, b"x")])
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_ino == inode


def test_one_at_a_time_is_in_a_block_and_who_does_not_wait_is_told(tmp_path):
    with amanda_files.alone(tmp_path / "lock"):
        with (
            pytest.raises(BlockingIOError),
            amanda_files.alone(tmp_path / "lock", wait=False),
        ):
            pass
        with amanda_files.alone(tmp_path / "other", wait=False):
            pass
    with amanda_files.alone(tmp_path / "lock", wait=False):
        pass
