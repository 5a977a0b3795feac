"""Deliveries on one host, as root: server and minion are the same, the SSH between them is real."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import amanda_authorized
import amanda_delivery
import amanda_door
import amanda_fleet
import amanda_layout
import amanda_receiving
import amanda_settings
import amanda_ssh
import pytest
from amanda_errors import AmandaError
from amanda_results import new_id

from tests.functional import hard_tree
from tests.functional.programs import install_client_programs
from tests.functional.ssh_fleet import PORT, ROOT, SshFleet
from tests.functional.zones import time_zone
from tests.hollow import TERABYTE, hollow

TREE = Path("/srv/delivered")
INTO = Path("/srv/into")
SETTINGS = amanda_settings.parse({"server": "server1"}, "web1")


@pytest.fixture(scope="module")
def fleet():
    """Give a server, and a client that lets its key run amandad, as the states would make them."""
    with contextlib.ExitStack() as stack:
        fleet = SshFleet()
        stack.callback(fleet.remove)
        install_client_programs()
        fleet.client("web1", [str(TREE)])
        file = amanda_door.authorized(fleet.platform)
        key = amanda_ssh.read_public(amanda_layout.SSH_KEY)
        amandad = fleet.platform.libexec / "amandad"
        line = amanda_ssh.authorized_key(key, ["127.0.0.1"], amandad, "server1")
        file.write_text(f"# an administrator's\n{line}\n")
        (ROOT / "authorized_keys").unlink()
        (ROOT / "authorized_keys").symlink_to(file)
        yield fleet


@pytest.fixture
def directory(fleet):
    """Give the directory that trees are delivered into; nothing may be left over after a test."""
    authorized = amanda_door.authorized(fleet.platform).read_text()
    INTO.mkdir(mode=0o700)
    yield INTO
    shutil.rmtree(INTO)
    assert amanda_door.authorized(fleet.platform).read_text() == authorized
    assert not amanda_layout.DOOR_DATA.exists() and not amanda_layout.DOOR_VERDICT.exists()
    assert not amanda_layout.DOOR.exists() and not amanda_door.is_open()


class Parcel:
    """A tree that the server offers."""

    def __init__(self, fleet, build, directory):
        self._fleet = fleet
        with amanda_delivery.preparing(new_id(), "web1", "daily", directory) as delivery:
            build(delivery.tree)
            offer = amanda_delivery.offer(delivery, fleet.platform.user)
        self.offer = {**offer, "host": "web1", "drill": None}
        self.tree = delivery.tree

    def open(self, into, **changes):
        """Open the door for it."""
        offer = {**self.offer, **changes}
        return amanda_door.open_for(offer, SETTINGS, into and str(into), self._fleet.platform)

    def send(self, progress=None):
        """Send it; return its SHA-256."""
        known = amanda_fleet.load(amanda_layout.FLEET)
        delivery = amanda_delivery.load(self.offer["id"])
        user = self._fleet.platform.user
        return amanda_delivery.send(delivery, known, user, progress)["sha256"]

    def accept(self, sha256):
        """Accept it on the other side."""
        return amanda_door.accept(self.offer["id"], sha256)

    def refuse(self):
        """Refuse it on the other side."""
        return amanda_door.refuse(self.offer["id"])

    def ssh(self, *words, key=None, options=()):
        """Come to the client as the dump user, with this delivery's key or another."""
        key = key or amanda_layout.RUNTIME / f"delivery-{self.offer['id']}" / "own" / "key"
        argv = ["runuser", "-u", self._fleet.platform.user, "--", "ssh", "-F", "/dev/null"]
        argv += ["-i", str(key), "-p", str(PORT), "-o", "BatchMode=yes"]
        argv += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        argv += ["-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR", *options]
        argv += [f"{self._fleet.platform.user}@127.0.9.1", *words]
        return subprocess.run(argv, input=b"", capture_output=True, timeout=30, check=False)


