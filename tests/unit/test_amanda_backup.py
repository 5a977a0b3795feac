"""What a dump's step says, from what became of each DLE; real dumps are the functional tests'."""

import amanda_backup


def entry(success=True, **more):
    common = {"host": "web1", "disk": "/etc", "reason": "", "detail": "", "labels": []}
    common["level"] = 1
    return {**common, "success": success, **more}


def summary(entries, flushed=()):
    return amanda_backup._summary(0, entries, list(flushed), [], [], [])


def test_a_dump_that_was_flushed_but_is_not_on_tape_is_a_failure():
    flushed = entry(False, timestamp="20261123083845", detail="the catalogue doesn't have it")
    answer = summary([entry()], [flushed])
    assert not answer["success"]
    assert "web1 /etc of 20261123083845" in answer["message"]
    assert "the catalogue doesn't have it" in answer["message"]


def test_what_a_crash_left_half_done_is_made_good_by_a_full_dump_in_the_same_run():
    flushed = entry(False, timestamp="20261123083845", detail="only a part of it is on tape")
    assert summary([entry(level=0)], [flushed])["success"]


def test_a_dump_that_was_flushed_is_a_success():
    assert summary([entry()], [entry(timestamp="20261123083845")])["success"]


def test_an_older_dump_that_waits_does_not_explain_why_this_one_failed():
    images = [{"host": "web1", "disk": "/etc", "timestamp": "20261123083845"}]
    failed = entry(False, level=1, reason="it broke", dumped=False)
    for stamp, reason in (
        ("20261124083845", "it broke"),
        ("20261123083845", "it broke; what there is of it waits on the holding disk for the next"),
    ):
        one = dict(failed)
        amanda_backup._explain([one], amanda_backup._of_run(images, stamp), [], "nobody")
        assert one["reason"].removesuffix(" run") == reason
