"""What breaks keys, filters or disks, and what a run says then: no dump, and the cause by name.

Each fault is real, and met by the installed program. Needs root on a host with Amanda, sshd, age,
aespipe, gnupg and zstd.
"""

import contextlib
import os
import shutil
import subprocess
import threading
from pathlib import Path

import amanda_age
import amanda_catalogue
import amanda_encryption
import amanda_find
import amanda_layout
import amanda_platform
import amanda_restore
import amanda_results
import amanda_sources
import pytest
from amanda_errors import AmandaError

from tests.functional.ssh_fleet import ROOT, SshFleet
from tests.functional.test_encryption import hidden, home, killed_at_work, program, replaced

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, Amanda and sshd")

KEY, PASSPHRASE = home() / ".gnupg" / "am_key.gpg", home() / ".am_passphrase"
CRYPT_AGE = amanda_layout.CRYPT["age"]
DATA = ROOT / "data"
SIZE = 40_000_000


@pytest.fixture
def fleet(method):
    """A client with a directory that no compressor shrinks, and keys for *method*."""
    made = SshFleet()
    made.pillar["encryption"] = {"method": method}
    made.pillar["configs"]["daily"].update(
        {"tapetype": {"length": "200 mbytes"}, "holding-use": "100 mbytes"}
    )
    amanda_encryption.ensure(made.settings.encryption, made.platform)
    made.configure()
    DATA.mkdir()
    (DATA / "noise").write_bytes(os.urandom(SIZE))
    made.client("web1", [str(DATA)])
    yield made
    made.remove()


def dumping():
    """Tell whether the dump has begun, so that the trial of the keys before it is over."""
    return bool(list((ROOT / "holding" / "daily").glob("2*/*")))


def another_identity():
    return replaced(amanda_layout.AGE_IDENTITY, amanda_age.new_identity())


@contextlib.contextmanager
def another_servers_key():
    """Put the key files of a server that was set up apart in the place of ours, one of the two."""
    with hidden(KEY), hidden(PASSPHRASE):
        PASSPHRASE.write_bytes(b"theirs\n")
        shutil.chown(PASSPHRASE, "backup")
        theirs = amanda_encryption._new_amcrypt_key(amanda_platform.detect())
        PASSPHRASE.unlink()
    with replaced(KEY, theirs):
        yield


