"""The journal: the one owner of everything the store writes (protocol `runs.md` section 3).

```text
loop:    put ─ append to `waiting` ─┐ hand over         ┌ settled(None) · durable() · on_health
thread:                             └ write · sync ─────┘ then the catalog
```
`put` decides and returns; it never blocks and never refuses, so it is legal in a cancelled scope. One batch
is on its way at a time and everything that arrives meanwhile gathers for the next: group commit without a
timer. What landed is told on the loop, in put order per file, in the step in which it became true.

A put that failed is kept, later puts of the same file queue behind it, and both are tried again by themselves
with a pause that grows to a second; other files go on. While anything is kept the journal is *degraded*: `check`
refuses what is new, nothing that was accepted is dropped, and whoever waits for it longer than 20 s is told that it
is pending. Only a run in whose place something else lies (`gathering.py`) is no trouble of the disk's.

Leaving `open_journal` writes all that waits, behind the program's only shield: whoever cancels the program must not
cancel what it has promised. An `OSError` never leaves this module. Anything else does: an error of the journal's own
machinery ends the process, because a journal that might be wrong may not acknowledge anything."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from queue import SimpleQueue
from typing import Any

import trio

from car_trio.store.admission import Purpose, admit
from car_trio.store.catalog import CatalogWriter
from car_trio.store.disk import Disk
from car_trio.store.dues import Dues
from car_trio.store.gathering import Batch, Gathering, Put
from car_trio.store.layout import Layout
from car_trio.store.tickets import Promised, RemovalTicket, Ticket
from car_trio.store.writing import Append, Durability, Indexed, Landed, Removal, Writer, cause_of
from car_trio.wire.errors import storage_degraded
from car_trio.wire.runs import CatalogRow, RunRef

LOG = logging.getLogger("car_trio.journal")
PENDING_SECONDS = 20.0
RETRY_SECONDS = 0.25
MAX_RETRY_SECONDS = 1.0
FREE_SPACE_AGE = 1.0
IDLE_SECONDS = 0.01
"""How long lines wait for which nobody waits: a hand-over costs as much as the rest of a small call."""
_LAST_TRIES = (0.0, 0.25, 0.5, 1.0)

Health = Callable[[str | None], None]
Telling = AbstractContextManager[None]


class Journal:
    """Use `open_journal`. All methods belong to the loop; `_write` and `_work` run in the writing thread."""

    def __init__(
        self,
        writer: Writer,
        *,
        sync_interval: float,
        keep_free_bytes: int,
        on_health: Health,
        telling: Telling,
        threads: bool,
    ) -> None:
        self._writer = writer
        self._sync_interval = sync_interval
        self._keep_free_bytes = keep_free_bytes
        self._on_health = on_health
        self._telling = telling
        self._token = trio.lowlevel.current_trio_token()
        self._mailbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True) if threads else None
        self._gathering = Gathering()
        self._promised = Promised()
        self._to_rewrite = False
        self._busy = False
        self._closed = False
        self._dues = Dues()
        self._retry_pause = RETRY_SECONDS
        self._measured_at = -math.inf
        self._alarm = trio.CancelScope()
        self._rest = trio.Event()
        self._bug: BaseException | None = None
        self.degraded: str | None = None
        """Why accepted lines cannot be written now; None while all is well."""
        self.free_bytes: int | None = None
        """What the file system had left when last asked; None when it does not say."""
        self.pending_bytes = 0
        """Lines that are accepted and not durable yet, without those that are never refused."""
        self.puts = 0
        self.batches = 0
        self.failures = 0

    def put(
        self,
        ref: RunRef,
        lines: Sequence[bytes],
        *,
        durable: Callable[[], None],
        must: bool = False,
        row: CatalogRow | None = None,
        indexed: Indexed | None = None,
    ) -> Ticket:
        """Accept encoded records of a run. Never blocks, never refuses: ask `check` before anything changes.

        `durable()` is called exactly once, in put order per run, when the lines are true in the mode that is
        set. `must` lines are not counted against the bound on kept bytes. `row` reaches the catalog after the
        lines are synced, with size and time filled in, then `indexed()` is called."""
        payload = b"\n".join(lines) + b"\n" if lines else b""
        append = Append(ref, payload, row=row, indexed=indexed)
        return self._accept(append, durable, 0 if must else len(payload))

    def log(
        self, relative: str, line: bytes, *, sync: bool = False, last: bool = False, idly: bool = False
    ) -> Ticket:
        """Append a line to another journal file under the root; after the `last`, maybe empty, it is closed.

        `idly`: nobody waits for it, so it may wait a moment for other lines to go with."""
        payload = line + b"\n" if line else b""
        joins = idly and not (sync or last or self._closed)
        if joins and (ticket := self._gathering.join(relative, payload)):
            self.pending_bytes += len(payload)
            return ticket
        Layout.check_relative(relative)  # `ValueError` for a path that leaves the root
        return self._accept(Append(relative, payload, sync, last), None, len(payload), idly=idly)

    def remove(self, ref: RunRef, tombstone: bytes) -> RemovalTicket:
        """Take an ended run off the disk: the tombstone line first, durably, then its files and its catalog row."""
        self._gathering.add_removal(Removal(ref, tombstone), ticket := RemovalTicket())
        self._hand_over()
        return ticket

    def flush(self) -> None:
        """Sync now what waits for its interval."""
        self._dues.flush.now = True
        self._hand_over()

    def check(self, purpose: Purpose, run: RunRef) -> None:
        """Raise the refusal (-32011, not pending) that something new deserves now. Ends are never asked about."""
        self._measure_if_stale()
        admit(
            purpose,
            degraded=self.degraded or self._gathering.in_the_way(run),
            pending_bytes=self.pending_bytes,
            free_bytes=self.free_bytes,
            keep_free_bytes=self._keep_free_bytes,
        )

    async def ping(self) -> None:
        """Return when the writing thread answers; what is on its way is finished first."""
        answered = trio.Event()
        self._post(lambda: self._deliver(answered.set))
        await answered.wait()

    def _accept(
        self, append: Append, durable: Callable[[], None] | None, counted_bytes: int, *, idly: bool = False
    ) -> Ticket:
        if self._closed:
            raise RuntimeError("the journal is closed")
        put = Put(append, durable, counted_bytes, Ticket())
        self.puts += 1
        self.pending_bytes += counted_bytes
        now = trio.current_time()
        self._promised.add(put.ticket, now + PENDING_SECONDS)
        self._gathering.add(put, joinable=idly and not (append.sync or append.last))
        if idly:
            self._dues.lines.by(now + IDLE_SECONDS)
        else:
            self._hand_over()
        self._wake_by(min(now + PENDING_SECONDS, self._dues.lines.at))
        return put.ticket

    def _hand_over(self) -> None:
        """Give the thread everything that waits, unless it has a batch: then it gathers for the next."""
        dues = self._dues
        if self._busy or not (self._gathering or dues.is_now):
            return
        batch = self._gathering.take(again=dues.retry.now, flush=dues.flush.now or dues.retry.now)
        dues.done()
        self._busy = True
        self.batches += 1
        self._post(partial(self._write, batch))

    def _write(self, batch: Batch) -> None:
        """In the writing thread: the batch, and once the answer is on its way the catalog."""
        appends = [put.append for put in batch.puts]
        removals = [removal for removal, _ in batch.removals]
        self._deliver(self._land, batch, self._writer.write(appends, removals, flush=batch.flush))
        told = self._writer.index()
        if told or self._writer.rows_wait:
            self._deliver(self._note_indexed, told, self._writer.rows_wait)

    def _land(self, batch: Batch, landed: Landed) -> None:
        """On the loop: keep what failed, start the next batch, then tell everybody what became true."""
        now = trio.current_time()
        self._busy = False
        self._note_free(landed.free_bytes)
        true = self._gathering.land(batch, landed)
        self._note_health(landed, now)
        if not landed.unsynced:
            self._dues.flush.at = math.inf
        else:
            self._dues.flush.by(now + self._sync_interval)
        self._hand_over()
        with self._telling:
            for put in true:
                self._tell(put)
        for removal, ticket in batch.removals:
            ticket.bytes = landed.freed.get(removal, 0)
            error = landed.refused.get(removal)
            ticket.settle(storage_degraded(cause_of(error), pending=False) if error else None)
        self._set_alarm()
        if not self._busy:
            self._rest.set()

    def _note_health(self, landed: Landed, now: float) -> None:
        errors = [*self._gathering.trouble(landed), *([landed.trouble] if landed.trouble else [])]
        self.failures += len(errors)
        self._to_rewrite = landed.to_rewrite
        if errors:
            self._degrade(cause_of(errors[0]))
        if self._gathering.kept or self._to_rewrite:
            if self._dues.retry.at == math.inf and not self._dues.retry.now:
                self._dues.retry.at = now + self._retry_pause
                self._retry_pause = min(self._retry_pause * 2, MAX_RETRY_SECONDS)
        else:
            self._dues.retry.at, self._retry_pause = math.inf, RETRY_SECONDS
        if self.degraded is not None and not (self._gathering.is_in_trouble or self._to_rewrite):
            self.degraded = None
            LOG.warning("the storage works again: everything that was kept is written")
            self._on_health(None)

    def _degrade(self, cause: str) -> None:
        if self.degraded is None:
            self.degraded = cause
            LOG.error("storage degraded: %s; what was accepted is kept and tried again", cause)
            self._on_health(cause)

    def _tell(self, put: Put) -> None:
        self.pending_bytes -= put.counted_bytes
        put.ticket.settle(None)  # first: who wrote has the reply before the events that it makes
        if put.durable is not None:
            put.durable()

    def _note_indexed(self, told: list[Indexed], rows_wait: bool) -> None:
        self._dues.index.at = trio.current_time() + MAX_RETRY_SECONDS if rows_wait else math.inf
        for indexed in told:
            indexed()
        self._set_alarm()

    def _note_free(self, free_bytes: int | None) -> None:
        self.free_bytes, self._measured_at = free_bytes, trio.current_time()

    def _measure_if_stale(self) -> None:
        # A start that was refused for space writes nothing: nothing else would notice that there is space again.
        if trio.current_time() - self._measured_at > FREE_SPACE_AGE and not self._closed:
            self._measured_at = trio.current_time()
            self._post(lambda: self._deliver(self._note_free, self._writer.free_bytes()))

    def _set_alarm(self) -> None:
        due = min(self._promised.earliest, self._dues.earliest)
        self._wake_by(due if self._bug is None else -math.inf)

    def _wake_by(self, at: float) -> None:
        # Never put off: moving a deadline at each batch costs more than one call in 20 s for nothing.
        if at < self._alarm.deadline:
            self._alarm.deadline = at

    async def tend(self) -> None:
        """Keep the journal's time: retries, flushes and late words; raise its bug if it has one."""
        while True:
            try:
                with trio.CancelScope() as self._alarm:
                    self._set_alarm()
                    await trio.sleep_forever()
            finally:
                if self._bug is not None:  # whoever cancels meanwhile, this has to be known
                    raise self._bug
            self._strike(trio.current_time())

    def _strike(self, now: float) -> None:
        """Do what is due at this time."""
        self._dues.strike(now)
        for ticket in self._promised.overdue(now):
            self._degrade(f"the disk has not answered for {PENDING_SECONDS:.0f} s")
            ticket.settle(storage_degraded(self.degraded or "", pending=True))
        self._hand_over()

    async def close(self) -> None:
        """Write and sync all that waits, then give everything back. Only `open_journal` calls this, shielded."""
        for pause in _LAST_TRIES:
            await trio.sleep(pause)
            self._dues.retry.now = True
            self._hand_over()
            await self._until_rest()
            if self._bug is not None or not (self._gathering.kept or self._to_rewrite):
                break
        self._closed = self._busy = True
        self._post(partial(self._write_last, clean=not (self._gathering.kept or self._to_rewrite)))
        await self._until_rest()
        self._gathering.give_up(self.degraded)
        self._mailbox.put(None)

    async def _until_rest(self) -> None:
        while self._busy and self._bug is None:
            self._rest = trio.Event()
            await self._rest.wait()

    def _write_last(self, *, clean: bool) -> None:
        self._writer.close(clean=clean)
        self._deliver(self._come_to_rest)

    def _come_to_rest(self) -> None:
        self._busy = False
        self._rest.set()

    def start(self) -> None:
        if self._thread is not None:
            self._thread.start()

    def _post(self, job: Callable[[], None]) -> None:
        """Have the writing thread do a job; without a thread the loop does it, at its next turn."""
        if self._thread is None:
            self._token.run_sync_soon(self._guard, job)
        else:
            self._mailbox.put(job)

    def _work(self) -> None:
        while (job := self._mailbox.get()) is not None:
            try:
                job()
            except trio.RunFinishedError:
                return
            except Exception as bug:
                self._token.run_sync_soon(self._crash, bug)
                return

    def _deliver(self, tell: Callable[..., None], *args: Any) -> None:
        self._token.run_sync_soon(self._guard, partial(tell, *args))

    def _guard(self, tell: Callable[[], None]) -> None:
        # An exception that left here would end the loop without unwinding anything.
        try:
            tell()
        except Exception as bug:
            self._crash(bug)

    def _crash(self, bug: BaseException) -> None:
        self._bug = self._bug or bug
        self._rest.set()
        self._alarm.cancel()


