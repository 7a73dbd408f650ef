"""What waits for the disk, and in which order it goes: the journal's queue, without a clock, a loop or a
thread.

Puts gather while a batch is on its way. Puts of a file that failed are kept, and everything later for that
file queues behind them, so that the order within a file never depends on luck. The others are not held up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from car_trio.store.tickets import RemovalTicket, Ticket
from car_trio.store.writing import Append, Landed, Removal, Target
from car_trio.wire.errors import storage_degraded

LOG = logging.getLogger("car_trio.journal")


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
        self.kept: dict[Target, list[Put]] = {}
        """Puts that failed and those behind them, for each file in trouble."""

    def __bool__(self) -> bool:
        return bool(self._waiting or self._removals)

    def add(self, put: Put) -> None:
        """Queue a put, behind those of its file that are kept."""
        self.kept.get(put.append.target, self._waiting).append(put)

    def add_removal(self, removal: Removal, ticket: RemovalTicket) -> None:
        self._removals.append((removal, ticket))

    def take(self, *, again: bool, flush: bool) -> Batch:
        """Everything that waits; with `again` also what is kept, which stays kept until it lands."""
        kept = {target: list(puts) for target, puts in self.kept.items()} if again else {}
        puts = [put for behind in kept.values() for put in behind] + self._waiting
        retries = {target: len(behind) for target, behind in kept.items()}
        batch = Batch(puts, self._removals, retries, flush)
        self._waiting, self._removals = [], []
        return batch

    def land(self, batch: Batch, landed: Landed) -> list[Put]:
        """Keep what failed and let go what was kept and worked; returns the puts that are true now, in
        order."""
        for target, count in batch.retries.items():
            if target not in landed.failed:
                self._waiting += self.kept.pop(target)[count:]
        fresh = landed.failed.keys() - batch.retries.keys()
        if fresh:
            for put in batch.puts + self._waiting:
                if put.append.target in fresh:
                    self.kept.setdefault(put.append.target, []).append(put)
            self._waiting = [put for put in self._waiting if put.append.target not in fresh]
        if not landed.failed:
            return batch.puts
        return [put for put in batch.puts if put.append.target not in landed.failed]

    def give_up(self, cause: str | None) -> None:
        """The disk did not heal before the end: say what is lost, to the log and to whoever still waits."""
        for target, puts in self.kept.items():
            LOG.critical("%s: %d accepted puts were never written: %s", target, len(puts), cause)
            for put in puts:
                if not put.ticket.settled:
                    put.ticket.settle(storage_degraded(f"{cause}, until the daemon stopped", pending=False))
