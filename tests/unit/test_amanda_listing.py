"""The names in an archive beside those in its index; with the machine's own tar."""

import gzip
import os
import subprocess
import tempfile

import amanda_index
import amanda_listing
import pytest
from amanda_errors import AmandaError, ServerError

NAMES = [b"plain", b"a b", b"new\nline", b"tab\t", b"back\\slash", b"\xff\xfe", "ä".encode(), b"-x"]


@pytest.fixture
def archive(tmp_path):
    """Give an incremental archive of odd names, and the lines of its index."""
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    for name in NAMES:
        (tree / "d" / os.fsdecode(name)).write_text("x")
    made = subprocess.run(
        ["tar", "-cvf", tmp_path / "a.tar", f"--listed-incremental={tmp_path}/snar", "-C", tree]
        + ["--quoting-style=escape", "."],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        capture_output=True,
        check=True,
    )
    lines = [line[1:] for line in made.stdout.splitlines()]
    return tmp_path / "a.tar", lines


def compare(archive, lines):
    with archive.open("rb") as stream:
        return amanda_listing.compare(stream, iter(lines))


def test_tar_lists_an_incremental_dump_as_its_index_does(archive):
    path, lines = archive
    assert len(lines) == len(NAMES) + 2
    assert compare(path, lines) == ""


def test_names_on_one_side_alone_are_told_in_both_directions(archive):
    path, lines = archive
    assert compare(path, [*lines, b"/gone"]) == "1 names in the index are not in the archive: /gone"
    without = [line for line in lines if line != b"/d/a b"]
    assert compare(path, without) == "1 names in the archive are not in the index: /d/a b"
    assert compare(path, lines[:1]).startswith(f"{len(lines) - 1} names in the archive")
    assert ", …" in compare(path, lines[:1])


def test_order_and_locale_make_no_difference(archive):
    path, lines = archive
    other = [line.replace(rb"\303\244", "ä".encode()) for line in reversed(lines)]
    assert compare(path, other) == ""


def test_what_tar_cant_read_is_told_in_its_words(archive):
    path, lines = archive
    data = bytearray(path.read_bytes())
    data[512 * 4 + 100] ^= 1
    with tempfile.TemporaryFile() as stream:
        stream.write(data)
        stream.seek(0)
        with pytest.raises(AmandaError, match="tar can't list it .status 2.*: tar: "):
            amanda_listing.compare(stream, iter(lines))


def test_a_damaged_index_ends_it(archive, tmp_path):
    path, lines = archive
    index = tmp_path / "index.gz"
    index.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines))[:-9])
    with path.open("rb") as stream, pytest.raises(AmandaError, match="index.gz is damaged"):
        amanda_listing.compare(stream, amanda_index.lines(index))


def test_of_names_without_number_only_some_are_kept(monkeypatch):
    monkeypatch.setattr(amanda_listing, "_MOST", 1000)

    def counted(count, names):
        for number in range(count):
            seen.append(number)
            yield names % number

    seen = []
    told = amanda_listing._differences(iter([b"/a"]), counted(10**6, b"/%d"))
    assert told == "the index has over 1000 names more than the archive"
    assert len(seen) < 1010
    told = amanda_listing._differences(counted(3000, b"/a%d"), counted(3000, b"/b%d"))
    assert told.startswith("from /a0, /a1, ")
    assert "too many others to name" in told


def test_any_number_of_names_may_come_in_another_order(monkeypatch):
    monkeypatch.setattr(amanda_listing, "_MOST", 100)
    names = [b"/%d" % number for number in range(1000)]
    assert amanda_listing._differences(iter(names), reversed(names)) == ""
    assert amanda_listing._differences(iter(names), reversed([*names[:-1], b"/x"]))


def test_a_tar_that_was_killed_says_nothing_of_the_archive(archive, monkeypatch):
    path, lines = archive
    monkeypatch.setattr(amanda_listing, "_TAR", ("sh", "-c", "kill -9 $$"))
    with pytest.raises(ServerError, match="status -9"):
        compare(path, lines)
    monkeypatch.setattr(amanda_listing, "_TAR", ("/no/tar",))
    with pytest.raises(ServerError, match="can't run tar"):
        compare(path, lines)
