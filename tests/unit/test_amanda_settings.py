"""The pillar is read strictly: each fault is named by its key, with the remedy."""

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
        ("backup:configs:../x", {"configs": {"../x": {}}}),
        ("backup:configs:holding", {"configs": {"holding": {}}}),
        ("backup:configs:Daily", {"configs": {"daily": {}, "Daily": {}}}),
        ("backup:configs:daily:tapecycle", {"configs": {"daily": {"tapecycle": "ten"}}}),
        ("backup:configs:daily:tapecycle", {"configs": {"daily": {"tapecycle": True}}}),
        ("backup:configs:daily:slots", {"configs": {"daily": {"tapecycle": 9, "slots": 8}}}),
        ("backup:configs:daily:dumpcycle", {"configs": {"daily": {"dumpcycle": "soon"}}}),
        ("backup:configs:daily:dumpcycle", {"configs": {"daily": {"dumpcycle": 0}}}),
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
        ("backup:paths", {"paths": {"tapes": "/same", "holding": "/same"}}),
        ("backup:encryption:method", {"encryption": {"method": "rot13"}}),
        ("backup:encryption:recipients", {"encryption": {"recipients": RECIPIENT}}),
        ("backup:encryption:recipients", {"encryption": {"recipients": ["ssh-rsa AAAA"]}}),
        ("backup:mirror:user", {"mirror": {"directory": "/m"}}),
        ("backup:mirror:directory", {"mirror": {"user": "m"}}),
        ("backup:mirror:keep", {"mirror": {"user": "m", "directory": "/m", "keep": "long"}}),
        ("backup:address", {"address": "not an address"}),
        ("backup:server_addresses", {"server_addresses": ["10.0.0.0/8", "all"]}),
        ("backup:server_addresses", {"server_addresses": ["0.0.0.0/0"]}),
        ("backup:port", {"port": 0}),
        ("backup:compress", {"compress": "lzma"}),
        ("backup:mailto", {"mailto": "root\nevil: |sh"}),
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


def test_a_mirror_without_recipients_is_refused_with_the_way_to_make_one():
    error = fault(mirror={"user": "mirror", "directory": "/mirror"})
    assert error.key == "backup:encryption:recipients"
    assert "age-keygen" in error.remedy


def test_a_recipient_with_a_slip_is_told_by_its_checksum():
    error = fault(encryption={"recipients": [RECIPIENT.replace("hyww5", "hywv5")]})
    assert error.key == "backup:encryption:recipients"
    assert "hywv5" in str(error) and "Copy the line" in error.remedy


def test_a_secret_key_in_the_place_of_a_recipient_is_not_shown():
    secret = "AGE-SECRET-KEY-1QQPQQQSQ6Q5ZQXGPQGPSQYSQTQPQQQSQ6Q5ZQXGPQGPSQYSQTQPQQQS"
    error = fault(encryption={"recipients": [secret]})
    assert error.key == "backup:encryption:recipients"
    assert secret[16:] not in str(error)


def test_a_mirror_with_a_recipient_is_kept_for_thirty_days():
    settings = parse(
        mirror={"user": "mirror", "directory": "/mirror"}, encryption={"recipients": [RECIPIENT]}
    )
    assert settings.mirror == amanda_settings.Mirror("mirror", "/mirror", 30)


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


def test_a_tape_root_that_is_a_file_is_named_before_anything_changes(tmp_path):
    (tmp_path / "file").write_text("")
    settings = parse(paths={"tapes": str(tmp_path / "file" / "vtapes")})
    with pytest.raises(PillarError, match="file is not a directory") as caught:
        amanda_settings.check_host(settings)
    assert caught.value.key == "backup:paths:tapes"


def test_a_mirror_user_who_doesn_t_exist_is_named(tmp_path):
    settings = parse(
        mirror={"user": "nobody-here", "directory": "/mirror"},
        encryption={"recipients": [RECIPIENT]},
        paths={"state": str(tmp_path)},
    )
    with pytest.raises(PillarError, match="knows no user 'nobody-here'") as caught:
        amanda_settings.check_host(settings)
    assert caught.value.key == "backup:mirror:user"
