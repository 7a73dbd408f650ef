"""Which items of two sequences belong together: as many as can be, each in its order.

The longest common subsequence, found a row of bits at a time (Crochemore and others, 2001): a bit of a row says where
the number of items that can be matched grows, and a whole row is a few operations on one large number. All rows are
kept for the way back, so this is for sequences of thousands; longer ones are aligned by blocks, which is not always
the best but needs no memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

MOST_BITS = 1 << 29
"""64 MiB of rows."""
Pair = tuple[int, int]


def aligned(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[Pair]:
    """The places of the items that belong together."""
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    end = 0
    while end < min(len(a), len(b)) - start and a[-1 - end] == b[-1 - end]:
        end += 1
    middle = _common(a[start : len(a) - end], b[start : len(b) - end])
    return [
        *((place, place) for place in range(start)),
        *((start + i, start + j) for i, j in middle),
        *((len(a) - place, len(b) - place) for place in range(end, 0, -1)),
    ]


def _common(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[Pair]:
    if len(a) * len(b) > MOST_BITS:
        from difflib import SequenceMatcher

        blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
        return [(block.a + k, block.b + k) for block in blocks for k in range(block.size)]
    return list(_way_back(a, b, _rows(a, b)))[::-1]


def _rows(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[int]:
    """After each item of `a`: bit j is clear where one item more can be matched with `b` up to j than up to j - 1."""
    places: dict[Hashable, int] = {}
    for j, item in enumerate(b):
        places[item] = places.get(item, 0) | 1 << j
    everything = (1 << len(b)) - 1
    rows = [everything]
    for item in a:
        row = rows[-1]
        grown = row & places.get(item, 0)
        rows.append((row + grown | row - grown) & everything)
    return rows


def _way_back(a: Sequence[Hashable], b: Sequence[Hashable], rows: list[int]) -> Iterator[Pair]:
    """From the end: what matches is taken, else that item is left whose going costs nothing."""
    i, j = len(a), len(b)
    while i and j:
        if a[i - 1] == b[j - 1]:
            i, j = i - 1, j - 1
            yield i, j
        elif rows[i] >> (j - 1) & 1:
            j -= 1
        else:
            i -= 1
