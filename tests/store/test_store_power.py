"""What a power cut leaves after trouble: found by `scripts/torture power`, kept as sentences."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from car_trio.store import catalog as catalog_module
from car_trio.store.catalog import CatalogWriter, open_catalog
from car_trio.store.disk import Disk
from car_trio.store.journal import Journal, open_journal
from car_trio.store.layout import Layout
from car_trio.store.orphans import reconcile
from car_trio.store.survey import summarize
from car_trio.store.writing import unlink_run
from car_trio.wire.runs import RunRef
from tests.sim_disk import Fault, SimDisk, SimFile
from tests.store.store_scripts import LAYOUT, A, Played, a_run, ended, lines_of, settle_step, started, turn

MODES = ["always", "interval", "os"]


def cuts(disk: SimDisk) -> list[SimDisk]:
    """Fills with disks after a cut, several for each operation from now on."""
    found: list[SimDisk] = []
    choice = random.Random(1)

    def cut() -> None:
        found.extend(disk.crash(choice) for _ in range(40))

    disk.on_step = cut
    return found


async def put(journal: Journal, *lines: bytes) -> None:
    await settle_step(journal, [(A, list(lines))], Played())


@pytest.mark.parametrize("mode", MODES)
async def test_nothing_follows_the_first_line_of_a_continuation_before_that_is_on_the_platter(
    mode: str, autojump_clock: MockClock
) -> None:
    disk = SimDisk()
    followed: list[bool] = []

    def look() -> None:
        folder = disk.folder(LAYOUT.agent_directory(A.agent_id))
        for segment in (1, 2):
            file = folder.seen.get(LAYOUT.run_file(A, segment).name) if folder else None
            if isinstance(file, SimFile) and file.seen.count(b"\n") > 1:
                followed.append(b"\n" in file.platter)

    disk.on_step = look
    disk.faults = [
        Fault(2, errno.EIO, kind="sync"),
        Fault(4, errno.EIO, kind="write", halfway=True),
        Fault(1, errno.EIO, kind="truncate"),
    ]
    async with journal_on(disk, mode) as journal:
        for line in a_run(A):
            await put(journal, line)
            await trio.sleep(0.2)
    assert all(fault.struck for fault in disk.faults[1:])
    assert followed
    assert all(followed), "were it lost, the lines behind it would be read twice"
    assert lines_of(disk, A) == a_run(A)


@pytest.mark.parametrize("mode", MODES)
async def test_the_first_line_of_a_continuation_whose_sync_fails_is_written_anew_with_all_that_follows(
    mode: str, autojump_clock: MockClock
) -> None:
    disk = SimDisk()
    disk.faults = [Fault(1, errno.EIO, kind="truncate")]
    async with journal_on(disk, mode) as journal:
        await put(journal, started(A))
        disk.begin()
        disk.faults += [Fault(1, errno.EIO, kind="write", halfway=True), Fault(1, errno.EIO, kind="sync")]
        await put(journal, turn(0))
        await put(journal, ended(A))
    assert lines_of(disk, A) == [started(A), turn(0), ended(A)]
    if mode != "os":
        assert lines_of(disk.crash(random.Random(1)), A) == lines_of(disk, A)
    with pytest.raises(FileNotFoundError):
        disk.stat(LAYOUT.run_file(A, 2))


async def test_what_was_written_again_after_trouble_does_not_wait_for_another_interval(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    async with journal_on(disk, "interval") as journal:
        await put(journal, started(A), turn(0))
        disk.broken = dict.fromkeys(("sync", "create"), errno.EIO)
        await trio.sleep(0.11)
        assert journal.degraded
        disk.heal()
        await put(journal, ended(A))
        assert journal.degraded is None
        for seed in range(20):
            assert lines_of(disk.crash(random.Random(seed)), A) == [started(A), turn(0), ended(A)]


def disk_of_an_agent() -> SimDisk:
    """One whose only agent has no run."""
    disk = SimDisk()
    LAYOUT.prepare(disk)
    disk.make_directory(LAYOUT.agent_directory(A.agent_id))
    disk.sync_directory(LAYOUT.runs)
    return disk


def left_over(segment: int) -> SimDisk:
    """A disk with nothing but a continuation of a run that is gone."""
    disk = disk_of_an_agent()
    line = b'{"record":"segment","previous_bytes":1000}\n' + turn(7) + b"\n"
    disk.put(LAYOUT.run_file(A, segment), line)
    return disk


def test_a_cut_in_the_middle_of_a_removal_leaves_no_shortened_run() -> None:
    disk = disk_of_an_agent()
    begin = b'{"record":"segment","previous_bytes":%d}\n' % (len(started(A)) + 1)
    disk.put(LAYOUT.run_file(A), started(A) + b"\n")
    disk.put(LAYOUT.run_file(A, 1), begin + turn(0) + b"\n" + ended(A) + b"\n")
    found = cuts(disk)
    unlink_run(disk, LAYOUT, A)
    assert {len(lines_of(after, A)) for after in found} == {0, 3}


@pytest.mark.parametrize("broken", [False, True])
async def test_what_a_removal_left_that_was_cut_never_continues_the_next_run_of_its_id(
    autojump_clock: MockClock, broken: bool
) -> None:
    disk = left_over(1)
    async with journal_on(disk, "always") as journal:
        found = cuts(disk)
        disk.broken = {"sync_directory": errno.EIO} if broken else {}
        journal.put(A, [started(A)], durable=lambda: None)
        await trio.sleep(0.1)
        disk.heal()
        await put(journal, turn(0))
    assert {line for after in found for line in lines_of(after, A)} == {started(A), turn(0)}


async def test_nor_does_what_it_left_of_later_continuations(autojump_clock: MockClock) -> None:
    disk = left_over(2)
    async with journal_on(disk, "always") as journal:
        found = cuts(disk)
        await put(journal, started(A))
        disk.faults = [Fault(1, errno.EIO, kind="sync")]
        disk.begin()
        await put(journal, turn(0))
    assert disk.faults[0].struck
    assert lines_of(disk, A) == [started(A), turn(0)]
    assert {line for after in found for line in lines_of(after, A)} == {started(A), turn(0)}


async def test_another_line_follows_one_that_was_cut_back_only_when_that_is_certain(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    async with journal_on(disk, "always") as journal:
        await put(journal, *a_run(A))
        disk.faults = [Fault(1, errno.EIO, kind="write", halfway=True)]
        disk.begin()
        refused, removed = journal.remove(A, b'{"run_id":"run-1"}'), journal.remove(A, b'{"run_id":"run-2"}')
        await trio.sleep(0.1)
    assert refused.settled and removed.settled
    assert disk.text(LAYOUT.deleted_runs) == b'{"run_id":"run-2"}\n'
    log = [each.partition(" ")[0] for each in disk.log if each.endswith(" deleted-runs.jsonl")]
    assert log[:6] == ["open_append", "create", "write", "truncate", "sync", "write"]


async def test_a_full_disk_that_takes_nothing_is_not_synced_at_each_try(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    async with journal_on(disk, "always") as journal:
        await put(journal, started(A))
        disk.broken = {"write": errno.ENOSPC}
        disk.begin()
        journal.put(A, [turn(0)], durable=lambda: None)
        await trio.sleep(5)
        tried = [each.partition(" ")[0] for each in disk.log if each.endswith(" run-a.jsonl")]
        assert len(tried) > 3
        assert set(tried) == {"write"}
        disk.heal()
        await put(journal, ended(A))
    assert lines_of(disk, A) == [started(A), turn(0), ended(A)]


async def test_a_run_that_could_not_be_removed_is_synced_when_its_interval_is_over(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    async with journal_on(disk, "interval") as journal:
        await put(journal, *a_run(A))
        disk.broken = {"unlink": errno.EIO}
        ticket = journal.remove(A, b'{"run_id":"run-a"}')
        await trio.sleep(0.2)
        assert ticket.settled and ticket.bytes == 0
        for seed in range(20):
            assert lines_of(disk.crash(random.Random(seed)), A) == a_run(A)


@pytest.mark.parametrize("broken_for", [3, 60])
async def test_a_store_that_was_ill_for_long_is_well_soon_after_its_disk_is(
    broken_for: float, autojump_clock: MockClock
) -> None:
    disk = SimDisk()
    async with journal_on(disk, "always") as journal:
        disk.broken = {"write": errno.EIO}
        journal.put(A, [started(A)], durable=lambda: None)
        await trio.sleep(broken_for)
        assert journal.degraded
        disk.heal()
        await trio.sleep(1)
        assert journal.degraded is None


# The catalog


@pytest.fixture
def catalog(layout: Layout) -> Iterator[CatalogWriter]:
    """One that knows run A, whose row was written without a sync."""
    layout.agent_directory(A.agent_id).mkdir()
    layout.run_file(A).write_bytes(b"\n".join(a_run(A)) + b"\n")
    catalog = opened(layout)
    catalog.write([summarize(Disk(), layout, A)], synced=False)
    catalog.complete()
    yield catalog
    catalog.close(clean=False)


def opened(layout: Layout) -> CatalogWriter:
    catalog = open_catalog(layout, Disk())
    assert catalog is not None
    return catalog


def read_again(layout: Layout, catalog: CatalogWriter, monkeypatch: pytest.MonkeyPatch) -> list[RunRef]:
    read: list[RunRef] = []

    def noted(disk: Disk, layout: Layout, ref: RunRef) -> object:
        read.append(ref)
        return summarize(disk, layout, ref)

    monkeypatch.setattr("car_trio.store.orphans.summarize", noted)
    reconcile(Disk(), layout, catalog)
    return read


def test_rows_of_files_that_were_never_synced_are_trusted_until_the_machine_is_started_again(
    layout: Layout, catalog: CatalogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_again(layout, catalog, monkeypatch) == []
    assert read_again(layout, catalog, monkeypatch) == []
    monkeypatch.setattr(catalog_module, "boot_id", lambda: "another")
    assert read_again(layout, catalog, monkeypatch) == [A]
    assert read_again(layout, catalog, monkeypatch) == [], "what is read again is synced"


def test_rows_of_synced_files_are_trusted_whenever_the_machine_was_started(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.agent_directory(A.agent_id).mkdir()
    layout.run_file(A).write_bytes(b"\n".join(a_run(A)) + b"\n")
    catalog = opened(layout)
    catalog.write([summarize(Disk(), layout, A)])
    monkeypatch.setattr(catalog_module, "boot_id", lambda: "another")
    assert read_again(layout, catalog, monkeypatch) == []
    catalog.close(clean=False)


def test_what_is_read_for_a_row_is_synced_before_in_all_its_files() -> None:
    disk = SimDisk()
    LAYOUT.prepare(disk)
    disk.make_directory(LAYOUT.agent_directory(A.agent_id))
    for segment, content in enumerate((started(A), b'{"record":"segment","previous_bytes":1}')):
        disk.write(disk.create(LAYOUT.run_file(A, segment)), content + b"\n")
    disk.sync_directory(LAYOUT.agent_directory(A.agent_id))
    disk.sync_directory(LAYOUT.runs)
    rows: list[object] = []

    class Rows(CatalogWriter):
        def __init__(self) -> None: ...
        def sizes(self) -> dict[RunRef, tuple[int, int]]:
            return {}

        def complete(self) -> None: ...
        def write(self, known: object, gone: object = (), *, synced: bool = True) -> None:
            rows.append((known, synced))

    reconcile(disk, LAYOUT, Rows())
    assert rows
    after = disk.crash(random.Random(1))
    assert after.text(LAYOUT.run_file(A)) == started(A) + b"\n"
    assert after.text(LAYOUT.run_file(A, 1)) == b'{"record":"segment","previous_bytes":1}\n'
    disk.broken = {"sync": errno.EIO}
    reconcile(disk, LAYOUT, Rows())
    assert len(rows[-1][0]) == 1, "a disk that cannot sync hides no run"  # type: ignore[index]


def journal_on(disk: SimDisk, mode: str):
    return open_journal(
        LAYOUT, disk, durability=mode, sync_interval_ms=100, keep_free_bytes=0, sync_threads=0, catalog=None,
        on_health=lambda cause: None,
    )  # fmt: skip
