"""What the bed knows of Salt: configuration, jobs and their answers."""

import fnmatch
import io
import json
import select
import subprocess

from tests.testbed.command import BedError

PYTHON = "/opt/saltstack/salt/bin/python"
MASTER = "master"


class SaltError(BedError):
    """A job failed on some minion, or a minion did not return; ``data`` has what came."""

    def __init__(self, message: str, data: dict):
        super().__init__(message)
        self.data = data


def master_config(pillar: str) -> str:
    """Return the master's configuration, with ``pillar`` as the pillar's root."""
    return json.dumps(
        {
            "file_roots": {"base": ["/checkout/salt"]},
            "pillar_roots": {"base": [pillar]},
            # Edits count at once: the default keeps lists of files for 20 s.
            "fileserver_list_cache_time": 0,
            "worker_threads": 3,
            # A minion that is off costs this and as much again, when the command asks it twice.
            "timeout": 10,
            "gather_job_timeout": 10,
        },
        indent=1,
    )


def minion_config(name: str, master: str) -> str:
    """Return the configuration of the minion ``name`` of the master at that address."""
    return json.dumps(
        {
            "id": name,
            "master": master,
            "master_tries": -1,
            "acceptance_wait_time": 1,
            "random_reauth_delay": 1,
            "recon_default": 200,
            "recon_max": 1000,
            # Nothing here answers a query for a name.
            "enable_fqdns_grains": False,
        },
        indent=1,
    )


def lone_config(name: str) -> str:
    """Return the configuration of a minion without a master, for salt-call."""
    return json.dumps(
        {
            "id": name,
            "file_client": "local",
            "file_roots": {"base": ["/checkout/salt"]},
            "pillar_roots": {"base": ["/checkout/pillar"]},
            "enable_fqdns_grains": False,
        },
        indent=1,
    )


def targeted(target: str, minions: list[str]) -> list[str]:
    """Return which of the minions ``target``, a glob or a comma list, names."""
    if "," in target:
        return target.split(",")
    return fnmatch.filter(minions, target)


def job(target: str, function: str, arguments: tuple, options: dict) -> dict:
    """Return the arguments of LocalClient.cmd for a job on ``target``, a glob or a comma list."""
    kind = "list" if "," in target else "glob"
    work = {"tgt": target, "fun": function, "arg": list(arguments), "kwarg": options}
    return {**work, "tgt_type": kind}


def insist(answers: dict, expected: list[str]) -> None:
    """Raise SaltError unless every expected minion answered, and none failed.

    answers
        ``{minion: {"ret": …, "retcode": …}}``, as LocalClient.cmd returns them.
    """
    data = {minion: answer["ret"] for minion, answer in answers.items()}
    if not expected:
        raise SaltError("no minion of the bed has such a name", data)
    silent = [name for name in expected if name not in data]
    if silent:
        raise SaltError(f"no answer from {', '.join(silent)}", data)
    failed = [name for name, answer in answers.items() if answer["retcode"]]
    if failed:
        raise SaltError(f"failed on {', '.join(failed)}:\n{json.dumps(data, indent=1)}", data)


def is_silence(answer: dict) -> bool:
    """Tell whether Salt stands this in for a minion that did not return."""
    return str(answer["ret"]).startswith("Minion did not return")


class Client:
    """What does jobs on a master; see jobs.py.

    argv
        The command of the machine that runs it.
    """

    def __init__(self, argv: list[str]):
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
        self._process = subprocess.Popen(argv, stderr=subprocess.DEVNULL, **streams)
        self._answers = io.BufferedReader(self._process.stdout)

    def alive(self) -> bool:
        """Tell whether it still runs: its master may have been powered off."""
        return self._process.poll() is None

    def do(self, work: dict, timeout: float) -> dict:
        """Do a job and return what each minion answered; see :func:`insist`."""
        self._process.stdin.write(json.dumps(work).encode() + b"\n")
        if not select.select([self._answers], [], [], timeout)[0]:
            raise BedError(f"{work['fun']} on {work['tgt']}: no end after {timeout} s")
        line = self._answers.readline()
        if not line:
            raise BedError(f"{work['fun']} on {work['tgt']}: the master's client ended")
        answers = json.loads(line)
        if "error" in answers:
            raise BedError(f"{work['fun']} on {work['tgt']}: {answers['error']}")
        return {minion: answer for minion, answer in answers.items() if not is_silence(answer)}

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._answers.close()
