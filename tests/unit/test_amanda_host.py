"""What is someone else's on the server is named and never taken over."""

import dataclasses
import grp
import os
import pwd

import amanda_host
import amanda_layout
import amanda_platform
import amanda_settings
import pytest
from amanda_errors import AmandaError, PillarError

RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
USER = pwd.getpwuid(os.geteuid()).pw_name
GROUP = grp.getgrgid(os.getegid()).gr_name
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to users")


@pytest.fixture(autouse=True)
def configs(monkeypatch, tmp_path):
    """Have a directory in the place of /etc/amanda."""
    (tmp_path / "etc").mkdir()
    monkeypatch.setattr(amanda_layout, "AMANDA_CONFIGS", tmp_path / "etc")
    return tmp_path / "etc"


@pytest.fixture
def platform():
    """Give a platform whose dump user is this one."""
    debian = amanda_platform.PLATFORMS["Debian"]
    return dataclasses.replace(debian, user=USER, group=GROUP)


@pytest.fixture
def settings(tmp_path):
    paths = {key: str(tmp_path / key) for key in ("tapes", "holding", "state")}
    return amanda_settings.parse({"server": "s", "paths": paths}, "s")


def refused(function, *arguments):
    with pytest.raises(PillarError) as caught:
        function(*arguments)
    assert caught.value.remedy
    return caught.value


def test_an_empty_disk_is_fine(settings, platform):
    amanda_host.check(settings, platform)


def test_a_tape_root_that_is_a_file_is_named_before_anything_changes(tmp_path, settings, platform):
    (tmp_path / "tapes").write_text("")
    error = refused(amanda_host.check, settings, platform)
    assert error.key == "backup:paths:tapes" and "tapes is not a directory" in error.problem


@pytest.mark.parametrize("target", ["/etc", "/usr/lib"])
def test_a_link_to_a_directory_of_the_system_is_refused_like_its_name(
    tmp_path, settings, platform, target
):
    (tmp_path / "holding").symlink_to(target)
    error = refused(amanda_host.check, settings, platform)
    assert error.key == "backup:paths:holding"
    assert f"{tmp_path / 'holding'} leads to {target}, by a link" in error.problem
    assert "Put a directory in the link's place" in error.remedy


def test_of_a_link_in_the_place_of_a_default_it_is_said_that_the_pillar_did_not_choose_it(
    tmp_path, settings, platform
):
    (tmp_path / "holding").symlink_to("/etc")
    given = {"server": "s", "paths": {"tapes": "/srv/tapes"}}
    error = refused(amanda_host.check, dataclasses.replace(settings, pillar=given), platform)
    assert f"{tmp_path / 'holding'} (the default) leads to /etc, by a link" in error.problem
    assert "/etc is a directory of the system" in error.problem


@needs_root
@pytest.mark.parametrize("key", ["tapes", "holding", "state"])
def test_a_directory_of_another_with_something_in_it_is_named_and_left(
    tmp_path, settings, platform, key
):
    theirs = tmp_path / key / "daily"
    theirs.mkdir(parents=True, mode=0o755)
    os.chown(theirs, 65534, 65534)
    amanda_host.check(settings, platform)
    (theirs / "thesis.txt").write_text("")
    error = refused(amanda_host.check, settings, platform)
    assert error.key == f"backup:paths:{key}" and str(theirs) in error.problem
    assert "left as it is" in error.problem and "chown" in error.remedy


@needs_root
def test_an_amanda_config_that_salt_did_not_make_is_named_and_left(configs, settings, platform):
    conf = configs / "daily"
    conf.mkdir()
    (conf / "amanda.conf").write_text("")
    os.chown(conf, 65534, 65534)
    error = refused(amanda_host.check, settings, platform)
    assert error.key == "backup:configs:daily" and str(conf) in error.problem
    assert "another name" in error.remedy


def test_what_the_dump_user_has_already_is_fine(tmp_path, settings, platform):
    (tmp_path / "tapes" / "daily" / "slot1").mkdir(parents=True)
    amanda_host.check(settings, platform)


# --- the mirror's user ---


@pytest.fixture
def account(monkeypatch):
    """Give the function that makes a user known, with such a number and groups."""
    known = {"backup": (34, [34])}

    def getpwnam(name):
        if name not in known:
            raise KeyError(name)
        return pwd.struct_passwd((name, "x", known[name][0], known[name][1][0], "", "/", "/"))

    monkeypatch.setattr(amanda_host.pwd, "getpwnam", getpwnam)
    monkeypatch.setattr(amanda_host.os, "getgrouplist", lambda name, gid: known[name][1])
    monkeypatch.setattr(
        amanda_host.grp, "getgrnam", lambda name: grp.struct_group((name, "x", 34, []))
    )
    return known.__setitem__


@pytest.mark.parametrize(
    ("name", "uid", "groups", "words"),
    [
        ("toor", 0, [0], "is root"),
        ("backup", 34, [34], "is the dump user"),
        ("alias", 34, [100], "is the dump user"),
        ("mirror", 999, [34], "group backup, which may read all files"),
        ("mirror", 999, [999, 34], "group backup, which may read all files"),
    ],
)
def test_a_mirror_user_with_a_right_to_more_is_refused(account, name, uid, groups, words):
    account(name, (uid, groups))
    debian = amanda_platform.PLATFORMS["Debian"]
    error = refused(amanda_host.check_mirror_user, name, debian)
    assert error.key == "backup:mirror:user" and words in error.problem and name in error.problem
    assert "useradd" in error.remedy


def test_a_mirror_user_who_doesn_t_exist_is_named(account):
    error = refused(
        amanda_host.check_mirror_user, "nobody-here", amanda_platform.PLATFORMS["Debian"]
    )
    assert "knows no user 'nobody-here'" in error.problem


def test_a_mirror_user_who_has_nothing_else_is_fine(account):
    account("mirror", (999, [999]))
    amanda_host.check_mirror_user("mirror", amanda_platform.PLATFORMS["Debian"])


# --- the mirror's directory ---


def open_the_way(directory):
    """Let every user pass to *directory*, which pytest makes for its own user alone."""
    for path in (directory, *directory.parents):
        if path.stat().st_mode & 0o777 == 0o700:
            path.chmod(0o755)


@needs_root
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "doesn't exist. Mount it, or make it"),
        (lambda path: path.write_text(""), "isn't a directory"),
        (lambda path: path.mkdir(mode=0o755), "may not write"),
    ],
)
def test_a_mirror_that_its_user_can_not_write_is_told_in_words(tmp_path, make, words):
    open_the_way(tmp_path)
    make(tmp_path / "mirror")
    mirror = amanda_settings.Mirror("nobody", str(tmp_path / "mirror"), 30)
    with pytest.raises(AmandaError, match=words):
        amanda_host.check_mirror(mirror, amanda_platform.PLATFORMS["Debian"])


@needs_root
def test_a_mirror_of_its_user_is_fine_and_nothing_is_made_in_it(tmp_path):
    open_the_way(tmp_path)
    directory = tmp_path / "mirror"
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, 65534)
    mirror = amanda_settings.Mirror("nobody", str(directory), 30)
    amanda_host.check_mirror(mirror, amanda_platform.PLATFORMS["Debian"])
    assert list(directory.iterdir()) == []
