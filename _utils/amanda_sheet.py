"""The emergency sheet: how to restore everything by hand, for who has neither Salt nor Amanda.

It stands in each generation of the mirror and holds the exact commands for what is there. Commands
are indented by four spaces, other text is not, so that a test can run them as they are printed.
Names of hosts, directories and tape files are hostile: nothing of them reaches a command unquoted,
or the text unescaped. It names no file that was backed up, and no key.
"""

import dataclasses
import os
import re
import shlex

import amanda_catalogue
import amanda_dump
import amanda_layout
import amanda_names
from amanda_errors import AmandaError
from amanda_manifest import MANIFEST_SUM, SUMS, TAPES

TAR = "-p --numeric-owner --xattrs '--xattrs-include=*' --acls --selinux"
"""How tar is to bring back all that was stored; as :data:`amanda_extract.TAR`."""

_SKIP = amanda_dump.HEADER_SIZE + 1
_SEED = 22  # bytes before the seed in what amcrypt writes, see crypt-amcrypt
_PACKAGES = {
    "age": ("age",),
    "amcrypt": ("aespipe", "gnupg"),
    "zstd": ("zstd",),
    "gzip": ("gzip",),
}


@dataclasses.dataclass(frozen=True)
class About:
    """What a sheet is of.

    config, generation, server
        As in the :class:`amanda_manifest.Manifest`.
    directory
        Where the server has the config's mirror.
    archive
        The :class:`amanda_manifest.Archive` of the generation.
    """

    config: str
    generation: str
    server: str
    directory: str
    archive: object


@dataclasses.dataclass
class _Restore:
    """How a DLE comes back.

    steps
        For each dump of its chain, in order, the :class:`amanda_catalogue.Dump` and its tape files,
        paths below the config's mirror. Without any it can't be had.
    filters
        For each step the encryption's method and the compressor, either may be None.
    problem
        Why the filters can't be told, "" if they can.
    """

    host: str
    disk: str
    steps: list
    filters: list = dataclasses.field(default_factory=list)
    problem: str = ""


def write(about, dumps, copies, heads):
    """Return the text of the sheet, and warnings of what it can't tell, a list of text.

    about
        An :class:`About`.
    dumps
        What :func:`amanda_catalogue.read` returned.
    copies
        The generation's :class:`amanda_manifest.TapeCopy` objects.
    heads
        A function that returns the headers of tape files, text of Latin-1, given a list of their
        paths below the config's mirror.
    """
    restores = _plan(dumps, copies)
    paths = [paths[0] for restore in restores for _, paths in restore.steps]
    read = iter(heads(paths))
    for restore in restores:
        for _, paths in restore.steps:
            try:
                restore.filters.append(_filters(next(read).encode("latin-1"), paths[0]))
            except AmandaError as error:
                restore.problem = str(error)
    problems = [
        f"the emergency sheet can't say how to restore {restore.host} {restore.disk}: "
        f"{restore.problem}"
        for restore in restores
        if restore.problem
    ]
    return _render(about, restores), problems


def _plan(dumps, copies):
    """Return a :class:`_Restore` for each DLE, with its last state that is whole among *copies*."""
    files = {
        (*copy.key, int(file.name[:5])): f"{TAPES}/{copy.label}/{copy.written}/{file.name}"
        for copy in copies
        for file in copy.files
    }
    found, paths = {}, {}
    for dump in dumps:
        held = found.setdefault((dump.host, dump.disk), [])
        keys = [(part.label, part.written, part.file) for part in dump.parts]
        if files.keys() >= set(keys):
            paths[dump] = [files[key] for key in keys]
            held.append(dump)
    return [
        _Restore(*dle, [(dump, paths[dump]) for dump in amanda_catalogue.last_chain(held, *dle)])
        for dle, held in sorted(found.items())
    ]


