"""The emergency sheet: its commands, run as printed, give back what Amanda has dumped.

They run where the mirror and the offsite key are all there is: server, tapes, engine and filters
are hidden from them.
"""

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import amanda_age
import amanda_catalogue
import amanda_chain
import amanda_encryption
import amanda_generations
import amanda_layout
import amanda_mirror
import amanda_platform
import amanda_settings
import pytest
from amanda_manifest import SHEET

from tests import picture, sheet
from tests.functional import hard_tree
from tests.functional.local_amanda import LocalAmanda

FILES = Path(__file__).parents[2] / "salt" / "backup" / "files"
HARD = "/srv/hard"
ODD = "/srv/it's $(touch pwned) `id`; ünï & more"
MIRROR = Path("/var/tmp/sheet-mirror")
KEY = Path("/root/offsite.key")
RESTORED = Path("/root/restored")
HIDDEN = (
    amanda_layout.SETTINGS,
    amanda_layout.PROGRAMS,
    amanda_layout.AMANDA_CONFIGS,
    "/usr/lib/amanda",
    "/var/tmp/local-amanda",
    "/srv",
)
OFFSITE = amanda_age.new_identity()
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root and Amanda")


# Two directories that exchanged their names: tar mixes them up, and the sheet says so.
EXCHANGED = {b"turns/one/file", b"turns/other/file"}


