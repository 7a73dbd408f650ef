"""Why a document is not a proposal, in the words of the reference library (protocol `engine.md` section 5).

Looks at a document that msgspec refused, in the order in which it was written, and names the first thing that
is wrong, with a JSON pointer to it. Nothing here runs for a good proposal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, get_args

from car_trio.engine.values import compact, debug, is_list, is_object
from car_trio.wire.proposals import ActionType, FailureBehavior, InvocationMode, Reversibility

Path = tuple[str, ...]

_SYNTAX: Final = {
    "Extra data": "trailing characters",
    "Expecting property name enclosed in double quotes": "key must be a string",
    "Illegal trailing comma before end of object": "trailing comma",
    "Illegal trailing comma before end of array": "trailing comma",
    "Expecting ':' delimiter": "expected `:`",
    "Expecting ',' delimiter": "expected `,` or `}`",
    "Unterminated string starting at": "EOF while parsing a string",
    "Invalid control character at": "control character (\\u0000-\\u001F) found while parsing a string",
    "Invalid \\escape": "invalid escape",
}
"""Python's words for what stands where it must not, and serde_json's."""

Check = Callable[[Any, Path], None]


class Misfit(ValueError):  # noqa: N818 - an answer, not a defect
    """What is wrong, and where."""


def pointer(path: Sequence[str]) -> str:
    """RFC 6901; the document itself is `/`."""
    return "/" + "/".join(part.replace("~", "~0").replace("/", "~1") for part in path)


def misfit(document: Any) -> Misfit | None:
    """The first thing wrong with the document; None when nothing known here is."""
    try:
        _proposal(document, ())
    except Misfit as found:
        return found
    return None


def syntax_error(text: str | bytes | bytearray) -> str:
    """What is wrong with text that is not JSON, as serde_json says it."""
    try:
        string = text if isinstance(text, str) else text.decode()
        json.loads(string, parse_constant=_no_constant)
    except UnicodeDecodeError:
        reason = "invalid unicode code point at line 1 column 1"
    except RecursionError:
        reason = "recursion limit exceeded at line 1 column 128"
    except json.JSONDecodeError as error:
        reason = _as_serde(error)
    except ValueError:
        reason = "expected value at line 1 column 1"
    else:
        reason = "lone leading surrogate in hex escape at line 1 column 1"
    return reason


def _no_constant(name: str) -> Any:
    """Python's reader knows NaN and Infinity, JSON does not."""
    raise ValueError(name)


def _as_serde(error: json.JSONDecodeError) -> str:
    rest = error.doc[error.pos :]
    column = error.colno
    if not rest.strip():
        reason, column = "EOF while parsing a value", column - 1
    elif error.msg != "Expecting value":
        reason = _SYNTAX.get(error.msg, "expected value")
    else:
        # serde_json commits itself to `null`, `true` or `false` at the first letter.
        word = next((word for word in ("null", "true", "false") if word[0] == rest[0]), None)
        reason = "expected value" if word is None else "expected ident"
        column += next((i for i, letter in enumerate(word or "") if rest[i : i + 1] != letter), 0)
    return f"{reason} at line {error.lineno} column {column}"


def _unexpected(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return f"boolean `{'true' if value else 'false'}`"
        case int():
            return f"integer `{value}`"
        case float():
            return f"floating point `{compact(value)}`"
        case str():
            return f"string {debug(value)[7:-1]}"
        case dict():
            return "map"
        case _:
            return "sequence"


def _wrong_type(value: Any, expected: str, path: Path) -> Misfit:
    return Misfit(f"invalid type: {_unexpected(value)}, expected {expected} at {pointer(path)}")


def _of(kind: type, expected: str) -> Check:
    def check(value: Any, path: Path) -> None:
        if type(value) is not kind:
            raise _wrong_type(value, expected, path)

    return check


def _unsigned(bits: int) -> Check:
    def check(value: Any, path: Path) -> None:
        if type(value) is not int:
            raise _wrong_type(value, f"u{bits}", path)
        if not 0 <= value < 1 << bits:
            raise Misfit(f"invalid value: integer `{value}`, expected u{bits} at {pointer(path)}")

    return check


def _variant(names: Sequence[str]) -> Check:
    quoted = [f"`{name}`" for name in names]
    expected = " or ".join(quoted) if len(quoted) == 2 else f"one of {', '.join(quoted)}"

    def check(value: Any, path: Path) -> None:
        if not isinstance(value, str):
            raise Misfit(f"expected value at {pointer(path)}")
        if value not in names:
            raise Misfit(f"unknown variant `{value}`, expected {expected} at {pointer(path)}")

    return check


def _optional(check: Check) -> Check:
    def check_unless_null(value: Any, path: Path) -> None:
        if value is not None:
            check(value, path)

    return check_unless_null


def _list(check: Check) -> Check:
    def check_each(value: Any, path: Path) -> None:
        if not is_list(value):
            raise _wrong_type(value, "a sequence", path)
        for place, each in enumerate(value):
            check(each, (*path, str(place)))

    return check_each


def _object(name: str, fields: dict[str, Check], required: Sequence[str]) -> Check:
    def check(value: Any, path: Path) -> None:
        if not is_object(value):
            raise _wrong_type(value, name, path)
        for key, check_field in _known(value, fields):
            check_field(value[key], (*path, key))
        for key in required:
            if key not in value:
                raise Misfit(f"missing field `{key}` at {pointer((*path, key))}")

    return check


def _known(members: dict[str, Any], fields: dict[str, Check]) -> Iterator[tuple[str, Check]]:
    return ((key, fields[key]) for key in members if key in fields)


_string: Final = _of(str, "a string")
_flag: Final = _of(bool, "a boolean")
_map: Final = _of(dict, "a map")
_strings: Final = _list(_string)
_precondition: Final = _object(
    "struct Precondition", {"key": _string, "operator": _string, "description": _string}, ["key"]
)
_assumption: Final = _object(
    "struct Assumption", {"key": _string, "read_version": _optional(_unsigned(64))}, ["key"]
)
_compensations: Final = {
    "tool": _object("struct Compensation", {"tool": _string, "parameters": _map}, ["tool"]),
    "action_ref": _object("struct Compensation", {"action_id": _string}, ["action_id"]),
}


def _compensation(value: Any, path: Path) -> None:
    kind = _object("internally tagged enum Compensation", {"type": _variant([*_compensations])}, ["type"])
    kind(value, path)
    _compensations[value["type"]](value, path)


_action: Final = _object(
    "struct Action",
    {
        "id": _string,
        "type": _variant(get_args(ActionType)),
        "tool": _optional(_string),
        "parameters": _map,
        "preconditions": _list(_precondition),
        "expected_effects": _map,
        "state_dependencies": _strings,
        "read_set": _strings,
        "write_set": _strings,
        "assumptions": _list(_assumption),
        "invocation_mode": _variant(get_args(InvocationMode)),
        "reversibility": _variant(get_args(Reversibility)),
        "compensation": _optional(_compensation),
        "idempotent": _flag,
        "max_retries": _unsigned(32),
        "failure_behavior": _variant(get_args(FailureBehavior)),
        "timeout_ms": _optional(_unsigned(64)),
        "metadata": _map,
    },
    ["type"],
)
_proposal: Final = _object(
    "struct ActionProposal",
    {
        "id": _string,
        "source": _string,
        "actions": _list(_action),
        "timestamp": _of(str, "an RFC 3339 formatted date and time string"),
        "context": _map,
    },
    ["actions"],
)
