"""Policies from files: `<root>/policies/*.toml`, for every agent of the daemon (protocol `engine.md` section 1).

A file is read whole or not at all: an unknown rule, an unknown key or a value of the wrong type breaks it, because a
rule with a typo in it protects nobody. The names of these policies say what they are and never a value they look for.

Equality errs on the safe side: what is denied covers 5.0 when it says 5, what is allowed does not.
"""

from __future__ import annotations

import re
import tomllib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import jsonschema_rs
import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from car_trio.state.policies import Policy, Rule, State, calls, is_list, is_object, is_same, text_of
from car_trio.wire.proposals import Action

PATTERN_OPTIONS = jsonschema_rs.RegexOptions(size_limit=1024 * 1024, dfa_size_limit=4 * 1024 * 1024)

Name = Annotated[str, Meta(min_length=1)]
Scalar = str | int | float | bool | list[Any] | dict[str, Any]


class _Param(Struct, forbid_unknown_fields=True):
    tool: Name
    param: Name
    equals: Scalar | UnsetType = UNSET
    contains: str | UnsetType = UNSET


class _Allowed(Struct, forbid_unknown_fields=True):
    tool: Name
    param: Name
    allow: list[Scalar]


class _Matching(Struct, forbid_unknown_fields=True):
    tool: Name
    param: Name
    matches: str


class _Rate(Struct, frozen=True, forbid_unknown_fields=True):
    tool: Name
    max_calls: Annotated[int, Meta(ge=0)]
    interval_secs: Annotated[float, Meta(gt=0)]


class _File(Struct, forbid_unknown_fields=True):
    deny_tool: list[Name] = []
    deny_keyword: list[Name] = []
    deny_tool_param: list[_Param] = []
    allow_tool_param: list[_Allowed] = []
    deny_tool_param_matching: list[_Matching] = []
    rate_limit_tool: list[_Rate] = []


class BrokenPolicyFile(Exception):  # noqa: N818 - an answer, not a defect
    """A file that cannot be used: which, where in it, and why."""

    def __init__(self, name: str, line: int, why: str) -> None:
        super().__init__(f"{name}, line {line}: {why}")


class Window:
    """How many calls of a tool were admitted lately. One for each rule, for the whole daemon."""

    def __init__(self, tool: str, max_calls: int, interval_secs: float) -> None:
        self.tool = tool
        self._max_calls = max_calls
        self._interval = interval_secs
        self._admitted: deque[float] = deque()

    def is_full(self, now: float) -> bool:
        while self._admitted and self._admitted[0] + self._interval <= now:
            self._admitted.popleft()
        return len(self._admitted) >= self._max_calls

    def admit(self, now: float) -> None:
        self._admitted.append(now)


Windows = dict[tuple[str, int, "_Rate"], Window]
"""By file, place among equal rules of that file, and rule: a file that is read again keeps its unchanged windows."""


class FilePolicies(NamedTuple):
    """What the files say now. `check` these before an action, and count it in `windows` once it is admitted."""

    policies: Sequence[Policy] = ()
    windows: Windows = {}
    remarks: Sequence[str] = ()
    """What a person should correct although the files can be used: where, and what comes of it."""

    def admitted(self, action: Action, now: float) -> None:
        for window in self.windows.values():
            if calls(action, window.tool):
                window.admit(now)


def read(files: Sequence[tuple[str, str]], before: FilePolicies, clock: Callable[[], float]) -> FilePolicies:
    """The policies of these files (name and text), in their order. Raises `BrokenPolicyFile`."""
    policies: list[Policy] = []
    windows: Windows = {}
    remarks: list[str] = []
    for name, text in files:
        rules = _parsed(name, text)
        policies += _plain_policies(rules)
        for place, matching in enumerate(rules.deny_tool_param_matching):
            validator = _compiled(matching.matches)
            where = f"{name}, line {_line_of_rule(text, 'deny_tool_param_matching', place)}"
            if validator is None:
                remarks.append(f"{where}: the pattern does not compile, so tool '{matching.tool}' is denied")
            rule = (
                _uncompiled(matching.tool, where)
                if validator is None
                else _deny_matching(matching, validator)
            )
            policies.append(_policy(f"deny_tool_param_matching:{matching.tool}.{matching.param}", rule))
        for rate in rules.rate_limit_tool:
            place = sum(key[0] == name and key[2] == rate for key in windows)
            key = (name, place, rate)
            windows[key] = before.windows.get(key) or Window(rate.tool, rate.max_calls, rate.interval_secs)
            policies.append(_rate_limit(windows[key], clock))
    return FilePolicies(policies, windows, remarks)


# Reading


def _parsed(name: str, text: str) -> _File:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        raise BrokenPolicyFile(name, line, re.sub(r" \(at .*", "", str(error))) from None
    except RecursionError:
        raise BrokenPolicyFile(name, 1, "nests too deeply") from None
    try:
        return msgspec.convert(document, _File)
    except msgspec.ValidationError as error:
        said = str(error).replace("`", "")
        raise BrokenPolicyFile(name, _line_of(document, text, said), said) from None


