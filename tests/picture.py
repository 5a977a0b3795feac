"""A tree on a host, made, changed or described: runs there, as root, and prints what it saw.

Usage: ``picture.py build|change|again|show|plain DIRECTORY``. ``show`` prints one JSON line per
name, sorted, so that two trees are equal if and only if the lines are; ``plain`` leaves out what
tar's own format doesn't keep.
"""

import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.functional import hard_tree  # noqa: E402


def change(top):
    """Do to the tree in *top* (bytes) what a day of work does: new, changed, deleted, renamed."""
    hard_tree.write(top + b"/names/new\ntoday", "new\n")
    hard_tree.write(top + b"/kinds/plain", "changed\n")
    os.unlink(top + b"/names/space in it")
    os.rename(top + b"/names/tab\there", top + b"/names/tab\tthere")
    os.rename(top + b"/deep", top + b"/depth")
    shutil.rmtree(top + b"/names/dir new\nline")
    os.mkdir(top + b"/empty/no longer")
    hard_tree.turn(top, 1)


def again(top):
    """Do to it what another day does: some is as it was before, some becomes other once more."""
    os.rename(top + b"/depth", top + b"/deep")
    shutil.rmtree(top + b"/kinds/shared.d")
    hard_tree.write(top + b"/kinds/plain", "again\n")
    os.makedirs(top + b"/names/new/tree")
    hard_tree.write(top + b"/names/new/tree/third \xff", "x")
    hard_tree.turn(top, 2)


def show(top, pax=True):
    """Print the inventory of *top* (bytes)."""
    for name, attributes in sorted(hard_tree.inventory(top, pax).items()):
        xattrs = attributes.get("xattrs", {})
        # What takes more than the right to read is not backed up; see docs.
        for attribute in [each for each in xattrs if each.startswith("trusted.")]:
            del xattrs[attribute]
        print(json.dumps([_plain(name), _plain(attributes)], sort_keys=True))


def plain(top):
    """Print the inventory of *top* (bytes) without what tar's own format doesn't keep."""
    show(top, pax=False)


def _plain(value):
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, frozenset | set):
        return sorted(_plain(each) for each in value)
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    return value


if __name__ == "__main__":
    verb, directory = sys.argv[1:]
    verbs = {"build": hard_tree.build, "change": change, "again": again}
    verbs |= {"show": show, "plain": plain}
    verbs[verb](os.fsencode(directory))
