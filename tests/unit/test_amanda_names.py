"""Names as text and back."""

import json
import random

import amanda_names
import pytest
from amanda_errors import ArgumentError, ParseError

from tests.functional.hard_tree import NAMES


def _some_names():
    chance = random.Random(5)
    yield from NAMES
    yield from (bytes([byte]) for byte in range(1, 256))
    yield from (chance.randbytes(40) for _ in range(500))


def test_any_name_is_text_and_comes_back():
    for name in _some_names():
        assert amanda_names.raw(amanda_names.text(name)) == name


def test_text_has_nothing_that_a_terminal_or_json_could_stumble_on():
    for name in _some_names():
        text = amanda_names.text(name)
        assert text.isprintable()
        assert json.loads(json.dumps(text).encode("utf-8")) == text
        assert text.encode("utf-8")


@pytest.mark.parametrize("name", ["plain", "with space", "ünïcödé-日本", "quote'\"", "-*?[]{}"])
def test_a_printable_name_stands_for_itself(name):
    assert amanda_names.text(name.encode()) == name


def test_a_name_is_read_as_tar_writes_it():
    assert amanda_names.unescape(rb"a\nb\tc\rd\\e\101\377\a\b\v\f") == (
        b"a\nb\tc\rd\\eA\xff\a\b\v\f"
    )


@pytest.mark.parametrize("text", ["one\\", "\\x", "\\8", "\\12", "\\477"])
def test_a_backslash_that_begins_no_escape_is_refused(text):
    with pytest.raises(ArgumentError, match="written twice"):
        amanda_names.raw(text)
    with pytest.raises(ParseError):
        amanda_names.unescape(text.encode())


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/", b"/"),
        ("//srv///data/./x/", b"/srv/data/x"),
        ("/a\\nb", b"/a\nb"),
        ("/...", b"/..."),
    ],
)
def test_a_path_is_brought_into_plain_form(path, plain):
    assert amanda_names.absolute(path) == plain


@pytest.mark.parametrize("path", ["", "srv", "/srv/../etc", "/srv/..", "/a\\000b", "\\057srv/.."])
def test_a_path_that_is_relative_or_climbs_is_refused(path):
    with pytest.raises(ArgumentError, match="no absolute path"):
        amanda_names.absolute(path)


def test_a_checksum_line_marks_a_name_that_needs_quoting():
    assert amanda_names.checksum_line("0a", b"./plain \xff") == b"0a  ./plain \xff\n"
    assert amanda_names.checksum_line("0a", b"a\\b\nc\rd") == b"\\0a  a\\\\b\\nc\\rd\n"


@pytest.mark.parametrize("path", [5, None, ["/etc"], {"/etc": None}, b"/etc"])
def test_what_is_no_text_is_no_path(path):
    with pytest.raises(ArgumentError, match="is no absolute path: write it as text"):
        amanda_names.absolute(path)
