"""An identity given for one restore: who can read it, for how long, and what is refused."""

import os
import stat
import subprocess
from pathlib import Path

import amanda_identity
import amanda_layout
import pytest
from amanda_errors import AmandaError, ArgumentError

from tests.unit.test_amanda_age import IDENTITY, RECIPIENT


@pytest.fixture
def key(tmp_path):
    """An administrator's file as it should be."""
    path = tmp_path / "offsite.key"
    path.write_text(f"# public key: {RECIPIENT}\n{IDENTITY}\n")
    path.chmod(0o400)
    return path


def test_a_child_reads_it_again_and_again_and_nobody_else_after_the_block(key):
    with amanda_identity.given(str(key), None) as identity:
        command, inherited = amanda_identity.opener("age", identity, "the dump")
        assert command == [amanda_layout.CRYPT["age"], "-d", f"/dev/fd/{identity}"]
        for _ in range(2):
            told = subprocess.check_output(["cat", command[-1]], pass_fds=inherited, text=True)
            assert told == f"{IDENTITY}\n"
        assert stat.S_IMODE(os.fstat(identity).st_mode) == 0o400
        assert not os.get_inheritable(identity)
        with pytest.raises(OSError, match="not permitted"):
            os.pwrite(identity, b"x", 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(identity)


def test_without_one_the_servers_own_is_taken():
    with amanda_identity.given(None, None) as identity:
        assert identity is None
    assert amanda_identity.opener("age", None, "x") == ([amanda_layout.CRYPT["age"], "-d"], ())


def test_it_is_closed_when_the_block_fails(key):
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(ZeroDivisionError), amanda_identity.given(str(key), None):
        raise ZeroDivisionError
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_amcrypt_sealed_is_refused_with_words(key):
    with amanda_identity.given(str(key), None) as identity:
        with pytest.raises(AmandaError, match="the dump is sealed with amcrypt"):
            amanda_identity.opener("amcrypt", identity, "the dump")


def refusal(path):
    """Return the words in which *path* is refused."""
    with pytest.raises(ArgumentError) as caught, amanda_identity.given(path, None):
        pass
    assert "KUKEM6" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", ["offsite.key", "", 5, b"/root/k", IDENTITY])
def test_what_is_no_absolute_path_is_refused(path):
    assert "absolute path of a file on this server" in refusal(path)


def test_a_file_that_others_can_read_is_refused(key):
    for mode in (0o440, 0o404, 0o620):
        key.chmod(mode)
        assert f"chmod 0400 {key}" in refusal(str(key))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_a_file_of_another_users_is_refused(key):
    os.chown(key, 65534, -1)
    assert f"chown root {key}" in refusal(str(key))


def test_a_file_that_is_missing_a_link_or_a_directory_is_refused(key, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(key)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "none", link, tmp_path, tmp_path / "pipe", Path("/dev/null")):
        assert f"identity={path} can't be read: " in refusal(str(path))


def test_a_file_that_is_none_or_too_large_is_refused(key):
    key.chmod(0o600)
    key.write_text(RECIPIENT)
    assert f"{key} is no age identity" in refusal(str(key))
    key.write_bytes(b"#" * 70_000)
    assert "too large" in refusal(str(key))
