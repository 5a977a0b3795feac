"""The step ``check``: whether a run would work, asked of the server, each client and the mirror."""

import amanda_amdump
import amanda_command
import amanda_fresh
import amanda_generations
import amanda_holding
import amanda_host
import amanda_mirrored
import amanda_reach
import amanda_retention
import amanda_verification
import amanda_written
from amanda_errors import AmandaError

_SHOWN = 5


def check(work):
    """Ask Amanda about the server, and each client over SSH, at a time; and try the mirror.

    work
        The :class:`amanda_run.Run`, once what was collected is in place.

    Returns the step's result. What waits on the holding disk (``holding``, see
    :func:`amanda_holding.images`), tapes that will be too few, and that runs verify nothing, are
    ``warnings``: a run would work.
    """
    server = amanda_command.run(["amcheck", "-s", work.config.name], user=work.user, ok=None)
    problems = amanda_amdump.problems(server.stdout.decode(errors="replace"))
    if server.returncode and not problems:
        problems = [(server.stdout + server.stderr).decode(errors="replace").strip()[-500:]]
    problems = [problem for problem in problems if not amanda_amdump.is_meant(problem)]
    short, warnings = _tapes(work)
    waiting, unlisted = _waiting(work)
    problems += short + unlisted + _lost_tapes(work) + _mirror_problems(work)
    reached = amanda_reach.probe(work.hosts(), work.user)
    clients = {
        host: {"host": host, "success": not reach.problem, "message": reach.message}
        for host, reach in reached.items()
    }
    found, unknown = _client_problems(work, reached)
    problems += unknown
    for host, problem in found:
        clients[host].update(success=False)
        clients[host]["message"] = "; ".join(filter(None, [clients[host]["message"], problem]))
    failed = [client for client in clients.values() if not client["success"]]
    message = f"{len(clients) - len(failed)} of {len(clients)} clients can be dumped"
    warnings += [amanda_holding.told(waiting)] if waiting else []
    if work.config.verify is None:
        warnings.append(f"runs verify nothing: {amanda_verification.off(work)}")
    said = [f"server: {problem}" for problem in problems]
    said += [client["message"] for client in failed]
    return {
        "success": not (problems or failed),
        "message": ". ".join([message, *said, *warnings]),
        "server": problems,
        "warnings": warnings,
        "holding": waiting,
        "clients": list(clients.values()),
    }


def _tapes(work):
    """Return what is wrong with the number of tapes, and what will be: two lists of texts."""
    try:
        found = amanda_retention.look(work.places, work.user, work.let_go())
    except AmandaError as error:
        return [str(error)], []
    if shortage := amanda_retention.shortage(found, work.config, work.user):
        return [shortage], []
    return [], list(filter(None, [amanda_retention.outlook(found, work.config, work.dles())]))


def _lost_tapes(work):
    """Return what to do about tapes that the catalogue knows and the disk has lost, if any."""
    try:
        _, lost, unread = amanda_written.on_disk(work.places, work.user)
    except AmandaError as error:
        return [str(error)]
    if unread or not lost:
        return unread[:_SHOWN]
    labels = [label for label, _ in lost]
    give_up = f"runuser -u {work.user} -- amrmtape --cleanup {work.config.name}"
    return [
        f"{work.places.tapes} lacks tape {', '.join(labels)}, or holds it twice: move a second one "
        "elsewhere; bring what is lost back from the mirror with amanda.rebuild, or give it up, as "
        f"root, with '{give_up} {labels[0]}'"
    ]


def _waiting(work):
    """Return what waits on the holding disk, and why that can't be told: two lists."""
    try:
        return amanda_holding.images(work.places, work.user), []
    except AmandaError as error:
        return [], [f"the holding disk can't be listed: {error}"]


def _mirror_problems(work):
    try:
        if work.settings.mirror:
            amanda_host.check_mirror(work.settings.mirror, work.platform)
    except AmandaError as error:
        return [str(error)]
    awaited = amanda_fresh.awaited(work.settings, work.config.name, work.platform)
    return [awaited] if awaited else _generation_problems(work)


def _generation_problems(work):
    """Return what can be told by the names of the mirror's generations alone."""
    mirror, config = work.settings.mirror, work.config.name
    if mirror is None:
        return []
    try:
        names = amanda_generations.names(mirror, config)
    except AmandaError as error:
        return [str(error)]
    gone = amanda_mirrored.read(mirror, config).gone(names)
    ahead = [name for name in names if amanda_generations.misdated(name)][:_SHOWN]
    odd = [f"generation {name}: {amanda_generations.misdated(name)}" for name in ahead]
    odd += [amanda_generations.remedy(mirror, config, ahead)] if odd else []
    return [*odd, *([gone] if gone else [])]


def _client_problems(work, reached):
    """Return what amcheck finds on the clients that can be reached, and what else it says.

    The first is a list of pairs of host and problem; the second, of texts, tells why amcheck
    failed if it wasn't for a client.
    """
    good = [host for host, reach in reached.items() if not reach.problem]
    if not good:
        return [], []
    argv = ["amcheck", "--exact-match", "-c", work.config.name, *good]
    answer = amanda_command.run(argv, user=work.user, ok=None)
    found = []
    for problem in amanda_amdump.problems(answer.stdout.decode(errors="replace")):
        host, _, text = problem.partition(": ")
        if host in reached:
            found.append((host, f"{host}: {text}"))
    if answer.returncode and not found:
        said = (answer.stdout + answer.stderr).decode(errors="replace").strip()[-500:]
        return [], [f"amcheck of the clients failed: {said}"]
    return found, []
