"""States that make a minion ready to be backed up by Amanda, or to back up others.

Each one reads, compares, and only then acts: a second run changes nothing, and ``test=True``
predicts. What can't be told yet, because a package is still missing, is predicted as None with
the reason. The SLS ``backup`` uses them all; :func:`directory` is for any SLS.
"""

import contextlib
import shutil
import sys
import time
from pathlib import Path

import amanda_synced
from salt.exceptions import CommandExecutionError, SaltException

with amanda_synced.engine():
    import amanda_applied
    import amanda_authorized
    import amanda_conf
    import amanda_directories
    import amanda_door
    import amanda_encryption
    import amanda_files
    import amanda_former
    import amanda_fresh
    import amanda_hardening
    import amanda_host
    import amanda_layout
    import amanda_platform
    import amanda_provision
    import amanda_settings
    import amanda_ssh
    import amanda_tapes
    import amanda_unit
    from amanda_errors import AmandaError, PillarError

__virtualname__ = "amanda"

_AS_WANTED = "Already as it should be."
_ENGINE = Path(amanda_layout.__file__).parent  # the engine's modules, as Salt synced them
_INTERVALS = ("seconds", "minutes", "hours", "days", "cron", "when", "once", "splay")
_PUBLISHED = ("host_keys", "directories", "mounts")  # by a client
_DEFERRED = "amanda.deferred"  # in the context of one apply
POLL = 2  # seconds between two looks at the mine for the server's key
MINE_DELAY = 30  # seconds within which what was sent to the mine is in it


class _NotYet(Exception):
    """What is to be compared needs something that an earlier state would install."""


def __virtual__():
    return __virtualname__


def _converge(name, plan, act, deferrable=False):
    """Return the result of a state.

    plan
        Function that returns the changes that are due, a dict, and changes nothing; it is asked
        again after the act.
    act
        Function that makes them.
    deferrable
        What it touches is used by a run: while there is one, nothing is changed, and while it is
        changed, none begins. What isn't there at all then is a failure. What comes after it in the
        same apply waits with it, be the run over by then.
    """
    try:
        changes = plan()
        if not changes:
            return _result(name, True, {}, _AS_WANTED)
        if __opts__["test"]:
            return _result(name, None, changes, "Would be changed.")
        with amanda_unit.no_start() if deferrable else contextlib.nullcontext():
            if deferrable and (__context__.get(_DEFERRED) or amanda_unit.running()):
                __context__[_DEFERRED] = True
                return _deferred(name, changes)
            act()
        left = plan()
    except _NotYet as reason:
        return _result(name, None if __opts__["test"] else False, {}, f"Can't be told: {reason}.")
    except (AmandaError, SaltException, OSError) as error:
        return _result(name, False, {}, str(error))
    if left:
        return _result(name, False, changes, f"Still not as it should be: {', '.join(left)}.")
    return _result(name, True, changes, "Changed.")


def _deferred(name, changes):
    """Return the result of a state that leaves *changes* undone since a run is going on."""
    names = [*list(changes)[:5], *(["…"] if len(changes) > 5 else [])]
    comment = f"a backup is running. Not changed: {', '.join(names)}. Apply again after it."
    if all(change["old"] is None for change in changes.values()):
        return _result(name, False, {}, f"Not there yet, since {comment}")
    return {
        **_result(name, True, {}, f"Deferred: what is in use stays as it is, since {comment}"),
        "warnings": [f"{name} is not yet as it should be: {comment}"],
    }


def _result(name, result, changes, comment):
    return {"name": name, "result": result, "changes": changes, "comment": comment}


def _joined(name, *parts):
    """Return the results of a state's parts as one: the worst result, and all they changed."""
    results = [part["result"] for part in parts]
    comments = dict.fromkeys(part["comment"] for part in parts)
    if len(comments) > 1:
        comments.pop(_AS_WANTED, None)
    return _result(
        name,
        next((bad for bad in (False, None) if bad in results), True),
        {key: change for part in parts for key, change in part["changes"].items()},
        " ".join(comments),
    )