@pytest.fixture
def parcel(fleet, tmp_path):
    """Give the function that makes a parcel; what the server has of it goes with the test."""
    made = []

    def make(build):
        made.append(Parcel(fleet, build, tmp_path))
        return made[-1]

    yield make
    for each in made:
        amanda_delivery.withdraw(each.offer["id"])
    assert not list(tmp_path.iterdir()) and not list(amanda_layout.DELIVERIES.iterdir())
    assert not list(amanda_layout.RUNTIME.glob("delivery-*"))


def small(tree):
    (tree / "work").mkdir(parents=True)
    (tree / "work" / "plan").write_text("a plan\n")


def large(tree):
    tree.mkdir()
    (tree / "noise").write_bytes(os.urandom(8 << 20))


def test_a_hard_tree_arrives_as_it_was_with_its_checksums_beside_it(parcel, directory):
    sent = parcel(lambda tree: (tree.mkdir(), hard_tree.build(os.fsencode(tree / "hard"))))
    told = []
    destination = sent.open(directory / "new")
    sha256 = sent.send(lambda done, total, what: told.append((done, total, what)))
    result = sent.accept(sha256)
    assert result["destination"] == destination == str(directory / "new")
    expected = hard_tree.inventory(os.fsencode(sent.tree / "hard"))
    found = hard_tree.inventory(os.fsencode(directory / "new" / "hard"))
    assert len(found) > 100 and hard_tree.differences(expected, found) == {}
    assert (directory / "new").stat().st_mode & 0o7777 == 0o700
    check = ["sha256sum", "--check", "--quiet", result["manifest"]]
    subprocess.run(check, cwd=directory / "new", check=True)
    assert told[-1][0] >= told[-1][1] > 0 and told[-1][2] == "sent to web1"
    assert sorted(os.listdir(directory)) == ["new", "new.sha256"]


def test_an_empty_directory_may_be_there_already_and_by_default_there_is_a_new_one(
    parcel, directory
):
    sent = parcel(small)
    destination = sent.open(directory)
    assert sent.accept(sent.send())["destination"] == destination == str(directory)
    Path(f"{directory}.sha256").unlink()
    sent = parcel(small)
    destination = Path(sent.open(None))
    assert sent.accept(sent.send())["files"] == 1
    assert destination.parent == amanda_layout.RECOVERED
    assert (destination / "work" / "plan").read_text() == "a plan\n"


def test_what_is_not_what_the_server_sent_leaves_nothing(parcel, directory):
    sent = parcel(small)
    sent.open(directory / "new")
    sent.send()
    with pytest.raises(AmandaError, match="what came is not what the server sent"):
        sent.accept("0" * 64)
    assert not os.listdir(directory)


def test_somebody_else_at_the_door_with_another_tree_is_found_out(parcel, fleet, directory):
    """The dump user of the client itself, say: he can reach the socket."""
    sent = parcel(small)
    sent.open(directory / "new")
    tar = subprocess.run(["tar", "-c", "-C", "/etc", "hostname"], stdout=subprocess.PIPE)
    command = ["runuser", "-u", fleet.platform.user, "--", amanda_layout.DELIVER]
    subprocess.run(command, input=tar.stdout, check=True)
    with pytest.raises(AmandaError, match="the door on web1 is shut"):
        sent.send()
    with pytest.raises(AmandaError, match="what came is not what the server sent"):
        sent.accept("0" * 64)
    assert not os.listdir(directory)


def test_more_than_was_announced_is_cut_off_and_leaves_nothing(parcel, directory):
    sent = parcel(large)
    sent.open(directory / "new", bytes=1000)
    with pytest.raises(AmandaError, match="broke the delivery off: .*more was sent than the 1000"):
        sent.send()
    assert "more was sent than the 1000 bytes announced" in sent.refuse()
    assert not os.listdir(directory)


