"""A daemon on a disk that fails: `python -m torture.failing ERROR FROM COUNT serve …`.

The operations that change something are counted from the one after the file `go` appears in the home, so that the
start succeeds; from the FROM-th on, COUNT of them fail with the errno of that name. `SHORT` makes writes take half of
what they are given instead. With `DEFECT` in the environment the daemon has that one (`torture.planted`).
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from car_trio.__main__ import main
from car_trio.store.disk import Disk
from torture.doomed import CHANGES
from torture.planted import plant_from_environment


def fail(error: str, first: int, count: int, go: Path) -> None:
    lock = threading.Lock()
    seen = 0

    def is_due() -> bool:
        nonlocal seen
        with lock:
            if not seen and not go.exists():
                return False
            seen += 1
            return first <= seen < first + count

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(self: Disk, *arguments: Any) -> Any:
            if not is_due():
                return real(self, *arguments)
            if error == "SHORT":
                if name != "write":
                    return real(self, *arguments)
                return real(self, arguments[0], arguments[1][: max(1, len(arguments[1]) // 2)])
            number = getattr(errno, error)
            raise OSError(number, os.strerror(number))

        return operation

    for name in CHANGES:
        setattr(Disk, name, wrap(name, getattr(Disk, name)))


if __name__ == "__main__":
    home = Path(sys.argv[sys.argv.index("--home") + 1])
    plant_from_environment()
    fail(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), home / "go")
    sys.argv[1:] = sys.argv[4:]
    main()
