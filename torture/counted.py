"""A daemon that tells what it holds: `python -m torture.counted FILE serve …`.

Each SIGUSR1 writes FILE as JSON: the living tasks of the event loop, the objects that the garbage collector follows
(all, and of each of the most frequent kinds), and what the C library has handed out (`mallinfo2`, where there is one).
With `TRACE_MEMORY` in the environment, also the lines that allocated most of what was allocated since the last time;
with `DEFECT`, the daemon has that one (`torture.planted`).
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
import tracemalloc
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import trio

from car_trio.__main__ import main
from torture.planted import plant_from_environment

KINDS = 60
FRAMES = 6


class MallInfo(ctypes.Structure):
    """`struct mallinfo2` of the GNU C library: bytes taken from the system, in use, free."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    )]  # fmt: skip


class Counted(trio.abc.Instrument):
    """Counts when asked. A signal is handled between two steps of the program, in the loop's own thread."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._before: tracemalloc.Snapshot | None = None

    def tell(self, *_: object) -> None:
        tasks = trio.lowlevel.current_statistics().tasks_living
        gc.collect()
        objects = gc.get_objects()
        kinds = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in objects)
        told = {
            "tasks": tasks,
            "objects": len(objects),
            "kinds": dict(kinds.most_common(KINDS)),
            "malloc": malloc(),
            "lines": self._lines(),
        }
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(told))
        new.rename(self._file)

    def _lines(self) -> list[str]:
        if not tracemalloc.is_tracing():
            return []
        now, before = tracemalloc.take_snapshot(), self._before
        self._before = now
        if before is None:
            return []
        return [str(line) for line in now.compare_to(before, "lineno")[:KINDS]]


def malloc() -> dict[str, int]:
    """What the C library says of its heap; nothing where it is another library."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return {}
    library.mallinfo2.restype = MallInfo
    found = library.mallinfo2()
    return {
        "mapped": found.arena + found.hblkhd,
        "used": found.uordblks + found.hblkhd,
        "free": found.fordblks,
    }


def count(file: Path) -> None:
    if os.environ.get("TRACE_MEMORY"):
        tracemalloc.start(FRAMES)
    plant_from_environment()
    counted = Counted(file)
    signal.signal(signal.SIGUSR1, counted.tell)
    module: Any = trio
    module.run = partial(module.run, instruments=[counted])


if __name__ == "__main__":
    count(Path(sys.argv[1]))
    sys.argv[1:] = sys.argv[2:]
    main()
