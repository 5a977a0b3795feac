"""What can't be: named with its remedy before anything changes, and what is in use stays."""

import amanda_age
import pytest

from tests.integration.conftest import Pillar, pillar_root
from tests.integration.fleet import apply, changed, edited, forget, listing, single

SERVER = "backup-server"
CONF = "/etc/amanda/daily/amanda.conf"
RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
MIRROR = {"user": "backup", "directory": "/srv/mirror"}


def daily(**keys):
    """Return the pillar with these keys of the config daily."""
    return {"configs": {"daily": keys}}


# What the pillar backup says more, the key that the error names, words of the remedy. What can be
# told from the pillar alone has more cases in the unit tests of amanda_settings.
BAD = {
    "an unknown key": ({"colour": "red"}, "backup:colour", "Known: "),
    "a text for a number": (daily(tapecycle="ten"), "backup:configs:daily:tapecycle", "Give 1 to"),
    "too few tapes for the cycle": (
        daily(tapecycle=7),
        "backup:configs:daily:tapecycle",
        "Give at least 8, or shorten dumpcycle",
    ),
    "a text for it all": ("yes", "backup", "a mapping is needed, not text"),
    "a tape root that is no directory": (
        {"paths": {"tapes": "/var/lib/dpkg/status"}},
        "backup:paths:tapes",
        "Move it away or name another directory",
    ),
    "a tape root below a file": (
        {"paths": {"tapes": "/var/lib/dpkg/status/vtapes"}},
        "backup:paths:tapes",
        "/var/lib/dpkg/status is not a directory",
    ),
    "a mirror without recipients": (
        {"mirror": MIRROR},
        "backup:encryption:recipients",
        "age-keygen -o offsite.key",
    ),
    "a mirror's user who doesn't exist": (
        {
            "mirror": {**MIRROR, "user": "nobody-here"},
            "encryption": {"recipients": [RECIPIENT]},
        },
        "backup:mirror:user",
        "Create it first",
    ),
    "a mirror's user who may read all files": (
        {"mirror": MIRROR, "encryption": {"recipients": [RECIPIENT]}},
        "backup:mirror:user",
        "useradd --system mirror",
    ),
    "tapes in a directory of the system": (
        {"paths": {"tapes": "/etc"}},
        "backup:paths:tapes",
        "for the backups alone",
    ),
    "tapes in someone else's directory": (
        {"paths": {"tapes": "/var/lib/apt"}, "configs": {"lists": {}}},
        "backup:paths:tapes",
        "Move it away or name another directory",
    ),
}


@pytest.fixture(scope="module")
def before(fleet):
    """Give what is on the server's disk before all the errors."""
    apply(fleet, SERVER)  # no test before leaves it anything to put right
    return listing(fleet, SERVER)


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named_with_its_remedy_before_anything_changes(fleet, before, what):
    bad, key, remedy = BAD[what]
    first, *others = apply(fleet, SERVER, check=False, pillar={"backup": bad})[SERVER]
    assert (first["__id__"], first["result"], first["changes"]) == ("backup pillar", False, {})
    assert first["comment"].startswith(f"pillar {key}: "), first["comment"]
    assert remedy in first["comment"] and "Traceback" not in first["comment"]
    for state in others:
        assert state["result"] is False and state["changes"] == {}
        assert "requisite failed" in state["comment"]
    assert listing(fleet, SERVER) == before


def test_a_dry_run_meets_the_same_error(fleet, before):
    bad, key, _ = BAD["too few tapes for the cycle"]
    states = apply(fleet, SERVER, check=False, test=True, pillar={"backup": bad})[SERVER]
    assert states[0]["result"] is False and key in states[0]["comment"]
    assert listing(fleet, SERVER) == before


def test_bad_input_on_the_master_fails_functions_with_the_same_words(fleet, pillar, before):
    pillar.add("bad", daily(tapecycle=7), SERVER)
    pillar.refresh()
    states = apply(fleet, SERVER, check=False)[SERVER]
    for function in ("backup_and_mirror", "collect", "check", "retire web1", "label"):
        said = fleet.salt(SERVER, *f"amanda.{function}".split(), check=False)[SERVER]
        assert states[0]["comment"] in said, function
    assert listing(fleet, SERVER) == before


def test_a_minion_without_the_pillar_is_told_that_nothing_is_done(fleet, pillar):
    pillar.write("top.sls", {"base": {SERVER: ["backup", "backup-server"]}})
    before_it = listing(fleet, "web1")
    pillar.refresh()
    (state,) = apply(fleet, "web1")["web1"]
    assert state["result"] is True and state["changes"] == {}
    assert "no pillar 'backup', so nothing is done" in state["comment"]
    assert listing(fleet, "web1") == before_it


