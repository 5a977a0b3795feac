"""A run: its steps in order, each with a result of its own, whatever became of the others.

Works as root, without Salt, and drops to the dump user for each of Amanda's commands. What it is
to do stands in the specification that :mod:`amanda_unit` wrote.
"""

import contextlib
import signal
import sys
import time
import traceback

import amanda_backup
import amanda_catalogue
import amanda_check
import amanda_clock
import amanda_conf
import amanda_disklist
import amanda_encryption
import amanda_files
import amanda_fleet
import amanda_fresh
import amanda_host
import amanda_layout
import amanda_mirror
import amanda_mirrored
import amanda_platform
import amanda_rebuild
import amanda_results
import amanda_retention
import amanda_retired
import amanda_settings
import amanda_tapes
import amanda_terms
import amanda_verification
import amanda_verified
from amanda_errors import AmandaError

_UNCOVERED = ("refused", "claimed", "incomplete", "limit", "config")
"""Findings of a collection that leave something out of the backup: no success without a word."""

_OF_ALL = ("silent", "pillar")
"""Findings that are about the server and the run as a whole."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(BaseException):
    """The run was told to stop; not an error, so that no step takes it for its own."""


class Run:
    """What all steps of a run share.

    specification
        ``id``, ``action``, ``config``, ``requested`` and ``settings``.
    runs
        The directory of results.
    """

    def __init__(self, specification, runs):
        self.settings = amanda_settings.from_dict(specification["settings"])
        self.config = self.settings.config(specification["config"])
        self.places = amanda_layout.places(self.config.name, self.settings.paths)
        self.platform = amanda_platform.detect()
        self.user = self.platform.user
        self.fleet = amanda_fleet.Fleet()
        self.dumptype = amanda_conf.DUMPTYPES[self.settings.encryption.method]
        self.collected = specification.get("collected", {})
        self.report = amanda_results.Report(specification, runs)
        self.timestamp = ""
        self.options = specification.get("options") or {}

    def dles(self):
        """Return the DLEs that this config dumps, pairs of host and disk."""
        return [
            (client.id, directory.path)
            for client in self.fleet.clients
            for directory in client.directories
            if directory.config == self.config.name and directory.retired is None
        ]

    def hosts(self):
        """Return the hosts of :meth:`dles`, in order."""
        return list(dict.fromkeys(host for host, _ in self.dles()))

    def let_go(self):
        """Return the DLEs, pairs of host and disk, that were retired and need not be kept."""
        return amanda_retired.let_go(self.places, self.user, self.settings.keep_retired)

    def others(self):
        """Return the places of all other configs that dump, or once dumped, what this one does."""
        names = set(self.settings.configs)
        for client in self.fleet.clients:
            for directory in client.directories:
                names.update(directory.former)
        names.discard(self.config.name)
        return [amanda_layout.places(name, self.settings.paths) for name in sorted(names)]


def run(specification, state=amanda_layout.STATE):
    """Do what *specification* says and return the result, as it stands on disk.

    state
        Our directory of state: the lock, and the results in ``runs``.

    Raises :class:`AmandaError` if another run is going on, or the specification can't be read;
    what goes wrong later is in the result.
    """
    runs = state / amanda_layout.RUNS.name
    with _alone(state / "run.lock"):
        for lost in amanda_results.interrupted(runs):
            amanda_results.settle(lost, runs)
        work = Run(specification, runs)
        failed = set()
        try:
            for name, step, needs in _steps(specification["action"], work):
                blocked = failed.intersection(needs)
                if blocked:
                    work.report.add(_skipped(name, min(blocked)))
                if blocked or not _perform(work, name, step):
                    failed.add(name)
            result = work.report.finish()
        except Stopped as stop:
            result = work.report.finish("interrupted", str(stop))
        amanda_results.prune(runs)
        return result


def _steps(action, work):
    """Return the steps of *action*; without a mirror in the pillar there is none to bring up.

    One more follows the canary if the record of what was verified is damaged: dumps go by it.
    """
    steps = list(ACTIONS[action])
    if not work.settings.mirror:
        if action == "mirror":
            return [("mirror", mirror, ())]  # which says what is missing
        steps = [step for step in steps if step[0] != "mirror"]
    if _CLEANUP in steps and amanda_verified.is_damaged(work.config.name):
        steps.insert(steps.index(_CANARY) + 1, _RECORD)
    return steps


@contextlib.contextmanager
def _alone(lock):
    """Hold the lock that also keeps apart runs that weren't started by systemd."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(amanda_files.alone(lock, wait=False))
        except BlockingIOError:
            raise AmandaError("another run is going on on this server") from None
        yield


