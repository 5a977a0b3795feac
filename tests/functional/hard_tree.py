"""A tree with every kind of file and name that is hard to back up, and what it is compared by."""

import hashlib
import os
import shutil
import stat
import struct
import subprocess

NAMES = [
    b"space in it",
    b" leading",
    b"trailing ",
    b"new\nline",
    b"tab\there",
    b"carriage\rreturn",
    b"back\\slash",
    b"back\\nslash",
    b"octal\\101",
    b"end\\",
    b'double"quote',
    b"single'quote",
    b"-dash",
    b"--checkpoint-action=exec=id",
    b"*?[glob]{a,b}",
    b"$(id)`id`;&|<>",
    b"#hash",
    b"~tilde",
    "ünïcödé-日本".encode(),
    "e\u0301-combining".encode(),
    b"latin-\xe9\xff",
    b"bell\a\b\v\f\x1b\x7f\x01",
    b"...",
    b"x" * 255,
]
_CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw+ep, version 2


def write(path, content):
    """Write *content* (text) into the file *path* (bytes)."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(content)


def build(top):
    """Make the tree in the directory *top* (bytes), which is absent; needs root."""
    for directory in [b"names", b"kinds", b"empty", b"links/in", b"links/out", b"deep"]:
        os.makedirs(top + b"/" + directory)
    for name in NAMES:
        write(top + b"/names/" + name, f"content of {name!r}\n")
        os.makedirs(top + b"/names/dir " + name[:200])
        write(top + b"/names/dir " + name[:200] + b"/" + name, "inner\n")
    _kinds(top + b"/kinds/")
    write(top + b"/links/in/one", "linked\n")
    os.link(top + b"/links/in/one", top + b"/links/in/two")
    os.link(top + b"/links/in/one", top + b"/links/out/three")
    os.link(top + b"/kinds/symlink", top + b"/links/out/symlink")
    deep = top + b"/deep" + b"/a-step-of-the-way-down" * 100
    os.makedirs(deep)
    write(deep + b"/bottom", "deep\n")
    _turning(top + b"/turns/")
    os.utime(top + b"/empty", ns=(10**18, 987654321987654321))
    os.chmod(top + b"/empty", 0o1777)


def _kinds(top):
    write(top + b"plain", "plain\n")
    write(top + b"nothing", "")
    os.utime(top + b"plain", ns=(10**18, 1234567890123456789))
    write(top + b"setuid", "#!/bin/sh\n")
    os.chown(top + b"setuid", 12345, 54321)
    os.chmod(top + b"setuid", 0o6755)
    write(top + b"unreadable", "secret\n")
    os.chmod(top + b"unreadable", 0)
    os.symlink(b"plain", top + b"symlink")
    os.symlink(b"/nowhere/at\nall", top + b"dangling")
    os.symlink(b"../../../../etc", top + b"upwards")
    os.lchown(top + b"dangling", 1111, 2222)
    os.utime(top + b"dangling", ns=(10**18, 1111111111222222222), follow_symlinks=False)
    os.mkfifo(top + b"fifo", 0o640)
    os.mknod(top + b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top + b"loop", stat.S_IFBLK | 0o660, os.makedev(7, 200))
    with open(top + b"sparse", "wb") as file:
        file.write(b"start")
        file.seek(3 << 20)
        file.write(b"middle")
        file.truncate(8 << 20)
    with open(top + b"hole", "wb") as file:
        file.truncate(4 << 20)
    with open(top + b"holes", "wb") as file:  # more than a tar header has room to describe
        for number in range(40):
            file.seek(number << 17)
            file.write(b"island %d" % number)
    write(top + b"attributes", "xattr\n")
    os.setxattr(top + b"attributes", b"user.odd\nname", b"\x00\xff value\n")
    os.setxattr(top + b"attributes", b"trusted.mark", b"root's")
    write(top + b"capable", "cap\n")
    os.setxattr(top + b"capable", b"security.capability", _CAPABILITY)
    write(top + b"shared", "acl\n")
    os.makedirs(top + b"shared.d/sub")
    for argv in (["-m", "u:1234:rw,g:4321:r"], ["-d", "-m", "u:77:rwx"]):
        name = b"shared.d" if "-d" in argv else b"shared"
        subprocess.run(["setfacl", *argv, top + name], check=True)


def _turning(top):
    """Make what :func:`turn` changes."""
    for name in [b"dir-to-link", b"moved/sub/deeper", b"one", b"other", b"gone/in", b"hollow"]:
        os.makedirs(top + name)
        write(top + name + b"/file", f"in {name!r}\n")
    for name in [b"file-to-link", b"file-to-fifo", b"a", b"z", b"swapped", b"untouched"]:
        write(top + name, f"of {name!r}\n")
    for name in [b"link-to-file", b"link-to-dir", b"link-to-link"]:
        os.symlink(b"untouched", top + name)
    os.mkfifo(top + b"fifo-to-file")
    for name in [b"b", b"c"]:
        os.link(top + b"a", top + name)
    for name in [b"mode", b"owner", b"mark", b"rights", b"power", b"older", b"unlike"]:
        write(top + name, "only what is said of it changes\n")
    with open(top + b"hollow/holes", "wb") as file:
        file.truncate(2 << 20)


def turn(top, day):
    """Change the tree in *top* (bytes) in ways that a chain of increments might get wrong.

    day
        1 or 2. What became of something else on the first becomes of that again on the second.
    """
    top += b"/turns/"
    (_first_turn if day == 1 else _second_turn)(top)
    with open(top + b"hollow/holes", "r+b") as file:
        file.seek(day << 19)
        file.write(b"no hole")


def _first_turn(top):
    for name in [b"file-to-link", b"link-to-file", b"link-to-dir", b"link-to-link"]:
        os.unlink(top + name)
    shutil.rmtree(top + b"dir-to-link")
    os.symlink(b"one", top + b"dir-to-link")
    os.symlink(b"a", top + b"file-to-link")
    os.symlink(b"elsewhere", top + b"link-to-link")
    write(top + b"link-to-file", "a file\n")
    os.mkdir(top + b"link-to-dir")
    write(top + b"link-to-dir/file", "new\n")
    for name in [b"file-to-fifo", b"fifo-to-file"]:
        os.unlink(top + name)
    os.mkfifo(top + b"file-to-fifo")
    write(top + b"fifo-to-file", "a file\n")
    # Of three names of one file one goes, one becomes a file of its own, and one is added.
    for name in [b"b", b"c"]:
        os.unlink(top + name)
    write(top + b"c", "alone\n")
    os.link(top + b"a", top + b"d")
    _swap(top, b"one", b"other")
    _swap(top, b"z", b"swapped")
    os.mkdir(top + b"away")
    os.rename(top + b"moved/sub", top + b"away/sub")
    shutil.rmtree(top + b"gone")
    _only_what_is_said(top, 0o4710, 77, b"first", "u:1234:rw", 978307200)


def _second_turn(top):
    for name in [b"dir-to-link", b"file-to-link", b"file-to-fifo", b"link-to-link"]:
        os.unlink(top + name)
    os.mkdir(top + b"dir-to-link")
    write(top + b"dir-to-link/other", "a directory again\n")
    write(top + b"file-to-link", "a file again\n")
    write(top + b"file-to-fifo", "a file again\n")
    os.symlink(b"elsewhere/again", top + b"link-to-link")
    shutil.rmtree(top + b"link-to-dir")
    os.symlink(b"one", top + b"link-to-dir")
    os.rename(top + b"d", top + b"e")  # the only change to what "a" is, too
    os.link(top + b"c", top + b"one/c")
    _swap(top, b"one", b"other")
    os.rename(top + b"away/sub", top + b"moved/sub")  # back where it was
    os.rename(top + b"moved/sub/deeper", top + b"deeper")
    os.mkdir(top + b"gone")
    write(top + b"gone/file", "another\n")
    _only_what_is_said(top, 0o640, 78, b"second", "g:4321:r", 946684800)
    os.removexattr(top + b"power", b"security.capability")
    for name in [b"mark", b"rights"]:
        os.utime(top + name, ns=(10**18, 10**18 + 5))


def _only_what_is_said(top, mode, owner, mark, rights, time):
    """Change what is said of files, and of one its content, but not its size and time."""
    os.chmod(top + b"mode", mode)
    os.chown(top + b"owner", owner, owner)
    os.setxattr(top + b"mark", b"user.mark", mark)
    subprocess.run(["setfacl", "-m", rights, top + b"rights"], check=True)
    os.setxattr(top + b"power", b"security.capability", _CAPABILITY)
    os.utime(top + b"older", (time, time))
    before = os.stat(top + b"unlike")
    write(top + b"unlike", mark.decode().ljust(before.st_size, "."))
    os.utime(top + b"unlike", ns=(before.st_atime_ns, before.st_mtime_ns))


def _swap(top, one, other):
    os.rename(top + one, top + b"between")
    os.rename(top + other, top + one)
    os.rename(top + b"between", top + other)


def inventory(top, pax=True):
    """Return what there is below *top* (bytes) and at it: name → all its attributes.

    pax
        False leaves out what tar's own format doesn't keep, pax does: extended attributes, ACLs,
        capabilities, and parts of a second.

    Hard links appear as the set of names that share an inode.
    """
    found, inodes = {}, {}
    waiting = [b""]
    while waiting:
        name = waiting.pop()
        path = top + b"/" + name if name else top
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            below = sorted(os.listdir(path))
            waiting += [name + b"/" + base if name else base for base in below]
        else:
            inodes.setdefault(status.st_ino, set()).add(name)
        found[name] = (status.st_ino, _attributes(path, status, pax))
    return {
        name: {**attributes, "links": frozenset(inodes.get(inode, ()))}
        for name, (inode, attributes) in found.items()
    }


def _attributes(path, status, pax):
    kind = stat.S_IFMT(status.st_mode)
    attributes = {
        "mode": oct(status.st_mode),
        "owner": (status.st_uid, status.st_gid),
        "time": status.st_mtime_ns if pax else status.st_mtime_ns // 10**9,
        "device": status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else None,
        "link": os.readlink(path) if kind == stat.S_IFLNK else None,
    }
    if kind == stat.S_IFREG:
        with open(path, "rb") as file:
            attributes["content"] = hashlib.sha256(file.read()).hexdigest()
        attributes["size"] = status.st_size
        attributes["sparse"] = status.st_blocks * 512 < status.st_size // 2
    if pax:
        names = os.listxattr(path, follow_symlinks=False)
        attributes["xattrs"] = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in names
        }
    return attributes


def below(inventory_of_all, name):
    """Return the part of an inventory at *name* and below, as an inventory of it alone."""
    if not name:
        return inventory_of_all
    cut = len(name)
    found = {}
    for other, attributes in inventory_of_all.items():
        if other == name or other.startswith(name + b"/"):
            links = (link for link in attributes["links"] if (link + b"/").startswith(name + b"/"))
            links = frozenset(link[cut:].lstrip(b"/") for link in links)
            found[other[cut:].lstrip(b"/")] = {**attributes, "links": links}
    return found


def differences(expected, found):
    """Return what differs: name → (expected, found), only the attributes that differ."""
    result = {}
    for name in sorted(expected.keys() | found.keys()):
        one, other = expected.get(name, {}), found.get(name, {})
        keys = [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
        if keys or (name in expected) != (name in found):
            result[name] = {key: (one.get(key), other.get(key)) for key in keys}
    return result
