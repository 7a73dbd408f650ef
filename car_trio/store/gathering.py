"""What waits for the disk, and in which order it goes: the journal's queue, without a clock, a loop or a
thread.

Puts gather while a batch is on its way. Puts of a file that failed are kept, and everything later for that
file queues behind them, so that the order within a file never depends on luck. The others are not held up.

A run in whose place something else lies (a link, a FIFO, a directory) is kept too, and whoever waits is told at once
what to move away. It says nothing about the disk, so it is nobody else's trouble.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from car_trio.store.disk import InTheWayError
from car_trio.store.tickets import RemovalTicket, Ticket
from car_trio.store.writing import Append, Landed, Removal, Target, cause_of
from car_trio.wire.errors import storage_degraded
from car_trio.wire.runs import RunRef

LOG = logging.getLogger("car_trio.journal")
LARGE_BYTES = 64 * 1024


@dataclass(slots=True, eq=False)
class Put:
    """A put on the loop's side."""

    append: Append
    durable: Callable[[], None] | None
    counted_bytes: int
    ticket: Ticket


@dataclass(slots=True)
class Batch:
    """What goes to the disk together. `retries` says how many of its puts had been kept, for each file in
    trouble."""

    puts: list[Put]
    removals: list[tuple[Removal, RemovalTicket]]
    retries: dict[Target, int]
    flush: bool


class Gathering:
    """The puts and removals that are accepted and not on their way."""

    def __init__(self) -> None:
        self._waiting: list[Put] = []
        self._removals: list[tuple[Removal, RemovalTicket]] = []
        self._joinable: dict[Target, Put] = {}
        self.kept: dict[Target, list[Put]] = {}
        """Puts that failed and those behind them, for each file in trouble."""
        self._in_the_way: dict[Target, str] = {}
        """Those of `kept` that only wait for something to be moved away."""

    def __bool__(self) -> bool:
        return bool(self._waiting or self._removals)

    def add(self, put: Put, *, joinable: bool = False) -> None:
        """Queue a put, behind those of its file that are kept. A `joinable` one may grow until it is taken."""
        target = put.append.target
        self.kept.get(target, self._waiting).append(put)
        if joinable:
            self._joinable[target] = put
        elif self._joinable:
            self._joinable.pop(target, None)  # what comes now is written behind this one

    def join(self, target: Target, payload: bytes) -> Ticket | None:
        """The payload goes with the put that was last for this file, if that is joinable, not taken, and not large:
        appending to a large one would copy it again and again."""
        put = self._joinable.get(target)
        if put is None or len(put.append.payload) > LARGE_BYTES:
            return None
        put.append.payload += payload
        put.counted_bytes += len(payload)
        return put.ticket

    def add_removal(self, removal: Removal, ticket: RemovalTicket) -> None:
        self._removals.append((removal, ticket))

    def take(self, *, again: bool, flush: bool) -> Batch:
        """Everything that waits; with `again` also what is kept, which stays kept until it lands."""
        kept = {target: list(puts) for target, puts in self.kept.items()} if again else {}
        puts = [put for behind in kept.values() for put in behind] + self._waiting
        retries = {target: len(behind) for target, behind in kept.items()}
        batch = Batch(puts, self._removals, retries, flush)
        self._waiting, self._removals, self._joinable = [], [], {}
        return batch

    def land(self, batch: Batch, landed: Landed) -> list[Put]:
        """Keep what failed and let go what was kept and worked; returns the puts that are true now, in
        order."""
        for target, count in batch.retries.items():
            if target not in landed.failed:
                self._waiting += self.kept.pop(target)[count:]
                self._in_the_way.pop(target, None)
        fresh = landed.failed.keys() - batch.retries.keys()
        if fresh:
            for put in batch.puts + self._waiting:
                if put.append.target in fresh:
                    self.kept.setdefault(put.append.target, []).append(put)
            self._waiting = [put for put in self._waiting if put.append.target not in fresh]
        if not landed.failed:
            return batch.puts
        return [put for put in batch.puts if put.append.target not in landed.failed]

    def _look(self, target: Target, error: OSError) -> None:
        """Tells a run in whose place something lies from trouble with the disk, and whoever waits for it."""
        if not (isinstance(error, InTheWayError) and isinstance(target, RunRef)):
            self._in_the_way.pop(target, None)
            return
        cause = f"{cause_of(error)}; move it away"
        if target not in self._in_the_way:
            LOG.error("run %s of %s waits: %s", target.run_id, target.agent_id, cause)
        self._in_the_way[target] = cause
        for put in self.kept[target]:
            if not put.ticket.settled:
                put.ticket.settle(storage_degraded(cause, pending=True))

    @property
    def is_in_trouble(self) -> bool:
        """Whether something is kept that the disk itself refused."""
        return self.kept.keys() != self._in_the_way.keys()

    def in_the_way(self, run: RunRef) -> str | None:
        """What keeps this run alone from being written."""
        return self._in_the_way.get(run)

    def trouble(self, landed: Landed) -> list[OSError]:
        """After `land`: tells runs in whose place something lies what to move away; returns what else went wrong."""
        for target, error in landed.failed.items():
            self._look(target, error)
        return [error for target, error in landed.failed.items() if target not in self._in_the_way]

    def give_up(self, cause: str | None) -> None:
        """The disk did not heal before the end: say what is lost, to the log and to whoever still waits."""
        for target, puts in self.kept.items():
            why = self._in_the_way.get(target, cause)
            LOG.critical("%s: %d accepted puts were never written: %s", target, len(puts), why)
            for put in puts:
                if not put.ticket.settled:
                    put.ticket.settle(storage_degraded(f"{why}, until the daemon stopped", pending=False))
