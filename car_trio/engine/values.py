"""JSON values as the protocol sees them (`engine.md` section 6): compared, shown, and put in canonical form.

Values compare as serde_json does: `5` and `5.0` are different, `true` is not `1`, objects ignore the order of
keys. They are shown in messages in Rust's debug form, and hashed in RFC 8785 form. Depth is bounded where a
proposal is parsed (`MAX_DEPTH`), so the recursion here is bounded too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Any, Final, TypeGuard

import msgspec

from car_trio.wire.parts import encoded_whole

MAX_DEPTH: Final = 128
"""serde_json's own limit: a document nested deeper than this is refused by every reader of the protocol."""

SAFE_INTEGER: Final = 9007199254740991
UNSAFE_INTEGER: Final = (
    "RFC 8785 canonicalization failed: integer outside the interoperable safe integer range "
    f"-{SAFE_INTEGER}..={SAFE_INTEGER}"
)

_compact = msgspec.json.Encoder(order="sorted")
_AT_ONCE: Final = 1024
_SCALARS: Final = (str, bool, int, type(None))
_ALWAYS_SIMPLE: Final = frozenset((str, bool, type(None)))
_BEYOND_SURROGATES: Final = re.compile("[\ue000-\U0010ffff]")
_PLAIN_TEXT: Final = re.compile(r'[^\x00-\x1f"\\\x7f-\uffff\U00010000-\U0010ffff]*')
_RUST_ESCAPES: Final = {"\0": "\\0", "\t": "\\t", "\n": "\\n", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


class Uncanonical(ValueError):  # noqa: N818 - says what the value is
    """The value has no RFC 8785 form."""


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def same(one: Any, other: Any) -> bool:
    """Equal as serde_json compares."""
    kind = one.__class__
    if kind is not other.__class__:
        return False
    if kind is dict:
        if len(one) != len(other):
            return False
        return all(key in other and same(value, other[key]) for key, value in one.items())
    if kind is list:
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def compact(value: Any) -> str:
    """Compact JSON, keys sorted."""
    return _compact.encode(value).decode()


def identity(value: Any) -> bytes:
    """Bytes that are equal exactly when the values are the `same`."""
    return _compact.encode(value)


def text(value: Any) -> str:
    """What `contains` looks at: a string itself, anything else as compact JSON."""
    return value if isinstance(value, str) else encoded_whole(value, in_order=True).decode()


def debug(value: Any) -> str:
    """Rust's debug form of a serde_json value: `Object {"x": Array [Number(1), String("a")]}`."""
    match value:
        case None:
            return "Null"
        case bool():
            return f"Bool({'true' if value else 'false'})"
        case str():
            return f"String({_quoted(value)})"
        case _ if is_object(value):
            return "Object {" + ", ".join(f"{_quoted(k)}: {debug(value[k])}" for k in sorted(value)) + "}"
        case _ if is_list(value):
            return "Array [" + ", ".join(map(debug, value)) + "]"
        case _:
            return f"Number({compact(value)})"


def _quoted(string: str) -> str:
    if _PLAIN_TEXT.fullmatch(string):
        return f'"{string}"'
    return '"' + "".join(map(_escaped, string)) + '"'


def _escaped(character: str) -> str:
    if character in _RUST_ESCAPES:
        return _RUST_ESCAPES[character]
    return character if character.isprintable() else f"\\u{{{ord(character):x}}}"


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def too_deep(value: Any, room: int) -> bool:
    """Whether containers nest more than `room` deep in this value."""
    inner: Iterable[Any]
    if is_object(value):
        inner = value.values()
    elif is_list(value):
        inner = value
    else:
        return False
    if room == 0:
        return True
    # A loop instead of any(): most containers hold scalars only, and a generator costs more than they do.
    for each in inner:  # noqa: SIM110
        if type(each) not in _SCALARS and too_deep(each, room - 1):
            return True
    return False


def canonical(value: Any, simple: bool | None = None) -> bytes:
    """RFC 8785: sorted keys, compact, numbers as ECMAScript prints them. Raises `Uncanonical`.

    A document without floats, with small integers and without exotic characters encodes canonically as it is. `simple`
    says whether the numbers are such, if that is known.
    """
    if is_simple(value) if simple is None else simple:
        encoded = _compact.encode(value)
        if encoded.isascii() or not _BEYOND_SURROGATES.search(encoded.decode()):
            return encoded
    return _canonical(value).encode()


def digest(value: Any, simple: bool | None = None) -> str:
    """SHA-256 of the canonical form, in hex. Raises `Uncanonical`."""
    return sha256(canonical(value, simple)).hexdigest()


def is_simple(value: Any) -> bool:
    """Whether it holds no numbers but integers that every reader can read."""
    kind = value.__class__
    if kind in _ALWAYS_SIMPLE:
        return True
    if kind is int:
        return bool(-SAFE_INTEGER <= value <= SAFE_INTEGER)
    if kind is dict:
        return all(map(is_simple, value.values())) if value else True
    return kind is list and (all(map(is_simple, value)) if value else True)


def _canonical(value: Any) -> str:
    match value:
        case _ if is_object(value):
            # RFC 8785 sorts by UTF-16 code units, where characters beyond U+FFFF come before U+E000.
            names = sorted(value, key=lambda name: name.encode("utf-16-be"))
            return "{" + ",".join(f"{compact(name)}:{_canonical(value[name])}" for name in names) + "}"
        case _ if is_list(value):
            # In parts: a million strings, each alone, take long to be let go of at once, even in a thread.
            parts = (value[at : at + _AT_ONCE] for at in range(0, len(value), _AT_ONCE))
            return "[" + ",".join(",".join(map(_canonical, part)) for part in parts) + "]"
        case float():
            return _ecmascript(value)
        case int() if not -SAFE_INTEGER <= value <= SAFE_INTEGER:
            raise Uncanonical(UNSAFE_INTEGER)
        case _:
            return compact(value)


def _ecmascript(number: float) -> str:
    """`Number.prototype.toString`: both this and `repr` print the shortest digits that read back the same."""
    if number != number or number in (float("inf"), float("-inf")):
        raise Uncanonical("RFC 8785 canonicalization failed: number is not finite")
    if number == 0:
        return "0"
    sign = "-" if number < 0 else ""
    mantissa, _, exponent = f"{abs(number)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    return sign + _placed(digits, point)


def _placed(digits: str, point: int) -> str:
    """`digits` with the decimal point after the first `point` of them, in the notation ECMAScript chooses."""
    if 0 < point <= 21:
        return digits.ljust(point, "0") if len(digits) <= point else f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return "0." + "0" * -point + digits
    head = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
    return f"{head}e{'+' if point > 0 else '-'}{abs(point - 1)}"