def _files(name, wanted, deferrable=False):
    """Converge on the :class:`~amanda_files.Managed` list that *wanted()* returns."""
    return _converge(
        name,
        lambda: amanda_files.differences(wanted()),
        lambda: amanda_files.apply(wanted()),
        deferrable,
    )


def _settings():
    return amanda_settings.of_minion(__pillar__, __opts__["id"])


def _mined(minion, what):
    """Return what *minion* published as ``amanda.<what>``, or None."""
    return (__salt__["mine.get"](minion, f"amanda.{what}") or {}).get(minion)


def _is_published(what):
    """Tell whether the mine has what this minion would publish now, but for the time of it."""
    try:
        ours = __salt__[f"amanda.{what}"]()
    except CommandExecutionError as error:
        raise _NotYet(str(error)) from error
    mined = _mined(__opts__["id"], what)
    return isinstance(mined, dict) and {**mined, "time": None} == {**ours, "time": None}


def _publish(*needed):
    """Publish, and wait until *needed* is in the mine: Salt passes it on without an answer."""
    problem = "the master doesn't take what this minion publishes: see the log of salt-master"
    try:
        __salt__["amanda.publish"]()
    except CommandExecutionError as error:
        problem = str(error)
    deadline = time.monotonic() + MINE_DELAY
    while not all(_is_published(what) for what in needed):
        if time.monotonic() >= deadline:
            raise AmandaError(problem)
        time.sleep(0.2)


def _server_key(server):
    """Return the server's key and addresses out of the mine, parsed, or None if not there yet."""
    mined = _mined(server, "ssh_public_key")
    return None if mined is None else amanda_ssh.parse_server_key(mined)


def _source(name):
    """Return the bytes of a file of the SLS, from the master or from local file roots."""
    url = name if name.startswith("salt://") else f"salt://backup/files/{name}"
    cached = __salt__["cp.cache_file"](url, saltenv=__env__)
    if not cached:
        raise AmandaError(f"{url} is not on the master: check its file_roots or gitfs_remotes")
    return Path(cached).read_bytes()


def pillar_valid(name):
    """Check the pillar ``backup``, and this host's disks and users against it; change nothing.

    It warns of a config that the pillar no longer has, though its tapes hold dumps.

    .. code-block:: yaml

        backup pillar:
          amanda.pillar_valid
    """

    warnings = []

    def plan():
        settings = _settings()
        if settings.is_server:
            amanda_host.check(settings, amanda_platform.detect())
            warnings.extend(amanda_former.left_behind(settings.configs))
        return {}

    done = _converge(name, plan, None)
    return {**done, "warnings": warnings} if warnings else done


def mirror_usable(name):
    """Tell whether the mirror's user can write into the mirror's directory; change nothing.

    Nothing else depends on it: a mirror may be unmounted for a while, and the dumps go on. It warns
    of dumps there that this server, if it is a new one, doesn't know yet.

    .. code-block:: yaml

        mirror:
          amanda.mirror_usable
    """

    warnings = []

    def plan():
        settings, platform = _settings(), amanda_platform.detect()
        amanda_host.check_mirror(settings.mirror, platform)
        told = [amanda_fresh.awaited(settings, name, platform) for name in settings.configs]
        warnings.extend(filter(None, told))
        return {}

    done = _converge(name, plan, None)
    return {**done, "warnings": warnings} if warnings else done


def server_key(name):
    """Make the server's SSH key if there is none, and publish its public half to the mine.

    Needs no package: clients that are set up at the same time wait for it.

    .. code-block:: yaml

        server's SSH key:
          amanda.server_key
    """

    def plan():
        changes = {}
        if not amanda_layout.SSH_KEY.exists():
            changes["key"] = {"old": None, "new": str(amanda_layout.SSH_KEY)}
        if not changes and not _is_published("ssh_public_key"):
            changes["mine"] = {"old": None, "new": "amanda.ssh_public_key"}
        return changes

    def act():
        amanda_files.apply([amanda_files.Managed(amanda_layout.SETTINGS, mode=0o755)])
        amanda_ssh.ensure_key(amanda_layout.SSH_KEY)
        _publish("ssh_public_key")

    return _converge(name, plan, act)


