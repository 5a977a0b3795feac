"""Which config a file comes back from, and of what moment."""

import os
import time
from pathlib import Path

import amanda_find
import amanda_settings
import amanda_sources
import pytest
from amanda_errors import AmandaError, ArgumentError


@pytest.fixture
def server(tmp_path):
    """Give a function that makes a server with dumps: by config, disks and their timestamps."""

    def make(**configs):
        for config, dumps in configs.items():
            state = tmp_path / "state" / config
            (state / "log").mkdir(parents=True)
            tapelist = ""
            for number, (disk, timestamp) in enumerate(dumps, 1):
                label = f"{config}-{number:04}"
                tapelist = f"{timestamp} {label} reuse\n" + tapelist
                (state / "log" / f"log.{timestamp}.0").write_text(_log(label, disk, timestamp))
            (state / "tapelist").write_text(tapelist)
        pillar = {"server": "server1", "configs": dict.fromkeys(configs, {})}
        paths = {name: str(tmp_path / name) for name in ("state", "tapes", "holding")}
        return amanda_settings.parse({**pillar, "paths": paths}, "server1")

    return make


def _log(label, disk, timestamp):
    stores = f'"ST:{label}" "POOL:{label}"'
    crcs = "805b475e:10240 805b475e:10240 805b475e:10240"
    measured = "[sec 0.1 bytes 10240 kps 100.0 orig-kb 10]"
    return (
        f"START taper datestamp {timestamp} {stores} label {label} tape 1\n"
        f"PART taper {stores} {label} 1 web1 {disk} {timestamp} 1/-1 0 {measured}\n"
        f"DONE taper {stores} web1 {disk} {timestamp} 1 0 {crcs} {measured}\n"
    )


def _holding(settings, path, config=None, at=None):
    return amanda_sources.holding(amanda_sources.Origin(settings, None), "web1", path, config, at)


def _held_by(settings, path, at=None, config=None):
    with _holding(settings, path, config, at) as catalogue:
        return catalogue.config


def test_the_config_with_the_newest_dump_of_a_path_gives_it_back(server):
    settings = server(
        old=[("/home/ada", "20260101010000")],
        new=[("/home", "20260301010000")],
        other=[("/etc", "20260401010000")],
    )
    assert _held_by(settings, "/home/ada/x") == "new"
    assert _held_by(settings, "/etc/hosts") == "other"
    assert _held_by(settings, None) == "other"


def test_of_an_earlier_moment_it_is_the_config_that_was_the_newest_by_then(server):
    settings = server(
        new=[("/home", "20260301010000"), ("/home", "20260501010000")],
        old=[("/home", "20260101010000"), ("/home", "20260401010000")],
    )
    assert _held_by(settings, "/home") == "new"
    assert _held_by(settings, "/home", "20260415000000") == "old"
    assert _held_by(settings, "/home", "20260315000000") == "new"
    assert _held_by(settings, "/home", "20260215000000") == "old"


def test_the_config_that_is_named_counts_however_old(server):
    settings = server(old=[("/home", "20260101010000")], new=[("/home", "20260301010000")])
    assert _held_by(settings, "/home", config="old") == "old"


def test_a_moment_before_all_dumps_is_an_error_that_names_the_first_there_is(server):
    settings = server(daily=[("/home", "20260301010000")])
    held = _holding(settings, "/home", at="20250101000000")
    with held as catalogue, pytest.raises(AmandaError, match="2026-03-01T01:00:00"):
        amanda_find.locate(catalogue.dumps, "web1", "/home", "20250101000000")


def test_a_path_in_no_config_is_an_error_that_names_each(server):
    settings = server(old=[("/home", "20260101010000")], new=[("/home", "20260301010000")])
    with pytest.raises(ArgumentError, match="in old, .*in new, "):
        _held_by(settings, "/etc")


def test_a_config_that_can_not_be_read_keeps_no_other_from_giving_back_and_is_told_of(server):
    settings = server(bad=[("/home", "20260401010000")], good=[("/home", "20260301010000")])
    Path(settings.paths.state, "bad", "tapelist").write_text("nonsense\n")
    with _holding(settings, "/home") as catalogue:
        assert catalogue.config == "good"
        assert list(catalogue.unread) == ["bad"] and "nonsense" in catalogue.unread["bad"]
    with _holding(settings, "/home", "good") as catalogue:
        assert catalogue.unread == {}


def test_a_config_without_the_path_is_not_told_of(server):
    settings = server(old=[("/home", "20260101010000")], new=[("/etc", "20260301010000")])
    with _holding(settings, "/home") as catalogue:
        assert catalogue.unread == {}


@pytest.fixture
def zone(monkeypatch):
    """A server two hours ahead of UTC."""
    monkeypatch.setitem(os.environ, "TZ", "XXX-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("at", "timestamp"),
    [
        (None, None),
        ("2026-11-20", "20261120235959"),
        ("2026-11-20T18:00", "20261120180000"),
        ("2026-11-20 18:00", "20261120180000"),
        (" 2026-11-20T18:00:07 ", "20261120180007"),
        ("2026-11-20T18:00Z", "20261120200000"),
        ("2026-11-20T18:00:07+00:00", "20261120200007"),
        ("2026-11-20 23:30-01:00", "20261121023000"),
    ],
)
def test_a_moment_is_read_as_it_is_documented(zone, at, timestamp):
    assert amanda_sources.timestamp(at) == timestamp


@pytest.mark.parametrize(
    "at",
    [
        "", "now", "yesterday", "20261120", "20261120180000", "2026-11", "2026-W47-5", "2026-324",
        "2026-11-20T18", "2026-11-20T1800", "2026-11-20x18:00", "2026-11-20T18:00:00.5",
        "2026-11-20T18:00+01", "2026-11-20T18:00 +01:00", "2026-11-20Z", "2026-11-20T24:01",
        "2026-02-30", "2026-13-01", "2026-11-20T18:00+99:00", "0001-01-01T00:00+14:00",
        "２０２６-11-20", "2026-11-20\n2026-11-21", 20261120, True,
    ],
)  # fmt: skip
def test_any_other_moment_is_refused_with_an_example(zone, at):
    with pytest.raises(ArgumentError, match="is no moment: write it as 2026-11-23 or"):
        amanda_sources.timestamp(at)