@pytest.mark.parametrize("said", ["the disk is full", ""])
def test_who_sends_is_told_why_it_was_refused_though_much_of_it_was_never_read(fleet, said):
    """A socket that is closed with something unread is reset, whatever was said before."""
    amanda_layout.RUNTIME.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(os.fspath(amanda_layout.DOOR_DATA))
        try:
            door.listen()
            pipe = subprocess.PIPE
            argv = [amanda_layout.DELIVER, "id"]
            with subprocess.Popen(argv, stdin=pipe, stderr=pipe) as deliver:
                deliver.stdin.write(b"much" * 1000)
                deliver.stdin.flush()
                connection, _ = door.accept()
                connection.recv(1)
                connection.sendall(said.encode())
                connection.close()
                _, told = deliver.communicate(timeout=30)
        finally:
            amanda_layout.DOOR_DATA.unlink()
    assert deliver.returncode == 1
    assert told.decode().startswith(f"deliver: {said or 'the door is shut'}")


@pytest.mark.parametrize(
    ("prepare", "into", "said"),
    [
        (lambda: (INTO / "it").write_text(""), INTO, "isn't empty"),
        (lambda: None, INTO / "no" / "where", "there is no directory"),
        (lambda: INTO.chmod(0o777), INTO / "new", "is open to others than root"),
    ],
)
def test_where_a_tree_can_not_be_put_no_door_is_opened(parcel, directory, prepare, into, said):
    sent = parcel(small)
    prepare()
    with pytest.raises(AmandaError, match=said):
        sent.open(into)


def test_without_room_no_door_is_opened(parcel, directory):
    with pytest.raises(AmandaError, match=r"are free: make room there, or name .* \(into=\)"):
        parcel(small).open(directory / "new", bytes=10**15)


def test_a_disk_that_becomes_full_is_told_and_nothing_is_left(parcel, directory):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "none", directory], check=True)
    try:
        sent = parcel(large)
        sent.open(directory / "new")
        with (directory / "other").open("wb") as file:
            file.write(bytes(78 << 20))
        with pytest.raises(AmandaError, match="into is full"):
            sent.send()
        assert f"{directory} is full" in sent.refuse()
        assert os.listdir(directory) == ["other"]
    finally:
        subprocess.run(["umount", directory], check=True)


def test_a_minion_that_lets_in_another_server_opens_no_door(parcel, fleet, directory):
    other = amanda_settings.parse({"server": "server2"}, "web1")
    with pytest.raises(AmandaError, match="doesn't let server2 in yet: apply the state backup"):
        amanda_door.open_for(parcel(small).offer, other, str(directory / "n"), fleet.platform)


def test_there_is_one_door_at_a_time(parcel, directory):
    sent, other = parcel(small), parcel(small)
    sent.open(directory / "new")
    with pytest.raises(AmandaError, match="another delivery to this minion is going on"):
        other.open(directory / "other")
    assert other.refuse() is None and amanda_door.is_open()
    assert sent.accept(sent.send())["files"] == 1


def test_a_door_that_is_refused_before_it_is_asked_for_stays_shut(parcel, directory):
    """The runner was interrupted, and what it took back came before what it had asked for."""
    sent = parcel(small)
    assert sent.refuse() is None
    with pytest.raises(AmandaError, match="was broken off"):
        sent.open(directory / "new")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"host": "/etc/systemd/system/evil"}, "its host"),
        ({"host": "../evil"}, "its host"),
        ({"drill": {"base": "../etc", "disk": "/etc", "since": 0}}, "its base is no plain name"),
        ({"drill": {"base": "/etc", "disk": "/etc", "since": 0}}, "its base is no plain name"),
    ],
)
def test_a_server_that_was_broken_into_has_no_say_in_where_a_tree_goes(
    parcel, directory, changes, said
):
    with pytest.raises(AmandaError, match=f"no offer that a server made .{said}"):
        parcel(small).open(None, **changes)


