"""Syncing through the kernel's queue: each file once, each failure at its place, whatever the kernel takes or tells."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import trio

from car_trio.store import kernel_queue, sync_queue
from car_trio.store.disk import Disk
from car_trio.store.journal import Journal, open_journal
from car_trio.store.layout import Layout
from car_trio.store.sync_queue import SyncQueue, open_queue
from car_trio.wire.runs import RunRef
from tests.process.daemon_process import PATIENCE
from tests.sim_disk import Fault, SimDisk
from tests.store.store_scripts import LAYOUT, a_run, lines_of

CALLS = kernel_queue.Calls(setup=1, destroy=2, submit=3, events=4)
BAD_DESCRIPTOR = 1 << 20


class Kernel:
    """Takes `at_once` requests at a time and none of a `refused` descriptor, tells of `in_pieces` at a time, the last
    first, and interrupts the asking as often as it is told to."""

    def __init__(self, *, at_once: int = 1000, in_pieces: int = 1000, interruptions: int = 0) -> None:
        self.at_once = at_once
        self.in_pieces = in_pieces
        self.interruptions = interruptions
        self.refused: set[int] = set()
        self.results: dict[int, int] = {}
        self.synced: list[int] = []
        self.ordinarily: list[int] = []
        self.setup_error = self.events_error = 0
        self.destroyed = 0
        self._done: list[tuple[int, int]] = []

    def call(self, number: ctypes.c_long, context: Any, *arguments: Any) -> int:
        name = CALLS._fields[CALLS.index(number.value)]
        found: int = getattr(self, name)(*arguments)
        if found < 0:
            ctypes.set_errno(-found)
        return max(found, -1)

    def setup(self, _: Any) -> int:
        return -self.setup_error

    def destroy(self) -> int:
        self.destroyed += 1
        return 0

    def submit(self, count: ctypes.c_long, addresses: Any) -> int:
        array = ctypes.cast(addresses, ctypes.POINTER(ctypes.c_void_p))
        for taken in range(min(count.value, self.at_once)):
            request = kernel_queue.Request.from_address(array[taken] or 0)
            assert request.operation == 3
            if request.descriptor in self.refused:
                return taken or -errno.EINVAL
            self.synced.append(request.descriptor)
            self._done.append((request.tag, self.results.get(request.descriptor, 0)))
        return min(count.value, self.at_once)

    def events(self, least: ctypes.c_long, most: ctypes.c_long, done: Any, timeout: None) -> int:
        assert least.value == most.value == len(self._done) and timeout is None
        if self.interruptions or self.events_error:
            self.interruptions -= 1
            return -(self.events_error or errno.EINTR)
        told = min(self.in_pieces, len(self._done))
        for place in range(told):
            done[place].tag, done[place].result = self._done.pop()
        return told

    def sync(self, descriptor: int) -> None:
        """The ordinary way."""
        self.ordinarily.append(descriptor)
        if descriptor in self.results:
            raise OSError(errno.EBADF, "bad")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(kernel_queue, "_system_call", kernel.call)
    monkeypatch.setattr(kernel_queue, "_CALLS", {platform.machine(): CALLS})
    monkeypatch.setattr(sys, "platform", "linux")
    return kernel


def queue_of(kernel: Kernel) -> SyncQueue:
    queue = open_queue(kernel.sync)
    assert queue is not None
    return queue


@pytest.fixture
def real() -> Iterator[SyncQueue]:
    queue = open_queue(os.fdatasync)
    if queue is None:
        pytest.skip("this system has no such queue")
    with closing(queue):
        yield queue


@pytest.mark.parametrize("slots", [1, 3, 128])
@pytest.mark.parametrize(("at_once", "in_pieces"), [(1000, 1000), (2, 1), (1, 2)])
def test_each_file_is_synced_once_and_its_failure_told_at_its_place(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, slots: int, at_once: int, in_pieces: int
) -> None:
    monkeypatch.setattr(sync_queue, "SLOTS", slots)
    kernel.at_once, kernel.in_pieces = at_once, in_pieces
    descriptors = list(range(50, 60))
    kernel.results = {52: -errno.EIO, 59: -errno.ENOSPC}
    queue = queue_of(kernel)
    for _ in range(2):
        failures = queue.run(descriptors)
        assert [failure and failure.errno for failure in failures] == [
            {52: errno.EIO, 59: errno.ENOSPC}.get(descriptor) for descriptor in descriptors
        ]
    assert sorted(kernel.synced) == sorted(descriptors * 2) and kernel.ordinarily == []


@pytest.mark.parametrize("refused", [{50}, {52}, {54}, {50, 51}, {50, 51, 52, 53, 54}])
def test_what_the_kernel_does_not_take_is_synced_in_the_ordinary_way(
    kernel: Kernel, refused: set[int]
) -> None:
    kernel.refused, kernel.results = refused, {max(refused): 1}
    failures = queue_of(kernel).run(range(50, 55))
    assert kernel.ordinarily == sorted(refused)
    assert kernel.synced == [each for each in range(50, 55) if each not in refused]
    assert [failure is None for failure in failures] == [each != max(refused) for each in range(50, 55)]


def test_a_signal_that_comes_while_it_waits_takes_nothing_away(kernel: Kernel) -> None:
    kernel.interruptions, kernel.results = 3, {51: -errno.EIO}
    assert [failure is None for failure in queue_of(kernel).run([50, 51])] == [True, False]
    assert kernel.interruptions == 0


def test_results_that_cannot_be_had_are_a_defect_and_no_failure_of_the_disk(kernel: Kernel) -> None:
    kernel.events_error = errno.EINVAL
    with pytest.raises(RuntimeError, match="does not tell"):
        queue_of(kernel).run([50, 51])


def test_there_is_no_queue_where_the_kernel_gives_none_or_is_not_known(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.setup_error = errno.ENOSYS
    assert open_queue(kernel.sync) is None
    kernel.setup_error = 0
    queue_of(kernel).close()
    assert kernel.destroyed == 1
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    assert open_queue(kernel.sync) is None
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert open_queue(kernel.sync) is None


def test_the_kernel_of_this_machine_syncs_real_files_and_says_which_cannot_be(
    real: SyncQueue, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        files = [stack.enter_context((tmp_path / str(number)).open("wb")) for number in range(300)]
        descriptors = [file.fileno() for file in files]
        for _ in range(3):
            for descriptor in descriptors:
                os.write(descriptor, b"line\n")
            assert real.run(descriptors) == [None] * 300
        reading, writing = os.pipe()
        stack.callback(os.close, reading)
        stack.callback(os.close, writing)
        failures = real.run([descriptors[0], BAD_DESCRIPTOR, writing, descriptors[1]])
        assert [failure and failure.errno for failure in failures] == [None, errno.EBADF, errno.EINVAL, None]
    assert real.run([]) == []


class QueueingDisk(SimDisk):
    """A simulated disk that syncs many files together; notes how many."""

    def __init__(self) -> None:
        super().__init__()
        self.together: list[int] = []
        self.queues_closed = 0

    def sync_queue(self) -> Any:
        return self

    def run(self, descriptors: list[int]) -> list[OSError | None]:
        self.together.append(len(descriptors))
        return [self._attempt(descriptor) for descriptor in descriptors]

    def _attempt(self, descriptor: int) -> OSError | None:
        try:
            self.sync(descriptor)
        except OSError as failure:
            return failure
        return None

    def close(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            self.queues_closed += 1
        else:
            super().close(descriptor)


async def record(journal: Journal, refs: list[RunRef], number: int) -> None:
    """Put the line of that number of every run, in one step, and wait until all are true."""
    waiting = len(refs)
    all_true = trio.Event()

    def durable() -> None:
        nonlocal waiting
        waiting -= 1
        if not waiting:
            all_true.set()

    for ref in refs:
        journal.put(ref, [a_run(ref)[number]], durable=durable)
    await all_true.wait()


class _AllLost:
    """A power cut that takes everything it may take."""

    def choice(self, choices: Any) -> Any:
        return choices[0]

    def randint(self, least: int, _: int) -> int:
        return least


ALL_LOST: Any = _AllLost()


@pytest.mark.parametrize("failing", [{}, {"sync": 3}, {"sync": 3, "sync_directory": 1}])
async def test_runs_that_wait_together_go_through_the_queue_and_lose_nothing_when_it_fails(
    failing: dict[str, int],
) -> None:
    disk = QueueingDisk()
    LAYOUT.prepare(disk)
    refs = [RunRef(f"agent-{number % 2}", f"run-{number}") for number in range(6)]
    with trio.fail_after(PATIENCE):
        async with open_journal(
            LAYOUT, disk, catalog=None, on_health=lambda _: None, sync_threads=2, keep_free_bytes=0
        ) as journal:
            await record(journal, refs, 0)
            disk.begin()
            disk.faults = [Fault(at, errno.EIO, kind=kind) for kind, at in failing.items()]
            for number in range(1, len(a_run(refs[0]))):
                await record(journal, refs, number)
                for ref in refs:
                    assert lines_of(disk.crash(ALL_LOST), ref) == a_run(ref)[: number + 1]
    assert max(disk.together) >= 2 and disk.queues_closed == 1
    assert all(fault.struck for fault in disk.faults)


async def test_on_a_real_disk_a_single_run_is_synced_by_its_thread_and_many_by_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued: list[int] = []
    run = SyncQueue.run

    def noting(self: SyncQueue, descriptors: Any) -> list[OSError | None]:
        queued.append(len(descriptors))
        return run(self, descriptors)

    monkeypatch.setattr(SyncQueue, "run", noting)
    layout, disk = Layout(tmp_path), Disk()
    refs = [RunRef("agent", f"run-{number}") for number in range(20)]
    with trio.fail_after(PATIENCE):
        async with open_journal(
            layout, disk, catalog=None, on_health=lambda _: None, sync_threads=2, keep_free_bytes=0
        ) as journal:
            for number in range(len(a_run(refs[0]))):
                await record(journal, refs[:1], number)
            assert queued == []
            for number in range(len(a_run(refs[0]))):
                await record(journal, refs[1:], number)
    if open_queue(disk.sync) is not None:
        assert queued and min(queued) >= 2
    for ref in refs:
        assert lines_of(disk, ref, layout) == a_run(ref)
