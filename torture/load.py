"""Everything at once, in a process of its own: `python -m torture.load PORT TOKEN HOST_TOKEN`, until its input ends.

Connections that keep one request unanswered each call, record durable turns and submit plans; one sends 64 requests at
a time; fifty watch a run that gets twenty turns a second; runs that are long are ended and removed. It says `loaded`
when all of it goes on, and at the end how many messages came back. They are counted and not decoded (`bench.client`),
so that most of the machine is left to the daemon.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable

from bench.client import Client, request

CALLERS = 8
RECORDERS = 8
PLANNERS = 2
PIPELINED = 64
WATCHERS = 50
BEAT_SECONDS = 0.05
TURNS_OF_A_RUN = 1000
TURN = {"prompt": "small", "response": "x" * 200}
WRITE = {"type": "state_write", "parameters": {"key": "k", "value": 1}}
PLAN = {"actions": [{"id": f"a{number}", **WRITE} for number in range(10)]}


class Busy:
    """A connection with requests of one kind, `window` of them unanswered."""

    def __init__(self, client: Client, frame: bytes, window: int = 1) -> None:
        self.client = client
        self._frame = frame
        self._window = window

    def begin(self) -> None:
        self.client.send(self._frame * self._window)

    def go_on(self) -> int:
        """Takes what came, and asks again as often; returns how many messages that were."""
        came = self.client.count()
        self.client.send(self._frame * came)
        return came


class Recorder(Busy):
    """One that records into a run, and begins another when that is long enough."""

    def __init__(self, client: Client, host: Client) -> None:
        self._host = host
        self._left = 0
        self._run = ""
        super().__init__(client, b"")

    def begin(self) -> None:
        self._run = self.client.call("runs.start", {"intent": "be busy"})["run_id"]
        self._frame = request("runs.record_turns", {"run_id": self._run, "turns": [TURN]})
        self._left = TURNS_OF_A_RUN
        super().begin()

    def go_on(self) -> int:
        came = self.client.count()
        self._left -= came
        if self._left > 0:
            self.client.send(self._frame * came)
            return came
        self.client.call("runs.complete", {"run_id": self._run, "outcome": {"status": "done"}})
        self._host.call("runs.remove", {"run_ids": [self._run]})
        self.begin()
        return came


class Watching(Busy):
    """One that only reads."""

    def begin(self) -> None:
        pass

    def go_on(self) -> int:
        return self.client.count()


def main() -> None:
    port, token, host_token = int(sys.argv[1]), sys.argv[2], sys.argv[3]

    def agent(name: str) -> Client:
        return Client(port).authenticate(token, agent_id=name)

    host = Client(port)
    host.call("session.auth", {"host_token": host_token})
    everybody = [
        *(Busy(agent(f"caller-{n}"), request("state.set", {"key": "k", "value": n})) for n in range(CALLERS)),
        *(
            Busy(agent(f"planner-{n}"), request("proposal.submit", {"proposal": PLAN}))
            for n in range(PLANNERS)
        ),
        *(Recorder(agent(f"recorder-{n}"), host) for n in range(RECORDERS)),
        Busy(agent("flood"), request("state.get", {"key": "k"}), PIPELINED),
    ]
    beat = watched(agent("watched"), [Client(port) for _ in range(WATCHERS)], host_token, everybody)
    print(f"{keep_busy(everybody, beat)} messages", flush=True)


def watched(
    recorder: Client, watchers: list[Client], host_token: str, everybody: list[Busy]
) -> Callable[[], None]:
    """A run with all who watch it. What is returned records another turn there."""
    run = recorder.call("runs.start", {"intent": "be watched"})["run_id"]
    for watcher in watchers:
        watcher.call("session.auth", {"host_token": host_token})
        watcher.call("runs.subscribe", {"run_id": run})
        everybody.append(Watching(watcher, b""))
    frame = request("runs.record_turns", {"run_id": run, "turns": [TURN]})
    everybody.append(Watching(recorder, b""))
    return lambda: recorder.send(frame)


def keep_busy(everybody: list[Busy], beat: Callable[[], None]) -> int:
    poll = select.epoll()
    poll.register(sys.stdin.fileno(), select.EPOLLIN)
    by_descriptor = {each.client.socket.fileno(): each for each in everybody}
    for descriptor, each in by_descriptor.items():
        poll.register(descriptor, select.EPOLLIN)
        each.begin()
    print("loaded", flush=True)
    due, came = time.monotonic(), 0
    while True:
        for descriptor, _ in poll.poll(BEAT_SECONDS):
            if descriptor == sys.stdin.fileno():
                return came
            came += by_descriptor[descriptor].go_on()
        if time.monotonic() >= due:
            due = time.monotonic() + BEAT_SECONDS
            beat()


if __name__ == "__main__":
    main()
