"""One dump of a config: amdump, then what the catalogue confirms of it, DLE by DLE.

amdump's exit status and log say what it tried. That a dump is safe is said only if the catalogue
has all of its parts on tape.
"""

import contextlib
import os
import subprocess
import threading

import amanda_amdump
import amanda_catalogue
import amanda_command
import amanda_fulls
import amanda_holding
import amanda_reach
import amanda_taper
from amanda_errors import AmandaError, CommandError

_POLL = 0.5
_DETAIL = 1000  # characters of it in the result
_BOUND = 65536  # bytes of amdump's stderr that are kept; ssh's complaints are in it
_UNREACHED = "Amanda did not come to it"


def clean_up(places, user):
    """Finish what an interrupted run left half done, so that the next can start.

    amcleanup(8) writes the lost run's report, and lets what is whole on the holding disk be
    flushed. Raises :class:`AmandaError` if amdump is running, which only an administrator can
    have started by hand, beside Salt.
    """
    answer = amanda_command.run(["amcleanup", places.name], user=user)
    said = (answer.stdout + answer.stderr).decode(errors="replace")
    if "is running at PID" in said:  # with status 0
        raise AmandaError(
            f"Amanda is already dumping {places.name}, started by hand: wait until it is done, or "
            f"stop it with 'amcleanup -k {places.name}' as {user}"
        )


def dump(places, user, expected, progress, others=(), full=()):
    """Run amdump once and return the step's result, a dict.

    places
        :class:`amanda_layout.ConfigPlaces` of the config.
    user
        The dump user.
    expected
        The DLEs of the disklist that are to be dumped: pairs of host and disk.
    progress
        Called with counts of DLEs while it goes on; see :class:`amanda_amdump.LogTail`.
    others
        The places of other configs that may have dumped these DLEs.
    full
        Which of *expected* are to be dumped in full, whatever else is known.

    ``dles`` has an entry for each DLE: ``host``, ``disk``, ``level``, ``success``, ``reason`` (in
    words, "" on success), ``detail`` (Amanda's words), ``bytes`` on tape, ``original_bytes``
    (before compression, None if unknown), ``labels``, ``strange``, ``dumped`` (the client's part
    succeeded), ``unread`` (what could not be read there). ``flushed`` has the same for what older
    runs had left on the holding disk, ``holding`` what waits there now.
    """
    faults = []
    aside = _tried(faults, amanda_holding.set_aside, places, user)
    faults += _force_fulls(places, user, expected, others, full)
    tail = amanda_amdump.LogTail(places.logs)
    status, said = _amdump(places, user, tail, progress)
    logs = sorted(amanda_amdump.names(places.logs) - tail.before)
    if logs:
        timestamp = amanda_amdump.timestamp(logs[-1])
        entries, flushed = _confirm(places, timestamp, expected)
    else:  # it did not even begin
        timestamp, flushed = None, []
        entries = [_entry(host, disk, None, said) for host, disk in expected]
    aside += _tried(faults, amanda_holding.set_aside, places, user)
    waiting = _tried(faults, amanda_holding.images, places, user)
    _explain(entries, _of_run((*waiting, *aside), timestamp), tail.errors, user)
    return {
        **_summary(status, entries, flushed, waiting, aside, faults),
        "timestamp": timestamp,
        "status": status,
        "dles": entries,
        "flushed": flushed,
        "holding": waiting,
        "set_aside": aside,
        "detail": said[-_DETAIL:],
    }


def _force_fulls(places, user, expected, others, full):
    """Have the next dump be a full one of each DLE whose last one is lost, and of those of *full*.

    Before each dump, not after: a run that was killed can do nothing any more.

    Returns what went wrong, in words.
    """
    try:
        images = amanda_holding.images(places, user)
        names, faults = amanda_fulls.needed(places, expected, images, others)
    except (AmandaError, OSError) as error:
        names = expected
        faults = [f"all is dumped in full, as what was dumped before can't be told: {error}"]
    admin = ["amadmin", "--exact-match", places.name, "force"]
    for name in dict.fromkeys([*names, *full]):
        try:
            amanda_command.run([*admin, *name], user=user)
        except CommandError as error:
            faults.append(f"{' '.join(name)} could not be set down for a full dump: {error}")
    return faults


