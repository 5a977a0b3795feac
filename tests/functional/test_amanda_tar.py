"""What the dump user may do on a client: read every file for a dump, and nothing more.

Each attack is first shown to work on Amanda as Debian ships it. Needs root on a host with Amanda's
server and client, faketime, and user and group of Debian.
"""

import os
import shutil
import stat
import subprocess
import threading
from pathlib import Path

import amanda_hardening
import amanda_platform
import pytest
from amanda_layout import INCREMENTAL_TAR, TAR

from tests.functional.local_amanda import USER, LocalAmanda
from tests.functional.programs import SHIPPED_CONF, install_client_programs, unharden

PLATFORM = amanda_platform.PLATFORMS["Debian"]
AMGTAR = PLATFORM.libexec / "application" / "amgtar"
RUNTAR = PLATFORM.libexec / "runtar"
WORK = Path("/var/tmp/amanda-tar")
TREE = Path("/var/tmp/amanda-tar-tree")
PROOF = Path("/root/amanda-tar-proof")

DUMPTYPES = f"""\
define application-tool confined {{
  plugin "amgtar"
  property "GNUTAR-PATH" "{INCREMENTAL_TAR}"
  property "XATTRS" "YES"
  property "ACLS" "YES"
  property "ATIME-PRESERVE" "NO"
}}
define dumptype by-amgtar {{
  auth "local"
  program "APPLICATION"
  application "confined"
  compress client fast
  index yes
  maxpromoteday 0
  estimate client
  exclude "./left-out" "*.bak"
}}
define dumptype by-gnutar {{
  auth "local"
  program "GNUTAR"
  compress client fast
  index yes
  maxpromoteday 0
  estimate client
  exclude "./left-out" "*.bak"
}}
define dumptype by-a-program-of-the-servers {{
  by-amgtar
  compress client custom
  client-custom-compress "{WORK}/from-the-server"
}}
"""


@pytest.fixture(scope="module", autouse=True)
def programs():
    """The tar that Amanda runs, which runs the one that is tested here; in the end, the host as
    it was: other tests use Amanda as Debian ships it.
    """
    install_client_programs()
    yield
    unharden()
    TAR.unlink()


@pytest.fixture
def work():
    """A directory of the dump user's, and a file that root alone may make."""
    shutil.rmtree(WORK, ignore_errors=True)
    PROOF.unlink(missing_ok=True)
    WORK.mkdir()
    (WORK / "tree").mkdir()
    (WORK / "tree" / "file").write_text("text")
    subprocess.run(["chown", "-R", f"{USER}:", WORK], check=True)
    yield WORK
    shutil.rmtree(WORK)
    PROOF.unlink(missing_ok=True)


@pytest.fixture
def shipped():
    """Amanda as Debian ships it: the defence taken out of this host."""
    unharden()
    yield
    amanda_hardening.apply()


@pytest.fixture
def hardened():
    """Amanda as the state leaves it."""
    amanda_hardening.apply()


