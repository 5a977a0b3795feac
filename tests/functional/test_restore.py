"""Restores from real dumps, on a host with Amanda, as root: compared attribute by attribute."""

import contextlib
import dataclasses
import errno
import io
import itertools
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import amanda_age
import amanda_encryption
import amanda_extract
import amanda_find
import amanda_hardening
import amanda_identity
import amanda_layout
import amanda_log
import amanda_names
import amanda_platform
import amanda_restore
import amanda_settings
import amanda_snapshot
import amanda_sources
import amanda_tree
import pytest
from amanda_errors import AmandaError, ArgumentError, CommandError, ParseError

from tests.functional import hard_tree
from tests.functional.local_amanda import USER, LocalAmanda
from tests.functional.programs import install_client_programs, unharden

FULL = (
    "nothing was restored: {} is full, or its owner has no room left there. Make room, or name "
    "another directory: destination=, with salt-run directory="
)
TOPS = {"amgtar": b"/srv/hard-amgtar", "gnutar": b"/srv/hard-gnutar"}
_DUMPTYPES = f"""
define application-tool ours {{
  plugin "amgtar"
  property "XATTRS" "YES"
  property "ACLS" "YES"
  property "GNUTAR-PATH" "{amanda_layout.INCREMENTAL_TAR}"
  property "ATIME-PRESERVE" "NO"
}}
define dumptype amgtar {{
  auth "local"
  program "APPLICATION"
  application "ours"
  compress client fast
  index yes
  maxpromoteday 0
  estimate server
}}
define dumptype gnutar {{
  auth "local"
  program "GNUTAR"
  compress client fast
  index yes
  maxpromoteday 0
  estimate server
}}
"""
PARTS = {
    "a directory with odd names": b"names",
    "all kinds of files": b"kinds",
    "a directory before its rename": b"links/in",
    "a renamed directory": b"knots",
    "a directory taken out of a renamed one": b"inner",
    "a file that changes": b"kinds/plain",
    "a file that becomes a directory": b"kinds/nothing",
    "a directory that becomes a file": b"empty",
    "a sparse file": b"kinds/sparse",
    "a device": b"kinds/null",
    "a file with a capability": b"kinds/capable",
    "a second hard link": b"links/out/three",
    "a second hard link in a renamed directory": b"knots/out/three",
    "what turns into something else": b"turns",
    "a file that lost a second name": b"turns/a",
    "a directory that was a symlink": b"turns/link-to-dir",
    "a directory that another was exchanged with": b"turns/one",
    "a deep directory": b"deep",
    "a file at the bottom": b"deep" + b"/a-step-of-the-way-down" * 100 + b"/bottom",
    "the whole": b"",
}


def inventory(top, pax=True):
    """Return the inventory of *top* without what takes more than the right to read; see docs."""
    found = hard_tree.inventory(top, pax)
    for attributes in found.values():
        attributes.get("xattrs", {}).pop("trusted.mark", None)
    return found


_BY_FIRST_RENAME = (b"kinds/symlink", b"knots/out/symlink")
_BY_SECOND = (b"inner/one", b"inner/two", b"knots/out/three")
UNLINKED = ((), _BY_FIRST_RENAME, _BY_FIRST_RENAME + _BY_SECOND)


class Restores:
    """Three dumps of two hard trees, levels 0 to 2, and what each tree was at the time."""

    def __init__(self, amanda):
        self.amanda = amanda
        self.known = {dumptype: [] for dumptype in TOPS}
        self.all = []
        """What the tree dumped by GNUTAR was, with what that loses."""
        for top in TOPS.values():
            shutil.rmtree(top, ignore_errors=True)
            hard_tree.build(top)
        for day, change in enumerate([None, _first_changes, _second_changes]):
            if change:
                time.sleep(0.1)
                for top in TOPS.values():
                    change(top + b"/")
            if day == 2:
                assert amanda.command("amadmin", "hard", "force-bump", "localhost").returncode == 0
            assert amanda.dump(f"+{day}d") == 0
            for dumptype, top in TOPS.items():
                self.known[dumptype].append(inventory(top, dumptype == "amgtar"))
            self.all.append(inventory(TOPS["gnutar"]))
        self.catalogue = amanda_sources.on_tape(amanda.places)
        self.dumps = self.catalogue.dumps
        self.moments = sorted({dump.timestamp for dump in self.dumps})

    def recover(self, dumptype, name, destination, day=2, **options):
        """Recover *name* below a tree as of the dump on *day*; returns the result."""
        path = amanda_names.text(TOPS[dumptype] + (b"/" + name if name else b""))
        return amanda_restore.recover(
            self.catalogue, "localhost", path, str(destination), at=self.moments[day], **options
        )


