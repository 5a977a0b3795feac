"""The master serves a repository by gitfs, with the configuration that README.md shows."""

import json
import re

import pytest

from tests.integration import backups
from tests.integration import fleet as on_fleet
from tests.integration.backups import SERVER, good
from tests.testbed import Bed, salt
from tests.testbed.images import CHECKOUT

pytestmark = pytest.mark.slow
URL = "https://git.example.org/salt-amanda.git"
BARE = "/srv/salt-amanda.git"
COMMIT = """
    set -eu
    cd /root/work
    cp -r /checkout/_modules /checkout/_runners /checkout/_states /checkout/_utils /checkout/salt .
    git add . && git commit --quiet --message "$1" && git push --quiet {bare} main
"""


def stanza():
    """Return the YAML of README.md that configures gitfs."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (CHECKOUT / "README.md").read_text(), re.M | re.S)
    (found,) = [block for block in blocks if "gitfs_remotes" in block]
    assert found.count(URL) == 5
    return found.replace(URL, f"file://{BARE}")


@pytest.fixture(scope="module")
def served():
    """Give a fleet whose master has no file of ours but by gitfs, from a bare repository."""
    bed = Bed("gitfs")
    bed.down()
    bed.up(clients=1)
    try:
        bed.run(salt.MASTER, ["apt-get", "-qq", "install", "--no-install-recommends", "git"])
        script = f"""
            set -eu
            git init --quiet --bare --initial-branch=main {BARE}
            git init --quiet --initial-branch=main /root/work
            git config --global user.name nobody
            git config --global user.email nobody@localhost
        """
        bed.run(salt.MASTER, ["sh", "-c", script])
        commit(bed, "first")
        path = "/etc/salt/master.d/bed.conf"
        config = json.loads(bed.read(salt.MASTER, path))
        del config["file_roots"]
        bed.write(salt.MASTER, path, json.dumps(config).encode())
        bed.write(salt.MASTER, "/etc/salt/master.d/salt-amanda.conf", stanza().encode())
        bed.run(salt.MASTER, ["systemctl", "restart", "salt-master"])
        backups.until_in(bed, SERVER, "web1")
        yield bed
    finally:
        bed.down()


def commit(bed, message):
    bed.run(salt.MASTER, ["sh", "-c", COMMIT.format(bare=BARE), "sh", message])


def runner(bed, *words):
    """Return what salt-run gives, whatever its status."""
    argv = ["salt-run", "--out=json", "--log-level=quiet", *words]
    return json.loads(bed.run(salt.MASTER, argv, check=False).stdout)


def test_the_master_has_each_file_where_a_checkout_has_it_and_nothing_else(served):
    listed = runner(served, "fileserver.file_list")
    assert {"_modules/amanda.py", "_runners/amanda.py", "_states/amanda.py"} <= set(listed)
    assert {"_utils/amanda_run.py", "backup/init.sls", "backup/reactor/mail.sls"} <= set(listed)
    tops = {path.split("/")[0] for path in listed}
    assert tops == {"_modules", "_runners", "_states", "_utils", "backup"}


def test_the_fleet_is_set_up_and_backed_up_and_a_second_apply_changes_nothing(served):
    on_fleet.apply(served)
    again = on_fleet.apply(served)
    assert [on_fleet.changed(states) for states in again.values()] == [[], []]
    good(backups.run(served, "backup"))


def test_the_runner_works_once_it_is_synced(served):
    assert "runners.amanda" in runner(served, "saltutil.sync_all")["runners"]
    served.run("web1", ["sh", "-c", "mkdir -p /home/ada; echo hello > /home/ada/diary"])
    good(backups.run(served, "backup"))
    told = runner(served, "amanda.recover", "web1", "/home/ada")
    assert served.read("web1", f"{told['restored']}/diary") == b"hello\n"


def test_what_is_pushed_arrives(served):
    change = "cd /root/work && echo '# newer' >> _utils/amanda_run.py"
    commit_it = f"git commit --quiet --all --message newer && git push --quiet {BARE} main"
    served.run(salt.MASTER, ["sh", "-euc", f"{change} && {commit_it}"])
    served.run(salt.MASTER, ["salt-run", "fileserver.update"])
    synced = served.salt(SERVER, "saltutil.sync_all")[SERVER]
    assert synced["utils"] == ["utils.amanda_run"]
    (states,) = on_fleet.apply(served, SERVER).values()
    assert "Amanda engine" in on_fleet.changed(states)
