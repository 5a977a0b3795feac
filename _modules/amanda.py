"""Back up a fleet with Amanda: functions for the Amanda server, and what clients publish.

The first argument is what is acted on; ``config`` defaults to the only one; times are ISO 8601,
sizes are bytes, and what is returned is data. A run goes on in a unit of its own, whatever becomes
of the command or the minion that started it.

On the server: :func:`check`, :func:`collect`, :func:`retire`, :func:`label`, :func:`tapes`,
:func:`backup`, :func:`mirror`, :func:`backup_and_mirror`, :func:`verify`, :func:`run_due`,
:func:`status`, :func:`report`, :func:`ls`, :func:`versions`, :func:`recover`, :func:`drill`,
:func:`rebuild`. On every minion: :func:`publish` and what it publishes. For the
master's runner of the same name: :func:`offer`, :func:`send`, :func:`withdraw`, :func:`drill_names`
and :func:`drill_record` on the server, :func:`receive`, :func:`accept` and :func:`refuse` on the
minion that is sent something.
"""

import contextlib
import datetime
import logging
import time

import amanda_synced
from salt.exceptions import CommandExecutionError, SaltException, SaltInvocationError

with amanda_synced.engine():
    import amanda_applied
    import amanda_collect
    import amanda_delivery
    import amanda_directories
    import amanda_door
    import amanda_drill
    import amanda_due
    import amanda_find
    import amanda_fleet
    import amanda_former
    import amanda_fresh
    import amanda_holding
    import amanda_host
    import amanda_identity
    import amanda_layout
    import amanda_mounts
    import amanda_platform
    import amanda_rebuild
    import amanda_report
    import amanda_restore
    import amanda_results
    import amanda_retired
    import amanda_settings
    import amanda_sources
    import amanda_ssh
    import amanda_summary
    import amanda_tapes
    import amanda_unit
    import amanda_verification
    from amanda_errors import AmandaError, ArgumentError, PillarError

__virtualname__ = "amanda"

log = logging.getLogger(__name__)

_PUBLISHED = ("host_keys", "directories")
_MIRRORING = ("backup_and_mirror", "mirror")
_INTERNAL = ("process", "reported")  # keys of a result
_TELL = 5  # seconds between two events of a run or restore in progress
_TOLD = 200  # entries of a list in an event: Salt cuts what is larger than 1 MiB
_PATIENCE = datetime.timedelta(hours=12)  # how long a run that is due may wait for another
_SILENT = (
    "the Salt master gave no mine data, so what was collected last is used: see that salt-master "
    "runs and that this minion reaches it"
)
_DAY = 86400  # seconds; the longest that a function waits for a run


def __virtual__():
    return __virtualname__


@contextlib.contextmanager
def _salt_errors():
    """Turn the engine's errors into Salt's, without changing a word."""
    try:
        yield
    except ArgumentError as error:
        raise SaltInvocationError(str(error)) from None
    except AmandaError as error:
        raise CommandExecutionError(str(error)) from None
    except OSError as error:  # a full disk, for example; the log keeps where
        raise CommandExecutionError(str(error)) from error


def _settings():
    return amanda_settings.of_minion(__pillar__, __opts__["id"])


def _server_settings():
    """Return the settings of this minion, which must be the Amanda server."""
    settings = _settings()
    if not settings.is_server:
        raise ArgumentError(
            f"this minion is not the Amanda server: call it on {settings.server!r}, which pillar "
            "backup:server names"
        )
    return settings


def _usable_settings():
    """Return the server's settings, and what is wrong with the pillar, in words, or None.

    If something is, they are those of the last good apply: no run or restore need wait for the
    pillar's repair.
    """
    try:
        settings = _server_settings()
        amanda_former.check_in_place(settings)
        return settings, None
    except PillarError as error:
        settings = amanda_applied.load(__opts__["id"], error)
        log.warning("%s Until then the settings of the last good apply are used.", error)
        return settings, str(error)


def _flag(name, value):
    """Return *value* if it is True or False: any other word would count as True."""
    if not isinstance(value, bool):
        raise ArgumentError(f"{name}={value} is neither True nor False")
    return value


