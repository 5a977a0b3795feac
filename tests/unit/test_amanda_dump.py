"""Dumps read back from tape files, whole, damaged and forged, through real filters.

Encryption is a stand-in that shifts each byte; Amanda's checksum is computed in Python.
"""

import dataclasses
import errno
import hashlib
import os
import subprocess
import threading
import time

import amanda_layout
import amanda_pipeline
import pytest
from amanda_dump import TapeSource, open_stream
from amanda_errors import AmandaError, ServerError

from tests.unit import tapes

PLAIN = bytes(range(256)) * 300
LAYOUT = [("d-0001", 3, 20000), ("d-0001", 4, 20000), ("d-0002", 1, None)]


@pytest.fixture(autouse=True)
def checksum(monkeypatch):
    """Compute checksums without Amanda's library; small chunks make small dumps large enough."""
    monkeypatch.setattr(amanda_pipeline, "CHUNK", 65536)
    monkeypatch.setattr(amanda_pipeline, "Checksum", tapes.SlowChecksum)


@pytest.fixture
def crypt(tmp_path, monkeypatch):
    """Return the program that stands for decryption; it notes how often it ran."""
    program = tmp_path / "crypt"
    program.write_text(
        f"#!/bin/sh\necho ran >> {tmp_path}/ran\n"
        r"exec tr '\000-\377' '\377\000-\376'" + "\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(amanda_layout, "CRYPT", {"age": program})
    return program


@pytest.fixture
def slots(tmp_path):
    """Return the directory of the slots."""
    return tmp_path / "tapes"


def read(dump, slots, **options):
    """Return the whole stream of *dump*."""
    with open_stream(dump, TapeSource(slots), **options) as stream:
        return stream.read()


def tape_file(slots, part):
    """Return the path of a part."""
    return TapeSource(slots).path(part)


def damage(path, offset=-10):
    """Change one byte of *path*."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def edit_header(path, old, new):
    """Replace *old* in the header of *path*; the header's length stays."""
    data = path.read_bytes()
    header = data[:32768].rstrip(b"\0")
    assert old.encode() in header
    path.write_bytes(header.replace(old.encode(), new.encode()).ljust(32768, b"\0") + data[32768:])


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("sealed", [False, True])
def test_a_dump_over_several_tapes_comes_back_as_it_was(slots, crypt, compress, sealed):
    dump = tapes.write_dump(slots, PLAIN, LAYOUT, compress, crypt if sealed else None)
    if not compress:
        assert [part.size for part in dump.parts] == [20000, 20000, 36800]
    assert read(dump, slots) == PLAIN


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("length", [1, 52, 511])
def test_the_zeros_that_amcrypt_pads_with_are_taken_out(
    slots, crypt, monkeypatch, compress, length
):
    monkeypatch.setattr(amanda_layout, "CRYPT", {"amcrypt": crypt})
    dump = tapes.write_dump(slots, PLAIN, LAYOUT, compress, crypt, bytes(length))
    assert read(dump, slots) == PLAIN


@pytest.mark.parametrize(
    ("method", "padding"),
    [("amcrypt", bytes(512)), ("amcrypt", b"\0\0x\0"), ("age", b"\0")],
)
def test_nothing_else_may_follow_the_data(slots, crypt, monkeypatch, method, padding):
    monkeypatch.setattr(amanda_layout, "CRYPT", {method: crypt})
    dump = tapes.write_dump(slots, PLAIN, LAYOUT, False, crypt, padding)
    with pytest.raises(AmandaError, match="decrypted it has"):
        read(dump, slots)


def test_a_child_can_have_the_stream_as_its_input(slots, crypt):
    dump = tapes.write_dump(slots, PLAIN, LAYOUT, True, crypt)
    with open_stream(dump, TapeSource(slots)) as stream:
        run = subprocess.run(["sha256sum"], stdin=stream, capture_output=True, check=True)
    assert run.stdout.split()[0].decode() == hashlib.sha256(PLAIN).hexdigest()


def test_the_last_part_may_be_empty(slots):
    dump = tapes.write_dump(slots, PLAIN, [("d-0001", 1, len(PLAIN)), ("d-0002", 1, None)])
    assert dump.parts[1].size == 0
    assert read(dump, slots) == PLAIN


def test_each_tape_file_gets_its_hash(slots, crypt):
    dump = tapes.write_dump(slots, PLAIN, LAYOUT, True, crypt)
    hashes = {}
    read(dump, slots, hashes=hashes)
    paths = [tape_file(slots, part) for part in dump.parts]
    assert hashes == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_what_the_block_leaves_unread_is_checked_all_the_same(slots, crypt):
    dump = tapes.write_dump(slots, PLAIN * 6, LAYOUT, False, crypt)
    damage(tape_file(slots, dump.parts[2]))
    with (
        pytest.raises(AmandaError, match="CRC"),
        open_stream(dump, TapeSource(slots)) as stream,
    ):
        assert stream.read(10) == PLAIN[:10]


def test_without_checks_the_block_may_be_left_early(slots, crypt):
    dump = tapes.write_dump(slots, PLAIN * 6, LAYOUT, False, crypt)
    damage(tape_file(slots, dump.parts[2]))
    with open_stream(dump, TapeSource(slots), check=False) as stream:
        assert stream.read(10) == PLAIN[:10]


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("offset", [32768, 40000, -1])
def test_one_changed_byte_anywhere_in_the_data_is_told(slots, crypt, sealed, offset):
    dump = tapes.write_dump(slots, PLAIN, LAYOUT, False, crypt if sealed else None)
    damage(tape_file(slots, dump.parts[1]), offset)
    with pytest.raises(AmandaError) as raised:
        read(dump, slots)
    for words in ["web1 /etc", "tape d-0001 file 3, 4; tape d-0002 file 1", "on tape", "CRC"]:
        assert words in str(raised.value)


@pytest.mark.parametrize("change", [-1, 1, -36800])
def test_a_file_of_another_length_is_told_before_anything_is_read(slots, crypt, tmp_path, change):
    dump = tapes.write_dump(slots, PLAIN, LAYOUT, False, crypt)
    path = tape_file(slots, dump.parts[2])
    os.truncate(path, path.stat().st_size + change)
    with pytest.raises(AmandaError, match=r"d-0002 file 1 \(.*has \d+ bytes of .*not 36800"):
        read(dump, slots, check=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("stage", ["server", "client", "native"])
def test_a_checksum_that_differs_at_one_stage_only_is_told(slots, crypt, stage):
    dump = tapes.write_dump(slots, PLAIN, LAYOUT, True, crypt)
    right = getattr(dump, stage)
    wrong = dataclasses.replace(dump, **{stage: dataclasses.replace(right, crc=right.crc ^ 1)})
    name = {"server": "on tape", "client": "decrypted", "native": "expanded"}[stage]
    with pytest.raises(AmandaError, match=f"{name} it has {right.size} bytes with CRC"):
        read(wrong, slots)


def test_a_dump_whose_log_has_no_checksum_can_be_read_but_not_checked(slots):
    dump = dataclasses.replace(
        tapes.write_dump(slots, PLAIN, LAYOUT), native=None, client=None, server=None
    )
    with pytest.raises(AmandaError, match="no checksum"):
        read(dump, slots)
    assert read(dump, slots, check=False) == PLAIN


def test_a_dump_straight_to_tape_without_encryption_is_checked_by_the_clients_checksum(slots):
    """Amanda then notes no checksum of what is on tape."""
    dump = dataclasses.replace(tapes.write_dump(slots, PLAIN, LAYOUT), server=None)
    assert read(dump, slots) == PLAIN
    damage(tape_file(slots, dump.parts[0]))
    with pytest.raises(AmandaError, match="decrypted it has"):
        read(dump, slots)


def test_a_stream_that_goes_on_longer_than_the_log_says_is_stopped(slots):
    """Else a forged dump fills the disk."""
    bomb = tapes.write_dump(slots, bytes(600_000), [("d-0001", 1, None)], compress=True)
    dump = dataclasses.replace(bomb, native=tapes.crc(PLAIN))
    began = 0
    with (
        pytest.raises(AmandaError, match=f"where the log says {len(PLAIN)} bytes"),
        open_stream(dump, TapeSource(slots)) as stream,
    ):
        while piece := stream.read(65536):
            began += len(piece)
    assert began <= len(PLAIN) + amanda_pipeline.CHUNK


def test_a_stream_that_is_stopped_does_not_keep_its_filter_waiting(slots, crypt):
    dump = tapes.write_dump(slots, PLAIN * 6, LAYOUT, False, crypt)
    short = dataclasses.replace(dump, client=tapes.crc(PLAIN), native=tapes.crc(PLAIN))
    with pytest.raises(AmandaError, match="decrypted it has"):
        read(short, slots)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("20261123083845", "20261123083846", "timestamp 20261123083846"),
        ("web1", "db1", "host db1"),
        (" /etc ", " /home ", "disk /home"),
        ("lev 0", "lev 1", "level 1"),
        ("part 2/-1", "part 3/-1", "part 3"),
        ("part 2/-1", "part 2/2", "number of parts 2"),
        ("SPLIT_FILE", "CONT_FILE", "can't read the header"),
    ],
)
def test_a_header_of_another_dump_is_refused(slots, crypt, tmp_path, old, new, said):
    dump = tapes.write_dump(slots, PLAIN, LAYOUT, False, crypt)
    edit_header(tape_file(slots, dump.parts[1]), old, new)
    with pytest.raises(AmandaError) as raised:
        read(dump, slots, check=False)
    assert said in str(raised.value)
    assert "tape d-0001 file 4" in str(raised.value)
    assert not (tmp_path / "ran").exists()


