"""Every command in the documentation calls a function that is there, with arguments it knows."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(
    r"(?:^|`)(salt|salt-run|salt-call)((?: [^\s`]+)*?) amanda\.([a-z_]+)([^\n`#|]*)", re.M
)


def signatures(path):
    """Return the names of the arguments of each public function of a module of Salt's."""
    functions = [
        each for each in ast.parse(path.read_text()).body if isinstance(each, ast.FunctionDef)
    ]
    return {
        each.name: {argument.arg for argument in (*each.args.args, *each.args.kwonlyargs)}
        for each in functions
        if not each.name.startswith("_")
    }


KNOWN = {
    "salt": signatures(ROOT / "_modules/amanda.py"),
    "salt-run": signatures(ROOT / "_runners/amanda.py"),
}
KNOWN["salt-call"] = KNOWN["salt"]
COMMANDS = [
    pytest.param(*match.groups(), id=f"{page.name}: {match.group(1)} amanda.{match.group(3)}")
    for page in PAGES
    for match in COMMAND.finditer(page.read_text())
]


def test_there_are_commands_in_the_documentation():
    assert len(COMMANDS) > 50


@pytest.mark.parametrize(("program", "_target", "function", "words"), COMMANDS)
def test_a_documented_command_calls_what_is_there(program, _target, function, words):
    assert function in KNOWN[program]
    named = set(re.findall(r"(?:^|[ \[|])([a-z_]+)=", words))
    assert named <= KNOWN[program][function]