# --- amanda.conf ---


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"dumpcycle {{ dumpcycle }}", b"dumpcicle {{ dumpcycle }}", "amanda.conf', line 5"),
        (b'storage "{{ storage }}"\n', b'storage "elsewhere"\n', "elsewhere"),
        (b"{{ dumpcycle }}", b"{{ dumpcicle }}", "dumpcicle"),
        (b"{{ dumpcycle }}", b"{{ dumpcycle }", "line 5"),
    ],
    ids=["a keyword", "a name", "a variable", "a bracket"],
)
def test_an_amanda_conf_broken_by_an_edit_is_refused_and_the_one_in_use_stays(
    fleet, before, old, new, words
):
    in_use = fleet.read(SERVER, CONF)
    with edited(fleet, "salt/backup/files/amanda.conf.jinja", old, new):
        foretold = apply(fleet, SERVER, check=False, test=True)[SERVER]
        states = {each["__id__"]: each for each in apply(fleet, SERVER, check=False)[SERVER]}
    refused = states["Amanda config daily"]
    assert refused["result"] is False and refused["changes"] == {}
    assert words in refused["comment"] and "Traceback" not in refused["comment"]
    assert refused["comment"] in [each["comment"] for each in foretold]
    assert "requisite failed" in states["tapes of daily"]["comment"]
    assert [name for name, state in states.items() if state["result"] is False] == [
        "Amanda config daily",
        "tapes of daily",
        "settings of the last good apply",
    ]
    assert fleet.read(SERVER, CONF) == in_use
    assert listing(fleet, SERVER) == before


def test_what_amanda_alone_knows_to_be_wrong_in_the_pillar_is_refused_by_amanda(fleet, before):
    bad = daily(bumpsize="999999999999999 tbytes")
    states = apply(fleet, SERVER, check=False, pillar={"backup": bad})[SERVER]
    (refused,) = [each for each in states if each["__id__"] == "Amanda config daily"]
    assert refused["result"] is False and b"999999" not in fleet.read(SERVER, CONF)
    assert refused["comment"].startswith("pillar backup:configs:daily:bumpsize: Amanda can't read")
    assert listing(fleet, SERVER) == before


def test_a_secret_key_in_the_pillar_is_told_and_shown_nowhere(fleet, before, pillar):
    secret = amanda_age.new_identity().decode().split()[-1]
    pillar.add("bad", {"encryption": {"recipients": [secret]}}, SERVER)
    pillar.refresh()
    answers = [apply(fleet, SERVER, check=False), fleet.salt(SERVER, "amanda.check", check=False)]
    assert "backup:encryption:recipients: a secret key" in str(answers[0])
    log = fleet.run(SERVER, ["sh", "-c", "cat /var/log/salt/minion; journalctl -q"]).stdout.decode()
    for told in (*map(str, answers), log):
        assert secret[16:] not in told
    assert listing(fleet, SERVER) == before


def test_a_mirror_that_is_not_mounted_is_told_and_keeps_nothing_else_from_being_set_up(fleet):
    mirror = {"user": "nobody", "directory": "/srv/not-mounted"}
    asked = {"mirror": mirror, "encryption": {"recipients": [RECIPIENT]}}
    states = apply(fleet, SERVER, check=False, test=True, pillar={"backup": asked})[SERVER]
    (failed,) = [each for each in states if each["result"] is False]
    assert failed["__id__"] == "mirror" and "/srv/not-mounted doesn't exist" in failed["comment"]


# --- functions ---


@pytest.fixture(scope="module")
def dumped(fleet):
    """Give the name of a config with one dump of web1's /srv/small, which holds 4 MB."""
    pillar = Pillar(fleet, pillar_root(fleet.name))
    pillar.add("errors", {"configs": {"errors": {"dumpcycle": "1 day", "cron": False}}}, SERVER)
    fleet.run("web1", ["sh", "-c", "mkdir -p /srv/small; head -c 4M /dev/urandom >/srv/small/big"])
    apply(fleet, SERVER)
    single(fleet, "web1", "amanda.directory", "/srv/small", config="errors")
    assert fleet.salt(SERVER, "amanda.backup", "errors")[SERVER]["success"]
    yield "errors"
    single(fleet, "web1", "amanda.directory_absent", "/srv/small")
    pillar.reset()
    pillar.refresh()
    forget(fleet, "errors")


