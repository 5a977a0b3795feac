"""Runs for real: amdump over SSH, and what is told of clients and tapes that fail."""

import os

import pytest

from tests.functional.ssh_fleet import ROOT, SshFleet

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, Amanda and sshd")


@pytest.fixture
def fleet():
    made = SshFleet()
    yield made
    made.remove()


def directory(name, size=200_000):
    """Make a directory with *size* bytes that don't compress; returns its path."""
    path = ROOT / "data" / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "blob").write_bytes(os.urandom(size))
    return str(path)


def steps(result):
    return {step["step"]: step for step in result["steps"]}


def dles(result):
    return {(entry["host"], entry["disk"]): entry for entry in steps(result)["dump"]["dles"]}


def test_a_run_dumps_every_client_and_the_catalogue_confirms_it(fleet):
    web, database = directory("web"), directory("database")
    fleet.client("web1", [web])
    fleet.client("db1", [database])
    result = fleet.run("backup")
    assert result["success"], result
    assert result["state"] == "finished"
    assert [step["step"] for step in result["steps"]] == ["collect", "cleanup", "canary", "dump"]
    first = dles(result)
    assert set(first) == {("web1", web), ("db1", database)}
    for entry in first.values():
        assert entry["level"] == 0
        assert entry["bytes"] > 200_000
        assert entry["original_bytes"] > 200_000
        assert entry["labels"] == ["daily-0001"]
        assert entry["reason"] == ""
    second = dles(fleet.run("backup"))
    assert {entry["level"] for entry in second.values()} == {1}
    assert {tuple(entry["labels"]) for entry in second.values()} == {("daily-0002",)}
