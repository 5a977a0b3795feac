"""What the transient unit runs: one run, as its specification says, and then the end.

Called as ``python -I /usr/local/lib/salt-amanda/amanda_program.py ID``. The option ``-I`` keeps
environment and working directory from choosing what is imported, and the program's directory as
well, which is therefore put back by hand. The exit status is 0 for success, 1 for a run with
failures and 2 if there is no result at all.
"""

import json
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import amanda_layout  # noqa: E402
import amanda_run  # noqa: E402
from amanda_errors import AmandaError  # noqa: E402


def main(arguments):
    """Do the run named in *arguments*, which must be the one that was asked for last."""
    try:
        specification = json.loads(amanda_layout.SPECIFICATION.read_bytes())
        if arguments != [specification["id"]]:
            raise AmandaError(f"{amanda_layout.SPECIFICATION} is of another run: start a new one")
        for number in amanda_run.SIGNALS:
            signal.signal(number, amanda_run.stop)
        result = amanda_run.run(specification)
    except (AmandaError, OSError, ValueError, KeyError) as error:
        print(f"amanda_program: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0 if result["success"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
