"""Reports of real runs, also of what amvault copied to other tapes.

Needs root on a host with Amanda's server and client, and an address beside 127.0.0.1.
"""

import shutil
from pathlib import Path

import amanda_catalogue
import amanda_report
import pytest

from tests.functional.local_amanda import LocalAmanda

SOURCE = Path("/var/tmp/report-source")
VAULT = """\
define changer vault {{
  tpchanger "chg-disk:{tapes}"
  property "num-slot" "3"
}}
define storage "vault" {{
  tpchanger "vault"
  tapetype "VTAPE"
  labelstr "^vault-[0-9][0-9][0-9][0-9]+$"
  autolabel "vault-%%%%" any
  runtapes 2
  tapepool "vault"
}}
"""


@pytest.fixture(scope="module")
def amanda():
    """Give an Amanda that has dumped once, and vaulted that."""
    SOURCE.mkdir()
    (SOURCE / "data").write_bytes(bytes(700_000))
    local = LocalAmanda("report", [(str(SOURCE), "gzip")])
    vault = local.root / "vault"
    for number in (1, 2, 3):
        (vault / f"slot{number}").mkdir(parents=True)
    shutil.chown(vault, "backup", "backup")
    for slot in vault.iterdir():
        shutil.chown(slot, "backup", "backup")
    path = local.places.conf / "amanda.conf"
    path.write_text(path.read_text() + VAULT.format(tapes=vault))
    assert local.dump() == 0
    yield local
    local.remove()
    shutil.rmtree(SOURCE)


def reported(amanda, timestamp=None):
    timestamp = timestamp or amanda_report.choose(amanda.places)
    known = amanda_report.Known(tuple(amanda_catalogue.read(amanda.places)))
    return amanda_report.report(amanda.places, timestamp, known)


def test_a_run_is_told_with_sizes_times_and_tapes(amanda):
    report = reported(amanda)
    (found,) = report["dles"]
    assert report["success"] and report["finished"] and report["seconds"] > 0
    assert found["original_bytes"] > 700_000 > found["bytes"] > 0
    assert found["ratio"] == round(found["bytes"] / found["original_bytes"], 3)
    assert found["dump_rate"] > 0 and found["tape_rate"] > 0
    assert found["labels"] == ["report-0001"]


def test_what_amvault_copied_is_told_apart_and_the_dump_stays_where_it_was(amanda):
    before = amanda_catalogue.read(amanda.places)
    run = amanda.command(
        "amvault", "--latest-fulls", "--dest-storage", "vault", "report", shift="+1h"
    )
    assert run.returncode == 0, run.stdout + run.stderr
    report = reported(amanda)
    (copy,) = report["flushed"]
    assert report["success"] and not report["dles"] and copy["labels"] == ["vault-0001"]
    assert amanda_catalogue.read(amanda.places) == before
