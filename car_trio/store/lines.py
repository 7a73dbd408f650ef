"""Reading the journal files beside the runs: the newest lines, for a start (protocol `runs.md` section 3)."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

import msgspec

from car_trio.store.disk import Disk
from car_trio.store.layout import Layout, exists

T = TypeVar("T")
READ_BYTES = 16 << 20
"""At most so much of the end of each file is looked at."""


def read_newest(disk: Disk, layout: Layout, relative: str, kind: type[T], most: int) -> list[T]:
    """The newest lines of this kind, oldest first; others (damaged, torn, headers of continuations) are passed over.

    Blocks: for a thread. Raises `OSError` for a file that is there and cannot be read.
    """
    newest: deque[T] = deque(maxlen=most)
    decode = msgspec.json.Decoder(kind).decode
    segment = 0
    while exists(disk, path := layout.log_file(relative, segment)):
        descriptor = disk.open_read(path)
        try:
            size = disk.fstat(descriptor).size
            start = max(0, size - READ_BYTES)
            content = disk.pread(descriptor, size - start, start)
        finally:
            disk.close(descriptor)
        for line in content.split(b"\n"):
            try:
                newest.append(decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
        segment += 1
    return list(newest)
