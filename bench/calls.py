"""Small calls against an echo server, 1,000 idle connections, and what the daemon costs while nobody calls."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

from bench.client import Client, Flood, flood, processor_seconds, request
from bench.figures import Figure
from bench.processes import Daemon, Server, daemon, running

CLIENTS = 100
PIPELINING_CLIENTS = 8
WINDOW = 64
IDLE_CONNECTIONS = 1000
FRAME = request("state.get", {"key": "k"})


def small_calls(directory: Path, quick: bool) -> list[Figure]:
    """Both servers are up all the time and are asked in turns, so that what disturbs one disturbs the other."""
    rounds, seconds = (3, 0.5) if quick else (9, 1.0)
    echo = Server("-m", "bench.echo", log=directory / "echo.log")
    with daemon(directory / "calls") as ours, running(echo):
        mine = [ours.client() for _ in range(CLIENTS)]
        theirs = [Client(echo.port) for _ in range(CLIENTS)]
        found: dict[int, list[tuple[Flood, Flood]]] = {1: [], WINDOW: []}
        for _ in range(rounds):
            for window, count in ((1, CLIENTS), (WINDOW, PIPELINING_CLIENTS)):
                found[window].append((
                    flood(mine[:count], [FRAME] * count, window=window, seconds=seconds, server=ours.pid),
                    flood(theirs[:count], [FRAME] * count, window=window, seconds=seconds, server=echo.pid),
                ))  # fmt: skip
    one, many = f"state.get, {CLIENTS} clients", f"state.get pipelined, {PIPELINING_CLIENTS} x {WINDOW}"
    return [*_against(one, found[1], 2.0), *_against(many, found[WINDOW], 8.0)]


def _against(name: str, pairs: list[tuple[Flood, Flood]], target: float) -> list[Figure]:
    ours, theirs = (median(pair[i].rate for pair in pairs) for i in (0, 1))
    cost = median(mine.server_rate / other.server_rate for mine, other in pairs)
    detail = f"{ours:,.0f}/s against {theirs:,.0f}/s; by processor time x {cost:.2f}"
    ratio = median(mine.rate / other.rate for mine, other in pairs)
    return [Figure("calls", name, ratio, "x echo", detail, at_least=target)]


def idle(directory: Path, quick: bool) -> list[Figure]:
    """Processor time and memory of a daemon that nobody calls, then of its connections that say nothing."""
    seconds = 3.0 if quick else 10.0
    with daemon(directory / "idle") as ours:
        time.sleep(1)
        before = processor_seconds(ours.pid)
        time.sleep(seconds)
        busy = (processor_seconds(ours.pid) - before) / seconds
        resident = ours.resident()
        each = _per_connection(ours)
    return [
        Figure(
            "idle",
            "processor",
            round(busy * 100, 1),
            "%",
            f"{busy * 100:.3f} % over {seconds:g} s",
            at_most=0.0,
        ),
        Figure("idle", "resident memory", resident / 1e6, "MB", at_most=60.0),
        Figure(
            "idle",
            "memory per idle connection",
            each / 1024,
            "KiB",
            f"{IDLE_CONNECTIONS} connections",
            at_most=14.0,
        ),
    ]


def _per_connection(ours: Daemon) -> float:
    warm = [ours.client() for _ in range(20)]
    before = ours.resident()
    clients = [ours.client() for _ in range(IDLE_CONNECTIONS)]
    grown = ours.resident() - before
    for client in warm + clients:
        client.close()
    return grown / IDLE_CONNECTIONS