class Sheet:
    """Dumps on a mirror, the sheet that is with them, and what was there when they were made."""

    def __init__(self, amanda, method):
        self.mirror = amanda_settings.Mirror("nobody", str(MIRROR), 30)
        shutil.rmtree(MIRROR, ignore_errors=True)
        MIRROR.mkdir(mode=0o700)
        shutil.chown(MIRROR, "nobody")
        self.config = amanda.places.name
        self.dumps = amanda_catalogue.read(amanda.places)
        done = amanda_mirror.mirror(
            amanda.places, self.mirror, method, dumps=self.dumps, extras={}, trial=True
        )
        assert done["warnings"] == []
        self.top = MIRROR / self.config
        self.path = self.top / "generations" / done["generation"] / SHEET
        self.text = self.path.read_text(encoding="utf-8")

    def run(self, commands):
        """Run commands with bash where nothing of the server is; return what they said, and status.

        What was restored before is removed.
        """
        shutil.rmtree(RESTORED, ignore_errors=True)
        hide = "".join(f"mount -t tmpfs none {shlex.quote(str(path))}; " for path in HIDDEN)
        done = subprocess.run(
            ["unshare", "--mount", "bash", "-c", f'set -e; {hide} exec bash -c "$1"', "", commands],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"},
            cwd="/root",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return done.stdout.decode(errors="replace"), done.returncode


@pytest.fixture(scope="module", autouse=True)
def installed():
    """The filters as the states install them, their keys, and the offsite key where it is asked."""
    amanda_layout.PROGRAMS.mkdir(parents=True, exist_ok=True)
    for program in (*amanda_layout.CRYPT.values(), amanda_layout.COMPRESS):
        shutil.copy(FILES / program.name, program)
        program.chmod(0o755)
    recipient = amanda_age.public_key(*amanda_age.identities(OFFSITE, KEY))
    platform = amanda_platform.detect()
    for method in ("age", "amcrypt"):
        amanda_encryption.ensure(amanda_settings.Encryption(method, (recipient,)), platform)
    KEY.write_bytes(OFFSITE)
    KEY.chmod(0o400)
    yield
    KEY.unlink()
    shutil.rmtree(MIRROR)
    shutil.rmtree(RESTORED, ignore_errors=True)


def build():
    for path in (HARD, ODD):
        shutil.rmtree(path, ignore_errors=True)
    hard_tree.build(os.fsencode(HARD))
    Path(HARD, "noise").write_bytes(os.urandom(5 << 20))
    Path(ODD).mkdir()
    Path(ODD, "a letter").write_text("dear all\n")


def change_again(top):
    """Do what another day's work does."""
    hard_tree.write(top + b"/kinds/plain", "changed again\n")
    os.rename(top + b"/names/tab\tthere", top + b"/names/tab\tand there")
    shutil.rmtree(top + b"/links")
    os.unlink(top + b"/kinds/nothing")
    os.mkdir(top + b"/kinds/nothing")
    hard_tree.write(top + b"/kinds/nothing/in", "in a directory now\n")


@pytest.fixture(scope="module")
def history():
    """Levels 0, 1 and 2 of a hard tree, the first over two tapes, and of an oddly named one."""
    build()
    disks = [(HARD, "sealed"), (f'"{ODD}"', "sealed-gzip")]
    amanda = LocalAmanda("sheet", disks, tapecycle=8, slots=12, runtapes=3)
    for day, change in enumerate([None, picture.change, change_again]):
        if change:
            time.sleep(0.1)
            change(os.fsencode(HARD))
        if day == 2:
            assert amanda.command("amadmin", "sheet", "force-bump", "localhost").returncode == 0
        assert amanda.dump(f"+{day}d") == 0
    made = Sheet(amanda, "age")
    made.known = hard_tree.inventory(os.fsencode(HARD))
    yield made
    amanda.remove()
    for path in (HARD, ODD):
        shutil.rmtree(path)


def test_the_chain_has_three_levels_and_spans_tapes(history):
    chain = amanda_chain.last_chain(history.dumps, "localhost", HARD)
    assert [dump.level for dump in chain] == [0, 1, 2]
    assert len({part.label for part in chain[0].parts}) > 1


def test_the_commands_as_printed_bring_everything_back(history):
    said, status = history.run(sheet.script(history.text, 2, 3, 4, 5))
    assert status == 0, said
    assert "DAMAGED" not in said and "FAILED" not in said
    assert said.count("RESTORED: ") == 2
    (hard,) = RESTORED.glob("*.localhost._srv_hard")
    found = hard_tree.inventory(os.fsencode(hard))
    assert hard_tree.differences(history.known, found).keys() == EXCHANGED
    assert "exchanged their names" in history.text
    (odd,) = RESTORED.glob("*.localhost._srv_it*")
    assert (odd / "a letter").read_text() == "dear all\n"
    assert "/a letter" in said  # found by its name in the catalogue
    assert not list(Path("/").glob("**/pwned"))


def test_they_work_wherever_the_mirror_is_mounted(history):
    moved, key = Path("/var/tmp/a $mirror's copy"), Path("/root/the key")
    target = RESTORED / "here & now"
    commands = sheet.script(history.text, 2, 5)
    for name, value in (("MIRROR", moved), ("IDENTITY", key), ("RESTORE", target)):
        (line,) = [line for line in commands.split("\n") if line.startswith(f"{name}=")]
        commands = commands.replace(line, f"{name}={shlex.quote(str(value))}")
    key.write_bytes(OFFSITE)
    history.top.rename(moved)
    try:
        said, status = history.run(f"mkdir {RESTORED}; {commands}")
        assert (status, said.count("RESTORED: ")) == (0, 2), said
    finally:
        moved.rename(history.top)
        key.unlink()


def test_all_directories_are_had_by_one_command(history):
    said, status = history.run(sheet.script(history.text, 2, 7))
    assert status == 0, said
    assert said.count("RESTORED: ") == 2 * 2  # as it goes, and at the end
    (hard,) = RESTORED.glob("*.localhost._srv_hard")
    found = hard_tree.inventory(os.fsencode(hard))
    assert hard_tree.differences(history.known, found).keys() == EXCHANGED


def test_one_file_is_had_alone(history):
    commands = sheet.script(history.text, 2, 6)
    commands = commands.replace("FILE=./path/of/the/file", "FILE=./kinds/plain")
    said, status = history.run(commands)
    assert status == 0, said
    assert (RESTORED / "single/kinds/plain").read_text() == "changed again\n"
    said, status = history.run(commands.replace("kinds/plain", "kinds/setuid"))
    assert status != 0
    assert "Not found in archive" in said and "FAILED: the file" in said


def test_another_key_makes_them_fail_visibly(history):
    KEY.chmod(0o600)
    KEY.write_bytes(amanda_age.new_identity())
    try:
        said, status = history.run(sheet.script(history.text, 2, 4, 5))
    finally:
        KEY.write_bytes(OFFSITE)
    assert status != 0
    assert (said.count("FAILED: "), said.count("RESTORED: ")) == (3, 0)
    assert "no identity matched" in said


def flipped(path, offset):
    """Return the bytes of a file with one bit flipped."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    return bytes(data)


@pytest.mark.parametrize("offset", [32768 + 10, 32768 + 5000, -1])
def test_a_flipped_bit_makes_them_fail_visibly_and_spoils_no_other(history, offset):
    part = amanda_chain.last_chain(history.dumps, "localhost", HARD)[0].parts[0]
    (path,) = (history.top / "tapes" / part.label / part.written).glob(f"{part.file:05d}.*")
    whole = path.read_bytes()
    path.write_bytes(flipped(path, offset))
    try:
        said, status = history.run(sheet.script(history.text, 2, 3, 5))
    finally:
        path.write_bytes(whole)
    assert f"tapes/{part.label}/{part.written}: DAMAGED" in said
    assert f"FAILED: localhost {HARD}" in said
    assert said.count("RESTORED: ") == 1
    assert status == 0  # of the last block alone


def test_a_file_that_is_missing_makes_them_fail_visibly(history):
    part = amanda_chain.last_chain(history.dumps, "localhost", HARD)[0].parts[1]
    (path,) = (history.top / "tapes" / part.label / part.written).glob(f"{part.file:05d}.*")
    path.rename(path.with_name("away"))
    try:
        said, _ = history.run(sheet.script(history.text, 2, 5))
    finally:
        path.with_name("away").rename(path)
    assert f"FAILED: localhost {HARD}" in said


def test_a_sheet_that_was_changed_is_found(history):
    name = history.path.parent.name
    checked = amanda_generations.check_generation(history.mirror, history.config, name, hashes=True)
    assert checked["problems"] == []
    history.path.write_text(history.text.replace("RESTORED", "REST0RED", 1), encoding="utf-8")
    try:
        checked = amanda_generations.check_generation(
            history.mirror, history.config, name, hashes=True
        )
    finally:
        history.path.write_text(history.text, encoding="utf-8")
    (problem,) = checked["problems"]
    assert SHEET in problem and "has changed" in problem


def test_the_sheet_names_no_file_and_holds_no_key(history):
    for needle in ("a letter", "noise", "AGE-SECRET-KEY-1" + "Q"):
        assert needle not in history.text
    (secret,) = amanda_age.identities(OFFSITE, KEY)
    assert secret not in history.text


_AMCRYPT = f"""
define dumptype amcrypt {{
  auth "local"
  program "GNUTAR"
  compress client fast
  index yes
  estimate server
  encrypt server
  server-encrypt "{amanda_layout.CRYPT["amcrypt"]}"
  server-decrypt-option "-d"
}}
"""


def test_with_amcrypt_the_two_key_files_do(history):
    Path(HARD, "noise").unlink()
    amanda = LocalAmanda("amsheet", [(HARD, "amcrypt")], options=_AMCRYPT)
    try:
        assert amanda.dump() in (0, 2)  # gpg may warn of insecure memory
        known = hard_tree.inventory(os.fsencode(HARD), pax=False)
        made = Sheet(amanda, "amcrypt")
    finally:
        amanda.remove()
    home = amanda_platform.detect().home
    keys = {
        "/root/am_key.gpg": (home / ".gnupg" / "am_key.gpg").read_bytes(),
        "/root/.am_passphrase": (home / ".am_passphrase").read_bytes(),
    }
    for path, content in keys.items():
        Path(path).write_bytes(content)
    commands = sheet.script(made.text, 2, 3, 4, 5)
    try:
        said, status = made.run(commands)
        assert status == 0, said
        assert "DAMAGED" not in said and "FAILED" not in said
        (hard,) = RESTORED.glob("*.localhost._srv_hard")
        found = hard_tree.inventory(os.fsencode(hard), pax=False)
        assert hard_tree.differences(known, found) == {}
        Path("/root/.am_passphrase").write_text("wrong\n")
        said, status = made.run(commands)
        assert status != 0
        assert said.count("FAILED: ") == 2 and "RESTORED: " not in said
    finally:
        for path in keys:
            Path(path).unlink()
