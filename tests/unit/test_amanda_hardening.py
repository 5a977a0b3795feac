"""What hardening compares, on files of the test's own."""

import dataclasses
import os
import subprocess

import amanda_hardening
import amanda_layout
import amanda_platform
import pytest

XINETD = """\
# default: on
service amanda
{
        disable         = no
        server          = /usr/lib/amanda/amandad
}
"""
INETD = "amanda stream tcp nowait backup /usr/lib/amanda/amandad amandad -auth=bsdtcp amdump\n"


@pytest.fixture
def services(tmp_path, monkeypatch):
    monkeypatch.setattr(amanda_hardening, "INETD_CONF", tmp_path / "inetd.conf")
    monkeypatch.setattr(amanda_hardening, "XINETD_CONF", tmp_path / "xinetd")
    return tmp_path


def test_amgtar_may_run_our_tar_and_root_the_systems():
    lines = amanda_hardening.security_conf().splitlines()
    allowed = [line for line in lines if line.startswith("amgtar:")]
    assert allowed[0] == f"amgtar:gnutar_path={amanda_layout.INCREMENTAL_TAR}"
    assert len(allowed) == 2


def test_what_stands_in_runtars_place_runs_our_tar_with_amandas_options(tmp_path):
    tar = tmp_path / "tar"
    tar.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    tar.chmod(0o755)
    script = amanda_hardening.RUNTAR.replace(str(amanda_layout.INCREMENTAL_TAR), str(tar))
    argv = ["sh", "-c", script, "runtar", "daily", "/bin/tar", "--create", "--directory", "/a b"]
    shown = subprocess.run(argv, capture_output=True, check=True).stdout
    assert shown == b"--create\n--directory\n/a b\n"


def test_the_capability_is_the_one_that_setcap_gives():
    # getfattr -e hex after `setcap cap_dac_read_search=ep`, libcap 2.66
    captured = bytes.fromhex("0100000204000000000000000000000000000000")
    assert captured == amanda_hardening.CAPABILITY_DATA


def test_a_program_that_lost_its_bit_but_not_its_override_differs(tmp_path, monkeypatch):
    platform = dataclasses.replace(amanda_platform.PLATFORMS["Debian"], libexec=tmp_path)
    program = tmp_path / "runtar"
    program.touch(mode=0o750)
    monkeypatch.setattr(amanda_hardening, "_override", lambda path: None)
    monkeypatch.setattr(amanda_hardening, "_dpkg", lambda: "dpkg-statoverride")
    assert "kept so" in amanda_hardening._mode_change(program, platform)["new"]
    monkeypatch.setattr(amanda_hardening, "_dpkg", lambda: None)
    assert amanda_hardening._mode_change(program, platform) is None
    program.chmod(0o4750)
    assert amanda_hardening._mode_change(program, platform) == {"old": "4750", "new": "0750"}


def test_an_inetd_that_offers_amanda_is_found(services):
    (services / "inetd.conf").write_text(INETD)
    assert amanda_hardening._open_services() == [services / "inetd.conf"]


@pytest.mark.parametrize("text", ["", f"#<off># {INETD}", f"# {INETD}", "amandaidx stream\n"])
def test_an_inetd_that_doesnt_is_left_alone(services, text):
    (services / "inetd.conf").write_text(text)
    assert amanda_hardening._open_services() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="writes as root")
def test_xinetds_door_is_shut(services):
    (services / "xinetd").write_text(XINETD)
    assert amanda_hardening._open_services() == [services / "xinetd"]
    amanda_hardening._close(services / "xinetd")
    assert amanda_hardening._open_services() == []
    assert (services / "xinetd").read_text() == XINETD.replace("= no", "= yes")
