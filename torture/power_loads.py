"""What is played to the journal on the simulated disk, and what was promised meanwhile.

A life is a journal that is opened on a disk, put under load and closed, in virtual time. The judges look before every
operation on the disk, so between any two of them the power could have gone. What a life wrote and promised stays in
the books for the next one, which starts on a disk after a cut.
"""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import trio
from trio.testing import MockClock

from car_trio.store.catalog import CatalogWriter
from car_trio.store.journal import Journal, open_journal
from car_trio.store.layout import Layout
from car_trio.store.writing import Durability
from car_trio.wire.runs import CatalogRow, Ended, Incomplete, RunRef, Started, Turn
from tests.sim_disk import Fault, SimDisk, SimFile
from torture.orders import Verdict
from torture.power_judge import MOST_NAMES, Account, Judge, reading

NOON = "2026-11-20T12:00:00.000000Z"
INTERVAL_MS = 50
LOG = "permissions.jsonl"
FAULTS = (
    ("sync", False),
    ("sync_directory", False),
    ("write", True),
    ("write", False),
    ("create", False),
    (None, True),
)


class Load(NamedTuple):
    """How much of what is done in one life."""

    name: str
    steps: int
    runs: int = 6
    """Open at once."""
    sizes: tuple[int, ...] = (0, 40, 300, 900)
    """Bytes of a turn's prompt."""
    batch: int = 2
    ends: float = 0.1
    removals: float = 0.0
    again: float = 0.0
    """How many starts use the name of a removed run, if there is one."""
    logs: float = 0.05
    held_files: int = 64
    faults: int = 0


LOADS = (
    Load("many runs", 60, runs=20, sizes=(0, 60, 200), batch=1, ends=0.2),
    Load("batches", 24, runs=3, sizes=(0, 200, 600, 1500), batch=6),
    Load("ends and removals", 50, runs=4, ends=0.5, removals=0.4, again=0.7),
    Load("few descriptors", 50, runs=10, held_files=2),
    Load("a failing disk", 40, runs=3, faults=6),
    Load("a failing disk, removals", 40, runs=3, ends=0.4, removals=0.4, again=0.7, faults=6),
    Load("decisions", 40, runs=2, logs=0.6),
)


@dataclass
class Books:
    """All that was written and promised on one root, over several lives."""

    layout: Layout
    runs: dict[RunRef, Account] = field(default_factory=dict[RunRef, Account])
    """Of each run the newest life."""
    past: list[Account] = field(default_factory=list[Account])
    logs: dict[str, Account] = field(default_factory=dict[str, Account])
    number: int = 0

    def run(self, ref: RunRef) -> Account:
        return self.runs.setdefault(ref, Account(partial(self.layout.run_file, ref)))

    def copied(self) -> Books:
        """As they are now."""
        runs = {ref: replace(each, places=dict(each.places)) for ref, each in self.runs.items()}
        logs = {name: replace(each, places=dict(each.places)) for name, each in self.logs.items()}
        return Books(self.layout, runs, logs=logs, number=self.number)

    def forget_what_is_lost(self, disk: SimDisk) -> None:
        """After a cut: lines of logs that were not promised and did not survive are not before those that follow."""
        for account in self.logs.values():
            files = itertools.takewhile(
                bool, (found_file(disk, account.path_of(n)) for n in range(MOST_NAMES))
            )
            there = set(reading([bytes(file.seen) for file in files if file is not None]))
            kept = [
                line for line, place in account.places.items() if place < account.promised or line in there
            ]
            account.doubtful = account.doubtful.union(account.places.keys() - kept)
            account.places = {line: place for place, line in enumerate(kept)}

    def begin_anew(self, ref: RunRef) -> None:
        """The run is gone and its name is used again: what it was must not be seen any more."""
        before = self.runs.pop(ref)
        self.past.append(before)
        self.run(ref).earlier = before.earlier.union(before.places) - {orphaned(ref)}

    def log(self, relative: str) -> Account:
        return self.logs.setdefault(relative, Account(partial(self.layout.log_file, relative)))

    def expect_orphans(self) -> None:
        """The next life may end every run that has no end."""
        for ref, account in self.runs.items():
            account.put([orphaned(ref)])


def orphaned(ref: RunRef) -> bytes:
    record = Ended(
        run_id=ref.run_id, agent_id=ref.agent_id, termination=Incomplete("orphaned"), ended_at=NOON
    )
    return msgspec.json.encode(record)


