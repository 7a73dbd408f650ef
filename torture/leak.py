"""leak: connections come and go, and what the daemon holds comes back to its base.

A cycle is connect, authenticate, and one of several ways to work and to vanish: in the middle of a handshake, of a
frame, of a submit whose tool never answers, with a subscription, with a reset. Descriptors and sockets are read from
the kernel, memory from the process's resident size, the tasks of the event loop from the daemon itself
(`torture.counted`). What is bounded may fill up once, within 5 MiB; what grows for ever shows in the second half of a
long campaign, which gets 1 MiB.

Then a second daemon lives with 64 descriptors: a flood of connections takes all that are left, those who were there
before go on working and starting runs, and when the flood ends the next newcomer is let in within a second.
"""

from __future__ import annotations

import json
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.process.daemon_process import DaemonProcess, complete, record, start_run, until
from tests.process.raw import RawPeer, frame, http_request, request
from torture.orders import Orders, Verdict

WARM_UP = 300
CYCLES = 10_000
EACH = 1000
LONG = 8
"""Measurements from which on the halves are compared."""
ALLOWED_KIB = 5 * 1024
STEADY_KIB = 1024
AGAIN = 5
FEW = 64
FLOOD = 100

pause = threading.Event()


def campaign(orders: Orders) -> Verdict:
    verdict = Verdict()
    cycles(orders, verdict)
    few_descriptors(orders, verdict)
    return verdict


# Cycles


class Held(NamedTuple):
    """What a daemon holds at rest."""

    descriptors: int
    tasks: int
    kib: int


@contextmanager
def counted_daemon(orders: Orders, name: str, defect: str) -> Generator[tuple[DaemonProcess, Path]]:
    """A daemon that tells what it holds (`torture.counted`), with a defect or without, and where it tells it."""
    told = orders.directory / "held.json"
    daemon = DaemonProcess(
        orders.directory / name,
        environment={"CAR_TRIO_RUNS_DURABILITY": "os", "DEFECT": defect},
        module=("torture.counted", str(told)),
    ).start()
    try:
        yield daemon, told
    finally:
        daemon.clean_up()


def cycles(orders: Orders, verdict: Verdict, defect: str = "") -> None:
    with counted_daemon(orders, "cycles", defect) as (daemon, told):
        dice, done = orders.dice, 0
        for _ in range(WARM_UP):
            cycle(daemon, dice)
        held = [rest(daemon, told)]
        while done < CYCLES and orders.go_on(done):
            cycle(daemon, dice)
            done += 1
            if done % EACH == 0:
                held.append(rest(daemon, told))
        held.append(rest(daemon, told))
        verdict.counts["cycles"] += done
        judge(verdict, held)
        verdict.expect(" error " not in daemon.said(), f"the log has errors: {daemon.log}")


