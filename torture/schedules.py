"""Random schedules of a run and its followers, in memory and in virtual time: the second half of `watch`.

A recorder appends, in batches of very different sizes; followers connect, read a little or a lot, vanish, and subscribe
again from where they were, on the same connection or on a new one. Half of them have a socket without any room, so what
they do not read stays with the daemon. Most houses have very small bounds (passage, page, snapshot, buffer), so that
every schedule passes them many times; some have the real ones.

In half of the schedules the run is ended and removed in between, once or twice, and its key is used again, while
followers watch, come back with the cursor that they had, or ask for a run that is not there: each time that is another
*life* of the run.

What a follower was shown of a life, over all its connections, must be what the file held then, byte for byte, and no
line of another life. It is told of the end; where the file was removed before it had read all, that is the last word.
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

from tests.peer import HOST_TOKEN, House, Peer, Refused, open_house
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
    error: Raw = Raw(b"")


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
                if message.error:
                    raise AssertionError(bytes(message.error).decode())
            await self.something_came(65_536)


class Life:
    """A run from its start to its removal, or to the end of the schedule."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sent = 0
        self.recorded: list[bytes] = []
        """All lines but the first, once it has ended."""
        self.removed = False

    def has(self, turn: bytes) -> bool:
        """Whether it is one of its turns, be it at its place or not."""
        return b'"prompt":"%d:' % self.number in turn


class Tale:
    """A run and its lives."""

    def __init__(self, house: House, recorder: Peer, host: Peer, run: str) -> None:
        self._house = house
        self._recorder = recorder
        self._host = host
        self.run = run
        self.lives: list[Life] = []

    @property
    def life(self) -> Life:
        """The one that there is, or was last."""
        return self.lives[-1]

    async def begin(self) -> None:
        self.lives.append(Life(len(self.lives)))
        asked = {"intent": f"be watched, life {self.life.number}", "idempotency_key": self.run}
        assert (await self._recorder.call("runs.start", asked))["run_id"] == self.run

    async def append(self, dice: random.Random, *, is_small: bool) -> None:
        """A batch; now and then its reply is not waited for."""
        size = dice.choice(SIZES[is_small])
        batch = dice.choice(BATCHES[is_small]) if size < 1000 else 20
        turns = [{"prompt": f"{self.life.number}:{'é' * size}"}] * batch
        self.life.sent += batch
        request = await self._recorder.request("runs.record_turns", {"run_id": self.run, "turns": turns})
        if dice.random() < 0.7:
            await self._recorder.reply(request)

    async def end(self, verdict: Verdict, seed: int) -> None:
        outcome = {"status": "success", "summary": f"life {self.life.number}"}
        await self._recorder.call("runs.complete", {"run_id": self.run, "outcome": outcome})
        life = self.life
        for path in (self._house.home / "runs").glob(f"*/{self.run}.jsonl"):
            life.recorded = path.read_bytes().splitlines()[1:]
        others = sum(not life.has(line) for line in life.recorded[:-1])
        verdict.expect(
            not others and len(life.recorded) == life.sent + 1,
            f"schedule {seed}: the file of life {life.number} holds {len(life.recorded)} lines after {life.sent} "
            f"turns, {others} of them another's",
        )

    async def remove(self) -> None:
        """It can be removed when the catalog knows of its end."""
        removed: list[str] = []
        while not removed:
            removed = (await self._host.call("runs.remove", {"run_ids": [self.run]}))["removed"]
        self.life.removed = True