def found_file(disk: SimDisk, path: Path) -> SimFile | None:
    folder = disk.folder(path.parent)
    found = folder.seen.get(path.name) if folder is not None else None
    return found if isinstance(found, SimFile) else None


class Watch:
    """The judges of all accounts of one life."""

    def __init__(self, disk: SimDisk, books: Books, verdict: Verdict, dice: random.Random) -> None:
        self.disk, self.books, self.verdict, self.dice = disk, books, verdict, dice
        self._judges: dict[int, Judge] = {}
        self.also: Callable[[], None] = lambda: None

    def look(self) -> None:
        """One cut."""
        self.verdict.counts["cuts"] += 1
        for account in (*self.books.logs.values(), *self.books.runs.values()):
            judge = self._judges.get(id(account))
            if judge is None:
                judge = Judge(account, self.disk, self.verdict, self.dice, certain=self.is_certain)
                self._judges[id(account)] = judge
            judge.look()
        self.also()

    def is_certain(self, line: bytes) -> bool:
        """Whether a line of the removed runs is on the platter, under a name that is."""
        tombstones = self.books.layout.deleted_runs.name
        folder = self.disk.folder(self.books.layout.root)
        for segment in range(6):
            path = self.books.layout.log_file(tombstones, segment)
            found = folder.may_stand_for(path.name) if folder else [None]
            if len(found) == 1 and line + b"\n" in bytes(getattr(found[0], "platter", b"")):
                return True
        return False


