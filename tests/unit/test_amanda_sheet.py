"""The emergency sheet's text: what is in it, and what hostile names can't do to it."""

import os
import subprocess
from types import MappingProxyType

import amanda_sheet
import amanda_sheet_text
import pytest
from amanda_catalogue import Dump, Part
from amanda_manifest import Archive, File, TapeCopy

from tests import sheet

HOSTILE = [
    "web1\nrm -rf /",
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "a & touch pwned &",
    "\x1b[2J\x1b]0;gone\x07",
    "\x9b31m",
    "right\u202eleft",
    "tab\there\rback",
    "-rf",
    "#comment",
    "! !!",
    "back\\slash\\",
    "lone\udcff byte",
    "ünï 日本",
]
FILTERS = (
    "comp cust program APPLICATION client_custom_compress "
    "/usr/local/lib/salt-amanda/compress-zstd crypt enc server_encrypt "
    "/usr/local/lib/salt-amanda/crypt-age server_decrypt_option -d"
)


def dump(level, timestamp, *parts, host="web1", disk="/etc", base=None):
    """Return a dump whose *parts* are pairs of a tape and a file's number."""
    parts = tuple(
        Part(label, file, number, 100, timestamp) for number, (label, file) in enumerate(parts, 1)
    )
    size = 100 * len(parts)
    crc = (None, None, None)
    return Dump("daily", host, disk, timestamp, level, "OK", parts, *crc, size, "", base)


def copy(label, written, *names):
    return TapeCopy(label, written, tuple(File(name, 100, "0" * 64) for name in names))


def quoted(name):
    """Return *name* as Amanda could write it into a header, in Latin-1."""
    if name in ("web1", "/etc", "/var"):
        return name
    return '"' + "".join(f"\\{byte:03o}" for byte in os.fsencode(name)) + '"'


def written(
    dumps,
    copies,
    filters=FILTERS,
    directory="/srv/mirror/daily",
    server="backup-server",
    failed=(),
    unread=(),
    headers=MappingProxyType({}),
):
    """Return the sheet's text and warnings."""
    archive = Archive(File("catalogue.tar.zst.age", 5, "1" * 64), "age", "etc", "var")
    about = amanda_sheet.About("daily", "20261123T092714Z", server, directory, archive)

    def heads(paths):
        found = {}
        for each in dumps:
            for part in each.parts:
                line = f"AMANDA: SPLIT_FILE {each.timestamp} {quoted(each.host)} "
                line += f"{quoted(each.disk)}  part {part.number}/-1  lev {each.level} {filters}\n"
                found[part.label, part.written, part.file] = headers.get(each, line)
        return [
            [None, "Permission denied"] if path in unread else [found[_key(path)], None]
            for path in paths
        ]

    return amanda_sheet.write(about, dumps, copies, heads, lambda dump: dump in failed)


def _key(path):
    _, label, when, name = path.split("/", 3)
    return label, when, int(name[:5])


FULL = dump(0, "20261120010000", ("daily-0001", 1), ("daily-0002", 1))
NEXT = dump(1, "20261121010000", ("daily-0003", 2), base="20261120010000")
COPIES = [
    copy("daily-0001", "20261120010000", "00000.daily-0001", "00001.web1._etc.0"),
    copy("daily-0002", "20261120010000", "00000.daily-0002", "00001.web1._etc.0"),
    copy("daily-0003", "20261121010000", "00001.web1._var.1", "00002.web1._etc.1"),
]


