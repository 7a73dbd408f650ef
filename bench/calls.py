"""Small and large calls against echo servers, idle connections, and what the daemon costs while nobody calls."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.client import Client, Flood, flood, processor_seconds, request
from bench.figures import Figure
from bench.processes import Daemon, Server, daemon, running
from bench.uvloop_echo import loop_factory

CLIENTS = 100
PIPELINING_CLIENTS = 8
WINDOW = 64
LARGE_CLIENTS = 8
LARGE_BYTES = 262_144
IDLE_CONNECTIONS = 1000
FRAME = request("state.get", {"key": "k"})
LARGE_FRAME = request("state.get", {"key": "k", "more": "x" * LARGE_BYTES})
STORING_FRAME = request("state.set", {"key": "stored", "value": "x" * LARGE_BYTES})


class Kind(NamedTuple):
    """What is called: a frame, by how many clients, with how many in flight each, and how much faster than the echo it
    is to be."""

    frame: bytes
    clients: int
    window: int
    at_least: float
    is_guard: bool = False


KINDS = {
    f"state.get, {CLIENTS} clients": Kind(FRAME, CLIENTS, 1, 2.2),
    f"state.get pipelined, {PIPELINING_CLIENTS} x {WINDOW}": Kind(FRAME, PIPELINING_CLIENTS, WINDOW, 10.0),
    f"calls of 256 KB, {LARGE_CLIENTS} clients": Kind(LARGE_FRAME, LARGE_CLIENTS, 1, 4.0),
    f"state.set of 256 KB, {LARGE_CLIENTS} clients": Kind(
        STORING_FRAME, LARGE_CLIENTS, 1, 1.2, is_guard=True
    ),
}
"""The large call is read and checked like any other, and its answer is small, because nobody sets its key; the echo
sends back what came."""


def calls(directory: Path, quick: bool) -> list[Figure]:
    """All servers are up all the time and are asked in turns, so that what disturbs one disturbs the others."""
    rounds, seconds = (1, 0.05) if quick else (9, 0.8)
    echo = Server("-m", "bench.echo", log=directory / "echo.log")
    asyncio = Server("-m", "bench.uvloop_echo", log=directory / "asyncio.log")
    with daemon(directory / "calls") as ours, running(echo), running(asyncio):
        callers = [(ours.pid, [ours.client() for _ in range(CLIENTS)])]
        callers += [(each.pid, [Client(each.port) for _ in range(CLIENTS)]) for each in (echo, asyncio)]
        found: dict[str, list[list[Flood]]] = {name: [] for name in KINDS}
        for _ in range(rounds):
            for name, (frame, count, window, *_) in KINDS.items():
                found[name].append([
                    flood(clients[:count], [frame] * count, window=window, seconds=seconds, server=pid)
                    for pid, clients in callers
                ])  # fmt: skip
    return [_against(name, found[name], kind) for name, kind in KINDS.items()]


def _against(name: str, rounds: list[list[Flood]], kind: Kind) -> Figure:
    ours, theirs, asyncio = (median(each[i].rate for each in rounds) for i in range(3))
    cost = median(mine.server_rate / other.server_rate for mine, other, _ in rounds)
    loop = "uvloop" if loop_factory() is not None else "asyncio's own loop"
    detail = (
        f"{ours:,.0f}/s against {theirs:,.0f}/s; by processor time x {cost:.2f}; "
        f"{asyncio:,.0f}/s for websockets on {loop}"
    )
    ratio = median(mine.rate / other.rate for mine, other, _ in rounds)
    return Figure("calls", name, ratio, "x echo", detail, at_least=kind.at_least, is_guard=kind.is_guard)


def idle(directory: Path, quick: bool) -> list[Figure]:
    """Processor time and memory of a daemon that nobody calls, then with connections that say nothing."""
    seconds, count = (0.2, 50) if quick else (20.0, IDLE_CONNECTIONS)
    with daemon(directory / "idle") as ours:
        time.sleep(0.2 if quick else 1)
        alone = _busy(ours, seconds / 2)
        resident = ours.resident()
        warm = [ours.client() for _ in range(20)]
        before = ours.resident()
        clients = [ours.client() for _ in range(count)]
        each = (ours.resident() - before) / count
        time.sleep(0.2 if quick else 1)
        connected = _busy(ours, seconds)
        for client in warm + clients:
            client.close()
    return [
        _processor("processor, no connections", alone, seconds / 2),
        _processor(f"processor, {count:,} connections", connected, seconds),
        Figure("idle", "resident memory", resident / 1e6, "MB", at_most=60.0),
        Figure("idle", "memory per idle connection", each / 1024, "KiB", f"{count:,} of them", at_most=12.0),
    ]


def _busy(ours: Daemon, seconds: float) -> float:
    """The share of a processor that it takes."""
    before = processor_seconds(ours.pid)
    time.sleep(seconds)
    return (processor_seconds(ours.pid) - before) / seconds


def _processor(name: str, busy: float, seconds: float) -> Figure:
    detail = f"{busy * 100:.3f} % over {seconds:g} s"
    return Figure("idle", name, round(busy * 100, 1), "%", detail, at_most=0.0)
