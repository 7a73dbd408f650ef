"""A client process that writes down what it was promised: `python -m torture.writer AGENT SEED`.

It outlives the daemons it talks to. Each line on its standard input is the URL and the token of a daemon and the ledger
for what is promised there, as JSON; it works until the connection is lost, says `lost` on standard output and waits
for the next. Every line of a ledger is written, with one system call, after the daemon's reply was read and before
anything else is sent:

    ["sent", run, number, …]           before the request leaves: these turns may exist from now on
    ["started", run]                   the run exists
    ["turns", run, base, number, …]    these turns exist, from this index on
    ["ended", run, status]             this is how the run ended
    ["event", run, cursor, record]     a watcher was shown this record
    ["refused", message]               something was, and nothing should have been: nobody works here any more
"""

from __future__ import annotations

import json
import os
import random
import sys
from typing import Any

from websockets.exceptions import ConnectionClosed

from tests.second_client import Refused, SecondClient

COUNTS = (1, 1, 1, 2, 2, 7, 40)
FILLERS = (0, 0, 10, 10, 100, 3000, 15_000)
"""Of a batch: mostly small, so that a life has many of them."""
LOST = (OSError, EOFError, TimeoutError)


class Writer:
    """Numbers never repeat, over all lives, so a turn that appears twice is seen."""

    def __init__(self, agent: str, seed: str) -> None:
        self._file = -1
        self._agent = agent
        self._dice = random.Random(seed)  # noqa: S311 - chance, not secrets
        self._next = 0

    def note(self, *what: Any) -> None:
        os.write(self._file, json.dumps(what).encode() + b"\n")

    def live(self, url: str, token: str, ledger: str) -> None:
        """Works until the daemon is gone."""
        self._file = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._work(url, token)
        finally:
            os.close(self._file)

    def _work(self, url: str, token: str) -> None:
        try:
            client = SecondClient.dial(url)
            client.tools["add"] = lambda parameters: parameters["number"]
            client.auth(token, agent_id=self._agent)
            client.call("tools.register", [{"name": "add", "parameters": {}}])
            while True:
                self.one_run(client)
        except (*LOST, ConnectionClosed):
            return
        except Refused as refused:
            self.note("refused", refused.message)
        except Exception as error:
            # The websockets client answers a connection that dies in its handshake with errors of its own kinds.
            if type(error).__module__.partition(".")[0] != "websockets":
                raise

    def one_run(self, client: SecondClient) -> None:
        key = {"idempotency_key": f"{self._agent}-{self._next}"} if self._dice.random() < 0.3 else {}
        self._next += 1
        run = client.call("runs.start", {"intent": "be killed", **key})["run_id"]
        self.note("started", run)
        if self._dice.random() < 0.5:
            client.call("runs.subscribe", {"run_id": run})
        for _ in range(self._dice.randrange(1, 12)):
            if self._dice.random() < 0.2:
                self.submit(client, run)
            else:
                self.batches(client, run)
            self.events(client, run)
        if self._dice.random() < 0.7:
            status = self._dice.choice(["success", "failure"])
            client.call("runs.complete", {"run_id": run, "outcome": {"status": status}})
            self.note("ended", run, status)
            self.events(client, run)

    def numbers(self) -> list[int]:
        count = self._dice.choice(COUNTS)
        first, self._next = self._next, self._next + count
        return list(range(first, first + count))

    def batches(self, client: SecondClient, run: str) -> None:
        """One or a few requests on their way at once."""
        asked = []
        for _ in range(self._dice.choice([1, 1, 3])):
            numbers = self.numbers()
            filler = "x" * self._dice.choice(FILLERS)
            turns = [{"prompt": f"{number} {filler}"} for number in numbers]
            self.note("sent", run, *numbers)
            asked.append((numbers, client.ask("runs.record_turns", {"run_id": run, "turns": turns})))
        for numbers, request in asked:
            result = client.reply(request)
            assert result["ok"], result
            self.note("turns", run, result["base_index"], *numbers)

    def submit(self, client: SecondClient, run: str) -> None:
        """A proposal of two actions, recorded by the daemon."""
        numbers, self._next = [self._next, self._next + 1], self._next + 2
        actions = [
            {
                "id": f"a{each}", "type": "tool_call", "tool": "add",
                "parameters": {"number": each, "prompt": f"{each} "},
                "dependencies": [],
            }
            for each in numbers
        ]  # fmt: skip
        self.note("sent", run, *numbers)
        client.call("proposal.submit", {"proposal": {"actions": actions}})
        self.note("turns", run, None, *numbers)

    def events(self, client: SecondClient, run: str) -> None:
        """What a watcher was shown meanwhile."""
        for frame in client.kept:
            event = frame["params"]
            if frame["method"] == "runs.trace.event" and event["run_id"] == run:
                self.note("event", run, event["cursor"], event["record"])
        client.kept.clear()


def main() -> None:
    writer = Writer(*sys.argv[1:])
    for line in sys.stdin:
        writer.live(*json.loads(line))
        print("lost", flush=True)


if __name__ == "__main__":
    main()
