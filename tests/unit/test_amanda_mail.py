"""Mail about events, whose data anybody may have sent."""

import amanda_mail
import pytest
from amanda_errors import AmandaError, ArgumentError

TAG = "salt/amanda/backup-server/daily/failed"
DLES = [
    {"host": "web1", "disk": "/etc", "success": True, "reason": ""},
    {"host": "db1", "disk": "/srv/data", "success": False, "reason": "db1 does not answer"},
]
STEPS = [
    {"step": "collect", "success": True, "message": "2 directories of 2 clients"},
    {"step": "dump", "success": False, "message": "1 of 2 directories are on tape", "dles": DLES},
]


def composed(tag=TAG, to="root", **data):
    return amanda_mail.message(tag, {"data": data, "id": "backup-server"}, to, "root")


def test_the_subject_says_which_server_config_and_what():
    assert composed()["Subject"] == "Amanda on backup-server: daily failed"
    drill = composed("salt/amanda/backup-server/daily/drill/failed")
    assert drill["Subject"] == "Amanda on backup-server: daily drill failed"


def test_the_text_says_which_steps_and_directories_failed_why_and_where_to_look():
    text = composed(steps=STEPS, config="daily").get_content()
    assert "FAILED  dump: 1 of 2 directories are on tape" in text
    assert "- db1 /srv/data: db1 does not answer" in text and "web1 /etc" not in text
    assert "salt backup-server amanda.report config=daily" in text


def test_what_no_run_could_be_started_for_is_told():
    assert "the pillar is broken" in composed(message="the pillar is broken").get_content()


@pytest.mark.parametrize("evil", ["a\nBcc: eve@example.org", "a; reboot", "a\x1b[2Jb", "-rf", ""])
def test_a_tag_that_could_be_more_than_a_name_is_refused(evil):
    """It would stand in a header, and in a command that somebody is to type."""
    for tag in (f"salt/amanda/{evil}/daily/failed", f"salt/amanda/server/{evil}/failed"):
        with pytest.raises(ArgumentError, match="no event of a backup"):
            composed(tag)


def test_what_an_event_carries_makes_no_header_and_obeys_no_terminal():
    evil = "x\r\nBcc: eve@example.org\x1b[2J"
    mail = composed(message=evil, steps=[{"step": evil, "message": evil}])
    head = mail.as_bytes().split(b"\r\n\r\n")[0]
    assert b"Bcc" not in head and b"\x1b" not in mail.as_bytes()


def test_a_mail_stays_small_whatever_an_event_carries():
    many = [dict(DLES[1], reason="x" * 10_000)] * 400
    steps = [{"step": "dump", "success": False, "message": "y" * 100_000, "dles": many}]
    mail = composed(steps=steps)
    assert len(mail.as_bytes()) < 100_000 and "- and 350 more" in mail.get_content()


@pytest.mark.parametrize("data", [None, "text", [1]])
def test_what_is_no_event_of_a_backup_is_refused(data):
    for tag in (TAG, "salt/job/1/new", "amanda"):
        if tag == TAG and data is None:
            continue
        with pytest.raises(ArgumentError, match="no event of a backup"):
            amanda_mail.message(tag, data, "root", "root")


def test_an_event_whose_parts_are_of_no_known_form_is_told_all_the_same():
    text = composed(steps=["?", {"step": "dump", "dles": ["?", {"success": False}]}]).get_content()
    assert "FAILED  dump: None" in text and "- None None: None" in text
    assert composed(steps=7).get_content()


@pytest.mark.parametrize("address", ["", "root\nBcc: eve@example.org", " "])
def test_an_address_of_more_than_one_line_is_refused(address):
    with pytest.raises(ArgumentError, match="is no address"):
        composed(to=address)


def test_a_host_without_a_mail_system_is_told_of_in_words(monkeypatch, tmp_path):
    monkeypatch.setattr(amanda_mail, "SENDMAIL", str(tmp_path / "sendmail"))
    with pytest.raises(AmandaError, match="no mail system: .*sendmail is missing"):
        amanda_mail.send(composed())
