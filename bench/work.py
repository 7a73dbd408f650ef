"""Whole round trips: a call back into the client, a submit of one action, a turn to all who watch a run."""

from __future__ import annotations

import json
import select
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.client import PATIENCE, Client, masked, timed
from bench.durable import TURN, one_turn, start_run
from bench.figures import Figure
from bench.processes import daemon

TOOL: dict[str, Any] = {"name": "echo", "parameters": {}}
WATCHERS = (1, 10, 100)


def submit(client: Client, action: dict[str, Any]) -> float:
    """Submits one action, answers its callback if it makes one; returns how long the daemon took between the
    submit and the callback, and between the callback's answer and the result, together with the wire."""
    begin = time.perf_counter()
    proposal = {"actions": [{"id": "a1", **action}]}
    body = {"jsonrpc": "2.0", "id": 1, "method": "proposal.submit", "params": {"proposal": proposal}}
    client.send(masked(json.dumps(body).encode()))
    while (message := client.message()).get("method") == "tools.execute":
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": message["params"]["parameters"]}
        client.send(masked(json.dumps(answer).encode()))
    if message["result"]["results"][0]["status"] != "succeeded":
        raise RuntimeError(f"the submit did not succeed: {message}")
    return time.perf_counter() - begin


def submits(directory: Path, quick: bool) -> list[Figure]:
    count = 200 if quick else 2000
    call = {"type": "tool_call", "tool": "echo", "parameters": {"m": 1}}
    write = {"type": "state_write", "parameters": {"key": "k", "value": 1}}
    with daemon(directory / "submits") as ours:
        client = ours.client("agent")
        client.call("tools.register", [TOOL])
        without, with_callback = (_p50(client, action, count) for action in (write, call))
        start_run(client)
        recorded = _p50(client, call, count)
    return [
        Figure("work", "submit of one state_write, p50", without, "us", "no run, so nothing is recorded"),
        Figure("work", "submit of one tool_call, p50", with_callback, "us", "no run; one callback"),
        Figure(
            "work", "callback round trip, p50", with_callback - without, "us", "the difference of the two"
        ),
        Figure("work", "submit of one tool_call, recorded, p50", recorded, "us", "one durable turn"),
    ]


def _p50(client: Client, action: dict[str, Any], count: int) -> float:
    return median(timed(lambda: submit(client, action), count)) * 1e6


def fan_out(directory: Path, quick: bool) -> list[Figure]:
    turns = 50 if quick else 300
    with daemon(directory / "fan-out") as ours:
        writer = ours.client("agent")
        watchers = [ours.client(host=True) for _ in range(max(WATCHERS))]
        return [_fan_out(writer, watchers[:count], turns) for count in WATCHERS]


def _fan_out(writer: Client, watchers: list[Client], turns: int) -> Figure:
    """From the moment a turn is sent until every watcher has it."""
    run_id = start_run(writer)
    frame = one_turn(run_id)
    for watcher in watchers:
        watcher.call("runs.subscribe", {"run_id": run_id})
    poll = select.epoll()
    waiting = {watcher.socket.fileno(): watcher for watcher in watchers}
    for descriptor in waiting:
        poll.register(descriptor, select.EPOLLIN)

    def one() -> None:
        writer.send(frame)
        missing = len(watchers)
        while missing:
            missing -= sum(waiting[descriptor].count() for descriptor, _ in poll.poll(PATIENCE))
        writer.count()

    took = median(timed(one, turns)) * 1e6
    for watcher in watchers:
        watcher.call("runs.unsubscribe", {"run_id": run_id})
    detail = f"{took / len(watchers):.0f} us per watcher; each turn of {len(json.dumps(TURN))} bytes is durable first"
    return Figure("work", f"a turn to {len(watchers)} watchers, p50", took, "us", detail)
