"""Walking, summing and putting together a restored tree."""

import os
import subprocess

import amanda_restored
import pytest

from tests.hollow import TERABYTE, hollow, within


def test_a_walk_finds_everything_and_follows_no_link(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").touch()
    (tmp_path / "link").symlink_to("/etc")
    (tmp_path / "z\n").touch()
    names = [name for name, _ in amanda_restored.walk(tmp_path)]
    assert names == [b"a", b"link", b"z\n", b"a/b", b"a/b/x"]


def test_a_tree_deeper_than_python_recurses_is_walked(tmp_path):
    deep = "/".join(["d"] * 1500)
    subprocess.run(["mkdir", "-p", tmp_path / deep], check=True)
    names = [name for name, _ in amanda_restored.walk(tmp_path)]
    assert len(names) == 1500
    assert names[-1] == deep.encode()
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)


def test_sha256sum_accepts_the_manifest_and_notices_a_change(tmp_path):
    tree = tmp_path / "tree"
    (tree / "back\\slash").mkdir(parents=True)
    for name in ("plain", "new\nline", "cr\r", "back\\slash/x", " ", "-c", "ü"):
        (tree / name).write_text(name)
    os.mkfifo(tree / "fifo")
    (tree / "link").symlink_to("plain")
    counts = amanda_restored.write_checksums(tree, tmp_path / "sums", sample=3)
    assert counts == {
        "files": 7,
        "directories": 1,
        "others": 2,
        "bytes": sum(len(name.encode()) for name in ("plain", "new\nline", "cr\r", "back\\slash/x"))
        + len(b" -c\xc3\xbc"),
        "sample": [" ", "-c", "back\\\\slash"],
    }
    check = ["sha256sum", "--check", "--strict", "--status", tmp_path / "sums"]
    assert subprocess.run(check, cwd=tree, check=False).returncode == 0
    (tree / "new\nline").write_text("changed")
    assert subprocess.run(check, cwd=tree, check=False).returncode == 1


def test_a_file_of_terabytes_of_holes_is_named_in_the_manifest_and_has_no_sum(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "plain").write_text("plain")
    hollow(tree / "image", 64 << 20, {5: b"some"})
    hollow(tree / "new\nline", 10 * TERABYTE, {5: b"more"})
    with within(60):
        counts = amanda_restored.write_checksums(tree, tmp_path / "sums")
    assert counts["files"] == 3 and counts["bytes"] > 10 * TERABYTE
    assert counts["unsummed"] == {"count": 1, "sample": ["new\\nline"]}
    comment = next(line for line in (tmp_path / "sums").read_text().splitlines() if "#" in line)
    assert comment.startswith("# without a SHA-256") and comment.endswith("holes: ./new\\nline")
    check = ["sha256sum", "--check", "--strict", tmp_path / "sums"]
    said = subprocess.run(check, cwd=tree, check=True, capture_output=True, text=True)
    assert said.stdout == "./image: OK\n./plain: OK\n" and not said.stderr
    hollow(tree / "image", 64 << 20, {6: b"same"})
    assert subprocess.run(check, cwd=tree, capture_output=True, check=False).returncode == 1


def test_many_files_of_holes_are_summed_no_longer_than_one(tmp_path, monkeypatch):
    monkeypatch.setattr(amanda_restored, "HOLES", 5 << 20)
    for number in range(4):
        hollow(tmp_path / f"hole{number}", 2 << 20, {})
    (tmp_path / "plain").write_text("plain")
    counts = amanda_restored.write_checksums(tmp_path, tmp_path.with_name("sums"), sample=1)
    assert counts["unsummed"] == {"count": 2, "sample": ["hole2"]}
    assert len(tmp_path.with_name("sums").read_text().splitlines()) == counts["files"] == 5


def test_a_manifest_is_never_written_over(tmp_path):
    (tmp_path / "sums").touch()
    with pytest.raises(FileExistsError):
        amanda_restored.write_checksums(tmp_path, tmp_path / "sums")


def _two_trees(tmp_path):
    tree, other = tmp_path / "tree", tmp_path / "other"
    (tree / "a").mkdir(parents=True)
    (other / "b").mkdir(parents=True)
    (other / "b" / "x").write_text("content")
    return tree, other


def test_a_file_is_put_in_its_place_and_the_directory_keeps_its_time(tmp_path):
    tree, other = _two_trees(tmp_path)
    os.utime(tree / "a", ns=(5, 1234567890123456789))
    with amanda_restored.Placer(tree) as placer:
        placer.place(other, b"b/x", b"a/first", link=True)
        placer.place(other, b"b/x", b"a/second")
    assert (tree / "a").stat().st_mtime_ns == 1234567890123456789
    assert (tree / "a/first").samefile(tree / "a/second")
    assert list((other / "b").iterdir()) == []


@pytest.mark.parametrize("side", ["source", "target"])
def test_no_file_is_put_or_taken_through_a_link(tmp_path, side):
    tree, other = _two_trees(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("outside")
    (other / "out").symlink_to(outside)
    (tree / "out").symlink_to(outside)
    source, target = (b"out/x", b"a/x") if side == "source" else (b"b/x", b"out/y")
    with pytest.raises(NotADirectoryError), amanda_restored.Placer(tree) as placer:
        placer.place(other, source, target)
    assert [path.name for path in outside.iterdir()] == ["x"]
    assert list((tree / "a").iterdir()) == []
