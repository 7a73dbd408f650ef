"""A daemon on a disk that fails: `python -m torture.failing ERROR FROM COUNT serve …`.

The operations that change something are counted from the one after the file `go` appears in the home, so that the
start succeeds; from the FROM-th on, COUNT of them fail with the errno of that name. `SHORT` counts writes alone, and
makes them take half of what they are given. With `ERROR:one` or `ERROR:all` only syncs of several files by the
kernel's queue (`car_trio.store.sync_queue`) are counted, and one file of them fails, or all. Each time something fails
the file `struck` in the home grows by a byte. With `DEFECT` in the environment the daemon has that one
(`torture.planted`).
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from car_trio.__main__ import main
from car_trio.store.disk import Disk
from car_trio.store.sync_queue import SyncQueue
from torture.doomed import CHANGES
from torture.planted import plant_from_environment


class Due:
    """Counts operations, from the one after `go` appears on; says which are to fail."""

    def __init__(self, first: int, count: int, home: Path) -> None:
        self._due = range(first, first + count)
        self._home = home
        self._lock = threading.Lock()
        self._seen = 0

    def __call__(self) -> bool:
        with self._lock:
            if not self._seen and not (self._home / "go").exists():
                return False
            self._seen += 1
            return self._seen in self._due

    def note(self) -> None:
        with (self._home / "struck").open("ab") as struck:
            struck.write(b".")

    def strike(self, error: str) -> OSError:
        self.note()
        number = getattr(errno, error)
        return OSError(number, os.strerror(number))


def fail(error: str, due: Due) -> None:
    """One operation after the other."""

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(self: Disk, *arguments: Any) -> Any:
            if (error == "SHORT" and name != "write") or not due():
                return real(self, *arguments)
            if error == "SHORT":
                due.note()
                return real(self, arguments[0], arguments[1][: max(1, len(arguments[1]) // 2)])
            raise due.strike(error)

        return operation

    for name in CHANGES:
        setattr(Disk, name, wrap(name, getattr(Disk, name)))


def fail_together(error: str, which: str, due: Due) -> None:
    """Syncs of several files."""
    real = SyncQueue.run

    def run(self: SyncQueue, descriptors: Sequence[int]) -> list[OSError | None]:
        if not due():
            return real(self, descriptors)
        if which == "all":
            return [due.strike(error) for _ in descriptors]
        *others, _ = descriptors
        return [*real(self, others), due.strike(error)]

    SyncQueue.run = run  # type: ignore[method-assign]


if __name__ == "__main__":
    home = Path(sys.argv[sys.argv.index("--home") + 1])
    plant_from_environment()
    error, _, which = sys.argv[1].partition(":")
    due = Due(int(sys.argv[2]), int(sys.argv[3]), home)
    if which:
        fail_together(error, which, due)
    else:
        fail(error, due)
    sys.argv[1:] = sys.argv[4:]
    main()