def _of_run(images, timestamp):
    """Return those of *images* that the run at *timestamp* made, by host and disk."""
    return {
        (image["host"], image["disk"]): image for image in images if image["timestamp"] == timestamp
    }


def _tried(faults, function, *arguments):
    """Return the list that *function* gives; what goes wrong must not hide what was dumped."""
    try:
        return function(*arguments)
    except (AmandaError, OSError) as error:
        faults.append(f"the holding disk could not be looked after: {error}")
        return []


def _amdump(places, user, tail, progress):
    """Run amdump; return its exit status and the end of its stderr."""
    config, watch = places.name, amanda_taper.Watch(places, user)
    reader = _Ending()
    streams = {"stdout": subprocess.DEVNULL, "stderr": reader.writer}
    process = amanda_command.popen(["amdump", config], user, start_new_session=True, **streams)
    reader.start()
    try:
        while (status := process.poll()) is None:
            progress(tail.update())
            watch.look(tail.taper)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL)
    except BaseException:
        # Stopped: nothing of Amanda may go on writing tapes without us.
        process.terminate()
        amanda_command.run(["amcleanup", "-k", config], user=user, ok=None)
        process.wait()
        raise
    progress(tail.finish())
    watch.finish()
    if watch.problem:
        tail.errors.insert(0, ("taper", watch.problem))
    return status, reader.text()


