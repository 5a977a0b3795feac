"""The one place where the bed runs the machine's commands."""

import subprocess


class BedError(Exception):
    """Something of the test bed failed; the message says what and shows the command's own words."""


def text(output: bytes | None) -> str:
    """Return a command's output as text fit for a message."""
    return (output or b"").decode("utf-8", "replace").strip()


def describe(argv: list[str], returncode: int, stderr: bytes | None) -> str:
    """Return the message for a command that failed."""
    return f"{' '.join(map(str, argv))}: exit code {returncode}\n{text(stderr)}".strip()


def run(argv: list[str], *, stdin: bytes | None = None, check: bool = True, timeout: float = 60):
    """Run ``argv`` to its end and return its CompletedProcess with stdout and stderr as bytes.

    Raises BedError when it exits non-zero (unless ``check`` is false) or takes over ``timeout``
    seconds, after which it is killed.
    """
    source = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    try:
        done = subprocess.run(argv, capture_output=True, timeout=timeout, check=False, **source)
    except subprocess.TimeoutExpired as error:
        raise BedError(f"{' '.join(argv)}: no end after {timeout} s") from error
    except FileNotFoundError as error:
        raise BedError(f"{argv[0]} is missing on this machine: run `make setup`") from error
    if check and done.returncode:
        raise BedError(describe(argv, done.returncode, done.stderr or done.stdout))
    return done
