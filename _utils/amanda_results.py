"""Results of runs on disk, one JSON file a run, readable while the run goes on.

A file has ``id``, ``config``, ``action``, ``requested``, ``started``; ``state``: ``running``,
``finished`` or ``interrupted``; ``steps``: what each step gave, in order; while it runs ``step``
and ``progress``; in the end ``finished``, ``seconds`` and ``success``, and ``reported`` once it
was handed on to Salt. Times are ISO 8601 in UTC.

A run that was killed, or lost to a power cut, can't write its end. Its file names the process and
the boot it belonged to, so that whoever reads it sees that nobody is at it any more.
"""

import contextlib
import datetime
import json
import os
import re
import time
from pathlib import Path

import amanda_files
import amanda_layout
from amanda_errors import AmandaError, ArgumentError, ParseError

KEEP = 400
"""How many results stay: a year of daily runs."""

ENTRIES = 5000
"""How many DLEs one step lists; it counts all of them."""

TEXT = 1000
"""The longest text, in characters: Amanda and clients can say more than anyone reads."""

INTERVAL = 1.0
"""Seconds between two writes of the progress."""

BACKUPS = ("backup", "backup_and_mirror")
"""The actions that dump."""

_RECENT = 20  # each run settles what it finds, so an interrupted one is never older

