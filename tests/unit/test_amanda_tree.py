"""What a chain of dumps leads to, from real dumps and from made lists of names."""

import gzip
import io
import tarfile
from pathlib import Path

import amanda_tree
import pytest
from amanda_errors import ParseError
from amanda_tree import Stored

CAPTURED = Path(__file__).parent / "captured" / "restore"


def _captured(program, levels):
    return amanda_tree.follow(
        amanda_tree.read_dumpdirs(
            io.BytesIO(gzip.decompress((CAPTURED / f"{program}_{level}.tar.gz").read_bytes()))
        )
        for level in range(levels)
    )


def _made(*dumps):
    """Return the tree of dumps given as {directory: [record, …]}."""
    chain = [
        {name: b"".join(each + b"\0" for each in records) + b"\0" for name, records in dump.items()}
        for dump in dumps
    ]
    return amanda_tree.follow(chain)


@pytest.mark.parametrize("program", ["amgtar", "gnutar"])
def test_a_file_deleted_after_the_full_is_gone(program):
    assert _captured(program, 1).kind(b"names/-dash") == "file"
    assert _captured(program, 2).kind(b"names/-dash") is None


@pytest.mark.parametrize("program", ["amgtar", "gnutar"])
def test_a_file_unchanged_is_stored_in_the_full(program):
    assert _captured(program, 3).stored(b"names/tab\there") == Stored(0, b"names")


@pytest.mark.parametrize("program", ["amgtar", "gnutar"])
def test_a_file_changed_is_stored_in_the_newest_dump(program):
    stored = [_captured(program, count).stored(b"kinds/plain") for count in (1, 2, 3)]
    assert [each.dump for each in stored] == [0, 1, 2]


@pytest.mark.parametrize("program", ["amgtar", "gnutar"])
def test_a_directory_renamed_twice_is_there_once(program):
    kinds = [
        [_captured(program, count).kind(name) for name in (b"links/in", b"knots/in", b"inner")]
        for count in (1, 2, 3)
    ]
    assert kinds == [
        ["directory", None, None],
        [None, "directory", None],
        [None, None, "directory"],
    ]


@pytest.mark.parametrize("program", ["amgtar", "gnutar"])
def test_a_directory_and_a_file_take_each_others_place(program):
    before, after = _captured(program, 1), _captured(program, 2)
    assert [tree.kind(b"empty") for tree in (before, after)] == ["directory", "file"]
    assert [tree.kind(b"kinds/nothing") for tree in (before, after)] == ["file", "directory"]


def test_a_file_of_a_renamed_directory_is_stored_under_its_old_name():
    tree = _made(
        {b"": [b"Dold"], b"old": [b"Yf", b"Ddeep"], b"old/deep": [b"Yg"]},
        {
            b"": [b"Dnew", b"R./old", b"T./new"],
            b"new": [b"Nf", b"Ddeep"],
            b"new/deep": [b"Ng"],
        },
    )
    assert tree.stored(b"new/f") == Stored(0, b"old")
    assert tree.stored(b"new/deep/g") == Stored(0, b"old/deep")
    assert tree.kind(b"old") is None


@pytest.mark.parametrize(
    "renames",
    [
        [b"X.", b"R./a", b"T", b"R./b", b"T./a", b"R", b"T./b"],  # two exchanged names
        [b"R./gone", b"T./a"],  # a source that wasn't there
        [b"R./a", b"T./b"],  # onto a name that was there
        [b"R./a", b"T./a/b", b"R./b", b"T./c"],  # into itself
        [b"R./b", b"T./c", b"R./c", b"T./d"],  # a chain
    ],
)
def test_where_renames_cannot_be_trusted_no_file_is_guessed(renames):
    full = {b"": [b"Da", b"Db", b"De"], b"a": [b"Yf"], b"b": [b"Yf"], b"e": [b"Yf"]}
    after = {**full, b"": [*full[b""], *renames]}
    after |= {name: [b"Nf"] for name in (b"a", b"b", b"e")}
    tree = _made(full, after)
    touched = [name for name in (b"a", b"b") if b"./" + name in b" ".join(renames)]
    assert touched
    assert [tree.stored(name + b"/f") for name in touched] == [None] * len(touched)
    assert tree.stored(b"e/f") == Stored(0, b"e")


def test_a_directory_renamed_into_a_renamed_one_is_not_guessed():
    tree = _made(
        {b"": [b"Da", b"Db"], b"a": [b"Yf"], b"b": [b"Yf"]},
        {
            b"": [b"Dx", b"R./a", b"T./x", b"R./b", b"T./x/y"],
            b"x": [b"Nf", b"Dy"],
            b"x/y": [b"Nf"],
        },
    )
    assert [tree.stored(name) for name in (b"x/f", b"x/y/f")] == [None, None]


def test_doubt_lasts_through_the_later_levels_until_a_file_is_stored_again():
    full = {b"": [b"Da", b"Db"], b"a": [b"Yf", b"Yg"], b"b": [b"Yf"]}
    swap = [b"X.", b"R./a", b"T", b"R./b", b"T./a", b"R", b"T./b"]
    second = {b"": [b"Da", b"Db", *swap], b"a": [b"Nf"], b"b": [b"Nf", b"Ng"]}
    third = {b"": [b"Da", b"Db"], b"a": [b"Yf"], b"b": [b"Nf", b"Yg"]}
    tree = _made(full, second, third)
    assert tree.stored(b"a/f") == Stored(2, b"a")
    assert tree.stored(b"b/g") == Stored(2, b"b")
    assert tree.stored(b"b/f") is None


def test_an_excluded_name_is_stored_nowhere_and_not_listed():
    tree = _made({b"": [b"Yf", b"Nexcluded"]}, {b"": [b"Nf", b"Nexcluded"]})
    assert tree.children(b"") == ([], [b"f"])
    assert tree.kind(b"excluded") is None


def test_children_are_those_directly_in_a_directory():
    tree = _made({b"": [b"Da", b"Yz"], b"a": [b"Db", b"Yx"], b"a/b": [b"Yy"], b"ab": []})
    assert tree.children(b"") == ([b"a", b"ab"], [b"z"])
    assert tree.children(b"a") == ([b"b"], [b"x"])


@pytest.mark.parametrize("record", [b"Y../x", b"Y..", b"Y.", b"Ya/b", b"Q", b"Y", b"Tx"])
def test_a_record_that_is_none_or_leads_out_is_an_error(record):
    with pytest.raises(ParseError):
        _made({b"": [record]})


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", ".."])
def test_a_directory_that_leads_out_is_an_error(name):
    member = tarfile.TarInfo(name)
    member.type, member.pax_headers = tarfile.DIRTYPE, {"GNU.dumpdir": "Yf\0\0"}
    with pytest.raises(ParseError, match="leads out"):
        amanda_tree.read_dumpdirs(io.BytesIO(member.tobuf(tarfile.PAX_FORMAT)))


def test_an_archive_that_is_no_dump_is_an_error():
    member = tarfile.TarInfo("./")
    member.type = tarfile.DIRTYPE
    with pytest.raises(ParseError, match="without its list"):
        amanda_tree.read_dumpdirs(io.BytesIO(member.tobuf(tarfile.PAX_FORMAT)))
