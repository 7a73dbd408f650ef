"""watch: slow watchers cost the recorder nothing and lose nothing, and no way to reconnect makes a gap or a double.

First over processes: fifty healthy watchers, one that is stopped (SIGSTOP) and one that takes 1 kB a second, while a
recorder writes more than all buffers hold; with and without the slow two in turns. Then in memory: random schedules of
appends, reads, drops, resubscriptions from where one was, and ends; each watcher's history, over all its connections,
must be the replay, record by record and byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import trio

from tests.peer import HOST_TOKEN, House, Peer, open_house
from tests.process.daemon_process import DaemonProcess, clean_environment, complete, start_run
from torture.orders import Orders, Verdict

HEALTHY = 50
TURNS = 1500
PROMPT = "w" * 6000
PAIRS = 3
ALLOWED_RATIO = 1.1
ALLOWED_KIB = 48 * 1024
SCHEDULES = 10_000
PATIENCE = 60


def campaign(orders: Orders) -> Verdict:
    verdict = Verdict()
    if orders.rounds is None or orders.rounds > SHORT:
        slow_watchers(orders, verdict, PAIRS)
    else:
        slow_watchers(orders, verdict, 1)
    trio.run(schedules, orders, verdict)
    return verdict


SHORT = 500
"""A campaign of at most so many schedules is the short form."""


# Slow watchers, over processes


def slow_watchers(orders: Orders, verdict: Verdict, pairs: int) -> None:
    daemon = DaemonProcess(
        orders.directory / "watched", environment={"CAR_TRIO_RUNS_DURABILITY": "os"}
    ).start()
    try:
        before = daemon.resident_kib()
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(pairs):
            for slow in (False, True):
                times[slow].append(recorded(daemon, verdict, slow=slow))
        ratio = statistics.median(times[True]) / statistics.median(times[False])
        verdict.figures["p99 of a turn in ms, healthy watchers only"] = milliseconds(times[False])
        verdict.figures["p99 of a turn in ms, with the stopped and the slow one"] = milliseconds(times[True])
        verdict.figures["ratio of the medians"] = f"{ratio:.2f} (target {ALLOWED_RATIO})"
        grown = daemon.resident_kib() - before
        verdict.figures["resident KiB more"] = f"{grown:,}"
        verdict.expect(grown < ALLOWED_KIB, f"{grown} KiB more after watchers that did not read")
    finally:
        daemon.clean_up()


def milliseconds(times: list[float]) -> str:
    return " ".join(f"{each * 1000:.2f}" for each in times)


def recorded(daemon: DaemonProcess, verdict: Verdict, *, slow: bool) -> float:
    """One run, written and watched; returns the p99 of a turn in seconds."""
    with daemon.client("recorder") as client:
        run = start_run(client)
        groups = [watchers(daemon, run, HEALTHY, 0)]
        if slow:
            groups += [watchers(daemon, run, 1, 0), watchers(daemon, run, 1, 1000)]
            groups[1].send_signal(signal.SIGSTOP)
        took = []
        for number in range(TURNS):
            begin = time.perf_counter()
            client.call("runs.record_turns", {"run_id": run, "turns": [{"prompt": PROMPT + str(number)}]})
            took.append(time.perf_counter() - begin)
        complete(client, run)
        if slow:
            groups[1].send_signal(signal.SIGCONT)
            groups[2].send_signal(signal.SIGUSR1)
        (path,) = (daemon.home / "runs").glob(f"*/{run}.jsonl")
        for group in groups:
            judge_watchers(verdict, group, path)
    return statistics.quantiles(took, n=100)[98]


def watchers(daemon: DaemonProcess, run: str, count: int, rate: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "torture.watcher", daemon.url, daemon.host_token, run, str(count), str(rate)],
        stdout=subprocess.PIPE,
        env=clean_environment({}),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"subscribed\n"
    return process


def judge_watchers(verdict: Verdict, group: subprocess.Popen[bytes], path: Path) -> None:
    said, _ = group.communicate(timeout=PATIENCE)
    wanted = hashlib.sha256(b"".join(path.read_bytes().splitlines(keepends=True)[1:])).hexdigest()
    results = [json.loads(line) for line in said.splitlines()]
    verdict.expect(results, "a watcher has failed")
    for result in results:
        verdict.counts["watchers over processes"] += 1
        right = result["whole"] and result["turns"] == TURNS and result["sha256"] == wanted
        verdict.expect(right, f"{path.stem}: a watcher was shown something else: {result}")


# Schedules, in memory


class Follower:
    """A watcher over all its connections: what it was shown, and where it would go on."""

    def __init__(self, house: House, run: str) -> None:
        self.house = house
        self.run = run
        self.peer: ExactPeer | None = None
        self.shown: list[bytes] = []
        self.ended = False

    async def connect(self, verdict: Verdict) -> None:
        assert self.house.doors.welcome is not None
        if self.peer is None:
            stream = (await self.house.stranger()).stream
            self.peer = ExactPeer(stream)
            await self.peer.open()
            await self.peer.call("session.auth", {"host_token": HOST_TOKEN})
        snapshot = await self.peer.snapshot({"run_id": self.run, "from_cursor": len(self.shown)})
        turns = self.peer.records(b'"turns_so_far":')
        verdict.expect(len(turns) == len(snapshot["turns_so_far"]), "a snapshot that cannot be read")
        self.shown += turns
        verdict.expect(snapshot["cursor"] == len(self.shown), f"a snapshot to {snapshot['cursor']} is not")

    async def read(self, verdict: Verdict) -> None:
        """One event."""
        assert self.peer is not None
        params = await self.peer.notification("runs.trace.event")
        record = self.peer.last_record()
        self.shown.append(record)
        self.ended = params["status"] != "in_progress"
        wanted = len(self.shown) - self.ended
        verdict.expect(params["cursor"] == wanted, f"event {params['cursor']} where {wanted} was due")

    async def drop(self) -> None:
        if self.peer is not None:
            await self.peer.drop()
        self.peer = None


class ExactPeer(Peer):
    """Keeps the bytes of what it receives."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self.events: list[bytes] = []
        self.reply_bytes = b""

    def _take(self, frame: Any) -> None:
        before = self._partial
        super()._take(frame)
        if frame.fin:
            payload = before + bytes(frame.data)
            if b'"method":"runs.trace.event"' in payload[:100]:
                self.events.append(payload)
            else:
                self.reply_bytes = payload

    async def snapshot(self, params: dict[str, Any]) -> dict[str, Any]:
        """Subscribes. What came before the reply belongs to the subscription that is replaced."""
        asked = await self.request("runs.subscribe", params)
        while (frame := await self.receive()).get("id") != asked:
            if "method" in frame:
                self.events.pop(0)
        result: dict[str, Any] = frame["result"]
        return result

    def records(self, after: bytes) -> list[bytes]:
        """The objects of an array in the last reply, as they came."""
        text = self.reply_bytes.decode()
        at = text.index(after.decode()) + len(after) + 1
        found = []
        while text[at] != "]":
            at += text[at] == ","
            _, end = json.JSONDecoder().raw_decode(text, at)
            found.append(text[at:end].encode())
            at = end
        return found

    def last_record(self) -> bytes:
        """The record of the event that `notification` has just given."""
        text = self.events.pop(0).decode()
        begin = text.index('{"record"')
        return text[begin : json.JSONDecoder().raw_decode(text, begin)[1]].encode()