def judge(verdict: Verdict, held: Sequence[Held]) -> None:
    """What is held after the warm-up, at each thousand, and at the end."""
    first, middle, last = held[0], held[len(held) // 2], held[-1]
    verdict.figures["descriptors before, after"] = f"{first.descriptors}, {last.descriptors}"
    verdict.figures["tasks before, after"] = f"{first.tasks}, {last.tasks}"
    verdict.figures["resident KiB"] = ", ".join(str(each.kib) for each in held)
    more = last.descriptors - first.descriptors
    verdict.expect(more <= 0, f"{more} descriptors have leaked")
    more = last.tasks - first.tasks
    verdict.expect(more <= 0, f"{more} tasks have leaked")
    more = last.kib - first.kib
    verdict.expect(more <= ALLOWED_KIB, f"{more} KiB more than before")
    more = last.kib - middle.kib
    verdict.expect(
        len(held) < LONG or more <= STEADY_KIB, f"the second half alone took {more} KiB: it does not end"
    )


def rest(daemon: DaemonProcess, told: Path) -> Held:
    """What is held when every connection is gone and every run has ended."""
    until(lambda: daemon.sockets() == daemon.idle_sockets, "every socket of a client is closed")
    with daemon.client(host=True) as host:
        until(lambda: no_open_run(host), "every run has ended")
    until(lambda: daemon.sockets() == daemon.idle_sockets)
    # A thread of the loop's pool that rests and the sweep of the last connection are gone a moment later.
    tasks = min(tell(daemon, told)["tasks"] for _ in range(AGAIN) if not pause.wait(0.1))
    return Held(daemon.descriptors(), tasks, daemon.resident_kib())


def tell(daemon: DaemonProcess, told: Path) -> dict[str, Any]:
    """What the daemon counts in itself."""
    told.unlink(missing_ok=True)
    daemon.signal(signal.SIGUSR1)
    until(told.exists, "the daemon tells")
    found: dict[str, Any] = json.loads(told.read_text())
    return found


def no_open_run(host: object) -> bool:
    from tests.second_client import SecondClient

    assert isinstance(host, SecondClient)
    return not host.call("runs.search", {"status": "in_progress", "limit": 1})["runs"]


def cycle(daemon: DaemonProcess, dice: random.Random) -> None:
    dice.choice(WAYS)(daemon, f"agent-{dice.randrange(50)}")


def orderly(daemon: DaemonProcess, agent: str) -> None:
    with RawPeer(daemon.port) as peer:
        run = begin(peer, daemon, agent)
        peer.call("runs.record_turns", {"run_id": run, "turns": [{"prompt": "x" * 2000}] * 3})
        peer.call("runs.complete", {"run_id": run, "outcome": {"status": "success"}})


def dropped(daemon: DaemonProcess, agent: str) -> None:
    with RawPeer(daemon.port) as peer:
        run = begin(peer, daemon, agent)
        peer.call("runs.subscribe", {"run_id": run})
        peer.send(request("runs.record_turns", {"run_id": run, "turns": [{"prompt": "y"}] * 9}))


def reset(daemon: DaemonProcess, agent: str) -> None:
    peer = RawPeer(daemon.port)
    begin(peer, daemon, agent)
    peer.reset()


def mid_submit(daemon: DaemonProcess, agent: str) -> None:
    action: dict[str, Any] = {
        "id": "a", "type": "tool_call", "tool": "slow", "parameters": {}, "dependencies": [],
    }  # fmt: skip
    with RawPeer(daemon.port) as peer:
        begin(peer, daemon, agent)
        peer.call("tools.register", [{"name": "slow", "parameters": {"type": "object"}}])
        peer.call("state.set", {"key": "k", "value": "v" * 10_000})
        peer.send(request("proposal.submit", {"proposal": {"actions": [action]}}))
        peer.reply()


def mid_frame(daemon: DaemonProcess, agent: str) -> None:
    with RawPeer(daemon.port) as peer:
        begin(peer, daemon, agent)
        peer.send(frame(0x1, b'{"id"', length=100_000))


def mid_handshake(daemon: DaemonProcess, agent: str) -> None:
    with RawPeer(daemon.port) as peer:
        peer.send(http_request()[:40])


def stranger(daemon: DaemonProcess, agent: str) -> None:
    with RawPeer(daemon.port) as peer:
        peer.ask()
        peer.call("session.auth", {"token": "wrong"})
        peer.send(request("runs.list", {"agent_id": agent}))


WAYS: list[Callable[[DaemonProcess, str], None]] = [
    orderly, orderly, dropped, reset, mid_submit, mid_frame, mid_handshake, stranger,
]  # fmt: skip


def begin(peer: RawPeer, daemon: DaemonProcess, agent: str) -> str:
    """A bound connection with a run; waits while an earlier connection of the agent is still on its way out."""
    assert peer.ask() == 101
    token = {"token": daemon.token, "agent_id": agent}
    until(lambda: "result" in peer.call("session.auth", token), "the agent is free")
    run: str = peer.call("runs.start", {"intent": "come and go"})["result"]["run_id"]
    return run


# Few descriptors


def few_descriptors(orders: Orders, verdict: Verdict) -> None:
    limit = ("sh", "-c", f'ulimit -n {FEW}; exec "$@"', "sh")
    daemon = DaemonProcess(orders.directory / "few", prefix=limit).start()
    crowd: list[socket.socket] = []
    try:
        with daemon.client("first") as first, daemon.client("second") as second:
            run = start_run(first)
            for _ in range(FLOOD):
                crowd.append(socket.create_connection(("127.0.0.1", daemon.port), 5))
                crowd[-1].sendall(http_request()[:-2])
            daemon_is_full(daemon)
            for number in range(20):
                step = f"with no descriptor left, step {number}"
                verdict.expect(works(partial(record, first, run, number)), f"{step}: a turn was refused")
                verdict.expect(
                    works(lambda: complete(second, start_run(second))), f"{step}: a run was refused"
                )
            health = first.call("server.health")
            verdict.expect(health["store"] == "ok", f"with no descriptor left the store is {health['store']}")
            for each in crowd:
                each.close()
            begin_wait = time.monotonic()
            until(lambda: comes_in(daemon), "a newcomer is let in")
            waited = time.monotonic() - begin_wait
            verdict.figures["seconds until a newcomer was let in after the flood"] = f"{waited:.2f}"
            verdict.expect_time(waited <= 1.0, f"accepting resumed only after {waited:.1f} s")
            complete(first, run)
        verdict.expect(daemon.stop() == 0, "did not stop cleanly after the flood")
    finally:
        for each in crowd:
            each.close()
        daemon.clean_up()


def daemon_is_full(daemon: DaemonProcess) -> None:
    """Waits until the flood has taken all it gets: a newcomer is not let in any more."""
    until(lambda: not comes_in(daemon), "the flood has filled the daemon")


def works(step: Callable[[], object]) -> bool:
    from tests.second_client import Refused

    try:
        step()
    except (Refused, TimeoutError):
        return False
    return True


def comes_in(daemon: DaemonProcess) -> bool:
    with suppress(OSError, AssertionError), RawPeer(daemon.port) as peer:
        peer.socket.settimeout(0.3)
        return peer.ask() == 101
    return False
