"""The settings of the last good apply, for when the pillar is broken."""

import json

import amanda_applied
import amanda_settings
import pytest
from amanda_errors import PillarError

PILLAR = {"server": "server1", "configs": {"weekly": {"dumpcycle": "7 days"}}}
ERROR = PillarError("backup:colour", "unknown key", "Remove it.")


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(amanda_applied, "FILE", tmp_path / "settings.json")
    return tmp_path / "settings.json"


def keep(file, **changes):
    (wanted,) = amanda_applied.files(amanda_settings.parse({**PILLAR, **changes}, "server1"))
    assert wanted.path == file and wanted.mode == 0o600
    file.write_bytes(wanted.content)


def test_what_the_last_good_apply_kept_is_read_back(file):
    keep(file)
    settings = amanda_applied.load("server1", ERROR)
    assert settings == amanda_settings.parse(PILLAR, "server1")


def test_before_there_was_a_good_apply_the_pillars_error_is_raised(file):
    with pytest.raises(PillarError, match="backup:colour"):
        amanda_applied.load("server1", ERROR)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"minion_id": 5}',
        b'{"minion_id": "server1", "pillar": []}',
        json.dumps({"minion_id": "server1", "pillar": {**PILLAR, "old": 1}}).encode(),
    ],
)
def test_what_can_not_be_used_any_more_counts_as_none_at_all(file, content):
    file.write_bytes(content)
    with pytest.raises(PillarError, match="backup:colour"):
        amanda_applied.load("server1", ERROR)


def test_what_another_minion_left_on_a_cloned_disk_is_not_used(file):
    keep(file)
    with pytest.raises(PillarError, match="backup:colour"):
        amanda_applied.load("clone", ERROR)


def test_a_minion_that_was_not_the_server_has_none(file):
    keep(file, server="other")
    with pytest.raises(PillarError, match="backup:colour"):
        amanda_applied.load("server1", ERROR)
