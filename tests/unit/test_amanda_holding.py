"""What waits on the holding disk, from what amadmin really printed."""

import os
from pathlib import Path

import amanda_holding
import pytest
from amanda_errors import AmandaError, ParseError

CAPTURED = Path(__file__).parent / "captured" / "run"


def test_every_dump_on_the_holding_disk_is_listed_the_oldest_first():
    images = amanda_holding.parse((CAPTURED / "holding-list").read_text())
    assert len(images) == 5
    assert images[0] == {
        "host": "db1",
        "disk": "/srv/data/db1",
        "timestamp": "20261123083743",
        "level": 1,
        "size": 30754 * 1024,
    }
    assert [image["timestamp"] for image in images] == sorted(i["timestamp"] for i in images)


@pytest.mark.parametrize(
    ("printed", "disk"),
    [
        ("'/srv/data/db-1'", "/srv/data/db-1"),
        ("'/srv/data/it\\'s'", "/srv/data/it's"),
        ("'/srv/data/two words'", "/srv/data/two words"),
        ("'/srv/data/é'", "/srv/data/é"),
    ],
)
def test_a_directory_that_amadmin_quotes_is_one_word(printed, disk):
    (image,) = amanda_holding.parse(f"33         1   *   db1 {printed} 20261123085915\n")
    assert image["disk"] == disk


def test_an_empty_holding_disk_has_nothing():
    assert amanda_holding.parse("") == []
    assert amanda_holding.parse("size (kB)  lv outd dump specification\n") == []


def test_a_line_of_another_form_is_quoted():
    with pytest.raises(ParseError, match="something else"):
        amanda_holding.parse("something else entirely\n")


def image_file(directory, name, head):
    (directory / name).write_bytes(head.encode().ljust(32768, b"\0") + b"data")


def test_a_dump_is_moved_with_all_its_chunks_and_nothing_else(tmp_path):
    holding, aside = tmp_path / "holding", tmp_path / "aside"
    stamp = holding / "20261123083743"
    stamp.mkdir(parents=True)
    aside.mkdir()
    head = "AMANDA: FILE 20261123083743 db1 /srv/x  lev 1 comp N program /bin/tar\n"
    image_file(stamp, "db1._srv_x.1", head)
    image_file(stamp, "db1._srv_x.1.1", head.replace("FILE", "CONT_FILE"))
    image_file(stamp, "db1._srv_x.10", head.replace("/srv/x", "/srv/x.10"))
    image_file(stamp, "db1._srv_x.1.2", head.replace("/srv/x", "/srv/x.1"))
    image_file(stamp, "web1._srv_x.0", head.replace("db1", "web1"))
    image_file(stamp, "db1._srv_two words.0", head.replace("/srv/x", '"/srv/two words"'))
    old = aside / "db1._srv_x"
    old.mkdir()
    (old / "20261122083743.db1._srv_x.1").touch()
    path = amanda_holding._move(str(holding), str(aside), ["20261123083743", "db1", "/srv/x"])
    assert path == str(old)
    assert sorted(file.name for file in old.iterdir()) == [
        "20261123083743.db1._srv_x.1",
        "20261123083743.db1._srv_x.1.1",
    ]
    left = ["db1._srv_two words.0", "db1._srv_x.1.2", "db1._srv_x.10", "web1._srv_x.0"]
    assert sorted(file.name for file in stamp.iterdir()) == left
    wanted = ["20261123083743", "db1", "/srv/two words"]
    path = amanda_holding._move(str(holding), str(aside), wanted)
    assert os.listdir(path) == ["20261123083743.db1._srv_two words.0"]


def test_a_dump_that_is_listed_but_not_there_is_an_error(tmp_path):
    (tmp_path / "20261123083743").mkdir()
    with pytest.raises(AmandaError, match="db1 /srv/x"):
        amanda_holding._move(str(tmp_path), str(tmp_path), ["20261123083743", "db1", "/srv/x"])


def test_an_export_without_its_dumps_keeps_the_rates():
    export = (CAPTURED / "amadmin-export").read_bytes()
    assert amanda_holding.without_dumps(export).decode().splitlines()[7:] == [
        "host: db1",
        "disk: /srv/data/db1",
        "command: 0",
        "last_level: -1 -1",
        "consecutive_runs: 1",
        "full-rate: 15360.500000 -1.000000 -1.000000",
        "full-comp: 0.999707 -1.000000 -1.000000",
        "incr-rate: -1.000000 -1.000000 -1.000000",
        "incr-comp: -1.000000 -1.000000 -1.000000",
        "//",
    ]