def as_dump_user(*argv, **options):
    return subprocess.run(
        ["runuser", "-u", USER, "--", *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        **options,
    )


def amgtar(work, *options):
    """Run amgtar as sendbackup would; its messages, index and state go to files."""
    command = f'exec "$@" >/dev/null 3>{work}/messages 4>{work}/index'
    argv = [AMGTAR, "backup", "--config", "none", "--host", "h", "--disk", "d"]
    argv += ["--device", work / "tree", "--level", "0", "--atime-preserve", "NO", *options]
    return as_dump_user("sh", "-c", command, "sh", *argv)


def checkpoint_action(work):
    amgtar(
        work,
        "--command-options=--checkpoint=1",
        f"--command-options=--checkpoint-action=exec=id -u >{work}/uid",
    )
    return (work / "uid").read_text().strip()


def test_shipped_a_tar_option_makes_the_dump_user_root(shipped, work):
    assert checkpoint_action(work) == "0"


def test_hardened_the_same_option_runs_as_the_dump_user(hardened, work):
    assert checkpoint_action(work) == str(work.stat().st_uid)


def exchange_the_link(work, seconds):
    """Start amgtar with a link that changes all the time; tell whether root fell for it."""
    evil, link, done = work / "evil", work / "tar", threading.Event()
    evil.write_text(f"#!/usr/bin/python3 -I\nimport os\nos.seteuid(0)\nopen('{PROOF}', 'w')\n")
    evil.chmod(0o755)

    def exchange():
        while not done.is_set():
            for target in (amanda_hardening.SYSTEM_TAR, evil):
                (work / "next").symlink_to(target)
                (work / "next").rename(link)

    link.symlink_to(evil)
    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        script = (
            'end=$(($(date +%s) + $3)); while [ "$(date +%s)" -lt "$end" ]; do '
            '"$1" selfcheck --host h --disk d --device /tmp --gnutar-path "$2"; '
            '[ -e "$4" ] && exit; done'
        )
        subprocess.run(
            ["runuser", "-u", USER, "--", "sh", "-c", script, "sh"]
            + [AMGTAR, link, str(seconds), PROOF],
            capture_output=True,
            check=False,
        )
    finally:
        done.set()
        thread.join()
    return PROOF.exists()


@pytest.mark.slow  # a race: seconds on an idle machine, minutes on a busy one
def test_shipped_a_link_exchanged_in_time_makes_the_dump_user_root(shipped, work):
    assert exchange_the_link(work, 300)


def test_hardened_an_exchanged_link_gains_nothing(hardened, work):
    assert not exchange_the_link(work, 5)


def write_by_runtar(work):
    as_dump_user(
        *[RUNTAR, "NOCONFIG", "/bin/tar", "--create", "--file", PROOF],
        *["--directory", work, "tree"],
    )
    return PROOF.exists()


def test_shipped_runtar_writes_roots_files(shipped, work):
    assert write_by_runtar(work)


def test_hardened_it_writes_none(hardened, work):
    assert not write_by_runtar(work)


def run_by_the_server(work, tree):
    """Have the server name a program of its own as the client's compressor."""
    program = work / "from-the-server"
    program.write_text(
        f"#!/bin/sh\n{AMGTAR} backup --config none --host h --disk e --device {work}/tree "
        "--level 0 --atime-preserve NO --command-options=--checkpoint=1 "
        f"'--command-options=--checkpoint-action=exec=id -u >{work}/uid' "
        f">/dev/null 3>{work}/messages 4>{work}/index\nexec cat\n"
    )
    program.chmod(0o755)
    config = LocalAmanda("by-server", [(tree, "by-a-program-of-the-servers")], DUMPTYPES)
    try:
        config.dump()
    finally:
        config.remove()
    return (work / "uid").read_text().strip()


def test_shipped_the_server_becomes_root_on_a_client(shipped, work, tree):
    amanda_hardening.SECURITY_CONF.write_text(
        f"{SHIPPED_CONF}amgtar:gnutar_path={INCREMENTAL_TAR}\n"
    )
    assert run_by_the_server(work, tree) == "0"


def test_hardened_it_stays_the_dump_user(hardened, work, tree):
    assert run_by_the_server(work, tree) == str(work.stat().st_uid)


@pytest.mark.parametrize(
    "options",
    [
        ["--create", "--file", PROOF, "--directory", WORK, "tree"],
        ["--create", "--file", "/dev/null", "--listed-incremental", PROOF, "-C", WORK, "tree"],
        ["--create", "--file", "/dev/null", "--index-file", PROOF, "-v", "-C", WORK, "tree"],
        ["--create", "--file", "/dev/null", f"--use-compress-program=tee {PROOF}", WORK],
        ["--create", "--file", f"/dev/null; touch {PROOF}", f"-Itouch {PROOF}", WORK],
        ["--create", "--remove-files", "--file", "/dev/null", "/root/amanda-tar-precious"],
    ],
)
def test_the_tar_writes_and_removes_nothing_that_the_dump_user_may_not(hardened, work, options):
    precious = Path("/root/amanda-tar-precious")
    precious.write_text("kept")
    as_dump_user(TAR, *options)
    assert not PROOF.exists()
    assert precious.read_text() == "kept"
    precious.unlink()


def test_the_tar_is_for_the_dump_users_group_alone(hardened, work):
    assert as_dump_user(TAR, "--version").returncode == 0
    other = subprocess.run(
        ["runuser", "-u", "nobody", "--", TAR, "--version"], capture_output=True, check=False
    )
    assert other.returncode != 0


@pytest.fixture
def tree():
    """A tree with what only root may read, extended attributes, and what is excluded."""
    shutil.rmtree(TREE, ignore_errors=True)
    (TREE / "secret").mkdir(parents=True, mode=0o700)
    (TREE / "left-out").mkdir()
    (TREE / "left-out" / "file").touch()
    (TREE / "old.bak").touch()
    secret = TREE / "secret" / "key"
    secret.write_text("for root alone")
    secret.chmod(0)
    os.setxattr(secret, "user.kind", b"key")
    capability = amanda_hardening.CAPABILITY_DATA
    os.setxattr(secret, "security.capability", capability)
    yield TREE
    shutil.rmtree(TREE)


@pytest.mark.parametrize("dumptype", ["by-amgtar", "by-gnutar"])
def test_hardened_dumps_hold_what_root_alone_may_read(hardened, tree, dumptype, tmp_path):
    config = LocalAmanda("hardened", [(tree, dumptype)], DUMPTYPES)
    try:
        check = config.command("amcheck", "-c", "hardened")
        assert check.returncode == 0, check.stdout
        assert config.dump() == 0
        (tree / "new").write_text("since the full dump")
        assert config.dump(shift="+1d") == 0
        first, second = restored(config, tmp_path)
    finally:
        config.remove()
    names = subprocess.run(["tar", "-tf", first], capture_output=True, check=True)
    assert sorted(names.stdout.decode().split()) == ["./", "./secret/", "./secret/key"]
    names = subprocess.run(["tar", "-tf", second], capture_output=True, check=True)
    assert sorted(names.stdout.decode().split()) == ["./", "./new", "./secret/"]
    subprocess.run(
        ["tar", "-xf", first, "-C", tmp_path, "--xattrs", "--xattrs-include=*"], check=True
    )
    copy = tmp_path / "secret" / "key"
    assert copy.read_text() == "for root alone"
    if dumptype == "by-amgtar":
        assert os.getxattr(copy, "user.kind") == b"key"
        assert os.getxattr(copy, "security.capability") == amanda_hardening.CAPABILITY_DATA


def restored(config, tmp_path):
    """Return the archives of the dumps on tape, oldest first."""
    into = Path("/var/tmp/amanda-tar-fetched")
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    shutil.chown(into, USER)
    fetch = as_dump_user(
        "amfetchdump", "-a", "-d", f"chg-disk:{config.places.tapes}", config.places.name,
        "localhost", cwd=into,
    )  # fmt: skip
    archives = sorted(into.iterdir())
    assert len(archives) == 2, fetch.stderr
    copies = [shutil.copy(path, tmp_path / f"level{n}") for n, path in enumerate(archives)]
    shutil.rmtree(into)
    return copies


def test_root_still_restores_through_amgtar(hardened, work):
    subprocess.run(["tar", "-cf", work / "archive", "-C", work / "tree", "./file"], check=True)
    into = work / "into"
    into.mkdir()
    with (work / "archive").open("rb") as archive:
        subprocess.run(
            [AMGTAR, "restore", "--target", into, "./file"],
            stdin=archive,
            check=True,
            capture_output=True,
        )
    assert (into / "file").read_text() == "text"


def test_a_second_time_nothing_differs(hardened):
    assert amanda_hardening.differences() == {}


def test_every_setuid_program_of_amanda_is_known_and_none_is_left(shipped):
    found = {
        path.relative_to(PLATFORM.libexec).as_posix()
        for path in PLATFORM.libexec.rglob("*")
        if path.is_file() and path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)
    }
    assert found == set(amanda_hardening.SETUID_PROGRAMS)
    changes = amanda_hardening.differences()
    assert {str(PLATFORM.libexec / name) for name in found - {"runtar"}} <= set(changes)
    amanda_hardening.apply()
    left = [
        path
        for path in PLATFORM.libexec.rglob("*")
        if path.is_file()
        and path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)
        and not path.read_bytes().startswith(b"#!")
    ]
    assert left == []


def test_the_dump_user_leaves_the_group_that_writes_to_disks(hardened):
    subprocess.run(["gpasswd", "-a", USER, "disk"], check=True, capture_output=True)
    assert f"user {USER}" in amanda_hardening.differences()
    amanda_hardening.apply()
    groups = subprocess.run(["id", "-nG", USER], capture_output=True, check=True).stdout
    assert b"disk" not in groups.split()


def test_a_tar_that_was_exchanged_or_lost_its_capability_is_noticed(hardened):
    os.removexattr(TAR, "security.capability")
    assert str(TAR) in amanda_hardening.differences()
    amanda_hardening.apply()
    TAR.write_bytes(b"another")
    assert str(TAR) in amanda_hardening.differences()
    amanda_hardening.apply()
    assert amanda_hardening.differences() == {}
