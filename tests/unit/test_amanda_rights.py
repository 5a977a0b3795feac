"""Calls in a child process: what comes back, and what a failure is; here without another user."""

import os
import signal
import threading
import time

import pytest
from amanda_errors import AmandaError
from amanda_rights import MOST_BYTES, MOST_FILES, as_user, open_owned, open_regular


def answer(value):
    """Return what was given."""
    return value


def fail(kind, *arguments):
    """Raise what was asked for."""
    raise {"ours": AmandaError, "system": OSError, "bug": KeyError}[kind](*arguments)


def leave():
    """End without a word."""
    os._exit(0)


def told(report):
    """Report twice, then answer."""
    report({"done": 1})
    report({"done": 2})
    return "end"


def hang():
    """Say nothing any more."""
    os.kill(os.getpid(), signal.SIGSTOP)


def test_a_child_without_a_word_is_given_up_and_one_that_talks_is_not():
    with pytest.raises(TimeoutError):
        as_user(None, hang, patience=0.3)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert as_user(None, talk, 8, progress=lambda value: None, patience=0.3) == 8


def talk(times, report):
    """Report often, with pauses."""
    for number in range(times):
        time.sleep(0.1)
        report(number)
    return times


def open_many(path, number):
    """Open a file many times for the caller."""
    return number, [os.open(path, os.O_RDONLY) for _ in range(number)]


@pytest.mark.parametrize(
    "value", [None, 1, "ü\udcff\n", ["a", {"b": [1.5, True]}], "x" * 3_000_000]
)
def test_an_answer_comes_back_as_it_was_given(value):
    assert as_user(None, answer, value) == value


def test_an_error_of_ours_keeps_its_words():
    with pytest.raises(AmandaError, match="^the tape is gone$"):
        as_user(None, fail, "ours", "the tape is gone")


def test_an_error_of_the_system_keeps_number_and_path():
    with pytest.raises(FileNotFoundError) as caught:
        as_user(None, fail, "system", 2, "No such file", "/somewhere")
    assert caught.value.filename == "/somewhere"


def test_any_other_error_is_named_with_its_function():
    with pytest.raises(AmandaError, match="fail failed: KeyError: 'slot'"):
        as_user(None, fail, "bug", "slot")


def test_an_answer_that_is_no_data_is_an_error():
    with pytest.raises(AmandaError):
        as_user(None, as_user, None, os.getcwdb)


def test_a_child_that_ends_without_a_word_is_an_error():
    with pytest.raises(AmandaError, match="without an answer"):
        as_user(None, leave)


def test_a_user_who_does_not_exist_is_named():
    with pytest.raises(AmandaError, match="no user 'nobody-at-all'"):
        as_user("nobody-at-all", answer, 1)


def test_reports_arrive_in_order_before_the_answer():
    seen = []
    assert as_user(None, told, progress=seen.append) == "end"
    assert seen == [{"done": 1}, {"done": 2}]


def test_as_many_files_as_promised_are_handed_over_and_none_stays_open(tmp_path):
    (tmp_path / "file").write_text("text")
    before = len(os.listdir("/proc/self/fd"))
    number, files = as_user(None, open_many, str(tmp_path / "file"), MOST_FILES, hands_over=True)
    assert number == MOST_FILES == len(set(files))
    assert {os.pread(file, 9, 0) for file in files} == {b"text"}
    for file in files:
        os.close(file)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_fifo_is_refused_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "fifo")


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        open_regular(tmp_path / "link")


def test_calls_from_several_threads_do_not_mix_their_answers():
    found = {}

    def call(number):
        found[number] = as_user(None, answer, [number] * 1000)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [number] * 1000 for number in range(8)}


def test_a_file_of_the_directorys_owner_is_opened(tmp_path):
    (tmp_path / "file").write_text("text")
    with open_owned(tmp_path / "file", tmp_path) as file:
        assert file.read() == b"text"


def test_an_owners_link_or_fifo_is_refused_and_nobody_waits_for_it(tmp_path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo"):
        with pytest.raises(OSError, match="symbolic links|not a regular file"):
            open_owned(tmp_path / name, tmp_path)


def test_a_file_of_another_user_is_refused_however_it_is_reached(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "etc").symlink_to("/etc" if os.getuid() else tmp_path / "foreign")
    if os.getuid() == 0:
        (tmp_path / "foreign").mkdir()
        (tmp_path / "foreign" / "passwd").write_text("secret")
        os.chown(tmp_path / "own", 65534, 65534)
    with pytest.raises(OSError, match="another user"):
        open_owned(tmp_path / "own" / "etc" / "passwd", tmp_path / "own")


def test_a_link_says_nothing_about_who_owns_what_is_below_it(tmp_path):
    (tmp_path / "etc").symlink_to("/etc")
    with pytest.raises(OSError, match="not a directory"):
        open_owned(tmp_path / "etc" / "passwd", tmp_path / "etc")


def test_a_file_too_large_to_be_read_whole_is_refused(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(OSError, match="too large"):
        open_owned(tmp_path / "sparse", tmp_path)