def _first_changes(top):
    os.rename(top + b"names/new\nline", top + b"names/renamed\nline")
    os.unlink(top + b"names/-dash")
    os.rename(top + b"links", top + b"knots")
    hard_tree.write(top + b"kinds/plain", "changed\n")
    os.rmdir(top + b"empty")
    hard_tree.write(top + b"empty", "a file now\n")
    os.unlink(top + b"kinds/nothing")
    os.mkdir(top + b"kinds/nothing")
    hard_tree.write(top + b"kinds/nothing/in", "in a directory now\n")
    hard_tree.turn(top, 1)


def _second_changes(top):
    os.rename(top + b"knots/in", top + b"inner")
    os.unlink(top + b"empty")
    hard_tree.write(top + b"names/new\nline", "back again\n")
    hard_tree.write(top + b"kinds/plain", "changed again\n")
    shutil.rmtree(top + b"names/dir  leading")
    hard_tree.turn(top, 2)


@pytest.fixture(scope="module")
def restores():
    """Dumped as on a client: by our tar, without a setuid program; then the host is as it was."""
    install_client_programs()
    amanda_hardening.apply()
    amanda = LocalAmanda(
        "hard",
        [(top.decode(), dumptype) for dumptype, top in TOPS.items()],
        options=_DUMPTYPES,
        tapecycle=6,
        slots=8,
        length="16 mbytes",
    )
    try:
        made = Restores(amanda)
    finally:
        unharden()
        amanda_layout.TAR.unlink()
    yield made
    amanda.remove()
    for top in TOPS.values():
        shutil.rmtree(top)


@pytest.fixture
def room(tmp_path):
    yield tmp_path
    subprocess.run(["rm", "-rf", "--", tmp_path], check=True)


def test_the_dumps_are_a_full_and_two_levels_above_it(restores):
    levels = [dump.level for dump in restores.dumps if dump.disk == "/srv/hard-amgtar"]
    assert levels == [0, 1, 2]


@pytest.mark.parametrize("day", [0, 1, 2])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("dumptype", TOPS)
def test_a_part_comes_back_as_it_was(restores, room, dumptype, part, day):
    name = PARTS[part]
    known = restores.known[dumptype][day]
    if name not in known:
        with pytest.raises(ArgumentError, match="wasn't there"):
            restores.recover(dumptype, name, room / "out", day)
        assert list(room.iterdir()) == []
        return
    result = restores.recover(dumptype, name, room / "out", day)
    found = hard_tree.inventory(amanda_names.raw(result["restored"]), dumptype == "amgtar")
    differences = hard_tree.differences(hard_tree.below(known, name), found)
    if not name:
        # tar dumps a renamed directory anew, and so forgets that a file in it is linked to one
        # outside that didn't change: each is a file of its own then.
        for unlinked in UNLINKED[day]:
            assert differences.pop(unlinked).keys() == {"links"}
    assert differences == {}
    assert result["missing"]["count"] == 0


@pytest.mark.parametrize("day", [0, 1, 2])
def test_gnutar_loses_extended_attributes_and_parts_of_seconds_and_nothing_else(
    restores, room, day
):
    """ACLs and capabilities are extended attributes."""
    result = restores.recover("gnutar", b"kinds", room / "out", day)
    known = hard_tree.below(restores.all[day], b"kinds")
    found = hard_tree.inventory(amanda_names.raw(result["restored"]))
    for attributes in known.values():
        attributes["time"] -= attributes["time"] % 10**9
    differences = hard_tree.differences(known, found)
    assert {tuple(changed) for changed in differences.values()} == {("xattrs",)}
    assert {tuple(changed["xattrs"][1]) for changed in differences.values()} == {()}
    assert differences.keys() == {b"attributes", b"capable", b"shared", b"shared.d"}


