"""The mirror between real users; as root, on a host with the dump user, age, zstd and setpriv."""

import contextlib
import hashlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import amanda_catalogue
import amanda_generations
import amanda_identity
import amanda_layout
import amanda_mirror
import amanda_rights
import pytest
from amanda_catalogue import Part
from amanda_errors import AmandaError

from tests.functional.local_amanda import LocalAmanda
from tests.mirror_site import Site

FILES = Path(__file__).parents[2] / "salt" / "backup" / "files"
ROOT = Path("/var/tmp/mirror-site")
DUMP_USER, MIRROR_USER = "backup", "mirror-test"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changes rights")


@pytest.fixture(scope="module", autouse=True)
def mirror_user():
    """Make a user in no group of the dump user's."""
    subprocess.run(["useradd", "--no-create-home", MIRROR_USER], check=True)
    yield
    subprocess.run(["userdel", MIRROR_USER], check=True)


@pytest.fixture
def keys(tmp_path):
    """Give a filter with the product's own text, but with keys of this test's."""
    directory = ROOT / "keys"
    directory.mkdir(parents=True)
    subprocess.run(["age-keygen", "-o", directory / "identity"], check=True, capture_output=True)
    public = subprocess.run(
        ["age-keygen", "-y", directory / "identity"], check=True, capture_output=True
    )
    (directory / "recipients").write_bytes(public.stdout)
    shutil.chown(directory / "identity", DUMP_USER)
    (directory / "identity").chmod(0o400)
    crypt = ROOT / "crypt-age"
    text = (FILES / "crypt-age").read_text()
    crypt.write_text(text.replace("/etc/salt-amanda/age", str(directory)))
    crypt.chmod(0o755)
    return crypt


@pytest.fixture
def site(keys, monkeypatch):
    """Give a site whose tapes only the dump user reads and whose mirror only its user enters."""
    monkeypatch.setitem(amanda_layout.CRYPT, "age", keys)
    site = Site(ROOT, MIRROR_USER, DUMP_USER)
    site.write(1, "20250101010000", 5000, 300_000)
    site.write(2, "20250102010000", 70_000)
    site.fleet.chmod(0o600)
    give(site)
    yield site
    shutil.rmtree(ROOT)


def give(site):
    """Hand everything to whom it belongs, private."""
    for top in (ROOT / "state", ROOT / "tapes", ROOT / "home"):
        subprocess.run(["chown", "-R", DUMP_USER, top], check=True)
        subprocess.run(["chmod", "-R", "u=rwX,go=", top], check=True)
    subprocess.run(["chown", "-R", MIRROR_USER, site.top.parent], check=True)
    site.top.parent.chmod(0o700)


# Root without the power to override permissions is what an export with root_squash makes of it.
SQUASHED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable, "-c"]
SCRIPT = """
import dataclasses, json, sys
from pathlib import Path
import amanda_generations, amanda_layout, amanda_mirror, amanda_platform
from amanda_catalogue import Part
from amanda_settings import Mirror
root, user, dump_user = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
amanda_layout.CRYPT["age"] = root / "crypt-age"
places = amanda_layout.ConfigPlaces("daily", root / "etc/daily", root / "state/daily",
    root / "tapes/daily", root / "holding/daily")
platform = dataclasses.replace(amanda_platform.PLATFORMS["Debian"], user=dump_user,
    home=root / "home")
mirror = Mirror(user=user, directory=str(root / "mirror"), keep_days=30)
answer = {}
try:
    list((root / "mirror").iterdir())
except PermissionError:
    answer["squashed"] = True
extras = {"fleet.json": root / "fleet.json"}
done = amanda_mirror.mirror(places, mirror, "age", platform=platform, extras=extras)
answer["check"] = amanda_generations.check(mirror, "daily", hashes=True)
del answer["check"]["copies"]
manifest = amanda_generations.load(mirror, "daily")
with amanda_generations.open_catalogue(mirror, manifest, dump_user) as copy:
    answer["unpacked"] = str(copy.conf)
part = Part("daily-0001", 2, 1, 300_000 - 32768, "20250101010000")
with amanda_generations.open_tape_file(mirror, "daily", part) as stream:
    answer["read"] = len(stream.read())
print(json.dumps(answer))
"""


def test_root_that_is_squashed_mirrors_checks_and_reads_back(site):
    utils = Path(amanda_generations.__file__).parent
    answer = subprocess.run(
        [*SQUASHED, SCRIPT, ROOT, MIRROR_USER, DUMP_USER],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(utils)])},
        capture_output=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr.decode()
    found = json.loads(answer.stdout)
    assert found["squashed"] is True
    assert found["check"]["problems"] == []
    assert found["read"] == 300_000


def test_everything_in_the_mirror_belongs_to_its_user_and_to_nobody_else(site):
    site.mirror()
    for path in site.top.rglob("*"):
        assert path.owner() == MIRROR_USER
        assert path.stat().st_mode & 0o077 == 0