def test_parts_that_are_sealed_each_in_another_way_are_refused(slots, crypt):
    dump = tapes.write_dump(slots, PLAIN, LAYOUT, False, crypt)
    edit_header(tape_file(slots, dump.parts[2]), "comp N", "comp .gz")
    with pytest.raises(AmandaError, match="d-0002 file 1.*sealed otherwise"):
        read(dump, slots)


@pytest.mark.parametrize(
    "filters",
    [
        "comp N program A crypt enc server_encrypt {evil} server_decrypt_option -d",
        "comp N program A crypt enc server_encrypt {crypt} server_decrypt_option {evil}",
        "comp N program A crypt enc client_encrypt {crypt} client_decrypt_option -d",
        "comp N program A crypt enc server_encrypt {crypt}x server_decrypt_option -d",
        'comp N program A crypt enc server_encrypt "{crypt} -x" server_decrypt_option -d',
        "comp N program A crypt enc",
        "comp cust program A client_custom_compress {evil}",
        "comp cust program A server_custom_compress {evil}",
        "comp .Z program A",
        "comp .gz program A client_custom_compress {evil}",
        "comp N program A client_custom_compress {evil}",
    ],
)
def test_a_program_named_in_a_header_never_runs(slots, crypt, tmp_path, filters):
    evil = tmp_path / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {tmp_path}/pwned\ncat\n")
    evil.chmod(0o755)
    dump = tapes.write_dump(slots, PLAIN, [("d-0001", 1, None)])
    block = tapes.header_block(1, filters.format(evil=evil, crypt=crypt))
    tapes.put(slots, "d-0001", 1, block + PLAIN)
    with pytest.raises(AmandaError, match="it is not run|can't read"):
        read(dump, slots, check=False)
    assert not (tmp_path / "pwned").exists()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("check", [True, False])