@pytest.mark.parametrize("name", hard_tree.NAMES)
def test_any_name_can_be_listed_found_and_recovered_alone(restores, room, name):
    path = amanda_names.text(TOPS["amgtar"] + b"/names/" + name)
    listed = amanda_find.list_names(
        restores.catalogue, "localhost", path.rpartition("/")[0], restores.moments[0]
    )
    assert {"name": amanda_names.text(name), "type": "file"} in listed["entries"]
    versions = amanda_find.versions(restores.catalogue, "localhost", path)
    assert versions[-1]["level"] == 0 and versions[-1]["type"] == "file"
    result = restores.recover("amgtar", b"names/" + name, room / "out", day=0)
    content = Path(os.fsdecode(amanda_names.raw(result["restored"]))).read_text()
    assert content == f"content of {name!r}\n"


@pytest.mark.parametrize("day", [0, 1, 2])
def test_a_listing_is_what_was_there_at_the_moment(restores, day):
    known = restores.known["amgtar"][day]
    for directory in (b"", b"names", b"kinds"):
        there = {
            name.removeprefix(directory + b"/" if directory else b"")
            for name in known
            if name and name.rpartition(b"/")[0] == directory
        }
        listed = amanda_find.list_names(
            restores.catalogue,
            "localhost",
            amanda_names.text(TOPS["amgtar"] + b"/" + directory),
            restores.moments[day],
        )
        assert {amanda_names.raw(entry["name"]) for entry in listed["entries"]} == there
        assert listed["count"] == len(there)


def test_sha256sum_agrees_with_the_manifest_whatever_the_names(restores, room):
    result = restores.recover("amgtar", b"", room / "out")
    manifest = amanda_names.raw(result["manifest"])
    check = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", manifest],
        cwd=room / "out",
        capture_output=True,
        check=False,
    )
    assert (check.returncode, check.stderr) == (0, b"")
    assert len(Path(os.fsdecode(manifest)).read_bytes().splitlines()) == result["files"]


def test_a_directory_that_exists_and_is_empty_becomes_roots_alone(restores, room):
    (room / "out").mkdir(mode=0o777)
    restores.recover("amgtar", b"kinds/plain", room / "out")
    assert (room / "out").stat().st_mode & 0o7777 == 0o700
    assert sorted(path.name for path in room.iterdir()) == ["out", "out.sha256"]


def test_a_directory_that_is_not_empty_stays_as_it_is(restores, room):
    (room / "out").mkdir()
    (room / "out" / "mine").touch()
    with pytest.raises(ArgumentError, match="isn't empty"):
        restores.recover("amgtar", b"kinds/plain", room / "out")
    assert sorted(path.name for path in room.rglob("*")) == ["mine", "out"]


def test_what_was_deleted_is_an_error_that_names_the_nearest_dumps(restores, room):
    first = amanda_log.iso(restores.moments[0])
    with pytest.raises(ArgumentError, match=rf"nearest dumps that store it: {first} \(level 0\)"):
        restores.recover("amgtar", b"names/-dash", room / "out", day=1)


def test_what_never_was_is_an_error(restores, room):
    with pytest.raises(ArgumentError, match="no dump of localhost stores"):
        restores.recover("amgtar", b"never", room / "out")
    assert list(room.iterdir()) == []


@contextlib.contextmanager
def small(room, **limits):
    """Give *room* a file system of its own that is soon full."""
    options = ",".join(f"{name}={value}" for name, value in limits.items())
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", room], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", room], check=True)


def test_a_full_disk_is_an_error_that_names_the_destination_and_leaves_nothing(restores, room):
    with small(room, size="64k"):
        with pytest.raises(AmandaError) as caught:
            restores.recover("amgtar", b"", room / "out")
        assert str(caught.value) == FULL.format(room / "out")
        assert list(room.iterdir()) == []