def _filters(head, path):
    """Return method and compressor that the header *head* of the tape file *path* tells."""
    header = amanda_dump.parse_header(head, path)
    decrypt, _ = amanda_dump.decrypter(header, path)
    expand = amanda_dump.expander(header, path)
    methods = {program: method for method, program in amanda_layout.CRYPT.items()}
    compressor = expand and ("zstd" if expand[0] == amanda_layout.COMPRESS else "gzip")
    return decrypt and methods[decrypt[0]], compressor


def _render(about, restores):
    there = [restore for restore in restores if restore.steps and not restore.problem]
    method = about.archive.method
    used = {method, "gzip", "gzip" if about.archive.file.name.endswith(f"gz.{method}") else "zstd"}
    used |= {name for restore in there for pair in restore.filters for name in pair if name}
    sections = [
        _head(about, "age" in used, "amcrypt" in used),
        _programs(used),
        _places(about, used),
        _check(about, there),
        _catalogue(about),
        _restores(there),
        _without([restore for restore in restores if restore not in there]),
        _single(there),
        _AFTERWARDS,
    ]
    return "\n\n".join(section.strip("\n") for section in sections if section) + "\n"


def word(name):
    """Return *name* as one word of bash, on one line of printable characters."""
    if name.isprintable():
        return shlex.quote(name)
    # What is not plain stands as an octal number, as bash has it in $'…'.
    plain = re.compile(rb"[A-Za-z0-9_./:@%+,=-]")
    raw = (bytes([byte]) for byte in os.fsencode(name))
    return "$'" + "".join(b.decode() if plain.match(b) else f"\\{b[0]:03o}" for b in raw) + "'"


def shown(name):
    """Return *name* for people to read: one line, nothing in it that a terminal would obey."""
    return amanda_names.text(os.fsencode(name))


def _commands(text):
    """Return lines of commands, indented as such."""
    lines = text.strip("\n").split("\n")
    return "".join(f"    {line}\n" if line else "\n" for line in lines)


def _head(about, age, amcrypt):
    keys = []
    if age:
        keys.append("the offsite key: a small file with a line that begins AGE-SECRET-KEY-1")
    if amcrypt:
        keys.append("the two files am_key.gpg and .am_passphrase, kept offsite")
    return f"""
HOW TO RESTORE THESE BACKUPS BY HAND

Amanda config {about.config}, server {shown(about.server)}, generation {about.generation} (UTC).

If you read this because the backup server is lost: what was backed up by then is here, and the
commands below bring it back. Nothing in them changes the backups. Take one step after the other.

If there is still a Salt master, there may be an easier way: the project's README, "Restoring in
a hurry". This sheet needs neither Salt nor Amanda.

You need
- a Linux machine and root on it. If there was an attack: one that was not part of it;
- the directory of the mirror: the one in which "{TAPES}" and "generations" are. On the server it
  was {shown(about.directory)}.
  Mount it, read-only if you can, or copy all of it. If even root may not read it, as happens on
  NFS, copy it as the user to whom it belongs;
- {" and ".join(keys)}.
  Without this nobody can open the backups;
- room for what is restored, on a file system of Linux (ext4, xfs, btrfs).

The newest directory in "generations" has the newest sheet: see that this is it.
"""


def _programs(used):
    names = sorted({name for key in used for name in _PACKAGES[key]} | {"tar", "coreutils"})
    return f"""
STEP 1. PROGRAMS

On Debian or Ubuntu; elsewhere the packages are called alike:

{_commands(f"apt-get install {' '.join(names)}")}"""


def _places(about, used):
    lines = [f"MIRROR={word(about.directory)}"]
    lines += ["IDENTITY=/root/offsite.key"] if "age" in used else []
    if "amcrypt" in used:
        lines += ["KEY=/root/am_key.gpg", "PASSPHRASE=/root/.am_passphrase"]
    lines.append("RESTORE=/root/restored")
    return f"""
STEP 2. SAY WHERE THINGS ARE

Become root and type "bash". Then change what stands behind each = to what it is on this machine:
where the mirror is, where the key is (copy it to this machine, readable by root alone), and a
directory for what is restored, which must not be there yet. Paths begin with /.

{_commands(chr(10).join(lines))}
Type these lines again in each new window. Then:

{_commands('umask 077 && mkdir "$RESTORE" && ls "$MIRROR"')}
"mkdir" must not complain, and "ls" must show "generations" and "{TAPES}".
"""


