"""Mutated frames against a daemon in memory, hundreds at a time: strangers, agents, hosts and pages.

A connection sends a few hundred frames that went wrong somewhere, with some that are right in between; what comes back
is read frame by frame. Found is: an error that only the daemon's log explains, a connection that ended by an error, a
reply that is no JSON, a right request that is answered twice or, while the connection lives, not at all, a bystander
that is not served, and tasks or sessions that stay.

What is counted is what the daemon took, without what was right: frames behind one that ended their connection are not
heard by anybody.
"""

from __future__ import annotations

import logging
import math
import random
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any

import msgspec
import trio

from car_trio.nursery.dispatch import Dispatcher
from tests.peer import HOST_TOKEN, TOKEN, Closed, House, Peer, open_house
from tests.process.raw import CLOSE, CONTINUATION, TEXT, Stream, request
from torture.hostile_mutations import RUN, framed, wrong_bytes, wrong_message
from torture.orders import Orders, Verdict

FRAMES = 10_000_000
MUTATED = "mutated messages"
PER_ROUND = 3
PER_CONNECTION = 400
FRESH = 12
POOL = 3000
PROBES = 6
PER_HOUSE = 400
TOGETHER = 40
PATIENCE = 60
REST_SECONDS = 10
A_MOMENT = 0.05
PIECE = 50_000


class Reply(msgspec.Struct):
    """What is looked at of what comes back. Ids come back as the bytes they were, which need not be a number."""

    id: msgspec.Raw = msgspec.Raw(b"null")


_decode = msgspec.json.Decoder(Reply).decode


