"""The index, as amdump wrote it."""

import dataclasses
import gzip
import io
import os
from pathlib import Path

import amanda_find
import amanda_index
import amanda_sources
import pytest
from amanda_errors import AmandaError, ParseError
from amanda_tarstream import TarReader

CAPTURED = Path(__file__).parent / "captured" / "restore"
INDEXES = sorted(CAPTURED.glob("*-unsorted.gz"))


@dataclasses.dataclass
class _Dump:
    host: str
    disk: str
    timestamp: str = "20261123085046"
    level: int = 1


@pytest.mark.parametrize("index", INDEXES, ids=lambda path: path.name)
def test_the_index_names_what_is_in_the_archive(index):
    archive = index.with_name(index.name.replace("-unsorted", ".tar"))
    members = list(TarReader(io.BytesIO(gzip.decompress(archive.read_bytes()))))
    expected = [
        b"/" + member.name + (b"/" if member.is_directory and member.name else b"")
        for member in members
    ]
    assert list(amanda_index.names(index)) == expected


def test_a_name_is_found_as_what_it_is():
    full, after = CAPTURED / "amgtar_0-unsorted.gz", CAPTURED / "amgtar_1-unsorted.gz"
    assert amanda_index.kind(full, b"") == "directory"
    assert amanda_index.kind(full, b"names") == "directory"
    assert amanda_index.kind(full, b"names/new\nline") == "file"
    assert amanda_index.kind(full, b"names/latin-\xe9\xff") == "file"
    assert amanda_index.kind(full, b"name") is None
    assert [amanda_index.kind(index, b"empty") for index in (full, after)] == ["directory", "file"]


@pytest.mark.parametrize(
    ("name", "directory"),
    [
        ("/srv/a b/c  d", b"_srv_a b_c  d"),
        ("/srv/c:d", b"_srv_c_d"),
        ("/srv/back\\slash", b"_srv_back_slash"),
        ('/srv/a"b*', b'_srv_a"b*'),
        ("/srv/é", "_srv_é".encode()),
        ("/srv/la\udcfct", b"_srv_la\xfct"),
        ("web1.example.com", b"web1.example.com"),
    ],
)
def test_a_disk_has_the_directory_that_amanda_3_5_1_gives_it(name, directory):
    assert amanda_index.sanitise(name) == directory


@pytest.mark.parametrize("suffix", ["-unsorted.gz", ".gz", "-sorted.gz"])
def test_the_index_of_a_dump_is_found(tmp_path, suffix):
    dump = _Dump("web1", "/srv/data")
    assert amanda_index.path(tmp_path, dump) is None
    file = tmp_path / "web1" / "_srv_data" / f"20261123085046_1{suffix}"
    file.parent.mkdir(parents=True)
    file.touch()
    assert amanda_index.path(tmp_path, dump) == file


@pytest.mark.parametrize(("host", "disk"), [("..", "/x"), ("web1", ".."), ("", "/x"), (".", "/x")])
def test_a_host_or_disk_that_leads_elsewhere_is_refused(tmp_path, host, disk):
    with pytest.raises(AmandaError, match="no index"):
        amanda_index.path(tmp_path, _Dump(host, disk))


@pytest.mark.parametrize("content", [b"no slash\n", b"/not ended", b"/bad\\escape\n", b"\n"])
def test_a_line_that_is_no_name_is_an_error(tmp_path, content):
    (tmp_path / "index").write_bytes(gzip.compress(b"/\n" + content))
    with pytest.raises(ParseError):
        list(amanda_index.names(tmp_path / "index"))


def test_a_damaged_index_is_an_error(tmp_path):
    content = INDEXES[0].read_bytes()
    cut, changed, nonsense = content[:-20], content[:-6] + b"\0" + content[-5:], content[:10]
    for damaged in (cut, changed, nonsense + b"\xff" * 20, b"text"):
        (tmp_path / "index").write_bytes(damaged)
        with pytest.raises(AmandaError):
            list(amanda_index.names(tmp_path / "index"))


def test_a_link_in_an_indexs_place_is_not_followed(tmp_path):
    (tmp_path / "index").symlink_to(INDEXES[0])
    with pytest.raises(AmandaError, match="can't read the index"):
        list(amanda_index.names(tmp_path / "index"))


def test_a_fifo_in_an_indexs_place_holds_nobody_up(tmp_path):
    os.mkfifo(tmp_path / "index")
    with pytest.raises(AmandaError, match="can't read the index"):
        list(amanda_index.names(tmp_path / "index"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_an_index_that_is_not_the_state_directorys_owners_is_refused(tmp_path):
    dump = _Dump("web1", "/srv/data")
    file = tmp_path / "index" / "web1" / "_srv_data" / "20261123085046_1.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(gzip.compress(b"/\n"))
    os.chown(tmp_path, 65534, 65534)
    catalogue = amanda_sources.Catalogue("daily", [dump], None, tmp_path / "index")
    found = amanda_index.path(catalogue.index, dump)
    with pytest.raises(AmandaError, match="can't read the index.*another user"):
        amanda_index.kind(found, b"", tmp_path)
    with pytest.raises(AmandaError, match="can't read the index.*another user"):
        amanda_find.versions(catalogue, "web1", "/srv/data")
    os.chown(file, 65534, 65534)
    assert amanda_index.kind(found, b"", tmp_path) == "directory"
