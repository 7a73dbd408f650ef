"""msgspec types as shapes a person reads: close to TypeScript, with defaults and limits as comments.

A member that may be left out has a `?`. What a client may leave out is what has a default; what we may leave out is
what has one in a type that does not encode its defaults. `null` is possible where the type says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import msgspec.inspect as inspect
from msgspec import NODEFAULT, UNSET

from car_trio.wire import events, proposals, runs

RAW: dict[tuple[str, str], Any] = {
    **{
        (kind, "proposal"): proposals.Proposal
        for kind in ("SubmitProposal", "Verify", "Simulate", "OfProposal", "TransactionCheck", "Evaluate")
    },
    ("Equivalent", "p1"): proposals.Proposal,
    ("Equivalent", "p2"): proposals.Proposal,
    ("Trace", "records"): list[runs.Started | runs.Turn | runs.Ended | runs.Damaged],
    ("Snapshot", "turns_so_far"): list[runs.Turn | runs.Damaged],
    ("TraceEvent", "record"): runs.Turn | runs.Ended | runs.Damaged,
    ("EventsFound", "events"): list[events.Event],
}
"""What stays bytes on its way through the daemon, and what it is."""

PLAIN = {
    inspect.AnyType: "any",
    inspect.RawType: "any",
    inspect.NoneType: "null",
    inspect.BoolType: "bool",
    inspect.IntType: "int",
    inspect.FloatType: "float",
    inspect.StrType: "string",
}
WIDTH = 100
SMALL = 72
"""A struct that is shorter is shown where it is used."""


class Shapes:
    """The shapes of a document. `shared` are the structs that were named and not shown."""

    def __init__(self) -> None:
        self.shared: dict[str, Any] = {}

    def text(self, kind: Any) -> str:
        """A type in one line; a struct by its name."""
        return self._text(inspect.type_info(kind))

    def members(self, kind: type[msgspec.Struct], *, sent: bool) -> list[str]:
        """The members of a struct, a line each. `sent`: by the daemon, else by a client."""
        info = inspect.type_info(kind)
        assert isinstance(info, inspect.StructType)
        lines = [] if info.tag is None else [(f'{info.tag_field}: "{info.tag}"', [])]
        omits = kind.__struct_config__.omit_defaults
        for field in info.fields:
            type_info = self._of(kind.__name__, field)
            optional = _is_unset(field) if sent and not omits else not field.required
            remarks = _limits(type_info)
            if optional and not sent and (default := _default(field)) is not None:
                remarks.append(f"default {default}")
            text = self._text(type_info)
            lines.append((f"{field.encode_name}{'?' if optional else ''}: {text}", remarks))
        return list(_aligned(lines))

    def shape(self, kind: Any, *, sent: bool) -> str:
        """A type as a block: a struct with its members, anything else in a line."""
        info = inspect.type_info(kind)
        if not isinstance(info, inspect.StructType):
            return self.text(kind)
        members = self.members(info.cls, sent=sent)
        if not members:
            return "{}"
        line = "{ " + ", ".join(members) + " }"
        if len(line) <= WIDTH and not any("//" in member for member in members):
            return line
        return "\n".join(["{", *(f"  {member}" for member in members), "}"])

    def _struct(self, kind: type[msgspec.Struct]) -> str:
        """A small struct as it is, another by its name."""
        inner = Shapes()
        line = inner.shape(kind, sent=True)
        if "\n" not in line and len(line) <= SMALL:
            self.shared.update(inner.shared)
            return line
        self.shared[kind.__name__] = kind
        return kind.__name__

    def _of(self, struct: str, field: inspect.Field) -> inspect.Type:
        known = RAW.get((struct, field.name))
        return field.type if known is None else inspect.type_info(known)

    def _text(self, info: inspect.Type) -> str:
        match info:
            case inspect.Metadata():
                return self._text(info.type)
            case inspect.UnionType():
                return " | ".join(self._text(each) for each in info.types)
            case inspect.LiteralType():
                return " | ".join(msgspec.json.encode(value).decode() for value in info.values)
            case inspect.ListType():
                inner = self._text(info.item_type)
                return f"({inner})[]" if " | " in inner else f"{inner}[]"
            case inspect.VarTupleType():
                return f"{self._text(info.item_type)}[]"
            case inspect.DictType():
                inner = self._text(info.value_type)
                return "object" if inner == "any" else f"{{ [key: string]: {inner} }}"
            case inspect.StructType():
                return self._struct(info.cls)
            case _:
                return PLAIN[type(info)]


def _members(info: inspect.Type) -> tuple[inspect.Type, ...]:
    return info.types if isinstance(info, inspect.UnionType) else (info,)


def _limits(info: inspect.Type) -> list[str]:
    said: list[str] = []
    for each in _members(info):
        least, most = getattr(each, "ge", None), getattr(each, "le", None)
        if least is not None or most is not None:
            said.append(f"{least} or more" if most is None else f"{least} to {most}")
        least, most = getattr(each, "min_length", None), getattr(each, "max_length", None)
        if most is not None:
            unit = "characters" if isinstance(each, inspect.StrType) else "items"
            said.append(f"{least or 0} to {most} {unit}")
        if getattr(each, "pattern", None):
            said.append("http or https")
    return said


def _is_unset(field: inspect.Field) -> bool:
    """Whether its default is to be left out; the inspection does not say that it is UNSET."""
    no = (NODEFAULT, UNSET)
    return not field.required and field.default in no and field.default_factory in no


def _default(field: inspect.Field) -> str | None:
    if field.default in (None, UNSET, NODEFAULT):
        return {list: "[]", dict: "{}"}.get(field.default_factory)  # type: ignore[arg-type, call-overload]
    return msgspec.json.encode(field.default).decode()


def _aligned(lines: list[tuple[str, list[str]]]) -> Iterator[str]:
    width = max((len(line) for line, remarks in lines if remarks), default=0)
    for line, remarks in lines:
        yield f"{line:{width}}  // {', '.join(remarks)}" if remarks else line