def dump_user(name):
    """Give the dump user a shell, which Amanda's forced SSH command needs, and a root-owned .ssh.

    On the server his copy of the server's key is installed, too.

    .. code-block:: yaml

        dump user:
          amanda.dump_user
    """
    platform = amanda_platform.detect()
    shell = "/bin/sh"

    def wanted():
        if _settings().is_server and amanda_layout.SSH_KEY.exists():
            return amanda_provision.server_ssh(platform)
        return amanda_provision.dump_user(platform)

    def plan():
        account = __salt__["user.info"](platform.user)
        if not account:
            raise _NotYet(f"the packages make the user {platform.user}")
        changes = amanda_files.differences(wanted())
        if _settings().is_server and not amanda_layout.SSH_KEY.exists():
            # The state server_key makes it: under test=True that is still to come.
            path = str(platform.home / amanda_layout.SSH_KEY_INSTALLED)
            changes[path] = {"old": None, "new": f"{platform.user}:{platform.group} 0400"}
        if account["shell"] != shell:
            changes["shell"] = {"old": account["shell"], "new": shell}
        return changes

    def act():
        __salt__["user.chshell"](platform.user, shell)
        amanda_files.apply(wanted())

    return _converge(name, plan, act)


def hardened(name):
    """Leave Amanda only the power it needs: to read every file, and nothing else.

    Its programs lose their setuid bits, a tar of the dump user's group may read all files
    instead, no inetd service answers, and its directory in ``/tmp`` is made before any user of the
    host can. See :mod:`amanda_hardening` and :mod:`amanda_tmpdir`.

    .. code-block:: yaml

        hardened Amanda:
          amanda.hardened
    """

    def plan():
        if not Path(amanda_platform.detect().libexec, "amandad").exists():
            raise _NotYet("Amanda is not installed")
        return amanda_hardening.differences()

    return _converge(name, plan, amanda_hardening.apply)


def client_programs(name):
    """Install what Amanda runs on a client: the compressor and the tar for incrementals.

    .. code-block:: yaml

        Amanda client programs:
          amanda.client_programs
    """
    modules = amanda_provision.modules(_ENGINE, amanda_provision.CLIENT_MODULES)
    wanted = _programs(amanda_provision.CLIENT_PROGRAMS, modules)

    def act():
        amanda_files.apply(wanted())
        amanda_provision.check_incremental_tar(amanda_platform.detect())

    return _converge(name, lambda: amanda_files.differences(wanted()), act, deferrable=True)


def engine(name):
    """Install the engine that backs up, the filters and the labeller, apart from Salt's cache.

    A sync of modules can happen in the middle of a run; this state waits for its end.

    .. code-block:: yaml

        Amanda engine:
          amanda.engine
    """
    wanted = _programs(amanda_provision.SERVER_PROGRAMS, amanda_provision.engine(_ENGINE))
    return _files(name, wanted, deferrable=True)


def _programs(paths, modules):
    """Return the function that lists programs of ours and the engine's modules they need."""
    return lambda: [*amanda_provision.programs(paths, _source, sys.executable), *modules]


def encryption_keys(name):
    """Make the keys that dumps are sealed with, if there never were any.

    Nothing overwrites or removes one. In the place of one that is lost another is made only if the
    file :data:`amanda_layout.NEW_KEY` asks for it; without that the state fails.

    .. code-block:: yaml

        encryption keys:
          amanda.encryption_keys
    """
    platform = amanda_platform.detect()

    def wanted():
        settings = _settings()
        every = [amanda_layout.places(config, settings.paths) for config in settings.configs]
        return settings.encryption, platform, any(map(amanda_fresh.has_begun, every))

    result = _converge(
        name,
        lambda: amanda_encryption.differences(*wanted()),
        lambda: amanda_encryption.ensure(*wanted()),
    )
    if result["result"] is False:
        return result
    surplus = amanda_encryption.surplus(_settings().encryption)
    return {**result, "warnings": [surplus]} if surplus else result