def test_a_file_that_room_is_left_for_a_part_of_is_told_as_a_full_disk_too(room):
    """GNU tar gives no reason then, but says that it "Wrote only 4096 of 10240 bytes"."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
        member = tarfile.TarInfo("./big")
        member.size = 4 << 20
        tar.addfile(member, io.BytesIO(bytes(member.size - 1) + b"x"))
    archive.seek(0)
    with small(room, size="1m"), pytest.raises(OSError) as caught:
        amanda_extract.extract(archive, room, amanda_extract.Wanted({b"big"}))
    assert caught.value.errno == errno.ENOSPC


def test_at_whatever_step_the_room_ends_it_is_told_and_nothing_is_left(restores, room):
    for inodes in itertools.count(2):
        with small(room, nr_inodes=inodes):
            try:
                restores.recover("amgtar", b"kinds/plain", room / "out")
                break
            except AmandaError as error:
                assert str(error) == FULL.format(room / "out")
                assert list(room.iterdir()) == []
    assert inodes > 6  # directories, the file, and at last its checksum


def test_a_restore_that_is_called_off_ends_at_once_and_leaves_nothing(restores, room, monkeypatch):
    monkeypatch.setattr(amanda_restore, "_PROGRESS_STEP", 1)  # while it is read, not after

    def call_off(*told):
        raise AmandaError("called off")

    with pytest.raises(AmandaError, match="called off"):
        restores.recover("amgtar", b"", room / "out", progress=call_off)
    assert not list(room.iterdir())
    assert subprocess.run(["pgrep", "-u", USER, "-x", "tar|age|zstd"], check=False).returncode == 1


def test_progress_ends_at_all_the_bytes_there_are(restores, room):
    told = []
    restores.recover("amgtar", b"", room / "out", progress=lambda *words: told.append(words))
    sizes = [dump.native.size for dump in restores.dumps if dump.disk == "/srv/hard-amgtar"]
    done, total, _ = told[-1]
    # A dump is read again for what a hard link in it links to, if that is not there any more.
    assert done == total and total - sum(sizes) in (0, *sizes)
    assert all(done <= total for done, total, _ in told)


# sealed dumps

OFFSITE = amanda_age.new_identity()


@pytest.fixture(scope="module")
def sealed():
    """A dump sealed with age: a small file, then 3 MB that no compressor shrinks."""
    amanda_layout.PROGRAMS.mkdir(parents=True, exist_ok=True)
    for program in (amanda_layout.CRYPT["age"], amanda_layout.COMPRESS):
        shutil.copy(Path(__file__).parents[2] / "salt" / "backup" / "files" / program.name, program)
        program.chmod(0o755)
    offsite = amanda_age.public_key(*amanda_age.identities(OFFSITE, "offsite"))
    encryption = amanda_settings.Encryption("age", (offsite,))
    amanda_encryption.ensure(encryption, amanda_platform.detect())
    top = Path("/srv/sealed")
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    (top / "early").write_text("a small file\n")
    (top / "late").write_bytes(os.urandom(3 << 20))
    amanda = LocalAmanda("sealed", [("/srv/sealed", "sealed")], length="16 mbytes")
    assert amanda.dump() == 0
    yield amanda_sources.on_tape(amanda.places)
    amanda.remove()
    shutil.rmtree(top)


def _flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def test_one_file_of_a_sealed_dump_is_had_without_reading_the_rest(sealed, room):
    last = sealed.source.path(sealed.dumps[0].parts[-1])
    _flip(last, -5)
    try:
        recover = [sealed, "localhost", "/srv/sealed/early"]
        result = amanda_restore.recover(*recover, str(room / "out"))
        assert (room / "out" / "early").read_text() == "a small file\n"
        assert [dump["checked"] for dump in result["dumps"]] == [False]
        with pytest.raises(AmandaError, match="sealed-0001"):
            amanda_restore.recover(sealed, "localhost", "/srv/sealed", str(room / "all"))
        assert sorted(path.name for path in room.iterdir()) == ["out", "out.sha256"]
    finally:
        _flip(last, -5)


def test_a_flipped_bit_in_what_is_read_of_a_sealed_dump_is_an_error(sealed, room):
    first = sealed.source.path(sealed.dumps[0].parts[0])
    _flip(first, 40000)
    try:
        with pytest.raises(AmandaError):
            recover = [sealed, "localhost", "/srv/sealed/early"]
            amanda_restore.recover(*recover, str(room / "out"))
        assert list(room.iterdir()) == []
    finally:
        _flip(first, 40000)


def test_one_file_of_a_dump_that_is_not_sealed_is_had_after_reading_all(restores, room):
    result = restores.recover("amgtar", b"kinds/plain", room / "out")
    assert [dump["checked"] for dump in result["dumps"]] == [True]


# GNU tar and its incrementals, without Amanda


def _tar(top, snapshot, archive):
    options = ["--create", "--sparse", "--xattrs", "--acls", "--one-file-system"]
    subprocess.run(
        ["tar", *options, f"--directory={top}", f"--listed-incremental={snapshot}"]
        + [f"--file={archive}", "."],
        check=True,
        capture_output=True,
    )


def _replaced_site(room, cleanse):
    """Dump a site, put a new one in its place, dump again; return what the second dump tells."""
    top, snapshot = room / "top", room / "snapshot"
    (top / "site/css").mkdir(parents=True)
    (top / "site/css/x").write_text("old")
    _tar(top, snapshot, room / "0.tar")
    time.sleep(0.1)
    (top / "site").rename(top / "old")
    (top / "site/css").mkdir(parents=True)
    (top / "site/css/x").write_text("new")
    if cleanse:
        arguments = ["--create", "--file=-", f"--directory={top}"]
        arguments += [f"--listed-incremental={snapshot}", "."]
        assert amanda_snapshot.prepare("tar", arguments) == 2
    _tar(top, snapshot, room / "1.tar")
    chain = []
    for archive in ("0.tar", "1.tar"):
        with (room / archive).open("rb") as stream:
            chain.append(amanda_tree.read_dumpdirs(stream))
    return amanda_tree.follow(chain)


def test_tar_alone_leaves_a_directory_out_whose_name_was_used_before(room):
    tree = _replaced_site(room, cleanse=False)
    assert tree.kind(b"site/css/x") is None


def test_with_a_cleansed_snapshot_tar_dumps_a_directory_whose_name_was_used_before(room):
    tree = _replaced_site(room, cleanse=True)
    assert tree.kind(b"site/css/x") == "file"
    assert tree.kind(b"old/css/x") == "file"


@pytest.fixture
def incremental_tar(room):
    """Amanda's clients' tar as the states install it; gives the property that names it."""
    wrapper, tar = amanda_layout.INCREMENTAL_TAR, amanda_layout.TAR
    security = Path("/etc/amanda-security.conf")
    kept = security.read_bytes()
    install_client_programs()
    was_there = tar.exists()
    if not was_there:
        shutil.copy("/usr/bin/tar", tar)
    security.write_bytes(kept + f"\namgtar:gnutar_path={wrapper}\n".encode())
    yield wrapper
    security.write_bytes(kept)
    if not was_there:
        tar.unlink()


@pytest.fixture
def site(incremental_tar):
    """A DLE dumped in full through our tar, and then a new site put in the place of the old."""
    top = Path("/srv/site")
    shutil.rmtree(top, ignore_errors=True)
    (top / "site/css").mkdir(parents=True)
    (top / "site/css/x").write_text("old")
    (top / "site").chmod(0o700)
    dumptype = f"""
