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
from amanda_errors import AmandaError, ParseError

_LETTERS = "abcdefgh"


def _dump(top, snapshot, archive):
    options = ["--create", "--xattrs", "--sparse", f"--directory={top}", f"--file={archive}"]
    subprocess.run(
        ["tar", *options, f"--listed-incremental={snapshot}", "."], check=True, capture_output=True
    )


def _cleanse(top, snapshot):
    """Cleanse *snapshot* with what a walk of *top* says now."""
    now = snapshot.with_name("now")
    now.unlink(missing_ok=True)
    _dump(top, now, "/dev/null")
    return amanda_snapshot.cleanse(snapshot, now)


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
            _cleanse(top, snapshot)
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
    assert _cleanse(top, snapshot) == 0
    assert snapshot.read_bytes() == content


def test_renamed_directories_and_those_in_them_are_taken_out(tmp_path):
    top, snapshot = tmp_path / "top", tmp_path / "snapshot"
    (top / "a" / "b").mkdir(parents=True)
    (top / "c").mkdir()
    _dump(top, snapshot, tmp_path / "0.tar")
    snapshot.chmod(0o600)
    (top / "a").rename(top / "d")
    assert _cleanse(top, snapshot) == 2
    assert b"./a" not in snapshot.read_bytes()
    assert b"./c" in snapshot.read_bytes()
    assert snapshot.stat().st_mode & 0o777 == 0o600


def test_on_nfs_another_device_number_is_no_rename(tmp_path):
    record = b"%d\x000\x000\x00%d\x0077\x00./a\x00Yf\0\0\0"
    now = tmp_path / "now"
    for nfs, device, dropped in [(1, 5, 0), (1, 6, 0), (0, 5, 0), (0, 6, 1)]:
        (tmp_path / "before").write_bytes(b"GNU tar-1.34-2\n1\x001\x00" + record % (nfs, 5))
        now.write_bytes(b"GNU tar-1.34-2\n2\x002\x00" + record % (nfs, device))
        assert amanda_snapshot.cleanse(tmp_path / "before", now) == dropped


@pytest.mark.parametrize("damage", [b"other", b"GNU tar-1.34-1\n1\0", b"", None])
@pytest.mark.parametrize("which", ["snapshot", "now"])
def test_what_is_no_snapshot_is_an_error_and_nothing_changes(tmp_path, damage, which):
    for name in ("snapshot", "now"):
        _dump(tmp_path, tmp_path / name, "/dev/null")
    good = (tmp_path / which).read_bytes()
    (tmp_path / which).write_bytes(good[:-5] if damage is None else damage)
    before = (tmp_path / "snapshot").read_bytes()
    with pytest.raises(ParseError):
        amanda_snapshot.cleanse(tmp_path / "snapshot", tmp_path / "now")
    assert (tmp_path / "snapshot").read_bytes() == before


def _arguments(top, snapshot, archive="-"):
    """Return what amgtar 3.5.1 gives to tar."""
    return [
        "--create",
        "--verbose",
        "--block-number",
        "--file",
        archive,
        "--directory",
        str(top),
    ] + [
        "--one-file-system",
        "--acls",
        "--xattrs",
        "--listed-incremental",
        str(snapshot),
        "--sparse",
        "--ignore-failed-read",
        "--totals",
        ".",
    ]


@pytest.fixture
def renamed(tmp_path):
    """A tree whose directory was renamed since the snapshot beside it was made."""
    top, snapshot = tmp_path / "top", tmp_path / "snapshot"
    (top / "a" / "b").mkdir(parents=True)
    _dump(top, snapshot, tmp_path / "0.tar")
    (top / "a").rename(top / "d")
    return top, snapshot


def test_before_an_incremental_the_snapshot_is_cleansed_and_no_trace_left(renamed):
    top, snapshot = renamed
    assert amanda_snapshot.prepare("tar", _arguments(top, snapshot)) == 2
    assert b"./a" not in snapshot.read_bytes()
    assert sorted(path.name for path in top.parent.iterdir()) == ["0.tar", "snapshot", "top"]


def test_before_an_estimate_or_a_restore_nothing_is_done(renamed):
    top, snapshot = renamed
    before = snapshot.read_bytes()
    estimate = _arguments(top, snapshot, "/dev/null")
    restore = ["--extract", "--file", "-", "--listed-incremental", str(snapshot)]
    for arguments in (estimate, restore, ["--version"], []):
        assert amanda_snapshot.prepare("tar", arguments) == 0
    assert snapshot.read_bytes() == before


def test_before_a_full_dump_nothing_is_done(tmp_path):
    (tmp_path / "empty").touch()
    for snapshot in ("empty", "absent"):
        assert amanda_snapshot.prepare("tar", _arguments(tmp_path, tmp_path / snapshot)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_tar_that_tells_nothing_is_an_error(renamed):
    top, snapshot = renamed
    with pytest.raises(AmandaError, match="left no snapshot"):
        amanda_snapshot.prepare("false", _arguments(top, snapshot))


def test_names_are_left_as_they_are_where_an_option_is_one_word(renamed):
    top, snapshot = renamed
    arguments = ["--create", "--file=-", f"--directory={top}", f"--listed-incremental={snapshot}"]
    assert amanda_snapshot.prepare("tar", [*arguments, "--exclude=./d", "."]) == 2
