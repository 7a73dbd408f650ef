"""Starting, with nothing in the store and with 100,000 runs, listing the runs of an agent that has many, and reading
one run.

The large store is made once, by this file alone, as the files that a daemon would have written; the first daemon on
it makes its catalog. It is kept outside the checkout, in the cache directory of the user, and is used as it was left.
"""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from bench.client import request, timed
from bench.durable import start_run
from bench.figures import Figure
from bench.processes import Daemon, daemon

AGENTS = 90
RUNS_EACH = 1000
BUSY_AGENT = "busy"
BUSY_RUNS = 10_000
KEEP_ALL = {"CAR_TRIO_RUNS_MAX_PER_AGENT": "0", "CAR_TRIO_RUNS_MAX_AGE_DAYS": "0"}
TRACE_TURNS = 2000
TRACE_TURN = {"prompt": "p" * 100, "tool": "search", "output": {"text": "o" * 800}}
LAYOUT = "1"
"""Part of the directory's name: a store of another layout is another store."""


def large_store(directory: Path, quick: bool) -> tuple[Path, int]:
    """The home of a daemon with 100,000 ended runs (`quick`: 120, made anew), and how many there are."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "car-trio-bench"
    agents, each, busy = (1, 20, 100) if quick else (AGENTS, RUNS_EACH, BUSY_RUNS)
    count = agents * each + busy
    home = (directory if quick else cache) / f"store-{LAYOUT}-{count}"
    made = home / "made"
    if not made.exists():
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        (home / "runs").mkdir(exist_ok=True, mode=0o700)
        for number in range(agents):
            _agent(home / "runs" / f"agent-{number}", f"agent-{number}", each)
        _agent(home / "runs" / BUSY_AGENT, BUSY_AGENT, busy)
        made.touch()
    return home, count


def _agent(directory: Path, agent_id: str, runs: int) -> None:
    directory.mkdir(exist_ok=True, mode=0o700)
    for number in range(runs):
        path = directory / f"{agent_id}-{number}.jsonl"
        path.write_bytes(b"".join(json.dumps(each).encode() + b"\n" for each in _records(agent_id, number)))
        path.chmod(0o600)


def _records(agent_id: str, number: int) -> list[dict[str, object]]:
    run_id = f"{agent_id}-{number}"
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    at = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    metrics = dict.fromkeys(("turns", "tool_calls", "retries", "actions_succeeded", "actions_failed"), 0)
    outcome: dict[str, Any] = {
        "status": "success", "summary": "done", "evidence": [], "metrics": {**metrics, "duration_ms": 1.0},
        "timestamp": at,
    }  # fmt: skip
    return [
        {"record": "started", "run_id": run_id, "agent_id": agent_id, "intent": f"task {number}", "started_at": at},
        {"record": "turn", "index": 0, "prompt": "p", "tool": "search", "verifier_verdict": "not_run"},
        {
            "record": "ended", "run_id": run_id, "agent_id": agent_id,
            "termination": {"kind": "outcome", "outcome": outcome}, "ended_at": at,
        },
    ]  # fmt: skip


def _ready(home: Path, stop: int, rounds: int) -> list[float]:
    """How long a start takes after a stop by this signal, in ms; the first start only makes the stop."""
    took: list[float] = []
    for _ in range(rounds + 1):
        started = Daemon(home, **KEEP_ALL)
        took.append(started.ready_seconds * 1e3)
        time.sleep(0.3)
        started.end(stop)
    return took[1:]


def starting(directory: Path, quick: bool) -> list[Figure]:
    rounds = 1 if quick else 7
    fresh: list[float] = []
    for number in range(rounds):
        with daemon(directory / f"empty-{number}") as ours:
            fresh.append(ours.ready_seconds * 1e3)
    home, count = large_store(directory, quick)
    clean = _ready(home, signal.SIGTERM, rounds)
    killed = _ready(home, signal.SIGKILL, rounds)
    Daemon(home, **KEEP_ALL).end()
    spread = f"{min(fresh):.0f} to {max(fresh):.0f}"
    return [
        Figure("start", "ready, empty store", median(fresh), "ms", spread, at_most=500.0),
        Figure("start", f"ready, {count:,} runs, clean stop", median(clean), "ms",
               f"{min(clean):.0f} to {max(clean):.0f}", at_most=700.0),
        Figure("start", f"ready, {count:,} runs, after SIGKILL", median(killed), "ms",
               f"{min(killed):.0f} to {max(killed):.0f}", at_most=2500.0, is_guard=True),
    ]  # fmt: skip


def listing(directory: Path, quick: bool) -> list[Figure]:
    home, _ = large_store(directory, quick)
    frame = request("runs.list", {"agent_id": BUSY_AGENT, "limit": 50})
    nothing = request("state.get", {"key": "k"})
    with daemon(home, **KEEP_ALL) as ours:
        client = ours.client(BUSY_AGENT)
        if len(client.call("runs.list", {"agent_id": BUSY_AGENT, "limit": 50})["runs"]) != 50:
            raise RuntimeError("the large store does not have the runs it should have")

        def ask(what: bytes) -> None:
            client.send(what)
            while not client.count():
                pass

        count = 5 if quick else 1000
        took = median(timed(lambda: ask(frame), count)) * 1e3
        wire = median(timed(lambda: ask(nothing), count)) * 1e3
    runs = 100 if quick else BUSY_RUNS
    detail = f"of {runs:,} of the agent; {took:.2f} ms with the wire, of which {wire:.2f} is any call's"
    return [Figure("list", "runs.list, newest 50, p50", took, "ms", detail, at_most=2.0)]


def reading(directory: Path, quick: bool) -> list[Figure]:
    """`runs.get_trace` of a whole run, the wire and nothing but the wire included: the reply is not decoded."""
    turns, count = (50, 3) if quick else (TRACE_TURNS, 60)
    with daemon(directory / "reading", CAR_TRIO_RUNS_DURABILITY="os") as ours:
        client = ours.client("agent")
        run_id = start_run(client)
        for _ in range(turns // 10):
            client.call("runs.record_turns", {"run_id": run_id, "turns": [TRACE_TURN] * 10})
        if len(client.call("runs.get_trace", {"run_id": run_id})["records"]) < turns:
            raise RuntimeError("the trace does not have the turns that were recorded")
        frame = request("runs.get_trace", {"run_id": run_id})

        def ask() -> None:
            client.send(frame)
            while not client.count():
                pass

        took = timed(ask, count)
    detail = f"{len(str(TRACE_TURN)) * turns / 1e6:.1f} MB; {min(took) * 1e3:.1f} ms at best"
    name = f"runs.get_trace of {turns:,} turns, p50"
    return [Figure("trace", name, median(took) * 1e3, "ms", detail, at_most=20.0, is_guard=True)]
