"""Calls that run with another user's rights, in a child process of their own.

Tapes belong to the dump user and a mirror to its own user; on an export that squashes root, root
can't even look at what is theirs. So root asks a child that has become that user: it answers in
JSON, and hands over files that it opened, by SCM_RIGHTS. Nothing it says is ever evaluated.
"""

import contextlib
import errno
import json
import os
import signal
import socket
import stat
import struct
import time

from amanda_command import credentials
from amanda_errors import AmandaError

MOST_FILES = 200
"""How many open files one call may take or hand over; Linux stops at 253."""

MOST_BYTES = 256 << 20
"""How large a file may be that :func:`open_owned` opens; the log of a great run has a few MB."""

_LAST_WAIT = 5  # seconds that a child which was killed has to end

_LENGTH = struct.Struct("!Q")


def as_user(user, function, *arguments, files=(), hands_over=False, progress=None, patience=None):
    """Return what ``function(*arguments)`` returns, called in a child with the rights of *user*.

    user
        A login name; None, or the caller's own, changes nothing. Another needs root.
    function
        Must return what JSON can hold; it is called after all other open files were closed.
    files
        File descriptors that the child keeps, under the same numbers.
    hands_over
        The function returns a pair: its answer, and file descriptors for the caller. The call
        then gives that pair.
    progress
        Called in this process with each value that the child reports; the function is then given
        ``report=``, which takes the value.
    patience
        Seconds without a word from the child after which it is given up; None waits for ever.

    Raises :class:`~amanda_errors.AmandaError` or :class:`OSError` if the function did, and
    :class:`~amanda_errors.AmandaError` if *user* doesn't exist or the child died; and
    :class:`TimeoutError` if it was given up.
    """
    try:
        account = credentials(user)  # here, not in the child: it may ask LDAP
    except KeyError:
        raise AmandaError(f"there is no user {user!r} on this host") from None
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        _child(
            theirs,
            account,
            function,
            arguments,
            files,
            hands_over,
            progress is not None,
        )
    theirs.close()
    received = []
    try:
        with ours:
            ours.settimeout(patience)
            answer = _listen(ours, received, progress)
    except BaseException:
        _close(received)
        _give_up(child)
        raise
    status = _wait(child, patience)
    return _unwrap(answer, received, hands_over, user, status)


def _wait(child, seconds=None):
    """Return the child's wait status; None if it isn't had.

    Someone else in this process may have asked first, or the child hasn't ended after so many
    *seconds*: who sleeps until a file server answers can't even be killed.
    """
    end = None if seconds is None else time.monotonic() + seconds
    pause = 0.001
    try:
        while True:
            ended, status = os.waitpid(child, 0 if end is None else os.WNOHANG)
            if ended:
                return status
            if time.monotonic() >= end:
                return None
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
    except ChildProcessError:
        return None


def _give_up(child):
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _wait(child, _LAST_WAIT)


def _listen(connection, received, progress):
    """Pass on what the child reports; return its answer, or None if it ended without one."""
    while (message := _receive(connection, received)) is not None:
        if "progress" not in message:
            return message
        progress(message["progress"])
    return None


def _unwrap(answer, received, hands_over, user, status):
    if answer is None or "result" not in answer:
        _close(received)
    if answer is None:
        raise AmandaError(
            f"the process that worked as {user or 'this user'} ended without an answer "
            f"(wait status {status})"
        )
    if "error" in answer:
        raise AmandaError(answer["error"])
    if "errno" in answer:
        raise OSError(answer["errno"], os.strerror(answer["errno"]), answer["path"])
    return (answer["result"], received) if hands_over else answer["result"]


def _child(connection, account, function, arguments, files, hands_over, reports):
    """Become the user, call the function, answer, and end, whatever happens."""
    status = 1
    options = {"report": lambda value: _send(connection, {"progress": value})} if reports else {}

    def work():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        _keep_only({0, 1, 2, connection.fileno(), *files})
        _become(account)
        result = function(*arguments, **options)
        return result if hands_over else (result, [])

    try:
        _send(connection, *_answer(work, function.__name__))
        status = 0
    finally:
        os._exit(status)


def _keep_only(files):
    low = 0
    for number in [*sorted(files), os.sysconf("SC_OPEN_MAX")]:
        if low < number:  # closerange(0, 0) would close all of them
            os.closerange(low, number)
        low = number + 1


def _become(account):
    """Give up root for good: groups first, since only root may set them."""
    os.chdir("/")
    os.umask(0o077)
    if account and account["user"] != os.geteuid():
        os.setgroups(account["extra_groups"])
        os.setresgid(account["group"], account["group"], account["group"])
        os.setresuid(account["user"], account["user"], account["user"])


def _answer(work, name):
    """Return the message that tells how *work* went, and the files that go with it."""
    try:
        result, opened = work()
    except AmandaError as error:
        return {"error": str(error)}, []
    except OSError as error:
        if error.errno is None:
            return {"error": f"{type(error).__name__}: {error}"}, []
        path = error.filename if isinstance(error.filename, str) else None
        return {"errno": error.errno, "path": path}, []
    except Exception as error:
        return {"error": f"{name} failed: {type(error).__name__}: {error}"}, []
    return {"result": result}, opened


def _send(connection, message, files=()):
    body = json.dumps(message).encode()
    head = _LENGTH.pack(len(body))
    if files:  # they travel with the first bytes, so they are there when the message is complete
        socket.send_fds(connection, [head], list(files))
    else:
        connection.sendall(head)
    connection.sendall(body)


def _receive(connection, received):
    head = _exactly(connection, _LENGTH.size, received)
    if head is None:
        return None
    body = _exactly(connection, _LENGTH.unpack(head)[0], received)
    return None if body is None else json.loads(body)


def _exactly(connection, size, received):
    data = bytearray()
    while len(data) < size:
        chunk, files, _, _ = socket.recv_fds(connection, min(size - len(data), 1 << 20), MOST_FILES)
        received += files
        if not chunk:
            return None
        data += chunk
    return bytes(data)


def _close(files):
    for number in files:
        with contextlib.suppress(OSError):
            os.close(number)


def hand_over(paths):
    """Open files for the caller of :func:`as_user`: no answer, and the files."""
    opened = []
    for path in paths:
        with open_regular(path) as stream:
            opened.append(os.dup(stream.fileno()))
    return None, opened


def open_regular(path):
    """Open the file *path* for reading; no link, no device, nothing that could block."""
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(number, "rb", buffering=0)


def open_owned(path, top):
    """Open the file *path* of whoever owns the directory *top* for reading; no other's file.

    The dump user can put links, pipes and whatever is large below his directories, in a
    directory's place too; what he can't is make another's file his own.

    top
        A directory above *path*, that is no link.

    Returns an unbuffered stream of no more than :data:`MOST_BYTES`. Raises :class:`OSError`.
    """
    owner = os.lstat(top)
    if not stat.S_ISDIR(owner.st_mode):
        raise OSError(errno.ENOTDIR, f"{top} is not a directory", str(path))
    stream = open_regular(path)
    status = os.fstat(stream.fileno())
    problem = None
    if status.st_uid != owner.st_uid:
        problem = errno.EPERM, f"it belongs to another user than {top}"
    elif status.st_size > MOST_BYTES:
        problem = errno.EFBIG, f"it is too large, over {MOST_BYTES} bytes"
    if problem:
        stream.close()
        raise OSError(*problem, str(path))
    return stream
