"""Verification of real tapes and a real mirror: whatever is damaged is found and named.

Needs root on a host with Amanda's server and client, age, zstd and faketime, and an address beside
127.0.0.1, without which Amanda doesn't know "localhost".
"""

import contextlib
import dataclasses
import gzip
import os
import random
import shutil
import subprocess
import time
import types
from pathlib import Path

import amanda_age
import amanda_catalogue
import amanda_dump
import amanda_encryption
import amanda_generations
import amanda_index
import amanda_layout
import amanda_mirror
import amanda_platform
import amanda_settings
import amanda_verification
import amanda_verified
import pytest
from amanda_errors import AmandaError, ArgumentError

from tests.functional.local_amanda import USER, LocalAmanda
from tests.functional.test_encryption import replaced

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
FILTERS = Path(__file__).parents[2] / "salt" / "backup" / "files"
SOURCE = Path("/var/tmp/verify-source")
MIRROR_USER = "verify-mirror"
KINDS = {"sealed": 400_000, "gzip": 400_000, "plain": 20_000}
"""Dumptypes, and how many bytes each directory gets: the last makes a dump of one part."""

HEADER = 32768


class Site:
    """An Amanda with a full run and an increment on tape, a blank tape, and a mirror of them."""

    def __init__(self):
        self.amanda = LocalAmanda(
            "verify",
            [(f"{SOURCE}/{kind}", kind) for kind in KINDS],
            options="reserve 0",
            length="1 mbytes",
            part_size="300 kbytes",
            runtapes=3,
            slots=8,
            tapecycle=7,
            retention=6,
        )
        self.places = self.amanda.places
        write("first")
        assert self.amanda.dump() == 0
        write("second")
        assert self.amanda.dump("+1d") == 0
        self.leave_half_a_dump()
        command = ("amlabel", "verify", "verify-0008", "slot", "8")
        assert self.amanda.command(*command).returncode == 0
        self.top = self.amanda.root / "mirror"
        self.top.mkdir()
        shutil.chown(self.top, MIRROR_USER)
        self.mirror = amanda_settings.Mirror(MIRROR_USER, str(self.top), 30)
        self.progress = []
        self.encryption = amanda_settings.Encryption("age", ())
        assert self.verify()["success"]
        self.bring_up_mirror()
        self.dumps = amanda_catalogue.read(self.places)
        self.record = amanda_verified.path("verify").read_bytes()

    def leave_half_a_dump(self):
        """Have a dump end with its tape: parts stay that nobody needs."""
        self.amanda.configure("reserve 0", runtapes=1)
        (SOURCE / "gzip" / "much").write_bytes(os.urandom(1_500_000))
        assert self.amanda.dump("+2d")
        (SOURCE / "gzip" / "much").unlink()

    def bring_up_mirror(self, **options):
        """Make a generation."""
        dumps, record = amanda_catalogue.read(self.places), amanda_verified.read("verify")
        return amanda_mirror.mirror(
            self.places, self.mirror, "age", dumps=dumps, record=record, **options
        )

    def work(self, what=None):
        """Return what a step is given."""
        return types.SimpleNamespace(
            places=self.places,
            user=USER,
            settings=types.SimpleNamespace(
                mirror=self.mirror,
                encryption=self.encryption,
                config=lambda name: types.SimpleNamespace(name=name),
            ),
            config=types.SimpleNamespace(verify=3600),
            report=types.SimpleNamespace(progress=self.progress.append),
            options=what or {},
        )

    def verify(self, **what):
        """Verify what is asked for."""
        return amanda_verification.asked(self.work(what))

    def new(self):
        """Verify as a run does after its dumps."""
        return amanda_verification.new(self.work())

    def dump(self, kind, level=0):
        """Return one of the dumps."""
        return next(d for d in self.dumps if (d.disk, d.level) == (f"{SOURCE}/{kind}", level))

    def files(self):
        """Return every file on tape."""
        return sorted(self.places.tapes.glob("slot*/0*"))

    def half(self):
        """Return a file on tape that no whole dump needs."""
        needed = {
            self.path(part) for dump in self.dumps if dump.status == "OK" for part in dump.parts
        }
        return next(
            path for path in self.files() if path.name[:6] != "00000." and path not in needed
        )

    def path(self, part):
        """Return the tape file of a part."""
        return amanda_dump.TapeSource(self.places.tapes).path(part)

    def forget(self):
        """Let nothing have been verified yet."""
        amanda_verified.path("verify").unlink()