def _check(about, there):
    tapes = {path.rpartition("/")[0] for restore in there for _, p in restore.steps for path in p}
    archive = about.archive.file
    generation = f"generations/{about.generation}"
    text = f"""
cd "$MIRROR"/{generation} && sha256sum -c {MANIFEST_SUM} &&
echo '{archive.sha256}  {archive.name}' | sha256sum -c
"""
    if tapes:
        listed = " \\\n    ".join(sorted(tapes))
        text += f"""
for tape in \\
    {listed}
do
    cd "$MIRROR/$tape" && sha256sum --quiet -c {SUMS} && echo "$tape: OK" || echo "$tape: DAMAGED"
done
"""
    return f"""
STEP 3. SEE THAT THE FILES ARE WHOLE

This reads everything and may take long. "OK" is good. A file that is damaged or missing spoils
what is restored from it, and nothing else: go on with all others.

{_commands(text)}"""


def _catalogue(about):
    name = about.archive.file.name
    source = f'"$MIRROR"/generations/{about.generation}/{name}'
    expand = "gzip -dc" if name.endswith(f"gz.{about.archive.method}") else "zstd -dc"
    if about.archive.method == "amcrypt":
        opened = f"tail -c +47 {source} | {_amcrypt(source, 0)}"
    else:
        opened = f"{_age()} < {source}"
    text = f"""
set -o pipefail
mkdir "$RESTORE"/catalogue &&
{opened} | {expand} |
    tar -x -f - -C "$RESTORE"/catalogue --no-same-owner &&
echo 'OPENED: the catalogue' || {{ echo 'FAILED: the catalogue'; false; }}
"""
    search = """
NAME=letter
find "$RESTORE"/catalogue -path '*/index/*.gz' -exec zgrep -H -e "$NAME" {} +
"""
    return f"""
STEP 4. LOOK FOR A FILE (you may leave this out)

The catalogue has the names of all files. If this step works, your key is the right one.

{_commands(text)}
Which dumps have a file with "letter" in its name? Write part of the name you look for instead:

{_commands(search)}
Each line tells the host, the directory, the time of the dump (year, month, day, hour, minute,
second), its level, and the name below that directory.
"""


def _age():
    return 'age -d -i "$IDENTITY"'


def _amcrypt(file, skip):
    seed = f'"$(dd if={file} bs=1 skip={skip + _SEED} count=24 status=none)"'
    return f'aespipe -d -K "$KEY" -p 3 -e AES256 -H SHA256 -C 100 -S {seed} 3<"$PASSPHRASE"'


def _stream(paths, filters):
    """Return the commands, up to a last pipe, that give the plain archive of a dump."""
    words = [word(path) for path in paths]
    lines = [f"tail -q -c +{_SKIP} \\", *(f"    {each} \\" for each in words)]
    lines[-1] = lines[-1].removesuffix(" \\") + " |"
    method, compressor = filters
    last = []
    if method == "amcrypt":
        last = ["tail -c +47", _amcrypt(words[0], amanda_dump.HEADER_SIZE)]
    elif method:
        last = [_age()]
    last += [f"{compressor} -dc"] if compressor else []
    lines += [f"    {each} |" for each in last]
    return "\n".join(lines)


