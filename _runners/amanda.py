"""What takes several minions at once: files from the Amanda server to where they are needed.

The server's key may run amandad on a client and nothing else, and no client has a key for the
server. So the master goes between them: the server restores, the other minion opens a door for
this one delivery, the server sends, and what came is put in place only if it is what was sent.
Each function asks minions and returns data.
"""

import contextlib
import datetime
import fcntl
import hashlib
import os
import secrets
import signal
import sys
import threading
import time

import amanda_audit
import amanda_findings
import amanda_mail
import salt.cache
import salt.client
import salt.exceptions
import salt.utils.event
import salt.utils.minions
from amanda_errors import AmandaError
from salt.exceptions import CommandExecutionError, SaltInvocationError

__virtualname__ = "amanda"

_DAY = 86400  # seconds
_WORDS = 2000  # characters of a minion's error that are passed on


def __virtual__():
    return __virtualname__


class Failed(salt.exceptions.NotImplemented):
    """What failed, in words.

    Of any other exception of a runner Salt shows the traceback (salt/client/mixins.py, ``low``).
    """


@contextlib.contextmanager
def _in_words():
    try:
        with _hung_up_as_interrupted():
            yield
    except salt.exceptions.SaltException as error:
        raise Failed(str(error)) from error
    except SystemExit as error:  # the salt-run command was interrupted
        raise Failed("broken off: nothing was delivered, and nothing of it is left") from error


