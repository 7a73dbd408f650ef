"""A daemon with an instrument in its event loop: `python -m torture.watched FILE serve …`.

The instrument times every step of every task: between two checkpoints nothing else runs, so the longest step is the
longest block. Each SIGUSR1 writes the longest since the last one to FILE as JSON (`{"ms", "cpu_ms", "task"}`) and
begins anew. `cpu_ms` is the loop's own thread; the difference is the machine's other work and the other threads'.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import trio

from car_trio.__main__ import main


class Longest(trio.abc.Instrument):
    """The longest step since it was last told."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._began = self._cpu_began = 0.0
        self._longest: tuple[float, float, str] = (0.0, 0.0, "")

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began, self._cpu_began = time.perf_counter(), time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        took = time.perf_counter() - self._began
        if took > self._longest[0]:
            self._longest = (took, time.thread_time() - self._cpu_began, task.name)

    def tell(self, *_: object) -> None:
        took, cpu, task = self._longest
        self._longest = (0.0, 0.0, "")
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps({"ms": took * 1000, "cpu_ms": cpu * 1000, "task": task}))
        new.rename(self._file)


def watch(file: Path) -> None:
    longest = Longest(file)
    signal.signal(signal.SIGUSR1, longest.tell)
    plain: Any = trio.run
    trio.run = partial(plain, instruments=[longest])


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
    sys.argv[1:] = sys.argv[2:]
    main()
