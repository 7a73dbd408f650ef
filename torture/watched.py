"""A daemon with instruments in its event loop: `python -m torture.watched FILE serve …`.

Two things are measured. Every step of every task is timed: between two checkpoints nothing else runs. And a heart beats
in the loop: by how much it is late is how long nothing else could run for whatever reason, be it one long step, many
short ones, or another thread that keeps the interpreter to itself. Of a delay only as much counts as this process has
used the processor for meanwhile: the machine's other work delays a heart too.

What takes long inside of a step is found by a thread that looks at the loop's stack every few milliseconds; when it
gets no turn it looks as soon as the long call is over, which is where that call stands.

Each SIGUSR1 writes the longest since the last one to FILE as JSON (`{"late_ms", "step_ms", "cpu_ms", "task", "where"}`)
and begins anew. `cpu_ms` is the loop's own thread; the difference is the machine's other work and the other threads'.
With `CAR_TRIO_TORTURE_BLOCK` (milliseconds) in the environment one method blocks for that long, so that the judge can
be judged.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import trio

from car_trio.__main__ import main
from car_trio.methods import state
from car_trio.methods.table import METHODS

BEAT_SECONDS = 0.004
LOOK_SECONDS = 0.005
SLOW_SECONDS = 0.015
PLANT = "CAR_TRIO_TORTURE_BLOCK"


class Longest(trio.abc.Instrument):
    """The longest step and the longest delay since they were last told."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._began = self._cpu_began = 0.0
        self._where = ""
        self._forget()
        self._loop_thread = threading.get_ident()

    def _forget(self) -> None:
        self._step: tuple[float, float, str, str] = (0.0, 0.0, "", "")
        self._late = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._where = ""
        self._cpu_began = time.thread_time()
        self._began = time.perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        took, self._began = time.perf_counter() - self._began, 0.0
        if took > self._step[0]:
            self._step = (took, time.thread_time() - self._cpu_began, task.name, self._where)

    async def beat(self) -> None:
        """The heart; it never ends by itself."""
        while True:
            due, used = time.perf_counter() + BEAT_SECONDS, time.process_time()
            await trio.sleep(BEAT_SECONDS)
            late = min(time.perf_counter() - due, time.process_time() - used)
            self._late = max(self._late, late)

    def look(self) -> None:
        """In a thread: notes where a long step is."""
        while True:
            time.sleep(LOOK_SECONDS)
            began = self._began
            if began and time.perf_counter() - began > SLOW_SECONDS:
                frame = vars(sys)["_current_frames"]().get(self._loop_thread)
                self._where = innermost(frame) or self._where

    def tell(self, *_: object) -> None:
        took, cpu, task, where = self._step
        told = {
            "late_ms": self._late * 1000, "step_ms": took * 1000, "cpu_ms": cpu * 1000, "task": task, "where": where,
        }  # fmt: skip
        self._forget()
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(told))
        new.rename(self._file)


def innermost(frame: FrameType | None) -> str:
    """The innermost place of ours on a stack."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.parent.parent.name == "car_trio":
            return f"{path.parent.name}/{path.name}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


def plant(milliseconds: float) -> None:
    """`state.exists` does what it should not: it keeps everybody waiting."""
    plain = state.exists

    def exists(context: Any, ask: Any) -> bool:
        end = time.thread_time() + milliseconds / 1000
        while time.thread_time() < end:
            pass
        return plain(context, ask)

    METHODS["state.exists"].call = exists


def watch(file: Path) -> None:
    longest = Longest(file)
    signal.signal(signal.SIGUSR1, longest.tell)
    threading.Thread(target=longest.look, daemon=True).start()
    module: Any = trio
    plain = module.run

    async def with_heart(work: Callable[..., Awaitable[Any]], *args: Any) -> None:
        async with trio.open_nursery() as heart:
            heart.start_soon(longest.beat)
            await work(*args)
            heart.cancel_scope.cancel()

    module.run = partial(plain, with_heart, instruments=[longest])


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
    if PLANT in os.environ:
        plant(float(os.environ[PLANT]))
    sys.argv[1:] = sys.argv[2:]
    main()
