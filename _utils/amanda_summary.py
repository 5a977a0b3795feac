"""How the backups of this server stand, in a few lines: what it publishes for the master to see."""

import amanda_drill
import amanda_results

VERSION = 1


def summary(configs):
    """Return the summary of some configs, a bounded dict.

    configs
        Their names.

    ``version``, ``time`` (ISO 8601) and, by name in ``configs``: ``backup``, the last one that
    ended, ``success`` and ``message`` of each of its steps; and ``drill``, when one ``passed`` and
    what the ``last`` one gave. What there has not been yet is None.
    """
    return {
        "version": VERSION,
        "time": amanda_results.now(),
        "configs": {
            name: {
                "backup": _brief(amanda_results.last(name, amanda_results.BACKUPS)),
                "drill": amanda_drill.summary(name),
            }
            for name in configs
        },
    }


def _brief(result):
    """Return of a run's result what fits a summary: of each step only how it went."""
    if result is None:
        return None
    told = {
        key: result.get(key) for key in ("id", "action", "state", "started", "finished", "success")
    }
    steps = [
        {key: step.get(key) for key in ("step", "success", "message")} for step in result["steps"]
    ]
    return {**told, "steps": steps}