async def schedules(orders: Orders, verdict: Verdict) -> None:
    done = 0
    while done < SCHEDULES and orders.go_on(done):
        # Runs pile up in a home, and its size is no part of the question.
        async with open_house(orders.directory / f"schedules-{done}", runs={"durability": "os"}) as house:
            for _ in range(100):
                if done < SCHEDULES and orders.go_on(done):
                    with trio.fail_after(PATIENCE):
                        await schedule(house, verdict, orders.seed * 1_000_000 + done)
                    done += 1
    verdict.counts["schedules"] += done


async def schedule(house: House, verdict: Verdict, seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - chance, not secrets
    agent = f"agent-{seed}"
    recorder = await house.peer(agent)
    run = (await recorder.call("runs.start", {"intent": "be watched"}))["run_id"]
    followers = [Follower(house, run) for _ in range(3)]
    for _ in range(dice.randrange(5, 40)):
        if dice.random() < 0.4:
            await append(recorder, run, dice)
        else:
            await a_step(dice.choice(followers), dice, verdict)
    await recorder.call("runs.complete", {"run_id": run, "outcome": {"status": "success"}})
    (path,) = (house.store._config.home / "runs").glob(f"*/{run}.jsonl")
    wanted = path.read_bytes().splitlines()[1:]
    for follower in followers:
        if not follower.ended and (follower.peer is None or dice.random() < 0.5):
            await follower.connect(verdict)
        while not follower.ended:
            await follower.read(verdict)
        verdict.counts["histories"] += 1
        same = follower.shown == wanted
        verdict.expect(
            same, f"schedule {seed}: {len(follower.shown)} records shown, {len(wanted)} recorded, or others"
        )
        await follower.drop()
    await recorder.drop()


async def append(recorder: Peer, run: str, dice: random.Random) -> None:
    size = dice.choice([1, 50, 50, 5000])
    turns = [{"prompt": "é" * size} for _ in range(dice.choice([1, 3, 20, 250]) if size < 5000 else 20)]
    request = await recorder.request("runs.record_turns", {"run_id": run, "turns": turns})
    if dice.random() < 0.7:
        await recorder.reply(request)


async def a_step(follower: Follower, dice: random.Random, verdict: Verdict) -> None:
    """Connects, subscribes again, reads what is there for a while, or vanishes."""
    chance = dice.random()
    if follower.peer is None or chance < 0.15:
        await follower.connect(verdict)
    elif chance < 0.3:
        await follower.drop()
    elif chance < 0.4:
        await follower.drop()
        await follower.connect(verdict)
    else:
        for _ in range(dice.choice([1, 5, 300])):
            with trio.move_on_after(0.02) as limit:
                await trio.testing.wait_all_tasks_blocked()
                if not follower.peer.events and not await something_came(follower.peer):
                    return
                await follower.read(verdict)
            if limit.cancelled_caught:
                return


async def something_came(peer: Peer) -> bool:
    """Whether bytes are waiting; takes them in."""
    with trio.move_on_after(0.01):
        await peer._feed()
        for event in peer.protocol.events_received():
            peer._take(event)
    return bool(peer.frames)
