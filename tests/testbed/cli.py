"""The command ``tests/bed``."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from tests.testbed import functional, images
from tests.testbed.command import BedError
from tests.testbed.fleet import CLIENTS, Bed
from tests.testbed.salt import MASTER

COMMANDS = """\
commands:
  up [--pillar DIR] [--hosts N]  make the hosts, boot them and see every minion in
  exec HOST -- COMMAND...        run a command in a host, as root
  salt ARGUMENT...               run the salt command on the master
  salt-call HOST ARGUMENT...     run salt-call in a host
  poweroff HOST                  cut a host's power: its address no longer answers
  poweron HOST                   start it again from the disk it had
  replace HOST                   put a new machine with an empty disk in a minion's place
  status                         list the hosts
  down                           end the bed and leave nothing of it
  pytest [ARGUMENT...]           run pytest in a host of its own (default: tests/functional)
  build                          build what hosts are made of, as far as it is missing
"""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked this command to end; its clean-up runs on the way out."""


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the bed's name, the command and its words, which may be options of their own."""
    parser = argparse.ArgumentParser(
        prog="tests/bed",
        description="A Salt master and its minions as real hosts on one machine.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=COMMANDS,
    )
    name = os.environ.get("BED_NAME", "bed")
    parser.add_argument("--name", default=name, help="which bed (default: $BED_NAME or bed)")
    parser.add_argument("verb", metavar="COMMAND", choices=sorted(VERBS), help="see below")
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def become(bed: Bed, host: str, argv: list[str]) -> None:
    """Become ``argv`` in a host: standard streams and exit code are its own."""
    if not argv:
        raise BedError("no command given")
    variables = {"TERM": os.environ["TERM"]} if "TERM" in os.environ else {}
    command = bed.host(host).command(argv, variables)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it; what is run must not
    os.execvp(command[0], command)


def only_host(words: list[str]) -> str:
    """Return the host that is the only word."""
    if len(words) != 1:
        raise BedError("name one host, and nothing else")
    return words[0]


def up(bed: Bed, words: list[str], report) -> None:
    """Make a bed that outlives this command."""
    parser = argparse.ArgumentParser(prog="tests/bed up")
    parser.add_argument("--pillar", type=Path, help="the pillar's root (default: the checkout's)")
    parser.add_argument("--hosts", type=int, default=len(CLIENTS), help="number of client minions")
    options = parser.parse_args(words)
    if options.hosts < 1:
        raise BedError("--hosts: at least 1 client")
    bed.up(pillar=options.pillar, clients=options.hosts)
    bed.release()
    report("up")


def execute(bed: Bed, words: list[str], report) -> None:
    """Run a command in a host."""
    host, *command = words or [""]
    become(bed, host, command[1:] if command[:1] == ["--"] else command)


def salt_call(bed: Bed, words: list[str], report) -> None:
    """Run salt-call in a host."""
    host, *arguments = words or [""]
    become(bed, host, ["salt-call", *arguments])


def down(bed: Bed, words: list[str], report) -> None:
    """End the bed."""
    bed.down()
    report("down")


def status(bed: Bed, words: list[str], report) -> None:
    """Print the hosts."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as for any command that only prints
    for name in bed.hosts:
        print(f"{name:<16} {bed.address(name):<12} {'on' if bed.host(name).running() else 'off'}")


VERBS = {
    "up": up,
    "exec": execute,
    "salt": lambda bed, words, report: become(bed, MASTER, ["salt", *words]),
    "salt-call": salt_call,
    "poweroff": lambda bed, words, report: bed.poweroff(only_host(words)),
    "poweron": lambda bed, words, report: bed.poweron(only_host(words)),
    "replace": lambda bed, words, report: bed.replace(only_host(words)),
    "status": status,
    "down": down,
    "pytest": lambda bed, words, report: functional.run(bed, words, report),
    "build": lambda bed, words, report: images.prepare(report) and None,
}
CLEANED_UP = ("up", "build", "poweroff", "poweron", "replace", "pytest")


def heed(handler) -> None:
    """Have ``handler`` take the signals that ask a command to end."""
    for each in SIGNALS:
        signal.signal(each, handler)


def interrupt(number: int, frame) -> None:
    """Turn the first signal into an exception; the clean-up that follows is not interrupted."""
    heed(signal.SIG_IGN)
    raise Interrupted(number)


def main() -> int:
    """Run the command line; returns the exit code."""
    start = time.monotonic()
    arguments = parse(sys.argv[1:])
    if os.geteuid():
        print("tests/bed: needs root: it mounts file systems and makes namespaces", file=sys.stderr)
        return 1

    def report(message: str) -> None:
        print(f"{time.monotonic() - start:6.1f} s  {message}", file=sys.stderr, flush=True)

    if arguments.verb in CLEANED_UP:
        heed(interrupt)
    elif arguments.verb == "down":
        heed(signal.SIG_IGN)  # it is soon over, and half of it is no use
    try:
        bed = Bed(arguments.name, report)
        return VERBS[arguments.verb](bed, arguments.words, report) or 0
    except BedError as error:
        print(f"tests/bed: {error}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        return 128 + stop.args[0]
