"""loop: how long the event loop is blocked by one message, up to 4 MiB and 16 MiB, while other clients work.

An instrument in the daemon's own loop times every step of every task (`torture.watched`). Each shape of message is
sent several times beside a load of small calls; the shortest of its longest steps is judged, because the machine's
other work can only lengthen one. Allowed are 50 ms up to 4 MiB and 15 ms more for each MiB above.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.process.daemon_process import DaemonProcess, start_run, until
from tests.second_client import Refused, SecondClient
from torture.orders import Orders, Verdict

MIB = 1024 * 1024
SIZES = [1, 4, 16]
TIMES = 5
BASE_MS = 50.0
MS_PER_MIB = 15.0
ROOM = 2000
"""What an envelope may take of a message's size."""


def allowed_ms(mib: int) -> float:
    return BASE_MS + max(0, mib - 4) * MS_PER_MIB


def turns(size: int, run: str) -> tuple[str, Any]:
    each = size // 256 - 100
    return "runs.record_turns", {"run_id": run, "turns": [{"prompt": "p" * each}] * 256}


def deep_turns(size: int, run: str) -> tuple[str, Any]:
    """Small values, many of them, in few turns."""
    leaf = {"k": [1, 2.5, "three", None]}
    output = [leaf] * (size // 8 // 33)
    return "runs.record_turns", {"run_id": run, "turns": [{"tool": "t", "output": output}] * 8}


def one_turn(size: int, run: str) -> tuple[str, Any]:
    return "runs.record_turns", {"run_id": run, "turns": [{"output": {"text": "é" * (size // 2)}}]}


def large_value(size: int, run: str) -> tuple[str, Any]:
    return "state.set", {"key": "k", "value": [[1, 2, {"a": "b"}]] * (size // 21)}


def large_text(size: int, run: str) -> tuple[str, Any]:
    return "state.set", {"key": "k", "value": "v" * size}


def plan(size: int, run: str) -> tuple[str, Any]:
    """Many actions whose tool nobody offers."""
    action = {
        "type": "tool_call", "tool": "nobody", "parameters": {"n": "x" * 4000}, "dependencies": [],
        "failure_behavior": "skip",
    }  # fmt: skip
    actions = [{"id": f"a{number}", **action} for number in range(size // 4130)]
    return "proposal.submit", {"proposal": {"actions": actions}}


def large_parameters(size: int, run: str) -> tuple[str, Any]:
    values = [{"n": number, "s": "text"} for number in range(size // 26)]
    action = {
        "id": "a", "type": "tool_call", "tool": "nobody", "parameters": {"v": values}, "dependencies": [],
    }  # fmt: skip
    return "proposal.submit", {"proposal": {"actions": [action]}}


def tools(size: int, run: str) -> tuple[str, Any]:
    schema = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(size // 28 // 900)}}
    return "tools.register", [{"name": f"t{n}", "parameters": schema} for n in range(900)]


def outcome(size: int, run: str) -> tuple[str, Any]:
    evidence = [{"kind": "evaluator", "text": "e" * 200}] * (size // 232)
    return "runs.complete", {"run_id": run, "outcome": {"status": "success", "evidence": evidence}}


def unknown(size: int, run: str) -> tuple[str, Any]:
    return "no.such.method", [{"a": [1, 2, 3]}] * (size // 14)


SHAPES: list[Callable[[int, str], tuple[str, Any]]] = [
    turns, deep_turns, one_turn, large_value, large_text, plan, large_parameters, tools, outcome, unknown,
]  # fmt: skip


class Watched(DaemonProcess):
    """A daemon whose longest step can be asked for."""

    def __init__(self, home: Path) -> None:
        self.told = home.with_name("longest.json")
        super().__init__(home, module=("torture.watched", str(self.told)))

    def longest(self) -> dict[str, Any]:
        self.told.unlink(missing_ok=True)
        self.signal(signal.SIGUSR1)
        until(self.told.exists, "the instrument tells")
        told: dict[str, Any] = json.loads(self.told.read_text())
        return told


def campaign(orders: Orders) -> Verdict:
    verdict = Verdict()
    daemon = Watched(orders.directory / "home")
    daemon.start()
    try:
        with small_calls(daemon):
            for number, (shape, mib) in enumerate((shape, mib) for mib in SIZES for shape in SHAPES):
                if not orders.go_on(number):
                    break
                measure(verdict, daemon, shape, mib)
            measure_trace(verdict, daemon)
    finally:
        daemon.clean_up()
    return verdict


def measure(
    verdict: Verdict, daemon: Watched, shape: Callable[[int, str], tuple[str, Any]], mib: int
) -> None:
    blocks = []
    for _ in range(TIMES):
        with bound(daemon) as client:
            run = start_run(client)
            client.call("tools.register", [{"name": "other", "parameters": {}}])
            method, params = shape(mib * MIB - ROOM, run)
            size = len(json.dumps(params, ensure_ascii=False, separators=(",", ":")).encode())
            verdict.expect(0.7 * mib * MIB < size, f"{shape.__name__} is too small: {size}")
            daemon.longest()
            frame = {"jsonrpc": "2.0", "id": "large", "method": method, "params": params}
            client.send_raw(json.dumps(frame, ensure_ascii=False, separators=(",", ":")))
            await_reply(client)
            settle(client)
            verdict.counts["messages"] += 1
            blocks.append(daemon.longest())
    judge(verdict, f"{shape.__name__}, {mib} MiB", mib, blocks)


def await_reply(client: SecondClient) -> None:
    """The largest messages take longer than a client of the tests is ready to wait at once."""
    for _ in range(10):
        with suppress(TimeoutError):
            with suppress(Refused):
                client.reply("large")
            return


def settle(client: SecondClient) -> None:
    """A reply can leave in the middle of the step that made it; when a later request is answered that step is over."""
    client.call("server.health")


def judge(verdict: Verdict, name: str, mib: int, blocks: list[dict[str, Any]]) -> None:
    best = min(blocks, key=lambda block: float(block["ms"]))
    worst = max(float(block["ms"]) for block in blocks)
    verdict.figures[name] = (
        f"{best['ms']:.0f} ms ({best['cpu_ms']:.0f} ms of it its own, worst {worst:.0f} ms), {best['task']}"
    )
    verdict.expect_time(
        best["ms"] <= allowed_ms(mib), f"{name}: blocked for {best['ms']:.0f} ms by {best['task']}"
    )


def measure_trace(verdict: Verdict, daemon: Watched) -> None:
    """A long run, read whole: the largest reply there is."""
    blocks = []
    with bound(daemon) as client:
        run = start_run(client)
        for _ in range(7):
            client.call("runs.record_turns", {"run_id": run, "turns": [{"prompt": "p" * 15_000}] * 256})
        for _ in range(TIMES):
            daemon.longest()
            client.call("runs.get_trace", {"run_id": run})
            settle(client)
            blocks.append(daemon.longest())
    judge(verdict, "get_trace of 27 MiB", 16, blocks)


def bound(daemon: DaemonProcess) -> SecondClient:
    """A client of the one agent, as soon as its last connection is gone."""
    client = SecondClient.dial(daemon.url)

    def is_bound() -> bool:
        with suppress(Refused):
            return bool(client.auth(daemon.token, agent_id="large"))
        return False

    until(is_bound, "the agent is free")
    return client


@contextmanager
def small_calls(daemon: DaemonProcess) -> Iterator[None]:
    """Another client calls and records without a pause."""
    over = threading.Event()

    def work() -> None:
        with daemon.client("small") as client:
            run = client.call("runs.start", {"intent": "be small"})["run_id"]
            number = 0
            while not over.is_set():
                client.call("state.set", {"key": "k", "value": number})
                if number < 1000:
                    client.call("runs.record_turns", {"run_id": run, "turns": [{"prompt": "small"}]})
                number += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