def _line_of(document: dict[str, Any], text: str, said: str) -> int:
    """The line that a complaint is about: of the n-th table of a rule, of a key, or of the first unknown key."""
    path = re.search(r"at \$\.(\w+)(?:\[(\d+)\])?", said)
    if path is not None:
        return _line_of_rule(text, path[1], int(path[2] or 0))
    unknown = [key for key in document if key not in _File.__struct_fields__]
    return _first(_lines(text, rf"\s*[\[\"']*\s*{re.escape(unknown[0])}\b")) if unknown else 1


def _line_of_rule(text: str, key: str, place: int) -> int:
    """Of the n-th table of this name; of the key itself where the rules are not tables."""
    tables = _lines(text, rf"\s*\[\[\s*{key}\s*\]\]")
    return tables[place] if place < len(tables) else _first(_lines(text, rf"\s*{key}\b"))


def _lines(text: str, pattern: str) -> list[int]:
    return [n for n, line in enumerate(text.splitlines(), 1) if re.match(pattern, line)]


def _first(lines: list[int]) -> int:
    return lines[0] if lines else 1


# Rules


def _plain_policies(rules: _File) -> Iterator[Policy]:
    for tool in rules.deny_tool:
        yield _policy(f"deny_tool:{tool}", _deny_tool(tool))
    for keyword in rules.deny_keyword:
        yield _policy("deny_keyword", _deny_keyword(keyword))
    for param in rules.deny_tool_param:
        yield _policy(f"deny_tool_param:{param.tool}.{param.param}", _deny_param(param))
    for allowed in rules.allow_tool_param:
        yield _policy(f"allow_tool_param:{allowed.tool}.{allowed.param}", _allow_param(allowed))


def _policy(name: str, rule: Rule) -> Policy:
    return Policy(name, name, rule)


def _deny_tool(tool: str) -> Rule:
    def rule(action: Action, state: State) -> str | None:
        return f"tool '{tool}' is denied" if calls(action, tool) else None

    return rule


def _deny_keyword(keyword: str) -> Rule:
    def rule(action: Action, state: State) -> str | None:
        if not calls(action, None):
            return None
        for key, value in action.parameters.items():
            if keyword in text_of(value) or any(keyword in text for text in _strings(value)):
                return f"parameter '{'…' if keyword in key else key}' holds a denied keyword"
        return None

    return rule


def _strings(value: Any) -> Iterator[str]:
    """The strings inside, as they are: as JSON text they are escaped."""
    if isinstance(value, str):
        yield value
    elif is_list(value):
        for item in value:
            yield from _strings(item)
    elif is_object(value):
        for key, item in value.items():
            yield key
            yield from _strings(item)


def _deny_param(param: _Param) -> Rule:
    def rule(action: Action, state: State) -> str | None:
        if not calls(action, param.tool) or param.param not in action.parameters:
            return None
        value = action.parameters[param.param]
        if param.equals is not UNSET and not _is_equal(value, param.equals):
            return None
        if param.contains is not UNSET and param.contains not in text_of(value):
            return None
        return f"parameter '{param.param}' of tool '{param.tool}' is denied"

    return rule


def _is_equal(value: Any, other: Any) -> bool:
    numbers = [
        each for each in (value, other) if isinstance(each, int | float) and not isinstance(each, bool)
    ]
    return numbers[0] == numbers[1] if len(numbers) == 2 else is_same(value, other)


def _allow_param(allowed: _Allowed) -> Rule:
    def rule(action: Action, state: State) -> str | None:
        if not calls(action, allowed.tool):
            return None
        if allowed.param not in action.parameters:
            return f"parameter '{allowed.param}' of tool '{allowed.tool}' is missing"
        if any(is_same(action.parameters[allowed.param], each) for each in allowed.allow):
            return None
        return f"parameter '{allowed.param}' of tool '{allowed.tool}' is not on the allowed list"

    return rule


def _compiled(pattern: str) -> jsonschema_rs.Validator | None:
    try:
        return jsonschema_rs.validator_for({"pattern": pattern}, pattern_options=PATTERN_OPTIONS)
    except ValueError:
        return None


def _deny_matching(matching: _Matching, validator: jsonschema_rs.Validator) -> Rule:
    def rule(action: Action, state: State) -> str | None:
        if not calls(action, matching.tool) or matching.param not in action.parameters:
            return None
        if not validator.is_valid(text_of(action.parameters[matching.param])):
            return None
        return f"parameter '{matching.param}' of tool '{matching.tool}' matches a denied pattern"

    return rule


def _uncompiled(tool: str, where: str) -> Rule:
    said = f"tool '{tool}' is denied: the pattern in {where} does not compile"

    def rule(action: Action, state: State) -> str | None:
        return said if calls(action, tool) else None

    return rule


def _rate_limit(window: Window, clock: Callable[[], float]) -> Policy:
    def rule(action: Action, state: State) -> str | None:
        if not calls(action, window.tool) or not window.is_full(clock()):
            return None
        return f"tool '{window.tool}' was called too often lately; try again later"

    return _policy(f"rate_limit_tool:{window.tool}", rule)
