"""The keys that dumps are sealed with: compared, made if there never was one, and tried.

None is overwritten, and none made in the place of a lost one unless an administrator asks for it:
who had that key's dumps would go on without a word, and find them shut when they are needed.

``differences`` and ``recipients`` only read, and need no package; ``ensure`` writes. With age
every dump is sealed to the server's own key, unless it is to hold none, and to all offsite ones.
With amcrypt two files are the
key: ``~/.gnupg/am_key.gpg`` and ``~/.am_passphrase`` of the dump user, see amcrypt(8).
"""

import base64
import contextlib
import hashlib
import os
import time
from pathlib import Path

import amanda_age
import amanda_crc
import amanda_files
from amanda_command import run
from amanda_errors import AmandaError, CommandError
from amanda_files import Managed
from amanda_layout import AGE_IDENTITY, AGE_RECIPIENTS, COMPRESS, CRYPT, KEYS, NEW_KEY

RECIPIENTS_KEY = "backup:encryption:recipients"
IDENTITY_KEY = "backup:encryption:server_identity"

_FULL = (0, "OK")
_AMCRYPT_LINES = 65  # what aespipe(1) wants for its multi-key-v3 mode
_AMCRYPT_LINE_LENGTH = 60  # characters; it asks for 20 or more
_PASSPHRASE_LENGTH = 30  # bytes, before base64
_CANARY_LENGTH = 5003  # bytes; no multiple of a cipher's block


def differences(encryption, platform, dumped=False):
    """Return ``{path: {"old": …, "new": …}}`` for each key file that isn't as it should be.

    encryption
        The :class:`amanda_settings.Encryption` of the pillar.
    platform
        The :class:`amanda_platform.Platform` of this machine.
    dumped
        Whether this server has dumps: without a record of its keys that tells that it had one.

    Needs neither package nor user. Raises :class:`~amanda_errors.AmandaError` where a key, or half
    of one, is missing that was there before, and nobody has asked for a new one.
    """
    changes = {}
    for path in _missing(encryption, platform, dumped):
        changes[str(path)] = {"old": None, "new": "made"}
    if NEW_KEY.exists():
        changes[str(NEW_KEY)] = {"old": "asked for a new key", "new": None}
    if encryption.method == "age" and str(AGE_IDENTITY) in changes:
        changes[str(AGE_RECIPIENTS)] = {
            "old": "differs" if AGE_RECIPIENTS.exists() else None,
            "new": f"the server's new key and {len(encryption.recipients)} offsite",
        }
    made = [wanted for wanted in _managed(encryption, platform) if str(wanted.path) not in changes]
    return amanda_files.differences(made) | changes


def ensure(encryption, platform, dumped=False):
    """Make what :func:`differences` says, secrets readable by the dump user alone.

    Raises :class:`~amanda_errors.AmandaError`, :class:`~amanda_errors.CommandError` if gpg failed.
    """
    missing = _missing(encryption, platform, dumped)
    amanda_files.apply([wanted for wanted in _managed(encryption, platform) if wanted.is_directory])
    made = []
    try:
        for path in missing:
            amanda_files.write(path, _new(path, platform), platform.user, platform.group, 0o400)
            made.append(path)
    except BaseException:  # half a key would be taken for what is left of a lost one
        for path in made:
            path.unlink()
        raise
    with _time_of_last_addition():
        amanda_files.apply(_managed(encryption, platform))
    NEW_KEY.unlink(missing_ok=True)


def _new(path, platform):
    """Return the content of a new secret file."""
    if path == AGE_IDENTITY:
        return amanda_age.new_identity()
    if path == _passphrase(platform):
        return base64.b64encode(os.urandom(_PASSPHRASE_LENGTH)) + b"\n"
    return _new_amcrypt_key(platform)


