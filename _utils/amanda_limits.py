"""What a run may write, by the amanda.conf that is in use: Amanda's own word, asked once.

amadmin tells the whole configuration sooner than amgetconf, a Perl program, starts; a run asks
several times.
"""

import dataclasses

import amanda_command
from amanda_errors import ParseError


@dataclasses.dataclass(frozen=True)
class Limits:
    """How Amanda chooses a tape to write, and how much it writes.

    It takes one that was never written, else the oldest; but none of the *tapes* written last. It
    counts anew after each, and does not count those that are set to no-reuse.

    tapes
        retention-tapes of the policy.
    runtapes
        How many tapes a run may write.
    length
        How long a tape is, in bytes.
    """

    tapes: int
    runtapes: int
    length: int


def read(name, user):
    """Return the :class:`Limits` of the config *name*, asked as the dump user.

    Raises :class:`~amanda_errors.CommandError` if Amanda can't read its configuration.
    """
    return parse(amanda_command.run(["amadmin", name, "config"], user=user).stdout.decode(), name)


def parse(text, name):
    """Return the :class:`Limits` of the config *name* in what ``amadmin NAME config`` printed.

    Raises :class:`~amanda_errors.ParseError` if it doesn't say one of them.
    """
    return Limits(
        tapes=_number(text, f"DEFINE POLICY {name} {{", "RETENTION-TAPES"),
        runtapes=_number(text, f"DEFINE STORAGE {name} {{", "RUNTAPES"),
        length=_number(text, f"DEFINE TAPETYPE {name} {{", "LENGTH", unit="K") * 1024,
    )


def _number(text, section, option, unit=""):
    _, _, rest = text.partition(f"\n{section}\n")
    for line in rest.partition("\n}")[0].splitlines():
        if line.split()[:1] == [option]:
            try:
                return int(line.split()[1].removesuffix(unit))
            except (IndexError, ValueError):
                raise ParseError("amadmin's list of the configuration", line) from None
    raise ParseError("amadmin's list of the configuration", f"{section} without {option}")
