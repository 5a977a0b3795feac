"""The tar reader, against archives that Amanda's clients made."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from amanda_errors import ParseError
from amanda_tarstream import BLOCK, TarReader

CAPTURED = Path(__file__).parent / "captured" / "restore"
ARCHIVES = sorted(CAPTURED.glob("*.tar.gz"))


def _content(archive):
    return gzip.decompress(archive.read_bytes())


def _one(member, content=b"", **options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


# Python's tarfile misreads the names of directories in GNU's format; the index test has those.
@pytest.mark.parametrize("archive", ARCHIVES[:3], ids=lambda path: path.name)
def test_members_are_those_that_another_reader_finds(archive):
    content = _content(archive)
    with tarfile.open(fileobj=io.BytesIO(content), errors="surrogateescape") as other:
        expected = [member.name.encode("utf-8", "surrogateescape") for member in other]
    found = [member.name for member in TarReader(io.BytesIO(content))]
    assert len(found) > 20
    assert found == [name.removeprefix(b"./") if name != b"." else b"" for name in expected]


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_the_bytes_of_all_members_are_the_archive(archive):
    content = _content(archive)
    again = bytearray()
    reader = TarReader(io.BytesIO(content))
    for member in reader:
        again += member.head
        reader.copy(again.extend)
    assert content.startswith(again)
    assert not any(content[len(again) :])


class _Drips(io.BytesIO):
    """Gives fewer bytes than asked, as a pipe may."""

    def read(self, count=-1):
        return super().read(min(count, 7) if count > 0 else count)


def test_a_stream_may_give_less_than_asked():
    content = _content(ARCHIVES[0])
    whole = [member.name for member in TarReader(io.BytesIO(content))]
    assert [member.name for member in TarReader(_Drips(content))] == whole


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_every_directory_has_its_list_and_comes_before_the_files(archive):
    members = list(TarReader(io.BytesIO(_content(archive))))
    directories = [member for member in members if member.is_directory]
    assert directories == members[: len(directories)]
    assert all(member.dumpdir is not None for member in directories)
    assert directories[0].dumpdir.count(b"Dkinds\0") == 1


def test_an_archive_that_ends_too_early_is_an_error():
    content = _content(ARCHIVES[0])
    for length in (0, BLOCK - 1, BLOCK, 3 * BLOCK + 5, len(content) // 2):
        with pytest.raises(ParseError, match="ends too early"):
            list(TarReader(io.BytesIO(content[:length])))


def test_a_flipped_bit_in_a_header_is_an_error():
    content = bytearray(_one(tarfile.TarInfo("x")))
    content[3] ^= 1
    with pytest.raises(ParseError, match="checksum"):
        list(TarReader(io.BytesIO(content)))


def test_a_long_name_is_read_in_both_formats():
    name = "/".join(["step"] * 60)
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        content = _one(tarfile.TarInfo(name), format=form)
        assert [member.name for member in TarReader(io.BytesIO(content))] == [name.encode()]


def test_a_name_divided_by_ustar_is_read_whole():
    name = "d" * 90 + "/" + "f" * 90
    content = _one(tarfile.TarInfo(name), format=tarfile.USTAR_FORMAT)
    assert [member.name for member in TarReader(io.BytesIO(content))] == [name.encode()]


def test_a_size_beyond_what_octal_digits_hold_is_read():
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        member = tarfile.TarInfo("big")
        member.size = 9 << 30
        (found,) = [next(iter(TarReader(io.BytesIO(member.tobuf(form)))))]
        assert found.data == 9 << 30


def test_a_hard_link_has_no_content_whatever_its_header_says():
    member = tarfile.TarInfo("link")
    member.type, member.linkname, member.size = tarfile.LNKTYPE, "./other", 100 * BLOCK
    content = member.tobuf(tarfile.GNU_FORMAT) + _one(tarfile.TarInfo("next"))
    found = list(TarReader(io.BytesIO(content)))
    assert [(each.name, each.link) for each in found] == [(b"link", b"other"), (b"next", b"")]


def test_an_attribute_may_hold_any_byte():
    member = tarfile.TarInfo("x")
    member.pax_headers = {"SCHILY.xattr.user.odd\nname": "\udc80\udcff=\n\n9 size=7\n"}
    content = _one(member, format=tarfile.PAX_FORMAT, errors="surrogateescape")
    assert [(each.name, each.data) for each in TarReader(io.BytesIO(content))] == [(b"x", 0)]


@pytest.mark.parametrize("kind", [b"g", b"M", b"V", b"Z"])
def test_a_member_of_a_kind_that_dumps_never_have_is_an_error(kind):
    member = tarfile.TarInfo("x")
    member.type = kind
    with pytest.raises(ParseError, match="unknown kind"):
        list(TarReader(io.BytesIO(_one(member))))


def test_an_extended_header_too_long_to_hold_is_an_error():
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 8 << 30
    with pytest.raises(ParseError, match="too many bytes"):
        list(TarReader(io.BytesIO(member.tobuf(tarfile.GNU_FORMAT))))
