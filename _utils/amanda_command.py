"""The one seam through which the engine runs other programs.

Every command is a list, never a shell line; runs in a fixed locale, so that its output can be
parsed; and may run as another user, who gets neither root's environment nor root's groups.
"""

import os
import pwd
import subprocess

from amanda_errors import CommandError

SAFE_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def environment(user=None, extra=None):
    """Return the environment for a command that runs as *user* (default: the caller).

    user
        A login name; its home becomes ``HOME``.
    extra
        More variables, a mapping.
    """
    account = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    return {
        "PATH": SAFE_PATH,
        "LC_ALL": "C",
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        **(extra or {}),
    }


def credentials(user):
    """Return the :class:`subprocess.Popen` arguments that drop from root to *user*, groups too."""
    if user is None:
        return {}
    account = pwd.getpwnam(user)
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}


def popen(argv, user=None, env=None, **options):
    """Start *argv* as *user* and return the :class:`subprocess.Popen`; for pipelines.

    Standard input is empty unless *options* say otherwise, since several of Amanda's commands
    ask questions. The working directory is ``/``, which every user can read.
    """
    options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("cwd", "/")
    return subprocess.Popen(
        [os.fspath(word) for word in argv],
        env=environment(user, env),
        **credentials(user),
        **options,
    )


def run(argv, user=None, stdin=b"", env=None, timeout=None, ok=(0,), **options):
    """Run *argv* to its end and return a :class:`subprocess.CompletedProcess` of bytes.

    argv
        The command, a list of strings or paths.
    user
        Whose rights it runs with; needs root unless it is the caller.
    stdin
        Bytes for its standard input.
    timeout
        Seconds after which it is killed; None waits for ever.
    ok
        The exit statuses that are no failure; None accepts all.

    Raises :class:`CommandError` with the command's own words if the status is another, if the
    program is missing (status 127) or took longer than *timeout* (status 124).
    """
    argv = [os.fspath(word) for word in argv]
    try:
        with popen(
            argv,
            user,
            env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        ) as process:
            try:
                out, err = process.communicate(stdin, timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise CommandError(argv, 124, f"no answer within {timeout} s") from None
    except FileNotFoundError as error:
        raise CommandError(argv, 127, f"{error.filename}: {error.strerror}") from None
    if ok is not None and process.returncode not in ok:
        raise CommandError(argv, process.returncode, err.decode(errors="replace"))
    return subprocess.CompletedProcess(argv, process.returncode, out, err)
