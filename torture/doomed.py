"""A daemon that dies at one operation on its disk: `python -m torture.doomed WHEN N serve …`.

WHEN is `before` or `after` the N-th operation that changes something; `within` writes half of what a write was given
and dies, and is `before` for the others. N counts from the first operation of the process, the preparation of the root
and the adoption included. SIGKILL leaves what the kernel was given.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from car_trio.__main__ import main
from car_trio.store.disk import Disk
from car_trio.store.sync_queue import SyncQueue

CHANGES = (
    "create", "write", "sync", "truncate", "make_directory", "rename", "unlink", "sync_directory", "remove_directory",
)  # fmt: skip


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def doom(when: str, at: int) -> None:
    """Puts the N-th call in the way of every changing operation of the port."""
    lock = threading.Lock()
    count = 0

    def is_the_one() -> bool:
        nonlocal count
        with lock:
            count += 1
            return count == at

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(self: Disk, *arguments: Any) -> Any:
            chosen = is_the_one()
            if chosen and when == "within" and name == "write":
                descriptor, payload = arguments
                real(self, descriptor, payload[: len(payload) // 2])
            if chosen and when != "after":
                die()
            try:
                return real(self, *arguments)
            finally:
                if chosen:
                    die()

        return operation

    for name in CHANGES:
        setattr(Disk, name, wrap(name, getattr(Disk, name)))
    setattr(SyncQueue, "run", wrap("sync", SyncQueue.run))  # noqa: B010 - as those above


if __name__ == "__main__":
    doom(sys.argv[1], int(sys.argv[2]))
    sys.argv[1:] = sys.argv[3:]
    main()
