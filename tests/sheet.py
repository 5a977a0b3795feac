"""The commands of an emergency sheet, as they are printed there."""

import re

_TITLE = re.compile(r"STEP [0-9]+\. .*|[A-Z ]{8,}")


def blocks(text):
    """Return the blocks of commands of each section: {"STEP 5": [block, …]}."""
    found, section, block = {}, "", []
    for line in [*text.split("\n"), ""]:
        if line.startswith("    "):
            block.append(line.removeprefix("    "))
            continue
        if block:
            found.setdefault(section, []).append("\n".join(block) + "\n")
            block = []
        if _TITLE.fullmatch(line):
            section = line.partition(".")[0]
    return found


def script(text, *steps):
    """Return the commands of some steps as one script, all as they are printed."""
    found = blocks(text)
    return "".join(block for step in steps for block in found[f"STEP {step}"])
