"""Keys: what is predicted, what is made, and what is refused."""

import dataclasses
import os
import shutil
import stat
import time

import amanda_age
import amanda_encryption
import amanda_platform
import amanda_settings
import pytest
from amanda_catalogue import Dump
from amanda_errors import AmandaError

# Made by age-keygen 1.1.1, and used for nothing else.
IDENTITY = "AGE-SECRET-KEY-1KUKEM6XEA2VA7AGNPRS822CH5RQK6XUSWWL5ZHRQU7FQGXA8JJEQ5MX09Y"
RECIPIENT = "age1jjpsfslvhdls68dhtgy6pljn9t86q55qxcnhvzjrtuy5g8ukgs4s9jfkgl"
OTHER = "age1aaz9p392qtdnsv2j3wf2cyduwuzn09myklv82u7rcle56wzss3hq2qmqzg"


@pytest.fixture
def platform(tmp_path, monkeypatch):
    """A platform whose dump user is the one who runs the tests, and paths below *tmp_path*."""
    settings = tmp_path / "settings"
    monkeypatch.setattr(amanda_encryption, "AGE_IDENTITY", settings / "age" / "identity")
    monkeypatch.setattr(amanda_encryption, "AGE_RECIPIENTS", settings / "age" / "recipients")
    monkeypatch.setattr(amanda_encryption, "NEW_KEY", settings / "new-key", raising=False)
    monkeypatch.setattr(amanda_encryption, "KEYS", tmp_path / "state" / "keys", raising=False)
    return dataclasses.replace(
        amanda_platform.PLATFORMS["Debian"], user="root", group="root", home=tmp_path
    )


def age(*recipients):
    return amanda_settings.Encryption("age", recipients)


AMCRYPT = amanda_settings.Encryption("amcrypt", ())


def paths(changes):
    return sorted(path.rpartition("/")[2] for path in changes)


