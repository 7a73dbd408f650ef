"""What a power cut can leave of one file of the simulated disk, byte for byte.

Of everything that was changed since the last sync any part may have reached the platter. Three things are free of
each other: the size, which may be any that the file had or grew through; each sector of 512 bytes, which may hold
what it held after any of the changes, or zeros where it held nothing; and, when a write was torn in order, the byte
at which it ends. So a write of n bytes in s sectors leaves n states torn in order, and for each sector boundary and
the end itself every choice of sectors that came and sectors that did not.

A file that is only appended to is enumerated without a memory: contents that end inside an earlier change were
enumerated when that change was made. A file that was cut back may show old bytes behind new ones; there what was
enumerated is remembered until the next sync.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice, product
from math import prod

from tests.sim_disk import SimFile

SECTOR = 512
CHOICES = 512
"""Of more choices of sectors than this that many are drawn by chance."""


class FileStates:
    """The states of one file that were not enumerated before."""

    def __init__(self, file: SimFile, dice: random.Random) -> None:
        self.file = file
        self._dice = dice
        self._base = 0
        self._end = -1
        self._known: set[int] = set()
        self._platter_size = -1

    def new(self) -> tuple[int, Iterator[bytes]]:
        """An offset that is the beginning of a line, and each new content from there on. What lies before the offset
        is the same in all of them, and on the platter."""
        file = self.file
        if len(file.platter) != self._platter_size or not file.changes:
            self._platter_size = len(file.platter)
            self._base = bytes(file.platter).rfind(b"\n") + 1
            self._known.clear()
            if self._end >= 0:
                self._end = len(file.platter)  # what is synced now was among the states before the sync
        if any(written is None or offset < len(file.platter) for offset, written in file.changes):
            return 0, self._remembered(cut_back(file, self._dice))
        after = max(self._end, len(file.platter) - 1)
        self._end = len(file.seen)
        return self._base, appended(file, self._base, after, self._dice)

    def _remembered(self, contents: Iterator[bytes]) -> Iterator[bytes]:
        for content in contents:
            if (known := hash(content)) not in self._known:
                self._known.add(known)
                yield content


def appended(file: SimFile, base: int, after: int, dice: random.Random) -> Iterator[bytes]:
    """The contents, from `base` on, that are longer than `after` bytes, of a file that only grew."""
    whole = bytes(file.seen[base:])
    first, last = after + 1 - base, len(whole)
    for size in range(first, last + 1):
        yield whole[:size]
    synced = len(file.platter)
    ends = [offset for offset, _ in file.changes]
    for size in _boundaries(after + 1, len(file.seen)):
        sectors = list(_versions(bytes(file.seen[base:size]), base, synced, size, ends))
        head = whole[: max(0, synced - synced % SECTOR - base)]
        for choice in _choices(sectors, dice):
            yield head + b"".join(choice)


def cut_back(file: SimFile, dice: random.Random) -> Iterator[bytes]:
    """The contents of a file that was cut back since the last sync: bytes that were cut off may be seen again."""
    history = [bytes(file.platter)]
    for offset, written in file.changes:
        now = history[-1]
        history.append(now[:offset] if written is None else now[:offset].ljust(offset, b"\0") + written)
    yield from history
    offset, written = file.changes[-1]
    if written is not None:
        yield from (
            history[-2][:offset].ljust(offset, b"\0") + written[:size] for size in range(len(written))
        )
    longest = max(map(len, history))
    for size in {*_boundaries(len(file.platter), longest), *map(len, history)}:
        sectors = [
            list(
                dict.fromkeys(each[start : start + SECTOR].ljust(SECTOR, b"\0") for each in reversed(history))
            )
            for start in range(0, size, SECTOR)
        ]
        for choice in _choices(sectors, dice):
            yield b"".join(choice)[:size]


def extremes(file: SimFile) -> list[bytes]:
    """The contents between which all others lie: what is surely there, and all of it; once, if that is the same."""
    return list(dict.fromkeys((bytes(file.platter), bytes(file.seen))))


def _boundaries(lowest: int, size: int) -> list[int]:
    """The ends of sectors from `lowest` on, and the size itself."""
    first = -(-max(lowest, 1) // SECTOR) * SECTOR
    return sorted({*range(first, size, SECTOR), size} - {0}) if size >= lowest else []


def _versions(
    content: bytes, base: int, synced: int, size: int, ends: Sequence[int]
) -> Iterator[list[bytes]]:
    """For each sector that is not synced as a whole what it may hold, the newest first. `ends` is where each change
    began, so where the one before it ended."""
    for start in range(synced - synced % SECTOR, size, SECTOR):
        stop = min(start + SECTOR, size)
        kept = [stop, *(end for end in reversed(ends) if start < end < stop), max(start, min(synced, stop))]
        low = max(start, base)
        yield list(
            dict.fromkeys(
                content[low - base : each - base].ljust(stop - low, b"\0") for each in kept if each >= low
            )
        )


def _choices(sectors: list[list[bytes]], dice: random.Random) -> Iterator[tuple[bytes, ...]]:
    """Every choice of one version for each sector but the newest of all of them; when there are too many, some."""
    if prod(map(len, sectors)) <= CHOICES:
        yield from islice(product(*sectors), 1, None)
        return
    drawn: set[tuple[int, ...]] = {(0,) * len(sectors)}
    for _ in range(CHOICES):
        places = tuple(int(dice.random() * len(each)) for each in sectors)
        if places not in drawn:
            drawn.add(places)
            yield tuple(each[place] for each, place in zip(sectors, places, strict=True))
