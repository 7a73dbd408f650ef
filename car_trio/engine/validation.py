"""Parameters against a tool's whole JSON Schema (protocol `engine.md` section 1, "Tools").

A schema comes from a client and is hostile input. It is bounded before it is compiled, once, when the tool is
registered: its size, its depth, its patterns, and what it grows to when every reference is put in place, because a
short schema of references that fan out can take longer than the universe. Only references to a place inside the
schema (`#…`) exist; nothing is ever fetched. Patterns run in an engine without backtracking.

A recursive schema costs by the depth of what is checked: when it refers to itself more than once, the parameters may
not be so deep that the product passes the same bound; then they are refused, never let through unchecked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final
from urllib.parse import unquote

import jsonschema_rs
import msgspec

from car_trio.engine.schemas import schema_problems
from car_trio.engine.values import is_list, is_object
from car_trio.wire.frames import DEEPEST_VALUE
from car_trio.wire.parts import encoded_parts

MAX_BYTES: Final = 256 * 1024
MAX_PATTERNS: Final = 64
MAX_PLACES: Final = 5_000
"""Places of a schema with every reference put in place."""
MAX_GROWTH: Final = 1_000_000
"""What the places of a recursive schema may become by the depth of the parameters."""
MAX_WORK: Final = 1_000_000_000
"""Places of a schema times bytes of parameters."""
MAX_SHOWN: Final = 8
LISTED_BYTES: Final = 16 * 1024
"""Of larger parameters only the first violation is told: listing them all costs more than finding one."""
PATTERN_OPTIONS: Final = jsonschema_rs.RegexOptions(size_limit=128 * 1024, dfa_size_limit=4 * 1024 * 1024)


_FLAT: Final = frozenset((str, int, float, bool, type(None)))


class BadSchema(ValueError):  # noqa: N818 - an answer, not a defect
    """The schema cannot be used; the text says why."""


class ParameterCheck:
    """A tool's compiled schema. Raises `BadSchema` when it cannot be compiled, or is too large to be."""

    def __init__(self, tool: str, schema: dict[str, Any]) -> None:
        if (size := len(msgspec.json.encode(schema))) > MAX_BYTES:
            raise BadSchema(f"has {size} bytes, at most {MAX_BYTES} are possible")
        self._tool = tool
        self._schema = schema
        self._measure = _Measure(schema)
        try:
            self._validator = jsonschema_rs.validator_for(
                schema, retriever=_refuse, pattern_options=PATTERN_OPTIONS
            )
        except ValueError as error:
            raise BadSchema(str(error).partition("\n")[0]) from None

    def problems(self, parameters: dict[str, Any]) -> list[str]:
        """Why the tool may not be called with these, without any of their values; empty when it may."""
        size = _size(parameters)
        if self._is_too_much(parameters, size):
            return [
                f"tool '{self._tool}': the parameters are too large or too deep to be checked by its schema"
            ]
        if self._validator.is_valid(parameters):
            return []
        said = list(islice(schema_problems(self._tool, self._schema, parameters), MAX_SHOWN))
        said += islice(self._violations(parameters, size), MAX_SHOWN)
        return said or [f"tool '{self._tool}': parameter '/' violates its schema"]

    def _is_too_much(self, parameters: dict[str, Any], size: int) -> bool:
        places, loops = self._measure.places, self._measure.loops
        return places * size > MAX_WORK or (loops > 1 and places * loops ** _depth(parameters) > MAX_GROWTH)

    def _violations(self, parameters: dict[str, Any], size: int) -> Iterator[str]:
        """What `schema_problems` does not say."""
        for error in self._errors(parameters, size):
            keyword, path = error.kind.name, error.instance_path
            is_said = (keyword == "required" and not path) or (keyword == "type" and len(path) == 1)
            if not is_said:
                yield f"tool '{self._tool}': parameter '{_pointer(path)}' violates {keyword}"

    def _errors(self, parameters: dict[str, Any], size: int) -> Iterable[jsonschema_rs.ValidationError]:
        if size <= LISTED_BYTES:
            return self._validator.iter_errors(parameters)
        try:
            self._validator.validate(parameters)
        except jsonschema_rs.ValidationError as error:
            return [error]
        return []  # pragma: no cover - it was not valid a moment ago


def _refuse(uri: str) -> Any:
    raise ValueError("only references inside the schema itself (#/…) are possible")


def _pointer(path: list[str | int]) -> str:
    return "/" + "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _depth(value: Any) -> int:
    depth = 0
    layer = [value]
    while layer := [inner for outer in layer for inner in _members(outer)]:
        depth += 1
    return depth


def _members(value: Any) -> list[Any]:
    if is_object(value):
        return list(value.values())
    return value if is_list(value) else []


class _Measure:
    """One walk over a schema with every reference put in place. Raises `BadSchema` beyond the bounds.

    `places` counts what it passed, `loops` the references that lead back to a place that they are in.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self.places = self.loops = 0
        self._schema = schema
        self._within: list[int] = []
        self._patterns: set[int] = set()
        self._refers = self._renames = False
        self._walk(schema, 0)
        if self._refers and self._renames:
            raise BadSchema(
                "has a $id inside and references; one makes the other lead elsewhere, leave $id out"
            )

    def _walk(self, place: Any, depth: int) -> None:
        self.places += 1
        if self.places > MAX_PLACES:
            raise BadSchema(f"has more than {MAX_PLACES} places when its references are put in place")
        if depth > DEEPEST_VALUE:
            raise BadSchema(f"nests more than {DEEPEST_VALUE} deep")
        self._within.append(id(place))
        for inner in _members(place):
            self._walk(inner, depth + 1)
        if is_object(place):
            self._note(place)
            self._follow(place, depth)
        self._within.pop()

    def _note(self, place: dict[str, Any]) -> None:
        if isinstance(place.get("pattern"), str):
            self._patterns.add(id(place))
        if is_object(by_pattern := place.get("patternProperties")):
            self._patterns.update(map(id, by_pattern))
        if len(self._patterns) > MAX_PATTERNS:
            raise BadSchema(f"has more than {MAX_PATTERNS} patterns")
        if place is not self._schema and isinstance(place.get("$id", place.get("id")), str):
            self._renames = True

    def _follow(self, place: dict[str, Any], depth: int) -> None:
        if isinstance(place.get("$dynamicRef"), str) or isinstance(place.get("$recursiveRef"), str):
            raise BadSchema("uses $dynamicRef or $recursiveRef; only $ref with #/… is possible")
        reference = place.get("$ref")
        if not isinstance(reference, str):
            return
        self._refers = True
        target = _resolved(self._schema, reference)
        if id(target) in self._within:
            self.loops += 1
        else:
            self._walk(target, depth + 1)


def _resolved(schema: dict[str, Any], reference: str) -> Any:
    """The place that a reference leads to."""
    if reference != "#" and not reference.startswith("#/"):
        raise BadSchema(
            "refers to something outside of itself; only $ref to a place inside (#/…) is possible"
        )
    found: Any = schema
    for part in reference.split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if is_object(found) and name in found:
            found = found[name]
        elif is_list(found) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise BadSchema(f"refers to {reference[:80]!r}, which is not there")
    return found


def _size(parameters: dict[str, Any]) -> int:
    """Of their JSON. What holds more than a few values is not encoded in one call: no thread goes on meanwhile."""
    if _FLAT.issuperset(map(type, parameters.values())):
        return len(msgspec.json.encode(parameters))
    return sum(map(len, encoded_parts(parameters)))
