"""What a plan costs without its tools: parsed, verified and executed, with tools that answer at once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import trio

from bench.figures import Figure
from car_trio.engine import verify
from car_trio.engine.execute import Execution
from car_trio.engine.model import parse_strict

SMALL, LARGE = 10, 1000
TEXT = 20_000


def plan(actions: int, text: str = "x" * 40) -> bytes:
    """A plan of tool calls and writes, each fourth action waiting for a key that an earlier one wrote."""
    made: list[dict[str, Any]] = []
    for n in range(actions):
        if n % 4 == 0:
            made.append({"id": f"w{n}", "type": "state_write", "parameters": {"key": f"k{n}", "value": n}})
        else:
            waits = [f"k{n - n % 4}"] if n % 4 == 3 else []
            parameters = {"n": n, "text": text}
            made.append(
                {
                    "id": f"a{n}",
                    "type": "tool_call",
                    "tool": "t",
                    "parameters": parameters,
                    "state_dependencies": waits,
                }
            )
    return json.dumps({"id": "p", "actions": made}).encode()


def plans(directory: Path, quick: bool) -> list[Figure]:
    rounds = 2 if quick else 25
    small, large = (median(_whole(plan(count), rounds)) for count in (SMALL, LARGE))
    short, long = (median(_verifying(plan(SMALL, "y" * size), rounds)) for size in (TEXT, 10 * TEXT))
    return [
        Figure("plans", f"{SMALL} actions: parse, verify, execute", small * 1e6, "us", "in process", at_most=300.0),
        Figure("plans", f"{LARGE} actions: parse, verify, execute", large * 1e3, "ms", "in process", at_most=30.0),
        Figure(
            "plans", "verify, parameters ten times as long", long / short, "x time",
            f"{long * 1e6:.0f} us for {10 * TEXT} characters each, {short * 1e6:.0f} us for {TEXT}", at_most=10.0,
        ),
    ]  # fmt: skip


def _whole(raw: bytes, rounds: int) -> list[float]:
    async def answer(action: Any, attempt: int) -> Any:
        return None

    async def once() -> None:
        proposal = parse_strict(raw)
        verify(raw, None, ["t"])
        await Execution(proposal, call=answer, state={}, registered={"t"}).run()

    async def measure() -> list[float]:
        return [await _timed(once) for _ in range(rounds)]

    return trio.run(measure)


async def _timed(once: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    await once()
    return time.perf_counter() - begin


def _verifying(raw: bytes, rounds: int) -> list[float]:
    took: list[float] = []
    for _ in range(rounds):
        begin = time.perf_counter()
        verify(raw, None, ["t"])
        took.append(time.perf_counter() - begin)
    return took
