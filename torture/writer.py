"""A client process that writes down what it was promised: `python -m torture.writer AGENT SEED`.

It outlives the daemons it talks to. Each line on its standard input is the URL and the token of a daemon and the ledger
for what is promised there, as JSON; it works until the connection is lost, says `lost` on standard output and waits
for the next. Every line of a ledger is written, with one system call, after the daemon's reply was read and before
anything else is sent:

    ["starting", run, life]            before the request leaves: a run of this key may begin from now on
    ["started", run, life]             the run exists
    ["sent", run, number, …]           before the request leaves: these turns may exist from now on
    ["turns", run, base, number, …]    these turns exist, from this index on
    ["ended", run, status]             this is how the run ended
    ["watched", run, cursor]           a watcher is shown what comes after this
    ["event", run, cursor, record]     a watcher was shown this record
    ["removing", run, life]            before the request leaves: this life, and those before it, may be gone
    ["removed", run, life]             they are gone
    ["refused", message]               something was, and nothing should have been: nobody works here any more
    ["wrong", message]                 an answer was not what it should have been

A run that has ended is removed now and then, and its key used again: the run then has another *life*. A life is named
by a number that its intent holds, as one word, so that files, lists, searches and tombstones tell whose they are.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from typing import Any

from websockets.exceptions import ConnectionClosed

from tests.second_client import Refused, SecondClient

COUNTS = (1, 1, 1, 2, 2, 7, 40)
FILLERS = (0, 0, 10, 10, 100, 3000, 15_000)
"""Of a batch: mostly small, so that a life has many of them."""
REMOVALS = 0.4
"""How many runs begin with the removal of another."""
IN_ONE_GO = 0.4
"""Of these removals: the key is used again before the reply is there."""
AGAIN = 0.7
"""Of the runs that begin while there is a key whose run is gone."""
INDEXED_SECONDS = 5.0
"""A run cannot be removed before the catalog knows of its end."""
LOST = (OSError, EOFError, TimeoutError)


class Writer:
    """Numbers never repeat, over all lives, so a turn that appears twice is seen."""

    def __init__(self, agent: str, seed: str) -> None:
        self._file = -1
        self._agent = agent
        self._dice = random.Random(seed)  # noqa: S311 - chance, not secrets
        self._next = 0
        self._forget("")

    def _forget(self, ledger: str) -> None:
        """Another home: none of the runs is there."""
        self._ledger = ledger
        self._lives: dict[str, int] = {}
        self._open: list[str] = []
        """Runs that the next start ends, if there are such."""
        self._ended: list[str] = []
        self._free: list[str] = []
        """Keys whose run is gone."""
        self._host: SecondClient | None = None

    def note(self, *what: Any) -> None:
        os.write(self._file, json.dumps(what).encode() + b"\n")

    def live(self, url: str, token: str, host_token: str, ledger: str) -> None:
        """Works until the daemon is gone."""
        if ledger != self._ledger:
            self._forget(ledger)
        self._ended, self._open = self._ended + self._open, []
        self._dial_host, self._host = (url, token, host_token), None
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

    def host(self) -> SecondClient:
        """A connection that may remove."""
        if self._host is None:
            url, token, host_token = self._dial_host
            self._host = SecondClient.dial(url)
            self._host.auth(token)
            self._host.auth(host_token=host_token)
        return self._host

    def one_run(self, client: SecondClient) -> None:
        run = self.begin(client)
        if self._dice.random() < 0.5:
            self.note("watched", run, client.call("runs.subscribe", {"run_id": run})["cursor"])
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
            self._open.remove(run)
            self._ended.append(run)
            self.events(client, run)

    # Lives

    def begin(self, client: SecondClient) -> str:
        """A new run, or another life of one."""
        if self._ended and self._dice.random() < REMOVALS:
            run = self._dice.choice(self._ended)
            # An event does not say of which life it tells.
            client.call("runs.unsubscribe", {"run_id": run})
            client.kept.clear()
            if is_key(run) and self._dice.random() < IN_ONE_GO:
                return self.begin_meanwhile(client, run)
            self.remove(client, run)
        if self._free and self._dice.random() < AGAIN:
            return self.start(client, self._free.pop(self._dice.randrange(len(self._free))))
        return self.start(client, f"{self._agent}-{self._next}" if self._dice.random() < 0.5 else None)

    def start(self, client: SecondClient, key: str | None) -> str:
        life = self.new_life(key)
        ask = {"intent": intent(life)} | ({} if key is None else {"idempotency_key": key})
        run: str = client.call("runs.start", ask)["run_id"]
        if key is None:
            self._open.append(run)
            self._lives[run] = life
        self.note("started", run, life)
        if self._dice.random() < 0.2:
            self.look(run, life)
        return run

    def new_life(self, key: str | None) -> int:
        life, self._next = self._next, self._next + 1
        if key is not None:
            self.note("starting", key, life)
            self._lives[key] = life
            self._open.append(key)
        return life

    def remove(self, client: SecondClient, run: str) -> None:
        """Until it is certain that it is gone."""
        self.note("removing", run, self._lives[run])
        until = time.monotonic() + INDEXED_SECONDS
        while run not in self.host().call("runs.remove", {"run_ids": [run]})["removed"]:
            if client.call("runs.get_trace", {"run_id": run}).get("not_found"):
                break
            if time.monotonic() > until:
                self.note("wrong", f"{run} has ended and cannot be removed")
                until += INDEXED_SECONDS
        self.gone(run, self._lives[run])
        self._ended.remove(run)
        if is_key(run):
            self._free.append(run)
        if self._dice.random() < 0.3:
            trace = client.call("runs.get_trace", {"run_id": run})
            if not trace.get("not_found"):
                self.note("wrong", f"{run} was removed, and its trace is {str(trace)[:300]}")
            self.look(run, None)

    def gone(self, run: str, life: int) -> None:
        self.note("removed", run, life)

    def begin_meanwhile(self, client: SecondClient, run: str) -> str:
        """The key is used while its run is being removed: by one who asks for that, or by two. The start may find the
        old run; then nothing can be recorded."""
        old = self._lives[run]
        self.note("removing", run, old)
        asked = [self.host().ask("runs.remove", {"run_ids": [run]}) for _ in range(self._dice.choice((1, 2)))]
        life = self.new_life(run)
        self._ended.remove(run)
        client.call("runs.start", {"intent": intent(life), "idempotency_key": run})
        numbers = self.numbers()
        self.note("sent", run, *numbers)
        turns = [{"prompt": f"{number} "} for number in numbers]
        result = client.call("runs.record_turns", {"run_id": run, "turns": turns})
        if result["ok"]:
            self.gone(run, old)
            self.note("started", run, life)
            self.note("turns", run, result["base_index"], *numbers)
        removed = [each for request in asked for each in self.host().reply(request)["removed"]]
        if len(removed) > 1:
            self.note("wrong", f"{run} was removed twice")
        if result["ok"]:
            self.look(run, life)
            return run
        self._open.remove(run)
        if removed:
            self.gone(run, life)
        else:
            self._ended.append(run)
            self.remove(client, run)
            self._free.remove(run)
        return self.start(client, run)

    def look(self, run: str, life: int | None) -> None:
        """What is listed and found under that id is this life of it, once."""
        listed = self.host().call("runs.list", {"agent_id": self._agent})["runs"]
        found = self.host().call("runs.search", {"agent_id": self._agent})["runs"]
        due = [] if life is None else [intent(life)]
        for where, rows in (("listed", listed), ("found", found)):
            intents = [row["intent"] for row in rows if row["run_id"] == run]
            if intents != due:
                self.note("wrong", f"{run}: {where} as {intents}, and should be {due}")

    # Turns

    def numbers(self) -> list[int]:
        count = self._dice.choice(COUNTS)
        first, self._next = self._next, self._next + count
        return list(range(first, first + count))

    def batches(self, client: SecondClient, run: str) -> None:
        """One or a few requests on their way at once."""
        asked: list[tuple[list[int], Any]] = []
        for _ in range(self._dice.choice([1, 1, 3])):
            numbers = self.numbers()
            filler = "x" * self._dice.choice(FILLERS)
            turns = [{"prompt": f"{number} {filler}"} for number in numbers]
            self.note("sent", run, *numbers)
            asked.append((numbers, client.ask("runs.record_turns", {"run_id": run, "turns": turns})))
        for numbers, request in asked:
            result = client.reply(request)
            if result["ok"]:
                self.note("turns", run, result["base_index"], *numbers)
            else:
                self.note("wrong", f"{run}: turns were not taken: {result}")

    def submit(self, client: SecondClient, run: str) -> None:
        """A proposal of two actions, recorded by the daemon."""
        numbers, self._next = [self._next, self._next + 1], self._next + 2
        actions: list[dict[str, Any]] = [
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


def intent(life: int) -> str:
    return f"be killed {life:09}"


def is_key(run: str) -> bool:
    return run.startswith("writer-")


def main() -> None:
    writer = Writer(*sys.argv[1:])
    for line in sys.stdin:
        writer.live(*json.loads(line))
        print("lost", flush=True)


if __name__ == "__main__":
    main()
