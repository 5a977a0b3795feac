"""Which DLEs need a full dump since what they leave out, or how they are sealed, has changed."""

import amanda_terms
import pytest
from amanda_fleet import Client, Directory, Fleet

TYPE = "encrypt-amgtar-ssh"
WEB = ("web1", "/home")


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setattr(amanda_terms, "TERMS", tmp_path / "terms")


def terms(*exclude, dumptype=TYPE, path="/home", key="", **options):
    directory = Directory(path, "daily", exclude, **options)
    client = Client("web1", "192.0.2.7", 22, ("ssh-ed25519 AAAA",), "", (directory,))
    return amanda_terms.of(Fleet((client,)), "daily", dumptype, key)


def dumped(level=0, dumped=True, dle=WEB):
    return {"host": dle[0], "disk": dle[1], "level": level, "dumped": dumped}


def changed(wanted):
    return amanda_terms.changed("daily", wanted)


def test_what_was_never_dumped_is_not_changed():
    assert changed(terms("./tmp")) == []


def test_an_exclude_that_was_taken_out_is_a_change_until_the_next_full_dump():
    amanda_terms.record("daily", terms("./tmp"), [dumped()])
    assert changed(terms("./tmp")) == []
    assert changed(terms()) == [WEB]
    amanda_terms.record("daily", terms(), [dumped(level=1)])
    amanda_terms.record("daily", terms(), [dumped(dumped=False)])
    assert changed(terms()) == [WEB]
    amanda_terms.record("daily", terms(), [dumped()])
    assert changed(terms()) == []


@pytest.mark.parametrize(
    "other", [{"dumptype": "encrypt-gnutar-ssh"}, {"mounts": True}, {"key": "age1"}]
)
def test_another_way_to_dump_is_a_change(other):
    amanda_terms.record("daily", terms(), [dumped()])
    assert changed(terms(**other)) == [WEB]


def test_what_comes_back_under_other_terms_is_changed():
    amanda_terms.record("daily", terms("./tmp"), [dumped()])
    amanda_terms.record("daily", terms(path="/etc"), [dumped(dle=("web1", "/etc"))])
    assert changed(terms()) == [WEB]


def test_when_the_terms_are_damaged_all_is_dumped_in_full_once():
    amanda_terms.record("daily", terms(), [dumped()])
    (amanda_terms.TERMS / "daily.json").write_text("{")
    assert changed(terms()) == [WEB]
    amanda_terms.record("daily", terms(), [dumped(dumped=False)])
    assert changed(terms()) == [WEB]
    amanda_terms.record("daily", terms(), [dumped()])
    assert changed(terms()) == []


def test_once_the_history_is_lost_each_dle_is_changed_until_its_next_full_dump():
    amanda_terms.record("daily", terms(), [dumped()])
    amanda_terms.forget("daily")
    both = {**terms(), **terms(path="/etc")}
    assert changed(both) == [WEB, ("web1", "/etc")]
    amanda_terms.record("daily", both, [dumped(level=1), dumped(0, False, ("web1", "/etc"))])
    assert changed(both) == [WEB, ("web1", "/etc")]
    amanda_terms.record("daily", both, [dumped()])
    assert changed(both) == [("web1", "/etc")]
    amanda_terms.record("daily", both, [dumped(dle=("web1", "/etc"))])
    assert changed(both) == []
