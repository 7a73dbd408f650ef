"""What runs in progress cost in memory: their turns are on disk, so nearly nothing."""

from __future__ import annotations

from pathlib import Path

from bench.client import request
from bench.durable import one_turn, start_run
from bench.figures import Figure
from bench.processes import Daemon, daemon

RUNS = 50
TURNS = 500
BATCH = 10
TURN = {"prompt": "p" * 100, "output": {"text": "o" * 8000}}


OPEN_RUNS = 5000


def memory(directory: Path, quick: bool) -> list[Figure]:
    turns, runs = (2 * BATCH, 50) if quick else (TURNS, OPEN_RUNS)
    with daemon(directory / "memory") as ours:
        return [_growth(ours, turns), _per_run(ours, runs)]


def _growth(ours: Daemon, turns: int) -> Figure:
    client = ours.client("agent")
    runs = [start_run(client) for _ in range(RUNS)]
    frames = [request("runs.record_turns", {"run_id": run_id, "turns": [TURN] * BATCH}) for run_id in runs]
    before = ours.resident()
    for _ in range(turns // BATCH):
        client.send(b"".join(frames))
        answered = 0
        while answered < RUNS:
            answered += client.count()
    grown = ours.resident() - before
    written = RUNS * turns * 8.1e3 / 1e6
    detail = f"{RUNS} open runs x {turns} turns x 8 KB = {written:.0f} MB recorded"
    return Figure("memory", "growth", grown / 1e6, "MB", detail, at_most=30.0)


def _per_run(ours: Daemon, count: int) -> Figure:
    """Open runs with one turn each."""
    client = ours.client("many")
    before = ours.resident()
    for _ in range(count):
        client.send(one_turn(start_run(client)))
        client.message()
    each = (ours.resident() - before) / count
    detail = f"{count:,} of them, with one turn each"
    return Figure("memory", "an open run", each / 1024, "KiB", detail, at_most=2.0, is_guard=True)