def _perform(work, name, step):
    """Do one step, write its result, and return whether it succeeded."""
    began = time.monotonic()
    work.report.begin(name)
    try:
        result = step(work)
    except (AmandaError, OSError) as error:
        result = {"success": False, "message": str(error)}
    except Exception as error:
        traceback.print_exc()  # to the journal; the result holds what can be told
        what = f"{type(error).__name__}: {error}"
        result = {"success": False, "message": f"a fault in the program, please report it: {what}"}
    seconds = round(time.monotonic() - began, 1)
    print(f"{name}: {result['message']} ({seconds} s)", file=sys.stderr, flush=True)
    work.report.add({"step": name, "seconds": seconds, **result})
    return result["success"]


def _skipped(name, blocked):
    message = f"not started, since the step {blocked} failed"
    return {"step": name, "seconds": 0.0, "success": False, "skipped": True, "message": message}


def collect(work):
    """Render disklist, ssh config and known_hosts from what was last collected from the mine."""
    work.fleet = amanda_fleet.load(amanda_layout.FLEET)
    files = amanda_disklist.files(work.fleet, work.places, work.dumptype, work.platform)
    changed, disklist = amanda_files.differences(files), files[-1]
    if str(disklist.path) in changed:
        amanda_disklist.check(disklist.content, work.places, work.user)
    amanda_files.apply(files)
    dles, hosts = work.dles(), work.hosts()
    missing = _missing(work)
    findings = work.collected.get("findings", [])
    uncovered = _uncovered(work.fleet, findings)
    message = f"{len(dles)} directories of {len(hosts)} clients"
    message += f", findings: {len(findings)}" if findings else ""
    told = [each for each in findings if each in uncovered or each["kind"] in _OF_ALL]
    message = ". ".join([message, *(finding["message"] for finding in told)])
    if not dles:
        message = (
            f"there is nothing to back up in {work.config.name}: no client has published a "
            "directory for it. Those without 'config' go to the first one in backup:configs of the "
            "pillar. Is the state backup applied on the clients?"
        )
    return {
        "success": bool(dles) and not uncovered,
        "message": message,
        "clients": len(hosts),
        "directories": len(dles),
        "missing": missing,
        "fresh": work.collected.get("fresh"),
        "findings": findings,
        "changed": sorted(changed),
    }


def _uncovered(fleet, findings):
    """Return the *findings* that leave a client or a directory without any backup.

    One that refuses news of what is backed up already doesn't: the old form stays in use.
    """
    covered = {
        (client.id, directory.path)
        for client in fleet.clients
        for directory in client.directories
        if directory.retired is None
    }
    covered |= {(host, None) for host, _ in covered}
    return [
        each
        for each in findings
        if each["kind"] in _UNCOVERED and (each["id"], each["path"]) not in covered
    ]


def _missing(work):
    kept = set(work.dles())
    return [
        f"{client.id} {directory.path}"
        for client in work.fleet.clients
        for directory in client.directories
        if (client.id, directory.path) in kept and (client.missing or directory.missing)
    ]


def clean_up(work):
    """Finish what an interrupted run left; between the halves of a rebuild nothing is done."""
    amanda_fresh.check_whole(work.places)
    amanda_backup.clean_up(work.places, work.user)
    return {"success": True, "message": "nothing stands in the way of a dump"}


def canary(work):
    """Try the encryption on random bytes, so that no dump is made that can't be opened."""
    given = work.options.get("identity") is not None
    message = amanda_encryption.canary(work.settings.encryption, work.user, given)
    return {"success": True, "message": message}


def dump(work):
    """Dump, and confirm by the catalogue what is on tape."""
    amanda_clock.wait(work.places, work.report.progress)
    found = amanda_retention.hold(work.places, work.user, work.let_go())
    key = amanda_encryption.own_key(work.settings.encryption, work.platform)
    terms = amanda_terms.of(work.fleet, work.config.name, work.dumptype, key)
    full = amanda_terms.changed(work.config.name, terms)
    result = amanda_backup.dump(
        work.places,
        work.user,
        work.dles(),
        work.report.progress,
        work.others(),
        full + amanda_retention.unsound(work.places, terms),
    )
    work.timestamp = result["timestamp"] or ""
    problems = [amanda_retention.shortage(found, work.config, work.user)]
    try:
        amanda_terms.record(work.config.name, terms, result["dles"])
        # Again, so that a dump or flush by hand finds them held back as well.
        found = amanda_retention.hold(work.places, work.user, work.let_go())
    except (AmandaError, OSError) as error:  # what was dumped is told in any case
        problems.append(str(error))
    result["held"] = sorted(found.hold)
    if not any(problems) and (warning := amanda_retention.outlook(found, work.config, work.dles())):
        result["message"] = f"{result['message']}. {warning}"
    if problems := list(dict.fromkeys(filter(None, problems))):
        result.update(success=False, message=". ".join([result["message"], *problems]))
    return result


