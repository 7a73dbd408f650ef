"""Parameters against a tool's JSON Schema, as far as `verify` looks (protocol `engine.md` section 7).

Only `required` and the types of top-level properties are checked; a keyword or a type name that is not known
passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from car_trio.engine.values import is_list, is_number, is_object


def schema_problems(tool: str, schema: Any, parameters: dict[str, Any]) -> Iterator[str]:
    if not is_object(schema):
        return
    for name in _list(schema.get("required")):
        if isinstance(name, str) and name not in parameters:
            yield f"tool '{tool}': missing required parameter '{name}'"
    properties = schema.get("properties")
    if not is_object(properties):
        return
    for name, rule in sorted(properties.items()):
        if name in parameters and (expected := _unmet(rule, parameters[name])):
            found = type_name(parameters[name])
            yield f"tool '{tool}': parameter '{name}' has wrong type: expected {expected}, got {found}"


def type_name(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            return "number"


def _unmet(rule: Any, value: Any) -> str | None:
    """The types that the rule allows, when the value is of none of them."""
    declared = rule.get("type") if is_object(rule) else None
    types = [each for each in (_list(declared) or [declared]) if isinstance(each, str)]
    if not types or any(_is_a(value, each) for each in types):
        return None
    return "|".join(types)


def _is_a(value: Any, name: str) -> bool:
    match name:
        case "integer":
            return is_number(value) and value % 1 == 0
        case "null" | "boolean" | "string" | "array" | "object" | "number":
            return type_name(value) == name
        case _:
            return True


def _list(value: Any) -> list[Any]:
    return value if is_list(value) else []
