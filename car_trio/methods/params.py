"""The params of a large message, decoded in steps.

msgspec says that a list is too long when it has built all of it, and it decodes what is free-form in one call. So of a
large message the members that the type knows are taken out unread, each key once. Lists and objects with a bound are
counted, piece by piece; every list that a method takes has one, or its params are `free_form`. Then what is left is
decoded: in one go, or, where params are free-form, piece by piece.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType
from msgspec.inspect import DictType, ListType, RawType, StructType, UnionType, type_info

from car_trio.wire.pieces import decoded_in_steps, longer_than, most_containers

Steps = Generator[None, None, Any]
_WORDS: Final = {b"[": "array", b"{": "object"}


class Shape:
    """What of a type matters before anything is decoded: `bounds` by opening bracket, and its `members`."""

    def __init__(self, info: Any) -> None:
        parts: tuple[Any, ...] = info.types if isinstance(info, UnionType) else (info,)
        self.is_raw = any(isinstance(part, RawType) for part in parts)
        self.bounds: dict[bytes, int] = {}
        self.members: dict[str, Shape] = {}
        self._unread: Any = None
        for part in parts:
            if isinstance(part, (ListType, DictType)) and part.max_length is not None:
                self.bounds[b"[" if isinstance(part, ListType) else b"{"] = part.max_length
            elif isinstance(part, StructType):
                self.members = {each.encode_name: Shape(each.type) for each in part.fields}
                self._unread = _unread(list(self.members))

    @property
    def is_bounded(self) -> bool:
        """Whether there is anything to count."""
        return bool(self.bounds) or any(each.is_bounded for each in self.members.values())

    def unread(self, raw: bytes) -> dict[str, bytes]:
        """The members that the type knows; of a key that stands twice the last one counts, as for every reader."""
        found = msgspec.structs.astuple(msgspec.json.decode(raw, type=self._unread))
        members = zip(self.members, found, strict=True)
        return {name: bytes(each) for name, each in members if each is not UNSET}


def _unread(names: list[str]) -> Any:
    """A struct with these members, all of them raw."""
    fields = [
        (f"m{n}", Raw | UnsetType, msgspec.field(default=UNSET, name=name)) for n, name in enumerate(names)
    ]
    return msgspec.defstruct("Unread", fields)


def counted(shape: Shape, raw: bytes, path: str = "$") -> Steps:
    """The same JSON without what the type does not know. Raises as msgspec does for what is too long."""
    most = shape.bounds.get(raw[:1])
    if most is not None and (yield from longer_than(raw, most)):
        place = f" - at `{path}`" if path != "$" else ""
        raise msgspec.ValidationError(f"Expected `{_WORDS[raw[:1]]}` of length <= {most}{place}")
    if raw[:1] != b"{" or not shape.members:
        return raw
    kept: list[bytes] = []
    for name, member in shape.unread(raw).items():
        yield
        value = yield from counted(shape.members[name], member, f"{path}.{name}")
        kept.append(b'"%b":%b' % (name.encode(), value))
    return b"{%b}" % b",".join(kept)


def plain_in_steps(shape: Shape, raw: bytes) -> Steps:
    """What is free-form, decoded; members that stay raw in their type are not read."""
    if raw[:1] != b"{" or not shape.members:
        return (yield from _decoded(raw))
    plain: dict[str, Any] = {}
    for name, member in shape.unread(raw).items():
        yield
        plain[name] = Raw(member) if shape.members[name].is_raw else (yield from _decoded(member))
    return plain


def _decoded(raw: bytes) -> Steps:
    return decoded_in_steps(raw, sys.maxsize, most_containers(len(raw)))


def shape_of(kind: Any) -> Shape:
    return Shape(type_info(kind))
