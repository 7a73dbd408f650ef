"""loop: how long the event loop is blocked by one message of 1, 4 and 16 MiB, under full load.

Instruments in the daemon's own loop time every step of every task and a heart that beats in between
(`torture.watched`). Each shape of value goes into each method that takes large input (`torture.loop_shapes`), beside
all that the daemon can do otherwise (`torture.load`) and a client that must have its answers. Allowed are 50 ms up to
4 MiB and 15 ms more for each MiB above. A message that seems to take longer is sent again a few times and the shortest
counts, because the machine's other work, and what else the daemon had to do just then, can only lengthen it. How many
that were is told.
"""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed

from tests.process.daemon_process import DaemonProcess, start_run, until
from tests.second_client import Refused, SecondClient
from torture.loop_shapes import AGENT, CARRIERS, SHAPES, Carrier, Shape
from torture.orders import Orders, Verdict

MIB = 1024 * 1024
SIZES = [1, 4, 16]
TIMES = 5
BASE_MS = 50.0
MS_PER_MIB = 15.0
ROOM = 30_000
"""What an envelope may take of a message's size."""
PATIENCE = 60.0

Told = dict[str, Any]


def allowed_ms(mib: float) -> float:
    return BASE_MS + max(0, mib - 4) * MS_PER_MIB


class Watched(DaemonProcess):
    """A daemon whose longest step and longest delay can be asked for."""

    def __init__(self, home: Path, environment: dict[str, str] | None = None) -> None:
        self.told = home.with_name("longest.json")
        super().__init__(home, module=("torture.watched", str(self.told)), environment=environment)

    def longest(self) -> Told:
        self.told.unlink(missing_ok=True)
        self.signal(signal.SIGUSR1)
        end = time.monotonic() + PATIENCE
        while not self.told.exists():
            if time.monotonic() > end:
                raise AssertionError("the instrument does not tell: the daemon's loop does not run")
            time.sleep(0.01)
        told: Told = json.loads(self.told.read_text())
        return told


def campaign(orders: Orders) -> Verdict:
    verdict = Verdict()
    daemon = Watched(orders.directory / "home", {"CAR_TRIO_RUNS_MAX_TURNS": "1000000000"})
    daemon.start()
    every = itertools.product(SIZES, CARRIERS.items(), SHAPES)
    messages = [each for each in every if re.search(orders.only, figure_of(*each))]
    orders.dice.shuffle(messages)
    try:
        with full_load(daemon, verdict), small_calls(daemon, verdict):
            measure(verdict, "no large message", 1, lambda: idle(daemon))
            for number, (mib, carrier, shape) in enumerate(messages):
                if not orders.go_on(number):
                    break
                message(verdict, daemon, mib, carrier, shape)
            if orders.rounds is None and not orders.only:
                large_reply(verdict, daemon)
    finally:
        daemon.clean_up()
    return verdict


def figure_of(mib: int, carrier: tuple[str, Carrier], shape: Shape) -> str:
    return f"{mib:2} MiB, {carrier[0]}, {shape.__name__}"


