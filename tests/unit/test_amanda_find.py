"""Which DLE holds a path, and in which dumps it is."""

import dataclasses
import shutil
from pathlib import Path

import amanda_find
import amanda_sources
import pytest
from amanda_catalogue import Dump, Part
from amanda_errors import AmandaError, ArgumentError

CAPTURED = Path(__file__).parent / "captured" / "restore"


def _dump(disk, timestamp, level=0, host="web1"):
    part = Part("daily-0001", 1, 1, 1000, timestamp)
    values = {field: None for field in Dump.__dataclass_fields__}
    values |= {"config": "daily", "host": host, "disk": disk, "timestamp": timestamp}
    values |= {"level": level, "status": "OK", "parts": (part,), "size": 1000, "message": ""}
    return Dump(**values)


@pytest.fixture
def indexed(tmp_path):
    """A catalogue of three dumps of /srv/hard, with their indexes."""
    dumps = [_dump("/srv/hard", f"2026112{day}010203", day) for day in range(3)]
    directory = tmp_path / "web1" / "_srv_hard"
    directory.mkdir(parents=True)
    for dump in dumps:
        name = f"{dump.timestamp}_{dump.level}-unsorted.gz"
        shutil.copy(CAPTURED / f"amgtar_{dump.level}-unsorted.gz", directory / name)
    return amanda_sources.Catalogue("daily", dumps, None, tmp_path)


def _levels(versions):
    return [version["level"] for version in versions]


def test_the_longest_disk_holds_a_path():
    dumps = [_dump(disk, "20261101000000") for disk in ("/", "/srv", "/srv/data", "/srv/data2")]
    chain, name = amanda_find.locate(dumps, "web1", "/srv/data/x/y")
    assert (chain[0].disk, name) == ("/srv/data", b"x/y")
    assert amanda_find.locate(dumps, "web1", "/srv/data")[1] == b""
    assert amanda_find.locate(dumps, "web1", "/etc")[0][0].disk == "/"


def test_before_the_longest_disk_was_dumped_the_one_above_holds_it():
    dumps = [_dump("/srv", "20261101000000"), _dump("/srv/data", "20261105000000")]
    assert amanda_find.locate(dumps, "web1", "/srv/data/x", "20261103000000")[1] == b"data/x"
    assert amanda_find.locate(dumps, "web1", "/srv/data/x", "20261106000000")[1] == b"x"


def test_a_retired_disk_does_not_hide_newer_dumps_of_the_one_above():
    dumps = [_dump("/home/ada", "20260101000000"), _dump("/home", "20260301000000")]
    chain, name = amanda_find.locate(dumps, "web1", "/home/ada/x")
    assert (chain[0].timestamp, name) == ("20260301000000", b"ada/x")
    chain, name = amanda_find.locate(dumps, "web1", "/home/ada/x", "20260201000000")
    assert (chain[0].timestamp, name) == ("20260101000000", b"x")


def test_a_dump_that_failed_in_the_longest_disk_leaves_it_to_the_one_above():
    dumps = [_dump(disk, "20260301000000") for disk in ("/home", "/home/ada")]
    dumps += [_dump("/home", "20260302000000"), _dump("/home/ada", "20260302000000")]
    dumps[-1] = dataclasses.replace(dumps[-1], status="PARTIAL")
    assert amanda_find.locate(dumps, "web1", "/home/ada/x")[1] == b"ada/x"
    assert amanda_find.locate(dumps, "web1", "/home/ada/x", "20260301000000")[1] == b"x"


def test_a_moment_before_the_first_dump_is_an_error():
    with pytest.raises(AmandaError, match="web1"):
        amanda_find.locate([_dump("/srv", "20261101000000")], "web1", "/srv/x", "20261001000000")


def test_an_unknown_host_is_an_error_that_names_those_there_are():
    dumps = [_dump("/srv", "20261101000000", host=host) for host in ("web1", "db1")]
    with pytest.raises(ArgumentError, match="'web2'.*: db1, web1"):
        amanda_find.locate(dumps, "web2", "/srv")


def test_a_path_that_is_not_dumped_is_an_error_that_names_what_is():
    with pytest.raises(ArgumentError, match=r"/srv/data2 is in no directory.*: /srv/data$"):
        amanda_find.locate([_dump("/srv/data", "20261101000000")], "web1", "/srv/data2")


def test_versions_are_the_dumps_that_store_a_path_the_newest_first(indexed):
    versions = amanda_find.versions(indexed, "web1", "/srv/hard/kinds/plain")
    assert _levels(versions) == [2, 1, 0]
    assert versions[0]["timestamp"] == "2026-11-22T01:02:03"
    assert versions[0]["labels"] == ["daily-0001"]
    assert _levels(amanda_find.versions(indexed, "web1", "/srv/hard/kinds/setuid")) == [0]
    assert _levels(amanda_find.versions(indexed, "web1", "/srv/hard/names/new\\nline")) == [
        2,
        0,
    ]


def test_versions_tell_a_directory_from_a_file(indexed):
    versions = amanda_find.versions(indexed, "web1", "/srv/hard/empty")
    assert [version["type"] for version in versions] == ["file", "directory"]


def test_a_dump_whose_index_is_lost_is_shown_as_unknown(indexed):
    next(indexed.index.rglob("*_2-unsorted.gz")).unlink()
    versions = amanda_find.versions(indexed, "web1", "/srv/hard/kinds/setuid")
    assert [(version["level"], version["type"]) for version in versions] == [(2, None), (0, "file")]


def test_a_path_that_no_dump_stores_is_an_error(indexed):
    with pytest.raises(ArgumentError, match="no dump of web1 stores /srv/hard/never"):
        amanda_find.versions(indexed, "web1", "/srv/hard/never")


@pytest.mark.parametrize(
    ("disk", "name", "base"),
    [("/srv/data", b"", b"data"), ("/srv/data/", b"a/b", b"b"), ("/", b"", b"rootfs")],
)
def test_what_is_restored_keeps_the_last_part_of_its_path(disk, name, base):
    assert amanda_find.base_name(disk, name) == base


def test_without_a_path_each_directory_is_listed_with_its_newest_dump():
    dumps = [_dump("/srv", "20261105000000", 1), _dump("/etc", "20261101000000")]
    dumps += [_dump("/srv", "20261101000000"), _dump("/home", "20261101000000", host="db1")]
    listed = amanda_find.list_disks(dumps, "web1")
    assert [(each["disk"], each["level"]) for each in listed] == [("/etc", 0), ("/srv", 1)]
    listed = amanda_find.list_disks(dumps, "web1", at="20261102000000")
    assert [(each["disk"], each["level"]) for each in listed] == [("/etc", 0), ("/srv", 0)]
    with pytest.raises(ArgumentError, match="no dump of web1 made by 2026-10-31"):
        amanda_find.list_disks(dumps, "web1", at="20261031000000")
    with pytest.raises(ArgumentError, match="there are dumps of: db1, web1"):
        amanda_find.list_disks(dumps, "web2")
