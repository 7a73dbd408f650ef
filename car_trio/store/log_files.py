"""Journal files beside the runs, read back line by line: plain functions that block, for a thread.

A file may be continued (`appending.py`): each counts up to where the next one says, and the lines that say so are
left out. What follows the last newline is torn and not a line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from car_trio.store.appending import SegmentHeader
from car_trio.store.disk import Disk
from car_trio.store.layout import Layout

T = TypeVar("T")
NEWEST_BYTES = 16 << 20
"""At most so much of the end of each file is looked at for the newest lines."""

_CHUNK = 256 << 10
_HEADER = msgspec.json.Decoder(SegmentHeader)
_HEADER_BYTES = 4096


def lines(disk: Disk, layout: Layout, relative: str, tail: int | None = None) -> Iterator[bytes]:
    """Every whole line, in order; none when there is no such file.

    `tail`: only the last so many bytes of each file are read, and the first line of those may be a piece of one.
    Raises `OSError` for a file that is there and cannot be read.
    """
    segment = 0
    while True:
        path = layout.log_file(relative, segment)
        following = _header(disk, layout.log_file(relative, segment + 1))
        try:
            for number, line in enumerate(_lines(disk, path, following, tail)):
                if not (number == 0 and segment and _is_header(line)):
                    yield line
        except FileNotFoundError:
            return
        segment += 1


def newest(disk: Disk, layout: Layout, relative: str, kind: type[T], most: int) -> list[T]:
    """The newest lines of this kind, oldest first; others (damaged ones too) are passed over. Raises as `lines`."""
    found: deque[T] = deque(maxlen=most)
    decode = msgspec.json.Decoder(kind).decode
    for line in lines(disk, layout, relative, NEWEST_BYTES):
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            found.append(decode(line))
    return list(found)


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


def _lines(disk: Disk, path: Path, until: int | None, tail: int | None) -> Iterator[bytes]:
    descriptor = disk.open_read(path)
    try:
        size = disk.fstat(descriptor).size
        end = size if until is None else min(until, size)
        offset, rest = 0 if tail is None else max(0, end - tail), b""
        while chunk := disk.pread(descriptor, min(_CHUNK, end - offset), offset):
            offset += len(chunk)
            whole = (rest + chunk).split(b"\n")
            rest = whole.pop()
            yield from whole
    finally:
        disk.close(descriptor)