def test_a_filter_that_fails_fails_the_dump_in_its_own_words(slots, crypt, check):
    crypt.write_text("#!/bin/sh\nhead -c 1000\necho 'no key here' >&2\nexit 3\n")
    dump = tapes.write_dump(slots, PLAIN, LAYOUT, False, crypt)
    if not check:
        assert len(read(dump, slots, check=False)) == 1000
        return
    with pytest.raises(AmandaError, match="crypt failed with status 3: no key here"):
        read(dump, slots)


def test_a_filter_that_ends_too_early_without_a_word_fails_the_dump(slots, crypt):
    crypt.write_text("#!/bin/sh\nhead -c 1000\nexit 0\n")
    dump = tapes.write_dump(slots, PLAIN * 6, LAYOUT, False, crypt)
    with pytest.raises(AmandaError, match="decrypted it has 1000 bytes"):
        read(dump, slots)


def test_a_filter_that_is_missing_is_named(slots, crypt):
    dump = tapes.write_dump(slots, PLAIN, LAYOUT, False, crypt)
    crypt.unlink()
    with pytest.raises(AmandaError, match="can't run .*crypt: No such file"):
        read(dump, slots)


def test_a_filter_that_says_a_lot_is_quoted_in_part(slots, crypt):
    crypt.write_text("#!/bin/sh\nyes no | head -c 1000000 >&2\necho the end >&2\nexit 1\n")
    dump = tapes.write_dump(slots, PLAIN, LAYOUT, False, crypt)
    with pytest.raises(AmandaError, match="the end") as raised:
        read(dump, slots)
    assert len(str(raised.value)) < 6000


