"""What it costs that a turn is on disk before it is acknowledged, against writing and syncing file after file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.client import Client, Flood, flood, request, timed
from bench.figures import Figure
from bench.processes import Daemon, daemon, file_system_of

RUNS = 64
TURN = {"prompt": "x" * 100, "tool": "search", "output": {"text": "y" * 100}}
LINE_BYTES = 350
FASTEST_DISK = 100e-6
"""A disk that says it has synced sooner than this is not one for which the single turn's target was promised."""
MAX_TURNS = 2000
BATCH = 64
BATCHING = 8

SIZES: dict[str, dict[str, Any]] = {
    "100 B": {"prompt": "x" * 100},
    "8 KB": {"prompt": "x", "output": ["y" * 8_000]},
    "256 KB": {"prompt": "x", "output": ["y" * 16_000] * 16},
}
CONNECTIONS = (1, 16, 64, 256)
DURABILITIES = ("always", "interval", "os")
GUARDS = {
    ("always", "100 B"): (0.2, 1.0, 1.0, 1.0), ("others", "100 B"): (0.3, 1.2, 1.4, 1.2),
    ("always", "8 KB"): (0.2, 0.8, 1.0, 1.2), ("others", "8 KB"): (0.3, 1.2, 1.4, 1.2),
    ("always", "256 KB"): (0.13, 0.2, 0.2, 0.2), ("others", "256 KB"): (0.13, 0.2, 0.2, 0.2),
}  # fmt: skip
"""How many times as many turns, at least, as `write` and `fdatasync` of as many files one after the other, for each of
`CONNECTIONS`."""
MOST_BYTES = 16 << 20
"""What one cell of the table writes at most."""


def start_run(client: Client) -> str:
    run_id: str = client.call("runs.start", {"intent": "measure"})["run_id"]
    return run_id


def turn_frame(client: Client, *turns: dict[str, Any]) -> bytes:
    """A frame that records these turns, or one, in a new run of this client."""
    return request("runs.record_turns", {"run_id": start_run(client), "turns": turns or [TURN]})


def one_turn(run_id: str) -> bytes:
    return request("runs.record_turns", {"run_id": run_id, "turns": [TURN]})


def write_and_sync(directory: Path, files: int, seconds: float, size: int = LINE_BYTES) -> list[float]:
    """The baseline: `write` and `fdatasync`, file after file; how long each took."""
    paths = [directory / f"raw-{number}" for number in range(files)]
    descriptors = [os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600) for path in paths]
    line = b"z" * size + b"\n"
    for descriptor in descriptors:
        os.write(descriptor, line)
        os.fsync(descriptor)

    def one(descriptor: int) -> float:
        begin = time.perf_counter()
        os.write(descriptor, line)
        os.fdatasync(descriptor)
        return time.perf_counter() - begin

    took: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        took += [one(descriptor) for descriptor in descriptors]
    for descriptor, path in zip(descriptors, paths, strict=True):
        os.close(descriptor)
        path.unlink()
    return took


