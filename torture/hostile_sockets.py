"""Connections that mean harm, or are merely broken, over every socket that the daemon has.

They come to the TCP port, the Unix socket and the page's port: malformed requests and frames, resets in any phase,
half-open handshakes and slow bytes, floods, wrong names and origins, abused control frames and fragments, deep and
huge values, odd close codes. Each way knows what the daemon may answer; another answer, or none, is found. Meanwhile
friends work on, each with a run of its own, and newcomers are let in. Afterwards descriptors, tasks and memory are
back at their base within ten seconds, every turn of a friend is on disk, and the log holds no error.
"""

from __future__ import annotations

import random
import signal
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.process.daemon_process import DaemonProcess, complete, record, start_run
from tests.process.raw import Gone
from tests.second_client import Refused, SecondClient
from torture.hostile_ways import WAYS, Door, Full, Odd, doors
from torture.leak import Held, counted_daemon, tell
from torture.orders import Orders, Verdict

CONNECTIONS = 60_000
PER_ROUND = 20
WARM_UP = 600
SERVED_EVERY = 50
REST_SECONDS = 10
QUIET_SECONDS = 3
"""After which every connection that was closed is forgotten: it may be read for two seconds more."""
MORE_KIB = 16 * 1024
"""What fills up once: ended runs that are remembered, agents that were left behind, ended approvals, tenants."""
LONG = 20_000
STEADY_KIB = 3 * 1024
"""Of a long storm's second half."""


def attack(orders: Orders, verdict: Verdict, defect: str = "") -> None:
    with counted_daemon(orders, "sockets", defect) as (daemon, told):
        with ExitStack() as stack:
            entries = doors(daemon)
            friends = [Friend(stack.enter_context(client)) for client in friendly(daemon)]
            storm(orders, verdict, daemon, entries, friends, range(WARM_UP))
            base = at_rest(daemon, told, None)
            most = CONNECTIONS if orders.rounds is None else orders.rounds * PER_ROUND
            half = WARM_UP + most // 2
            storm(orders, verdict, daemon, entries, friends, range(WARM_UP, half))
            middle = at_rest(daemon, told, base)
            storm(orders, verdict, daemon, entries, friends, range(half, WARM_UP + most))
            judge(verdict, base, middle, at_rest(daemon, told, base), is_long=most >= LONG)
            for friend in friends:
                friend.leave(verdict)
        verdict.expect(daemon.stop() == 0, "the daemon did not stop in order")
        verdict.expect(" error " not in daemon.said(), f"the log has errors: {daemon.log}")


def friendly(daemon: DaemonProcess) -> list[SecondClient]:
    over_unix = SecondClient.dial_unix(daemon.unix_socket)
    over_unix.auth(daemon.token, agent_id="friend-1")
    return [daemon.client("friend-0"), over_unix]


class Friend:
    """Somebody who works while others attack."""

    def __init__(self, client: SecondClient) -> None:
        self._client = client
        self._run = start_run(client)
        self._turns = 0

    def works(self) -> bool:
        try:
            record(self._client, self._run, self._turns)
        except (Refused, TimeoutError, OSError):
            return False
        self._turns += 1
        return True

    def leave(self, verdict: Verdict) -> None:
        complete(self._client, self._run)
        found = self._client.call("runs.get_trace", {"run_id": self._run})["records"]
        verdict.expect(len(found) == self._turns + 2, f"a friend's run has {len(found)} records")


def storm(
    orders: Orders,
    verdict: Verdict,
    daemon: DaemonProcess,
    entries: list[Door],
    friends: list[Friend],
    numbers: range,
) -> None:
    for number in numbers:
        if time.monotonic() - orders.began > orders.minutes * 60 or len(verdict.findings) > 20:
            break
        one(orders, verdict, entries, number)
        if number % SERVED_EVERY == 0:
            for friend in friends:
                verdict.expect(friend.works(), f"connection {number}: a friend is not served")
            verdict.expect(comes_in(daemon), f"connection {number}: a newcomer is not let in")
    for door in entries:
        while door.held:
            door.held.pop().reset()


def one(orders: Orders, verdict: Verdict, entries: list[Door], number: int) -> None:
    dice = random.Random(orders.seed * 1_000_000 + number)  # noqa: S311 - chance, not secrets
    door, way = dice.choice(entries), dice.choice(WAYS)
    verdict.counts["hostile connections"] += 1
    try:
        way(door, dice)
    except Full:
        verdict.counts["turned away, too many strangers"] += 1
    except Gone:
        verdict.counts["cut in the middle"] += 1
    except (Odd, OSError) as error:
        verdict.expect(False, f"connection {number}, {way.__name__} at {door.name}: {error!r}")


def comes_in(daemon: DaemonProcess) -> bool:
    try:
        with daemon.client("newcomer") as client:
            return bool(client.call("server.health")["ok"])
    except Exception:
        return False


def at_rest(daemon: DaemonProcess, told: Path, base: Held | None) -> Held:
    """What is held when the storm is over: as soon as it is no more than before, and after ten seconds anyway."""
    until = time.monotonic() + (REST_SECONDS if base is not None else QUIET_SECONDS)
    while True:
        held = Held(foreign_descriptors(daemon), tell(daemon, told)["tasks"], daemon.resident_kib())
        is_back = base is not None and held.descriptors <= base.descriptors and held.tasks <= base.tasks
        if is_back or time.monotonic() > until:
            return held
        signal.sigtimedwait([], 0.2)


def foreign_descriptors(daemon: DaemonProcess) -> int:
    """All but the store's own files, which are opened when they are first needed and bounded by themselves."""
    count = 0
    for link in Path(f"/proc/{daemon.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            count += not link.readlink().is_relative_to(daemon.home)
    return count


def judge(verdict: Verdict, base: Held, middle: Held, after: Held, *, is_long: bool) -> None:
    verdict.figures["descriptors, tasks, KiB before"] = ", ".join(map(str, base))
    verdict.figures["in the middle"] = ", ".join(map(str, middle))
    more = after.kib - middle.kib
    verdict.expect(not is_long or more <= STEADY_KIB, f"the second half alone took {more} KiB")
    verdict.figures["and after the storm"] = ", ".join(map(str, after))
    for name, before, now, allowed in zip(Held._fields, base, after, (0, 0, MORE_KIB), strict=True):
        verdict.expect(now - before <= allowed, f"{now - before} more {name} than before the storm")