def test_a_config_that_leaves_the_pillar_is_told_while_its_tapes_hold_dumps(fleet, dumped):
    pillar = Pillar(fleet, pillar_root(fleet.name))
    pillar.reset()
    try:
        states = apply(fleet, SERVER)[SERVER]
    finally:
        pillar.add("errors", {"configs": {"errors": {"dumpcycle": "1 day", "cron": False}}}, SERVER)
        pillar.refresh()
    assert changed(states) == ["settings of the last good apply"] and {
        each["result"] for each in states
    } == {True}
    (told,) = states[0]["warnings"]
    assert told.startswith("errors is no longer in pillar backup:configs, but 1 of its tapes")
    assert "warnings" not in apply(fleet, SERVER)[SERVER][0]


def test_tapes_are_not_left_behind_when_the_pillar_names_another_place(fleet, dumped):
    moved = {"paths": {"tapes": "/srv/elsewhere"}}
    conf = "/etc/amanda/errors/amanda.conf"
    in_use = fleet.read(SERVER, conf)
    for options in ({"test": True}, {}):
        states = apply(fleet, SERVER, check=False, pillar={"backup": moved}, **options)[SERVER]
        (refused,) = [each for each in states if each["__id__"] == "Amanda config errors"]
        assert refused["result"] is False and refused["changes"] == {}
        assert "pillar backup:paths:tapes: " in refused["comment"]
        assert "move what is in it to /srv/elsewhere/errors first" in refused["comment"]
    assert fleet.read(SERVER, conf) == in_use
    apply(fleet, SERVER)  # a config that holds no dump goes back where it was
    fleet.run(SERVER, ["rm", "-rf", "/srv/elsewhere"])


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        ("backup", ["nope"], ["'nope'", "daily, errors"]),
        ("check", ["nope"], ["'nope'", "daily, errors"]),
        ("label", ["nope"], ["'nope'", "daily, errors"]),
        ("backup", [], ["several configs", "daily, errors"]),
        ("ls", ["nobody", "/etc"], ["'nobody'", "web1"]),
        ("versions", ["nobody", "/etc"], ["'nobody'", "web1"]),
        ("recover", ["nobody", "/etc"], ["'nobody'", "web1"]),
        ("recover", ["web1", "/opt/none"], ["/opt/none", "/srv/small"]),
        ("recover", ["web1", "/srv/small/none"], ["/srv/small/none"]),
        ("recover", ["web1", "srv/small"], ["srv/small", "absolute"]),
        ("recover", ["web1", "/srv/small", "2001-02-03"], ["2001-02-03"]),
        ("recover", ["web1", "/srv/small", "yesterday"], ["'yesterday'"]),
        ("ls", ["web1", "/srv/small", None, "floppy"], ["'floppy'", "mirror"]),
    ],
)
def test_a_function_says_what_is_wrong_with_its_arguments_and_what_there_is(
    fleet, dumped, function, arguments, words
):
    recovered = ["find", "/var/lib/salt-amanda/recovered", "-mindepth", "1"]
    before_it = fleet.run(SERVER, recovered, check=False).stdout
    said = fleet.salt(SERVER, f"amanda.{function}", *arguments, check=False)[SERVER]
    assert isinstance(said, str) and "Traceback" not in said
    assert all(word in said for word in words), said
    assert fleet.run(SERVER, recovered, check=False).stdout == before_it


@pytest.mark.parametrize("function", ["backup_and_mirror", "collect", "check", "tapes", "run_due"])
def test_a_function_of_the_server_says_on_a_client_where_to_call_it(fleet, function):
    said = fleet.salt("web1", f"amanda.{function}", check=False)["web1"]
    assert "this minion is not the Amanda server: call it on 'backup-server'" in said


def test_a_destination_that_is_not_empty_is_refused_and_stays_as_it_is(fleet, dumped):
    fleet.write(SERVER, "/srv/back/mine", b"mine\n")
    where = {"destination": "/srv/back"}
    said = fleet.salt(SERVER, "amanda.recover", "web1", "/srv/small", check=False, **where)
    assert "/srv/back" in said[SERVER] and "empty" in said[SERVER]
    assert fleet.run(SERVER, ["find", "/srv/back"]).stdout == b"/srv/back\n/srv/back/mine\n"


def test_a_destination_that_fills_up_is_an_error_and_nothing_half_done_stays(fleet, dumped):
    fleet.run(SERVER, ["mkdir", "-p", "/srv/tiny"])
    fleet.run(SERVER, ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/srv/tiny"])
    try:
        where = {"destination": "/srv/tiny/back"}
        said = fleet.salt(SERVER, "amanda.recover", "web1", "/srv/small", check=False, **where)
        assert "/srv/tiny/back is full" in said[SERVER] and "destination=" in said[SERVER], said
        assert fleet.run(SERVER, ["find", "/srv/tiny", "-mindepth", "1"]).stdout == b""
    finally:
        fleet.run(SERVER, ["umount", "/srv/tiny"])