class Witness(logging.Handler):
    """Keeps what the daemon logs as an error of its own."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record)[-3000:])


@contextmanager
def witness() -> Generator[Witness]:
    watching = Witness()
    logger = logging.getLogger("car_trio")
    logger.addHandler(watching)
    try:
        yield watching
    finally:
        logger.removeHandler(watching)


@contextmanager
def counted(verdict: Verdict) -> Generator[None]:
    """Counts the messages that reach a dispatcher."""
    take: Any = Dispatcher.take

    def counting(self: Dispatcher, message: bytes | bytearray) -> None:
        verdict.counts[MUTATED] += b'"probe-' not in message
        take(self, message)

    Dispatcher.take = counting  # type: ignore[method-assign]
    try:
        yield
    finally:
        Dispatcher.take = take  # type: ignore[method-assign]


def attack(orders: Orders, verdict: Verdict) -> None:
    with witness() as watching, counted(verdict):
        trio.run(houses, orders, verdict, watching)


async def houses(orders: Orders, verdict: Verdict, watching: Witness) -> None:
    """One daemon after the other, each for so many connections; its directory goes with it."""
    done = 0
    while verdict.counts[MUTATED] < FRAMES and orders.go_on(done // PER_ROUND) and len(verdict.findings) < 20:
        home = orders.directory / f"house-{done}"
        async with open_house(home, page=True, runs={"durability": "os", "grace_ms": 20}) as house:
            done = await one_house(house, orders, verdict, watching, done)
        shutil.rmtree(home, ignore_errors=True)
    verdict.counts["connections in memory"] += done


async def one_house(house: House, orders: Orders, verdict: Verdict, watching: Witness, done: int) -> int:
    """A house full of connections, some at a time; returns how many there have been in all."""
    bystander, base = await house.peer("bystander"), trio.lowlevel.current_statistics().tasks_living
    first, pool = done, list[bytes]()
    while done < first + PER_HOUSE and orders.go_on(done // PER_ROUND):
        seeds = range(orders.seed * 1_000_000 + done, orders.seed * 1_000_000 + done + TOGETHER)
        async with trio.open_nursery() as nursery:
            for place, seed in enumerate(seeds):
                nursery.start_soon(one_connection, house, verdict, Attacker(verdict, seed, pool, place))
        verdict.expect(await served(bystander), f"connections {seeds}: a bystander is not served")
        verdict.expect(not watching.said, f"connections {seeds}: {' '.join(watching.said)}")
        watching.said.clear()
        done += TOGETHER
    await at_rest(verdict, base, f"house {first}")
    failed = house.daemon.counters["connections_failed"]
    verdict.expect(not failed, f"house {first}: {failed} connections failed")
    left = [each for each in house.daemon.sessions if each != house.connection_of("bystander").session.id]
    verdict.expect(not left, f"house {first}: the sessions {left} stay")
    return done


async def one_connection(house: House, verdict: Verdict, attacker: Attacker) -> None:
    with trio.move_on_after(PATIENCE) as limit:
        await attacker.live(house)
    verdict.expect(not limit.cancelled_caught, f"connection {attacker.seed} hangs")


async def at_rest(verdict: Verdict, base: int, where: str) -> None:
    """Waits until what the connections began is over: calls of tools, approvals with a deadline, sweeps."""
    with trio.move_on_after(REST_SECONDS):
        while trio.lowlevel.current_statistics().tasks_living > base:  # noqa: ASYNC110 - nothing tells when a task ends
            await trio.sleep(0.05)
    left = trio.lowlevel.current_statistics().tasks_living - base
    verdict.expect(left <= 0, f"{where}: {left} tasks stay")


async def served(bystander: Peer) -> bool:
    with trio.move_on_after(PATIENCE):
        return bool((await bystander.call("server.health"))["ok"])
    return False


async def as_stranger(house: House, place: int) -> Peer:
    peer = await house.stranger()
    await peer.open()
    return peer


async def as_agent(house: House, place: int) -> Peer:
    peer = await as_stranger(house, place)
    await peer.call("session.auth", {"token": TOKEN, "agent_id": f"mallory-{place}"})
    await peer.call("runs.start", {"intent": "i", "idempotency_key": RUN if place == 0 else f"{RUN}-{place}"})
    await peer.call("tools.register", [{"name": "t", "parameters": {}}])
    return peer


async def as_host(house: House, place: int) -> Peer:
    peer = await as_stranger(house, place)
    await peer.call("session.auth", {"host_token": HOST_TOKEN})
    return peer


async def as_page(house: House, place: int) -> Peer:
    web = house.daemon.web
    return await house.page(web_session=web.redeem(web.code()[0])[0])


KINDS: list[Callable[[House, int], Awaitable[Peer]]] = [
    as_agent,
    as_agent,
    as_agent,
    as_host,
    as_page,
    as_stranger,
]
SET_UP: dict[object, int] = {as_agent: 3, as_host: 1}
"""How many right calls each begins with."""


def ends_within_a_frame(sent: bytes) -> bool:
    """Whether the last of these masked frames claims more than there is."""
    at = 0
    while at < len(sent):
        head = sent[at + 1 : at + 2]
        length, at = head[0] & 0x7F if head else 0, at + 2
        if length > 125:
            size = 2 if length == 126 else 8
            length, at = int.from_bytes(sent[at : at + size], "big"), at + size
        at += length + (4 if head and head[0] & 0x80 else 0)
    return at > len(sent)


class Attacker:
    """One connection's attack. `place` tells those apart that are there at the same time."""

    def __init__(self, verdict: Verdict, seed: int, pool: list[bytes], place: int) -> None:
        self._verdict = verdict
        self.seed = seed
        self._place = place
        self._dice = random.Random(seed)  # noqa: S311 - chance, not secrets
        self._pool = pool
        self._told: Counter[object] = Counter()
        self._asked = 0
        self._over = trio.Event()
        self._is_closed = False
        self._is_unfinished = False

    async def live(self, house: House) -> None:
        kind = self._dice.choice(KINDS)
        peer = await kind(house, self._place)
        self._verdict.counts[MUTATED] -= SET_UP.get(kind, 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, peer)
            try:
                await self._send(peer, PER_CONNECTION if kind is not as_stranger else PROBES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._is_closed = True
            # Nothing more is heard of a connection in the middle of a frame.
            with trio.move_on_after(A_MOMENT if self._is_unfinished else math.inf):
                await self._over.wait()
            nursery.cancel_scope.cancel()
        await peer.drop()
        self._judge()

    def _judge(self) -> None:
        if self._is_closed:
            self._verdict.counts["frames that ended their connection"] += 1
        elif not self._is_unfinished:
            missing = [n for n in range(self._asked) if not self._told[f"probe-{n}"]]
            self._verdict.expect(not missing, f"connection {self.seed}: {missing} were never answered")
        twice = [name for name, count in self._told.items() if count > 1]
        self._verdict.expect(not twice, f"connection {self.seed}: {twice} were answered twice")

    async def _send(self, peer: Peer, count: int) -> None:
        frames = self._frames(count)
        self._is_unfinished = ends_within_a_frame(frames)
        self._asked = PROBES
        for at in range(0, len(frames), PIECE):
            await peer.stream.send_all(frames[at : at + PIECE])

    def _frames(self, count: int) -> bytes:
        """Wrong frames, and right requests at some places between them and at the end."""
        dice, pool = self._dice, self._pool
        fresh = [wrong_message(dice) for _ in range(FRESH)]
        pool += fresh
        if len(pool) > POOL:
            del pool[: len(fresh)]
        said = [framed(dice, wrong_bytes(dice, dice.choice(pool))) for _ in range(count - FRESH)]
        said += [framed(dice, text) for text in fresh]
        dice.shuffle(said)
        for probe in range(PROBES - 1):
            said.insert(dice.randrange(len(said)), request("server.health", None, f"probe-{probe}"))
        return b"".join(said) + request("server.health", None, f"probe-{PROBES - 1}")

    async def _listen(self, peer: Peer) -> None:
        """Takes what comes, all of which must be JSON in right frames, until the last answer or the end."""
        heard = Stream()
        try:
            while not self._told[f"probe-{PROBES - 1}"]:
                data = await peer.stream.receive_some(1 << 20)
                if not data:
                    break
                for message in heard.feed(bytes(data)):
                    if message.opcode == CLOSE:
                        self._is_closed = True
                    elif message.opcode in (TEXT, CONTINUATION):
                        self._take(message.payload)
            else:
                return
            self._is_closed = True
        except (trio.BrokenResourceError, trio.ClosedResourceError, Closed):
            self._is_closed = True
        finally:
            self._over.set()

    def _take(self, text: bytes) -> None:
        try:
            reply_id = bytes(_decode(text).id)
        except msgspec.MsgspecError as error:
            self._verdict.expect(False, f"connection {self.seed}: a reply is {error}: {text[:200]!r}")
            return
        if reply_id.startswith(b'"probe-'):
            self._told[reply_id.decode().strip('"')] += 1