@contextlib.contextmanager
def _hung_up_as_interrupted():
    """End this block as an interrupt does if the terminal goes away; Salt itself would just die."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, lambda number, frame: sys.exit(1))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def recover(
    host,
    path,
    to=None,
    at=None,
    into=None,
    source="tapes",
    config=None,
    generation=None,
    identity=None,
    directory=None,
    server=None,
):
    """Restore a file, a directory or a whole DLE of a client into a directory of a minion.

    It is never put over what is there: look at it, then move it where it belongs. Nothing of it
    stays on the server. How far it is, events tell: ``salt-run state.event 'salt/amanda/*'``.

    host, path, at, source, config, generation
        As for ``amanda.recover`` on the server, which this does first.
    to
        The minion that is to have it, a client of the server. Default: *host*.
    into
        A directory there that is empty or absent, in one that exists and that root alone can
        change. Default: a new one below ``/var/lib/salt-amanda/recovered``.
    identity
        The path, on the server, of a file with an offsite age identity, as for ``amanda.recover``.
    directory
        Where there is room on the server meanwhile. Default: ``/var/lib/salt-amanda/recovered``.
    server
        The server's minion id. Default: what the pillar of *to* says.

    Returns what ``amanda.recover`` does, with ``to``, and ``restored`` and ``manifest`` there.

    CLI Example:

    .. code-block:: bash

        salt-run amanda.recover web1 /home/ada at=2026-11-20T18:00
        salt-run amanda.recover web1 /home/ada to=db1 into=/srv/ada
    """
    with _in_words(), _Minions() as minions:
        to = _minion(to or host, "to")
        server = _minion(server or _server_of(to), "server")
        minions.ask(to, "receive", server, into=into)  # before a long restore, not after it
        options = {"source": source, "config": config, "generation": generation}
        options.update(at=at, identity=identity, directory=directory)
        with _offered(minions, server, host, path, to, **options) as offer:
            of = _restored(server, offer)
            told = _deliver(minions, server, to, _parcel(offer, host), into)
        destination, manifest = (_text(to, told, key) for key in ("destination", "manifest"))
    base = of["restored"].rpartition("/")[2]
    answer = {**of, "to": to, "restored": f"{destination}/{base}", "manifest": manifest}
    answer["message"] = f"{path} of {host} as of {of['as_of']} is on {to}: {answer['restored']}"
    if of["missing"]["count"]:
        answer["message"] += f". {of['missing']['count']} names in it are in no dump: see missing"
    return answer


def drill(
    to,
    host=None,
    path=None,
    sample=3,
    source="mirror",
    config=None,
    generation=None,
    identity=None,
    directory=None,
    server=None,
):
    """Try restores as ``amanda.drill`` does, and deliver them to a minion, which compares them.

    Compared are those of its own files that haven't changed since the dump. What was delivered is
    removed again. The server keeps the result, and ``amanda.status`` there shows it. The minion
    judges by itself: of one that is an attacker's the server's own drill says more.

    to
        The minion.
    host
        Whose directories. Default: its own.
    path, sample, source, config, generation, identity, directory
        As for ``amanda.drill``.
    server
        The server's minion id. Default: what the pillar of *to* says.

    Returns what ``amanda.drill`` does; ``delivered_to`` says who compared a
    directory.

    CLI Example:

    .. code-block:: bash

        salt-run amanda.drill to=web1 sample=all
    """
    options = {"source": source, "config": config, "generation": generation, "identity": identity}
    with _in_words(), _Minions() as minions:
        to = _minion(to, "to")
        server = _minion(server or _server_of(to), "server")
        _ready_for_drill(minions, server, to, config)
        asked = {"host": host or to, "path": path, "sample": sample}
        names = minions.ask(server, "drill_names", **asked, **options)
        options.update(directory=directory, drill=True)
        done = [_drill_one(minions, server, to, name, options) for name in names]
        result = minions.ask(server, "drill_record", done, config=config, fails=True)
    # salt-run takes its exit status from the result
    return result if result["success"] else {**result, "retcode": 2}


def audit(server=None):
    """Tell who is not backed up, what is stale, and who is silent, the worst first.

    It asks no minion: it goes by the pillar, by what minions published in the mine, and by the last
    that each Amanda server said of its backups, which this master keeps. So it speaks when a server
    is silent. What was found and wasn't by the last audit, or is gone again, is an event:
    ``salt/amanda/<server>/audit/found`` or ``gone``, with the finding.

    server
        Only what this Amanda server is responsible for.

    One audit waits for another to end. The exit status is that of the Nagios plugins: 0 all is
    well, 1 a warning, 2 critical, 3 it could not be found out. With ``--out=json`` and its like
    each of ``findings`` is data.

    CLI Example:

    .. code-block:: bash

        salt-run amanda.audit
        salt-run --out=json amanda.audit server=backup-server
    """
    try:
        with _Master() as master:
            now = datetime.datetime.now(datetime.timezone.utc)
            findings = amanda_audit.audit(master.known(), now, server)
            master.tell(findings, server)
    except Exception as error:  # a monitoring system must not take a failure for a warning
        return {"status": "UNKNOWN", "retcode": 3, "message": f"UNKNOWN: {error}", "findings": []}
    outcome = amanda_findings.outcome(findings)
    if __opts__.get("output") not in (None, "nested", "highstate"):
        outcome["findings"] = findings
    return outcome


class _Master:
    """What this master knows of its minions, and remembers of audits."""

    _BANK = "amanda/audit"

    def __init__(self):
        if not __opts__["minion_data_cache"]:
            raise AmandaError(
                "the master keeps neither pillar nor mine: minion_data_cache is False in its "
                "configuration"
            )
        self._cache = salt.cache.factory(__opts__)

    def __enter__(self):
        """Wait for another audit to end: what it found, it tells."""
        self._lock = open(os.path.join(__opts__["cachedir"], "amanda-audit.lock"), "w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_):
        self._lock.close()

    def known(self):
        """Return the :class:`amanda_audit.Known`."""
        minions = salt.utils.minions.CkMinions(__opts__).check_minions("*", "glob")["minions"]
        pillars, broken = _pillars(minions)
        servers = amanda_audit.Known(tuple(minions), pillars, {}, {}).servers()
        mined = __salt__["cache.mine"]("*", tgt_type="glob")
        published = {minion: _published(mined.get(minion)) for minion in minions}
        words = {server: _mine(mined.get(server), "amanda.summary") for server in servers}
        return amanda_audit.Known(
            minions=tuple(minions),
            pillars=pillars,
            published={minion: paths for minion, paths in published.items() if paths is not None},
            summaries={server: self._summary(server, word) for server, word in words.items()},
            mounts={minion: _mine(mined.get(minion), "amanda.mounts") for minion in minions},
            broken=broken,
            unreadable=frozenset(
                server
                for server, word in words.items()
                if word is not None and not amanda_audit.is_readable(word)
            ),
        )

    def _summary(self, server, word):
        """Return a server's last readable summary; it is kept, whatever becomes of the mine."""
        key = f"summary-{server}"
        if amanda_audit.is_readable(word):
            self._cache.store(self._BANK, key, word)
            return word
        return self._cache.fetch(self._BANK, key) or None

    def tell(self, findings, server):
        """Send an event for each finding that is new, or gone since the last audit."""
        new = {amanda_findings.key(finding): finding for finding in findings}
        told = self._cache.fetch(self._BANK, "findings") or {}
        asked = {name: each for name, each in told.items() if server in (None, each["server"])}
        self._cache.store(self._BANK, "findings", {**_without(told, asked), **new})
        changed = amanda_findings.changes(asked, new)
        with salt.utils.event.get_master_event(__opts__, __opts__["sock_dir"], listen=False) as bus:
            for what, finding in changed:
                bus.fire_event(finding, f"salt/amanda/{finding['server'] or 'master'}/audit/{what}")


