"""A tree with every kind of file and name that is hard to back up, and what it is compared by."""

import hashlib
import os
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