def message(verdict: Verdict, daemon: Watched, mib: int, named: tuple[str, Carrier], shape: Shape) -> None:
    _, carrier = named
    value = shape((mib * MIB - ROOM) // carrier.parts)
    measure(verdict, figure_of(mib, named, shape), mib, lambda: sent(verdict, daemon, carrier, value))


def sent(verdict: Verdict, daemon: Watched, carrier: Carrier, value: str) -> Told:
    """Sends one message and waits for its reply; what the instruments say about it."""
    with bound(daemon, carrier.who) as client:
        run = "" if carrier.who is None else start_run(client)
        client.call("tools.register", [{"name": "known", "parameters": {"type": "object"}}])
        if carrier.first is not None:
            client.send_raw(
                f'{{"id":"large","method":"state.set","params":{{"key":"{carrier.first}","value":{value}}}}}'
            )
            await_reply(client, "")
        params, answer = carrier.params(value, run), carrier.answer.replace("%s", value)
        daemon.longest()
        client.send_raw(f'{{"jsonrpc":"2.0","id":"large","method":"{carrier.method}","params":{params}}}')
        await_reply(client, answer)
        # A reply leaves in the middle of the step that made it; once a later request is answered that step is over.
        client.call("server.health")
        verdict.counts["messages"] += 1
        return daemon.longest()


def await_reply(client: SecondClient, answer: str) -> None:
    """Waits for the reply, answering calls of the tool; replies are too large to be decoded for this."""
    while True:
        text = str(client.websocket.recv(timeout=PATIENCE))
        if '"id":"large"' in text[:60]:
            return
        if '"tools.execute"' in text[:60]:
            called = text.split('"id":"', 1)[1].split('"', 1)[0]
            client.send_raw(f'{{"jsonrpc":"2.0","id":"{called}",{answer}}}')


def idle(daemon: Watched) -> Told:
    with bound(daemon) as client:
        daemon.longest()
        for _ in range(200):
            client.call("server.health")
        return daemon.longest()


def measure(verdict: Verdict, figure: str, mib: float, once: Callable[[], Told]) -> None:
    told = [once()]
    while len(told) < TIMES and longest_of(told[-1]) > allowed_ms(mib) / 2 and not is_fine(told, mib):
        told.append(once())
    verdict.counts["too long at first"] += longest_of(told[0]) > allowed_ms(mib)
    judge(verdict, figure, mib, told)


def is_fine(told: list[Told], mib: float) -> bool:
    return min(map(longest_of, told)) <= allowed_ms(mib)


def longest_of(told: Told) -> float:
    """Of a step only the loop's own processor time counts: in the rest of it the machine did something else, or another
    thread of the daemon did, which makes the heart late."""
    return max(float(told["late_ms"]), float(told["cpu_ms"]))


def judge(verdict: Verdict, figure: str, mib: float, told: list[Told]) -> None:
    best = min(told, key=longest_of)
    ms = longest_of(best)
    said = (
        f"{ms:.0f} ms of {allowed_ms(mib):.0f}: late {best['late_ms']:.0f}, step {best['step_ms']:.0f} "
        f"({best['cpu_ms']:.0f} its own), {best['task'].rpartition('.')[2]} {best['where']}"
    )
    verdict.figures[figure] = said
    print(f"{figure}: {said}", flush=True)
    verdict.expect_time(ms <= allowed_ms(mib), f"{figure}: {said}")


def large_reply(verdict: Verdict, daemon: Watched) -> None:
    """Long runs, read whole: the largest replies there are, of few records and of many."""
    for name, count, size in (("few records", 1700, 15_000), ("many records", 2000, 10)):
        with bound(daemon) as client:
            run = start_run(client)
            while count:
                some = min(count, 250)
                client.call("runs.record_turns", {"run_id": run, "turns": [{"prompt": "p" * size}] * some})
                count -= some

            def once(client: SecondClient = client, run: str = run) -> Told:
                daemon.longest()
                client.call("runs.get_trace", {"run_id": run})
                client.call("server.health")
                return daemon.longest()

            measure(verdict, f"get_trace, {name}", 16, once)


def bound(daemon: DaemonProcess, agent_id: str | None = AGENT) -> SecondClient:
    """A client of the one agent, as soon as its last connection is gone; or of nobody."""
    client = SecondClient.dial(daemon.url)
    bind = {} if agent_id is None else {"agent_id": agent_id}

    def is_bound() -> bool:
        with suppress(Refused):
            return bool(client.auth(daemon.token, **bind))
        return False

    until(is_bound, "the agent is free")
    return client


@contextmanager
def full_load(daemon: DaemonProcess, verdict: Verdict) -> Generator[None]:
    """Everything else that a daemon has to do, as much as it can."""
    program = [sys.executable, "-m", "torture.load"]
    place = [daemon.url.rsplit(":", 1)[1], daemon.token, daemon.host_token]
    with subprocess.Popen(  # noqa: S603 - our own program
        [*program, *place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as load:
        assert load.stdout is not None
        assert load.stdout.readline() == "loaded\n"
        yield
        said, _ = load.communicate()
        verdict.expect(said.endswith(" messages\n"), "the load was given up")
        verdict.counts["answers and events of the load"] += int(said.split()[0]) if said else 0


@contextmanager
def small_calls(daemon: DaemonProcess, verdict: Verdict) -> Generator[None]:
    """Another client calls and records all the time."""
    over = threading.Event()

    def work() -> None:
        with suppress(ConnectionClosed), daemon.client("small") as client:
            run = client.call("runs.start", {"intent": "be small"})["run_id"]
            number = 0
            while not over.wait(0.002):
                client.call("state.set", {"key": "k", "value": number})
                if number < 1000:
                    client.call("runs.record_turns", {"run_id": run, "turns": [{"prompt": "small"}]})
                number += 1

    def guarded() -> None:
        try:
            work()
        except TimeoutError as error:
            verdict.late.append(f"a small call had no answer: {error}")

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
