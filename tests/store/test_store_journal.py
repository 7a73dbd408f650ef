"""The journal: what it promises, when it says so, and what it does when the disk does not play along."""

from __future__ import annotations

import errno
import logging
import random
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from car_trio.store import gathering, writing
from car_trio.store import journal as journal_module
from car_trio.store.admission import KEPT_BYTES
from car_trio.store.catalog import CatalogWriter
from car_trio.store.disk import Disk
from car_trio.store.gathering import Gathering, Put
from car_trio.store.journal import IDLE_SECONDS, Journal, open_journal
from car_trio.store.layout import Layout
from car_trio.store.syncing import SyncThreads
from car_trio.store.tickets import Ticket
from car_trio.store.writing import Landed
from car_trio.wire.errors import STORAGE_DEGRADED, Refusal
from car_trio.wire.runs import CatalogRow, RunRef
from tests.process.daemon_process import PATIENCE
from tests.sim_disk import ROOT, Fault, SimDisk
from tests.store.store_scripts import LAYOUT, A, B, C, a_run, ended, lines_of, row, started, turn

Opening = Callable[..., AbstractAsyncContextManager[Journal]]


class FakeCatalog(CatalogWriter):
    """Remembers what it is told, and fails as often as it is told to."""

    def __init__(self) -> None:
        self.clean = True
        self.written: list[tuple[list[CatalogRow], list[RunRef]]] = []
        self.failures = 0
        self.closed: bool | None = None

    def write(self, rows: Sequence[CatalogRow], gone: Any = (), *, synced: bool = True) -> None:
        if self.failures:
            self.failures -= 1
            raise sqlite3.OperationalError("disk is full")
        self.written.append((list(rows), list(gone)))

    def close(self, *, clean: bool) -> None:
        self.closed = clean


class Place:
    """A simulated disk with a journal on it, in virtual time."""

    def __init__(self) -> None:
        self.disk = SimDisk()
        LAYOUT.prepare(self.disk)
        self.disk.begin()
        self.health: list[str | None] = []
        self.catalog = FakeCatalog()

    @asynccontextmanager
    async def journal(self, **options: Any) -> AsyncGenerator[Journal]:
        known = {
            "catalog": self.catalog,
            "on_health": self.health.append,
            "sync_threads": 0,
            "keep_free_bytes": 0,
        }
        async with open_journal(LAYOUT, self.disk, **{**known, **options}) as journal:
            yield journal

    def count(self, operation: str) -> int:
        return sum(line.startswith(operation + " ") for line in self.disk.log)


@pytest.fixture
def place() -> Place:
    return Place()


class Told(list[Any]):
    """Notes, in order, what the journal says about puts."""

    def put(self, journal: Journal, ref: RunRef, *lines: bytes, **options: Any) -> Ticket:
        name = lines[-1] if lines else b""
        ticket = journal.put(ref, lines, durable=lambda: self.append(("true", name)), **options)
        ticket.then(lambda outcome: self.append((outcome, name)))
        return ticket

    @property
    def true(self) -> list[bytes]:
        return [name for what, name in self if what == "true"]

    @property
    def refusals(self) -> list[Refusal]:
        return [what for what, _ in self if isinstance(what, Refusal)]


async def settled(ticket: Ticket) -> Refusal | None:
    """Wait for a ticket's word."""
    done = trio.Event()
    words: list[Refusal | None] = []

    def note(word: Refusal | None) -> None:
        words.append(word)
        done.set()

    ticket.then(note)
    await done.wait()
    return words[0]


async def test_settled_comes_first_and_durable_follows_in_the_same_step(
    place: Place, autojump_clock: MockClock
) -> None:
    told = Told()
    async with place.journal() as journal:
        await settled(told.put(journal, A, started(A), turn(0)))
        assert told == [(None, turn(0)), ("true", turn(0))]
        assert lines_of(place.disk, A) == [started(A), turn(0)]


async def test_nothing_is_said_before_the_file_and_its_directory_are_synced(
    place: Place, autojump_clock: MockClock
) -> None:
    told = Told()
    async with place.journal() as journal:
        place.disk.on_step = lambda: told.append(("step", place.disk.log[-1] if place.disk.log else ""))
        await settled(told.put(journal, A, started(A)))
    before = [name for what, name in told[: told.index(("true", started(A)))] if what == "step"]
    assert {"sync run-a.jsonl", "sync_directory runs"} <= set(before)
    assert place.disk.log.index("sync_directory agent") > place.disk.log.index("create run-a.jsonl")


async def test_then_may_be_asked_often_and_late(place: Place, autojump_clock: MockClock) -> None:
    words: list[object] = []
    async with place.journal() as journal:
        ticket = journal.put(A, [started(A)], durable=lambda: None)
        assert not ticket.settled
        ticket.then(words.append)
        ticket.then(words.append)
        assert words == []
        await settled(ticket)
        ticket.then(words.append)
        assert words == [None, None, None]


