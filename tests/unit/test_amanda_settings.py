"""The pillar is read strictly: each fault is named by its key, with the remedy."""

import amanda_directories
import amanda_settings
import pytest
import yaml
from amanda_errors import ArgumentError, PillarError

RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
SERVER = {"server": "backup-server"}


def parse(minion="backup-server", **keys):
    return amanda_settings.parse({**SERVER, **keys}, minion)


def fault(minion="backup-server", **keys):
    with pytest.raises(PillarError) as caught:
        parse(minion, **keys)
    return caught.value


def test_the_server_s_name_alone_is_a_complete_pillar():
    settings = parse()
    assert settings.is_server
    assert settings.is_client
    assert sorted(settings.directories) == ["/etc", "/home"]
    assert list(settings.configs) == ["daily"]
    assert settings.encryption.method == "age"
    assert settings.mirror is None


def test_any_other_minion_is_a_client_only():
    settings = parse("web1")
    assert not settings.is_server
    assert settings.is_client


def test_no_directories_take_a_minion_out_of_the_backup():
    assert not parse("web1", directories={}).is_client


def test_the_example_pillar_is_valid(request):
    pillar = request.config.rootpath / "pillar"
    merged = {}
    for name in ("backup.sls", "backup-server.sls"):
        merged.update(yaml.safe_load((pillar / name).read_text(encoding="utf-8"))["backup"])
    assert amanda_settings.parse(merged, "backup-server").is_server


def test_settings_survive_the_way_into_a_run_s_specification():
    settings = parse(configs={"weekly": {"dumpcycle": "2 weeks", "tapecycle": 20}})
    assert amanda_settings.from_dict(settings.to_dict()) == settings


def test_a_pillar_of_which_an_sls_failed_to_render_is_broken_though_the_rest_looks_complete():
    pillar = {"backup": SERVER, "_errors": ["Rendering SLS 'backup-server' failed: hunter2"]}
    with pytest.raises(PillarError, match="^pillar backup: the master could not render") as caught:
        amanda_settings.of_minion(pillar, "web1")
    assert "salt web1 pillar.items" in str(caught.value) and "hunter2" not in str(caught.value)
    assert amanda_settings.of_minion({"backup": SERVER}, "web1") == parse("web1")
    with pytest.raises(PillarError, match="a mapping is needed, not nothing"):
        amanda_settings.of_minion({}, "web1")


@pytest.mark.parametrize(
    ("given", "seconds"), [(None, 3600), (True, 3600), (0, 0), (60, 60), (False, None)]
)
def test_for_how_long_a_run_verifies_older_dumps_is_said_in_seconds(given, seconds):
    assert parse(configs={"daily": {"verify": given}}).config().verify == seconds


def test_a_misspelt_key_is_named_with_the_key_that_was_meant():
    error = fault(configs={"daily": {"tapecyle": 9}})
    assert error.key == "backup:configs:daily:tapecyle"
    assert "Did you mean tapecycle?" in str(error)