def test_a_minion_that_was_put_into_another_time_zone_since_it_began_lets_a_delivery_in(
    parcel, directory
):
    before = time.localtime().tm_gmtoff
    with time_zone("Pacific/Kiritimati"):  # 14 hours to the east
        assert time.localtime().tm_gmtoff == before  # as this process still has it
        sent = parcel(small)
        sent.open(directory / "new")
        assert sent.accept(sent.send())["files"] == 1


def test_the_key_opens_nothing_but_the_door_and_that_only_once(parcel, directory, fleet):
    proof = Path("/var/tmp/proof")
    sent = parcel(small)
    key = ROOT / "stolen"
    shutil.copy(amanda_layout.RUNTIME / f"delivery-{sent.offer['id']}" / "own" / "key", key)
    shutil.chown(key, fleet.platform.user)
    assert sent.ssh("true", key=key).returncode == 255  # there is no door yet
    sent.open(directory / "new")
    forward = ("-o", "ExitOnForwardFailure=yes", "-R", "0:localhost:22")
    assert sent.ssh(f"touch {proof}", key=key, options=forward).returncode == 255
    assert sent.ssh(f"touch {proof}", key=key).returncode in (0, 1)  # an empty delivery
    assert not proof.exists()
    with pytest.raises(AmandaError, match="is shut"):
        sent.send()
    assert sent.ssh("true", key=key).returncode == 255
    sent.refuse()
    assert not os.listdir(directory)


def test_the_servers_own_key_still_runs_amandad_alone_while_the_door_is_open(parcel, directory):
    proof = Path("/var/tmp/proof")
    sent = parcel(small)
    sent.open(directory / "new")
    own = sent.ssh(f"touch {proof}", key="/var/backups/.ssh/id_ed25519")
    assert not proof.exists() and own.returncode == 0
    assert sent.accept(sent.send())["files"] == 1


def test_sshd_itself_no_longer_takes_a_key_whose_time_is_over(parcel, directory, monkeypatch):
    monkeypatch.setattr(amanda_receiving, "OPEN", -1)
    sent = parcel(small)
    sent.open(directory / "new")
    with pytest.raises(AmandaError, match="the door on web1 is shut"):
        sent.send()
    sent.refuse()


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_whatever_ends_the_receiver_the_door_is_shut_and_nothing_is_left(parcel, directory, signal):
    sent = parcel(small)
    sent.open(directory / "new")
    assert os.listdir(directory) == [f".amanda-incoming-{sent.offer['id']}"]
    argv = ["systemctl", "kill", f"--signal={signal}", amanda_layout.DOOR_UNIT]
    subprocess.run(argv, check=True)
    end = time.monotonic() + 20
    while amanda_door.is_open():
        assert time.monotonic() < end
        time.sleep(0.05)
    with pytest.raises(AmandaError, match="the door on web1 is shut"):
        sent.send()
    with pytest.raises(AmandaError, match="without a result|it was broken off"):
        sent.accept("0" * 64)
    assert not os.listdir(directory)


def test_a_power_cut_leaves_what_the_next_apply_takes_away(parcel, fleet, directory):
    sent = parcel(small)
    sent.open(directory / "new")
    file = amanda_door.authorized(fleet.platform)
    left = {path: path.read_bytes() for path in (file, amanda_layout.DOOR)}
    assert amanda_door.shut(file.read_text()) == file.read_text()  # it is open: an apply lets it be
    amanda_door.sweep()
    assert amanda_door.is_open() and amanda_layout.DOOR.exists()
    sent.refuse()
    for path, content in left.items():
        path.write_bytes(content)
    (directory / f".amanda-incoming-{sent.offer['id']}").mkdir()
    assert amanda_door.left_over()
    assert amanda_authorized.DOOR not in amanda_door.shut(file.read_text())
    amanda_door.sweep()
    assert not os.listdir(directory) and not amanda_door.left_over()


