"""Work in threads: for as long as one works, the loop need not wait long for the interpreter."""

from __future__ import annotations

import sys
import threading

import pytest
import trio

from car_trio.nursery.threads import SWITCH_SECONDS, in_thread
from tests.process.daemon_process import PATIENCE, until


async def test_the_interpreter_changes_hands_often_from_the_first_that_works_to_the_last():
    usual, begun, go_on = sys.getswitchinterval(), threading.Barrier(3), threading.Event()

    def work() -> float:
        begun.wait(PATIENCE)
        assert go_on.wait(PATIENCE)
        return sys.getswitchinterval()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_thread, work)
        nursery.start_soon(in_thread, work)
        await trio.to_thread.run_sync(begun.wait, PATIENCE)
        assert await in_thread(sys.getswitchinterval) == pytest.approx(SWITCH_SECONDS)
        assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
        go_on.set()
    assert sys.getswitchinterval() == pytest.approx(usual)


async def test_what_goes_on_after_its_caller_was_cancelled_counts_until_it_ends():
    usual, begun, go_on = sys.getswitchinterval(), trio.Event(), threading.Event()

    def work() -> None:
        trio.from_thread.run_sync(begun.set)
        go_on.wait(PATIENCE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_thread, work)
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    go_on.set()
    await trio.to_thread.run_sync(
        until, lambda: sys.getswitchinterval() == pytest.approx(usual), "it is over"
    )


async def test_what_fails_leaves_the_interval_as_it_was():
    usual = sys.getswitchinterval()
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 1, 0)
    assert sys.getswitchinterval() == pytest.approx(usual)
