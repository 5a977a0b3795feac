"""Amanda's directory for temporary files, which a local user of the host made first."""

import os
import pwd
import subprocess
from pathlib import Path

import amanda_platform
import amanda_tmpdir
import pytest

from tests.functional.ssh_fleet import ROOT, SshFleet

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, Amanda and sshd")

TMPDIR = Path("/tmp/amanda")


@pytest.fixture
def fleet():
    made = SshFleet()
    (ROOT / "data").mkdir()
    (ROOT / "data" / "blob").write_bytes(os.urandom(200_000))
    made.client("web1", [str(ROOT / "data")])
    yield made
    made.remove()
    amanda_tmpdir.apply(amanda_platform.detect())


@pytest.fixture(scope="module", autouse=True)
def eve():
    """A local user who may do nothing but log in."""
    subprocess.run(["useradd", "--create-home", "eve"], check=True)
    yield
    subprocess.run(["userdel", "--remove", "eve"], check=True)


def as_eve(script):
    """Return the exit status of what eve does."""
    return subprocess.run(
        ["runuser", "-u", "eve", "--", "sh", "-c", script], check=False
    ).returncode


def made_by_eve(how):
    subprocess.run(["rm", "-rf", TMPDIR], check=True)
    assert as_eve(how) == 0


@pytest.mark.parametrize(
    "how",
    [
        "mkdir -m 700 /tmp/amanda; echo mine >/tmp/amanda/file",
        "mkdir -m 777 /tmp/amanda",
        "touch /tmp/amanda",
        "mkdir -p ~/lure; ln -s ~/lure /tmp/amanda",
    ],
    ids=["closed", "open", "a file", "a link"],
)
def test_who_makes_it_first_can_stop_each_dump_until_it_is_made_the_dump_users(fleet, how):
    platform = amanda_platform.detect()
    made_by_eve(how)
    assert not fleet.run("backup")["success"]

    change = amanda_tmpdir.differences(platform)[str(TMPDIR)]
    assert change["old"].startswith("eve:eve") and "moved aside" in change["new"]
    amanda_tmpdir.apply(platform)
    assert amanda_tmpdir.differences(platform) == {}
    assert (TMPDIR.owner(), TMPDIR.lstat().st_mode & 0o7777) == (platform.user, 0o700)
    assert list(TMPDIR.iterdir()) == []
    assert as_eve("mv /tmp/amanda /tmp/mine || rmdir /tmp/amanda || ls /tmp/amanda") != 0
    result = fleet.run("backup")
    assert result["success"], result


def test_systemd_makes_it_at_boot_before_anybody_can_log_in():
    platform = amanda_platform.detect()
    amanda_tmpdir.apply(platform)
    made_by_eve("mkdir -m 777 /tmp/amanda; touch /tmp/amanda/file")
    argv = ["systemd-tmpfiles", "--create", "--remove", "--boot", f"--prefix={TMPDIR}"]
    subprocess.run(argv, check=True)
    status = TMPDIR.lstat()
    assert status.st_uid == pwd.getpwnam(platform.user).pw_uid
    assert status.st_mode & 0o7777 == 0o700 and list(TMPDIR.iterdir()) == []


def test_roots_own_is_given_to_the_dump_user_with_what_is_in_it():
    platform = amanda_platform.detect()
    subprocess.run(["rm", "-rf", TMPDIR], check=True)
    TMPDIR.mkdir()
    (TMPDIR / "file").touch()
    amanda_tmpdir.apply(platform)
    assert TMPDIR.owner() == platform.user and (TMPDIR / "file").exists()