@pytest.mark.parametrize(
    ("key", "pillar"),
    [
        ("backup:server", {"server": None}),
        ("backup:server", {"server": "two words"}),
        ("backup:server", {"server": 7}),
        ("backup:sever", {"sever": "x"}),
        ("backup:configs", {"configs": ["daily"]}),
        ("backup:configs:daily", {"configs": {}}),
        ("backup:configs:daily:verify", {"configs": {"daily": {"verify": "1 hour"}}}),
        ("backup:configs:daily:verify", {"configs": {"daily": {"verify": -1}}}),
        ("backup:configs:../x", {"configs": {"../x": {}}}),
        ("backup:configs:holding", {"configs": {"holding": {}}}),
        ("backup:configs:Daily", {"configs": {"daily": {}, "Daily": {}}}),
        ("backup:configs:daily:tapecycle", {"configs": {"daily": {"tapecycle": "ten"}}}),
        ("backup:configs:daily:tapecycle", {"configs": {"daily": {"tapecycle": True}}}),
        ("backup:configs:daily:slots", {"configs": {"daily": {"tapecycle": 9, "slots": 8}}}),
        ("backup:configs:daily:dumpcycle", {"configs": {"daily": {"dumpcycle": "soon"}}}),
        ("backup:configs:daily:dumpcycle", {"configs": {"daily": {"dumpcycle": 0}}}),
        ("backup:configs:daily:dumpcycle", {"configs": {"daily": {"dumpcycle": "99999 weeks"}}}),
        ("backup:configs:daily:dumpcycle", {"configs": {"daily": {"dumpcycle": 10001}}}),
        ("backup:configs:daily:cron", {"configs": {"daily": {"cron": "every day"}}}),
        ("backup:configs:daily:cron", {"configs": {"daily": {"cron": 5}}}),
        ("backup:configs:daily:org", {"configs": {"daily": {"org": 'x"\nincludefile "y'}}}),
        ("backup:configs:daily:maxdumps", {"configs": {"daily": {"maxdumps": "many"}}}),
        (
            "backup:configs:daily:tapetype:rawtape",
            {"configs": {"daily": {"tapetype": {"rawtape": 1}}}},
        ),
        ("backup:directories", {"directories": ["/etc"]}),
        ("backup:directories:etc", {"directories": {"etc": None}}),
        ("backup:directories:/a/../b", {"directories": {"/a/../b": None}}),
        ("backup:directories:/a/", {"directories": {"/a/": None}}),
        ("backup:directories:/a:exclude", {"directories": {"/a": {"exclude": "./x"}}}),
        ("backup:directories:/a:mounts", {"directories": {"/a": {"mounts": "yes"}}}),
        ("backup:directories:/a:excludes", {"directories": {"/a": {"excludes": []}}}),
        ("backup:paths:tapes", {"paths": {"tapes": "vtapes"}}),
        ("backup:paths:tapes", {"paths": {"tapes": "/x/../y"}}),
        ("backup:paths:tapes", {"paths": {"tapes": "/same", "holding": "/same"}}),
        ("backup:paths:tapes", {"paths": {"tapes": "/srv/b/tapes", "holding": "/srv/b"}}),
        ("backup:paths:state", {"paths": {"tapes": "/srv/b", "state": "/srv/b/state"}}),
        ("backup:paths:tapes", {"paths": {"tapes": "/var/lib/amanda/daily"}}),
        ("backup:paths:tapes", {"paths": {"tapes": "/var/lib/amanda/gnutar-lists/x"}}),
        ("backup:paths:tapes", {"paths": {"tapes": "/"}}),
        ("backup:paths:tapes", {"paths": {"tapes": "/home"}}),
        ("backup:paths:holding", {"paths": {"holding": "/etc"}}),
        ("backup:paths:holding", {"paths": {"holding": "/usr/lib/holding"}}),
        ("backup:paths:state", {"paths": {"state": "/var/lib/salt-amanda/state"}}),
        ("backup:paths:tapes", {"paths": {"tapes": "/var/log/amanda/tapes"}}),
        ("backup:encryption:method", {"encryption": {"method": "rot13"}}),
        ("backup:encryption:recipients", {"encryption": {"recipients": RECIPIENT}}),
        ("backup:encryption:recipients", {"encryption": {"recipients": ["ssh-rsa AAAA"]}}),
        ("backup:mirror:user", {"mirror": {"directory": "/m"}}),
        ("backup:mirror:directory", {"mirror": {"user": "m"}}),
        ("backup:mirror:user", {"mirror": {"user": "root", "directory": "/m"}}),
        ("backup:mirror:directory", {"mirror": {"user": "m", "directory": "/etc"}}),
        ("backup:keep_retired", {"keep_retired": 0}),
        ("backup:mirror:keep", {"mirror": {"user": "m", "directory": "/m", "keep": "long"}}),
        ("backup:address", {"address": "not an address"}),
        ("backup:server_addresses", {"server_addresses": ["10.0.0.0/8", "all"]}),
        ("backup:server_addresses", {"server_addresses": ["0.0.0.0/0"]}),
        ("backup:server_addresses", {"server_addresses": [5]}),
        ("backup:server_addresses", {"server_addresses": [True]}),
        ("backup:port", {"port": 0}),
        ("backup:compress", {"compress": "lzma"}),
        ("backup:mailto", {"mailto": "root\nevil: |sh"}),
        ("backup:mailto", {"mailto": "|/bin/sh"}),
        ("backup:mailto", {"mailto": "root; reboot"}),
        ("backup:mailto", {"mailto": "/etc/passwd"}),
        ("backup:mailto", {"mailto": "ada bob"}),
        ("backup:mailto", {"mailto": "root,:include:/etc/shadow"}),
        ("backup:directories:/a#b", {"directories": {"/a#b": None}}),
        ("backup:directories:/a ", {"directories": {"/a ": None}}),
        ("backup:directories:/a\\b", {"directories": {"/a\\b": None}}),
        ("backup:directories:/" + "a" * 200, {"directories": {"/" + "a" * 200: None}}),
        ("backup:directories:/a:exclude", {"directories": {"/a": {"exclude": ["/tmp"]}}}),
        ("backup:directories:/a:exclude", {"directories": {"/a": {"exclude": ["./x\\"]}}}),
        ("backup:directories:/a:exclude", {"directories": {"/a": {"exclude": ["./x\n"]}}}),
        ("backup:directories:/a:exclude", {"directories": {"/a": {"exclude": ["./x"] * 101}}}),
        ("backup:directories:/a:config", {"directories": {"/a": {"config": "7 days"}}}),
    ],
)
def test_a_malformed_value_is_named_by_its_key(key, pillar):
    error = fault(**pillar)
    assert error.key == key
    assert error.remedy


