"""What the bed knows of Salt: configuration, and the salt command's words and answers."""

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
            "timeout": 30,
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


def answers(stdout: bytes, code: int, stderr: bytes, check: bool) -> dict:
    """Return minion: answer of ``salt --out=json --static``; raises SaltError as its class says."""
    try:
        data = json.loads(stdout) if stdout.strip() else {}
    except json.JSONDecodeError as error:
        said = (stdout + stderr).decode(errors="replace")
        raise SaltError(f"salt gave no JSON ({error}):\n{said}", {}) from error
    problem = stderr.decode(errors="replace").strip()
    silent = sorted(name for name, value in data.items() if is_silence(value))
    if silent:
        raise SaltError(f"no answer from {', '.join(silent)}", data)
    if not data:
        raise SaltError(f"no minion answered: {problem}", data)
    if check and code:
        raise SaltError(f"salt: exit code {code}: {problem}\n{json.dumps(data, indent=1)}", data)
    return data


def is_silence(value) -> bool:
    """Tell whether the salt command stands this in for a minion that did not return."""
    return isinstance(value, str) and value.startswith("Minion did not return")