define application amgtar-cleansed {{
  plugin "amgtar"
  property "XATTRS" "YES"
  property "ACLS" "YES"
  property "GNUTAR-PATH" "{incremental_tar}"
}}
define dumptype cleansed {{
  auth "local"
  program "APPLICATION"
  application "amgtar-cleansed"
  index yes
  estimate server
}}
"""
    amanda = LocalAmanda("site", [(str(top), "cleansed")], dumptype, length="16 mbytes")
    assert amanda.dump() == 0
    time.sleep(0.1)
    (top / "site").rename(top / "old")
    (top / "site/css").mkdir(parents=True)
    (top / "site/css/x").write_text("new")
    yield amanda
    amanda.remove()
    shutil.rmtree(top)


def test_a_site_put_in_the_place_of_another_is_dumped_whole(site, room):
    assert site.dump("+1d") == 0
    catalogue = amanda_sources.on_tape(site.places)
    assert [dump.level for dump in catalogue.dumps] == [0, 1]
    amanda_restore.recover(catalogue, "localhost", "/srv/site", str(room / "out"))
    restored = hard_tree.inventory(os.fsencode(room / "out" / "site"))
    assert hard_tree.differences(hard_tree.inventory(b"/srv/site"), restored) == {}


def test_where_a_snapshot_cannot_be_cleansed_no_dump_is_made(incremental_tar, room):
    arguments = ["--create", "--file", "-", "--directory", room]
    arguments += ["--listed-incremental", room / "snapshot", "."]
    (room / "snapshot").write_bytes(b"damaged")
    for damage in (None, "raise RuntimeError('broken')"):
        if damage:
            (incremental_tar.parent / "amanda_errors.py").write_text(damage)
        done = subprocess.run([incremental_tar, *arguments], capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.startswith(b"incremental-tar: ")


def _hostile(*members):
    """Return an archive of *members*: name, type and what it links to; directories first."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            content = b"evil" if kind == tarfile.REGTYPE else b""
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    buffer.seek(0)
    return buffer