@contextlib.contextmanager
def _time_of_last_addition():
    """Let the recipients' file keep its time in this block, unless a key is added to it."""
    if not AGE_RECIPIENTS.exists():
        yield
        return
    before, status = _sealed_to(), AGE_RECIPIENTS.stat()
    yield
    if _sealed_to() < before:
        os.utime(AGE_RECIPIENTS, ns=(status.st_atime_ns, status.st_mtime_ns))


def _sealed_to():
    return set(AGE_RECIPIENTS.read_bytes().split())


def escrow(encryption, platform):
    """Return the files of the server that open every dump, for a copy offsite; tuple of paths."""
    if encryption.method == "age":
        return (AGE_IDENTITY,) if encryption.server_identity else ()
    return (_passphrase(platform), _amcrypt_key(platform))


def surplus(encryption):
    """Return what to do about an identity that the server has and is to have no more, or None."""
    if encryption.server_identity or not AGE_IDENTITY.exists():
        return None
    return (
        f"{AGE_IDENTITY} is still here, though pillar {IDENTITY_KEY} is false. Nothing new is "
        "sealed to it, but it opens all dumps of before. Keep a copy of it offsite as long as you "
        f"need any that no offsite key opens; then, on this server: shred -u {AGE_IDENTITY}"
    )


def recipients(encryption):
    """Return the age keys that dumps are sealed to: the server's own first, then offsite ones.

    Raises :class:`~amanda_errors.AmandaError` if the server's identity is missing or damaged.
    """
    # Those after the first only open: they may come from a catalogue that was forged.
    identities = _identities()[:1] if encryption.server_identity else ()
    own = [amanda_age.public_key(identity) for identity in identities]
    return tuple(dict.fromkeys([*own, *encryption.recipients]))


def own_key(encryption, platform):
    """Return what tells the server's own key from any other, a text; "" if it is to hold none.

    Raises :class:`~amanda_errors.AmandaError` if that is missing or damaged.
    """
    if encryption.method == "amcrypt":
        return hashlib.sha256(_amcrypt_key(platform).read_bytes()).hexdigest()
    return recipients(encryption)[0] if encryption.server_identity else ""


def sealed_to_todays(made):
    """Whether what was sealed at a moment was sealed to each key that there is now.

    made
        A dump's timestamp (14 digits, local time) or the name of a generation (UTC).
    """
    if not AGE_RECIPIENTS.exists():
        return True
    added = AGE_RECIPIENTS.stat().st_mtime  # see ensure
    if made.endswith("Z"):
        return made >= time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(added))
    return made >= time.strftime("%Y%m%d%H%M%S", time.localtime(added))


def sealed_to_others(dumps):
    """Return which DLEs' last state was sealed before a recipient was last added.

    dumps
        What :func:`amanda_catalogue.read` gives.

    A list of pairs of host and disk. A key that was added since doesn't open all of that state.
    """
    fulls = {(dump.host, dump.disk): dump for dump in dumps if (dump.level, dump.status) == _FULL}
    return [name for name, full in fulls.items() if not sealed_to_todays(full.timestamp)]


def canary(encryption, user, given=False):
    """Seal and open random bytes through the installed filter, as the dump user.

    What else reads a dump back is tried as well: compression, and Amanda's checksum.

    encryption
        The :class:`amanda_settings.Encryption` of the pillar: age must seal to its recipients.
    user
        The dump user's login name.
    given
        Whether an offsite identity is given for what follows: then the server's own, which may be
        lost, need not open what is sealed with age.

    Returns what was shown, in words. Raises :class:`~amanda_errors.AmandaError` that says what
    failed and what to do.
    """
    method = encryption.method
    secret = os.urandom(_CANARY_LENGTH)
    amanda_crc.library()
    _try_compression(user, secret)
    sealed = _filter(method, user, secret)
    if secret[:64] in sealed:
        raise AmandaError(f"{CRYPT[method]} lets data through unsealed; apply the state backup")
    if method == "age":
        _check_seals(sealed, encryption)
    if not encryption.server_identity:
        return (
            f"dumps are sealed to all {len(encryption.recipients)} offsite keys; that these open "
            "them was not tried, since this server holds no identity"
        )
    if given and method == "age":
        return (
            "dumps are sealed to all keys; whether this server's own opens them was not tried, "
            "since identity= gives another"
        )
    _compare(method, secret, _filter(method, user, sealed, "-d"))
    return "what the dumps are sealed with opens them again"