def test_the_mirrors_user_can_read_neither_tapes_nor_catalogue_nor_keys(site):
    site.mirror()
    (archive,) = site.top.rglob("catalogue.*")
    for path in (
        site.places.tapes / "slot1/00002.web1._etc.0",
        site.places.tapelist,
        site.fleet,
        ROOT / "keys/identity",
    ):
        with pytest.raises(PermissionError):
            amanda_rights.as_user(
                MIRROR_USER, amanda_rights.hand_over, [str(path)], hands_over=True
            )
    opened = subprocess.run(
        ["runuser", "-u", MIRROR_USER, "--", amanda_layout.CRYPT["age"], "-d"],
        input=archive.read_bytes(),
        capture_output=True,
        check=False,
    )
    assert opened.returncode != 0 and opened.stdout == b""


def look(kept):
    """Return who this process is and what it has open."""
    return {
        "uids": os.getresuid(),
        "gids": os.getresgid(),
        "groups": sorted(os.getgroups()),
        "files": sorted(int(name) for name in os.listdir("/proc/self/fd")),
        "kept": kept,
    }


def test_a_call_as_another_user_has_none_of_roots_rights_groups_or_files():
    account = pwd.getpwnam(MIRROR_USER)
    with open("/etc/shadow", "rb") as secret:
        seen = amanda_rights.as_user(MIRROR_USER, look, ["ü\udcff", 1])
        assert secret.fileno() not in seen["files"]
    assert seen["uids"] == [account.pw_uid] * 3
    assert seen["gids"] == [account.pw_gid] * 3
    assert seen["groups"] == [account.pw_gid]
    assert len(seen["files"]) == 5  # standard ones, the connection, and the listing itself
    assert seen["kept"] == ["ü\udcff", 1]


def test_a_call_whose_process_is_killed_is_an_error():
    with pytest.raises(AmandaError, match="ended without an answer"):
        amanda_rights.as_user(MIRROR_USER, suicide)


def suicide():
    """End as a killed process does."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_offsite_identity_alone_opens_the_catalogue(site, tmp_path):
    offsite = ROOT / "offsite"
    subprocess.run(["age-keygen", "-o", offsite], check=True, capture_output=True)
    public = subprocess.run(["age-keygen", "-y", offsite], check=True, capture_output=True).stdout
    recipients = ROOT / "keys/recipients"
    recipients.write_bytes(recipients.read_bytes() + public)
    site.mirror()
    (ROOT / "keys/identity").unlink()
    manifest = amanda_generations.load(site.settings, "daily")
    with (
        pytest.raises(AmandaError, match="identity is missing"),
        amanda_generations.open_catalogue(site.settings, manifest, DUMP_USER),
    ):
        pass
    with (
        amanda_identity.given(str(offsite), DUMP_USER) as identity,
        amanda_generations.open_catalogue(site.settings, manifest, DUMP_USER, identity) as places,
    ):
        assert places.tapelist.read_text() == site.places.tapelist.read_text()
        assert places.tapelist.owner() == DUMP_USER
    assert not places.conf.exists()


@contextlib.contextmanager
def mounted(where, options):
    """Mount an empty file system of a few megabytes for the mirror."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", where], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", where], check=True)


def test_a_full_mirror_is_told_before_anything_is_written(site):
    with mounted(site.top.parent, f"size=16m,uid={pwd.getpwnam(MIRROR_USER).pw_uid},mode=0700"):
        with pytest.raises(AmandaError, match=r"bytes free, \d+ are needed"):
            site.mirror()
        assert not list(site.top.rglob("0*"))


def test_a_mirror_that_fills_up_on_the_way_keeps_its_generations(site, monkeypatch):
    uid = pwd.getpwnam(MIRROR_USER).pw_uid
    with mounted(site.top.parent, f"size=2m,uid={uid},mode=0700"):
        monkeypatch.setattr("amanda_mirror._ROOM", -(1 << 40))  # as a quota, which nobody sees
        first = site.mirror()["generation"]
        site.write(3, "20250103010000", 2_000_000)
        give(site)
        with pytest.raises(AmandaError, match="the mirror is full"):
            site.mirror()
        assert site.problems(first) == []
        shutil.rmtree(site.places.tapes / "slot3")
        site.tapes.pop("daily-0003")
        site.write(2, "20250104010000", 10)
        give(site)
        assert site.mirror()["copied_tapes"] == ["daily-0002"]
        assert not list(site.top.rglob("*.partial"))


def test_a_read_only_mirror_is_told(site):
    uid = pwd.getpwnam(MIRROR_USER).pw_uid
    with (
        mounted(site.top.parent, f"ro,uid={uid},mode=0700"),
        pytest.raises(AmandaError, match="file system is read-only"),
    ):
        site.mirror()


def test_a_mirror_directory_of_another_user_is_told(site):
    os.chown(site.top.parent, 0, 0)
    with pytest.raises(AmandaError, match="may not write in|may not look into"):
        site.mirror()
    assert list(site.top.parent.iterdir()) == []


