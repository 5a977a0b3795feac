"""Real dumps read from real tapes, through the real filters, and what is told of damaged ones.

Needs root on a host with Amanda's server and client, age, zstd and faketime, and an address beside
127.0.0.1, without which Amanda doesn't know "localhost".
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import amanda_catalogue
import amanda_chain
import amanda_crc
import amanda_encryption
import amanda_layout
import amanda_platform
import amanda_settings
import pytest
from amanda_dump import TapeSource, open_stream
from amanda_errors import AmandaError, SealedError, ServerError

from tests.functional.local_amanda import USER, LocalAmanda
from tests.unit import tapes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
FILTERS = Path(__file__).parents[2] / "salt" / "backup" / "files"
SOURCE = Path("/var/tmp/dump-source")
KINDS = ["plain", "gzip", "sealed", "sealed-gzip", "direct"]


@pytest.fixture(scope="module")
def dumped():
    """Give an Amanda that has dumped a tree in each way, over several tapes."""
    amanda_layout.PROGRAMS.mkdir(parents=True, exist_ok=True)
    for program in (amanda_layout.CRYPT["age"], amanda_layout.COMPRESS):
        shutil.copy(FILTERS / program.name, program)
        program.chmod(0o755)
    amanda_encryption.ensure(amanda_settings.Encryption("age", ()), amanda_platform.detect())
    for kind in KINDS:
        (SOURCE / kind).mkdir(parents=True, exist_ok=True)
        (SOURCE / kind / "random").write_bytes(os.urandom(1_500_000))
        (SOURCE / kind / "text").write_bytes(b"a line of text\n" * 100_000)
    local = LocalAmanda(
        "dumps",
        [(f"{SOURCE}/{kind}", kind) for kind in KINDS],
        options="reserve 0",
        length="3 mbytes",
        part_size="700 kbytes",
        runtapes=5,
        slots=8,
        tapecycle=7,
        retention=6,
    )
    assert local.dump() == 0
    yield local
    local.remove()
    shutil.rmtree(SOURCE)


def dump_of(local, kind):
    """Return the dump that was made in one way."""
    dumps = amanda_catalogue.read(local.places)
    return amanda_chain.newest(dumps, "localhost", f"{SOURCE}/{kind}")


def read(local, dump, **options):
    """Return a dump's whole stream; the filters run as the dump user."""
    with open_stream(dump, TapeSource(local.places.tapes), user=USER, **options) as stream:
        return stream.read()


@contextlib.contextmanager
def changed(path):
    """Give *path* to be changed; afterwards it is as it was."""
    kept = path.read_bytes()
    yield path
    path.write_bytes(kept)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stream_is_what_amfetchdump_gives(dumped, kind):
    dump = dump_of(dumped, kind)
    theirs = dumped.command(
        "amfetchdump", "-a", "-p", "dumps", "localhost", f"^{SOURCE}/{kind}$", dump.timestamp
    )
    assert theirs.returncode == 0, theirs.stderr.decode()
    assert read(dumped, dump) == theirs.stdout
    assert len(theirs.stdout) == dump.native.size


def test_some_of_these_dumps_span_tapes(dumped):
    labels = {kind: {part.label for part in dump_of(dumped, kind).parts} for kind in KINDS}
    assert max(len(found) for found in labels.values()) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_tar_reads_the_stream_as_its_input(dumped, kind, tmp_path):
    dump = dump_of(dumped, kind)
    with open_stream(dump, TapeSource(dumped.places.tapes), user=USER) as stream:
        subprocess.run(["tar", "-x", "-f", "-", "-C", tmp_path], stdin=stream, check=True)
    for name in ("random", "text"):
        assert (tmp_path / name).read_bytes() == (SOURCE / kind / name).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_a_flipped_bit_in_any_part_is_told(dumped, kind, where):
    dump = dump_of(dumped, kind)
    part = dump.parts[round(where * (len(dump.parts) - 1))]
    with changed(TapeSource(dumped.places.tapes).path(part)) as path:
        data = bytearray(path.read_bytes())
        data[32768 + int(where * (part.size - 1))] ^= 4
        path.write_bytes(data)
        with pytest.raises(AmandaError) as raised:
            read(dumped, dump)
    for words in (f"{SOURCE}/{kind}", f"tape {part.label} file", str(part.file)):
        assert words in str(raised.value)
    read(dumped, dump)


def test_a_truncated_file_and_a_missing_one_are_told(dumped):
    dump = dump_of(dumped, "sealed")
    with changed(TapeSource(dumped.places.tapes).path(dump.parts[-1])) as path:
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(AmandaError, match=f"file {dump.parts[-1].file} .* bytes of"):
            read(dumped, dump)
        path.unlink()
        with pytest.raises(AmandaError, match=f"0 files for file {dump.parts[-1].file} of tape"):
            read(dumped, dump)


def test_parts_that_changed_places_are_told(dumped):
    first, second = dump_of(dumped, "sealed").parts[:2]
    source = TapeSource(dumped.places.tapes)
    with changed(source.path(first)) as one, changed(source.path(second)) as other:
        data = one.read_bytes(), other.read_bytes()
        one.write_bytes(data[1])
        other.write_bytes(data[0])
        with pytest.raises(AmandaError, match="is not part of"):
            read(dumped, dump_of(dumped, "sealed"))


def test_a_key_that_does_not_fit_is_told_in_the_words_of_age(dumped, tmp_path):
    with changed(amanda_layout.AGE_IDENTITY) as identity:
        made = subprocess.run(["age-keygen"], capture_output=True, check=True)
        identity.write_bytes(made.stdout)
        with pytest.raises(SealedError, match="no identity matched") as told:
            read(dumped, dump_of(dumped, "sealed"))
    assert "it is sealed to other keys than what was tried" in str(told.value)
    assert str(told.value).endswith("such as an offsite one: identity=/root/offsite.key")
    assert "CRC" not in str(told.value) and "expanded" not in str(told.value)


def test_the_filters_run_as_the_dump_user(dumped):
    identity = amanda_layout.AGE_IDENTITY
    owner = identity.stat()
    os.chown(identity, 0, 0)
    try:
        with pytest.raises(ServerError, match="not readable by backup") as told:
            read(dumped, dump_of(dumped, "sealed"))
        assert "CRC" not in str(told.value) and "expanded" not in str(told.value)
    finally:
        os.chown(identity, owner.st_uid, owner.st_gid)


def test_each_tape_file_read_is_hashed_on_the_way(dumped):
    dump = dump_of(dumped, "direct")
    hashes = {}
    source = TapeSource(dumped.places.tapes)
    with open_stream(dump, source, user=USER, hashes=hashes) as stream:
        assert stream.read() == read(dumped, dump)
    assert hashes == {
        source.path(part): hashlib.sha256(source.path(part).read_bytes()).hexdigest()
        for part in dump.parts
    }


def test_amandas_library_computes_crc32c():
    for data in (b"", b"123456789", os.urandom(100_003)):
        checksum = amanda_crc.Checksum()
        half = len(data) // 2
        for piece in (data[:half], data[half:]):
            checksum.add(bytearray(piece), len(piece))
        assert checksum.crc() == checksum.crc() == tapes.crc(data)
