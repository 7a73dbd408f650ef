"""Large values as JSON, made part by part: no single call of an encoder takes long, for the reasons that `pieces.py`
has for decoding."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Final

import msgspec

from car_trio.wire.pieces import PIECE_BYTES, at_once, is_list, is_object

_AT_ONCE: Final = 256
_SCALARS: Final = frozenset((str, int, float, bool, type(None), msgspec.Raw))
_encode: Final = msgspec.json.Encoder().encode
_encode_sorted: Final = msgspec.json.Encoder(order="sorted").encode


def encoded_parts(value: Any, *, in_order: bool = False) -> Iterator[bytes]:
    """The value as JSON, part by part, each made quickly; with `in_order` the keys are sorted."""
    encode = _encode_sorted if in_order else _encode
    if is_list(value):
        yield b"["
        yield from _list_parts(value, encode, in_order=in_order)
        yield b"]"
    elif is_object(value):
        comma = b"{"
        for key in sorted(value) if in_order else value:
            yield b"%b%b:" % (comma, encode(key))
            yield from encoded_parts(value[key], in_order=in_order)
            comma = b","
        yield b"}" if value else b"{}"
    else:
        yield encode(value)


def _list_parts(items: list[Any], encode: Callable[[Any], bytes], *, in_order: bool) -> Iterator[bytes]:
    for at in range(0, len(items), _AT_ONCE):
        some = items[at : at + _AT_ONCE]
        comma = b"," if at else b""
        if set(map(type, some)) <= _SCALARS:
            yield comma + encode(some)[1:-1]
            continue
        for each in some:
            yield comma
            yield from encoded_parts(each, in_order=in_order)
            comma = b","


def joined_in_steps(parts: Iterable[bytes]) -> Generator[None, None, bytes]:
    """The parts in one. A step joins about as many bytes of them as a piece has: of a million parts one joining would
    keep the interpreter too."""
    pieces: list[bytes] = []
    piece: list[bytes] = []
    size = 0
    for part in parts:
        piece.append(part)
        size += len(part)
        if size >= PIECE_BYTES:
            pieces.append(b"".join(piece))
            piece, size = [], 0
            yield
    return b"".join([*pieces, *piece])


def encoded_whole(value: Any, *, in_order: bool = False) -> bytes:
    """The value as JSON. For a thread: others have the interpreter in between."""
    return at_once(joined_in_steps(encoded_parts(value, in_order=in_order)))
