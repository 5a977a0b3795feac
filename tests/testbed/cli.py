"""The command ``tests/bed``."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from tests.testbed import images
from tests.testbed.command import BedError
from tests.testbed.fleet import CLIENTS, Bed
from tests.testbed.salt import MASTER


class Interrupted(BaseException):
    """A signal asked this command to end; its clean-up runs on the way out."""


def parser() -> argparse.ArgumentParser:
    """Return the command's grammar."""
    top = argparse.ArgumentParser(
        prog="tests/bed", description="A Salt master and its minions as real hosts on one machine."
    )
    name = os.environ.get("BED_NAME", "bed")
    top.add_argument("--name", default=name, help="which bed (default: $BED_NAME or bed)")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    up = verbs.add_parser("up", help="make the hosts, boot them, see every minion in")
    up.add_argument("--pillar", type=Path, help="the pillar's root (default: the checkout's)")
    up.add_argument("--hosts", type=int, default=len(CLIENTS), help="number of client minions")
    execute = verbs.add_parser("exec", help="run a command in a host: exec HOST -- COMMAND...")
    execute.add_argument("host")
    execute.add_argument("command", nargs=argparse.REMAINDER)
    salt = verbs.add_parser("salt", help="run the salt command on the master")
    salt.add_argument("arguments", nargs=argparse.REMAINDER)
    call = verbs.add_parser("salt-call", help="run salt-call in a host: salt-call HOST ARGUMENT...")
    call.add_argument("host")
    call.add_argument("arguments", nargs=argparse.REMAINDER)
    for verb, what in (("poweroff", "cut a host's power"), ("poweron", "start it again")):
        verbs.add_parser(verb, help=what).add_argument("host")
    verbs.add_parser("build", help="build what hosts are made of, as far as it is missing")
    verbs.add_parser("down", help="end the bed and leave nothing")
    verbs.add_parser("status", help="list the hosts and their addresses")
    return top


def become(bed: Bed, host: str, argv: list[str]) -> None:
    """Become ``argv`` in a host: standard streams and exit code are its own."""
    if not argv:
        raise BedError("no command given")
    variables = {"TERM": os.environ["TERM"]} if "TERM" in os.environ else {}
    command = bed.host(host).command(argv, variables)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it; what is run must not
    os.execvp(command[0], command)


def up(bed: Bed, arguments: argparse.Namespace) -> None:
    """Make a bed that outlives this command."""
    if arguments.hosts < 1:
        raise BedError("--hosts: at least 1 client")
    bed.up(pillar=arguments.pillar, clients=arguments.hosts)
    bed.release()


def status(bed: Bed) -> None:
    """Print the hosts."""
    for name in bed.hosts:
        print(f"{name:<16} {bed.address(name):<12} {'on' if bed.host(name).running() else 'off'}")


def act(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    start = time.monotonic()

    def report(message: str) -> None:
        print(f"{time.monotonic() - start:6.1f} s  {message}", file=sys.stderr, flush=True)

    bed = Bed(arguments.name, report)
    if arguments.verb == "up":
        up(bed, arguments)
        report("up")
    elif arguments.verb == "down":
        bed.down()
        report("down")
    elif arguments.verb == "build":
        images.prepare(report)
    elif arguments.verb == "exec":
        command = arguments.command
        become(bed, arguments.host, command[1:] if command[:1] == ["--"] else command)
    elif arguments.verb == "salt":
        become(bed, MASTER, ["salt", *arguments.arguments])
    elif arguments.verb == "salt-call":
        become(bed, arguments.host, ["salt-call", *arguments.arguments])
    elif arguments.verb == "status":
        status(bed)
    else:
        getattr(bed, arguments.verb)(arguments.host)


def interrupt(number: int, frame) -> None:
    """Turn the first signal into an exception; the clean-up that follows is not interrupted."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)


def main() -> int:
    """Run the command line; returns the exit code."""
    arguments = parser().parse_args()
    if os.geteuid():
        print("tests/bed: needs root: it mounts file systems and makes namespaces", file=sys.stderr)
        return 1
    if arguments.verb in ("up", "down", "build", "poweroff", "poweron"):
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, interrupt)
    try:
        act(arguments)
    except BedError as error:
        print(f"tests/bed: {error}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        return 128 + stop.args[0]
    return 0