@pytest.mark.parametrize("pillar", [None, [], "backup-server"])
def test_a_pillar_that_is_no_mapping_is_named(pillar):
    with pytest.raises(PillarError, match="pillar backup: a mapping is needed"):
        amanda_settings.parse(pillar, "web1")


def test_too_few_tapes_for_the_cycle_name_the_number_that_is_needed():
    error = fault(configs={"daily": {"dumpcycle": "7 days", "runtapes": 2, "tapecycle": 14}})
    assert error.key == "backup:configs:daily:tapecycle"
    assert "Give at least 15" in str(error)


def test_a_cycle_of_a_single_run_needs_a_tape_more_as_amanda_would_say_at_each_check():
    """In amcheck's words: runtapes is larger or equal to retention-tapes."""
    keys = {"dumpcycle": 1, "tapecycle": 2}
    assert "Give at least 3" in str(fault(configs={"daily": keys}))
    assert parse(configs={"daily": {"dumpcycle": 1, "runtapes": 5}}).config().tapecycle == 8


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"runspercycle": 10000, "runtapes": 1000}, "runtapes"),
        ({"runspercycle": 10000, "runtapes": 10}, "runtapes"),
        ({"tapecycle": 99999}, "tapecycle"),
        ({"runspercycle": 10000, "runtapes": 6}, "tapecycle"),
    ],
)
def test_no_default_asks_for_more_tapes_than_the_pillar_itself_may(keys, named):
    assert fault(configs={"daily": keys}).key == f"backup:configs:daily:{named}"


def test_what_the_pillar_gives_itself_may_be_as_much_as_there_can_be():
    keys = {"dumpcycle": "10000 days", "runtapes": 9, "tapecycle": 100000, "slots": 100000}
    assert parse(configs={"daily": keys}).config().slots == 100000


def test_a_server_without_an_identity_seals_to_offsite_keys_alone():
    assert parse().encryption.server_identity
    offsite = {"recipients": [RECIPIENT], "server_identity": False}
    settings = parse(encryption=offsite)
    assert not settings.encryption.server_identity
    assert not amanda_settings.from_dict(settings.to_dict()).encryption.server_identity


@pytest.mark.parametrize(
    ("encryption", "said"),
    [
        ({"server_identity": False}, "list at least one recipient"),
        ({"server_identity": False, "recipients": []}, "list at least one recipient"),
        ({"server_identity": False, "method": "amcrypt"}, "Choose method age"),
        (
            {"server_identity": False, "method": "amcrypt", "recipients": [RECIPIENT]},
            "Choose method age",
        ),
        ({"server_identity": "no", "recipients": [RECIPIENT]}, "neither true nor false"),
        ({"server_identity": 0, "recipients": [RECIPIENT]}, "neither true nor false"),
    ],
)
def test_no_identity_where_nobody_could_open_the_dumps_is_refused(encryption, said):
    error = fault(encryption=encryption)
    assert error.key == "backup:encryption:server_identity"
    assert said in str(error)


