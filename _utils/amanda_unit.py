"""The one run per server: a transient systemd unit that outlives whoever started it.

The unit's name is the lock: systemd has one unit of a name. Its control group holds whatever
Amanda starts, so that nothing is left when the run is over. What it is to do stands in a
specification on disk; what comes of it, in the result (:mod:`amanda_results`).
"""

import contextlib
import json
import sys
import time
from pathlib import Path

import amanda_files
import amanda_layout
import amanda_results
from amanda_command import run
from amanda_errors import AmandaError, CommandError, ParseError

ACTIONS = ("backup_and_mirror", "backup", "mirror", "verify", "check", "label", "rebuild")

STOP_SECONDS = 30
"""How long a run that is stopped has to write its end, before it is killed."""

_BOOTED = Path("/run/systemd/system")  # sd_booted(3)
_POLL = 0.3
_PROPERTIES = (
    "Description=Amanda run started by Salt",
    "KillMode=control-group",
    f"TimeoutStopSec={STOP_SECONDS}",
    "RuntimeMaxSec=infinity",
    "LimitCORE=0",  # a core file could hold a key
    # Whoever else works on this host comes first, and dies last.
    "Nice=10",
    "IOSchedulingClass=best-effort",
    "IOSchedulingPriority=7",
    "OOMScoreAdjust=300",
)
# Not NoNewPrivileges and what implies it: Amanda's own programs are setuid. Not PrivateTmp: the
# mirror's directory may lie anywhere.


class Busy(AmandaError):
    """A run is going on; there is one at a time on a server.

    run
        What :func:`running` said of it.
    """

    def __init__(self, current):
        what = f"{current['action'] or 'a run'} of {current['config'] or 'a config'}"
        remedy = "Wait for it; amanda.status shows how far it is"
        if current["action"] == "verify":  # by hand, perhaps for hours, and it can be done again
            remedy += (
                f". 'systemctl stop {amanda_layout.RUN_UNIT}' on the server ends it, and what it "
                "found on tape so far is kept"
            )
        super().__init__(
            f"{what} has been going on since {current['since'] or 'a moment ago'}: only one run "
            f"at a time on a server. {remedy}"
        )
        self.run = current


def start(
    action,
    config,
    settings,
    collected=None,
    options=None,
    python=None,
    program=amanda_layout.ENGINE,
):
    """Start a run and return its id at once.

    action
        One of :data:`ACTIONS`.
    config
        The config's name.
    settings
        :class:`amanda_settings.Settings`; the run reads them from its specification.
    collected
        What the collection before this run gave (``fresh``, ``findings``), for its result.
    options
        What else its steps are told, a dict of plain data: ``accept`` of
        :func:`amanda_mirror.mirror`, what :func:`amanda_verification.check` takes,
        ``generation`` of :func:`amanda_rebuild.rebuild`, and ``identity``, a path, for both.
    python
        The interpreter, with the libraries that the engine needs; default: this one.
    program
        The installed engine.

    Raises :class:`Busy` if a run is going on, :class:`~amanda_errors.AmandaError` without systemd
    or without the engine.
    """
    if action not in ACTIONS:
        raise AmandaError(f"there is no action {action!r}: known are {', '.join(ACTIONS)}")
    _need_systemd()
    if not program.is_file():
        raise AmandaError(f"{program} is missing: apply the state backup on this server first")
    specification = {
        "id": amanda_results.new_id(),
        "action": action,
        "config": settings.config(config).name,
        "requested": amanda_results.now(),
        "settings": settings.to_dict(),
        "collected": collected or {},
        "options": options or {},
    }
    # Two callers at a time: the second must not replace the specification that the first's run
    # is about to read.
    with no_start():
        current = running()
        if current:
            raise Busy(current)
        content = (json.dumps(specification, indent=1) + "\n").encode()
        amanda_files.write(amanda_layout.SPECIFICATION, content, mode=0o600)
        _launch([python or sys.executable, "-I", program, specification["id"]])
    return specification["id"]


def _need_systemd():
    if not _BOOTED.is_dir():
        raise AmandaError(
            "this host was not booted with systemd, which a run needs: its unit keeps the run "
            "alone and alive"
        )


@contextlib.contextmanager
def no_start():
    """Let no run be started during this block; one that goes on is not stopped."""
    with contextlib.ExitStack() as stack:
        # Its directory is missing on a client, and before the first apply: nothing can run there.
        with contextlib.suppress(FileNotFoundError):
            stack.enter_context(amanda_files.alone(amanda_layout.STATE / "start.lock"))
        yield


def _launch(command):
    properties = [f"--property={line}" for line in _PROPERTIES]
    # Type exec: this returns when the program runs, and fails if it can't be run at all.
    argv = ["systemd-run", f"--unit={amanda_layout.RUN_UNIT}", "--collect", "--quiet"]
    argv += ["--no-ask-password", "--service-type=exec", "--working-directory=/", *properties]
    try:
        run([*argv, "--", *command])
    except CommandError as error:
        current = running()
        if current:  # an administrator started the unit by hand, beside the lock
            raise Busy(current) from error
        raise AmandaError(f"the run could not be started: {error.stderr.strip()}") from error


def running():
    """Return what is going on: ``id``, ``action``, ``config``, ``since`` (ISO 8601); or None.

    Each is None if it isn't known. A run counts until its last process has gone.
    """
    if not active():
        return None
    try:
        specification = json.loads(amanda_layout.SPECIFICATION.read_bytes())
    except (FileNotFoundError, ValueError):
        specification = {}
    return {
        "id": specification.get("id"),
        "action": specification.get("action"),
        "config": specification.get("config"),
        "since": specification.get("requested"),
    }


def active(unit=amanda_layout.RUN_UNIT):
    """Tell whether a unit of ours runs, or is about to, or hasn't ended yet."""
    if not _BOOTED.is_dir():
        return False
    argv = ["systemctl", "show", "--property=ActiveState", "--value", "--", unit]
    state = run(argv).stdout.decode().strip()
    if state in ("inactive", "failed"):
        return False
    if state in ("active", "activating", "deactivating", "reloading"):
        return True
    raise ParseError(f"the state of {unit}", state)


def follow(config, run_id, timeout, progress=None):
    """Wait for a run and return its result (:mod:`amanda_results`).

    config, run_id
        Which run; *run_id* is what :func:`start` gave.
    timeout
        Seconds. When they are over, the result as it is then is returned, ``state`` ``running``.
    progress
        Called with the result as it is by then, a few times a second.

    When it returns ``finished`` or ``interrupted``, the unit has gone as well, and the next run
    can be started. Raises :class:`~amanda_errors.AmandaError` if the run ended without a result.
    """
    file = amanda_results.path(config, run_id)
    deadline = time.monotonic() + timeout
    while True:
        content = _result(file)
        ended = content is None or content["state"] != "running"
        if ended and not active():
            content = _result(file)  # a run that has gone has written all that it ever will
            if content is None:
                raise AmandaError(
                    f"the run {run_id} ended before it could write a result. "
                    f"See: journalctl -u {amanda_layout.RUN_UNIT}"
                )
            return content
        if progress and content:
            progress(content)
        if time.monotonic() >= deadline:
            return content or {"id": run_id, "config": config, "state": "running", "steps": []}
        time.sleep(min(_POLL, max(0.0, deadline - time.monotonic())))


def _result(file):
    return amanda_results.read(file) if file.exists() else None


def stop():
    """Stop the run that is going on, and all its processes; return whether there was one."""
    if not active():
        return False
    run(["systemctl", "stop", "--", amanda_layout.RUN_UNIT])
    return True
