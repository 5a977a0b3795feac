"""What the bed knows of Salt: configuration, and the salt command's words and answers."""

import fnmatch
import json

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


def words(arguments: tuple, options: dict) -> list[str]:
    """Return arguments as the salt command reads them back, with their types."""
    plain = [json.dumps(value) for value in arguments]
    return plain + [f"{name}={json.dumps(value)}" for name, value in options.items()]


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


def parse(stdout: bytes) -> dict:
    """Return minion: answer of ``salt`` with JSON, one line a minion; a silent one is left out.

    Not ``--static``, with which the salt command exits with 0 whatever the minions say.
    """
    data = {}
    for line in stdout.splitlines():
        if line.startswith(b"{"):
            data.update(json.loads(line))
    return {name: value for name, value in data.items() if not is_silence(value)}


def is_silence(answer) -> bool:
    """Tell whether the salt command stands this in for a minion that did not return."""
    return isinstance(answer, str) and answer.startswith("Minion did not return")


def insist(data: dict, expected: list[str], code: int, said: bytes) -> None:
    """Raise SaltError unless every expected minion answered, and none failed."""
    problem = f"exit code {code}: {said.decode(errors='replace').strip()}"
    if not expected:
        raise SaltError("no minion of the bed has such a name", data)
    silent = [name for name in expected if name not in data]
    if silent:
        raise SaltError(f"no answer from {', '.join(silent)}: {problem}", data)
    if code:
        raise SaltError(f"salt: {problem}\n{json.dumps(data, indent=1)}", data)
