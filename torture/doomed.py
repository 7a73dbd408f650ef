"""A daemon that dies at one operation on its disk: `python -m torture.doomed WHEN N serve …`.

WHEN is `before` or `after` the N-th operation that changes something, or the middle of the N-th write: `begun` writes
one byte of it and dies, `half` half of it, `unended` all but the last byte. N counts from the first operation of the
process, so the preparation of the root and the adoption are among them. The catalog goes around the port, so there
an operation is a whole transaction; what lies between is left to chance. SIGKILL leaves what the kernel was given.

Before it dies it waits a moment in which only the thread of that operation stands still, as with a slow disk: a
promise that was made too early gets out meanwhile. The last word on standard output says which operation it was:
`dies before create`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from car_trio.__main__ import main
from car_trio.store.catalog import CatalogWriter
from car_trio.store.disk import Disk
from car_trio.store.sync_queue import SyncQueue

CHANGES = (
    "create", "write", "sync", "truncate", "make_directory", "rename", "unlink", "sync_directory", "remove_directory",
)  # fmt: skip
INDEXING = ("write", "complete")
AROUND = ("before", "after")
WITHIN: dict[str, Callable[[bytes], int]] = {
    "begun": lambda payload: 1,
    "half": lambda payload: len(payload) // 2,
    "unended": lambda payload: len(payload) - 1,
}
"""How much of a write is made."""
WAYS = (*AROUND, *WITHIN)


MOMENT = 0.02
_pause = threading.Event()


def die(when: str, name: str) -> None:
    _pause.wait(MOMENT)
    os.write(1, f"dies {when} {name}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)


def doom(when: str, at: int) -> None:
    """Puts the N-th call in the way of every changing operation, or only of every write."""
    lock = threading.Lock()
    count = 0

    def is_the_one() -> bool:
        nonlocal count
        with lock:
            count += 1
            return count == at

    def wrap(said: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(self: Any, *arguments: Any, **more: Any) -> Any:
            chosen = is_the_one()
            if chosen and when == "before":
                die(when, said)
            if chosen and when in WITHIN:
                descriptor, payload = arguments
                real(self, descriptor, payload[: WITHIN[when](payload)])
                die(when, said)
            try:
                return real(self, *arguments, **more)
            finally:
                if chosen:
                    die(when, said)

        return operation

    if when in WITHIN:
        Disk.write = wrap("write", Disk.write)  # type: ignore[method-assign]
        return
    for name in CHANGES:
        setattr(Disk, name, wrap(name, getattr(Disk, name)))
    for name in INDEXING:
        setattr(CatalogWriter, name, wrap(f"catalog {name}", getattr(CatalogWriter, name)))
    setattr(SyncQueue, "run", wrap("sync", SyncQueue.run))  # noqa: B010 - as those above


if __name__ == "__main__":
    doom(sys.argv[1], int(sys.argv[2]))
    sys.argv[1:] = sys.argv[3:]
    main()