def test_each_level_is_opened_in_order_all_parts_in_one_stream():
    text, warnings = written([FULL, NEXT], COPIES)
    assert warnings == []
    (block,) = sheet.blocks(text)["STEP 5"]
    assert block.split("\n") == [
        "set -o pipefail",
        'cd "$MIRROR" && mkdir "$RESTORE"/001.web1._etc &&',
        "# level 0, made on 2026-11-20 at 01:00:00",
        "parts 'AMANDA: SPLIT_FILE 20261120010000 web1 /etc  part ' \\",
        "    tapes/daily-0001/20261120010000/00001.web1._etc.0 \\",
        "    tapes/daily-0002/20261120010000/00001.web1._etc.0 |",
        '    age -d -i "$IDENTITY" |',
        "    zstd -dc |",
        '    (cd "$RESTORE"/001.web1._etc && tar -x -f - --listed-incremental=/dev/null \\',
        "    -p --numeric-owner --xattrs '--xattrs-include=*' --acls --selinux) &&",
        "# level 1, made on 2026-11-21 at 01:00:00",
        "parts 'AMANDA: SPLIT_FILE 20261121010000 web1 /etc  part ' \\",
        "    tapes/daily-0003/20261121010000/00002.web1._etc.1 |",
        '    age -d -i "$IDENTITY" |',
        "    zstd -dc |",
        '    (cd "$RESTORE"/001.web1._etc && tar -x -f - --listed-incremental=/dev/null \\',
        "    -p --numeric-owner --xattrs '--xattrs-include=*' --acls --selinux) &&",
        "echo 'RESTORED: web1 /etc' || { echo 'FAILED: web1 /etc'; false; }",
        "",
    ]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("20261121010000 web1 /etc  part 1/-1  lev 0", "says timestamp 20261121010000"),
        ("20261120010000 web2 /etc  part 1/-1  lev 0", "says host web2, not web1"),
        ("20261120010000 web1 /var  part 1/-1  lev 0", "says disk /var, not /etc"),
        ("20261120010000 web1 /etc  part 2/-1  lev 0", "says part 2, not 1"),
        ("20261120010000 web1 /etc  part 1/-1  lev 1", "says level 1, not 0"),
        ("20261120010000 web1 /etc  part\t1/-1  lev 0", "isn't as Amanda writes it"),
    ],
)
def test_a_directory_whose_first_file_is_of_another_dump_is_named_and_warned_of(wrong, said):
    head = f"AMANDA: SPLIT_FILE {wrong} {FILTERS}\n"
    text, (warning,) = written([FULL], COPIES, headers={FULL: head})
    assert "can't say how to restore web1 /etc" in warning and said in warning
    assert "STEP 5" not in sheet.blocks(text)


def files(top, *numbers, disk="/etc"):
    """Write tape files of FULL with such part numbers; return their paths."""
    paths = []
    for number in numbers:
        path = top / f"{len(paths)} it's.0"
        head = f"AMANDA: SPLIT_FILE 20261120010000 web1 {disk}  part {number}/2  lev 0 comp N\n"
        path.write_bytes(head.encode().ljust(32768, b"\0") + b"data %d;" % number)
        paths.append(str(path))
    return paths


@pytest.mark.parametrize(
    ("numbers", "disk", "said"),
    [
        ((1, 2), "/etc", "data 1;data 2;"),
        ((2, 1), "/etc", "WRONG FILE: "),
        ((1, 1), "/etc", "WRONG FILE: "),
        ((1, 12), "/etc", "WRONG FILE: "),
        ((1, 2), "/etc/x", "WRONG FILE: "),
    ],
)
def test_a_file_of_another_dump_stops_the_commands_before_anything_is_restored(
    tmp_path, numbers, disk, said
):
    text, _ = written([FULL], COPIES)
    function = sheet.blocks(text)["STEP 2"][0].partition("RESTORE=")[2].partition("\n")[2]
    begins = "AMANDA: SPLIT_FILE 20261120010000 web1 /etc  part "
    paths = files(tmp_path, *numbers, disk=disk)
    script = f'{function}\nparts "$@"'
    done = subprocess.run(
        ["bash", "-c", script, "bash", begins, *paths], capture_output=True, check=False
    )
    assert (done.returncode == 0) == said.startswith("data")
    assert (done.stdout + done.stderr).decode().startswith(said)


def test_of_a_directory_whose_last_dump_is_not_all_there_the_one_before_is_shown():
    (block,) = sheet.blocks(written([FULL, NEXT], COPIES[:2])[0])["STEP 5"]
    assert "level 0" in block and "level 1" not in block
    text, _ = written([FULL, NEXT], COPIES[1:])
    assert "STEP 5" not in sheet.blocks(text)
    assert "  web1 /etc: no whole backup of it is in this generation\n" in text


def test_a_directory_sealed_by_what_is_not_ours_is_named_and_warned_of():
    text, (warning,) = written([FULL], COPIES, FILTERS.replace("crypt-age", "evil"))
    assert warning.startswith("the emergency sheet can't say how to restore web1 /etc: ")
    assert "NOT HERE" in text and "  web1 /etc: " in text
    assert "STEP 5" not in sheet.blocks(text)