def test_an_error_of_the_reader_that_the_dump_caused_is_explained_by_it(slots, crypt):
    crypt.write_text("#!/bin/sh\nhead -c 1000\necho 'no key here' >&2\nexit 3\n")
    dump = tapes.write_dump(slots, PLAIN, LAYOUT, False, crypt)
    with (
        pytest.raises(AmandaError, match="no key here") as raised,
        open_stream(dump, TapeSource(slots), check=False) as stream,
    ):
        stream.read()
        raise ValueError("unexpected end")
    assert isinstance(raised.value.__cause__, ValueError)


def test_an_error_of_the_reader_itself_stays_and_leaves_nothing_running(slots, crypt):
    dump = tapes.write_dump(slots, PLAIN * 6, LAYOUT, True, crypt)
    before = threading.active_count(), sorted(os.listdir("/proc/self/fd"))
    with (
        pytest.raises(ValueError, match="mine"),
        open_stream(dump, TapeSource(slots)) as stream,
    ):
        stream.read(1)
        raise ValueError("mine")
    assert (threading.active_count(), sorted(os.listdir("/proc/self/fd"))) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_refused_dump_leaves_nothing_open(slots, crypt):
    dump = tapes.write_dump(slots, PLAIN, LAYOUT, True, crypt)
    crypt.unlink()
    before = threading.active_count(), sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(AmandaError):
            read(dump, slots)
    assert (threading.active_count(), sorted(os.listdir("/proc/self/fd"))) == before


def test_stopping_does_not_wait_for_a_child_that_reads_no_more(slots, crypt):
    dump = tapes.write_dump(slots, PLAIN * 6, LAYOUT, False, crypt)
    began = time.monotonic()
    child = None
    try:
        with (
            pytest.raises(KeyboardInterrupt),
            open_stream(dump, TapeSource(slots)) as stream,
        ):
            child = subprocess.Popen(["sleep", "60"], stdin=stream)
            raise KeyboardInterrupt
        assert time.monotonic() - began < 30
    finally:
        child.kill()
        child.wait()


def test_a_dump_without_parts_is_an_error(slots):
    dump = dataclasses.replace(tapes.write_dump(slots, PLAIN, LAYOUT), parts=())
    with pytest.raises(AmandaError, match="no parts"):
        read(dump, slots)


def test_the_checksum_of_these_tests_is_crc32c():
    assert tapes.crc(b"123456789").crc == 0xE3069283


BROKEN = {
    "is missing": (None, "can't run"),
    "was killed": ("kill -9 $$", "status -9"),
    "lacks what it runs": ("/no/zstd", "status 127"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_filter_that_cant_work_is_a_fault_of_the_server(slots, crypt, how):
    dump = tapes.write_dump(slots, PLAIN, LAYOUT, False, crypt)
    script, words = BROKEN[how]
    crypt.unlink() if script is None else crypt.write_text(
        f"#!/bin/sh\ncat > /dev/null\n{script}\n"
    )
    with pytest.raises(ServerError, match=words):
        read(dump, slots)


def test_a_filter_that_says_the_data_is_bad_is_no_fault_of_the_server(slots, crypt):
    dump = tapes.write_dump(slots, PLAIN, LAYOUT, False, crypt)
    crypt.write_text("#!/bin/sh\ncat > /dev/null\necho corrupt >&2\nexit 1\n")
    with pytest.raises(AmandaError, match="corrupt") as raised:
        read(dump, slots)
    assert not isinstance(raised.value, ServerError)


FAULTS = {
    errno.EIO: False,
    errno.ENOENT: False,
    errno.EACCES: True,
    errno.EMFILE: True,
    errno.ENOMEM: True,
}


@pytest.mark.parametrize("number", FAULTS)
def test_a_tape_file_that_cant_be_opened_or_read_tells_whose_fault_it_is(
    slots, monkeypatch, number
):
    dump = tapes.write_dump(slots, PLAIN, LAYOUT)
    real = os.open

    def fail(path, *arguments, **options):
        if os.fspath(path).endswith(".0"):
            raise OSError(number, os.strerror(number), path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(AmandaError, match="can't open .*00003") as raised:
        read(dump, slots)
    assert isinstance(raised.value, ServerError) == FAULTS[number]


def test_each_piece_read_from_tape_is_reported(slots, crypt):
    dump = tapes.write_dump(slots, PLAIN, LAYOUT, False, crypt)
    counts = []
    read(dump, slots, report=counts.append)
    assert sum(counts) == dump.size
    assert len(counts) >= len(LAYOUT)