def test_a_drill_is_compared_with_what_is_there_and_removed(parcel, directory):
    shutil.rmtree(TREE, ignore_errors=True)
    small(TREE)
    hollow(TREE / "work" / "same", TERABYTE, {7: b"the same"})
    drill = {"base": "delivered", "disk": str(TREE), "since": time.time() + 60}

    def build(tree):
        tree.mkdir()
        subprocess.run(["cp", "-a", TREE, tree], check=True)

    try:
        sent = parcel(build)
        sent.open(directory / "new", drill=drill)
        live = {"compared": 2, "changed": 0}
        assert sent.accept(sent.send()) == {"live": live, "count": 0, "different": []}
        (TREE / "work" / "plan").write_text("other\n")
        sent = parcel(build)
        (TREE / "work" / "plan").write_text("another\n")
        sent.open(directory / "new", drill=drill)
        told = sent.accept(sent.send())
        assert told["live"] == live and told["count"] == 1, told
        assert told["different"][0].startswith("work/plan: it isn't what the host has")
        sent = parcel(build)
        sent.open(directory / "new", drill={**drill, "disk": None})
        assert sent.accept(sent.send())["live"] is None
        assert not os.listdir(directory)
    finally:
        shutil.rmtree(TREE)


def test_a_client_that_can_not_be_reached_is_named_with_the_remedy(parcel, fleet, directory):
    sent = parcel(small)
    down = amanda_fleet.Client(
        "web1", "127.0.9.1", 1, amanda_fleet.load(amanda_layout.FLEET).client("web1").keys, ""
    )
    delivery = amanda_delivery.load(sent.offer["id"])
    with pytest.raises(AmandaError, match="web1 refuses connections on 127.0.9.1 port 1: is its"):
        amanda_delivery.send(delivery, amanda_fleet.Fleet((down,)), fleet.platform.user)


def test_what_is_withdrawn_while_it_is_made_leaves_nothing(fleet, tmp_path):
    delivery_id = new_id()
    with (
        pytest.raises(OSError),
        amanda_delivery.preparing(delivery_id, "web1", "daily", tmp_path) as delivery,
    ):
        small(delivery.tree)
        amanda_delivery.withdraw(delivery_id)
        amanda_delivery.offer(delivery, fleet.platform.user)
    assert not list(tmp_path.iterdir()) and not list(amanda_layout.DELIVERIES.iterdir())
    assert not list(amanda_layout.RUNTIME.glob("delivery-*"))


def test_a_restore_for_a_delivery_ends_soon_after_that_is_withdrawn(fleet, tmp_path):
    delivery_id, told = new_id(), []

    def tell(*progress):
        told.append(progress)
        amanda_delivery.withdraw(delivery_id)

    with (
        pytest.raises(AmandaError, match=f"the delivery {delivery_id} was broken off"),
        amanda_delivery.preparing(delivery_id, "web1", "daily", tmp_path) as delivery,
    ):
        wanted = amanda_delivery.while_wanted(delivery, tell)
        for done in (1, 2):
            wanted(done, 2, "a dump")
    assert told == [(1, 2, "a dump")]


def test_what_is_withdrawn_before_it_begins_is_never_made(fleet, tmp_path):
    delivery_id = new_id()
    amanda_delivery.withdraw(delivery_id)
    with (
        pytest.raises(AmandaError, match="was broken off"),
        amanda_delivery.preparing(delivery_id, "web1", "daily", tmp_path),
    ):
        pass
    assert not list(tmp_path.iterdir()) and not list(amanda_layout.DELIVERIES.iterdir())


def test_a_tree_that_nobody_came_back_for_is_removed_by_a_later_delivery(parcel, tmp_path):
    old = parcel(small)
    note = amanda_layout.DELIVERIES / f"delivery-{old.offer['id']}.json"
    os.utime(note, (1, 1))
    new = parcel(small)
    assert not old.tree.exists() and not note.exists() and new.tree.exists()
