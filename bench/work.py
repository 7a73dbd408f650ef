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


def frame_of(action: dict[str, Any]) -> bytes:
    proposal = {"actions": [{"id": "a1", **action}]}
    body = {"jsonrpc": "2.0", "id": 1, "method": "proposal.submit", "params": {"proposal": proposal}}
    return masked(json.dumps(body).encode())


def answer_to(call_id: str) -> bytes:
    return masked(json.dumps({"jsonrpc": "2.0", "id": call_id, "result": {"m": 1}}).encode())


def submit(client: Client, action: dict[str, Any]) -> str | None:
    """Submits one action, and looks at what comes; the id of its callback, if it makes one."""
    client.send(frame_of(action))
    call_id = None
    while (message := client.message()).get("method") == "tools.execute":
        call_id = message["id"]
        client.send(answer_to(call_id))
    if message["result"]["results"][0]["status"] != "succeeded":
        raise RuntimeError(f"the submit did not succeed: {message}")
    return call_id


def p50(client: Client, action: dict[str, Any], count: int) -> float:
    """Microseconds from a submit to its result, callback included. What the client sends is made beforehand, and what
    it gets is counted and not decoded, as for an echo: only the server's work and the way are measured."""
    call_id = submit(client, action)
    frame = frame_of(action)
    next_call = 0 if call_id is None else int(call_id.removeprefix("cb-")) + 1
    answers = [] if call_id is None else [answer_to(f"cb-{next_call + i}") for i in range(count)]

    def once(answer: bytes | None) -> float:
        begin = time.perf_counter()
        client.send(frame)
        if answer is not None:
            await_one(client)
            client.send(answer)
        await_one(client)
        return time.perf_counter() - begin

    return median(once(answers[i] if answers else None) for i in range(count)) * 1e6


def await_one(client: Client) -> None:
    while not client.count():
        pass


def submits(directory: Path, quick: bool) -> list[Figure]:
    rounds, count = (2, 5) if quick else (9, 150)
    echo = Server("-m", "bench.echo", log=directory / "echo.log")
    with daemon(directory / "submits") as ours, running(echo):
        client, other, recorder = ours.client("agent"), Client(echo.port), ours.client("recorder")
        for each in (client, recorder):
            each.call("tools.register", [TOOL])
        start_run(recorder)
        free = [[p50(client, WRITE, count), p50(client, CALL, count), p50(recorder, CALL, count)]]
        with one_processor(ours, echo):
            pairs = [
                (p50(client, WRITE, count), p50(client, CALL, count), _echo(other, count))
                for _ in range(rounds)
            ]
        free += [
            [p50(client, WRITE, count), p50(client, CALL, count), p50(recorder, CALL, count)]
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
        *(
            Figure("submit", name, measured, "us", detail, at_most=guard, is_guard=True)
            for name, measured, detail, guard in (
                ("one state_write, p50", without, "no run, so nothing is recorded", 400.0),
                ("one tool_call, p50", with_callback, "no run; one callback", 600.0),
                ("one tool_call, recorded, p50", recorded, "one durable turn", 1300.0),
            )
        ),
    ]  # fmt: skip


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
