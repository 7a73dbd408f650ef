"""Random schedules of a run and its followers, in memory and in virtual time: the second half of `watch`.

A recorder appends, in batches of very different sizes; followers connect, read a little or a lot, vanish, and subscribe
again from where they were, on the same connection or on a new one. Half of them have a socket without any room, so what
they do not read stays with the daemon. Most houses have very small bounds (passage, page, snapshot, buffer), so that
every schedule passes them many times; some have the real ones.

What a follower was shown, over all its connections, must be what the file of the run holds, byte for byte.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any, cast
from unittest.mock import patch

import msgspec
import trio
from msgspec import Raw, Struct
from trio.testing import MockClock
from websockets.frames import Frame, Opcode

from tests.peer import HOST_TOKEN, House, Peer, open_house
from torture.orders import Orders, Verdict

SCHEDULES_A_HOUSE = 50
FOLLOWERS = 3
PATIENCE = 1000.0
"""Virtual seconds in which a schedule must be over."""
NOTHING_CAME = 0.001

SMALL_BOUNDS = {
    "car_trio.state.run.PASSAGE_BYTES": 500,
    "car_trio.nursery.subscriptions.PAGE_BYTES": 700,
    "car_trio.methods.traces.PAGE_BYTES": 900,
    "car_trio.methods.traces.MAX_SNAPSHOT_BYTES": 1500,
    "car_trio.nursery.outbound.SOFT_LIMIT": 1000,
}
BATCHES = {True: [1, 1, 2, 3, 8, 20], False: [1, 3, 20, 250]}
SIZES = {True: [1, 10, 60, 400], False: [1, 50, 50, 5000]}


class _Shown(Struct):
    """Whatever a frame can hold that matters here: an event's params, or a snapshot."""

    record: Raw = Raw(b"")
    cursor: int = -1
    status: str = ""
    turns_so_far: list[Raw] = []


class _Message(Struct):
    id: int = 0
    method: str = ""
    params: _Shown | None = None
    result: _Shown | None = None
    error: Raw | None = None


_decode = msgspec.json.Decoder(_Message).decode


