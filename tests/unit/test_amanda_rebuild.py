"""What is asked before a rebuild begins, and how it puts things in their place."""

import contextlib
import dataclasses
import os
import pwd
from types import SimpleNamespace

import amanda_generations
import amanda_layout
import amanda_platform
import amanda_rebuild
import amanda_settings
import amanda_tapes_back
import pytest
from amanda_errors import AmandaError, ArgumentError

from tests.mirror_site import Site

ME = pwd.getpwuid(os.geteuid()).pw_name
RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"


@pytest.fixture
def settings(tmp_path):
    """Give settings of a server with three configs, and a mirror that has two of them."""
    pillar = {
        "server": "server1",
        "configs": {"daily": {}, "weekly": {}, "yearly": {}},
        "mirror": {"user": "nobody", "directory": str(tmp_path)},
        "encryption": {"recipients": [RECIPIENT]},
    }
    for name, generation in (("daily", "20250101T000000Z"), ("weekly", "20250102T000000Z")):
        (tmp_path / name / "generations" / generation).mkdir(parents=True)
    settings = amanda_settings.parse(pillar, "server1")
    # root may stand in a test's settings, not in a pillar
    return dataclasses.replace(settings, mirror=dataclasses.replace(settings.mirror, user=ME))


def test_all_configs_that_the_mirror_has_are_rebuilt_the_newest_generation_first(settings):
    assert amanda_rebuild.configs(settings) == ["weekly", "daily"]
    assert amanda_rebuild.configs(settings, "daily", "20250101T000000Z") == ["daily"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"config": "yearly"}, "has no generation of yearly: is it mounted"),
        ({"config": "hourly"}, "there is no config 'hourly'"),
        ({"generation": "20250101T000000Z"}, "add config=, one of daily, weekly"),
    ],
)
def test_what_can_not_be_rebuilt_is_told(settings, options, said):
    with pytest.raises(ArgumentError, match=said):
        amanda_rebuild.configs(settings, **options)


def test_without_a_mirror_in_the_pillar_there_is_nothing_to_rebuild_from(settings):
    with pytest.raises(ArgumentError, match="set mirror in pillar backup"):
        amanda_rebuild.configs(dataclasses.replace(settings, mirror=None))


def test_a_mirror_that_is_not_there_is_told(settings, tmp_path):
    away = dataclasses.replace(settings.mirror, directory=str(tmp_path / "away"))
    with pytest.raises(AmandaError, match="doesn't exist. Mount it"):
        amanda_rebuild.configs(dataclasses.replace(settings, mirror=away))


def test_what_amcrypt_sealed_asks_for_its_two_key_files_first(tmp_path, monkeypatch, settings):
    cat = tmp_path / "crypt"
    cat.write_text('#!/bin/sh\n[ ! -e "$0.lost" ] || exit 1\nexec cat\n')
    cat.chmod(0o755)
    monkeypatch.setitem(amanda_layout.CRYPT, "amcrypt", cat)
    site = Site(tmp_path / "site", ME, ME)
    site.write(1, "20250101010000", 5000)
    site.mirror(method="amcrypt")
    (tmp_path / "crypt.lost").touch()
    work = SimpleNamespace(
        settings=dataclasses.replace(settings, mirror=site.settings),
        platform=amanda_platform.PLATFORMS["Debian"],
        config=settings.config("daily"),
        user=ME,
        options={},
    )
    manifest = amanda_generations.load(site.settings, "daily")
    with contextlib.ExitStack() as stack, pytest.raises(AmandaError) as caught:
        amanda_rebuild._opened(stack, work, manifest)
    for path in ("/var/backups/.am_passphrase", "/var/backups/.gnupg/am_key.gpg"):
        assert path in str(caught.value)
    assert "first put your copies of the lost server's" in str(caught.value)


def test_of_a_swap_that_was_interrupted_the_rest_is_done(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    for path in (source / "b", source / "c", target / "a", target / "c"):
        path.mkdir(parents=True)
        (path / f"of {path.parent.name}").touch()
    (source / "c.old").mkdir()
    amanda_tapes_back.swap(str(source), str(target), ["a", "b", "c"])
    found = {path.name: sorted(os.listdir(path)) for path in target.iterdir()}
    assert found == {"a": ["of target"], "b": ["of source"], "c": ["of source"]}
    assert list(source.iterdir()) == []