def test_a_directory_whose_tape_file_can_not_be_read_is_named_and_all_others_are_there():
    other = dump(0, "20261121010000", ("daily-0003", 1), disk="/var")
    first = "tapes/daily-0001/20261120010000/00001.web1._etc.0"
    text, (warning,) = written([FULL, other], COPIES, unread=[first])
    assert warning.endswith(f"how to restore web1 /etc: {first} can't be read: Permission denied")
    assert f"NOT HERE\n\n  web1 /etc: {first} can't be read" in text
    (block,) = sheet.blocks(text)["STEP 5"]
    assert "RESTORED: web1 /var" in block


def test_a_dump_that_was_found_damaged_is_left_out_and_named_and_the_state_before_is_shown():
    text, warnings = written([FULL, NEXT], COPIES, failed=[NEXT])
    (block,) = sheet.blocks(text)["STEP 5"]
    assert (warnings, "level 0" in block, "level 1" in block) == ([], True, False)
    assert "DAMAGED BACKUPS" in text
    assert "\n  web1 /etc, level 1, made on 2026-11-21 at 01:00:00\n" in text
    assert "DAMAGED BACKUPS" not in written([FULL, NEXT], COPIES)[0]


def test_without_a_good_full_nothing_is_shown_and_the_damaged_one_is_named():
    text, _ = written([FULL, NEXT], COPIES, failed=[FULL])
    assert "STEP 5" not in sheet.blocks(text)
    assert "\n  web1 /etc, level 0, made on 2026-11-20 at 01:00:00\n" in text
    assert "  web1 /etc: no whole backup of it is in this generation\n" in text


def test_a_damaged_dump_of_before_the_last_good_full_is_of_no_matter():
    before = dump(0, "20261119010000", ("daily-0003", 1))
    text, _ = written([before, FULL], COPIES, failed=[before])
    assert "DAMAGED BACKUPS" not in text and "STEP 5" in sheet.blocks(text)


def test_what_was_sealed_otherwise_before_is_opened_with_the_keys_of_then():
    before = FILTERS.replace("crypt-age", "crypt-amcrypt").replace("comp cust", "comp .gz")
    before = before.replace("client_custom_compress /usr/local/lib/salt-amanda/compress-zstd ", "")
    found = sheet.blocks(written([FULL], COPIES, before)[0])
    assert {"aespipe", "age", "gnupg", "zstd"} <= set(found["STEP 1"][0].split())
    assert "IDENTITY=" in found["STEP 2"][0] and "PASSPHRASE=" in found["STEP 2"][0]
    assert 'age -d -i "$IDENTITY"' in found["STEP 4"][0]
    (block,) = found["STEP 5"]
    assert "    tail -c +47 |\n    aespipe -d " in block and "    gzip -dc |\n" in block


def test_a_dump_that_was_neither_sealed_nor_compressed_goes_straight_to_tar():
    (block,) = sheet.blocks(written([FULL], COPIES, "comp N program APPLICATION")[0])["STEP 5"]
    assert "00001.web1._etc.0 |\n    (cd " in block


def test_without_a_dump_there_is_a_sheet_too():
    text, warnings = written([], [])
    assert warnings == []
    assert "no whole backup of any directory" in text
    assert "STEP 4" in sheet.blocks(text)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_as_a_word_of_bash_is_one_word_of_one_line_and_means_the_name(name, tmp_path):
    word = amanda_sheet_text.word(name)
    assert word.isprintable()
    done = subprocess.run(
        ["bash", "-c", f"printf %s\\\\n -- {word}"], cwd=tmp_path, capture_output=True, check=True
    )
    assert done.stdout == b"--\n" + name.encode("utf-8", "surrogateescape") + b"\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_adds_a_line_or_a_command_or_speaks_to_the_terminal(name, tmp_path):
    plain, _ = written([FULL], COPIES)
    file = f"00001.{name.replace('/', '_')}.0"
    copies = [copy("daily-0001", "20261120010000", file), COPIES[1]]
    full = dump(0, "20261120010000", ("daily-0001", 1), ("daily-0002", 1), host=name, disk=name)
    text, _ = written([full], copies, directory=f"/srv/{name}", server=name)
    assert text.count("\n") == plain.count("\n")
    assert all(line.isprintable() for line in text.split("\n"))
    commands = sheet.script(text, 2, 3, 4, 5, 6)
    assert not [line for line in commands.split("\n") if line.startswith(("rm", "touch"))]
    # Without programs bash can only take the commands apart.
    subprocess.run(
        ["bash", "-c", f"PATH={tmp_path}; cd() {{ :; }}; {commands}"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert list(tmp_path.iterdir()) == []
    checked = subprocess.run(["bash", "-n", "-c", commands], capture_output=True, check=True)
    assert checked.stderr == b""
