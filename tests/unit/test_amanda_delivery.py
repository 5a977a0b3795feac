"""Trees on their way: what is announced of them, and to whom they can go."""

import os

import amanda_delivery
import amanda_fleet
import pytest
from amanda_errors import ArgumentError


def test_holes_are_not_announced(tmp_path):
    (tmp_path / "plain").write_bytes(b"x" * 5000)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
        os.pwrite(file.fileno(), b"x" * 4096, 1 << 20)
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 1 << 30)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "link").symlink_to("/etc/passwd")
    size, entries = amanda_delivery.measure(tmp_path)
    assert 9096 <= size < 200000 and entries == 5


@pytest.mark.parametrize("retired", [None, "2026-11-23T12:00:00+00:00"])
def test_who_is_no_client_is_named_with_those_that_are(retired):
    known = amanda_fleet.Client("web1", "192.0.2.7", 22, ("ssh-ed25519 AAAA",), "")
    gone = amanda_fleet.Client("db1", None, None, (), "", retired=retired)
    fleet = amanda_fleet.Fleet((gone, known) if retired else (known,))
    assert amanda_delivery.client(fleet, "web1") is known
    with pytest.raises(ArgumentError, match="no client of this server, which knows: web1. Apply"):
        amanda_delivery.client(fleet, "db1")


def test_a_delivery_that_is_over_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(amanda_delivery, "DELIVERIES", tmp_path)
    with pytest.raises(ArgumentError, match="it is over"):
        amanda_delivery.load("20261123T120000Z-abcdef")
    with pytest.raises(ArgumentError, match="is not the id"):
        amanda_delivery.load("../../etc/passwd")
