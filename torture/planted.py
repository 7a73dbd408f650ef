"""Defects that are planted on purpose, each to show that a judge sees it. None of them is in the daemon.

A campaign that starts a daemon of its own passes the defect's name in the environment (`DEFECT`, read by
`torture.counted`); a test in the same process calls `plant` and takes it back itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import trio

from car_trio.nursery import supervisor

kept: list[Any] = []
"""What leaks."""
MUCH = 64 * 1024


def at_each_connection(leak: Callable[[trio.Nursery, Any], None]) -> None:
    admit: Any = supervisor.admit

    def leaking(*args: Any) -> Any:
        *_, duties, stream, _ = args
        leak(duties, stream)
        return admit(*args)

    supervisor.admit = leaking


DEFECTS: dict[str, Callable[[trio.Nursery, Any], None]] = {
    "descriptor": lambda duties, stream: kept.append(os.open(os.devnull, os.O_RDONLY)),
    "task": lambda duties, stream: duties.start_soon(trio.sleep_forever),
    "memory": lambda duties, stream: kept.append(os.urandom(MUCH)),
}


def plant(name: str) -> None:
    """Raises `KeyError` for a defect that there is not."""
    at_each_connection(DEFECTS[name])