class _Ending(threading.Thread):
    """Reads a pipe and keeps its end, since a client can make ssh say more than fits anywhere.

    An ssh that hangs holds the pipe open long after amdump has gone: nobody waits for that. The
    thread then stays until the process ends, and the unit's control group ends that ssh.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self._reader, self.writer = os.pipe()
        self._said = bytearray()

    def start(self):
        os.close(self.writer)
        super().start()

    def run(self):
        while data := os.read(self._reader, 4096):
            self._said += data
            del self._said[:-_BOUND]
        os.close(self._reader)

    def text(self):
        """Return what was said, once the pipe is closed or a second has gone by."""
        self.join(timeout=1)
        return bytes(self._said).decode(errors="replace").strip()


def _confirm(places, timestamp, expected):
    """Return the entries of what this run dumped, and of what it flushed."""
    on_tape = {
        (dump.host, dump.disk, dump.timestamp): dump for dump in amanda_catalogue.read(places)
    }
    entries, flushed = {}, []
    for outcome in amanda_catalogue.run_results(places, timestamp):
        dump = on_tape.get((outcome.host, outcome.disk, outcome.timestamp))
        entry = _entry(outcome.host, outcome.disk, outcome, outcome.reason)
        if outcome.success and (dump is None or dump.status != "OK"):
            entry.update(success=False, reason="", detail="the catalogue doesn't have it on tape")
        elif outcome.success:
            entry["original_bytes"] = dump.native.size if dump.native else None
            entry.update(_incomplete(outcome))
        if outcome.timestamp == timestamp:
            entries[outcome.host, outcome.disk] = entry
        else:
            flushed.append({**entry, "timestamp": outcome.timestamp})
    for host, disk in expected:
        if (host, disk) not in entries:
            entries[host, disk] = _entry(host, disk, None, _UNREACHED)
    return list(entries.values()), flushed


def _incomplete(outcome):
    """Return what makes a dump a failure that is on tape, but lacks what could not be read."""
    if not outcome.unread:
        return {}
    count = "1 name" if len(outcome.unread) == 1 else f"{len(outcome.unread)} names"
    reason = (
        f"{count} in {outcome.disk} could not be read on {outcome.host}: {outcome.unread[0]}; what "
        f"could be read is on tape. Apply the state backup on {outcome.host}, or exclude them"
    )
    return {"success": False, "reason": reason}


def _entry(host, disk, outcome, detail):
    return {
        "host": host,
        "disk": disk,
        "level": outcome.level if outcome else None,
        "success": bool(outcome and outcome.success),
        "reason": "",
        "detail": "; ".join([detail, *(outcome.messages if outcome else ())]).strip("; "),
        "bytes": outcome.size if outcome else 0,
        "original_bytes": None,
        "labels": list(outcome.labels) if outcome else [],
        "strange": bool(outcome and outcome.strange),
        "dumped": bool(outcome and outcome.dumped),
        "unread": list(outcome.unread) if outcome else [],
    }


def _explain(entries, held, errors, user):
    """Say in words why each of *entries* failed; hosts that may be the cause are asked.

    held
        What this run left on the holding disk, or was taken from it; see :func:`_of_run`.
    errors
        What Amanda said of the run as a whole: pairs of program and text.
    """
    tape = [text for program, text in errors if program in ("taper", "driver")]
    failed = {(e["host"], e["disk"]): e for e in entries if not e["success"]}
    suspects = []
    for (host, disk), entry in failed.items():
        if entry["reason"]:
            continue
        # What happened to the tapes is no reason for a dump that was never made.
        never = entry["level"] is None and entry["detail"] != _UNREACHED
        texts = [entry["detail"], *([] if never else tape)]
        entry["reason"] = amanda_amdump.reason(host, disk, texts)
        if entry["reason"] is None:
            suspects.append(entry)
    reached = amanda_reach.probe([entry["host"] for entry in suspects], user)
    for entry in suspects:
        entry["reason"] = _suspected(entry, reached[entry["host"]])
    for name, image in held.items():
        entry = failed.get(name)
        if entry:
            what = "the dump" if entry["dumped"] else "what there is of it"
            text = f"{what} waits on the holding disk for the next run"
            aside = image.get("message")
            entry["reason"] = aside or f"{entry['reason']}; {text}"


def _suspected(entry, reach):
    """Return the reason of a failure that Amanda itself could not name."""
    if reach.problem:
        return reach.message
    broken = amanda_amdump.broken(entry["detail"])
    if broken:
        return f"the connection to {entry['host']} broke off ({broken}); it answers now"
    return f"Amanda says: {entry['detail'] or 'nothing'}"


def _summary(status, entries, flushed, waiting, aside, faults):
    """Return ``success`` and ``message`` of the step."""
    failed = [entry for entry in entries if not entry["success"]]
    labels = sorted({label for entry in (*entries, *flushed) for label in entry["labels"]})
    done = len(entries) - len(failed)
    message = f"{done} of {len(entries)} directories are on tape"
    message += f" {', '.join(labels)}" if labels else ""
    parts = [message]
    if failed:
        first = failed[0]
        rest = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        parts.append(f"{first['host']} {first['disk']}: {first['reason']}{rest}")
    # What a crash left half done is made good by a full dump in the same run.
    whole = {(e["host"], e["disk"]) for e in entries if e["success"] and e["level"] == 0}
    lost = [e for e in flushed if not e["success"] and (e["host"], e["disk"]) not in whole]
    parts += [
        f"{entry['host']} {entry['disk']} of {entry['timestamp'] or 'an older run'} was to be "
        f"written from the holding disk: {entry['detail']}"
        for entry in lost
    ]
    if waiting:
        parts.append(amanda_holding.told(waiting))
    parts += [f"{image['host']} {image['disk']}: {image['message']}" for image in aside]
    parts += faults
    # A failed dump that was tried again and succeeded leaves its bit; the catalogue knows better.
    serious = status & ~(amanda_amdump.STRANGE | amanda_amdump.FAILED) if status >= 0 else status
    if serious and not (failed or lost):
        parts.append("; ".join(amanda_amdump.words(status)))
    success = bool(entries) and not (failed or lost or waiting or aside or faults or serious)
    return {"success": success, "message": ". ".join(parts)}
