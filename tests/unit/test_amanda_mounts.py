"""Which mount points below a directory are left out of its dumps."""

import amanda_mounts
import pytest

MOUNTINFO = r"""22 28 0:20 / /proc rw,nosuid shared:12 - proc proc rw
28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 28 8:2 / /home rw - ext4 /dev/sda2 rw
31 30 8:3 / /home/ada/big\040disk rw shared:9 master:2 - xfs /dev/sda3 rw
32 28 0:50 / /srv/net rw - nfs4 nas:/srv rw
33 28 8:1 /var/www /srv/www rw - ext4 /dev/sda1 rw
34 28 8:4 / /srv/data rw - btrfs /dev/sda4 rw,subvol=/
35 28 0:60 / /srv/auto rw - autofs systemd-1 rw
36 28 8:5 / /srv/data rw - ext4 /dev/sda5 rw
nonsense
"""
DEVICES = {"/": 1, "/home": 2, "/home/ada/big disk": 3, "/srv": 1, "/srv/www": 1, "/srv/data": 5}


def left_out(directories, devices=DEVICES):
    """Return directory and mount point of each that is left out."""
    found = amanda_mounts.left_out(directories, amanda_mounts.parse(MOUNTINFO), devices.get)
    return [(each["directory"], each["mount"]) for each in found]


def test_mountinfo_gives_the_type_on_top_at_each_place_and_names_as_they_are():
    mounts = amanda_mounts.parse(MOUNTINFO)
    assert mounts["/home/ada/big disk"] == "xfs"
    assert mounts["/srv/data"] == "ext4"
    assert len(mounts) == 8


def test_real_file_systems_below_a_directory_are_left_out():
    assert left_out({"/home": None, "/srv": {}}) == [
        ("/home", "/home/ada/big disk"),
        ("/srv", "/srv/data"),
    ]


def test_below_the_root_it_is_all_that_is_mounted_but_pseudo_and_network_file_systems():
    assert [mount for _, mount in left_out({"/": {}})] == [
        "/home",
        "/home/ada/big disk",
        "/srv/data",
    ]


def test_what_is_mounted_from_the_same_file_system_is_in_the_dump():
    assert left_out({"/srv/www": {}, "/srv": {"exclude": ["./data"]}}) == []


def test_included_and_excluded_mounts_and_those_backed_up_on_their_own_are_not_left_out():
    assert left_out({"/home": {"mounts": "include"}}) == []
    assert left_out({"/srv": {}, "/srv/data": {}}) == []
    assert left_out({"/home": {}, "/home/ada": {"mounts": "include"}}) == []


@pytest.mark.parametrize(
    ("pattern", "excluded"),
    [
        ("./ada", True),
        ("./ada/big disk", True),
        ("big*", True),
        ("ada/big disk", True),
        ("./a[^x]a", True),
        ("./big disk", False),
        ("./ad", False),
        ("*.iso", False),
        ("/home", False),
    ],
)
def test_excludes_name_a_mount_as_tar_reads_them(pattern, excluded):
    assert (left_out({"/home": {"exclude": [pattern]}}) == []) == excluded


def test_a_mount_that_is_no_directory_or_is_gone_is_not_told_of():
    assert left_out({"/home": {}}, {"/home": 2}) == []


def test_what_is_published_is_bounded_and_printable():
    mounts = {f"/srv/\x1b{number}": "ext4" for number in range(150)}
    told = amanda_mounts.published({"/srv": None}, mounts, lambda path: 1 if path == "/srv" else 2)
    assert (len(told["left_out"]), told["omitted"]) == (100, 50)
    assert told["left_out"][0] == {"directory": "/srv", "mount": "/srv/?0", "type": "ext4"}


def test_this_machines_mounts_can_be_read():
    assert "/" in amanda_mounts.read()
    assert amanda_mounts.published({"/": None})["omitted"] == 0
