"""The filters, alone and in real dumps: each fault fails the dump, and none is called OK.

Needs root on a host with Amanda's server and client, age, aespipe, gnupg, zstd and faketime.
"""

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import amanda_age
import amanda_encryption
import amanda_layout
import amanda_platform
import amanda_settings
import pytest
from amanda_errors import AmandaError

from tests.functional.local_amanda import USER, LocalAmanda

SOURCE = Path(__file__).parents[2] / "salt" / "backup" / "files"
AGE, AMCRYPT = amanda_layout.CRYPT["age"], amanda_layout.CRYPT["amcrypt"]
ZSTD = amanda_layout.COMPRESS
DLE_FAILED = 4  # of amdump's exit mask
DATA = secrets.token_bytes(100_003)

DUMPTYPES = f"""\
define application-tool tar {{
  plugin "amgtar"
}}
define dumptype tar {{
  auth "local"
  program "APPLICATION"
  application "tar"
  index yes
  maxpromoteday 0
  estimate server
}}
define dumptype age {{
  tar
  compress none
  encrypt server
  server-encrypt "{AGE}"
  server-decrypt-option "-d"
}}
define dumptype amcrypt {{
  tar
  compress client fast
  encrypt server
  server-encrypt "{AMCRYPT}"
  server-decrypt-option "-d"
}}
define dumptype amandas-own {{
  tar
  compress client fast
  encrypt server
  server-encrypt "/usr/sbin/amcrypt"
  server-decrypt-option "-d"
}}
define dumptype zstd {{
  tar
  compress client custom
  client-custom-compress "{ZSTD}"
  encrypt none
}}
"""