def test_a_prediction_makes_nothing(platform, tmp_path):
    changes = amanda_encryption.differences(age(OTHER), platform)
    assert paths(changes) == ["age", "identity", "keys", "recipients", "settings", "state"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to users")
def test_the_identity_is_the_dump_users_alone_and_dumps_are_sealed_offsite_too(platform):
    amanda_encryption.ensure(age(OTHER), platform)
    assert stat.S_IMODE(amanda_encryption.AGE_IDENTITY.stat().st_mode) == 0o400
    own, offsite = amanda_encryption.AGE_RECIPIENTS.read_text().split()
    identity = amanda_encryption.AGE_IDENTITY.read_text().splitlines()[-1]
    assert own == amanda_age.public_key(identity)
    assert offsite == OTHER


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to users")
def test_a_second_time_nothing_differs(platform):
    amanda_encryption.ensure(age(OTHER), platform)
    assert amanda_encryption.differences(age(OTHER), platform) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to users")
def test_an_identity_that_is_there_is_never_overwritten(platform):
    amanda_encryption.ensure(age(), platform)
    before = amanda_encryption.AGE_IDENTITY.read_bytes()
    amanda_encryption.AGE_IDENTITY.chmod(0o644)
    changes = amanda_encryption.differences(age(OTHER), platform)
    assert paths(changes) == ["identity", "recipients"]
    amanda_encryption.ensure(age(OTHER), platform)
    assert amanda_encryption.AGE_IDENTITY.read_bytes() == before
    assert stat.S_IMODE(amanda_encryption.AGE_IDENTITY.stat().st_mode) == 0o400
    assert OTHER in amanda_encryption.AGE_RECIPIENTS.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to users")
def test_an_older_identity_kept_beside_the_new_one_opens_dumps_and_none_is_sealed_to_it(platform):
    amanda_encryption.ensure(age(), platform)
    new = amanda_encryption.recipients(age())
    with amanda_encryption.AGE_IDENTITY.open("a") as stream:
        stream.write(f"{IDENTITY}\n")
    assert amanda_encryption.recipients(age(OTHER)) == (*new, OTHER)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to users")
def test_a_damaged_identity_is_refused_without_being_shown(platform):
    amanda_encryption.ensure(age(), platform)
    damaged = IDENTITY[:-1] + "Q"
    amanda_encryption.AGE_IDENTITY.chmod(0o600)
    amanda_encryption.AGE_IDENTITY.write_text(f"{damaged}\n")
    with pytest.raises(AmandaError, match="no age identity") as refusal:
        amanda_encryption.differences(age(), platform)
    assert damaged not in str(refusal.value)


def test_the_two_key_files_of_amcrypt_are_predicted(platform):
    assert paths(amanda_encryption.differences(AMCRYPT, platform)) == [
        ".am_passphrase",
        ".gnupg",
        "am_key.gpg",
        "keys",
        "state",
    ]


def test_a_key_whose_passphrase_is_lost_is_not_given_another(platform):
    key = platform.home / ".gnupg" / "am_key.gpg"
    key.parent.mkdir()
    key.write_bytes(b"sealed")
    for action in (amanda_encryption.differences, amanda_encryption.ensure):
        with pytest.raises(AmandaError, match="Bring its copy back"):
            action(AMCRYPT, platform)
    amanda_encryption.NEW_KEY.parent.mkdir()
    amanda_encryption.NEW_KEY.touch()
    with pytest.raises(AmandaError, match="am_key.gpg is there"):
        amanda_encryption.ensure(AMCRYPT, platform)
    assert not (platform.home / ".am_passphrase").exists()


def lose_all_but_the_record(platform):
    shutil.rmtree(amanda_encryption.AGE_IDENTITY.parent, ignore_errors=True)
    for path in amanda_encryption.escrow(AMCRYPT, platform):
        path.unlink(missing_ok=True)


def lose_the_record_too(platform):
    lose_all_but_the_record(platform)
    amanda_encryption.KEYS.unlink()


def lose_the_secret_and_the_record(platform):
    amanda_encryption.KEYS.unlink()
    for path in (amanda_encryption.AGE_IDENTITY, platform.home / ".gnupg" / "am_key.gpg"):
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("method", ["age", "amcrypt"])
@pytest.mark.parametrize(
    "lose", [lose_all_but_the_record, lose_the_record_too, lose_the_secret_and_the_record]
)
def test_no_key_is_made_in_the_place_of_a_lost_one_unless_it_is_asked_for(
    platform, monkeypatch, method, lose
):
    monkeypatch.setattr(amanda_encryption, "_new_amcrypt_key", lambda platform: os.urandom(9))
    encryption = amanda_settings.Encryption(method, (OTHER,) if method == "age" else ())
    amanda_encryption.ensure(encryption, platform)
    before = amanda_encryption.own_key(encryption, platform)
    lose(platform)
    for action in (amanda_encryption.differences, amanda_encryption.ensure):
        with pytest.raises(AmandaError, match="Bring its copy back.*Only if there is no") as told:
            action(encryption, platform, dumped=True)
    assert f"touch {amanda_encryption.NEW_KEY} and apply" in str(told.value)
    assert f"owned by {platform.user}:{platform.group}, with mode 0400" in str(told.value)
    amanda_encryption.NEW_KEY.parent.mkdir(exist_ok=True)
    amanda_encryption.NEW_KEY.touch()
    predicted = paths(amanda_encryption.differences(encryption, platform, dumped=True))
    assert {"new-key", amanda_encryption.escrow(encryption, platform)[-1].name} <= {*predicted}
    amanda_encryption.ensure(encryption, platform, dumped=True)
    assert amanda_encryption.differences(encryption, platform, dumped=True) == {}
    assert amanda_encryption.own_key(encryption, platform) != before
    assert not amanda_encryption.NEW_KEY.exists(), "one wish makes one key"


def test_a_wish_for_a_new_key_is_refused_as_long_as_the_old_one_is_there(platform):
    amanda_encryption.ensure(age(), platform)
    before = amanda_encryption.AGE_IDENTITY.read_bytes()
    amanda_encryption.NEW_KEY.touch()
    for action in (amanda_encryption.differences, amanda_encryption.ensure):
        with pytest.raises(AmandaError, match="identity is there. Move that to where its copy"):
            action(age(), platform)
    encryption = amanda_settings.Encryption("age", (OTHER,), server_identity=False)
    with pytest.raises(AmandaError, match="but the pillar for none: remove it"):
        amanda_encryption.ensure(encryption, platform)
    assert amanda_encryption.AGE_IDENTITY.read_bytes() == before


def test_a_server_that_never_had_the_other_kind_of_key_gets_it_though_it_has_dumps(platform):
    amanda_encryption.ensure(age(), platform)
    changes = amanda_encryption.differences(AMCRYPT, platform, dumped=True)
    assert {".am_passphrase", "am_key.gpg"} <= {*paths(changes)}
    encryption = amanda_settings.Encryption("age", (OTHER,), server_identity=False)
    amanda_encryption.AGE_IDENTITY.unlink()
    amanda_encryption.KEYS.unlink()
    amanda_encryption.ensure(encryption, platform, dumped=True)
    for recipient in (OTHER, RECIPIENT):
        changes = amanda_encryption.differences(age(recipient), platform, dumped=True)
        assert "identity" in paths(changes)


def test_a_key_whose_other_half_could_not_be_made_is_not_left_behind(platform, monkeypatch):
    def fail(_):
        raise AmandaError("gpg failed")

    monkeypatch.setattr(amanda_encryption, "_new_amcrypt_key", fail)
    with pytest.raises(AmandaError, match="gpg failed"):
        amanda_encryption.ensure(AMCRYPT, platform)
    assert not (platform.home / ".am_passphrase").exists()


def test_a_server_that_is_to_hold_no_identity_gets_none_and_seals_to_the_others(platform):
    encryption = amanda_settings.Encryption("age", (OTHER,), server_identity=False)
    assert paths(amanda_encryption.differences(encryption, platform)) == [
        "age",
        "keys",
        "recipients",
        "settings",
        "state",
    ]
    amanda_encryption.ensure(encryption, platform)
    assert not amanda_encryption.AGE_IDENTITY.exists()
    assert amanda_encryption.AGE_RECIPIENTS.read_text() == f"{OTHER}\n"
    assert amanda_encryption.differences(encryption, platform) == {}
    assert amanda_encryption.surplus(encryption) is None
    assert amanda_encryption.escrow(encryption, platform) == ()


def test_an_identity_that_the_server_is_to_hold_no_more_is_told_of_and_left_there(platform):
    amanda_encryption.ensure(age(OTHER), platform)
    before = amanda_encryption.AGE_IDENTITY.read_bytes()
    assert amanda_encryption.surplus(age(OTHER)) is None
    encryption = amanda_settings.Encryption("age", (OTHER,), server_identity=False)
    amanda_encryption.ensure(encryption, platform)
    assert amanda_encryption.AGE_IDENTITY.read_bytes() == before
    assert amanda_encryption.AGE_RECIPIENTS.read_text() == f"{OTHER}\n"
    assert f"shred -u {amanda_encryption.AGE_IDENTITY}" in amanda_encryption.surplus(encryption)


def test_a_recipient_that_is_taken_out_is_not_called_one_that_was_added(platform):
    amanda_encryption.ensure(age(OTHER), platform)
    path = amanda_encryption.AGE_RECIPIENTS
    moment = time.mktime((2026, 11, 2, 1, 0, 0, 0, 0, -1))
    os.utime(path, (moment, moment))
    before = [dump("20261103010000")]
    encryption = amanda_settings.Encryption("age", (OTHER,), server_identity=False)
    amanda_encryption.ensure(encryption, platform)
    assert path.read_text() == f"{OTHER}\n"
    assert amanda_encryption.sealed_to_others(before) == []
    amanda_encryption.ensure(dataclasses.replace(encryption, recipients=(RECIPIENT,)), platform)
    assert amanda_encryption.sealed_to_others(before) == [("web1", "/etc")]


def test_what_opens_the_dumps_is_listed_for_escrow(platform):
    assert amanda_encryption.escrow(age(), platform) == (amanda_encryption.AGE_IDENTITY,)
    names = [path.name for path in amanda_encryption.escrow(AMCRYPT, platform)]
    assert names == [".am_passphrase", "am_key.gpg"]


def test_what_was_sealed_before_a_recipient_was_added_is_told_until_the_next_full_dump(platform):
    path = amanda_encryption.AGE_RECIPIENTS
    assert amanda_encryption.sealed_to_others([dump("20261101010000")]) == []
    path.parent.mkdir(parents=True)
    path.write_text(OTHER)
    moment = time.mktime((2026, 11, 2, 1, 0, 0, 0, 0, -1))
    os.utime(path, (moment, moment))
    old, increment = dump("20261101010000"), dump("20261103010000", level=1)
    assert amanda_encryption.sealed_to_others([old, increment]) == [("web1", "/etc")]
    assert amanda_encryption.sealed_to_others([old, dump("20261103010000")]) == []


def dump(timestamp, level=0):
    return Dump("daily", "web1", "/etc", timestamp, level, "OK", (), None, None, None, 5, "")
