"""Whether the server can reach its clients over SSH, and if not, why, in words.

Amanda says the same of a host that is powered off, refuses the connection or shows a strange key
("EOF on read from web1"): the reason stands on ssh's stderr alone. So each host is asked as
Amanda asks, with the same user, key and ssh configuration, all hosts at a time.
"""

import concurrent.futures
import dataclasses
import re
import subprocess
import threading

import amanda_command
from amanda_errors import CommandError

SECONDS = 10
"""How long a host may take to answer; a fleet on one site needs milliseconds."""

_AT_A_TIME = 50
_BOUND = 65536  # bytes of stderr that are read; what a host says after that can't matter
_LINE = 300


@dataclasses.dataclass(frozen=True)
class Reach:
    """What asking one host gave.

    host, address, port
        Its name in the disklist, and where ssh's configuration says it is.
    problem
        None if ``amandad`` could be started there; else one of ``timeout``, ``route``,
        ``refused``, ``hung``, ``changed-key``, ``unknown-key``, ``denied``, ``name``, ``closed``,
        ``amandad`` and ``other``.
    message
        The problem in words, with a remedy; "" if there is none.
    detail
        What ssh itself said last.
    """

    host: str
    address: str
    port: int
    problem: str | None
    message: str
    detail: str


# In this order: the first that matches ssh's stderr says what is wrong. OpenSSH 8.4 to 9.9.
_PROBLEMS = (
    (
        "changed-key",
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "{host} shows another SSH host key than the one it published. If it was installed anew, "
        "apply the state backup on it; if not, another machine answers in its place",
    ),
    (
        "unknown-key",
        r"No \S+ host key is known for|Host key verification failed",
        "the SSH host key of {host} is not known here: apply the state backup on it, so that it "
        "publishes its key",
    ),
    (
        "denied",
        r"Permission denied|Too many authentication failures",
        "{host} does not accept this server's SSH key: apply the state backup on it",
    ),
    (
        "name",
        r"Could not resolve hostname",
        "the name {address} of {host} can't be resolved: apply the state backup on it, so that "
        "it publishes its address",
    ),
    (
        "refused",
        r"Connection refused",
        "{host} refuses connections on {where}: is its SSH daemon running?",
    ),
    (
        "hung",
        r"timed out during banner exchange",
        "{host} takes connections on {where}, but its SSH daemon does not answer: is it "
        "overloaded, or hung?",
    ),
    (
        "timeout",
        r"connect to host .*: Connection timed out|connect to host .*: Operation timed out",
        "{host} does not answer on {where} (timed out): is it powered on?",
    ),
    (
        "route",
        r"No route to host|Network is unreachable|Host is down",
        "{host} does not answer on {where} (no route to it): is it powered on?",
    ),
    (
        "closed",
        r"Connection closed by|Connection reset by|kex_exchange_identification|Broken pipe",
        "{host} closes connections on {where} at once: see its SSH daemon's log",
    ),
)


def probe(hosts, user, seconds=SECONDS):
    """Ask each of *hosts* and return ``{host: Reach}``, in their order.

    hosts
        Host names of the disklist.
    user
        The dump user, whose ssh configuration and key are used; None is the caller.
    seconds
        How long each may take.
    """
    hosts = list(dict.fromkeys(hosts))
    if not hosts:
        return {}
    with concurrent.futures.ThreadPoolExecutor(min(len(hosts), _AT_A_TIME)) as pool:
        answers = pool.map(lambda host: ask(host, user, seconds), hosts)
        return dict(zip(hosts, answers, strict=True))


def ask(host, user, seconds=SECONDS):
    """Return the :class:`Reach` of one host."""
    try:
        address, port = _where(host, user)
    except CommandError as error:
        return Reach(host, "", 0, "other", f"ssh can't be asked about {host}: {error}", "")
    argv = ["ssh", "-x", "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={seconds}"]
    # A connection that another process keeps open would answer for a host that is gone.
    argv += ["-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "ConnectionAttempts=1"]
    # The client's forced command is amandad, whatever is asked for; at the end of its input it
    # leaves with status 0.
    argv += ["--", host, "true"]
    status, said = _bounded(argv, user, seconds + 2)
    return interpret(host, address, port, status, said, seconds)


def interpret(host, address, port, status, said, seconds=SECONDS):
    """Return the :class:`Reach` that ssh's exit *status* and stderr mean.

    status
        None if it had to be killed for taking too long; negative if something else killed it.
    said
        ssh's stderr, text; what the host itself sends to stderr is in it.
    """
    lines = [_printable(line) for line in said.splitlines() if line.strip()]
    detail = lines[-1] if lines else ""
    where = f"{address} port {port}"
    if status == 0:
        return Reach(host, address, port, None, "", "")
    if status is not None and status < 0:
        message = (
            f"ssh to {host} on {where} was killed on this server (signal {-status}): try again"
        )
        return Reach(host, address, port, "other", message, detail)
    if status not in (None, 255):
        message = f"{host} lets this server in but can't start amandad there (status {status})"
        message += f": {detail}" if detail else ""
        message += ". Apply the state backup on it"
        return Reach(host, address, port, "amandad", message, detail)
    for problem, pattern, message in _PROBLEMS:
        if re.search(pattern, said):
            text = message.format(host=host, address=address, where=where)
            return Reach(host, address, port, problem, text, detail)
    if status is None:
        message = f"{host} took the connection on {where} but did not finish within {seconds} s: "
        message += "is it overloaded, or hung?"
        return Reach(host, address, port, "hung", message, detail)
    message = f"ssh to {host} on {where} failed: {detail or 'it did not say why'}"
    return Reach(host, address, port, "other", message, detail)


def _where(host, user):
    """Return the address and port that ssh's configuration has for *host*."""
    argv = ["ssh", "-G", "--", host]
    lines = amanda_command.run(argv, user=user, timeout=SECONDS).stdout.decode().splitlines()
    options = dict(line.partition(" ")[::2] for line in lines)
    try:
        return options["hostname"], int(options["port"])
    except (KeyError, ValueError):
        raise CommandError(argv, 0, "it names no host or port") from None


def _bounded(argv, user, seconds):
    """Run *argv* for *seconds* at most; return its status (None: killed) and stderr, bounded."""
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with amanda_command.popen(argv, user, **streams) as process:
        expired = threading.Event()

        def expire():
            expired.set()
            process.kill()

        timer = threading.Timer(seconds, expire)
        timer.start()
        try:
            said = process.stderr.read(_BOUND)
            if len(said) == _BOUND:
                process.kill()
            status = process.wait()
        finally:
            timer.cancel()
    return None if expired.is_set() else status, said.decode(errors="replace")


def _printable(line):
    return "".join(char if char.isprintable() else "?" for char in line.strip())[:_LINE]