def config(name, source):
    """Write an Amanda config's amanda.conf and make its directories.

    Amanda parses the new file before it replaces the one in use. It is not replaced while tapes
    that hold dumps are still where the old one says, and no longer where the new one would.

    name
        The config's name, a key of pillar ``backup:configs``.
    source
        The template, a ``salt://`` URL.

    .. code-block:: yaml

        daily:
          amanda.config:
            - source: salt://backup/files/amanda.conf.jinja
    """
    platform = amanda_platform.detect()

    def wanted():
        settings = _settings()
        amanda_host.check_unclaimed(settings, name, platform)
        text = amanda_conf.render(
            _source(source).decode(), settings, settings.config(name), platform
        )
        return amanda_provision.config(settings, name, platform, text)

    def plan():
        files = wanted()
        if not shutil.which("amgetconf"):
            raise _NotYet("Amanda's server package is not installed")
        changes = amanda_files.differences(files)
        if str(files[-1].path) in changes:
            _check_config(name, files[-1].content.decode(), platform.user)
        return changes

    return _converge(name, plan, lambda: amanda_files.apply(wanted()), deferrable=True)


def _check_config(name, text, user):
    """Raise unless Amanda can read this amanda.conf and what was dumped is where it says."""
    settings = _settings()
    config = settings.config(name)
    amanda_conf.check(text, user, config)
    places = amanda_layout.places(name, settings.paths)
    amanda_former.check_moved(places, config.slots, user)


def client_config(name):
    """Write amanda-client.conf.

    .. code-block:: yaml

        amrecover's configuration:
          amanda.client_config
    """
    platform = amanda_platform.detect()
    return _files(name, lambda: amanda_provision.client_config(_settings(), platform))


def mail_alias(name):
    """Send the dump user's mail to pillar ``backup:mailto``, root by default.

    .. code-block:: yaml

        mail for the dump user:
          amanda.mail_alias
    """
    user = amanda_platform.detect().user

    def plan():
        target = _settings().mailto
        current = __salt__["aliases.get_target"](user) or None
        return {} if current == target else {user: {"old": current, "new": target}}

    return _converge(name, plan, lambda: __salt__["aliases.set_target"](user, _settings().mailto))


def labelled(name):
    """Make and label a config's virtual tapes; the number may grow and shrink.

    A tape with data is never touched. A slot with foreign data is refused, nothing changed.

    name
        The config's name, a key of pillar ``backup:configs``.

    .. code-block:: yaml

        daily:
          amanda.labelled
    """
    user = amanda_platform.detect().user

    def place():
        settings = _settings()
        return amanda_layout.places(name, settings.paths), settings.config(name).slots

    def plan():
        places, slots = place()
        wanted = amanda_tapes.plan(places, slots, user)
        if wanted.refusals:
            raise AmandaError("; ".join(wanted.refusals))
        return _tape_changes(name, wanted)

    def act():
        places, slots = place()
        amanda_tapes.apply(places, slots, user)

    return _converge(name, plan, act, deferrable=True)


def _tape_changes(config, wanted):
    """Return a plan of tapes as bounded ``changes``: a thousand labels are one line."""
    changes = {}
    for verb, numbers, old, new in (
        ("label", wanted.label, None, "labelled"),
        ("drop", wanted.drop, "unused", None),
    ):
        if numbers:
            first, last = (
                amanda_tapes.label(config, number) for number in (numbers[0], numbers[-1])
            )
            span = first if len(numbers) == 1 else f"{len(numbers)} tapes, {first} to {last}"
            changes[f"{verb} {span}"] = {"old": old, "new": new}
    if wanted and not changes:
        changes["slots"] = {"old": None, "new": f"{len(wanted.make)} made"}
    return changes


