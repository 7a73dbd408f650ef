"""A turn to all who watch a run, against `send_message` to as many in a loop: one turn, and a backlog of many."""

from __future__ import annotations

import json
import select
from pathlib import Path
from statistics import median

from bench.client import PATIENCE, Client, masked, processor_seconds, request, timed
from bench.durable import TURN, start_run
from bench.figures import Figure
from bench.processes import Daemon, Server, daemon, running

WATCHERS = {1: 0.3, 10: 0.9, 100: 1.2, 1000: 2.0}
"""How many watch, and the target: a guard but for the last."""
BACKLOG = 100
BACKLOG_WATCHERS = 100
EVENT_BYTES = 520
"""About what the event of the turn has."""


class Crowd:
    """A writer and those who get what it says; `deliver` returns how long until the last has it, and how much processor
    time that took the server."""

    def __init__(
        self, server: Server, writer: Client, watchers: list[Client], frame: bytes, messages: int
    ) -> None:
        self._server = server
        self._writer = writer
        self._frame = frame
        self._expected = messages * len(watchers)
        self._poll = select.epoll()
        self._watchers = {watcher.socket.fileno(): watcher for watcher in watchers}
        for descriptor in self._watchers:
            self._poll.register(descriptor, select.EPOLLIN)

    def deliver(self) -> tuple[float, float]:
        def once() -> None:
            self._writer.send(self._frame)
            missing = self._expected
            while missing > 0:
                missing -= sum(self._watchers[found].count() for found, _ in self._poll.poll(PATIENCE))

        processor = processor_seconds(self._server.pid)
        (took,) = timed(once, 1)
        self._writer.count()
        return took, processor_seconds(self._server.pid) - processor


def our_crowd(ours: Daemon, writer: Client, watchers: list[Client], messages: int) -> Crowd:
    run_id = start_run(writer)
    for watcher in watchers:
        watcher.call("runs.subscribe", {"run_id": run_id})
    frame = request("runs.record_turns", {"run_id": run_id, "turns": [TURN] * messages})
    return Crowd(ours, writer, watchers, frame, messages)


def echo_crowd(echo: Server, watchers: list[Client], messages: int) -> Crowd:
    for watcher in watchers:
        watcher.send(masked(b"watch"))
        watcher.count()
    text = f"all {messages} ".encode()
    frame = masked(text + b"x" * (EVENT_BYTES - len(text)))
    return Crowd(echo, Client(echo.port), watchers, frame, messages)


def fan_out(directory: Path, quick: bool) -> list[Figure]:
    counts = {1: 0.3, 4: 0.9} if quick else WATCHERS
    figures = [_measured(directory, count, 1, target, quick) for count, target in counts.items()]
    watchers, backlog = (4, 5) if quick else (BACKLOG_WATCHERS, BACKLOG)
    return [*figures, _measured(directory, watchers, backlog, 10.0, quick)]


def _measured(directory: Path, count: int, messages: int, target: float, quick: bool) -> Figure:
    """Both are up, and deliver in turns. Durability is `os`: what is compared is delivering."""
    rounds = 3 if quick else max(9, min(200, 20_000 // (count * messages)))
    echo = Server("-m", "bench.echo", log=directory / "echo.log")
    home = directory / f"fan-out-{count}-{messages}"
    with running(echo), daemon(home, CAR_TRIO_RUNS_DURABILITY="os") as ours:
        theirs = echo_crowd(echo, [Client(echo.port) for _ in range(count)], messages)
        watchers = [ours.client(host=True) for _ in range(count)]
        mine = our_crowd(ours, ours.client("agent"), watchers, messages)
        pairs = [(mine.deliver(), theirs.deliver()) for _ in range(rounds)]
    took, loop = (median(pair[i][0] for pair in pairs) for i in (0, 1))
    used, loop_used = (median(pair[i][1] for pair in pairs) for i in (0, 1))
    name = (
        f"a turn to {count:,} watchers"
        if messages == 1
        else f"{messages} turns at once to {count:,} watchers"
    )
    events = count * messages
    detail = (
        f"{took * 1e3:.2f} ms against {loop * 1e3:.2f} ms of send_message in a loop; by processor time "
        f"x {loop_used / used:.2f}, {used * 1e6 / events:.1f} us each against {loop_used * 1e6 / events:.1f}; "
        f"the turn has {len(json.dumps(TURN))} bytes"
    )
    ratio = median(theirs[0] / mine[0] for mine, theirs in pairs)
    return Figure("fanout", name, ratio, "x loop", detail, at_least=target, is_guard=target < 2)