def write(word):
    """Put new files into each directory."""
    for kind, size in KINDS.items():
        path = SOURCE / kind / "d"
        path.mkdir(parents=True, exist_ok=True)
        (path / word).write_bytes(os.urandom(size))
        (path / f"{word}\n ä").write_text(word)


@pytest.fixture(scope="module")
def made():
    amanda_layout.PROGRAMS.mkdir(parents=True, exist_ok=True)
    amanda_layout.STATE.mkdir(parents=True, exist_ok=True)
    for program in (amanda_layout.CRYPT["age"], amanda_layout.COMPRESS):
        shutil.copy(FILTERS / program.name, program)
        program.chmod(0o755)
    amanda_encryption.ensure(amanda_settings.Encryption("age", ()), amanda_platform.detect())
    subprocess.run(["useradd", "--no-create-home", MIRROR_USER], check=True)
    site = Site()
    yield site
    site.amanda.remove()
    shutil.rmtree(SOURCE)
    shutil.rmtree(amanda_layout.VERIFIED)
    subprocess.run(["userdel", MIRROR_USER], check=True)


@pytest.fixture
def site(made):
    made.progress.clear()
    yield made
    amanda_verified.path("verify").write_bytes(made.record)


@contextlib.contextmanager
def changed(path):
    """Let *path* be changed or removed in this block; afterwards it is as it was."""
    kept = path.parent.parent / "kept"
    shutil.copy2(path, kept)
    status = path.stat()
    os.chown(kept, status.st_uid, status.st_gid)
    try:
        yield
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        kept.replace(path)


