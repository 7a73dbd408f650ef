"""What methods ask of the connection at whose request they run: its tools, its view of runs, its patience."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

from car_trio.methods.context import Daemon
from car_trio.nursery.callbacks import Callbacks
from car_trio.nursery.socket import Socket
from car_trio.nursery.subscriptions import RunSubscription
from car_trio.state.run import Run, Ticket
from car_trio.wire.errors import Refusal

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Waits:
    """How methods wait."""

    async def in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def settled(self, ticket: Ticket) -> None:
        done = trio.Event()
        outcome: list[Refusal] = []

        def settle(refusal: Refusal | None) -> None:
            outcome.extend([refusal] if refusal is not None else [])
            done.set()

        ticket.then(settle)
        await done.wait()
        if outcome:
            raise outcome[0]


WAITS = Waits()


class Peer:
    """The client as methods see it. Owns the connection's subscriptions; `spawn` starts a task among its requests."""

    def __init__(
        self, daemon: Daemon, socket: Socket, callbacks: Callbacks, spawn: Callable[..., None]
    ) -> None:
        self._daemon = daemon
        self._socket = socket
        self._spawn = spawn
        self._subscriptions: dict[str, RunSubscription] = {}
        self.call_tool = callbacks.call_tool
        self.drained = socket.drained

    def subscribe(self, run: Run) -> RunSubscription:
        """A new view of the run, registered now; an older one of this connection ends."""
        self.unsubscribe(run.ref.run_id)
        subscription = RunSubscription(
            run,
            self._daemon.store,
            post=self._socket.post,
            drained=self._socket.drained,
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

    def _forget(self, subscription: RunSubscription) -> None:
        run = subscription.run
        self._daemon.runs.unwatch(run, subscription)
        if self._subscriptions.get(run.ref.run_id) is subscription:
            del self._subscriptions[run.ref.run_id]