async def test_what_gathers_while_a_batch_is_on_its_way_shares_one_write_per_run_and_one_sync(
    place: Place,
    autojump_clock: MockClock,
) -> None:
    told = Told()
    async with place.journal() as journal:
        await settled(told.put(journal, A, started(A)))
        await settled(told.put(journal, B, started(B)))
        place.disk.begin()
        told.put(journal, A, turn(0))
        for index in range(1, 20):
            told.put(journal, A, turn(index))
            told.put(journal, B, turn(index - 1))
        await settled(told.put(journal, B, turn(19)))
        assert journal.batches == 4
    assert place.count("write") == 3
    assert place.count("sync") == 3
    assert lines_of(place.disk, A) == [started(A), *(turn(index) for index in range(20))]


async def test_puts_of_a_run_become_true_in_their_order(place: Place, autojump_clock: MockClock) -> None:
    told = Told()
    async with place.journal() as journal:
        for line in a_run(A, 30):
            told.put(journal, A, line)
    assert told.true == a_run(A, 30)
    assert lines_of(place.disk, A) == a_run(A, 30)


async def test_a_put_without_lines_becomes_true_in_its_turn(place: Place, autojump_clock: MockClock) -> None:
    told = Told()
    async with place.journal() as journal:
        told.put(journal, A, started(A))
        await settled(told.put(journal, A))
    assert told.true == [started(A), b""]


async def test_a_put_is_legal_in_a_cancelled_scope_and_is_written(
    place: Place, autojump_clock: MockClock
) -> None:
    told = Told()
    async with place.journal() as journal:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep_forever()
            finally:
                told.put(journal, A, started(A))
    assert told.true == [started(A)]


async def test_leaving_writes_everything_that_waits_even_when_cancelled(
    place: Place, autojump_clock: MockClock
) -> None:
    told = Told()
    with trio.CancelScope() as scope:
        async with place.journal() as journal:
            for line in a_run(A):
                told.put(journal, A, line)
            scope.cancel()
            await trio.sleep_forever()
    assert told.true == a_run(A)
    assert place.catalog.closed is True
    assert place.disk.open_files == {}


async def test_a_put_after_the_end_is_a_bug(place: Place, autojump_clock: MockClock) -> None:
    async with place.journal() as journal:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        journal.put(A, [started(A)], durable=lambda: None)


async def test_while_a_disk_is_full_what_was_accepted_is_kept_and_written_when_it_heals(
    place: Place, autojump_clock: MockClock
) -> None:
    told = Told()
    async with place.journal() as journal:
        await settled(told.put(journal, A, started(A)))
        place.disk.broken = {"write": errno.ENOSPC}
        told.put(journal, A, turn(0))
        await trio.sleep(0.1)
        told.put(journal, A, turn(1))
        told.put(journal, A, ended(A), must=True)
        await trio.sleep(3)
        assert place.health == ["No space left on device (/sim/runs/agent/run-a.jsonl)"]
        assert journal.degraded == place.health[0]
        assert told.true == [started(A)]
        place.disk.heal()
        await trio.sleep(5)
        assert told.true == [started(A), turn(0), turn(1), ended(A)]
        assert place.health[1:] == [None]
        assert journal.degraded is None
        assert told.refusals == []
        assert journal.pending_bytes == 0
    assert lines_of(place.disk, A) == [started(A), turn(0), turn(1), ended(A)]


async def test_a_put_never_overtakes_one_of_the_same_run_that_failed(
    place: Place, autojump_clock: MockClock
) -> None:
    told = Told()
    async with place.journal() as journal:
        place.disk.faults = [Fault(1, errno.EIO, kind="write")]
        told.put(journal, A, started(A))
        told.put(journal, A, turn(0))
        await trio.sleep(0.1)
        assert journal.degraded is not None
        told.put(journal, A, turn(1))
        await trio.sleep(0.1)
        assert told == []
        await trio.sleep(0.1)
    assert told.true == [started(A), turn(0), turn(1)]
    assert lines_of(place.disk, A) == [started(A), turn(0), turn(1)]


def gathered(target: RunRef, payload: bytes) -> Put:
    return Put(writing.Append(target, payload), None, 0, Ticket())


def test_what_arrives_while_kept_puts_are_tried_again_goes_behind_them_and_is_not_forgotten() -> None:
    gathering = Gathering()
    first, second, third, other = (gathered(ref, b"x") for ref in (A, A, A, B))
    gathering.add(first)
    assert gathering.land(gathering.take(again=False, flush=False), Landed(failed={A: OSError()})) == []
    gathering.add(second)
    gathering.add(other)
    batch = gathering.take(again=True, flush=False)
    assert batch.puts == [first, second, other]
    gathering.add(third)
    assert gathering.land(batch, Landed()) == [first, second, other]
    assert gathering.take(again=False, flush=False).puts == [third]
    gathering.add(first)
    gathering.land(gathering.take(again=False, flush=False), Landed(failed={A: OSError()}))
    gathering.land(gathering.take(again=True, flush=False), Landed(failed={A: OSError()}))
    assert gathering.kept == {A: [first]}


