"""One connection's view of one run: exactly the records after its cursor, in order (protocol `runs.md`, "subscribe").

A subscription is live or behind. Live, each durable record is offered to its bounded channel in the step in which it
became durable. One that does not fit makes it behind: nothing more is taken from the flush, and the drain task pages
from disk, after its cursor, until it is level with the run's durable turns; then, in one synchronous step, it forgets
what the channel still holds (the disk had it all) and is live again. It begins behind, after its snapshot. Recorder
and subscriber never wait for each other, and no schedule of appends, overflows and slow reads makes a gap or a
duplicate.

`offer` belongs to the flush, `drain` to the subscription's own task.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from car_trio.methods.context import Store
from car_trio.methods.traces import is_turn
from car_trio.state.run import Event, Run
from car_trio.store.reader import START, Page, Position, Record
from car_trio.wire.frames import encode
from car_trio.wire.runs import AgentOutcome, Ended, Incomplete, Outcome

LOG = logging.getLogger("car_trio.watch")
RETRY_SECONDS = 1.0

PAGE_BYTES = 256 * 1024
"""What one watcher that is behind reads at a time: nobody shares it, and many may be behind at once."""
MAX_EVENTS = 256
MAX_WAITING_BYTES = 1024 * 1024
"""Events are shared between watchers, but one watcher may hold no more of them before it must read from disk."""


class RunSubscription:
    """`post` queues a frame, `drained` waits for the peer, `spawn` starts the drain task, `finished` is told when it
    ends. The registry's watcher is this object."""

    def __init__(
        self,
        run: Run,
        store: Store,
        *,
        post: Callable[[bytes], None],
        drained: Callable[[], Awaitable[None]],
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
        finished: Callable[[RunSubscription], None],
    ) -> None:
        self.run = run
        self.cursor = 0
        self.position = START
        self._turns_at_position = 0
        self._store = store
        self._post = post
        self._drained = drained
        self._spawn = spawn
        self._finished = finished
        self._send, self._receive = trio.open_memory_channel[Event](MAX_EVENTS)
        self._waiting_bytes = 0
        self._scope = trio.CancelScope()
        self._behind = True
        self._over = False

    def offer(self, event: Event) -> bool:
        """A durable record. `False`: not taken, the drain task will read it from disk."""
        if self._behind:
            return False
        try:
            if self._waiting_bytes > MAX_WAITING_BYTES:
                raise trio.WouldBlock
            self._send.send_nowait(event)
        except trio.WouldBlock:
            self._behind = True
            return False
        self._waiting_bytes += len(event.record)
        return True

    def begin(self, cursor: int, position: Position) -> None:
        """The snapshot is queued: deliver what comes after it."""
        self.cursor = self._turns_at_position = cursor
        self.position = position
        self._spawn(self.drain)

    def close(self) -> None:
        """Nothing more is delivered, from this moment on."""
        self._over = True
        self._scope.cancel()
        self._finished(self)

    async def drain(self) -> None:
        """Delivers until the run's end is delivered, or until closed."""
        with self._scope:
            while not self._over:
                if self._behind:
                    await self._catch_up()
                else:
                    event = await self._receive.receive()
                    self._waiting_bytes -= len(event.record)
                    await self._drained()
                    self._emit(event)
        self._finished(self)

    def _emit(self, event: Event) -> None:
        self._post(event.frame)
        self.cursor = event.cursor
        self._over = event.status != "in_progress"

    async def _catch_up(self) -> None:
        while not self._over and not self._is_level():
            await self._drained()
            before = self.position
            try:
                page = await trio.to_thread.run_sync(self._next_page, abandon_on_cancel=True)
            except FileNotFoundError:
                page = Page([], before, 0, at_end=True)
            except OSError as error:
                LOG.error("run %s cannot be read for a watcher, trying again: %s", self.run.ref.run_id, error)
                await trio.sleep(RETRY_SECONDS)
                continue
            self._deliver_page(page)
            if not page.at_end or self.position != before or self._over or self._is_level():
                continue
            if self.run.ended_durably:
                # The file has less than was recorded: removed, or damaged at its end. Nobody is left waiting for it.
                self._emit(Event(self.run.ref, last_word(self.run), self.cursor, self.run.status))
            else:
                await trio.sleep(RETRY_SECONDS)

    def _is_level(self) -> bool:
        """Whether the next record will come as an event. From here to the first `offer` there is no checkpoint."""
        if not self.run.is_live or self.run.ended_durably or self.cursor < self.run.durable_turns:
            return False
        while self._receive.statistics().current_buffer_used:
            self._waiting_bytes -= len(self._receive.receive_nowait().record)
        self._behind = False
        return True

    def _next_page(self) -> Page:
        until = self.run.durable_records if self.run.is_live else None
        return self._store.read_page(
            self.run.ref, self.position, until=until, max_bytes=PAGE_BYTES, max_records=None
        )

    def _deliver_page(self, page: Page) -> None:
        for i, record in enumerate(page.records):
            if self._over:
                return
            self._deliver_record(record, self.position.record + i)
        self.position = page.position

    def _deliver_record(self, record: Record, index: int) -> None:
        ref = self.run.ref
        if is_turn(record, index):
            self._turns_at_position += 1
            if self._turns_at_position > self.cursor:
                self._emit(Event(ref, record.raw, self._turns_at_position, "in_progress"))
        elif record.kind == "ended":
            self._emit(Event(ref, record.raw, self.cursor, self.run.status))


def last_word(run: Run) -> bytes:
    """The end of a run whose `ended` record cannot be read any more, as the catalog knows it."""
    outcome = AgentOutcome(status=run.outcome, summary=run.summary) if run.outcome is not None else None
    return encode(
        Ended(
            run_id=run.ref.run_id,
            agent_id=run.ref.agent_id,
            termination=Incomplete("orphaned") if outcome is None else Outcome(outcome),
            ended_at=run.ended_at or run.started_at,
        )
    )