def durable(directory: Path, quick: bool) -> list[Figure]:
    rounds, seconds = (1, 0.1) if quick else (9, 1.2)
    kind = file_system_of(directory)
    with daemon(directory / "durable") as ours:
        clients = [ours.client(f"agent-{number}") for number in range(RUNS)]
        pairs = [_together(ours, clients, directory, seconds) for _ in range(rounds)]
        alone = [_alone(clients[0], directory, seconds) for _ in range(rounds)]
        batches = [_batches(ours, clients[:BATCHING], seconds) for _ in range(rounds)]
    rate, baseline = median(done.rate for done, _ in pairs), median(raw for _, raw in pairs)
    turn, raw = (median(pair[i] for pair in alone) * 1e6 for i in (0, 1))
    cost = median(done.server_seconds / done.answered for done, _ in pairs) * 1e6
    by_batch = median(done.rate for done in batches) * BATCH
    cost_of_batch = median(done.server_seconds / done.answered for done in batches) * 1e6 / BATCH
    return [
        Figure(
            "durable", f"turns/s, {RUNS} runs waiting at once", median(done.rate / other for done, other in pairs),
            "x raw",
            f"{rate:,.0f}/s against {baseline:,.0f}/s of write+fdatasync ({kind}); {cost:.0f} us of processor each",
            at_least=3.0,
        ),
        Figure(
            "durable", f"a turn while {RUNS} runs wait, p50", median(done.p50 for done, _ in pairs) * 1e3, "ms",
            at_most=4.0,
        ),
        Figure(
            "durable", "one turn, p50 over write+fdatasync", median(one - other for one, other in alone) * 1e6, "us",
            f"{turn:.0f} us against {raw:.0f} us ({kind})",
            at_most=200.0, is_guard=raw < FASTEST_DISK * 1e6,
        ),
        Figure(
            "durable", f"turns in batches of {BATCH}, {BATCHING} runs", by_batch, "/s",
            f"{cost_of_batch:.1f} us of processor each", at_least=100_000.0,
        ),
    ]  # fmt: skip


def _together(ours: Daemon, clients: list[Client], directory: Path, seconds: float) -> tuple[Flood, float]:
    frames = [turn_frame(client) for client in clients]
    done = flood(clients, frames, window=1, seconds=seconds, server=ours.pid, most=MAX_TURNS)
    raw = write_and_sync(directory, RUNS, seconds / 2)
    return done, len(raw) / sum(raw)


def _alone(client: Client, directory: Path, seconds: float) -> tuple[float, float]:
    frame = turn_frame(client)

    def record() -> None:
        client.send(frame)
        client.count()

    took = timed(record, min(MAX_TURNS, int(seconds * 1000)))
    return median(took), median(write_and_sync(directory, 1, seconds / 2))


def _batches(ours: Daemon, clients: list[Client], seconds: float) -> Flood:
    frames = [turn_frame(client, *[TURN] * BATCH) for client in clients]
    most = MAX_TURNS // BATCH
    return flood(clients, frames, window=1, seconds=seconds, server=ours.pid, most=most)


def grid(directory: Path, quick: bool) -> list[Figure]:
    """`record_turns` for so many connections, durabilities and sizes."""
    seconds, connections = (0.02, (1, 4)) if quick else (0.6, CONNECTIONS)
    figures: list[Figure] = []
    for durability in DURABILITIES:
        with daemon(directory / f"grid-{durability}", CAR_TRIO_RUNS_DURABILITY=durability) as ours:
            clients = [ours.client(f"agent-{number}") for number in range(max(connections))]
            for size, turn in SIZES.items():
                guards = GUARDS["always" if durability == "always" else "others", size]
                for count, guard in zip(connections, guards, strict=False):
                    done = _cell(ours, clients[:count], turn, seconds)
                    raw = _raw(directory, count, turn, seconds)
                    figures.append(_figure(f"{durability}, {size}, {count} at once", done, raw, guard))
    return figures


def _cell(ours: Daemon, clients: list[Client], turn: dict[str, Any], seconds: float) -> Flood:
    frames = [turn_frame(client, turn) for client in clients]
    most = max(2, min(MAX_TURNS, MOST_BYTES // len(frames[0]) // len(clients)))
    return flood(clients, frames, window=1, seconds=seconds, server=ours.pid, most=most)


def _raw(directory: Path, count: int, turn: dict[str, Any], seconds: float) -> float:
    took = write_and_sync(directory, count, seconds / 3, len(str(turn)) + 150)
    return len(took) / sum(took)


def _figure(name: str, done: Flood, raw: float, guard: float) -> Figure:
    cost = done.server_seconds / done.answered * 1e6
    detail = (
        f"{done.rate:,.0f}/s against {raw:,.0f}/s of write+fdatasync; p50 {done.p50 * 1e3:.2f} ms; "
        f"{cost:.0f} us of processor each"
    )
    return Figure("grid", name, done.rate / raw, "x raw", detail, at_least=guard, is_guard=True)