class Follower:
    """Over all its connections: what it was shown of a life, and where it would go on."""

    def __init__(self, house: House, tale: Tale, dice: random.Random, verdict: Verdict) -> None:
        self._house = house
        self._tale = tale
        self._dice = dice
        self._verdict = verdict
        self._peer: ExactPeer | None = None
        self.life: Life = tale.life
        self.start = 0
        self.shown: list[bytes] = []
        """Turns, from `start` on."""
        self.end: bytes | None = None
        self.is_subscribed = False

    @property
    def is_connected(self) -> bool:
        return self._peer is not None

    @property
    def cursor(self) -> int:
        return self.start + len(self.shown)

    async def _connected(self) -> ExactPeer:
        if self._peer is None:
            stranger = await self._house.stranger(lockstep=self._dice.random() < 0.5)
            self._peer = ExactPeer(stranger.stream)
            await self._peer.open()
            await self._peer.reply(await self._peer.request("session.auth", {"host_token": HOST_TOKEN}))
        return self._peer

    async def subscribe(self) -> None:
        """From where it is, also where that was another life's cursor. Events that come before the reply belong to
        the subscription that is replaced."""
        peer = await self._connected()
        asked = {"run_id": self._tale.run, "from_cursor": self.cursor}
        request = await peer.request("runs.subscribe", asked)
        if self._tale.life.removed:
            await self._is_told_that_it_is_gone(peer, request)
            return
        snapshot = await peer.reply(request)
        begin = snapshot.cursor - len(snapshot.turns_so_far)
        if self._tale.life is not self.life:
            self.judge()
            self.life, self.start, self.shown = self._tale.life, begin, []
        self.end, self.is_subscribed = None, True
        self._verdict.expect(
            begin == self.cursor, f"a snapshot up to {snapshot.cursor} begins at {begin} of {self.cursor}"
        )
        self.shown += map(bytes, snapshot.turns_so_far)

    async def _is_told_that_it_is_gone(self, peer: ExactPeer, request: Any) -> None:
        told = ""
        try:
            await peer.reply(request)
        except AssertionError as error:
            told = str(error)
        self._verdict.counts["subscriptions to what is gone"] += 1
        self._verdict.expect("unknown run_id" in told, f"a run that is gone can be watched: {told}")

    async def read(self, most: int) -> bool:
        """Takes at most so many bytes, and what is whole of them; `False` when nothing came."""
        assert self._peer is not None
        came = await self._peer.something_came(most)
        while self._peer.payloads and self.end is None:
            event = _decode(self._peer.payloads.popleft()).params
            assert event is not None
            if event.status == "in_progress":
                self.shown.append(bytes(event.record))
            else:
                self.end, self.is_subscribed = bytes(event.record), False
            self._verdict.expect(
                event.cursor == self.cursor, f"event {event.cursor} where {self.cursor} was due"
            )
        return came

    async def read_to_the_end(self) -> None:
        while self.is_subscribed:
            await self.read(65_536)

    async def drop(self) -> None:
        if self._peer is not None:
            await self._peer.drop()
        self._peer, self.is_subscribed = None, False

    def judge(self) -> None:
        """What it was shown of the life that it has watched, which is over."""
        self._verdict.counts["histories"] += 1
        self._verdict.counts["records shown"] += len(self.shown) + (self.end is not None)
        wrong = history(self.life, self.start, self.shown, self.end)
        self._verdict.expect(wrong is None, f"{self._tale.run}, life {self.life.number}: {wrong}")


def history(life: Life, start: int, shown: list[bytes], end: bytes | None) -> str | None:
    """What is wrong with what was shown of a life from a cursor on: all until its end, or until the follower left; or,
    when the run was removed, all until that and the last word."""
    recorded = life.recorded[start:]
    if others := sum(not life.has(turn) for turn in shown):
        return f"{others} turns of another life are shown"
    if end is None:
        return difference(shown, recorded[: len(shown)])
    wrong = difference([*shown, end], recorded)
    if wrong is None or not life.removed:
        return wrong
    outcome = msgspec.json.decode(end)["termination"].get("outcome", {})
    if outcome.get("status") != "success" or outcome.get("summary") not in ("", f"life {life.number}"):
        return f"its last word is another's: {end.decode()}"
    return difference(shown, recorded[: len(shown)])


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
                with trio.move_on_after(PATIENCE) as patience:
                    try:
                        await schedule(house, verdict, seed, is_small=is_small)
                    except (AssertionError, Refused) as refused:
                        verdict.expect(False, f"schedule {seed}: {refused}")
                verdict.expect(not patience.cancelled_caught, f"schedule {seed}: somebody waits for ever")


async def schedule(house: House, verdict: Verdict, seed: int, *, is_small: bool) -> None:
    dice = random.Random(seed)  # noqa: S311 - chance, not secrets
    recorder, host = await house.peer(f"agent-{seed}"), await house.peer(host=True)
    tale = Tale(house, recorder, host, f"schedule-{seed}")
    await tale.begin()
    followers = [Follower(house, tale, dice, verdict) for _ in range(FOLLOWERS)]
    steps = dice.randrange(5, 40)
    removals = {dice.randrange(steps) for _ in range(dice.choice((0, 0, 1, 2)))}
    for step in range(steps):
        if step in removals:
            verdict.counts["ids used again"] += 1
            await tale.end(verdict, seed)
            await another_life(tale, followers, dice)
        if dice.random() < 0.4:
            await tale.append(dice, is_small=is_small)
        else:
            await a_step(dice.choice(followers), dice)
    await tale.end(verdict, seed)
    for follower in followers:
        if not follower.is_subscribed or dice.random() < 0.5:
            await follower.subscribe()
        await follower.read_to_the_end()
        follower.judge()
        await follower.drop()
    await recorder.drop()
    await host.drop()


async def another_life(tale: Tale, followers: list[Follower], dice: random.Random) -> None:
    """The run has ended: it is removed, and its key used again, when all have read the end or while some still read.
    Some ask for it in between."""
    if dice.random() < 0.5:
        for follower in followers:
            await follower.read_to_the_end()
    await tale.remove()
    for follower in followers:
        if dice.random() < 0.3 and not follower.is_subscribed:
            await follower.subscribe()
    await tale.begin()


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
