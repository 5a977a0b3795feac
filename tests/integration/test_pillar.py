"""What the pillar says counts for states and functions alike."""

from tests.integration.fleet import apply

SERVER = "backup-server"


def test_a_changed_pillar_counts_for_functions_once_the_state_was_applied(fleet, pillar):
    pillar.add("mailto", {"mailto": "ada"}, SERVER)  # nobody refreshes it
    apply(fleet)
    assert fleet.salt(SERVER, "config.get", "backup:mailto") == {SERVER: "ada"}
