"""Whether a run would work: what one question can't tell hides no answer to the others."""

import subprocess
import types

import amanda_check
import amanda_command
from amanda_reach import Reach


def test_an_amcheck_that_fails_without_naming_a_client_is_a_problem_of_the_server(monkeypatch):
    def run(argv, user, ok):
        return subprocess.CompletedProcess(argv, 1, b"", b"amcheck: could not read disklist\n")

    monkeypatch.setattr(amanda_command, "run", run)
    work = types.SimpleNamespace(config=types.SimpleNamespace(name="daily"), user="backup")
    reached = {"web1": Reach("web1", "192.0.2.1", 22, None, "", "")}
    found, unknown = amanda_check._client_problems(work, reached)
    assert found == []
    assert unknown == ["amcheck of the clients failed: amcheck: could not read disklist"]
