"""What is installed on a minion is complete: every module that its programs import is there."""

import ast
from pathlib import Path

import amanda_provision

ROOT = Path(__file__).resolve().parents[2]


def imported(path):
    """Return the engine's modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name for name in names if name.startswith("amanda_")}


def test_a_client_has_the_modules_that_its_programs_need_and_no_others():
    sources = [ROOT / "salt/backup/files" / path.name for path in amanda_provision.CLIENT_PROGRAMS]
    waiting = set().union(*(imported(path) for path in sources if "python" in _first_line(path)))
    needed = set()
    while waiting:
        name = waiting.pop()
        needed.add(name)
        waiting |= imported(ROOT / "_utils" / f"{name}.py") - needed
    assert needed == set(amanda_provision.CLIENT_MODULES)


def _first_line(path):
    return path.read_text(encoding="utf-8").partition("\n")[0].lower()