_RUN = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{4,16}")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def now():
    """Return the present as ISO 8601, UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def new_id():
    """Return an id for a run: when, and something that tells two in a second apart."""
    moment = datetime.datetime.now(datetime.timezone.utc)
    return f"{moment:%Y%m%dT%H%M%SZ}-{os.urandom(3).hex()}"


def path(config, run, directory=amanda_layout.RUNS):
    """Return where the result of *run* of *config* is."""
    if not _RUN.fullmatch(run):
        raise ArgumentError(f"{run!r} is not the id of a run")
    return directory / f"{config}-{run}.json"


def this_process():
    """Return what identifies this process on this machine until the next boot, and after."""
    return {"pid": os.getpid(), "ticks": _ticks(os.getpid()), "boot": _boot()}


def alive(process):
    """Return whether *process*, from :func:`this_process`, still runs."""
    return process.get("boot") == _boot() and _ticks(process.get("pid")) == process.get("ticks")


def _boot():
    return _BOOT_ID.read_text(encoding="ascii").strip()


def _ticks(pid):
    """Return when process *pid* started, in ticks since the boot; None if there is none."""
    try:
        text = Path("/proc", str(int(pid)), "stat").read_text(encoding="utf-8", errors="replace")
    except (OSError, TypeError, ValueError):
        return None
    state, *fields = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])  # proc(5), field 22


class Report:
    """The result of one run while it is made.

    specification
        What was asked: ``id``, ``config``, ``action``, ``requested``.
    directory
        Where results are.
    """

    def __init__(self, specification, directory=amanda_layout.RUNS):
        self.path = path(specification["config"], specification["id"], directory)
        self.began = time.monotonic()
        self.content = {
            **{key: specification.get(key) for key in ("id", "config", "action", "requested")},
            "state": "running",
            "started": now(),
            "process": this_process(),
            "step": None,
            "progress": None,
            "steps": [],
            "success": None,
        }
        self._written = None
        self._write()

    def begin(self, step):
        """Say that *step* has begun."""
        self.content.update(step=step, progress=None)
        self._write()

    def progress(self, progress):
        """Say how far the step is, at most once per :data:`INTERVAL`."""
        if progress == self.content["progress"]:
            return
        self.content["progress"] = bounded(progress)
        if time.monotonic() - self._written >= INTERVAL:
            self._write()

    def add(self, result):
        """Add the result of the step, a dict."""
        self.content["steps"].append(bounded(result))
        self.content.update(step=None, progress=None)
        self._write()

    def finish(self, state="finished", message=None):
        """Write the end and return the whole result."""
        steps = self.content["steps"]
        success = state == "finished" and bool(steps) and all(step["success"] for step in steps)
        del self.content["step"], self.content["progress"]
        self.content.update(
            state=state,
            finished=now(),
            seconds=round(time.monotonic() - self.began, 1),
            success=success,
        )
        if message:
            self.content["message"] = bounded(message)
        self._write()
        return self.content

    def _write(self):
        amanda_files.write(self.path, _json(self.content), mode=0o600)
        self._written = time.monotonic()


def _json(content):
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def bounded(value, entries=ENTRIES):
    """Return *value* as a result holds it: texts and lists cut, what failed kept first.

    entries
        How many of a list.

    A dict with a shortened list ``x`` says in ``x_omitted`` how many are missing.
    """
    if isinstance(value, str):
        # Bytes that were no text came as lone surrogates, which neither JSON nor Salt can carry.
        value = value.encode(errors="backslashreplace").decode()
        # Clients have a say in some texts, and a terminal obeys control characters.
        value = "".join(char if char.isprintable() or char == "\n" else "?" for char in value)
        return value if len(value) <= TEXT else value[: TEXT - 1] + "…"
    if isinstance(value, dict):
        shown = {key: bounded(item, entries) for key, item in value.items()}
        for key, item in value.items():
            if isinstance(item, (list, tuple)) and len(item) > entries:
                shown[f"{key}_omitted"] = len(item) - entries
        return shown
    if isinstance(value, (list, tuple)):
        items = list(value)
        if len(items) > entries:
            items.sort(key=lambda item: bool(isinstance(item, dict) and item.get("success")))
        return [bounded(item, entries) for item in items[:entries]]
    return value


def brief(result):
    """Return a result with no more of each step than how it went."""
    known = ("step", "success", "seconds", "message")
    steps = [{key: step.get(key) for key in known} for step in result["steps"]]
    return {**result, "steps": steps}


def read(file):
    """Return the result in *file*; one whose process is gone comes as ``interrupted``.

    Raises :class:`ParseError` if *file* is damaged, :class:`AmandaError` if there is none.
    """
    try:
        content = json.loads(file.read_bytes())
        if content["state"] == "running" and not alive(content["process"]):
            content.update(state="interrupted", success=False, message=_lost(content))
    except FileNotFoundError:
        raise AmandaError(f"there is no result of a run at {file}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ParseError("the result of a run", f"{file}") from None
    return content


def _lost(content):
    step = content.get("step")
    during = f" in its step {step}" if step else ""
    how = "the machine went down" if content["process"].get("boot") != _boot() else "it was killed"
    return f"the run that started at {content.get('started')} was interrupted{during}: {how}"


def files(directory=amanda_layout.RUNS):
    """Return the paths of all results, the oldest run first."""
    found = [file for file in directory.glob("*.json") if _run_of(file)]
    return sorted(found, key=_run_of)


def _run_of(file):
    match = re.fullmatch(rf".+-({_RUN.pattern})\.json", file.name)
    return match[1] if match else None


def last(config, actions, directory=amanda_layout.RUNS):
    """Return the result of the last run of *config* that ended; None if there is none.

    actions
        Only runs of these, names of actions.

    A damaged result must not hide the ones before it.
    """
    for file in reversed(files(directory)):
        if file != directory / f"{config}-{_run_of(file)}.json":
            continue
        with contextlib.suppress(AmandaError):  # damaged; or pruned since it was listed
            found = read(file)
            if found["state"] != "running" and found.get("action") in actions:
                return found
    return None


def interrupted(directory=amanda_layout.RUNS):
    """Return the results of runs that never wrote their end, and whose process is gone."""
    return [
        each
        for each in _recent(directory)
        if each["state"] == "interrupted" and "finished" not in each
    ]


def _recent(directory):
    """Return the newest results; a damaged one must not keep the others from being told of."""
    found = []
    for file in files(directory)[-_RECENT:]:
        with contextlib.suppress(ParseError):
            found.append(read(file))
    return found


def unreported(directory=amanda_layout.RUNS):
    """Return the results of runs that ended and that :func:`mark_reported` has not seen."""
    return [
        each
        for each in _recent(directory)
        if each["state"] != "running" and not each.get("reported")
    ]


def mark_reported(content, directory=amanda_layout.RUNS):
    """Write down that an ended run's result was handed on, so that it is handed on once."""
    content = {**content, "reported": True}
    file = path(content["config"], content["id"], directory)
    amanda_files.write(file, _json(content), mode=0o600)


def settle(content, directory=amanda_layout.RUNS):
    """Write down that an interrupted run is over, so that nobody has to find out again."""
    content = {**content, "finished": now()}
    for key in ("step", "progress"):
        content.pop(key, None)
    amanda_files.write(
        path(content["config"], content["id"], directory), _json(content), mode=0o600
    )


def prune(directory=amanda_layout.RUNS, keep=KEEP):
    """Delete all but the *keep* newest results; return how many went."""
    old = files(directory)[:-keep]
    for file in old:
        file.unlink()
    return len(old)
