"""Runs pytest in a host made for it, with Amanda and its companions installed, and no master.

Tests there are root on a real host that is thrown away: they install packages, make users and
start services, and nothing of it reaches the machine.
"""

from tests.testbed import images, salt
from tests.testbed.fleet import Bed
from tests.testbed.host import CHECKOUT

HOST = "lone"
DEFAULT = ["tests/functional"]


def packages() -> list[str]:
    """Return the packages to install: what states under test may, but not the databases."""
    lines = (images.RECIPES / "packages").read_text().splitlines()
    names = [name for line in lines for name in line.split("#")[0].split()]
    return [name for name in names if name != "postgresql"]


def run(bed: Bed, arguments: list[str], report) -> int:
    """Run pytest with ``arguments`` (default: the functional tests); return its exit code."""
    bed.up_lone(HOST)
    try:
        install = ["apt-get", "--quiet", "--yes", "--no-install-recommends", "install"]
        bed.run(HOST, [*install, *packages()], env={"DEBIAN_FRONTEND": "noninteractive"})
        report("packages installed")
        pytest = [salt.PYTHON, "-m", "pytest", "-p", "no:cacheprovider"]
        return bed.stream(
            HOST, ["/usr/bin/env", f"--chdir={CHECKOUT}", *pytest, *(arguments or DEFAULT)]
        )
    finally:
        bed.down()