def _without(mapping, names):
    return {name: value for name, value in mapping.items() if name not in names}


def _pillars(minions):
    """Return by minion what its pillar has below ``backup``, and why one can't be rendered."""
    rendered = __salt__["cache.pillar"]("*", tgt_type="glob")
    pillars, broken = {}, {}
    for minion in minions:
        try:
            # One that never asked for it has none yet.
            pillar = rendered.get(minion) or __salt__["pillar.show_pillar"](minion)
        except Exception as error:  # of whatever the pillar calls; the others are judged still
            pillar = {"_errors": [error]}
        pillars[minion] = pillar.get("backup")
        if pillar.get("_errors"):
            broken[minion] = "; ".join(map(str, pillar["_errors"]))
    return pillars, broken


def _mine(mined, function):
    """Return what a minion published, which may be anything; None if it published nothing."""
    entry = mined.get(function) if isinstance(mined, dict) else None
    return entry.get("__data__", entry) if isinstance(entry, dict) else entry


def _published(mined):
    """Return the paths that a minion published, or None."""
    published = _mine(mined, "amanda.directories")
    paths = published.get("directories") if isinstance(published, dict) else None
    return [str(path) for path in paths] if isinstance(paths, dict) else None


def mail(tag, data, to=None, sender=None):
    """Mail what an event tells, by this master's mail system; a reactor calls this.

    The same again is mailed after a day: what stays broken is told of every ten minutes.

    tag, data
        The event.
    to, sender
        Addresses. Default: ``amanda.mail_to`` and ``amanda.mail_from`` of the master's
        configuration, or ``root``.

    CLI Example:

    .. code-block:: bash

        salt-run amanda.mail salt/amanda/backup-server/daily/failed '{message: a try}'
    """
    with _in_words():
        try:
            message = amanda_mail.message(
                tag,
                data,
                to or __opts__.get("amanda.mail_to", "root"),
                sender or __opts__.get("amanda.mail_from", "root"),
            )
            with _once_a_day(tag, message.get_content()) as mailed:
                if not mailed:
                    amanda_mail.send(message)
        except AmandaError as error:
            raise CommandExecutionError(str(error)) from None
    return f"{'not mailed again' if mailed else 'mailed'}: {message['Subject']}"


@contextlib.contextmanager
def _once_a_day(tag, text):
    """Give whether this text about this tag was mailed within a day; note it if it is now."""
    cache, now = salt.cache.factory(__opts__), time.time()
    key = hashlib.sha256(tag.encode()).hexdigest()
    before = cache.fetch("amanda/mailed", key) or {}
    mailed = before.get("text") == text and 0 <= now - before["time"] < _DAY
    yield mailed
    if not mailed:
        cache.store("amanda/mailed", key, {"text": text, "time": now})


def _ready_for_drill(minions, server, to, config):
    """Raise if a minion can take nothing in; the server keeps that as a drill that failed."""
    try:
        minions.ask(to, "receive", server)
    except CommandExecutionError as error:
        with contextlib.suppress(CommandExecutionError):  # the first error counts
            minions.ask(server, "drill_record", [], config=config, problem=str(error))
        raise


def _drill_one(minions, server, to, name, options):
    """Return what came of one directory, as ``amanda.drill_record`` takes it."""
    try:
        return _tried(minions, server, to, name, options)
    except CommandExecutionError as error:  # it must not cost the others their results
        return {"of": None, "to": to, "name": name, "answer": str(error), "seconds": 0}


def _tried(minions, server, to, name, options):
    with _offered(minions, server, name["host"], name["disk"], to, **options) as offer:
        began, answer = time.monotonic(), None
        if "key" in offer:
            try:
                parcel = _parcel(offer, name["host"], offer.get("drill"))
                answer = _deliver(minions, server, to, parcel)
            except CommandExecutionError as error:
                answer = str(error)
    seconds = round(time.monotonic() - began, 3)
    return {"of": offer["of"], "to": to, "answer": answer, "seconds": seconds}


