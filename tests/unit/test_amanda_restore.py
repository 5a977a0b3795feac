"""What recover refuses before it reads a dump; restores themselves are in the functional tests."""

import os

import amanda_destination
import amanda_restore
import amanda_sources
import pytest
from amanda_errors import ArgumentError

EMPTY = amanda_sources.Catalogue("daily", [], None, None)

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="tmp_path must be root's")


def _refuses(destination, match):
    with pytest.raises(ArgumentError, match=match):
        amanda_restore.recover(EMPTY, "web1", "/srv", str(destination))


@pytest.fixture(autouse=True)
def as_root(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0)


def test_a_destination_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "mine").touch()
    _refuses(tmp_path, "isn't empty")


def test_a_destination_that_is_a_file_or_a_link_is_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link", "dangling"):
        _refuses(tmp_path / name, "no directory")


def test_a_destination_without_a_parent_is_refused(tmp_path):
    _refuses(tmp_path / "a" / "b", "no directory .* to make")


@pytest.mark.parametrize("destination", ["out", "", "/srv/../out"])
def test_a_destination_that_is_relative_or_climbs_is_refused(destination):
    _refuses(destination, "no absolute path")


def test_an_older_manifest_is_not_written_over(tmp_path):
    (tmp_path / "out.sha256").touch()
    _refuses(tmp_path / "out", "in the way")


def test_only_root_may_restore(tmp_path, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(amanda_restore.AmandaError, match="only root"):
        amanda_restore.recover(EMPTY, "web1", "/srv", str(tmp_path / "out"))


@needs_root
def test_a_good_destination_is_not_touched_if_the_host_is_unknown(tmp_path):
    with pytest.raises(ArgumentError, match="no dump of 'web1'"):
        amanda_restore.recover(EMPTY, "web1", "/srv", str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


@needs_root
@pytest.mark.parametrize(
    ("owner", "mode"), [(65534, 0o755), (0, 0o775), (0, 0o757), (65534, 0o1777)]
)
@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_destination_below_a_directory_that_others_may_change_is_refused(
    tmp_path, owner, mode, below
):
    shared = tmp_path / "shared"
    (shared / below).mkdir(parents=True)
    shared.chmod(mode)
    os.chown(shared, owner, 0)
    _refuses(shared / below / "out", rf"{shared} .*name no directory, or one below")
    (tmp_path / "link").symlink_to(shared / below)
    _refuses(tmp_path / "link" / "out", rf"{shared} .*name no directory, or one below")
    assert not list(shared.rglob(".amanda-partial-*"))


@needs_root
def test_a_destination_in_a_sticky_directory_of_roots_is_good(tmp_path):
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    _refuses(tmp_path / "sticky" / "out", "no dump of 'web1'")


@needs_root
def test_a_link_to_a_good_directory_is_resolved_once(tmp_path):
    (tmp_path / "good").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "good")
    destination = amanda_destination.check(str(tmp_path / "link" / "out"))
    assert destination == tmp_path / "good" / "out"
