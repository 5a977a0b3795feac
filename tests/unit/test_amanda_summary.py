"""What a server tells of its backups has bounds, and is told in the order of what matters."""

import json

import amanda_summary


def rows(number, reason="x" * 200):
    return [["web1", f"/srv/{each}", None, None, None, reason, None] for each in range(number)]


def test_of_more_directories_than_salts_bus_can_carry_the_first_are_told():
    shown = amanda_summary._fitting(rows(5000), amanda_summary.SIZE)
    assert shown == rows(5000)[: len(shown)]
    assert 0.99 < len(json.dumps(shown)) / amanda_summary.SIZE < 1.02


def test_what_fits_is_told_whole():
    assert amanda_summary._fitting(rows(100), amanda_summary.SIZE) == rows(100)


def test_what_was_refused_is_told_of_a_run_that_collected_and_of_none_that_did_not():
    finding = {"id": "web1", "path": None, "kind": "claimed", "message": "cloned?"}
    steps = [{"step": "collect", "findings": [finding, {**finding, "kind": "missing"}]}]
    assert amanda_summary._refused({"steps": steps}) == [["web1", None, "cloned?"]]
    assert amanda_summary._refused({"steps": [{"step": "cleanup"}]}) == []
    assert amanda_summary._refused(None) == []
