"""Whether a taper that waits for ever is ended, and no other."""

import os
import signal
import subprocess
import types

import amanda_taper
import pytest


@pytest.fixture
def process():
    started = subprocess.Popen(["sleep", "600"])
    yield started
    started.kill()
    started.wait()


@pytest.fixture
def disk(monkeypatch):
    """The disk of the tapes: set ``f_bavail``."""
    room = types.SimpleNamespace(f_bavail=0, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: room)
    return room


def watch(moments):
    places = types.SimpleNamespace(tapes="/srv/tapes")
    return amanda_taper.Watch(places, None, clock=iter(moments).__next__)


def test_a_taper_whose_disk_is_full_for_a_minute_is_ended_and_the_cause_told(process, disk):
    watched = watch([100, 159, 161])
    for _ in range(2):
        watched.look(process.pid)
    assert process.poll() is None and watched.problem == ""
    watched.look(process.pid)
    assert process.wait(timeout=10) == -signal.SIGTERM
    assert watched.problem == "the disk of the tapes, /srv/tapes, is full"


def test_a_disk_that_has_room_again_begins_the_minute_anew(process, disk):
    watched = watch([100, 200, 259])
    watched.look(process.pid)
    disk.f_bavail = 1000
    watched.look(process.pid)
    disk.f_bavail = 0
    for _ in range(2):
        watched.look(process.pid)
    assert process.poll() is None


def test_before_there_is_a_taper_none_is_ended(disk):
    watched = watch([])
    watched.look(None)
    assert watched.problem == ""


def test_a_disk_that_is_full_in_the_end_is_told(disk):
    watched = watch([])
    watched.finish()
    assert watched.problem
    disk.f_bavail = 1000
    watched = watch([])
    watched.finish()
    assert watched.problem == ""