def test_a_mirror_without_recipients_is_refused_with_the_way_to_make_one():
    error = fault(mirror={"user": "mirror", "directory": "/mirror"})
    assert error.key == "backup:encryption:recipients"
    assert "age-keygen" in error.remedy


def test_a_recipient_with_a_slip_is_told_by_its_checksum():
    error = fault(encryption={"recipients": [RECIPIENT.replace("hyww5", "hywv5")]})
    assert error.key == "backup:encryption:recipients"
    assert "hywv5" in str(error) and "Copy the line" in error.remedy


SECRET = "AGE-SECRET-KEY-1QQPQQQSQ6Q5ZQXGPQGPSQYSQTQPQQQSQ6Q5ZQXGPQGPSQYSQTQPQQQS"


@pytest.mark.parametrize(
    "recipients",
    [
        [SECRET],
        SECRET,
        [RECIPIENT, SECRET.lower()],
        f"# created today\n# public key: {RECIPIENT}\n{SECRET}\n",
        [f"{RECIPIENT} {SECRET}"],
        {SECRET: None},
        [{"key": SECRET}],
        [[SECRET]],
        [7, SECRET],
        ["-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n"],
    ],
)
def test_a_secret_key_among_the_recipients_is_told_but_never_shown(recipients):
    error = fault(encryption={"recipients": recipients})
    assert error.key.startswith("backup:encryption:recipients")
    assert "a secret key" in error.problem and "age1" in error.remedy
    for shown in (str(error), repr(error), *map(str, error.args)):
        assert "QQPQQQSQ6Q5Z" not in shown.upper() and "b3Blb" not in shown


@pytest.mark.parametrize(
    "pillar",
    [
        {"mailto": SECRET},
        {"encryption": SECRET},
        {SECRET: 1},
        {"mirror": {"user": f"{SECRET} x", "directory": "/m"}},
        {"encryption": {SECRET: None}},
        {"encryption": {"recipient": [SECRET]}},
        {"configs": {SECRET: {"colour": 1}}},
        {"configs": {"daily": {"org": SECRET + '"'}}},
        {"directories": {"/etc": {"exclude": [f"/{SECRET}"]}}},
        {"server_addresses": [SECRET]},
        {"address": SECRET},
    ],
)
def test_a_secret_key_in_any_other_place_is_not_shown_either(pillar):
    assert "QQPQQQSQ6Q5Z" not in str(fault(**pillar))


@pytest.mark.parametrize(
    ("recipients", "shown"),
    [
        ([RECIPIENT, "1QQPQQQSQ6Q5ZQXGPQGPSQYSQ"], "entry 2 is no age public key"),
        ([RECIPIENT, ["x"]], "entry 2 is no age public key: it is no text"),
        ([7], "entry 1 is no age public key: it is no text"),
    ],
)
def test_what_is_no_recipient_is_named_by_its_place(recipients, shown):
    error = fault(encryption={"recipients": recipients})
    assert shown in str(error) and "QQPQ" not in str(error)


class Masked(list):
    """As Salt 3008 gives the pillar's lists: it shows itself as asterisks."""

    def __repr__(self):
        return "['**********']"

    __str__ = __repr__


@pytest.mark.parametrize(
    "pillar",
    [
        {"server": Masked(["x"])},
        {"mailto": Masked(["x"])},
        {"port": Masked(["x"])},
        {"compress": Masked(["x"])},
        {"configs": Masked(["x"])},
        {"configs": {"daily": {"dumpcycle": Masked(["x"]), "cron": Masked(["x"])}}},
        {"configs": {"daily": {"cron": Masked(["x"])}}},
        {"configs": {"daily": {"bumpsize": Masked(["x"])}}},
        {"paths": {"tapes": Masked(["x"])}},
        {"server_addresses": [Masked(["x"])]},
        {"encryption": {"recipients": [Masked(["x"])]}},
        {"directories": {"/a": Masked(["x"])}},
    ],
)
def test_a_list_in_a_wrong_place_is_called_a_list_whatever_salt_made_of_it(pillar):
    said = str(fault(**pillar))
    assert "*" not in said.replace("0 1 * * *", "") and "Masked" not in said
    assert "a list" in said or "no text" in said