def settings_kept(name):
    """Keep the settings of this apply: while the pillar is broken, runs and restores use them.

    To be required to come after all that they ask for.

    .. code-block:: yaml

        settings of the last good apply:
          amanda.settings_kept
    """
    return _files(name, lambda: amanda_applied.files(_settings()), deferrable=True)


def scheduled(name):
    """Have Salt's scheduler look every ten minutes, and at start, whether a run is due.

    The times are those of ``cron`` in the configs of the pillar, compared with when each ran
    last; so a missed run is made up for, once.

    .. code-block:: yaml

        scheduled backups:
          amanda.scheduled
    """
    return _schedule(name, "amanda.run_due", minutes=10)


def published(name):
    """Publish to the mine what the server needs to know of this client, and again every hour.

    .. code-block:: yaml

        published to the server:
          amanda.published
    """

    def plan():
        return {
            f"amanda.{what}": {"old": None, "new": "published"}
            for what in _PUBLISHED
            if not _is_published(what)
        }

    done = _converge(name, plan, lambda: _publish(*_PUBLISHED))
    if done["result"] is False:
        return done
    return _joined(name, done, _schedule(name, "amanda.publish", hours=1))


def _schedule(name, function, **interval):
    """Converge on a job of the minion's own schedule."""
    job = {"function": function, "run_on_start": True, "maxrunning": 1, **interval}
    offline = _no_minion()

    def plan():
        current = _jobs(offline).get(function) or {}
        # What a job has more, but for what Salt itself notes in it, changes when it runs.
        wanted = {key: None for key in _INTERVALS} | job
        differs = {key: value for key, value in wanted.items() if current.get(key) != value}
        return {function: {"old": current or None, "new": job}} if differs else {}

    def act():
        # schedule.add refuses a name that is there, and schedule.modify keeps what it isn't given.
        if function in _jobs(offline):
            __salt__["schedule.delete"](function, persist=True, offline=offline)
        answer = __salt__["schedule.add"](function, persist=True, offline=offline, **job)
        if not answer["result"]:
            raise AmandaError(f"the schedule does not take {function}: {answer['comment']}")

    done = _converge(name, plan, act)
    if offline and done["result"] is not False:
        done["comment"] += (
            " No salt-minion runs here: the job starts with one that does. Without a master, "
            "give it 'master_type: disable'."
        )
    return done


def _no_minion():
    """Tell whether this is salt-call on a host whose minion isn't running: nobody schedules."""
    return __opts__.get("__cli") == "salt-call" and not __salt__["service.status"]("salt-minion")


def _jobs(offline):
    """Return the minion's own schedule jobs, by name."""
    jobs = __salt__["schedule.list"](show_all=True, return_yaml=False, offline=offline)
    return jobs or {}


def server_authorized(name, timeout=300):
    """Let the server's key run amandad, and nothing else, from the server's addresses only.

    The key comes from the mine of the minion that pillar ``backup:server`` names. If it isn't
    there yet, it is awaited.

    timeout
        Seconds to wait.

    .. code-block:: yaml

        server's key authorized:
          amanda.server_authorized:
            - timeout: 300
            - order: last
    """
    platform = amanda_platform.detect()
    path = amanda_door.authorized(platform)
    deadline = time.monotonic() + timeout

    def wanted():
        settings = _settings()
        key = _server_key(settings.server)
        while key is None:
            if __opts__["test"]:
                raise _NotYet(f"the server {settings.server} has not published its key yet")
            if time.monotonic() >= deadline:
                raise AmandaError(
                    f"pillar backup:server: the minion {settings.server!r} published no SSH key "
                    f"within {timeout} s. Is that its id (salt-key -L)? Apply the state backup "
                    "there, then here again."
                )
            time.sleep(POLL)
            key = _server_key(settings.server)
        return [_authorized_keys(path, settings, key, platform)]

    def plan():
        changes = amanda_files.differences(wanted())
        if amanda_door.left_over():
            changes["delivery"] = {"old": "left behind by one that is over", "new": None}
        return changes

    def act():
        amanda_door.sweep()
        with amanda_authorized.alone():
            amanda_files.apply(wanted())

    return _converge(name, plan, act)


