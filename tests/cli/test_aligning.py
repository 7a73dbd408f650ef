"""Aligning two sequences: as many items belong together as can, each in its order."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_trio.cli import aligning
from car_trio.cli.aligning import aligned

LETTERS = st.lists(st.sampled_from("abcd"), max_size=9)


def most(a: list[str], b: list[str]) -> int:
    """How many can be matched, by trying."""
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return most(a[:-1], b[:-1]) + 1
    return max(most(a[:-1], b), most(a, b[:-1]))


@given(LETTERS, LETTERS)
def test_as_many_as_can_be_belong_together_and_none_crosses_another(a: list[str], b: list[str]) -> None:
    pairs = aligned(a, b)
    assert all(a[i] == b[j] for i, j in pairs)
    assert all(i < k and j < m for (i, j), (k, m) in pairwise(pairs))
    assert len(pairs) == most(a, b)


@given(LETTERS, LETTERS)
def test_what_is_too_long_for_the_best_is_aligned_by_blocks(a: list[str], b: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aligning, "MOST_BITS", 0)
        pairs = aligned(a, b)
    assert all(a[i] == b[j] for i, j in pairs)
    assert all(i < k and j < m for (i, j), (k, m) in pairwise(pairs))
