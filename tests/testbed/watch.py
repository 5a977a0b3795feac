"""Runs on the bed's master, in Salt's Python: see a fleet in, by events alone.

Says one JSON object a line: ``{"answers": true}`` when the master answers requests, which is later
than systemd calls it up; then ``{"accepted": ID}`` and ``{"started": ID}`` for each minion id given
as argument. A minion's key is accepted when it shows up, if the id is one of those.
"""

import json
import sys
import time

import salt.channel.client
import salt.config
import salt.key
import salt.utils.event

TIMEOUT = 60


def say(**what):
    print(json.dumps(what), flush=True)


def wait_for_answer(opts):
    """Return when one of the master's workers has answered a request."""
    with salt.channel.client.ReqChannel.factory(opts, crypt="clear") as channel:
        channel.send({"cmd": "ping"}, tries=TIMEOUT, timeout=1)


def main(expected):
    master = salt.config.client_config("/etc/salt/master")
    local = salt.config.minion_config(None)
    local.update(master_uri="tcp://127.0.0.1:4506", pki_dir="/etc/salt/pki/master", id="bed")
    missing = set(expected)
    accepted = set()
    end = time.monotonic() + TIMEOUT
    with salt.utils.event.get_event("master", opts=master, listen=True) as bus:
        wait_for_answer(local)
        say(answers=True)
        keys = salt.key.get_key(master)
        while missing:
            event = bus.get_event(wait=max(0.1, end - time.monotonic()), full=True)
            if event is None:
                sys.exit(f"not seen in {TIMEOUT} s: {', '.join(sorted(missing))}")
            tag, data = event["tag"], event["data"]
            if tag == "salt/auth" and data["act"] == "pend" and data["id"] in expected:
                if data["id"] not in accepted:
                    keys.accept(match=data["id"])
                    accepted.add(data["id"])
                    say(accepted=data["id"])
            for minion in sorted(missing):
                if tag == f"salt/minion/{minion}/start":
                    missing.discard(minion)
                    say(started=minion)


main(sys.argv[1:])