def _restores(there):
    if not there:
        return "STEP 5. RESTORE\n\nThis generation has no whole backup of any directory."
    blocks = [_block(number, restore) for number, restore in enumerate(there, 1)]
    listed = "".join(
        f"  {number:03d}  {shown(restore.host)} {shown(restore.disk)}, "
        f"as it was on {_when(restore.steps[-1][0])}\n"
        for number, restore in enumerate(there, 1)
    )
    return f"""
STEP 5. RESTORE

There is a block of commands for each directory that was backed up. Take those that you need, in
any order, each block as a whole. When it has worked it says RESTORED. If it says FAILED, what is
in the new directory is not whole: read what stands above it, remove that directory, and try again.
"no identity matched" means another key.

This is the last state that was backed up. For an earlier one, or if a file is damaged, take the
sheet of an older generation: the names in "generations" are the times when they were made, in UTC.

{listed}
{"".join(blocks)}"""


def _target(number, path):
    """Return the directory to restore into, a word: it says what is in it as the tape file does."""
    name = path.rpartition("/")[2][6:].rpartition(".")[0]
    return '"$RESTORE"/' + word(f"{number:03d}.{name}")


def _block(number, restore):
    target = _target(number, restore.steps[0][1][0])
    name = f"{shown(restore.host)} {shown(restore.disk)}"
    lines = ["set -o pipefail", f'cd "$MIRROR" && mkdir {target} &&']
    for (dump, paths), filters in zip(restore.steps, restore.filters, strict=True):
        lines.append(f"# level {dump.level}, made on {_when(dump)}")
        lines.append(_stream(paths, filters))
        lines.append(f"    tar -x -f - -C {target} --listed-incremental=/dev/null \\")
        lines.append(f"    {TAR} &&")
    done, failed = word(f"RESTORED: {name}"), word(f"FAILED: {name}")
    lines.append(f"echo {done} || {{ echo {failed}; false; }}")
    return f"""
{number:03d}  {name}, as it was on {_when(restore.steps[-1][0])}

{_commands(chr(10).join(lines))}"""


def _when(dump):
    """Return when a dump was made, for people; in the server's local time."""
    match = re.fullmatch(r"(....)(..)(..)(..)(..)(..)", dump.timestamp)
    return "{}-{}-{} at {}:{}:{}".format(*match.groups())


def _without(restores):
    if not restores:
        return ""
    lines = []
    for restore in restores:
        why = restore.problem or "no whole backup of it is in this generation"
        lines.append(f"  {shown(restore.host)} {shown(restore.disk)}: {shown(why)}\n")
    return f"NOT HERE\n\n{''.join(lines)}"


def _single(there):
    if not there:
        return ""
    restore = there[0]
    dump, paths = restore.steps[-1]
    text = f"""
FILE=./path/of/the/file
set -o pipefail
cd "$MIRROR" && mkdir "$RESTORE"/single &&
{_stream(paths, restore.filters[-1])}
    tar -x -f - -C "$RESTORE"/single \\
    {TAR} "$FILE" &&
echo 'RESTORED: the file' || {{ echo 'FAILED: the file'; false; }}
"""
    return f"""
STEP 6. ONE FILE ONLY (you may leave this out)

If there is no room for all of a directory: behind FILE= stands the name below that directory, with
./ in front. The lines from "tail" on are those of one dump, here of {shown(restore.host)} \
{shown(restore.disk)},
level {dump.level}; for another, take them from its block in step 5. A dump of a higher level has
only what changed since the one before it, so try the last dump of a block first. If it says "Not
found in archive", remove the directory "single" and try the dump before that.

{_commands(text)}"""


_AFTERWARDS = """
WHAT TO DO AFTERWARDS

- Look at what was restored before you use it. If clients were attacked, it may hold what the
  attackers left there.
- Copy it to where it belongs, with all attributes: "cp -a", or "rsync -aHAX --numeric-ids".
- Write nothing into the mirror, and keep all of it until there are new backups.
- Take the key from this machine again ("shred -u" and its file's name). If somebody may have seen
  it, make a new one.
- A new backup server can be made from the mirror: see the project's documentation.
"""
