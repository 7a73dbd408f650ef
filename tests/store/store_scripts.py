"""What the store's tests share: lines of records, and a script of two runs played into a journal on any
disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import trio
from trio.testing import MockClock

from car_trio.store.disk import Disk
from car_trio.store.journal import Journal, open_journal
from car_trio.store.layout import Layout
from car_trio.store.reader import read_records
from car_trio.wire.errors import Refusal
from car_trio.wire.runs import CatalogRow, Ended, Incomplete, RunRef, Started, Turn
from tests.sim_disk import ROOT, SimDisk

A = RunRef("agent", "run-a")
B = RunRef("agent", "run-b")
C = RunRef("Other Agent", "run-c")
LAYOUT = Layout(ROOT)


def started(ref: RunRef, *, at: str = "2026-11-20T09:00:00.000000Z", intent: str = "intent") -> bytes:
    record = Started(run_id=ref.run_id, agent_id=ref.agent_id, intent=intent, started_at=at)
    return msgspec.json.encode(record)


def turn(index: int, **fields: Any) -> bytes:
    return msgspec.json.encode(Turn(index=index, **fields))


def ended(ref: RunRef, *, at: str = "2026-11-20T10:00:00.000000Z") -> bytes:
    record = Ended(run_id=ref.run_id, agent_id=ref.agent_id, termination=Incomplete("shutdown"), ended_at=at)
    return msgspec.json.encode(record)


def row(ref: RunRef, **fields: Any) -> CatalogRow:
    known: dict[str, Any] = {"started_at": "2026-11-20T09:00:00.000000Z", "intent": "intent", **fields}
    return CatalogRow(run_id=ref.run_id, agent_id=ref.agent_id, **known)


def a_run(ref: RunRef, turns: int = 3) -> list[bytes]:
    return [started(ref), *(turn(index) for index in range(turns)), ended(ref)]


def lines_of(disk: Disk, ref: RunRef, layout: Layout = LAYOUT) -> list[bytes]:
    """The records of a run as a reader gets them; none when there is no such run."""
    try:
        return [record.raw for record in read_records(disk, layout, ref)]
    except FileNotFoundError:
        return []


@dataclass
class Played:
    """What was put, what was said to be true, in which order, and what health was told."""

    put: dict[RunRef, list[bytes]] = field(default_factory=dict)
    true: dict[RunRef, list[bytes]] = field(default_factory=dict)
    settled: list[Refusal | None] = field(default_factory=list)
    health: list[str | None] = field(default_factory=list)


SCRIPT: list[list[tuple[RunRef, list[bytes]]]] = [
    [(A, [started(A)])],
    [(B, [started(B)]), (A, [turn(0), turn(1)])],
    [(C, [started(C)]), (B, [turn(0)]), (A, [turn(2)]), (A, [turn(3)])],
    [(B, [ended(B)]), (A, [turn(4)])],
    [(A, [ended(A)]), (C, [ended(C)])],
]
"""Steps of puts; the next step follows when every put of the one before is settled."""


def play(disk: SimDisk, *, watch: Callable[[Played], None] | None = None, **options: Any) -> Played:
    """Play the script into a journal in virtual time; the journal is closed in order."""
    played = Played()

    async def main() -> None:
        async with open_journal(
            LAYOUT,
            disk,
            catalog=None,
            on_health=played.health.append,
            sync_threads=0,
            **{"keep_free_bytes": 0, **options},
        ) as journal:
            for step in SCRIPT:
                await settle_step(journal, step, played)

    if watch is not None:
        disk.on_step = lambda: watch(played)
    trio.run(main, clock=MockClock(autojump_threshold=0))
    return played


async def settle_step(journal: Journal, step: list[tuple[RunRef, list[bytes]]], played: Played) -> None:
    """Put everything of a step and wait for the journal's word on all of it."""
    all_settled = trio.Event()
    expected = len(played.settled) + len(step)

    def settled(word: Refusal | None) -> None:
        played.settled.append(word)
        if len(played.settled) == expected:
            all_settled.set()

    for ref, lines in step:
        played.put.setdefault(ref, []).extend(lines)
        true = played.true.setdefault(ref, [])
        journal.put(ref, lines, durable=partial(true.extend, lines)).then(settled)
    await all_settled.wait()
