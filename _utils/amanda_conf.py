"""The text of Amanda's configuration files, and Amanda's own word on whether it can read it.

The template places values; they are computed here. What Salt's pillar may say of them is checked
in :mod:`amanda_settings`, so that nothing here needs quoting: no value holds a quote, a backslash
or a line break.
"""

import contextlib
import re
import tempfile
from pathlib import Path

import jinja2
from amanda_command import run
from amanda_errors import AmandaError, CommandError, PillarError
from amanda_layout import COMPRESS, CRYPT, INCREMENTAL_TAR, SSH_KEY_INSTALLED, places

DUMPTYPES = {"age": "encrypt-amgtar-ssh", "amcrypt": "encrypt-gnutar-ssh"}
"""The dumptype of every DLE, by encryption method; the second is the name other sites know."""

LABEL_DIGITS = 4

_DEFAULTS = {
    # Ten sessions at once to one client would meet sshd's MaxStartups.
    "inparallel": 8,
    "maxdumps": 4,
    # Without history the planner guesses 1 GB a DLE and would dump one at a time.
    "holding-use": "-500 mbytes",
    # History where there is some; a first dump is measured, else the planner guesses.
    "estimate": "server client",
    "netusage": "80000 Kbps",
}
_TAPETYPE = {"length": "100 gbytes"}
# Strings to Amanda's parser; all others are numbers or keywords, which it wants bare.
_QUOTED = ("comment", "dumporder", "mailto", "org")
_ELSEWHERE = ("holding-use", "estimate")


def render(template, settings, config, platform):
    """Return the text of amanda.conf(5) for one config.

    template
        Text of ``amanda.conf.jinja``.
    settings, config
        :class:`amanda_settings.Settings` and one of its configs.
    platform
        :class:`amanda_platform.Platform` of the server.

    Raises :class:`~amanda_errors.AmandaError` if the template was broken by an edit.
    """
    place = places(config.name, settings.paths)
    options = {"org": config.name, "mailto": "", **_DEFAULTS, **config.options}
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    values = dict(
        name=config.name,
        storage=config.name,
        user=platform.user,
        libexec=platform.libexec,
        dumpcycle=config.dumpcycle,
        runspercycle=config.runspercycle,
        tapecycle=config.tapecycle,
        runtapes=config.runtapes,
        slots=config.slots,
        tapetype=_quoted({**_TAPETYPE, **config.tapetype}),
        options=_quoted({key: value for key, value in options.items() if key not in _ELSEWHERE}),
        holding_use=options["holding-use"],
        estimate=options["estimate"],
        labelstr=f"^{config.name}-{'[0-9]' * LABEL_DIGITS}+$",
        info=place.info,
        logs=place.logs,
        index=place.index,
        tapelist=place.tapelist,
        state=place.state,
        tapes=place.tapes,
        holding=place.holding,
        tar=INCREMENTAL_TAR,
        ssh_key=platform.home / SSH_KEY_INSTALLED,
        compress=settings.compress,
        compress_program=COMPRESS,
        crypt=CRYPT,
    )
    try:
        return environment.from_string(template).render(values)
    except jinja2.TemplateError as error:
        where = f"line {error.lineno}: " if hasattr(error, "lineno") else ""
        raise AmandaError(
            f"the template of {config.name}'s amanda.conf can't be rendered: {where}{error}"
        ) from error


def _quoted(options):
    return [
        (key, f'"{value}"' if key in _QUOTED else value) for key, value in sorted(options.items())
    ]


def check(text, user, config):
    """Have Amanda parse the text of an amanda.conf, as the dump user, away from the one in use.

    Raises :class:`~amanda_errors.AmandaError` quoting Amanda's complaint; if it is about an option
    of *config*, the :class:`amanda_settings.Config`, a :class:`~amanda_errors.PillarError`.
    """
    with temporary(text.encode(), b"") as directory:  # without a disklist amgetconf refuses
        try:
            answer = run(["amgetconf", ".", "--list", "storage"], user=user, cwd=directory)
        except CommandError as error:
            complaint = _without(directory, error.stderr)
            option = _blamed(complaint, text, config)
            if option:
                key = f"backup:configs:{config.name}:{option}"
                raise PillarError(
                    key, f"Amanda can't read it: {complaint}", "See amanda.conf(5)."
                ) from error
            raise AmandaError(f"Amanda can't read this amanda.conf: {complaint}") from error
        said = answer.stderr.decode(errors="replace").strip()
        if said:
            said = _without(directory, said)
            raise AmandaError(f"Amanda has objections to this amanda.conf: {said}")


def _blamed(complaint, text, config):
    """Return the pillar's key, below the config, of the line that a complaint is about, or None."""
    keywords = {"use" if name == "holding-use" else name: name for name in config.options}
    keywords |= {option: f"tapetype:{option}" for option in config.tapetype}
    match = re.search(r"line ([0-9]+):", complaint)
    words = text.splitlines()[int(match[1]) - 1].split() if match else []
    return keywords.get(words[0]) if words else None


@contextlib.contextmanager
def temporary(conf, disklist):
    """Give a directory with these two files, bytes, that any user can read, for this block.

    To Amanda it is the config ``.`` when it is the working directory; amanda(8).
    """
    with tempfile.TemporaryDirectory(prefix="salt-amanda-") as directory:
        Path(directory).chmod(0o755)
        for name, content in (("amanda.conf", conf), ("disklist", disklist)):
            path = Path(directory, name)
            path.write_bytes(content)
            path.chmod(0o644)
        yield directory


def _without(directory, complaint):
    """Return what Amanda says in one line, with files' names alone: *directory* is gone by then."""
    said = re.sub(rf"{re.escape(directory)}/+", "", complaint)
    lines = [line for line in said.split("\n") if line and "errors processing" not in line]
    return "; ".join(lines or [said.strip()])


def render_client(settings, platform):
    """Return the text of amanda-client.conf(5).

    On the server it lets root use ``amrecover`` without SSH. A client has no way in to the
    server, and needs none: files come back by ``amanda.recover``.
    """
    lines = ["# Written by Salt; changes made here are lost. See amanda-client.conf(5)."]
    if settings.is_server:
        lines += [
            f'conf "{next(iter(settings.configs))}"',
            'index-server "localhost"',
            'tape-server "localhost"',
            'auth "local"',
        ]
    else:
        lines += ['auth "ssh"', f'client-username "{platform.user}"']
    return "\n".join([*lines, f'amandad-path "{platform.libexec}/amandad"', ""])