class Life:
    """A journal under load. `mode` says what a put promises, and when."""

    def __init__(
        self,
        watch: Watch,
        load: Load,
        mode: Durability,
        dice: random.Random,
        catalog: CatalogWriter | None = None,
    ) -> None:
        self.watch, self.load, self.dice, self.catalog = watch, load, dice, catalog
        self.mode: Durability = mode
        self.books, self.disk = watch.books, watch.disk
        self._open: list[RunRef] = []
        self._ended: list[RunRef] = []
        self._free: list[RunRef] = []
        self._turns: dict[RunRef, int] = {}
        self._lives: dict[RunRef, int] = {}
        self._late: list[tuple[float, Account, int]] = []
        self._journal: Journal | None = None

    def take_over(self, present: Collection[RunRef]) -> None:
        """After an adoption: runs that are there have ended, and the names of the others may be used again."""
        for ref, account in self.books.runs.items():
            (self._ended if ref in present else self._free).append(ref)
            self._turns[ref] = 0
            account.removed = account.removed or ref not in present

    def run(self) -> None:
        """From the opening of the journal to its end."""
        trio.run(self._main, clock=MockClock(autojump_threshold=0))
        self.watch.look()

    async def _main(self) -> None:
        self.disk.on_step = self._step
        try:
            async with open_journal(
                self.books.layout, self.disk, durability=self.mode, sync_interval_ms=INTERVAL_MS, keep_free_bytes=0,
                held_files=self.load.held_files, sync_threads=0, catalog=self.catalog, on_health=lambda cause: None,
            ) as self._journal:  # fmt: skip
                self.disk.begin()
                self.disk.faults = [self._fault() for _ in range(self.load.faults)]
                for _ in range(self.load.steps):
                    await self._do(self._journal)
                    await trio.sleep(self.dice.choice((0.0, 0.01, 0.04)))
                self.disk.faults = []
        finally:
            self.disk.on_step = lambda: None

    def _fault(self) -> Fault:
        kind, halfway = self.dice.choice(FAULTS)
        number = self.dice.choice((errno.EIO, errno.ENOSPC))
        return Fault(self.dice.randrange(1, 3 * self.load.steps), number, kind=kind, halfway=halfway)

    def _step(self) -> None:
        self._promise_late()
        self.watch.look()

    def _promise_late(self) -> None:
        """Mode `interval` promises a put when the interval is over, while the store does not say that it is ill."""
        if self.mode == "interval" and self._journal is not None and self._journal.degraded is None:
            now = trio.current_time()
            while self._late and self._late[0][0] < now:
                _, account, count = self._late.pop(0)
                account.promised = max(account.promised, count)

    async def _do(self, journal: Journal) -> None:
        """One to three puts, and their settling."""
        settled = trio.Event()
        waiting = [1]

        def done(_: object) -> None:
            waiting[0] -= 1
            if not waiting[0]:
                settled.set()

        for _ in range(self.dice.choice((1, 1, 3))):
            waiting[0] += 1
            self._put(journal, done)
        done(None)
        with trio.move_on_after(self.dice.choice((0.005, 1))):
            await settled.wait()

    def _put(self, journal: Journal, done: Callable[[object], None]) -> None:
        chance = self.dice.random()
        if chance < self.load.logs:
            self._log(journal, done)
        elif self._ended and chance < self.load.logs + self.load.removals:
            self._remove(journal, done)
        elif len(self._open) < self.load.runs:
            self._start(journal, done)
        else:
            self._go_on(journal, done)

    def _start(self, journal: Journal, done: Callable[[object], None]) -> None:
        self.books.number += 1
        if self._free and self.dice.random() < self.load.again:
            ref = self._free.pop(self.dice.randrange(len(self._free)))
            self.books.begin_anew(ref)
            self.watch.verdict.counts["ids used again"] += 1
        else:
            ref = RunRef(self.dice.choice(("agent", "Other Agent")), f"run-{self.books.number}")
        self._open.append(ref)
        self._turns[ref] = 0
        self._lives[ref] = self.books.number
        record = Started(run_id=ref.run_id, agent_id=ref.agent_id, intent=self._intent(ref), started_at=NOON)
        self._record(journal, ref, [msgspec.json.encode(record)], done)

    def _go_on(self, journal: Journal, done: Callable[[object], None]) -> None:
        ref = self.dice.choice(self._open)
        if self.dice.random() < self.load.ends:
            self._open.remove(ref)
            end = Ended(
                run_id=ref.run_id,
                agent_id=ref.agent_id,
                termination=Incomplete("shutdown"),
                ended_at=self._end(ref),
            )
            self._record(journal, ref, [msgspec.json.encode(end)], done, ended=True)
            return
        lines: list[bytes] = []
        for _ in range(self.dice.randint(1, self.load.batch)):
            prompt = "".join(self.dice.choices("abcdefgh", k=self.dice.choice(self.load.sizes)))
            prompt = f"{self._lives[ref]} {prompt}"
            lines.append(msgspec.json.encode(Turn(index=self._turns[ref], prompt=prompt)))
            self._turns[ref] += 1
        self._record(journal, ref, lines, done)

    def _record(
        self,
        journal: Journal,
        ref: RunRef,
        lines: list[bytes],
        done: Callable[[object], None],
        *,
        ended: bool = False,
    ) -> None:
        account = self.books.run(ref)
        count = account.put(lines)
        row = CatalogRow(
            run_id=ref.run_id, agent_id=ref.agent_id, intent=self._intent(ref), started_at=NOON,
            turn_count=self._turns[ref], status="incomplete" if ended else "in_progress",
            ended_at=self._end(ref) if ended else None,
        )  # fmt: skip
        wanted = row if ended or not self._turns[ref] else None
        ticket = journal.put(ref, lines, durable=partial(self._durable, account, count), row=wanted)
        if ended:
            ticket.then(lambda word: self._ended.append(ref) if word is None else None)
        ticket.then(done)

    def _intent(self, ref: RunRef) -> str:
        """Of two lives of a run no line is the same, but the end that an adoption writes."""
        return f"life {self._lives[ref]}"

    def _end(self, ref: RunRef) -> str:
        return NOON.replace(".000000", f".{self._lives[ref]:06}")

    def _durable(self, account: Account, count: int) -> None:
        if self.mode == "always":
            account.promised = max(account.promised, count)
        elif self.mode == "interval":
            self._late.append((trio.current_time() + INTERVAL_MS / 1000, account, count))

    def _log(self, journal: Journal, done: Callable[[object], None]) -> None:
        """A line that is synced in every mode."""
        account = self.books.log(LOG)
        self.books.number += 1
        line = msgspec.json.encode({"decision": self.books.number, "why": "x" * self.dice.choice((10, 700))})
        count = account.put([line])

        def promised(word: object) -> None:
            if word is None:
                account.promised = max(account.promised, count)

        ticket = journal.log(LOG, line, sync=True)
        ticket.then(promised)
        ticket.then(done)

    def _remove(self, journal: Journal, done: Callable[[object], None]) -> None:
        ref = self._ended.pop(self.dice.randrange(len(self._ended)))
        account = self.books.run(ref)
        self.books.number += 1
        told = {"run_id": ref.run_id, "agent_id": ref.agent_id, "removal": self.books.number}
        account.tombstone = msgspec.json.encode(told)
        self.books.log(self.books.layout.deleted_runs.name).put([account.tombstone])

        def removed(word: object) -> None:
            account.removed = word is None
            if account.removed:
                self._free.append(ref)

        ticket = journal.remove(ref, account.tombstone)
        ticket.then(removed)
        ticket.then(done)
