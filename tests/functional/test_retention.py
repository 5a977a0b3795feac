"""Days of runs under shifted clocks: the last state of every DLE stays on tape, whatever comes.

Each run is the installed program on a server whose clock is ahead by days; the clients' clocks are
the host's own, and nobody writes into Amanda's files. Needs root on a host with Amanda, sshd and
faketime.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import amanda_catalogue
import amanda_chain
import amanda_fleet
import amanda_layout
import amanda_restore
import amanda_results
import amanda_sources
import pytest
from amanda_errors import AmandaError

from tests.functional.ssh_fleet import ROOT, SshFleet

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, Amanda, sshd and faketime")

AMDUMP = Path("/usr/sbin/amdump")
ASIDE = AMDUMP.with_name("amdump.unshifted")
DATA = ROOT / "data"
HOSTS = {"good": "web1", "large": "web1", "fails": "web2", "retired": "db1", "gaps": "db2"}
"""The client of each directory, by the name that says what becomes of it."""
FAILS, GAPS, RETIRED, LARGE = 2, 2, 4, 4
"""The days on which it does; see :meth:`Story.morning`."""


class Story(SshFleet):
    """A fleet whose server lives a day from each run to the next."""

    today = 0

    def __init__(self):
        super().__init__()
        self.states = {}
        """What each directory held when it was dumped, by its name and the dump's timestamp."""
        self.expected = {}
        """By name, the timestamps of the dumps that must be restorable."""
        self.pillar["configs"]["daily"].update(
            dumpcycle=2,
            tapecycle=3,
            slots=10,
            tapetype={"length": "20 mbytes", "part-size": "1 mbytes"},
        )
        self.configure()
        for name in HOSTS:
            directory(name).mkdir(parents=True)
        for host in dict.fromkeys(HOSTS.values()):
            self.client(host, [str(directory(name)) for name in HOSTS if HOSTS[name] == host])

    def start(self, action, config="daily"):
        identity = self.specify(action, config)
        argv = ["faketime", "-f", f"+{self.today}d", sys.executable, "-I"]
        process = subprocess.Popen([*argv, amanda_layout.ENGINE, identity], cwd="/")
        return process, amanda_results.path(config, identity)

    def morning(self, day):
        """Let a day begin, with what it brings."""
        self.today = day
        (ROOT / "clock").write_text(f"+{self.today}d")
        for name in HOSTS:
            if directory(name).exists():
                (directory(name) / "diary").write_text(f"{name} on day {self.today}")
                (directory(name) / f"of day {self.today}").write_bytes(os.urandom(20_000))
        if self.today == FAILS:
            shutil.rmtree(directory("fails"))
        if self.today == RETIRED:
            fleet = amanda_fleet.load(amanda_layout.FLEET)
            fleet = amanda_fleet.retire(fleet, HOSTS["retired"])
            amanda_fleet.save(fleet, amanda_layout.FLEET)
        if self.today == GAPS:
            bury(directory("gaps"))
        if self.today == LARGE:
            for name in ("good", "large"):
                (directory(name) / "heap").write_bytes(os.urandom(12_000_000))

    def night(self):
        """Back up, and note what must be had from tapes now; returns the step's result."""
        there = {name: content(directory(name)) for name in HOSTS if directory(name).exists()}
        (step,) = [step for step in self.run("backup")["steps"] if step["step"] == "dump"]
        for name, state in there.items():
            self.states[name, step["timestamp"]] = state
        waiting = {(each["disk"], each["timestamp"]) for each in step["holding"]}
        for entry in (*step["dles"], *step["flushed"]):
            timestamp = entry.get("timestamp", step["timestamp"])
            taped = entry["success"] or (
                entry["unread"] and (entry["disk"], timestamp) not in waiting
            )
            name = Path(entry["disk"]).name
            if taped and name == "gaps" and self.today >= GAPS:
                # So must be the last without a gap.
                self.expected[name] = {min(self.expected[name]), timestamp}
            elif taped:
                self.expected[name] = {timestamp}
        return step

    def lost(self):
        """Return what can't be restored as it was, a list of texts."""
        catalogue = amanda_sources.on_tape(self.places)
        found = []
        wanted = [(name, each) for name in HOSTS for each in self.expected[name]]
        for name, timestamp in wanted:
            into = ROOT / "restored"
            dle = HOSTS[name], str(directory(name))
            try:
                amanda_chain.chain(catalogue.dumps, *dle)  # also without naming a time
                amanda_restore.recover(catalogue, *dle, str(into), at=timestamp)
            except AmandaError as error:
                found.append(f"day {self.today}: {name} of {timestamp}: {error}")
                continue
            if content(into / name) != self.states[name, timestamp]:
                found.append(f"day {self.today}: {name} of {timestamp} is another")
            shutil.rmtree(into)
            into.with_name("restored.sha256").unlink()
        return found

    def remove(self):
        subprocess.run(["rm", "-rf", ROOT], check=True)  # shutil fails on paths that are too long
        super().remove()


