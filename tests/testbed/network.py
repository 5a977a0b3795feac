"""The bed's network: one switch, one cable to each host, addresses that only the bed knows.

The switch is a bridge in the ground's network namespace. The machine has no address on it and no
way to it, so a bed can't meet the machine's network or another bed's.
"""

from tests.testbed.command import run

PREFIX = "10.77.0."
MASK = 24
SWITCH = "switch"


def address(number: int) -> str:
    """Return the address of the host with that number."""
    return f"{PREFIX}{number}"


def port(number: int) -> str:
    """Return the name of the switch's end of a host's cable."""
    return f"port{number}"


def lay(enter, hosts: dict[str, int]) -> None:
    """Make the switch and, for each host (name: number), a network namespace that is cabled to it.

    ``enter`` wraps a command so that it runs on the bed's ground.
    """
    lines = [f"link add {SWITCH} type bridge forward_delay 0", f"link set {SWITCH} up"]
    for name, number in hosts.items():
        lines += [
            f"netns add {name}",
            f"link add {port(number)} type veth peer name eth0 netns {name}",
            f"link set {port(number)} master {SWITCH} up",
        ]
    run(enter(["ip", "-batch", "-"]), stdin="\n".join(lines).encode())
    for name, number in hosts.items():
        lines = [
            "link set lo up",
            f"address add {address(number)}/{MASK} dev eth0",
            "link set eth0 up",
        ]
        run(enter(["ip", "-n", name, "-batch", "-"]), stdin="\n".join(lines).encode())


def plug(enter, number: int, connected: bool) -> None:
    """Connect a host's cable to the switch, or pull it: then nothing answers at its address."""
    run(enter(["ip", "link", "set", port(number), "up" if connected else "down"]))
