"""Looking for what will go wrong before anything runs (protocol `engine.md` section 7).

One walk over the levels of the plan with the state that is known, then the pairs of writers that share a key.
Every finding is an issue under the name of the check that made it, so the evidence counts itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, Final, Literal, NamedTuple

from car_trio.engine.evidence import Grounds, evidence
from car_trio.engine.model import parse, plain
from car_trio.engine.ordering import levels, writers
from car_trio.engine.preconditions import failed_preconditions, missing_dependencies
from car_trio.engine.schemas import schema_problems
from car_trio.engine.simulate import declared_writes
from car_trio.engine.values import identity
from car_trio.wire.proposals import Action, ActionCompensation, ToolCompensation

MAX_ACTIONS: Final = 30
LOOP: Final = 3
"""So many identical tool calls are an error; fewer, but more than one, are worth a warning."""


class Issue(NamedTuple):
    check: str
    action_id: str
    message: str
    severity: Literal["error", "warning"] = "error"

    def plain(self) -> dict[str, str]:
        return {
            "action_id": self.action_id,
            "message": self.message,
            "severity": self.severity,
            "tier": "heuristic" if self.check == "loop_detection" else "decision_procedure",
        }


class Registry(NamedTuple):
    """The tools that are known: by name, by schema, or not at all."""

    names: frozenset[str] | None
    schemas: dict[str, Any] | None

    def lacks(self, tool: str) -> bool:
        """Whether the tool is known not to exist. Schemas take precedence over names."""
        known = self.names if self.schemas is None else self.schemas
        return known is not None and tool not in known

    @property
    def given(self) -> bool:
        return self.names is not None or self.schemas is not None


def verify(
    proposal: Any,
    initial_state: Any = None,
    tool_names: Any = None,
    max_actions: int | None = None,
    tool_schemas: Any = None,
) -> dict[str, Any]:
    """`{conflicts, evidence, execution_levels, issues, simulated_state, valid}`."""
    actions = parse(proposal).actions
    limit = MAX_ACTIONS if max_actions is None else max_actions
    registry = _registry(plain(tool_names), plain(tool_schemas))
    state: dict[str, Any] = dict(plain(initial_state) or {})
    order = levels(actions)
    conflicts = list(_write_conflicts(actions))
    issues = [
        *_bounds(actions, limit),
        *_loops(actions),
        *_walk(actions, order, state, registry),
        *map(_conflict_issue, conflicts),
    ]
    return {
        "conflicts": [list(conflict) for conflict in conflicts],
        "evidence": evidence(actions, _grounds(actions, issues, registry, limit)),
        "execution_levels": [[actions[place].id for place in level] for level in order],
        "issues": [issue.plain() for issue in issues],
        "simulated_state": state,
        "valid": all(issue.severity != "error" for issue in issues),
    }


def _registry(names: Iterable[str] | None, schemas: Iterable[dict[str, Any]] | None) -> Registry:
    return Registry(
        None if names is None else frozenset(names),
        None if schemas is None else {each["name"]: each.get("parameters") for each in schemas},
    )


def _grounds(actions: Sequence[Action], issues: Sequence[Issue], registry: Registry, limit: int) -> Grounds:
    findings: dict[str, int] = {}
    for issue in issues:
        findings[issue.check] = findings.get(issue.check, 0) + 1
    skipped: set[str] = set()
    if not registry.given:
        skipped.add("tool_existence")
        if not any(map(_concerns_compensation, actions)):
            skipped.add("compensation_resolution")
    if registry.schemas is None:
        skipped.add("param_schema")
    warnings = sum(issue.severity == "warning" for issue in issues)
    return Grounds(
        findings, skipped, limit, registry.names is not None, registry.schemas is not None, warnings
    )


def _concerns_compensation(action: Action) -> bool:
    return isinstance(action.compensation, ActionCompensation) or _lacks_compensation(action)


def _lacks_compensation(action: Action) -> bool:
    return action.reversibility == "compensable" and action.compensation is None


def _bounds(actions: Sequence[Action], limit: int) -> Iterator[Issue]:
    if len(actions) > max(limit, 0):
        message = f"excessive actions: {len(actions)} (limit {limit})"
        yield Issue("resource_bounds", actions[0].id, message, "warning")


def _loops(actions: Sequence[Action]) -> Iterator[Issue]:
    by_tool: dict[str, list[Action]] = {}
    for action in actions:
        if action.type == "tool_call" and action.tool is not None:
            by_tool.setdefault(action.tool, []).append(action)
    for tool, calls in by_tool.items():
        if len(calls) > 1:
            yield from _repeated(tool, calls)


def _repeated(tool: str, calls: Sequence[Action]) -> Iterator[Issue]:
    times: dict[bytes, int] = {}
    for call in calls:
        parameters = identity(call.parameters)
        times[parameters] = times.get(parameters, 0) + 1
    for count in times.values():
        if count >= LOOP:
            message = f"repeated identical tool call: {tool} ({count}x) — likely loop"
            yield Issue("loop_detection", "proposal", message)
        elif count > 1:
            message = f"duplicate tool call: {tool} ({count}x)"
            yield Issue("loop_detection", "proposal", message, "warning")


def _walk(
    actions: Sequence[Action], order: Sequence[Sequence[int]], state: dict[str, Any], registry: Registry
) -> Iterator[Issue]:
    """The findings of each action in turn. Its effects reach the state even when it is blocked."""
    ids = {action.id for action in actions}
    for level in order:
        for place in level:
            action = actions[place]
            for problem in failed_preconditions(action, state) if action.preconditions else ():
                yield Issue("preconditions", action.id, f"precondition will fail: {problem}")
            for key in missing_dependencies(action, state) if action.state_dependencies else ():
                message = f"state dependency '{key}' not available at this point"
                yield Issue("state_dependencies", action.id, message)
            if action.type == "tool_call":
                yield from _tool_call(action, registry)
            if action.compensation is not None or action.reversibility == "compensable":
                yield from _compensation(action, ids, registry)
            if action.expected_effects or action.type == "state_write":
                state.update(declared_writes(action))


def _tool_call(action: Action, registry: Registry) -> Iterator[Issue]:
    tool = action.tool
    if tool is None:
        yield Issue("tool_existence", action.id, "tool_call action has no tool specified")
    elif registry.lacks(tool):
        yield Issue("tool_existence", action.id, f"tool '{tool}' is not registered")
    elif registry.schemas is not None:
        for problem in schema_problems(tool, registry.schemas[tool], action.parameters):
            yield Issue("param_schema", action.id, problem)


def _compensation(action: Action, ids: set[str], registry: Registry) -> Iterator[Issue]:
    message = None
    match action.compensation:
        case None if _lacks_compensation(action):
            message = "action declares reversibility 'compensable' but no compensation"
        case ToolCompensation(tool=tool) if registry.lacks(tool):
            message = f"compensation names tool '{tool}', which is not registered"
        case ActionCompensation(action_id=other) if other not in ids:
            message = f"compensation references action '{other}', which is not in this proposal"
        case _:
            return
    yield Issue("compensation_resolution", action.id, message)


def _write_conflicts(actions: Sequence[Action]) -> Iterator[tuple[str, str, str]]:
    for key, places in writers(actions).items():
        for earlier, later in combinations(places, 2):
            one, other = actions[earlier], actions[later]
            if key not in one.state_dependencies and key not in other.state_dependencies:
                yield one.id, other.id, key


def _conflict_issue(conflict: tuple[str, str, str]) -> Issue:
    earlier, later, key = conflict
    message = f"write conflict on '{key}' with action {later} (no dependency declared)"
    return Issue("write_conflicts", earlier, message, "warning")