def _try_compression(user, data):
    """Raise unless the installed filter expands what it compresses."""
    try:
        packed = run([COMPRESS], user=user, stdin=data).stdout
        expanded = run([COMPRESS, "-d"], user=user, stdin=packed).stdout
    except (CommandError, OSError) as error:
        raise AmandaError(
            f"the compression filter {COMPRESS} does not work: {error}. Apply the state backup on "
            "this server"
        ) from error
    if expanded != data:
        raise AmandaError(f"{COMPRESS} expands to something else what it compresses")


def _filter(method, user, data, *arguments):
    """Return what the installed filter makes of *data*."""
    program = CRYPT[method]
    try:
        return run([program, *arguments], user=user, stdin=data).stdout
    except CommandError as error:
        what = error.stderr.strip() if error.returncode > 0 else ""
        what = what or str(error)
        if "no identity matched" in what:
            what = f"{AGE_IDENTITY} opens nothing that is sealed to {AGE_RECIPIENTS}, so it is not "
            what += "this server's key, or no longer"
        raise AmandaError(
            f"the encryption filter {program} does not work: {what}. If a key is lost, bring its "
            "copy back; if not, apply the state backup on this server"
        ) from error


def _compare(method, secret, opened):
    """Raise unless *opened* is the *secret* that was sealed."""
    # aespipe pads what it seals with zeros.
    padding = opened[len(secret) :]
    if opened[: len(secret)] != secret or padding.strip(b"\0") or (padding and method == "age"):
        raise AmandaError(
            f"what {CRYPT[method]} seals it does not open again: its keys don't belong together. "
            "Bring back the copy of both"
        )


def _check_seals(sealed, encryption):
    """Raise unless *sealed* has a seal for each key of the pillar and of the installed list."""
    listed = AGE_RECIPIENTS.read_text(encoding="ascii").split()
    if set(encryption.recipients) - set(listed):
        raise AmandaError(
            f"pillar {RECIPIENTS_KEY} has keys that {AGE_RECIPIENTS} lacks: apply the state "
            "backup on this server, so that dumps are sealed to all of them"
        )
    header = sealed.partition(b"\n--- ")[0]
    seals = header.count(b"\n-> X25519 ")
    if seals != len(listed):
        raise AmandaError(
            f"{CRYPT['age']} seals to {seals} keys where {AGE_RECIPIENTS} lists {len(listed)}; "
            "apply the state backup"
        )


def _managed(encryption, platform):
    """Return the files as they should be; keys that aren't there yet stand with no content."""
    owned = {"user": platform.user, "group": platform.group}
    secret = {**owned, "content": b"", "mode": 0o400, "hidden": True, "keep": True}
    known = sorted(map(str, _known().union(escrow(encryption, platform))))
    record = [
        Managed(KEYS.parent, mode=0o700),
        Managed(KEYS, "".join(f"{path}\n" for path in known).encode(), mode=0o600),
    ]
    if encryption.method == "amcrypt":
        return [
            Managed(_amcrypt_key(platform).parent, mode=0o700, **owned),
            *(Managed(path, **secret) for path in escrow(encryption, platform)),
            *record,
        ]
    files = [
        Managed(AGE_IDENTITY.parent.parent, mode=0o755),
        Managed(AGE_IDENTITY.parent, mode=0o755),
        *(Managed(path, **secret) for path in escrow(encryption, platform)),
    ]
    if AGE_IDENTITY.exists() or not encryption.server_identity:
        text = "".join(f"{key}\n" for key in recipients(encryption))
        files.append(Managed(AGE_RECIPIENTS, text.encode()))
    return [*files, *record]