def _count(name, value):
    """Return *value* if it is a number of things, from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ArgumentError(f"{name}={value} is no number, from 1")
    return value


# What is published to the mine.


def ssh_public_key():
    """Return what clients need to let the server in: its SSH public key and its addresses.

    Published to the mine by the server.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.ssh_public_key
    """
    with _salt_errors():
        settings = _server_settings()
        addresses = settings.server_addresses or amanda_ssh.own_addresses()
        key = amanda_ssh.read_public(amanda_layout.SSH_KEY)
        return amanda_ssh.published_server_key(key, addresses, amanda_fleet.moment())


def host_keys():
    """Return how the server reaches this minion: address, SSH port and SSH host keys.

    Published to the mine by every client, for the server alone.

    CLI Example:

    .. code-block:: bash

        salt web1 amanda.host_keys
    """
    with _salt_errors():
        settings = _settings()
        return amanda_fleet.published_host_keys(
            amanda_ssh.read_host_keys(),
            settings.address or _address(),
            settings.port,
            server=settings.server,
        )


def _address():
    """Return the address by which this minion reaches its master, or loopback without one."""
    if __opts__.get("file_client") == "local" or not __opts__.get("master_ip"):
        return "127.0.0.1"
    return amanda_ssh.address_towards(__opts__["master_ip"])


def directories():
    """Return which directories of this minion are to be backed up, with their options.

    Published to the mine by every client, for the server alone.

    CLI Example:

    .. code-block:: bash

        salt web1 amanda.directories
    """
    with _salt_errors():
        settings = _settings()
        pillar = {path: each.options for path, each in settings.directories.items()}
        return amanda_fleet.published_directories(
            amanda_directories.read(), pillar, server=settings.server
        )


def mounts():
    """Return which file systems mounted below this minion's directories its dumps leave out.

    Published to the mine by every client, for the master's ``salt-run amanda.audit``; no other
    minion can read it.

    CLI Example:

    .. code-block:: bash

        salt web1 amanda.mounts
    """
    with _salt_errors():
        return amanda_mounts.published(directories()["directories"])


def publish():
    """Publish to the mine what this minion's part in the backup is. A schedule job calls it.

    Returns the names of the mine functions that were published. What one of them lacks doesn't
    keep the others from being published, and is raised then.

    CLI Example:

    .. code-block:: bash

        salt '*' amanda.publish
    """
    with _salt_errors():
        settings = _settings()
        sent, problems = [], []
        for what, options in _publications(settings):
            try:
                __salt__[f"amanda.{what}"]()  # mine.send would hide its error
                __salt__["mine.send"](f"amanda.{what}", **options)
                sent.append(what)
            except CommandExecutionError as error:
                problems.append(str(error))
        if problems:
            raise AmandaError("; ".join(problems))
        return sent


def summary():
    """Return how the backups stand, in brief: each directory's last good dump, and the rest.

    Published to the mine by the server every hour and after each step of a run, for the master's
    ``salt-run amanda.audit``; no other minion can read it.

    CLI Example:

    .. code-block:: bash

        salt-run cache.mine backup-server
    """
    with _salt_errors():
        settings, fault = _usable_settings()
        return amanda_summary.summary(settings, amanda_platform.detect().user, fault)


def _publications(settings):
    """Yield what this minion publishes, each with the options of mine.send."""
    if settings.is_server and amanda_layout.SSH_KEY.exists():
        yield "ssh_public_key", {}
    if settings.is_server:
        yield "summary", _readable_by(settings.server)
    if settings.is_client:
        # What a client has is the server's business; and its own, to see what it said.
        for what in _PUBLISHED:
            yield what, _readable_by(settings.server, __opts__["id"])
        yield "mounts", _readable_by(__opts__["id"])


def _readable_by(*minions):
    return {"allow_tgt": sorted(set(minions)), "allow_tgt_type": "list"}


# The server's work.


def collect(test=False):
    """Store what the clients published as what the next check or run goes by.

    What vanished from the mine is kept, and reported as missing. What can't be used is refused
    and reported; it never stops the others.

    test
        True: only tell what would change.

    Returns ``fresh`` (False: the master didn't answer, so the last collection is used),
    ``changes`` and ``findings``.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.collect
    """
    with _salt_errors():
        return _collect(_server_settings(), _flag("test", test))


def _collect(settings, test=False):
    published = {}
    for what in _PUBLISHED:
        published[what] = _mined(what)
        if published[what] is None:
            # The next would wait minutes for the master, too.
            silent = _finding(settings, "silent", _SILENT)
            return {"fresh": False, "changes": {}, "findings": [silent]}
    with amanda_fleet.alone(amanda_layout.FLEET):
        previous = amanda_fleet.load(amanda_layout.FLEET)
        fleet, findings = amanda_collect.collect(
            published["directories"], published["host_keys"], previous, settings
        )
        if not test:
            amanda_fleet.save(fleet, amanda_layout.FLEET)
    changes = amanda_fleet.diff(previous, fleet)
    return {"fresh": True, "changes": changes, "findings": findings}


def _finding(settings, kind, message):
    """Return a finding about the server itself, as :mod:`amanda_collect` gives them."""
    return {"id": settings.server, "path": None, "kind": kind, "message": message}


def _mined(what):
    """Return what all minions published as ``amanda.<what>``; None if the master is silent."""
    try:
        answer = __salt__["mine.get"]("*", f"amanda.{what}")
    except SaltException:
        return None
    # A master that can't be reached gives no mapping. This minion's own entry is always in one.
    return answer if isinstance(answer, dict) and answer else None


def retire(host=None, path=None, undo=False):
    """Take a client, or one directory of it, out of the backup on purpose.

    Nothing of it is dumped any more, nor reported as missing. Its last state stays on tape for
    ``keep_retired`` of the pillar, older dumps until they are overwritten. While it is still
    published, it stays retired, and each collection says so. What its minion took out and adds
    again is back, as is a client that was gone for a day.

    host
        The client's minion id. Without one nothing is changed: what is retired is listed, and until
        when its last state is kept.
    path
        The directory; without one, the client and all of its directories.
    undo
        True: take it back. It is in the next run, if it is published.

    Returns what changed, or the list.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.retire web1 /srv/wiki
        salt backup-server amanda.retire
    """
    with _salt_errors():
        if host is None:
            if path is not None or _flag("undo", undo):
                raise ArgumentError("name the client: amanda.retire HOST")
            settings, _ = _usable_settings()
            return amanda_retired.listing(
                amanda_fleet.load(amanda_layout.FLEET), settings.keep_retired
            )
        _collect(_server_settings())  # what is gone by now is back when it is published again
        with amanda_fleet.alone(amanda_layout.FLEET):
            previous = amanda_fleet.load(amanda_layout.FLEET)
            change = amanda_fleet.unretire if _flag("undo", undo) else amanda_fleet.retire
            fleet = change(previous, host, path)
            amanda_fleet.save(fleet, amanda_layout.FLEET)
        return amanda_fleet.diff(previous, fleet)


def check(config=None):
    """Tell whether a run would work: each client's SSH, keys, tapes, disks, by Amanda's own check.

    config
        Which Amanda config; may be left out if there is only one.

    Returns a result as :func:`backup_and_mirror` does.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.check
    """
    return _run("check", config)


def label(config=None):
    """Make and label the virtual tapes that the pillar asks for; a tape with data is left alone.

    config
        Which Amanda config; may be left out if there is only one.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.label
    """
    return _run("label", config)


def tapes(config=None):
    """Return the virtual tapes: slot, label, when written, files, bytes, whether pinned.

    config
        Which Amanda config; may be left out if there is only one.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.tapes
    """
    with _salt_errors():
        settings, _ = _usable_settings()
        places = amanda_layout.places(settings.config(config).name, settings.paths)
        return amanda_tapes.tapes(places, amanda_platform.detect().user)


def backup(config=None):
    """Collect, dump, confirm and verify, without the mirror; see :func:`backup_and_mirror`.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.backup
    """
    return _run("backup", config)


def mirror(config=None, accept=False):
    """Copy what is on tape to the mirror as its user; see :func:`backup_and_mirror`.

    config
        Which Amanda config; may be left out if there is only one.
    accept
        True: what was unusual, and has kept old generations from being removed, is right.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.mirror
    """
    with _salt_errors():
        _flag("accept", accept)
    return _run("mirror", config, accept=accept)


def verify(run=None, tape=None, generation=None, source=None, config=None, identity=None):
    """Read dumps back and compare them with all that is known of them; see the README.

    Each dump is decrypted and expanded, its sizes and CRC-32C compared with Amanda's log, its names
    with Amanda's index; and every file with the SHA-256 that it had when it was verified first.
    Without an argument, all that is on tape.

    run
        Only what one run dumped or wrote: its time, as :func:`ls` takes it, or 14 digits.
    tape
        Only one tape, by its label.
    generation
        One generation of the mirror, by its name, instead of the tapes.
    source
        ``mirror``: the newest generation.
    config
        Which Amanda config; may be left out if there is only one.
    identity
        As for :func:`ls`, to open what is sealed with age. What it doesn't open is a problem.

    Returns a result as :func:`backup_and_mirror` does; its step ``verify`` has an entry in
    ``failed`` for each dump that isn't good, and says in ``problems`` which files aren't.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.verify tape=daily-0003
    """
    with _salt_errors():
        asked = {"run": run, "tape": tape, "generation": generation, "source": source}
        what = amanda_verification.check(asked)
        with amanda_identity.given(identity, None):
            pass  # what is wrong with it is told at once
    return _run("verify", config, **what, identity=identity)


def backup_and_mirror(config=None):
    """Collect, check, dump, confirm by the catalogue what is on tape, verify it, and mirror.

    The run goes on in a unit of its own whatever becomes of this command; :func:`status` tells
    how far it is. One client that fails doesn't keep the others from being dumped and mirrored.

    config
        Which Amanda config; may be left out if there is only one.

    Returns ``success``, ``run`` and ``steps``, each with its own ``success``, ``seconds`` and
    ``message``; the step ``dump`` has one entry for each DLE with the reason of a failure. The
    command's exit status says whether all went well.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.backup_and_mirror
    """
    return _run("backup_and_mirror", config)


def run_due():
    """Start the run of each config whose ``cron`` time has come; Salt's scheduler calls this.

    However many runs were missed, one makes up for them. Where the run in progress or an earlier
    call has left a result that nobody was told of, it is reported first. While the pillar is
    broken, the settings of the last good apply are used. On a server that never dumped, beside a
    mirror that holds generations, nothing is started: see :func:`rebuild`.

    Returns ``pillar``, what is wrong with it, ``reported``, results of earlier runs, and ``runs``,
    those of the runs that were due; nothing at all if there is nothing to say.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.run_due
    """
    with _salt_errors():
        settings, fault = _usable_settings()
        if fault:
            _tell_end("failed", {"config": "pillar", "success": False, "message": fault})
            __context__["retcode"] = 2
        amanda_delivery.sweep()
        answer = {"pillar": fault}
        answer["reported"] = [_report(result) for result in amanda_results.unreported()]
        answer["runs"] = [
            result
            for config in settings.configs.values()
            if config.cron and (result := _run_if_due(settings, config, fault))
        ]
        return {key: results for key, results in answer.items() if results}


def _run_if_due(settings, config, fault):
    """Return the result of the run of *config* if one was due, else None.

    fault
        What is wrong with the pillar, or None.
    """
    if problem := amanda_fresh.awaited(settings, config.name, amanda_platform.detect()):
        return _not_started(config.name, problem)
    due = amanda_due.look(config.name, config.cron, config.splay, settings.server)
    if not due.run:
        return None
    action = "backup_and_mirror" if settings.mirror else "backup"
    try:
        run = _start(action, config.name, settings, fault)
    except AmandaError as error:
        late = datetime.datetime.now(datetime.timezone.utc) - due.planned
        if isinstance(error, amanda_unit.Busy) and late < _PATIENCE:
            return None  # still due when the scheduler looks again
        return _not_started(config.name, str(error))
    amanda_due.record(config.name, due.served)
    return {**_follow(config.name, run), "remark": due.remark}


def _not_started(config, problem):
    """Tell the event bus why no run of *config* was started, and return that as its result."""
    result = {"config": config, "state": "failed", "success": False, "message": problem}
    _tell_end("failed", result)
    return result


def _run(action, config, **options):
    with _salt_errors():
        settings = _server_settings()
        name = settings.config(config).name
        if action in _MIRRORING:
            _check_begun(settings, name)
        result = _follow(name, _start(action, name, settings, **options))
    if not result["success"]:
        __context__["retcode"] = 2  # the salt command's own exit status tells, too
    return result


def _check_begun(settings, config):
    """Raise if a run would mix a fresh server's dumps with those of the one that it replaces."""
    if problem := amanda_fresh.awaited(settings, config, amanda_platform.detect()):
        raise AmandaError(problem)


def _start(action, config, settings, fault=None, **options):
    """Collect and start a run; return its id."""
    _check_startable(settings)
    collected = _collect(settings)
    if fault:
        collected["findings"].append(_finding(settings, "pillar", fault))
    return amanda_unit.start(action, config, settings, collected=collected, options=options)


def _check_startable(settings):
    """Raise if no run can be started now; that the mirror is usable is its own step's business."""
    if current := amanda_unit.running():
        raise amanda_unit.Busy(current)
    amanda_former.check_in_place(settings)
    amanda_host.check_paths(settings)


def _follow(config, run):
    """Wait for the end of a run, telling how far it is, report it, and return its result."""
    return _report(amanda_unit.follow(config, run, _DAY, _run_teller()))


def _run_teller():
    """Return a function that tells the event bus of a run: its start, each step's end, and more.

    It takes the run's result as it is by then. If no master takes the first event it tells nothing.
    """
    steps, when, heard = None, 0.0, True

    def tell(result):
        nonlocal steps, when, heard
        step_ended = steps is not None and len(result["steps"]) > steps
        moved = result.get("progress") and time.monotonic() - when >= _TELL
        if not heard or not (steps is None or step_ended or moved):
            return
        what = "started" if steps is None else "progress"
        steps, when = len(result["steps"]), time.monotonic()
        heard = _event(result["config"], what, _shown(amanda_results.brief(result)))
        if step_ended:
            _publish_summary()

    return tell


def _report(result):
    """Tell the event bus of a run's end, once, and return its result."""
    if result["state"] != "running":
        if _tell_end("finished" if result["success"] else "failed", _shown(result)):
            amanda_results.mark_reported(result)
    return _shown(result)


def _tell_end(what, result):
    """Send a result to the event bus, publish the summary; return whether the event was taken."""
    taken = _event(result["config"], what, result)
    if taken:  # else there is no master to publish to, and the hourly job tries again
        _publish_summary()
    return taken


def _event(config, what, data):
    """Send an event about a config; return whether a master took it."""
    tag = f"salt/amanda/{__opts__['id']}/{config}/{what}"
    return __salt__["event.send"](tag, amanda_results.bounded(data, _TOLD))


def _publish_summary():
    __salt__["mine.send"]("amanda.summary", **_readable_by(__opts__["id"]))


def _shown(result):
    """Return a result without what only the engine has a use for; None stays None."""
    return result and {key: result[key] for key in result if key not in _INTERNAL}


def status(config=None):
    """Return the run in progress, as far as it is, and each config's last backup that ended.

    config
        Tell of this Amanda config alone.

    Returns ``running``, None if no run is going on, and ``last``, by config: a check or a mirror
    since that :func:`backup` or :func:`backup_and_mirror` doesn't hide what became of it;
    ``holding``, by config: the dumps that wait on the holding disk for a tape (``host``, ``disk``,
    ``timestamp``, ``level``, ``size``), or a text if they can't be listed. While the pillar is
    broken also ``pillar``, what is wrong with it.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.status
    """
    with _salt_errors():
        settings, fault = _usable_settings()
        names = [settings.config(config).name] if config else list(settings.configs)
        last = {name: amanda_results.last(name, amanda_results.BACKUPS) for name in names}
        told = {
            "running": _shown(_running(names)),
            "last": {name: _shown(result) for name, result in last.items()},
            "drills": {name: amanda_drill.summary(name) for name in names},
            "holding": {name: _waiting(settings, name) for name in names},
        }
        return {**told, "pillar": fault} if fault else told


def report(run=None, runs=None, config=None):
    """Return what became of each directory in a past run, what failed first; or how runs compare.

    run
        The newest run that had begun by this moment, as :func:`ls` takes it, or its 14 digits.
        Default: the newest.
    runs
        So many runs, that one and those before it, a line each, instead of its directories.
    config
        Which Amanda config; may be left out if there is only one.

    Returns for each directory of the run ``level``, sizes in bytes, ``ratio``, times and rates,
    ``labels``, why it failed, and whether the dump is ``verified`` and ``mirrored`` today. A log
    that can't be read is an error that quotes the line.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.report
        salt backup-server amanda.report run=2026-11-20
        salt backup-server amanda.report runs=14
    """
    with _salt_errors():
        settings, _ = _usable_settings()
        name = settings.config(config).name
        places = amanda_layout.places(name, settings.paths)
        asked = None if run is None else amanda_report.moment(str(run))
        known = amanda_report.known(settings, name, places)
        if runs is not None:
            answer = amanda_report.trend(places, asked, _count("runs", runs), known)
        else:
            answer = amanda_report.report(places, amanda_report.choose(places, asked), known)
        return amanda_results.bounded(answer)


def _running(configs):
    """Return the result, so far, of the run of one of *configs* in progress, or None."""
    run = amanda_unit.running()
    if not run or run["config"] not in configs or not run["id"]:
        return None
    with contextlib.suppress(AmandaError):  # it has not begun to write, or that is damaged
        return amanda_results.read(amanda_results.path(run["config"], run["id"]))
    return None


def _waiting(settings, name):
    """Return what waits on the holding disk of a config, or in words why that can't be told."""
    places = amanda_layout.places(name, settings.paths)
    if not (places.conf / "amanda.conf").exists():
        return []  # the state was never applied, so nothing was ever dumped
    try:
        return amanda_results.bounded(amanda_holding.images(places, amanda_platform.detect().user))
    except AmandaError as error:
        return str(error)


# Files back.


@contextlib.contextmanager
def _origin(source, generation, identity):
    """Give where backups are to be read from, for this block."""
    (settings, _), user = _usable_settings(), amanda_platform.detect().user
    with amanda_identity.given(identity, user) as key:
        yield amanda_sources.Origin(settings, user, source, generation, key)


def _with_unread(catalogue, answer):
    """Return *answer* with the configs that may hold a newer dump but can't be read."""
    unread = [{"config": name, "problem": catalogue.unread[name]} for name in catalogue.unread]
    if isinstance(answer, list):
        return [*answer, *unread]
    return {**answer, "unread": unread} if unread else answer


def ls(host, path=None, at=None, source="tapes", config=None, generation=None, identity=None):
    """List a directory of a client as it was at a moment; what was deleted by then isn't shown.

    host
        The client's minion id.
    path
        An absolute path. Without one, the directories that there are dumps of are listed.
    at
        The moment: ``2026-11-20``, which means the end of that day, ``2026-11-20T18:00`` or with
        seconds, in the server's local time unless ``Z`` or an offset follows. Default: now.
    source
        ``tapes`` or ``mirror``.
    config
        Which Amanda config; may be left out: the one whose dump is the newest.
    generation
        Which generation of the mirror, if not the newest.
    identity
        The path, on the server, of a file of root's (0400) with an offsite age identity to open
        the dumps with, where the server's own doesn't: ``/root/offsite.key``. Remove it afterwards.

    Another config that may hold a newer dump but can't be read is told of with its ``problem``.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.ls web1 /home at=2026-11-20
    """
    with _salt_errors(), _origin(source, generation, identity) as origin:
        moment = amanda_sources.timestamp(at)
        with amanda_sources.holding(origin, host, path, config, moment) as catalogue:
            if path is None:
                found = amanda_find.list_disks(catalogue.dumps, host, moment)
            else:
                found = amanda_find.list_names(catalogue, host, path, moment)
            return _with_unread(catalogue, found)


def versions(host, path, source="tapes", config=None, generation=None, identity=None):
    """Return which dumps store a file or directory, the newest first.

    host, path, source, config, generation, identity
        As for :func:`ls`; only the mirror's catalogue is sealed.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.versions web1 /etc/hosts
    """
    with (
        _salt_errors(),
        _origin(source, generation, identity) as origin,
        amanda_sources.holding(origin, host, path, config) as catalogue,
    ):
        return _with_unread(catalogue, amanda_find.versions(catalogue, host, path))


def recover(
    host,
    path,
    at=None,
    destination=None,
    source="tapes",
    config=None,
    generation=None,
    identity=None,
):
    """Restore a file, a directory or a whole DLE of a client, as it was at a moment.

    It appears on this server, in a directory that only root can enter, since what a client sent
    may be hostile. Owners, modes, links, extended attributes and ACLs are as they were.

    host, path, at, source, config, generation, identity
        As for :func:`ls`.
    destination
        A directory that is empty or absent, in one that exists. All above it must be root's, and
        closed to others' writing unless sticky, as ``/tmp`` is: who could exchange one would lead
        the restore astray. Default: a new one below ``/var/lib/salt-amanda/recovered``.

    Returns where it is (``restored``), of when (``as_of``), counts, a sample of names and the
    dumps it came from. Beside the directory lies ``<destination>.sha256``; sparse files with too
    many holes to be summed are in ``unsummed``.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.recover web1 /home/ada at=2026-11-20T18:00
    """
    with _salt_errors(), _origin(source, generation, identity) as origin:
        moment = amanda_sources.timestamp(at)
        with amanda_sources.holding(origin, host, path, config, moment) as catalogue:
            into = destination or str(_recovered() / f"{host}-{amanda_results.new_id()}")
            return _restored(catalogue, host, path, into, moment, _teller(catalogue.config))


def _restored(catalogue, host, path, destination, moment, tell):
    answer = amanda_restore.recover(catalogue, host, path, destination, moment, tell)
    return _with_unread(catalogue, answer)


def _recovered():
    """Return the directory of what is restored without a destination."""
    amanda_layout.RECOVERED.mkdir(mode=0o700, exist_ok=True)
    return amanda_layout.RECOVERED


def drill(
    host=None,
    path=None,
    sample=3,
    source="mirror",
    config=None,
    generation=None,
    identity=None,
    directory=None,
):
    """Try whether backups can be restored: restore some directories whole, compare, remove them.

    What comes back is compared with the catalogue's checksums, the dumps' lists and the index, and
    this server's own directories with all of their files that haven't changed since. Called again
    and again, as by a schedule, it comes to every directory: those first that weren't tried for
    longest.

    host, path
        Only this client's directories, only this one; both as ``amanda.ls`` names them.
    sample
        How many of them; ``all`` for all.
    source, config, generation, identity
        As for :func:`ls`, but ``mirror`` is the default, and so is the only config.
    directory
        Where there is room for one of them at a time. Default: ``/var/lib/salt-amanda/recovered``.

    Returns ``success``, ``message``, ``seconds``, and for each of the ``directories`` what was
    restored and what differs. :func:`status` tells when a drill passed last.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.drill sample=5
    """
    with _salt_errors():
        count = _sample(sample)
        where = directory or str(_recovered())
        try:
            with (
                _origin(source, generation, identity) as origin,
                amanda_sources.catalogue(origin, config) as catalogue,
            ):
                tell = _teller(catalogue.config, "drill")
                names = amanda_drill.choose(catalogue.dumps, catalogue.config, count, host, path)
                result = amanda_drill.drill(catalogue, names, where, origin.settings.server, tell)
                amanda_drill.record(result, catalogue.dumps)
        except AmandaError as error:
            result = _drill_failed(config, error, host, path, generation, identity)
    return _drilled(result)


def _sample(sample):
    return None if sample == "all" else _count("sample", sample)


def _drill_failed(config, error, *asked):
    """Return the result of a drill that could not begin; raise if it was asked for wrongly."""
    if isinstance(error, ArgumentError) and any(asked):
        raise error
    # a mirror that is empty or can't be read: nothing could be restored from it
    return amanda_drill.failure(_usable_settings()[0].config(config).name, error)


def _drilled(result):
    """Tell the event bus of a drill's end and return its result."""
    result["state"] = f"drill/{'passed' if result['success'] else 'failed'}"
    _tell_end(result["state"], result)
    if not result["success"]:
        __context__["retcode"] = 2
    return result


def _teller(config, kind="recover"):
    """Return a function that tells the event bus how far a restore is, every few seconds."""
    told = time.monotonic()

    def tell(done, total, what):
        nonlocal told
        if time.monotonic() - told >= _TELL:
            told = time.monotonic()
            _event(config, f"{kind}/progress", {"done": done, "total": total, "what": what})

    return tell


# Files to another minion: what the runner calls, here and there, one after the other.


def drill_names(
    host=None, path=None, sample=3, source="mirror", config=None, generation=None, identity=None
):
    """Return what a drill is to try, a list of ``host`` and ``disk``; for the runner.

    host, path, sample, source, config, generation, identity
        As for :func:`drill`; if nothing can be read that is a drill that failed.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.drill_names web1
    """
    with _salt_errors():
        count = _sample(sample)
        try:
            with (
                _origin(source, generation, identity) as origin,
                amanda_sources.catalogue(origin, config) as catalogue,
            ):
                names = amanda_drill.choose(catalogue.dumps, catalogue.config, count, host, path)
        except AmandaError as error:
            _drilled(_drill_failed(config, error, host, path, generation, identity))
            raise
        return [{"host": one, "disk": disk} for one, disk in names]


def offer(
    id,
    host,
    path,
    to,
    at=None,
    source="tapes",
    config=None,
    generation=None,
    identity=None,
    directory=None,
    drill=False,
):
    """Restore something and make what its delivery needs; for the runner.

    id
        A new name for the delivery, as runs have them: :func:`withdraw` takes it at any time.
    to
        The minion that is to have it.
    host, path, at, source, config, generation, identity
        As for :func:`recover`.
    directory
        Where there is room meanwhile. Default: ``/var/lib/salt-amanda/recovered``.
    drill
        True: *path* is a DLE of *host* that is to be tried, as :func:`drill` does.

    Returns ``id``, ``host``, the public ``key`` of this delivery alone, how many ``bytes`` and
    ``entries`` there are; and in ``of`` what :func:`recover` gave. For a drill ``of`` is the
    directory's entry, ``drill`` what the other side compares; there is no more if it failed.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.offer 20261123T094610Z-21628a web1 /home/ada to=db1
    """
    with _salt_errors():
        settings, _ = _usable_settings()
        _collect(settings)  # its address and host keys as they are now
        amanda_delivery.client(amanda_fleet.load(amanda_layout.FLEET), to)
        directory = directory or str(_recovered())
        drill, moment = _flag("drill", drill), amanda_sources.timestamp(at)
        with _origin(source, generation, identity) as origin:
            if drill:
                opened = amanda_sources.catalogue(origin, config)
            else:
                opened = amanda_sources.holding(origin, host, path, config, moment)
            with (
                opened as catalogue,
                amanda_delivery.preparing(id, to, catalogue.config, directory) as delivery,
            ):
                tell = _teller(catalogue.config, "drill" if drill else "recover")
                tell = amanda_delivery.while_wanted(delivery, tell)
                if drill:
                    return _offer_drill(catalogue, delivery, host, path, tell)
                restored = _restored(catalogue, host, path, str(delivery.tree), moment, tell)
                offered = amanda_delivery.offer(delivery, catalogue.user)
                return {**offered, "host": host, "of": restored}


def _offer_drill(catalogue, delivery, host, disk, tell):
    entry, parcel = amanda_drill.attempt(catalogue, host, disk, delivery.tree, progress=tell)
    if parcel is None:
        amanda_delivery.withdraw(delivery.id)
        return {"host": host, "of": entry}
    if delivery.to != host:
        parcel["disk"] = None  # it has other files there
    offered = amanda_delivery.offer(delivery, catalogue.user)
    return {**offered, "host": host, "drill": parcel, "of": entry}


def send(id):
    """Send what was offered to the minion whose door is open for it; for the runner.

    id
        What :func:`offer` was given.

    Returns the ``sha256`` of what was sent, ``bytes`` and ``seconds``.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.send 20261123T094610Z-21628a
    """
    with _salt_errors():
        _usable_settings()
        delivery = amanda_delivery.load(id)
        fleet, user = amanda_fleet.load(amanda_layout.FLEET), amanda_platform.detect().user
        tell = _teller(delivery.config, "deliver")
        return amanda_delivery.send(delivery, fleet, user, tell)


def withdraw(id):
    """Remove what was offered from this server, delivered or not; for the runner.

    id
        What :func:`offer` was given.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.withdraw 20261123T094610Z-21628a
    """
    with _salt_errors():
        amanda_delivery.withdraw(id)


def drill_record(directories, config=None, problem=None):
    """Keep what came of a drill that was delivered, and tell of it as :func:`drill` does.

    directories
        For each of them ``of``, from :func:`offer`; ``to``, the minion; ``answer``, what
        :func:`accept` gave there, or why it could not be delivered, or None if it wasn't;
        ``seconds`` that the delivery took. Without ``of`` nothing could be offered: ``name`` says
        what, ``answer`` why.
    config
        Which Amanda config; may be left out if there is only one.
    problem
        Why no directory could be tried, in words.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.drill_record '[{of: …, to: web1, answer: …, seconds: 2.5}]'
    """
    with _salt_errors():
        name = _usable_settings()[0].config(config).name
        if problem is not None:
            return _drilled(amanda_drill.failure(name, problem))
        entries = [_drill_entry(each) for each in directories]
        result = amanda_drill.result(name, amanda_results.now(), entries)
        amanda_drill.record(result)
    return _drilled(result)


def _drill_entry(directory):
    of, answer = directory["of"], directory["answer"]
    if of is None:
        return amanda_drill.missed(directory["name"]["host"], directory["name"]["disk"], answer)
    if answer is None:
        return of
    return amanda_drill.delivered(of, directory["to"], answer, directory["seconds"])


def receive(server, offer=None, into=None):
    """Open this minion's door for a delivery from the Amanda server; for the runner.

    server
        The minion id of the server that is to come; it must be the one that this minion lets in.
    offer
        What :func:`offer` gave there. Without it nothing is opened: tell whether it could be.
    into
        A directory that is empty or absent, as ``destination`` of :func:`recover`. Default: a new
        one below ``/var/lib/salt-amanda/recovered``.

    Returns where the tree is to be.

    CLI Example:

    .. code-block:: bash

        salt web1 amanda.receive backup-server into=/srv/restored
    """
    with _salt_errors():
        settings, platform = _settings(), amanda_platform.detect()
        if server != settings.server:
            raise ArgumentError(
                f"this minion is a client of {settings.server!r}, which pillar backup:server "
                f"names, and takes nothing from {server!r}"
            )
        if offer is None:
            return str(amanda_door.check(settings, into, __opts__["id"], platform))
        return amanda_door.open_for(offer, settings, into, platform)


def accept(id, sha256):
    """Put in place what came through the door, if it is what the server sent; for the runner.

    id
        What :func:`offer` gave.
    sha256
        What :func:`send` gave.

    Returns where it is, or for a drill what differs from what this minion has.

    CLI Example:

    .. code-block:: bash

        salt web1 amanda.accept 20261123T094610Z-21628a SHA256
    """
    with _salt_errors():
        return amanda_door.accept(id, sha256)


def refuse(id):
    """Shut this minion's door and remove what came through it; for the runner.

    id
        What :func:`offer` gave.

    Returns why it failed by itself, if it did.

    CLI Example:

    .. code-block:: bash

        salt web1 amanda.refuse 20261123T094610Z-21628a
    """
    with _salt_errors():
        return amanda_door.refuse(id)


def rebuild(identity=None, generation=None, config=None):
    """Make this fresh server the one whose mirror it has: catalogue, tapes, pins, fleet, identity.

    The old server is gone. Set up this one with the same pillar and id, apply ``backup`` there,
    mount the mirror, and call this; then apply ``backup`` on all minions, which let in its new SSH
    key. The next run continues the cycle. Called again after an interruption it goes on.

    identity
        The path, on the server, of a file of root's (0400) with an offsite age identity; remove it
        afterwards. May be left out if the server's own keys open the catalogue: with amcrypt bring
        its two files back first.
    generation
        Which generation of the mirror, if not the newest.
    config
        Which Amanda config. Default: all of the pillar that the mirror has, one after the other.

    Returns each config's result, with its steps as of :func:`backup_and_mirror`.

    CLI Example:

    .. code-block:: bash

        salt backup-server amanda.rebuild identity=/root/offsite.key
    """
    with _salt_errors():
        settings = _server_settings()
        names = amanda_rebuild.configs(settings, config, generation)
        with amanda_identity.given(identity, None):
            pass  # what is wrong with it is told at once
        results = {}
        for name in names:
            _check_startable(settings)
            options = {"generation": generation, "identity": identity}
            run = amanda_unit.start("rebuild", name, settings, options=options)
            results[name] = _follow(name, run)
    if not all(result["success"] for result in results.values()):
        __context__["retcode"] = 2
    return results
