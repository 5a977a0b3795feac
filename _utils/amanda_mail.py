"""Mail about an event: what happened, which directories, why, in words that fit a telephone.

An event is data from strangers: no more of it goes into a header than fits, and no line end.
"""

import email.message
import email.policy
import os
import re

import amanda_command
import amanda_results
from amanda_errors import AmandaError, ArgumentError

SENDMAIL = "/usr/sbin/sendmail"
# What is in it is put into a header, and into commands that are to be typed.
_TAG = re.compile(
    r"salt/amanda/([A-Za-z0-9][A-Za-z0-9._-]{0,63})/([A-Za-z0-9][A-Za-z0-9._-]{0,63})/([a-z/_]{1,40})"
)
_LINES = 50  # directories that are named
_SECONDS = 60


def message(tag, data, to, sender):
    """Return the :class:`email.message.EmailMessage` that tells of an event.

    tag
        The event's: ``salt/amanda/<server>/<config>/<what>``.
    data
        What it carries; minions have it in an event of theirs below ``data``.
    to, sender
        Addresses.

    Raises :class:`~amanda_errors.ArgumentError` if that is no event of ours.
    """
    match = _TAG.fullmatch(str(tag))
    if not match or not isinstance(data, dict):
        raise ArgumentError(f"{str(tag)[:200]!r} is no event of a backup: nothing was mailed")
    told = amanda_results.bounded(data.get("data", data))
    if not isinstance(told, dict):
        told = {"message": str(told)}
    server, config, what = match.groups()
    mail = email.message.EmailMessage(email.policy.SMTP)
    mail["Subject"] = f"Amanda on {server}: {config} {what.replace('/', ' ')}"
    mail["To"], mail["From"] = _address(to), _address(sender)
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation notices
    mail.set_content("\n".join(_body(told, server, config)) + "\n")
    return mail


def send(mail):
    """Hand a message to this host's mail system, by the command that each of them has.

    Raises :class:`~amanda_errors.AmandaError` if there is none, or if it refuses.
    """
    if not os.access(SENDMAIL, os.X_OK):
        raise AmandaError(f"this host has no mail system: {SENDMAIL} is missing")
    # The addresses stand in the message, not in argv.
    amanda_command.run([SENDMAIL, "-t", "-oi"], stdin=mail.as_bytes(), timeout=_SECONDS)


def _body(told, server, config):
    """Yield the lines of a message."""
    for known in ("message", "remedy"):
        if told.get(known):
            yield f"{told[known]}"
    steps = _dicts(told.get("steps"))
    for step in steps:
        word = "ok" if step.get("success") else "FAILED"
        yield f"{word:<7} {step.get('step')}: {step.get('message')}"
    failed = [
        entry for step in steps for entry in _dicts(step.get("dles")) if not entry.get("success")
    ]
    if failed:
        yield ""
        yield "Not backed up:"
    for entry in failed[:_LINES]:
        yield f"- {entry.get('host')} {entry.get('disk')}: {entry.get('reason')}"
    if len(failed) > _LINES:
        yield f"- and {len(failed) - _LINES} more"
    if steps:
        yield ""
        yield f"salt {server} amanda.report config={config}"


def _dicts(value):
    """Return what can be told of a list that anybody may have sent."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _address(text):
    """Return an address, or raise if it could be more than one line."""
    address = str(text)
    if not address.isprintable() or not address.strip():
        raise ArgumentError(f"{address!r} is no address to send mail to or from")
    return address
