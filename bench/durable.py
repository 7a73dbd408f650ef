"""What it costs that a turn is on disk before it is acknowledged, against writing and syncing file after file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median

from bench.client import Client, flood, request, timed
from bench.figures import Figure
from bench.processes import Daemon, daemon, file_system_of

RUNS = 64
TURN = {"prompt": "x" * 100, "tool": "search", "output": {"text": "y" * 100}}
LINE_BYTES = 350
FASTEST_DISK = 100e-6
"""A disk that says it has synced sooner than this is not one for which the single turn has a target."""
MAX_TURNS = 2000


def start_run(client: Client) -> str:
    run_id: str = client.call("runs.start", {"intent": "measure"})["run_id"]
    return run_id


def turn_frame(client: Client) -> bytes:
    """A frame that records one turn in a new run of this client."""
    return one_turn(start_run(client))


def one_turn(run_id: str) -> bytes:
    return request("runs.record_turns", {"run_id": run_id, "turns": [TURN]})


def write_and_sync(directory: Path, files: int, seconds: float) -> list[float]:
    """The baseline: `write` and `fdatasync`, file after file; how long each took."""
    paths = [directory / f"raw-{number}" for number in range(files)]
    descriptors = [os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600) for path in paths]
    line = b"z" * LINE_BYTES + b"\n"
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
    rounds, seconds = (3, 0.5) if quick else (9, 1.5)
    kind = file_system_of(directory)
    with daemon(directory / "durable") as ours:
        clients = [ours.client(f"agent-{number}") for number in range(RUNS)]
        pairs = [_together(ours, clients, directory, seconds) for _ in range(rounds)]
        alone = [_alone(clients[0], directory, seconds) for _ in range(rounds)]
    rate, baseline = (median(pair[i] for pair in pairs) for i in (0, 1))
    turn, raw = (median(pair[i] for pair in alone) * 1e6 for i in (0, 1))
    added = median(one - other for one, other in alone) * 1e6
    eligible = raw >= FASTEST_DISK * 1e6
    return [
        Figure(
            "durable",
            f"turns/s, {RUNS} runs waiting at once",
            median(one / other for one, other in pairs),
            "x raw",
            f"{rate:,.0f}/s against {baseline:,.0f}/s of write+fdatasync ({kind})",
            at_least=2.0,
        ),
        Figure(
            "durable",
            "one turn, p50 over write+fdatasync",
            added,
            "us",
            f"{turn:.0f} us against {raw:.0f} us ({kind})",
            at_most=200.0 if eligible else None,
        ),
    ]


def _together(ours: Daemon, clients: list[Client], directory: Path, seconds: float) -> tuple[float, float]:
    frames = [turn_frame(client) for client in clients]
    done = flood(clients, frames, window=1, seconds=seconds, server=ours.pid, most=MAX_TURNS)
    raw = write_and_sync(directory, RUNS, seconds)
    return done.rate, len(raw) / sum(raw)


def _alone(client: Client, directory: Path, seconds: float) -> tuple[float, float]:
    frame = turn_frame(client)

    def record() -> None:
        client.send(frame)
        client.count()

    took = timed(record, min(MAX_TURNS, int(seconds * 1000)))
    return median(took), median(write_and_sync(directory, 1, seconds / 2))
