"""Runs on the bed's master, in Salt's Python: does what the salt command does, job after job.

To start that command takes a second, most jobs much less. Reads the arguments of
``LocalClient.cmd``, one JSON object a line; says for each what that returned, or ``{"error": …}``.
"""

import json
import sys

import salt.client
import salt.exceptions
import salt.utils.json


def main():
    answers, sys.stdout = sys.stdout, sys.stderr  # Salt prints there that no minion matched
    for line in sys.stdin:
        try:
            # A new one each time: the master has another key whenever it was restarted.
            with salt.client.LocalClient("/etc/salt/master") as client:
                said = client.cmd(**json.loads(line), full_return=True)
        except salt.exceptions.SaltException as error:
            said = {"error": str(error)}
        print(salt.utils.json.dumps(said), file=answers, flush=True)


main()
