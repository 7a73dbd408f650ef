"""What must hold before an action runs (protocol `engine.md` section 6), and the words for what does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import ge, gt, le, lt
from typing import Any, Final, Protocol

from car_trio.engine.values import debug, is_number, same, text
from car_trio.wire.pieces import opened
from car_trio.wire.proposals import Action, Precondition

_ABSENT: Final = object()
_COMPARISONS: Final[dict[str, Callable[[float, float], bool]]] = {"gt": gt, "lt": lt, "gte": ge, "lte": le}


class Readable(Protocol):
    """State that can be asked. A dict is one. A large value may be given as the JSON that it is kept as (`Raw`)."""

    def get(self, key: str, default: Any = None, /) -> Any: ...

    def __contains__(self, key: object, /) -> bool: ...


def failed_preconditions(action: Action, state: Readable) -> Iterator[str]:
    for precondition in action.preconditions:
        if (problem := problem_with(precondition, state)) is not None:
            yield problem


def missing_dependencies(action: Action, state: Readable) -> Iterator[str]:
    return (key for key in action.state_dependencies if key not in state)


def problem_with(precondition: Precondition, state: Readable) -> str | None:
    """Why the precondition does not hold; None when it does."""
    key, operator = precondition.key, precondition.operator
    current = state.get(key, _ABSENT)
    if operator == "exists":
        return f"key '{key}' does not exist" if current is _ABSENT else None
    if operator == "not_exists":
        return f"key '{key}' exists" if current is not _ABSENT else None
    if current is _ABSENT:
        reason = f"key '{key}' has no value"
        return f"{reason}, cannot check contains" if operator == "contains" else reason
    return _mismatch(key, operator, opened(current), precondition.value)


def is_about_content(precondition: Precondition) -> bool:
    """Whether it takes more than to know that there is a value."""
    return precondition.operator not in ("exists", "not_exists")


def wrong_value(key: str | None, value: Any, expected: Any) -> str | None:
    """Why an assertion does not hold; None when it does."""
    current = opened(value)
    if same(current, expected):
        return None
    return f"assertion failed: state['{key}'] = {debug(current)}, expected {debug(expected)}"


def _mismatch(key: str, operator: str, current: Any, wanted: Any) -> str | None:
    match operator:
        case "eq":
            return None if same(current, wanted) else f"'{key}' is {debug(current)}, need {debug(wanted)}"
        case "neq":
            return f"'{key}' is {debug(current)}, must not be" if same(current, wanted) else None
        case "contains":
            return None if text(wanted) in text(current) else f"key '{key}' does not contain {debug(wanted)}"
        case "gt" | "lt" | "gte" | "lte":
            if not (is_number(current) and is_number(wanted)):
                return f"cannot compare '{key}': {debug(current)} {operator} {debug(wanted)}"
            if _COMPARISONS[operator](current, wanted):
                return None
            return f"'{key}' is {debug(current)}, need {operator} {debug(wanted)}"
        case _:
            return f"unknown operator '{operator}'"
