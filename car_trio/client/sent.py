"""What a client sends, as JSON. A number that JSON has no word for is refused: it would go out as `null` for a float,
and nobody would know."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec

from car_trio.wire import frames


def encoded(value: Any, what: str) -> bytes:
    """The value as JSON. Raises ValueError, which names `what` it is, for a NaN or an infinity in it."""
    text = frames.encode(value)
    if not any(word in text for word in (b"null", b"NaN", b"Infinity")):
        return text
    plain = msgspec.to_builtins(value, builtin_types=(Decimal,), enc_hook=_passed_through)
    try:
        json.dumps(plain, allow_nan=False, default=float)
    except ValueError:
        raise ValueError(
            f"{what} holds a number that JSON cannot write (NaN or an infinity); "
            "put null or a text in its place"
        ) from None
    return text


def _passed_through(_: Any) -> None:
    """JSON that is written already (`msgspec.Raw`)."""