def directory(name):
    return ROOT / "data" / name


def bury(top):
    """Make a file in *top* whose path is longer than any program can name."""
    handle = os.open(top, os.O_DIRECTORY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=handle)
        below = os.open("d" * 250, os.O_DIRECTORY, dir_fd=handle)
        os.close(handle)
        handle = below
    os.close(handle)


def content(top):
    """Return the content of the files in *top* by name."""
    return {path.name: path.read_bytes() for path in top.iterdir() if path.is_file()}


@pytest.fixture
def story():
    """The story; meanwhile amdump, which gets a clean environment, takes the clock from a file."""
    shutil.move(AMDUMP, ASIDE)
    AMDUMP.write_text(
        f'#!/bin/sh\nexec faketime -f "$(cat {ROOT}/clock)" {ASIDE} "$@"\n', encoding="ascii"
    )
    AMDUMP.chmod(0o755)
    try:
        made = Story()
        yield made
        made.remove()
    finally:
        shutil.move(ASIDE, AMDUMP)


@pytest.mark.parametrize("days", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_day_after_day_the_last_state_of_every_directory_can_be_restored(story, days):
    fulls, flushed = set(), set()
    for day in range(days):
        story.morning(day)
        step = story.night()
        assert story.lost() == [], step
        flushed |= {Path(entry["disk"]).name for entry in step["flushed"] if entry["success"]}
        fulls |= {
            (Path(dump.disk).name, "whole" if dump.complete else "gaps", dump.status)
            for dump in amanda_catalogue.read(story.places)
            if dump.level == 0
        }
    assert len(step["held"]) >= 2
    assert set(story.expected) == set(HOSTS)
    assert ("gaps", "gaps", "OK") in fulls
    late = {name for name in ("good", "large") if (name, "whole", "PARTIAL") in fulls}
    assert late and late <= flushed


def test_without_the_tapes_held_back_the_same_days_lose_them(story):
    """The defence taken out of the program that was installed."""
    with (amanda_layout.PROGRAMS / "amanda_retention.py").open("a", encoding="utf-8") as module:
        module.write("\nhold = look\n")
    for day in range(4):
        story.morning(day)
        story.night()
    (lost,) = [each for each in story.lost() if "fails" in each]
    assert "that is on no tape; no state before that can be had" in lost


@pytest.mark.slow
def test_what_was_retired_is_let_go_after_its_time_and_nothing_else_is(story):
    """The retirement has the time of the host's own clock, which is that of day 0."""
    story.pillar["keep_retired"] = over = 6
    host, disk = HOSTS["retired"], str(directory("retired"))
    for day in range(over + 6):
        story.morning(day)
        step = story.night()
        if day == RETIRED:
            (last,) = story.expected["retired"]
        if day > over:
            story.expected["retired"] = set()
        assert story.lost() == [], step
        if day > RETIRED and last not in {
            dump.timestamp for dump in amanda_catalogue.read(story.places) if dump.disk == disk
        }:
            break
    else:
        raise AssertionError(f"{disk} of {last} is on tape still: {step}")
    assert day > over
    # What Amanda dumped once it would take in again with settings of its own.
    assert "ignore yes" in (story.places.conf / "disklist").read_text().partition(host)[2]