HOSTILE = {
    "a name that climbs": [("../outside/x", tarfile.REGTYPE, "")],
    "a name that climbs from within": [("a/../../outside/x", tarfile.REGTYPE, "")],
    "a link out, then a name through it": [
        ("d", tarfile.SYMTYPE, "../outside"),
        ("d/x", tarfile.REGTYPE, ""),
    ],
    "an absolute link, then a name through it": [
        ("d", tarfile.SYMTYPE, "{outside}"),
        ("d/x", tarfile.REGTYPE, ""),
    ],
    "a directory turned into a link": [
        ("d", tarfile.DIRTYPE, ""),
        ("d", tarfile.SYMTYPE, "../outside"),
        ("d/x", tarfile.REGTYPE, ""),
    ],
    "a link to a link that leads out": [
        ("e", tarfile.SYMTYPE, ".."),
        ("d", tarfile.SYMTYPE, "e/outside"),
        ("d/x", tarfile.REGTYPE, ""),
    ],
    "a hard link to a link, then written through": [
        ("e", tarfile.SYMTYPE, "../outside/x"),
        ("d", tarfile.LNKTYPE, "e"),
        ("d", tarfile.REGTYPE, ""),
    ],
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_nothing_is_written_outside_the_directory(room, attack):
    outside, inside = room / "outside", room / "inside"
    outside.mkdir()
    inside.mkdir()
    members = [(name, kind, link.format(outside=outside)) for name, kind, link in HOSTILE[attack]]
    wanted = amanda_extract.Wanted({name.encode() for name, _, _ in members}, top=b"")
    try:
        amanda_extract.extract(_hostile(*members), inside, wanted)
    except CommandError as error:
        assert "tar" in str(error)
    assert list(outside.iterdir()) == []
    assert sorted(path.name for path in room.iterdir()) == ["inside", "outside"]


@pytest.mark.parametrize(
    "attack", [name for name in HOSTILE if "link" not in name or "then a" in name]
)
def test_without_the_guard_of_tar_the_attack_works(room, monkeypatch, attack):
    outside, inside = room / "outside", room / "inside"
    outside.mkdir()
    inside.mkdir()
    members = [(name, kind, link.format(outside=outside)) for name, kind, link in HOSTILE[attack]]
    wanted = amanda_extract.Wanted({name.encode() for name, _, _ in members}, top=b"")
    monkeypatch.setattr(amanda_extract, "TAR", (*amanda_extract.TAR, "--absolute-names"))
    amanda_extract.extract(_hostile(*members), inside, wanted)
    assert [path.name for path in outside.iterdir()] == ["x"]


def test_an_absolute_name_lands_inside(room):
    stream = _hostile(("/outside-of-all", tarfile.REGTYPE, ""))
    amanda_extract.extract(stream, room, amanda_extract.Wanted({b"/outside-of-all"}))
    assert (room / "outside-of-all").read_text() == "evil"
    assert not Path("/outside-of-all").exists()


def test_a_dump_whose_directories_climb_is_refused(room):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("./a/../../outside/")
        member.type, member.pax_headers = tarfile.DIRTYPE, {"GNU.dumpdir": "Yx\0\0"}
        archive.addfile(member)
    stream.seek(0)
    with pytest.raises(ParseError, match="leads out"):
        amanda_tree.read_dumpdirs(stream)


def test_a_damaged_dump_is_an_error_and_leaves_nothing(restores, room):
    tape_file = Path(restores.catalogue.source.path(restores.dumps[0].parts[0]))
    content = tape_file.read_bytes()
    damaged = bytearray(content)
    damaged[-100] ^= 1
    tape_file.write_bytes(damaged)
    try:
        with pytest.raises(AmandaError):
            disk = restores.dumps[0].disk
            amanda_restore.recover(
                restores.catalogue,
                "localhost",
                disk,
                str(room / "out"),
                at=restores.moments[0],
            )
        assert list(room.iterdir()) == []
    finally:
        tape_file.write_bytes(content)


@pytest.fixture
def lost_identity():
    """The server's own identity, taken away for a test."""
    aside = amanda_layout.AGE_IDENTITY.rename("/root/aside")
    yield
    aside.rename(amanda_layout.AGE_IDENTITY)


def test_without_the_servers_identity_one_that_is_given_opens_a_sealed_dump(
    sealed, lost_identity, room
):
    sealed = dataclasses.replace(sealed, user=USER)
    what = ("localhost", "/srv/sealed")
    key = room / "offsite.key"
    key.write_bytes(OFFSITE)
    key.chmod(0o400)
    with pytest.raises(AmandaError, match="identity is missing"):
        amanda_restore.recover(sealed, *what, str(room / "out"))
    with amanda_identity.given(str(key), USER) as identity:
        opened = dataclasses.replace(sealed, identity=identity)
        listed = amanda_find.list_names(opened, *what)
        assert [entry["name"] for entry in listed["entries"]] == ["early", "late"]
        result = amanda_restore.recover(opened, *what, str(room / "out"))
    assert (room / "out" / "sealed" / "early").read_text() == "a small file\n"
    assert [dump["checked"] for dump in result["dumps"]] == [True]


def test_an_identity_that_was_not_sealed_to_opens_nothing(sealed, room):
    key = room / "other.key"
    key.write_bytes(amanda_age.new_identity())
    key.chmod(0o400)
    with amanda_identity.given(str(key), USER) as identity:
        opened = dataclasses.replace(sealed, user=USER, identity=identity)
        with pytest.raises(AmandaError, match="no identity matched"):
            amanda_restore.recover(opened, "localhost", "/srv/sealed", str(room / "out"))
    assert list(room.iterdir()) == [key]


def test_a_given_identity_is_in_no_argument_environment_or_file_of_a_filter(sealed, room):
    key = room / "offsite.key"
    key.write_bytes(OFFSITE)
    key.chmod(0o400)
    (secret,) = amanda_age.identities(OFFSITE, "offsite")
    with amanda_identity.given(str(key), USER) as identity:
        opened = dataclasses.replace(sealed, user=USER, identity=identity)
        with opened.open(sealed.dumps[0], check=False):
            children = [
                child for child in Path("/proc").glob("[0-9]*") if _parent(child) == os.getpid()
            ]
            seen = [
                (child / name).read_bytes() for child in children for name in ("cmdline", "environ")
            ]
    assert any(f"/dev/fd/{identity}".encode() in each for each in seen)
    assert not any(secret.encode() in each for each in seen)
    found = subprocess.run(
        ["grep", "-rlsF", secret, "/tmp", "/var/tmp", "/dev/shm", "/run", "/var/lib"],
        capture_output=True,
        check=False,
    )
    assert [name for name in found.stdout.split(b"\n") if name] == [os.fsencode(key)]


def _parent(process):
    """Return the parent's number of a process, a directory of /proc; None if it has ended."""
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None