@pytest.fixture(scope="module", autouse=True)
def installed():
    """The filters as the states install them, and keys for both methods."""
    amanda_layout.PROGRAMS.mkdir(parents=True, exist_ok=True)
    for program in (AGE, AMCRYPT, ZSTD):
        shutil.copy(SOURCE / program.name, program)
        program.chmod(0o755)
    platform = amanda_platform.detect()
    for method in ("age", "amcrypt"):
        amanda_encryption.ensure(amanda_settings.Encryption(method, ()), platform)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A directory of 100 MB that no compressor shrinks, so that a filter has work to do."""
    root = Path("/var/tmp/filter-tree")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    with (root / "noise").open("wb") as stream:
        for _ in range(100):
            stream.write(os.urandom(1 << 20))
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def small_tree():
    """A directory that fits a pipe: a filter that fails shows it by its status alone."""
    root = Path("/var/tmp/filter-small-tree")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    (root / "a file").write_bytes(DATA[:2000])
    yield root
    shutil.rmtree(root)


@pytest.fixture
def amanda():
    """A config whose one DLE is to be given a dumptype."""
    config = LocalAmanda("filters", [], DUMPTYPES, length="400 mbytes", part_size="200 mbytes")
    yield config
    config.remove()


@contextlib.contextmanager
def hidden(path):
    """Take *path* away, and bring it back."""
    aside = path.with_name(f".{path.name}.aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


@contextlib.contextmanager
def replaced(path, content):
    """Give *path* another content, and back."""
    before = path.read_bytes()
    mode = path.stat().st_mode
    path.chmod(mode | 0o600)
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)
        path.chmod(mode)


def home():
    return amanda_platform.detect().home


def program(name):
    return Path(shutil.which(name))


def run(*argv, data=DATA, **options):
    return subprocess.run(
        ["runuser", "-u", USER, "--", *argv],
        input=data,
        capture_output=True,
        check=False,
        **options,
    )


def statuses(amanda):
    """Return the status that ``amadmin find`` gives each dump."""
    out = amanda.command("amadmin", amanda.places.name, "find", "--sort", "h").stdout.decode()
    if "No dump to list" in out:
        return []
    lines = [line for line in out.splitlines() if " localhost " in line]
    assert lines, out
    # The last column may be two words: "OK PARTIAL" is a piece of a dump that failed.
    return [re.split(r" -?\d+/-?\d+ ", line, maxsplit=1)[1].strip() for line in lines]


def at_work(path, argument):
    """Return the pids of this host's processes that run *path* with *argument*.

    aespipe's gpg is one too until it is started in the fork; those are left out.
    """
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "root").samefile("/"):
                argv = (entry / "cmdline").read_bytes().split(b"\0")
                if argv[0] == path.encode() and argument.encode() in argv:
                    stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                    parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    return [pid for pid, parent in parents.items() if parent not in parents]


@contextlib.contextmanager
def killed_at_work(path, argument, begun=lambda: True):
    """Kill each process that runs *path* in the middle of its data; gives the pids, a list.

    begun
        Tells whether the time has come.
    """
    struck, done = [], threading.Event()

    def strike():
        while not done.wait(0.002):
            for pid in set(at_work(path, argument)) - set(struck) if begun() else ():
                # One may end by itself before it is stopped; others of the same name follow it.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    struck.append(pid)
                    time.sleep(0.2)
                    os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield struck
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("filter_program", [AGE, ZSTD])
def test_what_a_filter_closes_it_opens(filter_program):
    closed = run(filter_program)
    assert closed.returncode == 0
    assert DATA[:64] not in closed.stdout or filter_program == ZSTD
    assert run(filter_program, "-d", data=closed.stdout).stdout == DATA


def test_amcrypt_and_our_filter_open_what_the_other_sealed():
    for seal, unseal in ((AMCRYPT, "/usr/sbin/amcrypt"), ("/usr/sbin/amcrypt", AMCRYPT)):
        sealed = run(seal)
        assert sealed.stdout.startswith(b"bz2aespipe       10020")
        opened = run(unseal, "-d", data=sealed.stdout)
        assert opened.returncode == 0
        assert opened.stdout[: len(DATA)] == DATA
        assert opened.stdout[len(DATA) :].strip(b"\0") == b""


@pytest.mark.parametrize("filter_program", [AGE, AMCRYPT, ZSTD])
def test_a_full_disk_is_a_failure_both_ways(filter_program):
    closed = run(filter_program).stdout
    for arguments, data in (([], DATA), (["-d"], closed)):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                ["runuser", "-u", USER, "--", filter_program, *arguments],
                input=data,
                stdout=full,
                stderr=subprocess.PIPE,
                check=False,
            )
        assert done.returncode != 0


def test_age_opens_with_an_identity_that_is_named(tmp_path):
    sealed = run(AGE).stdout
    aside = amanda_layout.AGE_IDENTITY.rename("/var/tmp/aside")
    try:
        assert run(AGE, "-d", data=sealed).returncode != 0
        assert run(AGE, "-d", aside, data=sealed).stdout == DATA
        assert run(AGE, "-d", tmp_path / "none", data=sealed).returncode != 0
    finally:
        aside.rename(amanda_layout.AGE_IDENTITY)


@pytest.mark.parametrize("filter_program", [AGE, AMCRYPT, ZSTD])
@pytest.mark.parametrize("arguments", [["-x"], ["-d", "-d"], ["--decrypt"], ["--", "-d"]])
def test_an_unknown_argument_is_refused(filter_program, arguments):
    done = run(filter_program, *arguments)
    assert done.returncode != 0
    assert done.stdout == b""


@pytest.mark.parametrize("filter_program", [AGE, AMCRYPT, ZSTD])
@pytest.mark.parametrize("data", [b"", b"\0" * 4096, b"bz2aespipe", DATA])
def test_what_it_did_not_close_is_not_opened(filter_program, data):
    done = run(filter_program, "-d", data=data)
    assert done.returncode != 0
    assert done.stdout == b""


@pytest.mark.parametrize("filter_program", [AGE, ZSTD])
def test_a_stream_cut_short_is_noticed(filter_program):
    assert run(filter_program, "-d", data=run(filter_program).stdout[:50_000]).returncode != 0


def test_a_header_that_would_pass_options_to_aespipe_is_refused():
    for header in (b"bz2aespipe  -P/tmp/x20", b"bz2aespipe       10090", b"bz2aespipe       1002x"):
        done = run(AMCRYPT, "-d", data=header + b"-K/etc/passwd-----------" + DATA)
        assert done.returncode != 0
        assert done.stdout == b""


@pytest.mark.parametrize("method", ["age", "amcrypt"])
def test_the_canary_passes_with_good_keys(method):
    amanda_encryption.canary(amanda_settings.Encryption(method, ()), USER)


def test_without_an_identity_the_canary_checks_the_seals_and_says_what_it_can_not():
    recipient = amanda_age.new_identity().decode().split("public key: ")[1].split()[0]
    encryption = amanda_settings.Encryption("age", (recipient,), server_identity=False)
    with pytest.raises(AmandaError, match="apply the state backup"):
        amanda_encryption.canary(encryption, USER)
    with (
        hidden(amanda_layout.AGE_IDENTITY),
        replaced(amanda_layout.AGE_RECIPIENTS, recipient.encode()),
    ):
        for given in (False, True):
            told = amanda_encryption.canary(encryption, USER, given)
            assert "was not tried, since this server holds no identity" in told


def test_the_canary_notices_another_identity():
    other = subprocess.run(["age-keygen"], capture_output=True, check=True).stdout
    with (
        replaced(amanda_layout.AGE_IDENTITY, other),
        pytest.raises(AmandaError, match="bring its copy back"),
    ):
        amanda_encryption.canary(amanda_settings.Encryption("age", ()), USER)


def test_the_canary_notices_a_recipient_that_the_filter_does_not_know_yet():
    recipient = amanda_age.new_identity().decode().split("public key: ")[1].split()[0]
    with pytest.raises(AmandaError, match="apply the state backup"):
        amanda_encryption.canary(amanda_settings.Encryption("age", (recipient,)), USER)


def test_the_canary_notices_that_compression_does_not_work():
    kept = ZSTD.with_name("kept")
    ZSTD.rename(kept)
    try:
        with pytest.raises(AmandaError, match="compression filter .*compress-zstd does not work"):
            amanda_encryption.canary(amanda_settings.Encryption("age", ()), USER)
    finally:
        kept.rename(ZSTD)


def test_the_canary_notices_a_wrong_passphrase():
    with (
        replaced(home() / ".am_passphrase", b"wrong\n"),
        pytest.raises(AmandaError, match="gpg can't open"),
    ):
        amanda_encryption.canary(amanda_settings.Encryption("amcrypt", ()), USER)


@pytest.mark.parametrize("dumptype", ["age", "amcrypt", "zstd"])
def test_a_dump_with_all_in_place_is_ok(amanda, tree, dumptype):
    amanda.disklist([(tree, dumptype)])
    assert amanda.dump() == 0
    assert statuses(amanda) == ["OK"]


def test_amandas_own_amcrypt_calls_an_empty_dump_ok(amanda, small_tree):
    """What the filter is for; should a later Amanda mend it, this test says so."""
    amanda.disklist([(small_tree, "amandas-own")])
    with replaced(home() / ".am_passphrase", b"wrong\n"):
        assert not amanda.dump() & DLE_FAILED
    assert statuses(amanda) == ["OK"]


FAULTS = {
    "no recipients": ("age", lambda: hidden(amanda_layout.AGE_RECIPIENTS)),
    "age not installed": ("age", lambda: hidden(program("age"))),
    "no am_key.gpg": ("amcrypt", lambda: hidden(home() / ".gnupg" / "am_key.gpg")),
    "no passphrase": ("amcrypt", lambda: hidden(home() / ".am_passphrase")),
    "wrong passphrase": ("amcrypt", lambda: replaced(home() / ".am_passphrase", b"wrong\n")),
    "damaged am_key.gpg": (
        "amcrypt",
        lambda: replaced(home() / ".gnupg" / "am_key.gpg", b"-----BEGIN PGP MESSAGE-----\n\n"),
    ),
    "aespipe not installed": ("amcrypt", lambda: hidden(program("aespipe"))),
    "gpg not installed": ("amcrypt", lambda: hidden(program("gpg"))),
    "zstd not installed": ("zstd", lambda: hidden(program("zstd"))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_the_dump_and_none_is_called_ok(amanda, small_tree, fault):
    dumptype, break_it = FAULTS[fault]
    amanda.disklist([(small_tree, dumptype)])
    with break_it():
        assert amanda.dump() & DLE_FAILED
    assert "OK" not in statuses(amanda)


@pytest.mark.parametrize(
    ("dumptype", "path", "argument"),
    [
        ("age", "age", "--encrypt"),
        ("amcrypt", "aespipe", "AES256"),
        ("zstd", "zstd", "--stdout"),
    ],
)
def test_a_filter_killed_half_way_fails_the_dump(amanda, tree, dumptype, path, argument):
    amanda.disklist([(tree, dumptype)])
    with killed_at_work(path, argument) as struck:
        status = amanda.dump()
    assert len(struck) >= 2  # Amanda tries a failed dump again in the same run
    assert status & DLE_FAILED
    assert "OK" not in statuses(amanda)
