"""One connection's view of one run: exactly the records after its cursor, in order (protocol `runs.md`, "subscribe").

A subscription is live or behind. Live, what became durable is handed to its connection in the same step, as bytes
that all who watch share; no task wakes up for it. A connection with more than 1 MiB on its way takes no more, and the
subscription is behind: its drain task waits until there is room, then pages from disk, after its cursor, until it is
level with the run's durable turns, and in that same synchronous step it is live again. It begins behind, after its
snapshot. Recorder and subscriber never wait for each other, and no schedule of appends, full buffers and slow reads
makes a gap or a duplicate.

`offer` belongs to the flush, `drain` to the subscription's own task.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from car_trio.methods.context import Store
from car_trio.methods.traces import is_turn
from car_trio.nursery.framing import packed_frames
from car_trio.nursery.outbound import Outbound
from car_trio.nursery.threads import in_thread
from car_trio.state.absent import Life
from car_trio.state.run import Passage, Run, passages
from car_trio.store.reader import START, Page, Position
from car_trio.wire.frames import encode
from car_trio.wire.runs import AgentOutcome, Ended, Incomplete, Outcome

LOG = logging.getLogger("car_trio.watch")
RETRY_SECONDS = 1.0

PAGE_BYTES = 256 * 1024
"""What one watcher that is behind reads at a time: nobody shares it, and many may be behind at once."""


class RunSubscription:
    """The registry's watcher. `out` and `post` are the connection's; `spawn` starts the drain task, `finished` is told
    when it ends."""

    def __init__(
        self,
        run: Run,
        life: Life,
        store: Store,
        out: Outbound,
        *,
        post: Callable[[bytes], None],
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
        finished: Callable[[RunSubscription], None],
    ) -> None:
        self.run = run
        self.cursor = 0
        self.position = START
        self._turns_at_position = 0
        self._life = life
        self._store = store
        self._out = out
        self._post = post
        self._spawn = spawn
        self._finished = finished
        self._live = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()
        self._behind = True
        self._over = False

    def offer(self, passage: Passage) -> bool:
        """Durable records. `False`: not taken, the drain task will read them from disk."""
        if self._behind or self._over:
            return False
        if not self._out.is_drained:
            self._behind = True
            self._live.unpark()
            return False
        self._emit(passage)
        if self._over:
            self.close()
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
        """Delivers what was not taken live, until the run's end is delivered, or until closed."""
        with self._scope:
            await self._catch_up()
            while not self._over:
                await self._live.park()
                await self._catch_up()
        self._finished(self)

    def _emit(self, passage: Passage) -> None:
        self._post(passage.packed(packed_frames))
        self.cursor = passage.cursor
        self._over = passage.status != "in_progress"

    async def _catch_up(self) -> None:
        while not self._over and not self._is_level():
            await self._out.drained()
            before = self.position
            try:
                page = await self._read()
            except OSError as error:
                LOG.error("run %s cannot be read for a watcher, trying again: %s", self.run.ref.run_id, error)
                await trio.sleep(RETRY_SECONDS)
                continue
            self._deliver_page(page)
            if not page.at_end or self.position != before or self._over or self._is_level():
                continue
            if self.run.ended_durably:
                # The file has less than was recorded: removed, or damaged at its end. Nobody is left waiting for it.
                self._emit_end(last_word(self.run))
            else:
                await trio.sleep(RETRY_SECONDS)

    def _is_level(self) -> bool:
        """Whether the next record will be offered; it is taken from now on."""
        if not self.run.is_live or self.run.ended_durably or self.cursor < self.run.durable_turns:
            return False
        self._behind = False
        return True

    async def _read(self) -> Page:
        """What comes next in the file: nothing, once the run is removed, although the next of its id may lie there."""
        with suppress(FileNotFoundError):
            page = await in_thread(self._next_page)
            if not self._life.is_over:
                return page
        return Page([], self.position, 0, at_end=True)

    def _next_page(self) -> Page:
        until = self.run.durable_records if self.run.is_live else None
        return self._store.read_page(
            self.run.ref, self.position, until=until, max_bytes=PAGE_BYTES, max_records=None
        )

    def _deliver_page(self, page: Page) -> None:
        if self._over:
            return  # closed when the page was read already
        turns: list[bytes] = []
        end: bytes | None = None
        for index, record in enumerate(page.records, self.position.record):
            if is_turn(record, index):
                self._turns_at_position += 1
                if self._turns_at_position > self.cursor:
                    turns.append(record.raw)
            elif record.kind == "ended":
                end = record.raw
                break
        for passage in passages(self.run.ref, turns, self.cursor):
            self._emit(passage)
        if end is not None:
            self._emit_end(end)
        self.position = page.position

    def _emit_end(self, record: bytes) -> None:
        self._emit(Passage(self.run.ref, [record], self.cursor, self.run.status))


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
