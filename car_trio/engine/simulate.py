"""The state a plan leads to, if its tools do what they declare (protocol `engine.md` section 7)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from car_trio.engine.model import parse, plain
from car_trio.engine.ordering import levels
from car_trio.engine.preconditions import failed_preconditions, missing_dependencies
from car_trio.engine.values import same
from car_trio.wire.proposals import Action, Proposal

_PROBES: Final[tuple[dict[str, Any], ...]] = ({}, {"x": 1, "y": 2})
"""Two plans are equivalent when they lead from each of these states to equal ones."""


def declared_writes(action: Action) -> Iterator[tuple[str, Any]]:
    """What the action says it writes. Expected effects come last, so they win over its own write."""
    if action.type == "state_write" and (key := action.key) is not None:
        yield key, action.parameters.get("value")
    yield from action.expected_effects.items()


def simulate(proposal: Any, state: Any = None) -> dict[str, Any]:
    """The final state. An action with a failing precondition or a missing dependency is skipped."""
    return _walk(parse(proposal), plain(state) or {})


def equivalent(p1: Any, p2: Any) -> bool:
    one = parse(p1, "invalid proposal1 JSON: ")
    other = parse(p2, "invalid proposal2 JSON: ")
    return all(same(_walk(one, probe), _walk(other, probe)) for probe in _PROBES)


def _walk(proposal: Proposal, initial: dict[str, Any]) -> dict[str, Any]:
    state = dict(initial)
    for level in levels(proposal.actions):
        for place in level:
            action = proposal.actions[place]
            if not _blocked(action, state):
                state.update(declared_writes(action))
    return state


def _blocked(action: Action, state: dict[str, Any]) -> bool:
    return any(failed_preconditions(action, state)) or any(missing_dependencies(action, state))