def _missing(encryption, platform, dumped):
    """Return the secret files that are to be made, in order."""
    secret = escrow(encryption, platform)
    missing = [path for path in secret if not path.exists()]
    if NEW_KEY.exists():
        _check_asked(secret, missing, platform)
    elif missing and _had(encryption, missing, secret, dumped):
        raise AmandaError(_lost(missing, platform))
    return missing


def _had(encryption, missing, secret, dumped):
    """Tell whether this server had the *missing* part of its *secret* files before."""
    if len(missing) < len(secret):
        return True
    if KEYS.exists():
        return not _known().isdisjoint(missing)
    # The server's own public half is in no pillar.
    pillar = {key.encode() for key in encryption.recipients}
    age = encryption.method == "age" and AGE_RECIPIENTS.exists()
    return dumped or bool(age and _sealed_to() - pillar)


def _known():
    """Return the secret files that this server has, or had, a set of paths."""
    return set(map(Path, KEYS.read_text().splitlines())) if KEYS.exists() else set()


def _check_asked(secret, missing, platform):
    """Raise if a new key can't be made though it is asked for."""
    kept = [path for path in secret if path not in missing and path != _passphrase(platform)]
    if kept:
        raise AmandaError(
            f"{NEW_KEY} asks for a new key, but {kept[0]} is there. Move that to where its copy is "
            f"kept, offsite, and apply again; or, if no new key is wanted, remove {NEW_KEY}"
        )
    if not missing:
        raise AmandaError(f"{NEW_KEY} asks for a new key, but the pillar for none: remove it")


def _lost(missing, platform):
    """Return what to do about a key that was there and isn't any more."""
    found = ""
    if AGE_IDENTITY in missing:
        found = " (one is in the catalogue of each generation of the mirror, salt-amanda/identity)"
    return (
        f"{' and '.join(map(str, missing))} is missing, and was here before: nothing else opens "
        "what was sealed with it, so no other is made in its place. Bring "
        f"its copy back{found}, owned by {platform.user}:{platform.group}, with mode 0400, and "
        "apply the state backup. Only if there is no copy, or if the key is to be another: touch "
        f"{NEW_KEY} and apply the state backup. That makes a new key; what was sealed before opens "
        "with copies of the old one, or with offsite keys, alone"
    )


def _passphrase(platform):
    return platform.home / ".am_passphrase"


def _amcrypt_key(platform):
    return platform.home / ".gnupg" / "am_key.gpg"


def _new_amcrypt_key(platform):
    """Return a new am_key.gpg, sealed with the passphrase that is on disk."""
    length = _AMCRYPT_LINES * _AMCRYPT_LINE_LENGTH
    text = base64.b64encode(os.urandom(length * 3 // 4))
    lines = [
        text[start : start + _AMCRYPT_LINE_LENGTH]
        for start in range(0, length, _AMCRYPT_LINE_LENGTH)
    ]
    command = ["gpg", "--batch", "--no-tty", "--quiet", "--no-options"]
    command += ["--pinentry-mode", "loopback", "--passphrase-file", _passphrase(platform)]
    command += ["--symmetric", "--armor", "--output", "-"]
    try:
        return run(command, user=platform.user, stdin=b"\n".join([*lines, b""])).stdout
    finally:
        # gpg 2 starts an agent even where it has nothing to ask, and leaves it behind.
        run(["gpgconf", "--kill", "gpg-agent"], user=platform.user, ok=None)


def _identities():
    """Return the identities on disk, text; those after the first only open dumps of before."""
    try:
        return amanda_age.identities(AGE_IDENTITY.read_bytes(), AGE_IDENTITY)
    except FileNotFoundError:
        raise AmandaError(
            f"{AGE_IDENTITY} is missing: bring its copy back. If there never was one, apply the "
            "state backup"
        ) from None
    except AmandaError as error:
        raise AmandaError(f"{error}; bring its copy back") from None