async def test_a_second_trouble_is_tried_again_as_soon_as_the_first_was(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.journal() as journal:
        for _ in range(2):
            place.disk.broken = {"write": errno.EIO}
            ticket = journal.put(A, [turn(0)], durable=lambda: None)
            await trio.sleep(3)
            place.disk.heal()
            await settled(ticket)
            place.disk.broken = {}
            place.disk.begin()
            place.disk.faults = [Fault(1, errno.EIO, kind="write")]
            began = trio.current_time()
            await settled(journal.put(A, [turn(0)], durable=lambda: None))
            assert trio.current_time() - began == pytest.approx(0.25)
            place.disk.faults = []


async def test_a_kept_put_is_tried_again_with_a_pause_that_doubles_up_to_a_second(
    place: Place, autojump_clock: MockClock
) -> None:
    place.disk.broken = {"create": errno.EIO}
    tries: list[float] = []
    async with place.journal() as journal:
        place.disk.on_step = lambda: tries.append(trio.current_time())
        began = trio.current_time()
        journal.put(A, [started(A)], durable=lambda: None)
        await trio.sleep(4.9)
        place.disk.on_step = lambda: None
        place.disk.heal()
    at = sorted({round(moment - began, 2) for moment in tries})
    assert at == [0.0, 0.25, 0.75, 1.75, 2.75, 3.75, 4.75]


async def test_trouble_with_one_file_is_no_trouble_for_others(
    place: Place, autojump_clock: MockClock
) -> None:
    told = Told()
    place.disk.broken = {"write": errno.EIO}
    place.disk.full_at = lambda path: path.name == "run-a.jsonl"
    async with place.journal() as journal:
        told.put(journal, A, started(A))
        assert await settled(told.put(journal, B, started(B), must=True)) is None
        assert await settled(told.put(journal, B, turn(0), must=True)) is None
        assert told.true == [started(B), turn(0)]
        assert journal.degraded is not None
        await trio.sleep(21)
        assert len(told.refusals) == 1
        place.disk.heal()
    assert told.true == [started(B), turn(0), started(A)]


async def test_what_waits_for_twenty_seconds_is_pending_once_and_true_later(
    place: Place, autojump_clock: MockClock
) -> None:
    told = Told()
    place.disk.broken = {"write": errno.ENOSPC}
    async with place.journal() as journal:
        ticket = told.put(journal, A, started(A))
        await trio.sleep(19.9)
        assert told == []
        late = told.put(journal, A, turn(0))
        await trio.sleep(0.2)
        (refusal,) = told.refusals
        assert (refusal.code, refusal.data) == (STORAGE_DEGRADED, {"pending": True})
        assert refusal.message.startswith("storage degraded: No space left on device")
        words: list[Refusal | None] = []
        ticket.then(words.append)
        assert words == [refusal]
        place.disk.heal()
        assert await settled(late) is None
        assert told.true == [started(A), turn(0)]
        assert len(told) == 4
        ticket.then(words.append)
        assert words == [refusal, None]


def test_a_disk_that_does_not_answer_is_degraded_after_twenty_seconds_until_it_does() -> None:
    answer = threading.Event()

    class Stuck(SimDisk):
        def sync(self, descriptor: int) -> None:
            answer.wait()

    disk = Stuck()
    LAYOUT.prepare(disk)
    health: list[str | None] = []
    clock = MockClock()

    async def main() -> None:
        async with open_journal(
            LAYOUT, disk, catalog=None, on_health=health.append, keep_free_bytes=0, sync_threads=1
        ) as journal:
            ticket = journal.put(A, [started(A)], durable=lambda: None)
            await wait_all_tasks_blocked()
            clock.jump(20.0)
            refusal = await settled(ticket)
            assert refusal is not None and refusal.data == {"pending": True}
            assert health == ["the disk has not answered for 20 s"]
            answer.set()
            await journal.ping()
            assert health[1:] == [None]

    trio.run(main, clock=clock)


async def test_a_degraded_store_refuses_what_is_new_and_says_that_it_will_never_be_written(
    place: Place, autojump_clock: MockClock
) -> None:
    place.disk.broken = {"write": errno.ENOSPC}
    async with place.journal() as journal:
        journal.check("start", A)
        journal.put(A, [started(A)], durable=lambda: None)
        await trio.sleep(0.1)
        for purpose in ("start", "turns"):
            with pytest.raises(Refusal, match="storage degraded: No space") as refused:
                journal.check(purpose, A)
            assert refused.value.data == {"pending": False}
        place.disk.heal()
        await trio.sleep(1)
        journal.check("start", A)


async def test_kept_lines_are_bounded_and_ends_do_not_count(place: Place, autojump_clock: MockClock) -> None:
    line = b"x" * (1 << 20)
    async with place.journal() as journal:
        for _ in range(63):
            journal.put(A, [line], durable=lambda: None)
        journal.put(A, [line] * 64, durable=lambda: None, must=True)
        journal.check("turns", A)
        journal.put(A, [line], durable=lambda: None)
        assert journal.pending_bytes >= KEPT_BYTES
        with pytest.raises(Refusal, match="already wait for the disk") as refused:
            journal.check("turns", A)
        assert refused.value.data == {"pending": False}
        await trio.sleep(0.1)
        journal.check("turns", A)
        assert journal.pending_bytes == 0


async def test_below_the_reserve_no_run_starts_and_below_half_of_it_no_turn_is_taken(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.journal(keep_free_bytes=1000) as journal:
        for space, refused in ((1000, ()), (999, ("start",)), (500, ("start",)), (499, ("start", "turns"))):
            place.disk.space = space
            journal.put(A, [turn(0)], durable=lambda: None)
            await trio.sleep(0.1)
            assert journal.free_bytes == space
            for purpose in ("start", "turns"):
                if purpose in refused:
                    with pytest.raises(Refusal, match=f"{space} bytes free") as refusal:
                        journal.check(purpose, A)
                    assert refusal.value.data == {"pending": False}
                else:
                    journal.check(purpose, A)
        await trio.sleep(2)
        place.disk.space = 1000
        with pytest.raises(Refusal):
            journal.check("start", A)  # asks for a new measure
        await trio.sleep(0.1)
        journal.check("start", A)


async def test_a_disk_that_does_not_tell_its_free_space_refuses_nothing(
    place: Place, autojump_clock: MockClock
) -> None:
    class Silent(SimDisk):
        def free_bytes(self, path: Path) -> int:
            raise OSError(errno.ENOSYS, "cannot say")

    place.disk.__class__ = Silent
    async with place.journal(keep_free_bytes=1000) as journal:
        assert journal.free_bytes is None
        journal.check("start", A)


async def test_after_a_failed_sync_the_run_is_continued_in_a_new_file_that_says_what_counts(
    place: Place, autojump_clock: MockClock
) -> None:
    told = Told()
    async with place.journal() as journal:
        await settled(told.put(journal, A, started(A)))
        place.disk.begin()
        place.disk.faults = [Fault(1, errno.EIO, kind="sync")]
        await settled(told.put(journal, A, turn(0)))
        await settled(told.put(journal, A, ended(A)))
    counted = len(started(A)) + 1
    begin = b'{"record":"segment","previous_bytes":%d}\n' % counted
    assert place.disk.text(LAYOUT.run_file(A, 1)) == begin + turn(0) + b"\n" + ended(A) + b"\n"
    assert lines_of(place.disk, A) == [started(A), turn(0), ended(A)]
    assert place.health == []


async def test_a_run_whose_file_is_torn_or_continued_already_is_appended_to_its_end(
    place: Place, autojump_clock: MockClock
) -> None:
    for at, content in (
        (A, [started(A) + b"\n" + b'{"torn']),
        (B, [started(B) + b"\n", b'{"record":"segment","previous_bytes":%d}\n' % (len(started(B)) + 1)]),
        (C, [started(C) + b"\n", b'{"record":"seg']),
    ):
        folder = LAYOUT.agent_directory(at.agent_id)
        if at is not B:
            place.disk.make_directory(folder)
        for number, text in enumerate(content):
            place.disk.put(LAYOUT.run_file(at, number), text)
    async with place.journal() as journal:
        for ref in (A, B, C):
            assert await settled(journal.put(ref, [turn(0)], durable=lambda: None)) is None
    for ref in (A, B, C):
        assert lines_of(place.disk, ref) == [started(ref), turn(0)]
    assert place.disk.text(LAYOUT.torn_file(C, 1)) == b'{"record":"seg'


async def test_a_continued_run_that_cannot_be_opened_is_tried_again_and_leaks_no_descriptor(
    place: Place, autojump_clock: MockClock
) -> None:
    place.disk.make_directory(LAYOUT.agent_directory(B.agent_id))
    place.disk.put(LAYOUT.run_file(B), started(B) + b"\n")
    place.disk.put(
        LAYOUT.run_file(B, 1), b'{"record":"segment","previous_bytes":%d}\n' % (len(started(B)) + 1)
    )
    place.disk.begin()
    place.disk.faults = [Fault(2, errno.EIO, kind="open_append")]
    async with place.journal() as journal:
        assert await settled(journal.put(B, [turn(0)], durable=lambda: None)) is None
    assert place.disk.faults[0].struck and place.disk.open_files == {}
    assert lines_of(place.disk, B) == [started(B), turn(0)]


async def test_what_is_remembered_of_directories_is_bounded(
    place: Place, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_KNOWN_DIRECTORIES", 2)
    async with place.journal() as journal:
        for number in range(6):
            await settled(journal.put(RunRef(f"agent-{number}", "r"), [turn(0)], durable=lambda: None))
            assert len(journal._writer._directories) <= 2


def test_an_error_that_is_no_disks_reaches_whoever_waits_for_the_syncs() -> None:
    def bug() -> None:
        raise ZeroDivisionError

    def failing() -> None:
        raise OSError(errno.EIO, "failing")

    threads = SyncThreads(2)
    good, bad = threads.run([lambda: None, failing])
    assert good is None and isinstance(bad, OSError)
    with pytest.raises(ZeroDivisionError):
        threads.run([bug, bug])
    threads.close()


async def test_a_file_without_a_whole_line_is_moved_aside_before_a_run_begins_in_its_name(
    place: Place, autojump_clock: MockClock
) -> None:
    place.disk.make_directory(LAYOUT.agent_directory(A.agent_id))
    place.disk.put(LAYOUT.run_file(A), b'{"record":"star')
    async with place.journal() as journal:
        await settled(journal.put(A, [started(A)], durable=lambda: None))
    assert lines_of(place.disk, A) == [started(A)]
    assert place.disk.text(LAYOUT.torn_file(A)) == b'{"record":"star'


async def test_continuations_that_a_removal_left_do_not_continue_a_new_run_of_that_name(
    place: Place, autojump_clock: MockClock
) -> None:
    place.disk.make_directory(LAYOUT.agent_directory(A.agent_id))
    place.disk.put(LAYOUT.run_file(A, 1), b'{"record":"segment","previous_bytes":10}\n' + turn(7) + b"\n")
    async with place.journal() as journal:
        await settled(journal.put(A, [started(A)], durable=lambda: None))
    assert lines_of(place.disk, A) == [started(A)]
    assert turn(7) in place.disk.text(LAYOUT.torn_file(A, 1))


async def test_a_directory_in_place_of_a_run_file_is_told_at_once_and_is_nobody_elses_trouble(
    place: Place, autojump_clock: MockClock
) -> None:
    place.disk.make_directory(LAYOUT.agent_directory(A.agent_id))
    place.disk.make_directory(LAYOUT.run_file(A))
    async with place.journal() as journal:
        refusal = await settled(journal.put(A, [started(A)], durable=lambda: None))
        assert refusal is not None and "not a regular file" in refusal.message
        assert await settled(journal.put(B, [started(B)], durable=lambda: None)) is None
        assert journal.degraded is None
        journal.check("turns", B)
        with pytest.raises(Refusal, match="not a regular file.*move it away; send it again later"):
            journal.check("turns", A)
        place.disk.remove_directory(LAYOUT.run_file(A))
    assert lines_of(place.disk, A) == [started(A)]


async def test_a_run_that_waited_for_something_to_be_moved_away_meets_a_disk_that_fails(
    place: Place, autojump_clock: MockClock
) -> None:
    place.disk.make_directory(LAYOUT.agent_directory(A.agent_id))
    place.disk.make_directory(LAYOUT.run_file(A))
    async with place.journal() as journal:
        await settled(journal.put(A, [started(A)], durable=lambda: None))
        place.disk.remove_directory(LAYOUT.run_file(A))
        place.disk.broken = {"create": errno.ENOSPC}
        await trio.sleep(1.5)
        assert journal.degraded is not None and "No space left" in journal.degraded
        place.disk.heal()
        await trio.sleep(1.5)
        assert journal.degraded is None
    assert lines_of(place.disk, A) == [started(A)]


async def test_no_more_than_the_allowed_descriptors_stay_open(
    place: Place, autojump_clock: MockClock
) -> None:
    refs = [RunRef("agent", f"r{number}") for number in range(20)]
    for durability in ("always", "interval", "os"):
        async with place.journal(held_files=4, durability=durability) as journal:
            for index in range(3):
                for ref in refs:
                    assert await settled(journal.put(ref, [turn(index)], durable=lambda: None)) is None
                    assert len(place.disk.open_files) <= 4
    for ref in refs:
        assert lines_of(place.disk, ref) == [turn(index) for index in range(3)] * 3


async def test_the_descriptor_of_an_ended_run_is_given_back_at_once(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.journal() as journal:
        await settled(journal.put(A, [started(A)], durable=lambda: None, row=row(A)))
        assert len(place.disk.open_files) == 1
        end = row(A, ended_at="2026-11-20T10:00:00.000000Z", status="incomplete")
        await settled(journal.put(A, [ended(A)], durable=lambda: None, row=end))
        assert place.disk.open_files == {}


async def test_without_a_free_descriptor_the_resting_ones_are_closed_and_it_goes_on(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.journal() as journal:
        await settled(journal.put(A, [started(A)], durable=lambda: None))
        place.disk.begin()
        place.disk.faults = [Fault(1, errno.EMFILE, kind="create")]
        assert await settled(journal.put(B, [started(B)], durable=lambda: None)) is None
        assert journal.failures == 0
        assert len(place.disk.open_files) == 1


async def test_a_row_is_written_after_its_lines_are_synced_with_the_size_and_time_of_the_files(
    place: Place, autojump_clock: MockClock
) -> None:
    order: list[str] = []
    async with place.journal() as journal:
        await settled(
            journal.put(
                A,
                [started(A)],
                durable=lambda: order.append("durable"),
                row=row(A),
                indexed=lambda: order.append("indexed"),
            )
        )
        await journal.ping()
        assert order == ["durable", "indexed"]
    ((found,), gone) = place.catalog.written[0]
    stat = place.disk.stat(LAYOUT.run_file(A))
    assert (found.bytes, found.mtime_ns, gone) == (stat.size, stat.mtime_ns, [])


async def test_a_row_whose_size_cannot_be_had_is_written_without_it(
    place: Place, autojump_clock: MockClock
) -> None:
    class Blind(SimDisk):
        def stat(self, path: Path) -> Any:
            if path == LAYOUT.run_file(A):
                raise OSError(errno.EIO, "blind")
            return super().stat(path)

    place.disk.__class__ = Blind
    async with place.journal() as journal:
        await settled(journal.put(A, [started(A)], durable=lambda: None, row=row(A)))
    assert place.catalog.written[0][0][0].bytes == 0


async def test_a_failing_catalog_fails_no_put_and_gets_its_rows_later(
    place: Place, autojump_clock: MockClock
) -> None:
    indexed: list[str] = []
    async with place.journal() as journal:
        place.catalog.failures = 2
        ticket = journal.put(
            A, [started(A)], durable=lambda: None, row=row(A), indexed=lambda: indexed.append("a")
        )
        assert await settled(ticket) is None
        await trio.sleep(1)
        assert indexed == [] and place.health == []
        await trio.sleep(10)
        assert indexed == ["a"]
    assert place.catalog.closed is True


async def test_without_a_catalog_a_row_counts_as_written(place: Place, autojump_clock: MockClock) -> None:
    indexed: list[str] = []
    async with place.journal(catalog=None) as journal:
        journal.put(A, [started(A)], durable=lambda: None, row=row(A), indexed=lambda: indexed.append("a"))
        await trio.sleep(1)
        assert indexed == ["a"]


async def test_rows_that_never_reached_the_catalog_make_the_stop_unclean(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.journal() as journal:
        place.catalog.failures = 1000
        journal.put(A, [started(A)], durable=lambda: None, row=row(A))
    assert place.catalog.closed is False


async def test_what_the_disk_refused_to_the_end_is_named_and_its_callers_are_told(
    place: Place, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told()
    place.disk.broken = {"write": errno.ENOSPC}
    async with place.journal() as journal:
        told.put(journal, A, started(A))
        await trio.sleep(21)
        told.put(journal, A, turn(0))
    first, second = told.refusals
    assert (first.data, second.data) == ({"pending": True}, {"pending": False})
    assert "run-a" in caplog.records[-1].getMessage()
    assert caplog.records[-1].levelno == logging.CRITICAL
    assert place.catalog.closed is False


async def test_in_interval_mode_a_put_is_true_when_written_and_synced_within_the_interval(
    place: Place, autojump_clock: MockClock
) -> None:
    indexed: list[float] = []
    async with place.journal(durability="interval", sync_interval_ms=400) as journal:
        began = trio.current_time()
        options: dict[str, Any] = {
            "row": row(A),
            "indexed": lambda: indexed.append(trio.current_time() - began),
        }
        await settled(journal.put(A, [started(A)], durable=lambda: None, **options))
        await settled(journal.put(A, [turn(0)], durable=lambda: None))
        assert place.count("sync") == 0
        await trio.sleep(0.39)
        assert (place.count("sync"), indexed) == (0, [])
        await trio.sleep(0.02)
        assert (place.count("sync"), indexed) == (1, [pytest.approx(0.4)])
        await trio.sleep(10)
        assert place.count("sync") == 1
        await settled(journal.put(A, [turn(1)], durable=lambda: None))
    assert place.count("sync") == 2


async def test_in_interval_mode_a_failed_sync_writes_the_unsynced_lines_again(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.journal(durability="interval", sync_interval_ms=400) as journal:
        await settled(journal.put(A, [started(A)], durable=lambda: None))
        await trio.sleep(1)
        await settled(journal.put(A, [turn(0)], durable=lambda: None))
        place.disk.broken = {"sync": errno.EIO}
        await trio.sleep(1)
        assert len(place.health) == 1
        await settled(journal.put(B, [started(B)], durable=lambda: None))
        assert len(place.health) == 1, "a put that works does not heal what is still to be written again"
        place.disk.heal()
        await trio.sleep(6)
        assert place.health[1:] == [None]
    after = place.disk.crash(random.Random(1))
    assert lines_of(after, A) == [started(A), turn(0)]
    assert lines_of(after, B) == [started(B)]


async def test_in_interval_mode_lines_that_cannot_be_written_again_yet_are_not_forgotten(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.journal(durability="interval", sync_interval_ms=400) as journal:
        await settled(journal.put(A, [started(A)], durable=lambda: None))
        place.disk.broken = {"sync": errno.EIO, "create": errno.ENOSPC}
        await trio.sleep(2)
        assert journal.degraded is not None
        place.disk.heal()
        await trio.sleep(6)
        assert journal.degraded is None
    assert lines_of(place.disk, A) == [started(A)]


async def test_in_interval_mode_what_is_unsynced_in_memory_is_bounded(
    place: Place, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "EARLY_SYNC_BYTES", 1000)
    async with place.journal(durability="interval", sync_interval_ms=10**6) as journal:
        for index in range(10):
            await settled(journal.put(A, [b"x" * 150], durable=lambda: None))
            assert place.count("sync") == (index >= 6)


async def test_in_interval_mode_unsynced_lines_that_the_disk_refuses_to_the_end_make_the_stop_unclean(
    place: Place,
    autojump_clock: MockClock,
) -> None:
    async with place.journal(durability="interval") as journal:
        await settled(journal.put(A, [started(A)], durable=lambda: None))
        place.disk.broken = {"sync": errno.EIO}
    assert place.catalog.closed is False


async def test_in_os_mode_nothing_is_ever_synced_and_no_stop_counts_as_clean(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.journal(durability="os") as journal:
        for line in a_run(A):
            await settled(journal.put(A, [line], durable=lambda: None, row=row(A)))
        place.disk.log.clear()
    assert place.count("sync") == 0
    assert place.catalog.closed is False
    assert lines_of(place.disk, A) == a_run(A)


async def test_a_removal_leaves_its_tombstone_and_nothing_else(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.journal() as journal:
        for line in a_run(A):
            await settled(journal.put(A, [line], durable=lambda: None))
        await settled(journal.put(B, [started(B)], durable=lambda: None))
        size = place.disk.stat(LAYOUT.run_file(A)).size
        place.disk.put(LAYOUT.run_file(A, 1), b"123")
        place.disk.put(LAYOUT.torn_file(A), b"4567")
        place.disk.begin()
        removal = journal.remove(A, b'{"run_id":"run-a"}')
        assert await settled(removal) is None
        assert removal.bytes == size + 7
        names = [name for name, _ in place.disk.entries(LAYOUT.agent_directory(A.agent_id))]
        assert names == ["run-b.jsonl"]
        log = place.disk.log
        assert (
            log.index("sync deleted-runs.jsonl")
            < log.index("unlink run-a.jsonl")
            < log.index("unlink run-a~1.jsonl")
        )
        assert await settled(journal.remove(A, b"again")) is None
    assert place.disk.text(LAYOUT.deleted_runs) == b'{"run_id":"run-a"}\nagain\n'
    assert [gone for _, gone in place.catalog.written] == [[A], [A]]


@pytest.mark.parametrize("failures", [0, 2])
async def test_who_is_told_of_a_removal_finds_nothing_of_it_in_a_catalog_that_can_be_written(
    place: Place, autojump_clock: MockClock, failures: int
) -> None:
    told: list[list[list[RunRef]]] = []
    async with place.journal() as journal:
        await settled(journal.put(A, [started(A)], durable=lambda: None))
        place.catalog.failures = failures
        removal = journal.remove(A, b"{}")
        removal.then(lambda _: told.append([gone for _, gone in place.catalog.written]))
        assert await settled(removal) is None
    assert told == ([[]] if failures else [[[A]]])
    assert [gone for _, gone in place.catalog.written] == [[A]]


@pytest.mark.parametrize("operation", ["write", "sync"])
async def test_a_removal_without_a_tombstone_on_disk_removes_nothing_and_is_refused(
    place: Place, autojump_clock: MockClock, operation: str
) -> None:
    async with place.journal() as journal:
        await settled(journal.put(A, [started(A)], durable=lambda: None))
        place.disk.broken = {operation: errno.ENOSPC}
        removal = journal.remove(A, b"{}")
        refusal = await settled(removal)
        assert refusal is not None and refusal.data == {"pending": False}
        assert removal.bytes == 0
        assert place.health == []
        place.disk.heal()
    assert lines_of(place.disk, A) == [started(A)]


async def test_other_journal_files_have_the_same_owner(place: Place, autojump_clock: MockClock) -> None:
    async with place.journal() as journal:
        place.disk.begin()
        assert await settled(journal.log("journals/client.jsonl", b"one")) is None
        assert place.count("sync") == 0
        assert await settled(journal.log("journals/client.jsonl", b"two", sync=True)) is None
        assert place.count("sync") == 1
        with pytest.raises(ValueError, match="under the state root"):
            journal.log("../outside", b"x")
    assert place.disk.text(ROOT / "journals" / "client.jsonl") == b"one\ntwo\n"


async def test_lines_for_which_nobody_waits_go_together_a_moment_later(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.journal() as journal:
        batches = journal.batches
        tickets = [journal.log("journals/c.jsonl", line, idly=True) for line in (b"one", b"two")]
        await trio.sleep(IDLE_SECONDS / 2)
        assert journal.batches == batches
        tickets.append(journal.log("journals/c.jsonl", b"three", idly=True))
        await trio.sleep(IDLE_SECONDS)
        assert journal.batches == batches + 1
        assert all(ticket.settled for ticket in tickets)
        journal.log("journals/c.jsonl", b"four", idly=True)
    assert place.disk.text(ROOT / "journals" / "c.jsonl") == b"one\ntwo\nthree\nfour\n"


async def test_lines_for_which_nobody_waits_go_with_those_for_which_somebody_does(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.journal() as journal:
        batches = journal.batches
        idle = journal.log("journals/c.jsonl", b"one", idly=True)
        assert await settled(journal.log("journals/c.jsonl", b"two")) is None
        assert idle.settled
        await trio.sleep(1)
        assert journal.batches == batches + 1
        journal.log("journals/c.jsonl", b"last", idly=True)
    assert place.disk.text(ROOT / "journals" / "c.jsonl") == b"one\ntwo\nlast\n"


async def test_lines_for_which_nobody_waits_are_one_put_and_stay_in_order_among_the_others(
    place: Place, autojump_clock: MockClock
) -> None:
    path, other = "journals/c.jsonl", "journals/d.jsonl"
    async with place.journal() as journal:
        puts, pending = journal.puts, journal.pending_bytes
        first = [journal.log(path, line, idly=True) for line in (b"1", b"2")]
        assert first[0] is first[1]
        journal.log(other, b"x", idly=True)
        assert journal.log(path, b"3", idly=True) is first[0]
        assert (journal.puts - puts, journal.pending_bytes - pending) == (2, 8)
        # The thread, here the loop, has what waited: what comes now is another put, and so is what comes behind that.
        journal.log(path, b"4")
        then = [journal.log(path, line, idly=True) for line in (b"5", b"6")]
        journal.log(path, b"7")
        journal.log(path, b"8", idly=True)
        assert then[0] is then[1]
        assert then[0] is not first[0]
        assert await settled(journal.log(path, b"", last=True, idly=True)) is None
        assert journal.pending_bytes == pending
    assert place.disk.text(ROOT / path) == b"1\n2\n3\n4\n5\n6\n7\n8\n"


async def test_a_large_put_of_lines_for_which_nobody_waits_does_not_grow(
    place: Place, autojump_clock: MockClock
) -> None:
    line = b"x" * gathering.LARGE_BYTES
    async with place.journal() as journal:
        tickets = [journal.log("journals/c.jsonl", line, idly=True) for _ in range(3)]
        assert len(set(tickets)) == 3
    assert place.disk.text(ROOT / "journals" / "c.jsonl") == 3 * (line + b"\n")


async def test_a_journal_file_whose_sync_fails_is_continued_too(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.journal() as journal:
        await settled(journal.log("approvals.jsonl", b"one", sync=True))
        place.disk.begin()
        place.disk.faults = [Fault(1, errno.EIO, kind="sync")]
        assert await settled(journal.log("approvals.jsonl", b"two", sync=True)) is None
    assert place.disk.text(LAYOUT.log_file("approvals.jsonl", 1)).splitlines()[1:] == [b"two"]


async def test_an_error_of_a_callback_ends_the_journal_and_reaches_the_owner(
    place: Place, autojump_clock: MockClock
) -> None:
    def bug() -> None:
        raise ZeroDivisionError("bug")

    with pytest.RaisesGroup(ZeroDivisionError):
        async with place.journal() as journal:
            journal.put(A, [started(A)], durable=bug)
            await trio.sleep_forever()


@pytest.mark.parametrize("threads", [0, 2])
async def test_an_error_of_the_writing_side_ends_the_journal_and_reaches_the_owner(threads: int) -> None:
    class Buggy(SimDisk):
        def write(self, descriptor: int, payload: bytes) -> int:
            raise ZeroDivisionError("bug")

    disk = Buggy()
    LAYOUT.prepare(disk)
    with pytest.RaisesGroup(ZeroDivisionError):
        async with open_journal(
            LAYOUT, disk, catalog=None, on_health=lambda _: None, sync_threads=threads, keep_free_bytes=0
        ) as journal:
            journal.put(A, [started(A)], durable=lambda: None)
            with trio.fail_after(PATIENCE):
                await trio.sleep_forever()


async def test_a_bug_while_closing_reaches_the_owner(
    place: Place, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object, **__: object) -> None:
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(writing.Writer, "close", bug)
    with pytest.RaisesGroup(ZeroDivisionError):
        async with place.journal():
            pass


async def test_an_error_of_the_body_leaves_through_a_journal_that_is_closed_in_order(
    place: Place, autojump_clock: MockClock
) -> None:
    with pytest.RaisesGroup(KeyError):
        async with place.journal() as journal:
            journal.put(A, [started(A)], durable=lambda: None)
            raise KeyError
    assert lines_of(place.disk, A) == [started(A)]


async def test_real_threads_on_a_real_disk_keep_every_run_whole_and_ordered(tmp_path: Path) -> None:
    layout, disk = Layout(tmp_path), Disk()
    refs = [RunRef("agent", f"run-{number}") for number in range(12)]
    told = Told()
    with trio.fail_after(PATIENCE):
        async with open_journal(
            layout, disk, catalog=None, on_health=lambda _: None, sync_threads=4, keep_free_bytes=0
        ) as journal:
            await journal.ping()
            async with trio.open_nursery() as nursery:
                for ref in refs:
                    nursery.start_soon(write_run, journal, ref, told)
            assert journal.free_bytes and journal.puts == 12 * 12
            assert await settled(journal.remove(refs[0], b"{}")) is None
    for ref in refs[1:]:
        assert lines_of(disk, ref, layout) == a_run(ref, 10)
    assert lines_of(disk, refs[0], layout) == []


async def write_run(journal: Journal, ref: RunRef, told: Told) -> None:
    for line in a_run(ref, 10):
        await settled(told.put(journal, ref, line))


async def test_the_writing_thread_ends_quietly_when_the_loop_is_gone() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(SimDisk):
        def free_bytes(self, path: Path) -> int:
            if threading.current_thread().name == "journal":
                begun.set()
                go_on.wait()
            return 0

    threads: list[threading.Thread] = []

    def abandoned_loop() -> None:
        async def main() -> None:
            disk = Slow()
            LAYOUT.prepare(disk)
            opened = open_journal(
                LAYOUT, disk, catalog=None, on_health=lambda _: None, keep_free_bytes=0, sync_threads=1
            )
            writer = writing.Writer(
                LAYOUT, disk, durability="always", held_files=1, sync_threads=1, catalog=None
            )
            journal = Journal(
                writer,
                sync_interval=1,
                keep_free_bytes=0,
                on_health=lambda _: None,
                telling=nullcontext(),
                threads=True,
            )
            journal.start()
            assert journal._thread is not None
            threads.append(journal._thread)
            journal.put(A, [started(A)], durable=lambda: None)
            begun.wait()
            del opened

        trio.run(main)

    await trio.to_thread.run_sync(abandoned_loop)
    go_on.set()
    threads[0].join()


def test_the_bound_on_kept_lines_and_the_times_are_those_of_the_protocol() -> None:
    assert (KEPT_BYTES, journal_module.PENDING_SECONDS) == (64 * 1024 * 1024, 20.0)
    assert (journal_module.RETRY_SECONDS, journal_module.MAX_RETRY_SECONDS) == (0.25, 1.0)