@contextlib.contextmanager
def filled(directory, begins):
    """Put *directory* on a file system that another fills as soon as *begins* finds something."""
    aside = directory.with_name(f"{directory.name}.aside")
    subprocess.run(["cp", "-a", directory, aside], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", directory], check=True)
    subprocess.run(["cp", "-a", f"{aside}/.", directory], check=True)
    done = threading.Event()

    def fill():
        while not done.wait(0.01):
            if list(directory.glob(begins)):
                with (directory / "others").open("wb", buffering=0) as file:
                    with contextlib.suppress(OSError):
                        while True:
                            file.write(bytes(4096))
                return

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        subprocess.run(["umount", "-l", directory], check=True)


FAULTS = {
    "the identity is missing": (
        "age",
        lambda: hidden(amanda_layout.AGE_IDENTITY),
        f"{amanda_layout.AGE_IDENTITY} is missing",
    ),
    "another server's identity": (
        "age",
        another_identity,
        f"{amanda_layout.AGE_IDENTITY} opens nothing that is sealed to",
    ),
    "the recipients are missing": (
        "age",
        lambda: hidden(amanda_layout.AGE_RECIPIENTS),
        f"{amanda_layout.AGE_RECIPIENTS} is missing or empty. If a key is lost",
    ),
    "age is not installed": (
        "age",
        lambda: hidden(program("age")),
        "age is not installed. If a key is lost, bring its copy back; if not, apply the state",
    ),
    "the filter is missing": ("age", lambda: hidden(CRYPT_AGE), f"{CRYPT_AGE}: No such file"),
    "the key is missing": ("amcrypt", lambda: hidden(KEY), f"{KEY} is missing or empty"),
    "the passphrase is missing": (
        "amcrypt",
        lambda: hidden(PASSPHRASE),
        f"{PASSPHRASE} is missing or empty",
    ),
    "a wrong passphrase": (
        "amcrypt",
        lambda: replaced(PASSPHRASE, b"wrong\n"),
        f"gpg can't open {KEY} with {PASSPHRASE}. If a key is lost, bring its copy back",
    ),
    "another server's key": (
        "amcrypt",
        another_servers_key,
        f"gpg can't open {KEY} with {PASSPHRASE}. If a key is lost, bring its copy back",
    ),
    "aespipe is not installed": (
        "amcrypt",
        lambda: hidden(program("aespipe")),
        "aespipe is not installed. If a key is lost",
    ),
    "gpg is not installed": ("amcrypt", lambda: hidden(program("gpg")), "gpg is not installed"),
    "zstd is not installed": ("age", lambda: hidden(program("zstd")), "zstd is not installed"),
    "gzip is not installed on the client": (
        "amcrypt",
        lambda: hidden(Path("/bin/gzip")),
        "gzip is not installed on web1: apply the state backup on it",
    ),
    "age is killed half way": (
        "age",
        lambda: killed_at_work("age", "--encrypt", dumping),
        f"the program that encrypts {DATA} of web1 was ended by signal 9 on the server",
    ),
    "aespipe is killed half way": (
        "amcrypt",
        lambda: killed_at_work("aespipe", "AES256", dumping),
        f"the program that encrypts {DATA} of web1 was ended by signal 9 on the server",
    ),
    "zstd is killed half way": (
        "age",
        lambda: killed_at_work("zstd", "--stdout", dumping),
        f"the program that compresses {DATA} on web1 was ended by signal 9",
    ),
    "the disk of the tapes is full": (
        "age",
        lambda: filled(ROOT / "tapes", "daily"),
        f"the disk of the tapes, {ROOT}/tapes/daily, is full",
    ),
    "the disk of the tapes gets full": (
        "age",
        lambda: filled(ROOT / "tapes", "nothing"),
        f"the disk of the tapes, {ROOT}/tapes/daily, is full",
    ),
}


def dumped(result):
    (step,) = [step for step in result["steps"] if step["step"] == "dump"]
    return step


@pytest.mark.parametrize(
    ("method", "fault"), [(FAULTS[name][0], name) for name in FAULTS], ids=list(FAULTS)
)
def test_the_run_fails_names_the_cause_and_claims_no_dump(fleet, method, fault):
    _, break_it, words = FAULTS[fault]
    with break_it():
        result = fleet.run("backup")
    assert not result["success"]
    said = [step["message"] for step in result["steps"] if not step["success"]]
    assert words in said[0], said
    dump = dumped(result)
    assert dump.get("skipped") or not any(entry["success"] for entry in dump["dles"])
    assert not [each for each in amanda_catalogue.read(fleet.places) if each.status == "OK"]
    assert not amanda_results.last("daily", amanda_results.BACKUPS)["success"]
    with pytest.raises(AmandaError):
        amanda_find.locate(amanda_catalogue.read(fleet.places), "web1", str(DATA))


@pytest.mark.parametrize("method", ["age"])
def test_a_disk_of_tapes_that_gets_full_as_the_dump_begins_stops_no_later_run(fleet):
    """Here the taper may wait for ever; see amanda_taper."""
    with (amanda_layout.PROGRAMS / "amanda_taper.py").open("a", encoding="utf-8") as module:
        module.write("\nSECONDS = 5\n")
    with filled(ROOT / "tapes", "daily/slot1/00001*"):
        result = fleet.run("backup")
        dump = dumped(result)
        assert f"the disk of the tapes, {ROOT}/tapes/daily, is full" in dump["message"]
        assert [image["host"] for image in dump["holding"]] == ["web1"]
    later = dumped(fleet.run("backup"))
    assert [entry["success"] for entry in later["flushed"]] == [True], later


@pytest.mark.parametrize("method", ["age"])
def test_a_dump_that_finds_the_holding_disk_full_goes_straight_to_tape(fleet):
    with filled(ROOT / "holding", "daily/2*/*data*"):
        result = fleet.run("backup")
    assert result["success"], result
    assert dumped(result)["dles"][0]["bytes"] > SIZE
    into = str(ROOT / "restored")
    amanda_restore.recover(amanda_sources.on_tape(fleet.places), "web1", str(DATA), into)
    assert (ROOT / "restored" / "data" / "noise").read_bytes() == (DATA / "noise").read_bytes()
