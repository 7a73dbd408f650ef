"""One host's view of the event ring (protocol `host.md` section 2): a bounded channel and a drain task.

Whoever publishes never waits. When the channel is full, what comes is not taken, only counted; the drain task tells
the host the gap as soon as everything before it is delivered, and then goes on with what comes after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from car_trio.nursery.outbound import Outbound
from car_trio.state.events import KEPT_EVENTS, Event
from car_trio.state.session import Session
from car_trio.wire.frames import notification
from car_trio.wire.host import Gap, GapRange


class HostFeed:
    """The watcher of a subscribed connection. `begin` once the snapshot is queued."""

    def __init__(
        self,
        session: Session,
        out: Outbound,
        post: Callable[[bytes], None],
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self._session = session
        self._post = post
        self._out = out
        self._spawn = spawn
        self._send, self._receive = trio.open_memory_channel[Event](KEPT_EVENTS)
        self._missed: GapRange | None = None
        self._scope = trio.CancelScope()

    def offer(self, event: Event) -> None:
        """An event. To a connection that has become an agent's since it subscribed nothing is shown any more."""
        if self._session.is_agent:
            return
        if self._missed is not None:
            self._missed.last = event.sequence
            return
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            self._missed = GapRange(event.sequence, event.sequence)

    def begin(self) -> None:
        self._spawn(self.drain)

    def close(self) -> None:
        """Nothing more is delivered, from this moment on."""
        self._scope.cancel()

    async def drain(self) -> None:
        """Delivers until closed."""
        with self._scope:
            while True:
                event = await self._receive.receive()
                await self._out.drained()
                self._post(event.frame_for(self._session))
                while self._out.is_drained and self._receive.statistics().current_buffer_used:
                    self._post(self._receive.receive_nowait().frame_for(self._session))
                self._tell_gap()

    def _tell_gap(self) -> None:
        # Missing events are only counted while the channel is full, so an event always precedes the gap.
        if self._missed is not None and not self._receive.statistics().current_buffer_used:
            self._post(notification("host.event", Gap(self._missed)))
            self._missed = None
