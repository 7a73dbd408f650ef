"""What methods ask of the connection at whose request they run: its tools, its view of runs, its patience."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar, TypeVarTuple

import trio
from msgspec import Raw

from car_trio.methods.context import Daemon
from car_trio.nursery.callbacks import Callbacks
from car_trio.nursery.feed import HostFeed
from car_trio.nursery.outbound import Outbound
from car_trio.nursery.socket import Socket
from car_trio.nursery.subscriptions import RunSubscription
from car_trio.nursery.threads import in_thread
from car_trio.state.absent import Life
from car_trio.state.run import Run, Ticket
from car_trio.state.session import Session
from car_trio.wire.errors import Refusal
from car_trio.wire.frames import ErrorObject, notification

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Waits:
    """How methods wait."""

    async def in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await in_thread(function, *args)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def in_steps(self, steps: Generator[None, None, T]) -> T:
        while True:
            try:
                next(steps)
            except StopIteration as done:
                value: T = done.value
                return value
            await trio.lowlevel.checkpoint()

    async def settled(self, ticket: Ticket) -> None:
        refusal = await settled(ticket)
        if refusal is not None:
            raise refusal


async def settled(ticket: Ticket) -> Refusal | None:
    """What the journal says of it, as soon as it does."""
    done = trio.Event()
    outcome: list[Refusal | None] = []

    def settle(refusal: Refusal | None) -> None:
        outcome.append(refusal)
        done.set()

    ticket.then(settle)
    await done.wait()
    return outcome[0]


WAITS = Waits()


class Peer:
    """The client as methods see it. Owns the connection's subscriptions; `spawn` starts a task among its requests."""

    __slots__ = (
        "_callbacks", "_daemon", "_feed", "_out", "_session", "_socket", "_spawn", "_subscriptions",
        "call_tool",
    )  # fmt: skip  # there is one for each idle connection

    def __init__(
        self,
        daemon: Daemon,
        session: Session,
        socket: Socket,
        out: Outbound,
        callbacks: Callbacks,
        spawn: Callable[..., None],
    ) -> None:
        self._daemon = daemon
        self._session = session
        self._socket = socket
        self._out = out
        self._callbacks = callbacks
        self.call_tool = callbacks.call_tool
        self._spawn = spawn
        self._subscriptions: dict[str, RunSubscription] = {}
        self._feed: HostFeed | None = None

    async def ask(self, method: str, params: object, seconds: float) -> Raw | ErrorObject:
        return await self._callbacks.ask(method, params, seconds)

    async def drained(self) -> None:
        await self._out.drained()

    def subscribe(self, run: Run, life: Life) -> RunSubscription:
        """A new view of the run, registered now; an older one of this connection ends."""
        self.unsubscribe(run.ref.run_id)
        subscription = RunSubscription(
            run,
            life,
            self._daemon.store,
            self._out,
            post=self._socket.post_frames,
            spawn=self._spawn,
            finished=self._forget,
        )
        self._subscriptions[run.ref.run_id] = subscription
        self._daemon.runs.watch(run, subscription)
        return subscription

    def unsubscribe(self, run_id: str) -> bool:
        subscription = self._subscriptions.get(run_id)
        if subscription is None:
            return False
        subscription.close()
        return True

    def unsubscribe_all(self) -> None:
        for subscription in list(self._subscriptions.values()):
            subscription.close()

    def notify(self, method: str, params: object) -> None:
        """Queues a notification; after the end it is dropped."""
        self._socket.post(notification(method, params))

    def watch_host(self) -> HostFeed:
        """A new view of the host events, registered now; an older one of this connection ends."""
        self.unwatch_host()
        self._feed = HostFeed(self._session, self._out, self._socket.post, self._spawn)
        self._daemon.host.events.watch(self._session.id, self._feed)
        return self._feed

    def unwatch_host(self) -> None:
        if self._feed is not None:
            self._daemon.host.events.unwatch(self._session.id)
            self._feed.close()
            self._feed = None

    def _forget(self, subscription: RunSubscription) -> None:
        run = subscription.run
        self._daemon.runs.unwatch(run, subscription)
        if self._subscriptions.get(run.ref.run_id) is subscription:
            del self._subscriptions[run.ref.run_id]
