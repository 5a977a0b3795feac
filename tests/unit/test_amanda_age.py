"""age's keys as text: read, checked, and never shown."""

import amanda_age
import pytest
from amanda_errors import AmandaError

# Made by age-keygen 1.1.1, and used for nothing else.
IDENTITY = "AGE-SECRET-KEY-1KUKEM6XEA2VA7AGNPRS822CH5RQK6XUSWWL5ZHRQU7FQGXA8JJEQ5MX09Y"
RECIPIENT = "age1jjpsfslvhdls68dhtgy6pljn9t86q55qxcnhvzjrtuy5g8ukgs4s9jfkgl"
OTHER = "age1aaz9p392qtdnsv2j3wf2cyduwuzn09myklv82u7rcle56wzss3hq2qmqzg"


def test_the_public_key_is_the_one_that_age_keygen_names():
    assert amanda_age.public_key(IDENTITY) == RECIPIENT


def test_a_recipient_with_one_wrong_character_is_refused_for_its_checksum():
    with pytest.raises(ValueError, match="checksum"):
        amanda_age.check_recipient(OTHER[:-1] + "q")


@pytest.mark.parametrize(
    "text",
    ["", "age1", "age", OTHER.upper(), OTHER.replace("z9", "Z9"), OTHER + "\n", IDENTITY, "agé1"],
)
def test_what_is_no_recipient_is_refused(text):
    with pytest.raises(ValueError, match="it |mixed"):
        amanda_age.check_recipient(text)


def test_a_good_recipient_is_accepted():
    amanda_age.check_recipient(OTHER)


def test_a_file_of_identities_may_have_comments_and_blank_lines():
    content = f"# created: today\n\n{IDENTITY}\r\n".encode()
    assert amanda_age.identities(content, "k") == (IDENTITY,)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no identity"),
        (b"# only a comment\n", "holds no identity"),
        (RECIPIENT.encode(), "no age identity"),
        (IDENTITY.encode()[:-1] + b"Z", "no age identity"),
        (f"{IDENTITY}\nssh-ed25519 AAAA\n".encode(), "no age identity"),
        (b"\xff\x00" * 50, "no age identity"),
        (b"age-encryption.org/v1\n-> scrypt x 18\n", "sealed with a passphrase"),
    ],
)
def test_what_is_no_identity_is_named_and_not_shown(content, said):
    with pytest.raises(AmandaError, match=said) as caught:
        amanda_age.identities(content, "/root/k")
    assert "/root/k" in str(caught.value)
    assert "KUKEM6" not in str(caught.value)
