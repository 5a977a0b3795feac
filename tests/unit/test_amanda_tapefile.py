"""Headers of tape files and where the files are: what Amanda wrote, and what an enemy might."""

import os
from pathlib import Path

import amanda_tapefile
import pytest
from amanda_catalogue import Part
from amanda_errors import AmandaError, ParseError
from amanda_log import Crc
from amanda_tapefile import TapeSource

from tests.unit import tapes

HEADERS = Path(__file__).parent / "captured" / "catalogue" / "headers"
CRYPT = "/usr/local/lib/salt-amanda/crypt-age"
ZSTD = "/usr/local/lib/salt-amanda/compress-zstd"


def captured(name):
    """Return the header of a captured tape file."""
    block = (HEADERS / name).read_bytes().ljust(amanda_tapefile.HEADER_SIZE, b"\0")
    return amanda_tapefile.parse_header(block, name)


def parse(line, more=""):
    """Return the header whose first line is *line*."""
    return amanda_tapefile.parse_header(f"{line}\n{more}".encode(), "here")


def part(label="d-0001", file=1, written=tapes.WRITTEN):
    """Return a part on a tape."""
    return Part(label, file, 1, 5, written)


def test_a_label_gives_its_tape_and_time():
    header = captured("label")
    assert (header.kind, header.label, header.datestamp) == (
        "TAPESTART",
        "t1-0002",
        "20261123082951",
    )


def test_a_label_never_written_has_no_time():
    assert parse("AMANDA: TAPESTART DATE X TAPE d-0001", "\f\n").datestamp == "X"


def test_a_sealed_part_names_its_filters_and_checksums():
    header = captured("sealed")
    assert (header.kind, header.host, header.disk) == ("SPLIT_FILE", "localhost", '/srv/q"uote')
    assert (header.level, header.part, header.parts) == (0, 1, -1)
    assert (header.program, header.application) == ("APPLICATION", "amgtar")
    assert (header.compression, header.compress_program) == ("cust", ZSTD)
    assert (header.encrypted, header.encrypt_program, header.decrypt_option) == (True, CRYPT, "-d")
    assert header.native == Crc(0xDDC2E99C, 307200)
    assert header.client == Crc(0xD0ACF1D4, 300441)
    assert header.server == Crc(0xDD4023D4, 300705)


def test_a_part_written_straight_to_tape_has_no_checksums_yet():
    header = captured("direct")
    assert (header.part, header.native, header.server) == (3, None, None)


def test_gzip_and_nothing_at_all_are_told_apart():
    assert (captured("gzip").compression, captured("gzip").encrypted) == (".gz", False)
    assert (captured("plain").compression, captured("plain").encrypted) == ("N", False)
    assert (captured("sealed-gzip").compression, captured("sealed-gzip").encrypted) == (".gz", True)


def test_names_come_back_with_blanks_and_utf8():
    assert captured("gzip").disk == "/srv/with space"
    assert captured("sealed-gzip").disk == "/srv/ümläut"


LINE = "AMANDA: SPLIT_FILE 20261123082951 web1 /etc  part 1/-1  lev 0 comp N program APPLICATION"


def test_what_the_client_wrote_about_itself_is_not_taken_for_the_header():
    header = parse(LINE, "DLE=<<ENDDLE\nAPPLICATION=evil\nNATIVE-CRC=00000001:1\nENDDLE\n")
    assert (header.application, header.native) == ("", None)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "AMANDA:",
        "NETDUMP: X",
        "AMANDA: SPLIT_FILE",
        "AMANDA: WEIRD 20261123082951 web1 /etc",
        LINE.replace("20261123082951", "2026"),
        LINE.replace("part 1/-1", "part one"),
        LINE.replace("part 1/-1  ", ""),
        LINE.replace("lev 0", "lev x"),
        LINE.replace(" /etc ", ' "/etc '),
        LINE + " crypt",
        LINE + " crypt maybe",
        LINE + " server_encrypt",
        LINE + f" server_encrypt {CRYPT} server_encrypt /bin/sh",
        LINE + f" server_encrypt {CRYPT} client_encrypt /bin/sh",
        LINE + f" server_custom_compress {ZSTD} client_custom_compress /bin/sh",
        LINE + " surprise x",
        "AMANDA: TAPESTART DATE 20261123082951 TAPE",
        "AMANDA: TAPESTART DATE soon TAPE d-0001",
        "AMANDA: TAPESTART DATE X TAPE d-0001 more",
    ],
)
def test_a_header_that_is_none_raises_and_is_quoted(line):
    with pytest.raises(ParseError) as raised:
        parse(line)
    assert raised.value.line == line
    assert "here" in str(raised.value)


