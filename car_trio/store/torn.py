"""What a crash or a power cut leaves at the end of a file: bytes after the last newline, or zeros (protocol
`runs.md` section 3). It is moved to a file beside, never dropped: first copied and synced, then cut off.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from car_trio.store.disk import Disk
from car_trio.store.layout import TORN_SUFFIX, Layout, exists
from car_trio.wire.runs import RunRef

_CHUNK = 65536


def end_of_lines(disk: Disk, descriptor: int, *, before: int | None = None) -> int:
    """The offset after the last newline of a file, or after the last one before an offset; 0 without one."""
    end = disk.fstat(descriptor).size if before is None else before
    while end > 0:
        start = max(0, end - _CHUNK)
        newline = disk.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def cut_tail_off(disk: Disk, path: Path) -> int:
    """Move the torn tail of a file aside; returns its bytes. A file without a whole line vanishes
    altogether."""
    descriptor = disk.open_append(path)
    try:
        end = end_of_lines(disk, descriptor)
        size = disk.fstat(descriptor).size
        if size > end:
            _keep(disk, disk.pread(descriptor, size - end, end), path.with_suffix(TORN_SUFFIX))
        if end == 0:
            disk.unlink(path)
            disk.sync_directory(path.parent)
        elif size > end:
            disk.truncate(descriptor, end)
            disk.sync(descriptor)
    finally:
        disk.close(descriptor)
    return size - end


def _keep(disk: Disk, tail: bytes, path: Path) -> None:
    """Append to the torn file, durably, unless an interrupted attempt did it already."""
    with suppress(FileExistsError):
        disk.close(disk.create(path))
    descriptor = disk.open_append(path)
    try:
        size = disk.fstat(descriptor).size
        if size < len(tail) or disk.pread(descriptor, len(tail), size - len(tail)) != tail:
            while tail:
                tail = tail[disk.write(descriptor, tail) :]
        disk.sync(descriptor)
    finally:
        disk.close(descriptor)
    disk.sync_directory(path.parent)


def torn_bytes(disk: Disk, layout: Layout, ref: RunRef) -> int:
    """The bytes that were moved aside from the ends of a run's files."""
    total = segment = 0
    while segment == 0 or exists(disk, layout.run_file(ref, segment)):
        with suppress(FileNotFoundError):
            total += disk.stat(layout.torn_file(ref, segment)).size
        segment += 1
    return total