@asynccontextmanager
async def open_journal(
    layout: Layout,
    disk: Disk,
    *,
    durability: Durability = "always",
    sync_interval_ms: int = 1000,
    keep_free_bytes: int = 268435456,
    held_files: int = 256,
    sync_threads: int = 8,
    catalog: CatalogWriter | None,
    on_health: Health,
    telling: Telling | None = None,
) -> AsyncGenerator[Journal]:
    """The journal of one state root; the caller holds the root's lock.

    `telling` surrounds the stretch in which everybody is told what became true by one flush; it is entered again
    and again. With `sync_threads=0` there are no threads at all: the loop itself writes and syncs. That is for tests in
    virtual time, whose clock would otherwise run ahead of the disk. Leaving waits, shielded, until all is written or
    the disk has refused several times; raises what the body raised in an exception group, as a nursery does."""
    layout.prepare(disk)
    writer = Writer(
        layout, disk, durability=durability, held_files=held_files, sync_threads=sync_threads, catalog=catalog
    )
    journal = Journal(
        writer,
        sync_interval=sync_interval_ms / 1000,
        keep_free_bytes=keep_free_bytes,
        on_health=on_health,
        telling=telling or nullcontext(),
        threads=sync_threads > 0,
    )
    journal.free_bytes = writer.free_bytes()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.tend)
        journal.start()
        try:
            yield journal
        finally:
            with trio.CancelScope(shield=True):
                await journal.close()
            nursery.cancel_scope.cancel()
