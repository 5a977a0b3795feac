"""A bed for the tests of this directory, and their hold on its pillar.

BED_KEEP=1 keeps the bed for the next run (``tests/bed --name integration down`` ends it).
"""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from tests.integration import backups
from tests.integration import fleet as on_fleet
from tests.testbed import Bed
from tests.testbed.images import CACHE, CHECKOUT


class Pillar:
    """The pillar's root of a bed, read live by its master."""

    def __init__(self, bed: Bed, root: Path):
        self._bed = bed
        self.root = root

    def set(self, name: str, data: dict, targets: str = "*") -> None:
        """Replace the whole pillar: the minions that ``targets`` matches get ``data`` alone."""
        self.clear()
        self.write("top.sls", {"base": {targets: [name]}})
        self.write(f"{name}.sls", data)
        self.refresh()

    def write(self, name: str, data: dict) -> None:
        """Write one file of the pillar (JSON is YAML); call refresh() after the last."""
        (self.root / name).write_text(json.dumps(data, indent=1))

    def clear(self) -> None:
        """Remove every file of the pillar."""
        for path in self.root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def reset(self) -> None:
        """Bring the checkout's example back, but for its hour: no run starts by itself."""
        self.clear()
        shutil.copytree(CHECKOUT / "pillar", self.root, dirs_exist_ok=True)
        self.add("no-cron", {"configs": {"daily": {"cron": False}}}, "backup-server")

    def add(self, name: str, backup: dict, target: str) -> None:
        """Add to the example: the minion ``target`` gets ``backup`` merged into its own.

        Call refresh() after the last.
        """
        top = yaml.safe_load((self.root / "top.sls").read_text())
        top["base"].setdefault(target, []).append(name)
        self.write("top.sls", top)
        self.write(f"{name}.sls", {"backup": backup})

    def refresh(self) -> None:
        """Have every minion render its pillar anew, and wait until it has."""
        self._bed.salt("*", "saltutil.refresh_pillar", wait=True)


def pillar_root(name: str) -> Path:
    """Return the directory of the pillar of a test's bed, beside the cache."""
    root = CACHE / "pillars" / name
    root.mkdir(parents=True, exist_ok=True)
    return root


@pytest.fixture(scope="session")
def bed():
    """Give the session's bed: master, backup-server, web1, db1, with the example pillar."""
    keep = os.environ.get("BED_KEEP")
    bed = Bed(os.environ.get("BED_NAME", "integration"))
    root = pillar_root(bed.name)
    Pillar(bed, root).reset()
    if not (keep and bed.running()):
        bed.down()
        bed.up(pillar=root)
    yield bed
    if keep:
        bed.release()
        return
    bed.down()
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def first_apply(bed):
    """Give what the first ``state.apply backup`` said; None on a kept bed, where it was before."""
    if on_fleet.installed(bed):
        on_fleet.apply(bed)
        return None
    return on_fleet.first_apply(bed)


@pytest.fixture(scope="session")
def fleet(bed, first_apply):
    """Give the session's bed with ``backup`` applied once on all minions."""
    return bed


@pytest.fixture(scope="module")
def module_pillar(fleet):
    """Give the pillar of the session's bed to what a whole module works with."""
    return Pillar(fleet, pillar_root(fleet.name))


@pytest.fixture(scope="module")
def mirrored(fleet, module_pillar):
    """Give the fleet with a mirror and an offsite recipient; the example is back afterwards."""
    with backups.mirrored(fleet, module_pillar):
        yield fleet


def pytest_collection_modifyitems(items):
    """Run what needs bare hosts before what needs the state ``backup`` applied."""
    items.sort(key=lambda item: "first_apply" in item.fixturenames)


@pytest.fixture
def pillar(bed):
    """Give the pillar of the session's bed; the example is back when the test is over."""
    pillar = Pillar(bed, pillar_root(bed.name))
    yield pillar
    pillar.reset()
    pillar.refresh()


@pytest.fixture
def make_bed():
    """Give the function that makes another bed, by name; it ends with the test."""
    made = []

    def make(name: str, **options) -> Bed:
        made.append(Bed(name))
        made[-1].down()
        return made[-1].up(**options)

    yield make
    for bed in made:
        bed.down()
