"""Whole round trips: a call back into the client, and a submit of one action."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.client import Client, masked, timed
from bench.durable import start_run
from bench.figures import Figure
from bench.processes import Server, daemon, running

TOOL: dict[str, Any] = {"name": "echo", "parameters": {}}
CALL: dict[str, Any] = {"type": "tool_call", "tool": "echo", "parameters": {"m": 1}}
WRITE: dict[str, Any] = {"type": "state_write", "parameters": {"key": "k", "value": 1}}


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
    rounds, count = (2, 5) if quick else (9, 150)
    echo = Server("-m", "bench.echo", log=directory / "echo.log")
    with daemon(directory / "submits") as ours, running(echo):
        client, other, recorder = ours.client("agent"), Client(echo.port), ours.client("recorder")
        for each in (client, recorder):
            each.call("tools.register", [TOOL])
        start_run(recorder)
        free = [[_p50(client, WRITE, count), _p50(client, CALL, count), _p50(recorder, CALL, count)]]
        with one_processor(ours, echo):
            pairs = [
                (_p50(client, WRITE, count), _p50(client, CALL, count), _echo(other, count))
                for _ in range(rounds)
            ]
        free += [
            [_p50(client, WRITE, count), _p50(client, CALL, count), _p50(recorder, CALL, count)]
            for _ in range(rounds)
        ]
    without, with_callback, recorded = (median(each[i] for each in free) for i in range(3))
    trip, theirs = (
        median(call - write for write, call, _ in pairs),
        median(theirs for _, _, theirs in pairs),
    )
    return [
        Figure(
            "submit", "callback round trip, one processor, p50",
            median((call - write) / theirs for write, call, theirs in pairs), "x echo",
            f"{trip:.0f} us, a submit with one less a submit without, against {theirs:.0f} us", at_most=0.6,
        ),
        Figure("submit", "one state_write, p50", without, "us", "no run, so nothing is recorded"),
        Figure("submit", "one tool_call, p50", with_callback, "us", "no run; one callback"),
        Figure("submit", "one tool_call, recorded, p50", recorded, "us", "one durable turn"),
    ]  # fmt: skip


def _p50(client: Client, action: dict[str, Any], count: int) -> float:
    return median(timed(lambda: submit(client, action), count)) * 1e6


def _echo(client: Client, count: int) -> float:
    frame = masked(b"x" * 100)

    def once() -> None:
        client.send(frame)
        client.count()

    return median(timed(once, count)) * 1e6


class one_processor:  # noqa: N801 - read as a word of the language
    """Keeps servers, and whoever measures them, on one processor while the block runs."""

    def __init__(self, *servers: Server) -> None:
        self._servers = servers
        self._before = os.sched_getaffinity(0)

    def __enter__(self) -> None:
        first = min(self._before)
        os.sched_setaffinity(0, {first})
        for server in self._servers:
            server.pin({first})

    def __exit__(self, *_: object) -> None:
        os.sched_setaffinity(0, self._before)
        for server in self._servers:
            server.pin(self._before)
