"""Incrementals of GNU tar itself, over trees that change at random, with cleansed snapshots."""

import contextlib
import os
import random
import shutil
import subprocess
import time

import amanda_snapshot
import amanda_tree
import pytest
from amanda_errors import ParseError

_LETTERS = "abcdefgh"


def _dump(top, snapshot, archive):
    options = ["--create", "--xattrs", "--sparse", f"--directory={top}", f"--file={archive}"]
    subprocess.run(
        ["tar", *options, f"--listed-incremental={snapshot}", "."], check=True, capture_output=True
    )


class _Change:
    """Changes a tree at random: files, and most of all names of directories."""

    def __init__(self, top, seed):
        self.top, self.chance, self.serial = top, random.Random(seed), 0

    def times(self, count, actions):
        for _ in range(count):
            paths = sorted(self.top.rglob("*"))
            self.directories = [path for path in paths if path.is_dir()]
            self.files = [path for path in paths if path.is_file()]
            # A name taken, a directory into itself, none there: another change next time.
            with contextlib.suppress(OSError, IndexError, ValueError):
                getattr(self, self.chance.choice(actions))()

    def _new(self):
        return self.chance.choice([self.top, *self.directories]) / self.chance.choice(_LETTERS)

    def make(self):
        self._new().mkdir()

    def write(self):
        path = self._new()
        self.serial += 1
        path.unlink(missing_ok=True)
        path.write_text(str(self.serial))

    def remove(self):
        shutil.rmtree(self.chance.choice(self.directories))

    def move_file(self):
        self.chance.choice(self.files).rename(self._new())

    def move(self):
        self.chance.choice(self.directories).rename(self._new())

    def exchange(self):
        one, other = self.chance.sample(self.directories, 2)
        if one not in other.parents and other not in one.parents:
            spare = self.top.with_name("spare")
            one.rename(spare)
            other.rename(one)
            spare.rename(other)


def _known(top):
    return {
        os.fsencode(path.relative_to(top)): path.read_text() if path.is_file() else None
        for path in top.rglob("*")
    }


def _resolved(room, levels):
    """Return what the tree of the chain says there is, with content from plain extraction."""
    chain = []
    for level in range(levels):
        with (room / f"{level}.tar").open("rb") as stream:
            chain.append(amanda_tree.read_dumpdirs(stream))
        plain = room / f"plain{level}"
        if not plain.exists():
            plain.mkdir()
            argv = ["tar", "-x", f"--file={room / f'{level}.tar'}", f"--directory={plain}"]
            subprocess.run(argv, check=True)
    tree = amanda_tree.follow(chain)
    found = {name: None for name in tree.directories if name}
    for directory, entries in tree.directories.items():
        for base, stored in entries.items():
            assert stored.dump is not None, (directory, base)
            path = room / f"plain{stored.dump}" / os.fsdecode(stored.directory) / os.fsdecode(base)
            found[amanda_tree.join(directory, base)] = path.read_text()
    return found


def _replayed(room, levels):
    """Return what GNU tar itself makes of the chain."""
    top = room / f"replayed{levels}"
    top.mkdir()
    for level in range(levels):
        argv = ["tar", "-x", f"--file={room / f'{level}.tar'}", f"--directory={top}"]
        subprocess.run([*argv, "--listed-incremental=/dev/null"], check=True, capture_output=True)
    return _known(top)


@pytest.mark.parametrize("seed", range(10))
def test_no_change_of_names_loses_or_mixes_up_a_file(tmp_path, seed):
    top, snapshot = tmp_path / "top", tmp_path / "snapshot"
    top.mkdir()
    change = _Change(top, seed)
    change.times(25, ["make", "write", "write"])
    for level in range(3):
        if level:
            time.sleep(0.02)  # tar compares times: what changes now is newer than the dump
            change.times(7, ["make", "write", "remove", "move_file", "move", "move", "exchange"])
            amanda_snapshot.cleanse(snapshot, top)
        time.sleep(0.02)
        _dump(top, snapshot, tmp_path / f"{level}.tar")
        known = _known(top)
        assert _resolved(tmp_path, level + 1) == known
        assert _replayed(tmp_path, level + 1) == known


def test_an_unchanged_tree_stays_known_to_tar(tmp_path):
    top, snapshot = tmp_path / "top", tmp_path / "snapshot"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "new\nline").touch()
    _dump(top, snapshot, tmp_path / "0.tar")
    content = snapshot.read_bytes()
    assert amanda_snapshot.cleanse(snapshot, top) == 0
    assert snapshot.read_bytes() == content


def test_renamed_directories_and_those_in_them_are_taken_out(tmp_path):
    top, snapshot = tmp_path / "top", tmp_path / "snapshot"
    (top / "a" / "b").mkdir(parents=True)
    (top / "c").mkdir()
    _dump(top, snapshot, tmp_path / "0.tar")
    snapshot.chmod(0o600)
    (top / "a").rename(top / "d")
    assert amanda_snapshot.cleanse(snapshot, top) == 2
    assert b"./a" not in snapshot.read_bytes()
    assert b"./c" in snapshot.read_bytes()
    assert snapshot.stat().st_mode & 0o777 == 0o600


def test_a_full_dump_has_nothing_to_cleanse(tmp_path):
    assert amanda_snapshot.cleanse(tmp_path / "absent", tmp_path) == 0
    (tmp_path / "empty").touch()
    assert amanda_snapshot.cleanse(tmp_path / "empty", tmp_path) == 0


@pytest.mark.parametrize("damage", [b"other", b"GNU tar-1.34-1\n1\0", None])
def test_what_is_no_snapshot_is_an_error_and_stays(tmp_path, damage):
    snapshot = tmp_path / "snapshot"
    _dump(tmp_path, snapshot, "/dev/null")
    snapshot.write_bytes(damage or snapshot.read_bytes()[:-5])
    before = snapshot.read_bytes()
    with pytest.raises(ParseError):
        amanda_snapshot.cleanse(snapshot, tmp_path)
    assert snapshot.read_bytes() == before