class ExactPeer(Peer):
    """Keeps the bytes of what it receives, and takes only so many at once off its socket."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self.payloads: deque[bytes] = deque()
        self.broken = False

    def _take(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.CONT):
            self._partial += bytes(frame.data)
            if frame.fin:
                self.payloads.append(self._partial)
                self._partial = b""

    async def something_came(self, most: int) -> bool:
        """Whether there were bytes to take; at most so many are taken."""
        with trio.move_on_after(NOTHING_CAME):
            self.protocol.receive_data(await self.stream.receive_some(most))
            for event in self.protocol.events_received():
                self._take(cast(Frame, event))
            return True
        return False

    async def reply(self, request_id: Any) -> _Shown:
        """The reply; what comes before it is left out."""
        while True:
            while self.payloads:
                message = _decode(self.payloads.popleft())
                if message.id == request_id and message.result is not None:
                    return message.result
                if message.error is not None:
                    raise AssertionError(bytes(message.error))
            await self.something_came(65_536)


class Follower:
    """Over all its connections: what it was shown, and where it would go on."""

    def __init__(self, house: House, run: str, dice: random.Random, verdict: Verdict) -> None:
        self._house = house
        self._run = run
        self._dice = dice
        self._verdict = verdict
        self._peer: ExactPeer | None = None
        self.shown: list[bytes] = []
        self.ended = False

    @property
    def is_connected(self) -> bool:
        return self._peer is not None

    async def subscribe(self) -> None:
        """From where it is. Events that come before the reply belong to the subscription that is replaced."""
        if self._peer is None:
            stranger = await self._house.stranger(lockstep=self._dice.random() < 0.5)
            self._peer = ExactPeer(stranger.stream)
            await self._peer.open()
            await self._peer.reply(await self._peer.request("session.auth", {"host_token": HOST_TOKEN}))
        asked = {"run_id": self._run, "from_cursor": len(self.shown)}
        snapshot = await self._peer.reply(await self._peer.request("runs.subscribe", asked))
        self.shown += map(bytes, snapshot.turns_so_far)
        self._verdict.expect(
            snapshot.cursor == len(self.shown), f"a snapshot up to {snapshot.cursor} holds {len(self.shown)}"
        )

    async def read(self, most: int) -> bool:
        """Takes at most so many bytes, and what is whole of them; `False` when nothing came."""
        assert self._peer is not None
        came = await self._peer.something_came(most)
        while self._peer.payloads and not self.ended:
            event = _decode(self._peer.payloads.popleft()).params
            assert event is not None
            self.shown.append(bytes(event.record))
            self.ended = event.status != "in_progress"
            due = len(self.shown) - self.ended
            self._verdict.expect(event.cursor == due, f"event {event.cursor} where {due} was due")
        return came

    async def drop(self) -> None:
        if self._peer is not None:
            await self._peer.drop()
        self._peer = None


def difference(shown: list[bytes], recorded: list[bytes]) -> str | None:
    """What is wrong with a history; `None` when it is the replay."""
    for place, (one, other) in enumerate(zip(shown, recorded, strict=False)):
        if one != other:
            if one in recorded[:place]:
                return f"record {place} is shown twice"
            if one in recorded[place:]:
                return f"record {place} is missing"
            return f"record {place} is not what the file holds"
    if len(shown) != len(recorded):
        return f"{len(shown)} records are shown, the file holds {len(recorded)}"
    return None


@contextmanager
def without_threads() -> Generator[None]:
    """What is meant for a thread runs on the loop: a virtual clock would jump ahead of a real thread."""

    async def run_sync(function: Callable[..., Any], *args: Any, **_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return function(*args)

    with patch.object(trio.to_thread, "run_sync", run_sync):
        yield


def run_schedules(orders: Orders, verdict: Verdict, count: int) -> None:
    """So many schedules, or fewer when the time is over. One that fails is named by its seed."""
    done = 0
    while done < count and orders.go_on(done):
        some = min(
            SCHEDULES_A_HOUSE, count - done, *([] if orders.rounds is None else [orders.rounds - done])
        )
        seeds = range(orders.seed * 1_000_000 + done, orders.seed * 1_000_000 + done + some)
        trio.run(in_a_house, orders, verdict, seeds, clock=MockClock(autojump_threshold=0))
        done += some
    verdict.counts["schedules"] += done


async def in_a_house(orders: Orders, verdict: Verdict, seeds: range) -> None:
    """Runs pile up in a home, and its size is no part of the question: a new one every now and then."""
    is_small = seeds.start // SCHEDULES_A_HOUSE % 20 != 19
    with ExitStack() as changes:
        changes.enter_context(without_threads())
        for name, bound in SMALL_BOUNDS.items() if is_small else ():
            changes.enter_context(patch(name, bound))
        home = orders.directory / f"schedules-{seeds.start}"
        async with open_house(home, runs={"durability": "os"}) as house:
            for seed in seeds:
                with trio.fail_after(PATIENCE):
                    await schedule(house, verdict, seed, is_small=is_small)


async def schedule(house: House, verdict: Verdict, seed: int, *, is_small: bool) -> None:
    dice = random.Random(seed)  # noqa: S311 - chance, not secrets
    recorder = await house.peer(f"agent-{seed}")
    run = (await recorder.call("runs.start", {"intent": "be watched"}))["run_id"]
    followers = [Follower(house, run, dice, verdict) for _ in range(FOLLOWERS)]
    for _ in range(dice.randrange(5, 40)):
        if dice.random() < 0.4:
            await append(recorder, run, dice, is_small=is_small)
        else:
            await a_step(dice.choice(followers), dice)
    await recorder.call("runs.complete", {"run_id": run, "outcome": {"status": "success"}})
    (path,) = (house.home / "runs").glob(f"*/{run}.jsonl")
    recorded = path.read_bytes().splitlines()[1:]
    for follower in followers:
        if not follower.ended and (not follower.is_connected or dice.random() < 0.5):
            await follower.subscribe()
        while not follower.ended:
            await follower.read(65_536)
        verdict.counts["histories"] += 1
        verdict.counts["records shown"] += len(follower.shown)
        wrong = difference(follower.shown, recorded)
        verdict.expect(wrong is None, f"schedule {seed}: {wrong}")
        await follower.drop()
    await recorder.drop()


async def append(recorder: Peer, run: str, dice: random.Random, *, is_small: bool) -> None:
    size = dice.choice(SIZES[is_small])
    batch = dice.choice(BATCHES[is_small]) if size < 1000 else 20
    request = await recorder.request(
        "runs.record_turns", {"run_id": run, "turns": [{"prompt": "é" * size}] * batch}
    )
    if dice.random() < 0.7:
        await recorder.reply(request)


async def a_step(follower: Follower, dice: random.Random) -> None:
    """Connects, subscribes again, reads what is there for a while, or vanishes."""
    chance = dice.random()
    if not follower.is_connected or chance < 0.15:
        await follower.subscribe()
    elif chance < 0.3:
        await follower.drop()
    elif chance < 0.4:
        await follower.drop()
        await follower.subscribe()
    else:
        most = dice.choice([40, 1000, 65_536])
        for _ in range(dice.choice([1, 5, 50])):
            if not await follower.read(most):
                return
