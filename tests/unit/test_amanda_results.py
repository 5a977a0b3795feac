"""Results of runs: readable while they grow, bounded, and honest about runs that were killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import amanda_results
import pytest
from amanda_errors import AmandaError, ArgumentError, ParseError

ID = "20250304T010203Z-abcdef"


def specification(identity=ID):
    return {"id": identity, "config": "daily", "action": "backup", "requested": "2025-03-04"}


def report(directory, identity=ID):
    return amanda_results.Report(specification(identity), directory)


def test_a_result_can_be_read_at_every_moment_of_the_run(tmp_path):
    made = report(tmp_path)
    file = tmp_path / f"daily-{ID}.json"
    assert amanda_results.read(file)["state"] == "running"
    made.begin("dump")
    assert amanda_results.read(file)["step"] == "dump"
    made.add({"step": "dump", "success": True, "message": "done"})
    assert amanda_results.read(file)["steps"][0]["message"] == "done"
    result = made.finish()
    assert amanda_results.read(file) == result
    assert result["state"] == "finished"
    assert result["success"] is True
    assert file.stat().st_mode & 0o777 == 0o600


def test_one_failed_step_fails_the_run_and_hides_no_other(tmp_path):
    made = report(tmp_path)
    made.add({"step": "dump", "success": False, "message": "no"})
    made.add({"step": "mirror", "success": True, "message": "yes"})
    result = made.finish()
    assert result["success"] is False
    assert [step["step"] for step in result["steps"]] == ["dump", "mirror"]


def test_a_run_without_a_step_is_no_success(tmp_path):
    assert report(tmp_path).finish()["success"] is False


def test_an_interrupted_run_is_no_success_whatever_its_steps_gave(tmp_path):
    made = report(tmp_path)
    made.add({"step": "collect", "success": True, "message": ""})
    result = made.finish("interrupted", "stopped")
    assert result["success"] is False
    assert result["message"] == "stopped"


def test_progress_is_written_once_a_second_at_most(tmp_path):
    made = report(tmp_path)
    file = tmp_path / f"daily-{ID}.json"
    made.begin("dump")
    inode = file.stat().st_ino
    for count in range(50):
        made.progress({"dumped": count})
    assert file.stat().st_ino == inode
    made._written -= amanda_results.INTERVAL
    made.progress({"dumped": 51})
    assert amanda_results.read(file)["progress"] == {"dumped": 51}


def test_a_run_whose_process_was_killed_reads_as_interrupted(tmp_path):
    program = (
        "import sys, time, pathlib, amanda_results\n"
        f"made = amanda_results.Report({specification()!r}, pathlib.Path(sys.argv[1]))\n"
        "made.begin('dump')\n"
        "print('begun', flush=True)\n"
        "time.sleep(60)\n"
    )
    utils = Path(amanda_results.__file__).parent
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        env={**os.environ, "PYTHONPATH": str(utils)},
        stdout=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        file = tmp_path / f"daily-{ID}.json"
        assert amanda_results.read(file)["state"] == "running"
        assert amanda_results.interrupted(tmp_path) == []
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert amanda_results.read(file)["state"] == "interrupted", "it is a zombie"
    content = amanda_results.read(file)
    assert content["state"] == "interrupted"
    assert content["success"] is False
    assert "it was killed" in content["message"]
    assert "in its step dump" in content["message"]
    (lost,) = amanda_results.interrupted(tmp_path)
    amanda_results.settle(lost, tmp_path)
    assert amanda_results.interrupted(tmp_path) == []
    assert amanda_results.read(file)["state"] == "interrupted"


def test_a_run_from_before_the_last_boot_reads_as_interrupted_though_its_pid_lives(tmp_path):
    report(tmp_path)
    file = tmp_path / f"daily-{ID}.json"
    content = json.loads(file.read_bytes())
    content["process"]["boot"] = "another"
    file.write_text(json.dumps(content))
    assert "the machine went down" in amanda_results.read(file)["message"]


def test_a_pid_that_another_process_has_now_is_not_the_runs(tmp_path):
    process = amanda_results.this_process()
    assert amanda_results.alive(process)
    assert not amanda_results.alive({**process, "ticks": process["ticks"] - 1})
    assert not amanda_results.alive({**process, "pid": "../self"})


def test_long_texts_and_lists_are_cut_and_what_failed_comes_first(tmp_path):
    entries = [{"success": True}] * 6000 + [{"success": False}]
    bounded = amanda_results.bounded({"message": "x" * 5000, "dles": entries})
    assert len(bounded["message"]) == amanda_results.TEXT
    assert len(bounded["dles"]) == amanda_results.ENTRIES
    assert bounded["dles_omitted"] == 1001
    assert bounded["dles"][0] == {"success": False}


def test_bytes_that_are_no_text_dont_stop_a_result(tmp_path):
    made = report(tmp_path)
    made.add({"step": "dump", "success": True, "message": "\udce9t\u00e9"})
    made.finish()
    assert amanda_results.read(made.path)["steps"][0]["message"] == "\\udce9t\u00e9"


def test_what_a_terminal_would_obey_is_taken_out_and_lines_stay():
    assert amanda_results.bounded("a\x1b[2J\nb\x07") == "a?[2J\nb?"


def test_only_the_newest_results_are_kept(tmp_path):
    for hour in range(10):
        (tmp_path / f"weekly-2025030{hour}T010203Z-abcdef.json").touch()
        (tmp_path / f"daily-2025030{hour}T020203Z-abcdef.json").touch()
    (tmp_path / "notes.json").touch()
    assert amanda_results.prune(tmp_path, keep=3) == 17
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "daily-20250308T020203Z-abcdef.json",
        "daily-20250309T020203Z-abcdef.json",
        "notes.json",
        "weekly-20250309T010203Z-abcdef.json",
    ]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"state": "running"}'])
def test_a_damaged_result_is_an_error_that_names_the_file(tmp_path, content):
    file = tmp_path / f"daily-{ID}.json"
    file.write_text(content)
    with pytest.raises(ParseError, match=ID):
        amanda_results.read(file)
    assert amanda_results.interrupted(tmp_path) == []
    report(tmp_path, "20250304T010203Z-bbbbbb").finish()
    (found,) = amanda_results.unreported(tmp_path)
    assert found["id"] == "20250304T010203Z-bbbbbb"


def test_a_result_is_reported_once(tmp_path):
    result = report(tmp_path).finish()
    assert amanda_results.unreported(tmp_path) == [result]
    amanda_results.mark_reported(result, tmp_path)
    assert amanda_results.unreported(tmp_path) == []
    report(tmp_path, "20250304T010203Z-bbbbbb")
    assert amanda_results.unreported(tmp_path) == [], "it still runs"


def test_a_result_that_isnt_there_is_an_error(tmp_path):
    with pytest.raises(AmandaError, match="no result"):
        amanda_results.read(tmp_path / f"daily-{ID}.json")


@pytest.mark.parametrize("identity", ["", "../x", "20250304T010203Z-abcdef/..", "x" * 30])
def test_an_id_leads_nowhere_else(tmp_path, identity):
    with pytest.raises(ArgumentError):
        amanda_results.path("daily", identity, tmp_path)


def test_ids_are_valid_and_differ(tmp_path):
    first, second = amanda_results.new_id(), amanda_results.new_id()
    assert first != second
    assert amanda_results.path("daily", first, tmp_path).name == f"daily-{first}.json"
    assert first[:8] == time.strftime("%Y%m%d", time.gmtime())


def ended(directory, day, action="backup", config="daily"):
    identity = f"202503{day:02}T010203Z-abcdef"
    made = amanda_results.Report(
        {**specification(identity), "action": action, "config": config}, directory
    )
    made.finish()
    return identity


def test_the_last_backup_is_not_hidden_by_what_ran_since(tmp_path):
    ended(tmp_path, 1)
    backup = ended(tmp_path, 2, "backup_and_mirror")
    for day, action in enumerate(("check", "label", "mirror"), 3):
        ended(tmp_path, day, action)
    ended(tmp_path, 6, config="weekly")
    ended(tmp_path, 7, config="much-daily")
    report(tmp_path, "20250309T010203Z-abcdef")  # still running
    last = amanda_results.last("daily", amanda_results.BACKUPS, tmp_path)
    assert (last["id"], last["action"]) == (backup, "backup_and_mirror")
    assert amanda_results.last("monthly", amanda_results.BACKUPS, tmp_path) is None


def test_a_damaged_result_hides_no_earlier_one(tmp_path):
    backup = ended(tmp_path, 1)
    (tmp_path / "daily-20250302T010203Z-abcdef.json").write_text("{")
    (tmp_path / "daily-20250303T010203Z-abcdef.json").write_text('{"state": "finished"}')
    (tmp_path / "daily-20250304T010203Z-abcdef.json").write_text("[]")
    assert amanda_results.last("daily", amanda_results.BACKUPS, tmp_path)["id"] == backup


def test_the_last_backup_is_found_without_reading_what_is_older(tmp_path):
    (tmp_path / "daily-20250301T010203Z-abcdef.json").mkdir()  # to read it would be an error
    backup = ended(tmp_path, 2)
    assert amanda_results.last("daily", amanda_results.BACKUPS, tmp_path)["id"] == backup


def test_a_backup_that_was_killed_is_the_last_one(tmp_path):
    ended(tmp_path, 1)
    lost = report(tmp_path, "20250302T010203Z-abcdef")
    lost.content["process"]["boot"] = "another"
    lost.begin("dump")
    last = amanda_results.last("daily", amanda_results.BACKUPS, tmp_path)
    assert (last["id"], last["state"]) == ("20250302T010203Z-abcdef", "interrupted")