def test_a_mirror_killed_at_any_moment_leaves_earlier_generations_whole(site):
    first = site.mirror()["generation"]
    for number in range(3, 9):
        site.write(number, f"202501{number:02d}010000", 3_000_000)
    give(site)
    for delay in (0.05, 0.1, 0.15, 0.2, 0.3):
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            site.mirror()
            os._exit(0)
        with contextlib.suppress(PermissionError):
            os.setpgid(child, child)
        time.sleep(delay)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert site.problems(first) == []
    done = site.mirror()
    assert done["tapes"] == 8
    assert amanda_generations.check(site.settings, "daily", hashes=True)["problems"] == []
    assert not list(site.top.rglob("*.partial"))


def test_two_configs_share_a_mirror_directory_without_touching_each_other(site):
    site.mirror()
    before = {path: path.stat().st_mtime_ns for path in site.top.rglob("*")}
    other = Site(ROOT / "other", MIRROR_USER, DUMP_USER)
    other.places = type(other.places)(
        "weekly", other.places.conf, other.places.state, other.places.tapes, other.places.holding
    )
    shutil.rmtree(other.top.parent)
    other.settings = site.settings
    other.places.tapelist.write_text("")
    subprocess.run(["chown", "-R", DUMP_USER, ROOT / "other"], check=True)
    assert other.mirror(keep_days=0)["tapes"] == 0
    assert {path: path.stat().st_mtime_ns for path in site.top.rglob("*")} == before
    assert amanda_generations.generations(site.settings, "weekly")[0]["problem"] is None


def test_links_in_the_mirror_lead_nowhere(site):
    site.mirror()
    copy = site.top / "tapes/daily-0001/20250101010000/00002.web1._etc.0"
    copy.unlink()
    copy.symlink_to("/etc/shadow")
    part = Part("daily-0001", 2, 1, 300_000 - 32768, "20250101010000")
    with pytest.raises(AmandaError, match="can't be read"):
        amanda_generations.open_tape_file(site.settings, "daily", part)


def test_what_amanda_dumped_is_found_and_read_in_the_mirror_of_any_generation(site):
    source = ROOT / "source"
    source.mkdir()
    (source / "file").write_bytes(os.urandom(200_000))
    amanda = LocalAmanda("vmirror", [(str(source), "plain")])
    try:
        assert amanda.dump() == 0
        first = real_mirror(site, amanda)
        assert amanda.dump("+1d") == 0
        second = real_mirror(site, amanda)
        assert second["copied_tapes"] == ["vmirror-0002"]
        for generation, number in ((first["generation"], 1), (second["generation"], 2)):
            manifest = amanda_generations.load(site.settings, "vmirror", generation)
            assert list(manifest.fulls) == [f"localhost {source}"]
            with amanda_generations.open_catalogue(site.settings, manifest, DUMP_USER) as places:
                dumps = amanda_catalogue.read(places)
            assert len(dumps) == number
            for part in dumps[-1].parts:
                on_tape = amanda.places.tapes / f"slot{part.label[-1]}"
                (on_tape,) = on_tape.glob(f"{part.file:05d}.*")
                with amanda_generations.open_tape_file(site.settings, "vmirror", part) as stream:
                    assert stream.read() == on_tape.read_bytes()
        checked = amanda_generations.check(site.settings, "vmirror", hashes=True)
        assert checked["problems"] == []
    finally:
        amanda.remove()


def real_mirror(site, amanda):
    """Mirror what Amanda dumped, with the dumps that its catalogue knows."""
    dumps = amanda_catalogue.read(amanda.places)
    return amanda_mirror.mirror(
        amanda.places, site.settings, "age", dumps=dumps, platform=site.platform, extras={}
    )


def timed(work):
    """Return how many seconds *work* takes."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def copy_by_hand(source, target):
    """Copy with cp, down to the disk."""
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-r", source, target], check=True)
    subprocess.run(["sync", "-f", target], check=True)


def test_an_unchanged_mirror_is_fast_and_a_changed_tape_costs_little_more_than_cp(site):
    for number in range(1, 21):
        site.write(number, f"202502{number:02d}010000", 5_000_000, 15_000_000)
    give(site)
    site.mirror()
    unchanged = min(timed(site.mirror) for _ in range(3))
    changed, plain, done = [], [], []
    slot = site.places.tapes / "slot7"
    for day in range(1, 4):
        site.write(7, f"202503{day:02d}010000", 50_000_000, 150_000_000)
        give(site)
        os.sync()
        plain.append(timed(lambda: copy_by_hand(slot, ROOT / "copy")))
        os.sync()
        changed.append(timed(lambda: done.append(site.mirror())))
        assert done[-1]["copied_tapes"] == ["daily-0007"]
    hashing = timed(lambda: hashlib.sha256(bytes(200_000_000)))
    print(
        f"unchanged {unchanged:.2f} s; 200 MB in one tape of twenty: mirror {min(changed):.2f} s, "
        f"cp and sync {min(plain):.2f} s, SHA-256 alone {hashing:.2f} s"
    )
    assert unchanged < 1
    # On a busy machine with a disk as fast as memory hashing is what costs; elsewhere the disk.
    assert min(changed) < unchanged + 3 * (min(plain) + hashing) + 0.5
