"""Large JSON made in parts: the same bytes as in one go."""

from __future__ import annotations

import msgspec
from hypothesis import example, given

from car_trio.wire import parts
from car_trio.wire.parts import encoded_parts, encoded_whole, joined_in_steps
from tests.wire.large_json import counted, values


@given(values)
@example([[1] * 600, [2.5, "x", [3] * 300] * 200, {}, [[]]])
def test_parts_of_an_encoded_value_are_what_the_encoder_writes(value):
    assert b"".join(encoded_parts(value)) == msgspec.json.encode(value)
    assert encoded_whole(value, in_order=True) == msgspec.json.Encoder(order="sorted").encode(value)


def test_no_part_of_an_encoded_value_is_large_unless_a_string_is():
    value = {"a": [{"k": [1, 2.5]}] * 1000, "b": list(range(10_000))}
    assert max(map(len, encoded_parts(value))) < 2000


def test_parts_are_joined_about_one_piece_in_a_step(monkeypatch):
    piece_bytes = 8
    monkeypatch.setattr(parts, "PIECE_BYTES", piece_bytes)
    count, joined = counted(joined_in_steps([b"x", b"y"] * piece_bytes))
    assert (count, joined) == (2, b"xy" * piece_bytes)
    assert counted(joined_in_steps([b"x" * piece_bytes, b"y"])) == (1, b"x" * piece_bytes + b"y")
    assert counted(joined_in_steps([])) == (0, b"")