@contextlib.contextmanager
def _offered(minions, server, *arguments, **options):
    """Give what the server offers for this block; whatever happens, nothing of it stays there."""
    now = datetime.datetime.now(datetime.timezone.utc)
    delivery_id = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    try:
        offer = minions.ask(server, "offer", delivery_id, *arguments, **options)
        if not isinstance(offer, dict):
            raise CommandExecutionError(f"{server} doesn't say what it offers")
        yield {**offer, "id": delivery_id}
    finally:
        with contextlib.suppress(CommandExecutionError):  # the first error counts
            minions.ask(server, "withdraw", delivery_id)


def _parcel(offer, host, drill=None):
    """Return what the minion is told of an offer; what it is, is for us to say, not the server."""
    parcel = {key: offer.get(key) for key in ("id", "key", "bytes", "entries")}
    return {**parcel, "host": host, "drill": drill}


def _restored(server, offer):
    """Return what ``amanda.recover`` gave on the server, if it is that."""
    of = offer.get("of")
    try:
        of["restored"].rpartition("/")
        int(of["missing"]["count"])
        return {**of, "as_of": str(of["as_of"])}
    except (TypeError, KeyError, ValueError, AttributeError):
        raise CommandExecutionError(f"{server} doesn't say what it has restored") from None


def _deliver(minions, server, to, parcel, into=None):
    """Have the server send what it offers to a minion; return what that says of it.

    Whatever happens, the door there is shut afterwards.
    """
    try:
        minions.ask(to, "receive", server, offer=parcel, into=into)
        try:
            sent = minions.ask(server, "send", parcel["id"])
        except CommandExecutionError as error:
            reason = minions.ask(to, "refuse", parcel["id"])
            told = f"{error}. {to}: {_printable(str(reason))}" if reason else error
            raise CommandExecutionError(told) from None
        return minions.ask(to, "accept", parcel["id"], sent["sha256"])
    except BaseException:
        with contextlib.suppress(CommandExecutionError):  # the first error counts
            minions.ask(to, "refuse", parcel["id"])
        raise


class _Minions:
    """Asks minions for functions of the execution module ``amanda``, and waits for their end."""

    def __enter__(self):
        self._client = salt.client.LocalClient(mopts=__opts__)
        return self

    def __exit__(self, kind, error, trace):
        self._client.destroy()

    def ask(self, minion, function, *arguments, fails=False, **options):
        """Return what a function gives; raise CommandExecutionError in its words if it failed.

        fails
            A result that says of itself that it is a failure is one, too.
        """
        work = {"arg": arguments, "kwarg": options, "tgt_type": "list", "full_return": True}
        try:
            answers = self._client.cmd([minion], f"amanda.{function}", **work)
        except salt.exceptions.SaltClientError as error:
            raise CommandExecutionError(f"{minion} can't be asked: {error}") from None
        answer = answers.get(minion)
        if not isinstance(answer, dict) or str(answer.get("ret")).startswith("Minion did not"):
            raise CommandExecutionError(
                f"{minion} doesn't answer: is it up, and its salt-minion running? "
                f"salt {minion} test.ping"
            )
        given = answer["ret"]
        if answer.get("retcode") and not (fails and isinstance(given, dict)):
            raise CommandExecutionError(f"{minion}: {_words(given, function)}")
        return given


def _words(given, function):
    """Return what a minion says in the place of an answer, without what Salt puts before it."""
    text = str(given)
    for prefix in ("ERROR: ", f"ERROR executing 'amanda.{function}': "):
        text = text.removeprefix(prefix)
    if text.endswith("is not available."):
        text += " Apply the state backup on it"
    return _printable(text)


def _printable(text):
    """Return a text of who may be anybody as a terminal can bear it."""
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text[:_WORDS])


def _text(minion, answer, key):
    """Return a text of what a minion answered, who may be anybody."""
    value = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(value, str) or len(value) > _WORDS:
        raise CommandExecutionError(f"{minion} doesn't say where it put what it was sent")
    return _printable(value)


def _minion(minion, argument):
    """Return *minion* if the master has accepted a minion of this id."""
    known = salt.utils.minions.CkMinions(__opts__).check_minions([str(minion)], "list")
    if minion not in known["minions"]:
        raise SaltInvocationError(
            f"{minion} is no minion that this master has accepted (salt-key -L): name one with "
            f"{argument}="
        )
    return minion


def _server_of(minion):
    """Return the Amanda server that the pillar of *minion* names."""
    backup = __salt__["pillar.show_pillar"](minion).get("backup")
    server = backup.get("server") if isinstance(backup, dict) else None
    if not isinstance(server, str):
        raise SaltInvocationError(
            f"the pillar of {minion} has no backup:server, so it is no client of an Amanda server"
        )
    return server
