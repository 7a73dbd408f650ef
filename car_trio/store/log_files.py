"""Journal files beside the runs, read back line by line: plain functions that block, for a thread.

A file may be continued (`appending.py`): each counts up to where the next one says, and the lines that say so are
left out. What follows the last newline is torn and not a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from car_trio.store.appending import SegmentHeader
from car_trio.store.disk import Disk
from car_trio.store.layout import Layout

_CHUNK = 256 << 10
_HEADER = msgspec.json.Decoder(SegmentHeader)
_HEADER_BYTES = 4096


def lines(disk: Disk, layout: Layout, relative: str) -> Iterator[bytes]:
    """Every whole line, in order; none when there is no such file."""
    segment = 0
    while True:
        path = layout.log_file(relative, segment)
        following = _header(disk, layout.log_file(relative, segment + 1))
        try:
            for number, line in enumerate(_lines(disk, path, following)):
                if not (number == 0 and segment and _is_header(line)):
                    yield line
        except FileNotFoundError:
            return
        segment += 1


def _header(disk: Disk, path: Path) -> int | None:
    """How many bytes of the file before this one count; None when it does not say."""
    with suppress(FileNotFoundError):
        descriptor = disk.open_read(path)
        try:
            first, newline, _ = disk.pread(descriptor, _HEADER_BYTES, 0).partition(b"\n")
        finally:
            disk.close(descriptor)
        if newline and _is_header(first):
            return _HEADER.decode(first).previous_bytes
    return None


def _is_header(line: bytes) -> bool:
    with suppress(msgspec.MsgspecError):
        _HEADER.decode(line)
        return True
    return False


def _lines(disk: Disk, path: Path, until: int | None) -> Iterator[bytes]:
    descriptor = disk.open_read(path)
    try:
        offset, rest = 0, b""
        while True:
            count = _CHUNK if until is None else min(_CHUNK, until - offset)
            chunk = disk.pread(descriptor, count, offset) if count > 0 else b""
            if not chunk:
                return
            offset += len(chunk)
            whole = (rest + chunk).split(b"\n")
            rest = whole.pop()
            yield from whole
    finally:
        disk.close(descriptor)