def verify(work):
    """Verify what is new on tape; what is good now may let tapes go that were held back for it."""
    result = amanda_verification.new(work)
    amanda_retention.hold(work.places, work.user, work.let_go())
    return result


def mirror(work):
    """Copy tapes and catalogue to the mirror."""
    if work.settings.mirror is None:
        raise AmandaError("there is no mirror: set mirror in pillar backup")
    amanda_host.check_mirror_user(work.settings.mirror.user, work.platform)
    dumps = amanda_catalogue.read(work.places)
    record = amanda_verified.read(work.config.name)
    answer = amanda_mirror.mirror(
        work.places,
        work.settings.mirror,
        work.settings.encryption.method,
        run=work.timestamp,
        dumps=dumps,
        record=record,
        mirrored=amanda_mirrored.read(work.settings.mirror, work.config.name),
        progress=work.report.progress,
        platform=work.platform,
        accept=work.options.get("accept", False),
        trial=work.settings.encryption.server_identity,
        let_go=work.let_go(),
    )
    answer.pop("seconds")
    answer["warnings"] += _sealed_to_others(work, dumps)
    message = [f"{answer['copied_bytes']} bytes copied to {work.settings.mirror.directory}"]
    if not answer["tried"]:
        message.append(
            "That the catalogue there can be opened was not tried, since this server holds no "
            "identity"
        )
    message = ". ".join([*message, *answer["warnings"]])
    failures = ("lacking", "differing", "damaged", "gone")
    success = not any(answer[failure] for failure in failures)
    return {"success": success, "message": message, **answer}


def _sealed_to_others(work, dumps):
    """Warn of what a recipient that was added lately doesn't open yet."""
    dles = set(work.dles() or [(dump.host, dump.disk) for dump in dumps])
    names = [" ".join(dle) for dle in amanda_encryption.sealed_to_others(dumps) if dle in dles]
    if work.settings.encryption.method != "age" or not names:
        return []
    return [
        "what dumps are sealed to has changed: a key that was added opens no dump of before, so "
        f"not yet all of {', '.join(names[:5])}{' …' if names[5:] else ''}; their next full "
        f"dumps will do ('amadmin {work.config.name} force HOST' as {work.user} has them at once)"
    ]


def label(work):
    """Make slots and labels what the pillar asks for."""
    changed = amanda_tapes.apply(work.places, work.config.slots, work.user)
    counts = {name: len(labels) for name, labels in changed.items()}
    message = ", ".join(f"{count} {name}" for name, count in counts.items())
    return {"success": True, "message": message, **changed}


_CLEANUP = ("cleanup", clean_up, ())
_CANARY = ("canary", canary, ())
_RECORD = ("record", amanda_verification.begin_anew, ("cleanup", "canary"))
_VERIFY = ("verify", verify, ("cleanup", "canary"))
# A tape that is being written, by hand for example, must not be mirrored as if it were whole; and
# a catalogue that isn't sealed to all keys would be found shut by who needs it.
_MIRROR = ("mirror", mirror, ("cleanup", "canary"))
_DUMP = (
    ("collect", collect, ()),
    _CLEANUP,
    _CANARY,
    ("dump", dump, ("cleanup", "canary")),
)

ACTIONS = {
    "backup_and_mirror": (*_DUMP, _VERIFY, _MIRROR),
    "backup": (*_DUMP, _VERIFY),
    "mirror": (_CLEANUP, _CANARY, _MIRROR),
    "verify": (
        _CLEANUP,
        _CANARY,
        ("verify", amanda_verification.asked, ("cleanup", "canary")),
    ),
    "check": (("collect", collect, ()), _CANARY, ("check", amanda_check.check, ())),
    "label": (("label", label, ()),),
    "rebuild": (
        ("rebuild", amanda_rebuild.rebuild, ()),
        ("label", label, ("rebuild",)),
        ("collect", collect, ("rebuild",)),
    ),
}
"""The steps of each action: name, function, and the steps without whose success it can't be."""


def stop(number, _frame):
    """Handle a signal that asks the run to stop; it has only once to be asked."""
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(f"the run was stopped (signal {number})")
