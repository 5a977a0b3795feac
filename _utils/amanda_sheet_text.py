"""The words and commands of the emergency sheet, from what :mod:`amanda_sheet` found.

Commands are indented by four spaces, other text is not, so that a test can run them as they are
printed. Names of hosts, directories and tape files are hostile: nothing of them reaches a command
unquoted, or the text unescaped. It names no file that was backed up, and no key.
"""

import os
import re
import shlex

import amanda_names
from amanda_manifest import MANIFEST_SUM, SHEET, SUMS, TAPES
from amanda_tapefile import HEADER_SIZE

TAR = "-p --numeric-owner --xattrs '--xattrs-include=*' --acls --selinux"
"""How tar is to bring back all that was stored; as :data:`amanda_extract.TAR`."""

_SKIP = HEADER_SIZE + 1
_PARTS = f"""
parts() {{
    local begins=$1 number=0 file line
    shift
    for file
    do
        IFS= read -r line < "$file"
        [[ $line == "$begins$((++number))/"* ]] ||
            {{ printf 'WRONG FILE: %q\\n' "$file" >&2; return 1; }}
    done
    tail -q -c +{_SKIP} "$@"
}}
"""
_SEED = 22  # bytes before the seed in what amcrypt writes, see crypt-amcrypt
_PACKAGES = {
    "age": ("age",),
    "amcrypt": ("aespipe", "gnupg"),
    "zstd": ("zstd",),
    "gzip": ("gzip",),
}


def render(about, restores):
    """Return the text of the sheet.

    about
        The :class:`amanda_sheet.About`.
    restores
        An :class:`amanda_sheet.Restore` for each DLE.
    """
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
        _damaged(restores),
        _without([restore for restore in restores if restore not in there]),
        _single(there),
        _all(about, there),
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
a hurry". On a new machine with Salt and the same pillar amanda.rebuild makes a working server of
this mirror, by one command. This sheet needs neither Salt nor Amanda.

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
    lines += ["RESTORE=/root/restored", *_PARTS.strip("\n").split("\n")]
    return f"""
STEP 2. SAY WHERE THINGS ARE

Become root and type "bash". Then change what stands behind each = to what it is on this machine:
where the mirror is, where the key is (copy it to this machine, readable by root alone), and a
directory for what is restored, which must not be there yet. Paths begin with /. The lines from
"parts" on stay as they are: they see that each file is of the backup that is asked for.

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
find "$RESTORE"/catalogue -path '*/index/*.gz' ! -name '*.state.gz' \\
    -exec zgrep -H -e "$NAME" {} +
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


def _stream(begins, paths, filters):
    """Return the commands, up to a last pipe, that give the plain archive of a dump."""
    words = [word(path) for path in paths]
    lines = [f"parts {word(begins)} \\", *(f"    {each} \\" for each in words)]
    lines[-1] = lines[-1].removesuffix(" \\") + " |"
    method, compressor = filters
    last = []
    if method == "amcrypt":
        last = ["tail -c +47", _amcrypt(words[0], HEADER_SIZE)]
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
"no identity matched" means another key. "WRONG FILE" means that a file is of another directory,
host or time than its name says: somebody changed it, or mixed up the mirror's files.

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
    told = zip(restore.steps, restore.begins, restore.filters, strict=True)
    for (dump, paths), begins, filters in told:
        lines.append(f"# level {dump.level}, made on {_when(dump)}")
        lines.append(_stream(begins, paths, filters))
        # In it, not with -C: where directories changed places tar 1.34 makes one for the time
        # between, and makes it where it was started.
        lines.append(f"    (cd {target} && tar -x -f - --listed-incremental=/dev/null \\")
        lines.append(f"    {TAR}) &&")
    done, failed = word(f"RESTORED: {name}"), word(f"FAILED: {name}")
    lines.append(f"echo {done} || {{ echo {failed}; false; }}")
    return f"""
{number:03d}  {name}, as it was on {_when(restore.steps[-1][0])}

{_commands(chr(10).join(lines))}"""


def _when(dump):
    """Return when a dump was made, for people; in the server's local time."""
    match = re.fullmatch(r"(....)(..)(..)(..)(..)(..)", dump.timestamp)
    return "{}-{}-{} at {}:{}:{}".format(*match.groups())


def _damaged(restores):
    listed = [
        f"  {shown(dump.host)} {shown(dump.disk)}, level {dump.level}, made on {_when(dump)}\n"
        for restore in restores
        for dump in restore.damaged
    ]
    if not listed:
        return ""
    return f"""
DAMAGED BACKUPS

These were found damaged when they were verified. So they are left out, with all that builds on
them: what STEP 5 restores is the last good state before. If you need something newer all the
same, see whether the sheet of an older generation has it: its copy may be better.

{"".join(listed)}"""


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
{_stream(restore.begins[-1], paths, restore.filters[-1])}
    tar -x -f - -C "$RESTORE"/single \\
    {TAR} "$FILE" &&
echo 'RESTORED: the file' || {{ echo 'FAILED: the file'; false; }}
"""
    return f"""
STEP 6. ONE FILE ONLY (you may leave this out)

If there is no room for all of a directory: behind FILE= stands the name below that directory, with
./ in front. The lines from "parts" on are those of one dump, here of {shown(restore.host)} \
{shown(restore.disk)},
level {dump.level}; for another, take them from its block in step 5. A dump of a higher level has
only what changed since the one before it, so try the last dump of a block first. If it says "Not
found in archive", remove the directory "single" and try the dump before that.

{_commands(text)}"""


def _all(about, there):
    if not there:
        return ""
    text = f"""
sed -n '/^STEP 5[.]/,/^STEP 6[.]/s/^    //p' \\
    "$MIRROR"/generations/{about.generation}/{SHEET} > "$RESTORE"/all.sh
. "$RESTORE"/all.sh 2>&1 | tee "$RESTORE"/all.log
grep -E '^(RESTORED|FAILED): ' "$RESTORE"/all.log
"""
    return f"""
STEP 7. ALL DIRECTORIES, ONE AFTER THE OTHER (instead of each block of step 5)

This takes the blocks of step 5 out of this sheet and runs them; the last command tells what became
of each.

{_commands(text)}"""


_AFTERWARDS = """
WHAT TO DO AFTERWARDS

- Look at what was restored before you use it. If clients were attacked, it may hold what the
  attackers left there.
- Where two directories had exchanged their names between two dumps, tar mixes up the files in them
  that had not changed: each of the two then has the other's. All else comes back as it was.
- Copy it to where it belongs, with all attributes: "cp -a", or "rsync -aHAXS --numeric-ids".
- Write nothing into the mirror, and keep all of it until there are new backups.
- Take the key from this machine again ("shred -u" and its file's name). If somebody may have seen
  it, make a new one.
- A new backup server can be made from the mirror: see the project's documentation.
"""
