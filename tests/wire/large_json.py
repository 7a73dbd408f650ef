"""JSON values and texts that are hard to cut, and what takes steps to be counted."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from hypothesis import strategies as st

texts = st.text(st.sampled_from('ab",:[]{}\\é😀\n'), max_size=12)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=40,
)
layouts = st.sampled_from([{}, {"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False}])


def counted(steps: Generator[None, None, Any]) -> tuple[int, Any]:
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return count, done.value
        count += 1