def test_a_header_of_zeros_or_noise_raises():
    for block in (b"\0" * 32768, bytes(range(256)) * 128, b"\xff" * 32768):
        with pytest.raises(ParseError):
            amanda_tapefile.parse_header(block, "here")


def test_a_damaged_checksum_in_a_header_raises():
    with pytest.raises(ParseError):
        parse(LINE, "NATIVE-CRC=xyz\n")


def test_a_file_that_ends_in_its_header_raises(tmp_path):
    (tmp_path / "file").write_bytes(b"AMANDA: ")
    with pytest.raises(AmandaError, match="cut short"):
        amanda_tapefile.read_header(tmp_path / "file")


# sources


def test_a_tape_file_is_found_by_label_and_number(tmp_path):
    tapes.put(tmp_path, "d-0001", 1, b"x")
    wanted = tapes.put(tmp_path, "d-0002", 7, b"x")
    tapes.put(tmp_path, "d-0002", 70, b"x")
    assert TapeSource(tmp_path).path(part("d-0002", 7)) == wanted


def test_a_tape_that_is_in_no_slot_or_in_two_is_an_error(tmp_path):
    tapes.put(tmp_path, "d-0001", 1, b"x")
    with pytest.raises(AmandaError, match="d-0009 is in 0 slots"):
        TapeSource(tmp_path).path(part("d-0009"))
    (tmp_path / "slot7").mkdir()
    (tmp_path / "slot7" / "00000.d-0001").write_bytes(tapes.label_block("d-0001"))
    with pytest.raises(AmandaError, match="in 2 slots of .*: slot1, slot7"):
        TapeSource(tmp_path).path(part())


def test_a_tape_written_at_another_time_is_refused(tmp_path):
    tapes.put(tmp_path, "d-0001", 1, b"x", written="20270101000000")
    with pytest.raises(AmandaError, match="written at 20270101000000, not at 20261123083845"):
        TapeSource(tmp_path).path(part())


def test_a_label_file_that_says_another_name_is_refused(tmp_path):
    tapes.put(tmp_path, "d-0001", 1, b"x")
    (tmp_path / "slot1" / "00000.d-0001").write_bytes(tapes.label_block("d-0002"))
    with pytest.raises(AmandaError, match="is not the label of tape d-0001"):
        TapeSource(tmp_path).path(part())


def test_two_files_of_one_number_are_refused(tmp_path):
    tapes.put(tmp_path, "d-0001", 1, b"x")
    tapes.put(tmp_path, "d-0001", 1, b"x", name="other._.0")
    with pytest.raises(AmandaError, match=r"2 files for file 1 of tape d-0001.*00001\.other"):
        TapeSource(tmp_path).path(part())


@pytest.mark.parametrize("label", ["../d-0001", "..", "", "a/b", ".hidden", "-x"])
def test_a_label_that_leads_elsewhere_is_refused(tmp_path, label):
    with pytest.raises(AmandaError, match="is no label of a tape"):
        TapeSource(tmp_path).path(part(label))


def test_links_pipes_and_directories_are_never_read(tmp_path):
    path = tapes.put(tmp_path, "d-0001", 1, b"x")
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(AmandaError, match="can't open"):
        TapeSource(tmp_path).open(part())
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(AmandaError, match="no regular file"):
        TapeSource(tmp_path).open(part())
    path.unlink()
    path.mkdir()
    with pytest.raises(AmandaError, match="no regular file"):
        TapeSource(tmp_path).open(part())