@contextlib.contextmanager
def flipped(path, bit):
    """Let one bit of a file be another for this block."""

    def flip():
        with path.open("r+b") as file:
            file.seek(bit // 8)
            byte = file.read(1)[0]
            file.seek(bit // 8)
            file.write(bytes([byte ^ 1 << bit % 8]))

    flip()
    try:
        yield
    finally:
        flip()


def told(result):
    """Return all that a result says is wrong."""
    reasons = [entry["reason"] for entry in result["failed"]]
    return "\n".join([*result["problems"], *reasons])


def test_what_is_whole_is_good_and_every_file_on_tape_is_hashed(site):
    site.forget()
    result = site.verify()
    assert result["success"], result
    whole = [dump for dump in site.dumps if dump.status == "OK"]
    assert result["dumps"] == result["good"] == len(whole) >= 6
    assert result["failed"] == result["problems"] == []
    files = site.files()
    needed = {site.path(part) for dump in whole for part in dump.parts}
    assert len([path for path in files if path.name[:6] != "00000."]) > len(needed)
    assert result["files"] == len(files)
    hashes = amanda_verified.read("verify").hashes()
    names = [path.name for path in files if path.name != "00000.verify-0008"]
    assert sorted(name for tape in hashes.values() for name in tape) == sorted(names)
    assert site.progress[-1]["dumps"] == len(whole)
    assert site.progress[-1]["bytes"] > 1_000_000
    assert oct(amanda_verified.path("verify").stat().st_mode)[-3:] == "600"


def data(path):
    """Return a bit in the middle of a tape file's data."""
    return 8 * ((HEADER + path.stat().st_size) // 2)


PLACES = {
    "its data": data,
    "its header's padding": lambda path: 8 * (HEADER - 5),
    "its header's first line": lambda path: 8 * 30,
    "its header's text": lambda path: 8 * 400,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("verified", [False, True])
def test_a_flipped_bit_in_a_dump_is_found_and_named(site, place, verified):
    if not verified:
        site.forget()
    dump = site.dump("sealed")
    path = site.path(dump.parts[-1])
    with flipped(path, PLACES[place](path)):
        result = site.verify()
        assert not result["success"]
        (failed,) = result["failed"]
        assert (failed["host"], failed["disk"]) == ("localhost", f"{SOURCE}/sealed")
        assert (failed["timestamp"], failed["level"]) == (dump.timestamp, 0)
        assert dump.parts[-1].label in failed["labels"]
        assert dump.parts[-1].label in failed["reason"]
        if verified:
            assert str(path) in told(result)
            assert "verify/tapes/" + "/".join(amanda_verified.place(dump)[-1]) in told(result)
        assert amanda_verified.read("verify").failed(dump)
    again = site.verify()
    assert again["success"], again
    assert amanda_verified.read("verify").good(dump)


def test_before_it_was_verified_only_text_that_nothing_reads_can_change_unseen(site):
    """Of a header without a second part to compare with, that is what tells people, and Amanda."""
    (part,) = site.dump("plain").parts
    path = site.path(part)
    text = path.read_bytes()[:HEADER].rstrip(b"\0")
    free = range(text.index(b"APPLICATION="), len(text))
    unseen = []
    for at in range(0, len(text), 29):
        site.forget()
        with flipped(path, 8 * at):
            if site.verify(tape=part.label)["success"]:
                unseen.append(at)
    assert unseen
    assert set(unseen) <= set(free)


DAMAGES = {
    "cut short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "missing": Path.unlink,
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
}
CASES = [
    (what, damage, verified)
    for what in ("a dump", "a label", "half a dump")
    for damage in DAMAGES
    for verified in (False, True)
    if verified or what != "half a dump"  # before that nobody knows what it was
]


@pytest.mark.parametrize(("what", "damage", "verified"), CASES)
def test_a_file_that_is_no_longer_there_as_it_was_is_found_and_named(site, what, damage, verified):
    part = site.dump("sealed").parts[0]
    path = {
        "a dump": site.path(part),
        "a label": site.path(part).with_name(f"00000.{part.label}"),
        "half a dump": site.half(),
    }[what]
    label = next(path.parent.glob("00000.*")).name[6:]
    for find in (site.verify, site.new):
        if not verified:
            site.forget()
        with changed(path):
            DAMAGES[damage](path)
            result = find()
        assert not result["success"]
        assert f"tape {label}" in told(result)
        if (what, damage) != ("a label", "missing"):
            assert path.name in told(result) or f"file {part.file}" in told(result)
        bad = {(entry["disk"], entry["timestamp"]) for entry in result["failed"]}
        lost = (f"{SOURCE}/sealed", site.dump("sealed").timestamp)
        assert (lost in bad) == (what != "half a dump")
        assert site.verify()["success"]


def test_what_does_not_belong_on_a_tape_is_found_and_named(site):
    slot = site.path(site.dump("sealed").parts[0]).parent
    blank = site.places.tapes / "slot8"
    other = site.places.tapes / "slot7"
    names = {
        slot / "notes.txt": "doesn't belong there",
        slot / "00042.localhost.x.0": "doesn't belong there",
        slot / "00001.localhost.x.0": "is there twice",
        blank / "00001.localhost.x.0": "doesn't belong there",
        other / "00001.localhost.x.0": "holds no tape",
    }
    for path, words in names.items():
        path.write_text("x")
        result = site.verify()
        path.unlink()
        assert not result["success"]
        assert words in told(result)
        assert str(path.parent) in told(result)


def test_a_tape_that_is_missing_or_there_twice_costs_its_dumps_their_good_name(site):
    dump = site.dump("sealed")
    slot = site.path(dump.parts[0]).parent
    away = site.amanda.root / "away"
    for change, back in [
        (lambda: slot.rename(away), lambda: away.rename(slot)),
        (
            lambda: shutil.copytree(slot, slot.with_name("slot77")),
            lambda: shutil.rmtree(slot.with_name("slot77")),
        ),
    ]:
        change()
        for result in (site.verify(), site.new()):
            assert f"tape {dump.parts[0].label}: '{site.places.tapes}' must have it" in told(result)
            assert amanda_verified.read("verify").failed(dump)
        back()
        assert site.new()["success"]


def test_without_any_tape_nothing_is_said_of_the_dumps(site):
    tapes, away = site.places.tapes, site.places.tapes.with_name("away")
    tapes.rename(away)
    tapes.mkdir()
    try:
        with pytest.raises(AmandaError, match="Is its disk mounted"):
            site.verify()
    finally:
        tapes.rmdir()
        away.rename(tapes)
    assert amanda_verified.path("verify").read_bytes() == site.record


def test_an_index_that_is_missing_or_differs_is_a_fault_of_the_dump(site):
    path = amanda_index.path(site.places.index, site.dump("gzip"))
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    for content, words in [
        (None, "has no index"),
        (gzip.compress(b"".join(lines[:-1])), "1 names in the archive are not in the index: /d/"),
        (gzip.compress(b"".join([*lines, b"/d/zz\\tz\n"])), "not in the archive: /d/zz\\tz"),
        (path.read_bytes()[:-9], "is damaged"),
    ]:
        with changed(path):
            path.unlink() if content is None else path.write_bytes(content)
            result = site.verify()
        ((disk, reason),) = [(entry["disk"], entry["reason"]) for entry in result["failed"]]
        assert disk == f"{SOURCE}/gzip"
        assert words in reason
    with changed(path):  # another order, or locale, is no fault
        path.write_bytes(
            gzip.compress(b"".join(reversed(lines)).replace(b"\\303\\244", "ä".encode()))
        )
        assert site.verify()["success"]


@pytest.mark.parametrize("program", [amanda_layout.COMPRESS, amanda_layout.CRYPT["age"]])
def test_a_filter_of_the_server_that_is_missing_costs_no_dump_its_good_name(site, program):
    site.forget()
    kept = program.with_name("kept")
    program.rename(kept)
    try:
        result = site.verify()
    finally:
        kept.rename(program)
    assert not result["success"]
    assert result["failed"] == []
    assert result["good"] < result["dumps"]
    assert "since this server failed" in told(result)
    record = amanda_verified.read("verify")
    assert not any(record.failed(dump) for dump in site.dumps)
    assert site.new()["success"]


def test_a_run_verifies_what_is_new_and_what_was_bad_as_long_as_no_better_full_is_there(site):
    assert site.new()["dumps"] == 0
    dump = site.dump("sealed")
    path = site.path(dump.parts[0])
    with flipped(path, data(path)):
        assert site.new()["dumps"] == 0  # a run trusts the hash of what it has verified
        assert [entry["level"] for entry in site.verify(tape=dump.parts[0].label)["failed"]] == [0]
        again = site.new()
        assert (again["dumps"], again["good"]) == (1, 0)
    assert site.new()["good"] == 1
    assert site.new()["dumps"] == 0


def test_one_run_or_tape_is_verified_alone_and_what_is_not_there_is_named(site):
    first, second = sorted({dump.timestamp for dump in site.dumps})[:2]
    result = site.verify(run=second)
    assert result["success"]
    assert result["dumps"] == len([dump for dump in site.dumps if dump.timestamp == second])
    iso = f"{first[:4]}-{first[4:6]}-{first[6:8]}T{first[8:10]}:{first[10:12]}:{first[12:]}"
    assert site.verify(run=iso)["tapes"] == len(
        {part.label for dump in site.dumps for part in dump.parts if part.written == first}
    )
    assert site.verify(tape="verify-0008")["dumps"] == 0
    with pytest.raises(ArgumentError, match=f"20200101000000.*{first}"):
        site.verify(run="20200101000000")
    with pytest.raises(ArgumentError, match="verify-0099.*verify-0001"):
        site.verify(tape="verify-0099")
    with pytest.raises(ArgumentError, match="no generation 20200101T000000Z.*it has 2"):
        site.verify(generation="20200101T000000Z")


def test_a_generation_is_read_back_from_the_mirror(site):
    result = site.verify(source="mirror")
    assert result["success"], result
    assert result["dumps"] == result["good"] >= 6
    assert site.verify(generation=result["generation"])["success"]
    part = site.dump("sealed").parts[1]
    (copy,) = (site.top / "verify/tapes" / part.label / part.written).glob(f"{part.file:05d}.*")
    with flipped(copy, data(copy)):
        result = site.verify(source="mirror")
    assert not result["success"]
    assert str(copy) in told(result)
    assert [entry["disk"] for entry in result["failed"]] == [f"{SOURCE}/sealed"]
    with changed(copy):
        copy.unlink()
        assert f"'{copy}' is missing" in told(site.verify(source="mirror"))


def test_if_the_newest_generation_is_unreadable_all_is_told_and_the_one_before_is_read_back(site):
    newest = site.top / "verify/generations" / site.bring_up_mirror()["generation"]
    sheet = min(site.top.glob("verify/generations/*/EMERGENCY.txt"))
    os.truncate(newest / "manifest.json", 7)
    with changed(sheet):
        sheet.unlink()
        result = site.verify(source="mirror")
    assert not result["success"]
    assert result["dumps"] == result["good"] >= 6 and result["generation"] < newest.name
    problems = "\n".join(result["problems"])
    assert f"'{sheet}' is missing" in problems
    assert f"{newest.name} of verify: manifest.json or manifest.sha256 was changed" in problems
    manifests = list(site.top.glob("verify/generations/*/manifest.sha256"))
    kept = [path.rename(path.with_name("kept")) for path in manifests]
    result = site.verify(source="mirror")
    assert result["generation"] is None and "no generation that could be read" in told(result)
    for path in kept:
        path.rename(path.with_name("manifest.sha256"))
    shutil.rmtree(newest)
    assert site.verify(source="mirror")["success"]


def test_a_generation_must_agree_with_what_was_verified_on_tape(site):
    record = amanda_verified.read("verify")
    key, files = next(iter(record.tapes.items()))
    name = next(iter(files))
    files[name] = (files[name][0], "0" * 64)
    amanda_verified.write("verify", record)
    result = site.verify(source="mirror")
    assert f"{'/'.join(key)}/{name}' isn't what was verified on tape {key[0]}" in told(result)


def test_the_mirror_tells_of_a_tape_that_has_changed_since_it_was_verified(site):
    part = site.dump("sealed").parts[0]
    path = site.path(part)
    copied = site.top / "verify/tapes" / part.label / part.written
    copied.rename(site.amanda.root / "kept")
    with flipped(path, data(path)):
        answer = site.bring_up_mirror()
    assert answer["differing"] == [part.label]
    assert f"{path.name}'. It was copied as it is" in answer["warnings"][0]
    problems = site.verify(source="mirror")["problems"]
    assert problems == [f"{str(copied / path.name)!r} has changed: its SHA-256 is another"]
    shutil.rmtree(copied)
    assert site.bring_up_mirror()["differing"] == []
    assert site.verify(source="mirror")["success"]
    shutil.rmtree(site.amanda.root / "kept")


def test_without_an_identity_what_is_on_tape_is_compared_and_said_not_to_be_opened(site):
    site.forget()
    sealed = [dump for dump in site.dumps if (dump.disk, dump.status) == (f"{SOURCE}/sealed", "OK")]
    path = site.path(sealed[0].parts[0])
    kept = amanda_layout.AGE_IDENTITY.with_name("kept")
    amanda_layout.AGE_IDENTITY.rename(kept)
    site.encryption = dataclasses.replace(site.encryption, server_identity=False)
    try:
        result = site.verify()
        assert result["success"]
        assert result["unopened"] == len(sealed)
        assert "could not be opened, since this server holds no identity" in result["message"]
        verdict = amanda_verified.read("verify").verdict(sealed[0])
        assert (verdict.good, verdict.opened) == (True, False)
        site.forget()
        with flipped(path, data(path)):
            assert "on tape it has" in told(site.verify())
        generation = site.verify(source="mirror")
        assert generation["success"]
        assert generation["opened"] is False
        assert "catalogue and dumps could not be opened, since this" in generation["message"]
    finally:
        kept.rename(amanda_layout.AGE_IDENTITY)
        site.encryption = amanda_settings.Encryption("age", ())
    assert site.verify()["unopened"] == 0


def test_a_key_that_is_given_opens_what_the_server_has_no_key_for_and_is_told_of_what_it_does_not(
    site, tmp_path
):
    """Of dumps that aren't sealed, or not with age, it says nothing."""
    site.forget()
    sealed = [dump for dump in site.dumps if (dump.disk, dump.status) == (f"{SOURCE}/sealed", "OK")]
    key, wrong = tmp_path / "key", tmp_path / "wrong"
    kept = amanda_layout.AGE_IDENTITY.with_name("kept")
    key.write_bytes(amanda_layout.AGE_IDENTITY.read_bytes())
    wrong.write_bytes(amanda_age.new_identity())
    for path in (key, wrong):
        path.chmod(0o400)
    amanda_layout.AGE_IDENTITY.rename(kept)
    site.encryption = dataclasses.replace(site.encryption, server_identity=False)
    try:
        result = site.verify(identity=str(wrong))
        assert not result["success"] and result["failed"] == []
        assert result["sealed"] == result["unopened"] == len(sealed)
        assert f"{len(sealed)} dumps are sealed to another key than that" in result["problems"][-1]
        assert amanda_verified.read("verify").verdict(sealed[0]) is None, "its key may open it"
        result = site.verify(source="mirror", identity=str(wrong))
        assert not result["success"] and result["failed"] == []
        assert "Its catalogue is sealed to another key than that" in result["problems"][-1]
        result = site.verify(identity=str(key))
        assert result["success"] and result["unopened"] == 0, result
        verdict = amanda_verified.read("verify").verdict(sealed[0])
        assert (verdict.good, verdict.opened) == (True, True)
        generation = site.verify(source="mirror", identity=str(key))
        assert generation["success"] and generation["opened"], generation
        assert generation["dumps"] and generation["unopened"] == 0
        key.chmod(0o444)
        with pytest.raises(ArgumentError, match="can be read or changed by others"):
            site.verify(identity=str(key))
    finally:
        kept.rename(amanda_layout.AGE_IDENTITY)
        site.encryption = amanda_settings.Encryption("age", ())


@contextlib.contextmanager
def no_identity(site):
    """Have the server hold no key that opens its dumps."""
    kept, encryption = amanda_layout.AGE_IDENTITY.with_name("kept"), site.encryption
    amanda_layout.AGE_IDENTITY.rename(kept)
    site.encryption = dataclasses.replace(encryption, server_identity=False)
    try:
        yield
    finally:
        kept.rename(amanda_layout.AGE_IDENTITY)
        site.encryption = encryption


@contextlib.contextmanager
def another_key():
    """Let the server have another key than all dumps are sealed to, made a day before them."""
    with (
        replaced(amanda_layout.AGE_IDENTITY, amanda_age.new_identity()),
        replaced(amanda_layout.AGE_RECIPIENTS, b""),
    ):
        (key,) = amanda_encryption.recipients(amanda_settings.Encryption("age", ()))
        amanda_layout.AGE_RECIPIENTS.write_text(f"{key}\n")
        future = time.time() + 9 * 86400  # the dumps' clock was ahead
        os.utime(amanda_layout.AGE_RECIPIENTS, (future, future))
        yield


def test_what_is_sealed_to_a_key_of_before_is_compared_as_it_is_and_keeps_its_good_name(site):
    sealed = [dump for dump in site.dumps if (dump.disk, dump.status) == (f"{SOURCE}/sealed", "OK")]
    path = site.path(sealed[0].parts[0])
    stanza = 8 * (HEADER + 30)  # of age's header: who changes it makes it look like another key's
    with another_key():
        result = site.verify()
        assert result["success"], result
        assert result["good"] == result["dumps"]
        assert result["unopened"] == result["sealed"] == len(sealed)
        assert f"{len(sealed)} dumps are sealed to another key than this" in result["message"]
        assert "identity=/root/offsite.key" in result["message"]
        verdict = amanda_verified.read("verify").verdict(sealed[0])
        assert (verdict.good, verdict.opened) == (True, True), "it was opened once"
        for bit in (stanza, data(path)):
            with flipped(path, bit):
                (failed,) = site.verify()["failed"]
                assert failed["timestamp"] == sealed[0].timestamp
        site.forget()
        for bit in (stanza, data(path)):
            with flipped(path, bit):
                assert "on tape it has" in told(site.verify())
        assert site.verify()["success"]
        verdict = amanda_verified.read("verify").verdict(sealed[0])
        assert (verdict.good, verdict.opened) == (True, False)
    assert site.verify()["sealed"] == 0


@pytest.mark.parametrize("why", ["another key", "no identity"])
def test_a_dump_that_was_bad_when_it_could_be_opened_is_not_good_because_it_can_not(site, why):
    record = amanda_verified.read("verify")
    dump = site.dump("sealed")
    record.judge(dump, "2026-01-01T00:00:00Z", "decrypted it has another CRC")
    amanda_verified.write("verify", record)
    with contextlib.ExitStack() as stack:
        if why == "another key":
            stack.enter_context(another_key())
        else:
            stack.enter_context(no_identity(site))
        for _ in range(2):
            assert "decrypted it has another CRC" in told(site.verify())
            assert amanda_verified.read("verify").failed(dump)
    assert site.verify()["success"]


def test_a_dump_with_a_damaged_header_is_good_again_when_it_is_whole_though_no_key_opens_it(site):
    path = site.path(site.dump("sealed").parts[0])
    with no_identity(site):
        with flipped(path, 8 * 5):
            assert not site.verify()["success"]
        result = site.verify()
        assert result["success"], result


def test_a_dump_that_todays_key_should_open_and_does_not_is_bad(site):
    with another_key():
        os.utime(amanda_layout.AGE_RECIPIENTS, (0, 0))
        result = site.verify()
    assert "it is sealed to other keys than what was tried" in told(result)
    assert {entry["disk"] for entry in result["failed"]} == {f"{SOURCE}/sealed"}
    assert "on tape it has" not in told(result)


def test_a_generation_whose_key_this_server_has_no_more_is_compared_as_it_is(site):
    with another_key():
        result = site.verify(source="mirror")
        assert result["success"], result
        assert result["opened"] is False
        assert "Its catalogue is sealed to another key than this server's" in result["message"]


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_every_flipped_bit_of_tapes_and_generations_is_found_and_named(site, count):
    """Uniform over all bits of all files of both; just the tape or generation is verified."""
    seed = random.randrange(1 << 32)
    draw = random.Random(seed)
    mirror = [path for path in sorted(site.top.rglob("*")) if path.is_file()]
    files = [*site.files(), *mirror]
    sizes = [path.stat().st_size for path in files]
    spent = {True: [], False: []}
    for path in draw.choices(files, sizes, k=count):
        bit = draw.randrange(8 * path.stat().st_size)
        began = time.monotonic()
        with flipped(path, bit):
            text = found(site, path, mirror, whole=count > 100)
        spent[path in mirror].append(time.monotonic() - began)
        assert named(path, text), f"seed {seed}: bit {bit} of {path}: {text}"
    for where, seconds in (("mirror", spent[True]), ("tapes", spent[False])):
        print(f"{where}: {len(seconds)} flips, {sum(seconds) / len(seconds):.3f} s each")
    assert spent[True]
    assert spent[False]
    assert site.verify()["success"]
    assert site.verify(source="mirror")["success"]


def found(site, path, mirror, whole):
    """Verify the tape, or the generation, that has *path*; return what that tells.

    whole
        Whether dumps of a generation are read back too, after its bytes were found to be others.
    """
    if path not in mirror:
        return told(site.verify(tape=next(path.parent.glob("00000.*")).name[6:]))
    own = path.parent.parent.name == "generations"  # else every generation needs it
    generation = path.parent.name if own else None
    try:
        if whole:
            return told(site.verify(source="mirror", generation=generation))
        checked = amanda_generations.check_generation(site.mirror, "verify", generation, True)
        return "\n".join(checked["problems"])
    except AmandaError as error:
        return str(error)


def named(path, text):
    """Whether *path* is named; of a manifest and its own hash nobody can tell which was changed."""
    if path.name.startswith("manifest."):
        return f"generation {path.parent.name} of verify" in text and path.name in text
    return str(path) in text
