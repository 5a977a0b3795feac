"""Our catalogue against Amanda's own, on what real runs leave behind.

Needs root on a host with Amanda's server and client, age, zstd and faketime, and an address beside
127.0.0.1, without which Amanda doesn't know "localhost".
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import amanda_catalogue
import amanda_chain
import amanda_encryption
import amanda_layout
import amanda_log
import amanda_platform
import amanda_settings
import pytest
from amanda_errors import AmandaError

from tests.functional.local_amanda import USER, LocalAmanda

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
HERE = Path(__file__).parent
SOURCE = Path("/var/tmp/catalogue-source")
DISKS = ["big", "with space", 'q"uote', "ümläut", "co:lon,x", "plain"]
DUMPTYPES = ["direct", "gzip", "sealed", "plain", "sealed-gzip", "plain"]


def fill(name, size):
    """Make a directory to dump, with new content."""
    (SOURCE / name).mkdir(parents=True, exist_ok=True)
    (SOURCE / name / "data").write_bytes(os.urandom(size))


def quoted(name):
    """Return a disk's name as the disklist wants it."""
    text = f"{SOURCE}/{name}".replace('"', '\\"')
    return f'"{text}"'


def theirs(local):
    """Return what Amanda::DB::Catalog says of the dumps on tape, a set to compare."""
    run = local.command("perl", str(HERE / "catalogue_dumps.pl"), local.places.name)
    assert run.returncode == 0, run.stderr.decode()
    return {
        (one["host"], one["disk"], one["timestamp"], one["level"], one["status"], one["size"])
        + tuple((part["label"], part["file"], part["number"]) for part in one["parts"])
        for one in json.loads(run.stdout)
        if not one["status"].startswith("FAIL")  # all of its parts are gone, or some
    }


def ours(local):
    """Return what we say, a set to compare."""
    return {
        (one.host, one.disk, one.timestamp, one.level, one.status, one.size)
        + tuple((part.label, part.file, part.number) for part in one.parts)
        for one in amanda_catalogue.read(local.places)
    }


@pytest.fixture(scope="module")
def amanda():
    """Give an Amanda with few tapes, whose dumps span them."""
    amanda_layout.PROGRAMS.mkdir(parents=True, exist_ok=True)
    for program in (amanda_layout.CRYPT["age"], amanda_layout.COMPRESS):
        shutil.copy(HERE.parents[1] / "salt" / "backup" / "files" / program.name, program)
        program.chmod(0o755)
    amanda_encryption.ensure(amanda_settings.Encryption("age", ()), amanda_platform.detect())
    for name in DISKS:
        fill(name, 1_500_000 if name == "big" else 1000)
    disks = [(quoted(name), kind) for name, kind in zip(DISKS, DUMPTYPES, strict=True)]
    local = LocalAmanda(
        "catalogue",
        disks,
        options="reserve 0",
        length="1 mbytes",
        part_size="300 kbytes",
        runtapes=3,
        slots=6,
        tapecycle=5,
        retention=4,
    )
    yield local
    local.remove()
    shutil.rmtree(SOURCE)


def newest_run(local):
    """Return the outcomes of the last run, by the last part of the disk's name."""
    run = amanda_catalogue.runs(local.places)[-1]
    found = amanda_catalogue.run_results(local.places, run)
    return {Path(one.disk).name: one for one in found}


def test_a_run_over_several_tapes_is_read_as_amanda_reads_it(amanda):
    assert amanda.dump() == 0
    assert ours(amanda) == theirs(amanda)
    found = newest_run(amanda)
    assert set(found) == set(DISKS)
    assert all(one.success for one in found.values())
    assert len(found["big"].labels) == 2


def test_two_runs_of_one_day_and_increments_are_read_as_amanda_reads_them(amanda):
    for shift in ("+1d", "+30h"):
        fill("big", 1000)
        assert amanda.dump(shift) == 0
        assert ours(amanda) == theirs(amanda)
    chain = amanda_chain.chain(amanda_catalogue.read(amanda.places), "localhost", f"{SOURCE}/big")
    assert [dump.level for dump in chain] in ([0, 1], [0, 1, 2])


def test_a_run_without_tapes_and_its_flush_are_read_as_amanda_reads_them(amanda):
    away = amanda.places.tapes.with_name("away")
    amanda.places.tapes.rename(away)
    assert amanda.dump("+2d") & 16
    away.rename(amanda.places.tapes)
    assert ours(amanda) == theirs(amanda)
    held = newest_run(amanda)["plain"]
    assert not held.success
    assert "not written to tape" in held.reason
    assert amanda.command("amflush", "-b", "-f", "catalogue", shift="+50h").returncode == 0
    assert ours(amanda) == theirs(amanda)
    flushed = newest_run(amanda)["plain"]
    assert flushed.success
    assert flushed.timestamp == held.timestamp


def test_a_run_with_a_dle_that_fails_is_read_as_amanda_reads_it(amanda):
    shutil.rmtree(SOURCE / "plain")
    assert amanda.dump("+3d") & 4
    assert ours(amanda) == theirs(amanda)
    found = newest_run(amanda)
    assert "No such file or directory" in found["plain"].reason
    assert all(one.success for name, one in found.items() if name != "plain")


def test_tapes_written_again_or_removed_take_their_dumps_along(amanda):
    first = amanda_catalogue.read(amanda.places)[0].timestamp
    for shift in ("+4d", "+5d", "+6d"):
        fill("with space", 1000)
        amanda.dump(shift)
        assert ours(amanda) == theirs(amanda)
    left = [dump for dump in amanda_catalogue.read(amanda.places) if dump.timestamp == first]
    assert f"{SOURCE}/big" not in [dump.disk for dump in left]
    with pytest.raises(AmandaError, match="that is on no tape"):
        amanda_chain.chain(amanda_catalogue.read(amanda.places), "localhost", f"{SOURCE}/big")
    before = ours(amanda)
    label = amanda_catalogue.read_tapelist(amanda.places.tapelist)[0].label
    assert amanda.command("amrmtape", "catalogue", label).returncode == 0
    assert ours(amanda) == theirs(amanda)
    assert ours(amanda) < before


def test_names_are_unquoted_as_amanda_quotes_them():
    names = [
        "/a b",
        'q"',
        "back\\slash",
        "t\tn\nr\rf\fv\v",
        "ü",
        "\udcff",
        "\x01\x7f",
        "'$x",
        "\\n",
    ]
    raw = b"\0".join(name.encode("utf-8", "surrogateescape") for name in names)
    script = (
        'use lib glob("/usr/lib/*/amanda/perl"); use Amanda::Util; $/ = "\\0";'
        'while (<STDIN>) { chomp; print Amanda::Util::quote_string($_), "\\0" }'
    )
    run = subprocess.run(
        ["runuser", "-u", USER, "--", "perl", "-e", script],
        input=raw,
        capture_output=True,
        check=True,
        cwd="/",
    )
    quoted_names = run.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]
    assert [amanda_log.unquote(word) for word in quoted_names] == names
    assert amanda_log.split(" ".join(quoted_names)) == names