def _authorized_keys(path, settings, key, platform):
    text = amanda_door.shut(amanda_authorized.read(path))
    line = amanda_ssh.authorized_key(
        key["key"],
        settings.server_addresses or key["addresses"],
        platform.libexec / "amandad",
        settings.server,
        itself=settings.is_server,
    )
    return amanda_authorized.managed(path, amanda_authorized.with_line(text, line))


def withdrawn(name):
    """Take this minion out of the backup: publish nothing more and keep the server's key out.

    What the server has of it is kept until it is retired there.

    .. code-block:: yaml

        withdrawn from the backup:
          amanda.withdrawn
    """
    path = amanda_door.authorized(amanda_platform.detect())

    def closed():
        text = amanda_authorized.without_doors(amanda_authorized.read(path))
        return amanda_authorized.with_line(text, None)

    def plan():
        changes = {}
        if closed() != amanda_authorized.read(path):
            changes["server's key"] = {"old": "authorized", "new": None}
        for what in _PUBLISHED:
            if _mined(__opts__["id"], what):
                changes[f"amanda.{what}"] = {"old": "published", "new": None}
        if "amanda.publish" in _jobs(_no_minion()):
            changes["schedule"] = {"old": "amanda.publish", "new": None}
        return changes

    def act():
        with amanda_authorized.alone():
            if path.exists():
                amanda_files.apply([amanda_authorized.managed(path, closed())])
        __salt__["schedule.delete"]("amanda.publish", persist=True, offline=_no_minion())
        for what in _PUBLISHED:
            __salt__["mine.delete"](f"amanda.{what}")

    return _converge(name, plan, act)


def directory(name, exclude=None, mounts=None, config=None):
    """Have a directory of this minion backed up; for any SLS, beside what it describes.

    name
        The directory's absolute path.
    exclude
        Patterns of what to leave out, relative to it: ``./cache``, ``*.iso``.
    mounts
        ``include`` to go into file systems mounted below it.
    config
        Which of the server's configs dumps it; by default the server's first.

    .. code-block:: yaml

        /srv/wiki:
          amanda.directory:
            - exclude: ['./cache']
    """
    given = {"exclude": exclude, "mounts": mounts, "config": config}

    def wanted():
        options = {key: value for key, value in given.items() if value is not None}
        try:
            amanda_directories.check_length(__opts__["id"], name, "amanda.directory")
            return dict(amanda_directories.directory(name, options, "amanda.directory").options)
        except PillarError as error:  # it is no pillar, but an SLS that is wrong
            raise AmandaError(f"{error.key}: {error.problem}. {error.remedy}") from error

    return _own_directory(name, wanted)


def directory_absent(name):
    """Take back what :func:`directory` added; earlier dumps are kept until they are retired.

    name
        The directory's absolute path.

    .. code-block:: yaml

        /srv/wiki:
          amanda.directory_absent
    """
    return _own_directory(name, lambda: None)


def _own_directory(name, wanted):
    """Converge this client's own entry for *name* on *wanted()*, None for no entry."""

    def plan():
        options = wanted()
        own = amanda_directories.read()
        if options is None and name not in own:
            return {}
        # Without the pillar nothing of this minion is backed up, which is an error here.
        is_client = _settings().is_client
        if own.get(name) != options or options is None:
            return {name: {"old": own.get(name), "new": options}}
        if is_client and not _is_published("directories"):
            return {"mine": {"old": None, "new": "amanda.directories"}}
        return {}

    def act():
        own = amanda_directories.read()
        options = wanted()
        if options is None:
            del own[name]
        else:
            own[name] = options
        amanda_directories.write(own)
        if _settings().is_client:
            # On a minion that isn't set up yet the rest follows with the state published.
            _publish("directories")

    return _converge(name, plan, act)