def test_a_mirror_with_a_recipient_is_kept_for_thirty_days():
    settings = parse(
        mirror={"user": "mirror", "directory": "/mirror"}, encryption={"recipients": [RECIPIENT]}
    )
    assert settings.mirror == amanda_settings.Mirror("mirror", "/mirror", 30)


def test_a_mirror_takes_offsite_recipients_with_age_and_none_with_amcrypt_which_has_none():
    mirror = {"user": "copier", "directory": "/mirror"}
    assert "age-keygen" in str(fault(mirror=mirror))
    assert parse(mirror=mirror, encryption={"method": "amcrypt"}).mirror.user == "copier"


def test_amcrypt_goes_with_gzip_since_zstd_could_not_be_read_back():
    assert parse(encryption={"method": "amcrypt"}).compress == "gzip"
    assert parse().compress == "zstd"
    error = fault(encryption={"method": "amcrypt"}, compress="zstd")
    assert error.key == "backup:compress"


def test_weeks_are_counted_in_days():
    assert parse(configs={"daily": {"dumpcycle": "2 weeks"}}).config("daily").dumpcycle == 14


def test_the_only_config_needs_no_name_but_one_of_several_does():
    assert parse().config().name == "daily"
    two = parse(configs={"daily": {}, "weekly": {}})
    with pytest.raises(ArgumentError, match="daily, weekly"):
        two.config()
    with pytest.raises(ArgumentError, match="no config 'yearly'"):
        two.config("yearly")
    with pytest.raises(ArgumentError, match="name one of"):
        two.config(["daily"])


def test_a_former_entry_of_a_client_s_own_directories_does_not_hold_back_the_others(tmp_path):
    path = tmp_path / "directories.json"
    path.write_text('{"/srv/a#b": {"exclude": ["/x"]}, "/srv/wiki": {}}')
    assert list(amanda_directories.read(path)) == ["/srv/a#b", "/srv/wiki"]


def test_where_the_mirror_is_mounted_it_may_be(tmp_path):
    mirror = {"user": "mirror", "directory": "/mnt"}
    assert parse(mirror=mirror, encryption={"recipients": [RECIPIENT]}).mirror.directory == "/mnt"


@pytest.mark.parametrize(
    ("paths", "directory", "key"),
    [
        ({"tapes": "/srv/b/tapes"}, "/srv/b", "backup:paths:tapes"),
        ({"tapes": "/srv/b"}, "/srv/b/mirror", "backup:mirror:directory"),
        ({"holding": "/srv/b"}, "/srv/b", "backup:paths:holding"),
        ({}, "/var/lib/amanda/mirror", "backup:mirror:directory"),
    ],
)
def test_mirror_and_tapes_lie_apart(paths, directory, key):
    mirror = {"user": "mirror", "directory": directory}
    error = fault(paths=paths, mirror=mirror, encryption={"recipients": [RECIPIENT]})
    assert error.key == key and "its own" in error.remedy


def test_a_pillar_error_of_a_mapping_says_in_words_what_stands_there():
    assert "a mapping is needed, not text" in str(fault(configs="daily"))


def test_a_promise_is_in_days_and_what_it_leaves_open_follows_from_the_runs():
    config = parse(configs={"daily": {"promise": {"backup": "3 days", "space": 7}}}).config()
    assert config.promise == amanda_settings.Promise(backup=3, mirror=None, drill=35, space=7)
    assert parse().config().promise == amanda_settings.Promise()


@pytest.mark.parametrize(
    ("promise", "key"),
    [
        ({"backups": "3 days"}, "backups: unknown key. Did you mean backup?"),
        ({"backup": "soon"}, "backup: "),
        ({"drill": 0}, "drill: "),
        (["backup"], ""),
    ],
)
def test_a_promise_that_can_not_be_read_is_named_by_its_key(promise, key):
    error = fault(configs={"daily": {"promise": promise}})
    assert str(error).startswith(f"pillar backup:configs:daily:promise{':' if key else ''}{key}")
