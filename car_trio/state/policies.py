"""Policies: what may not run whatever a plan says (protocol `engine.md` section 1, "Policies").

A policy names the reason why an action may not run, or none. Reasons never quote a value of the action, because the
value may be the secret that the policy keeps. A policy that cannot answer rejects: an error must not open a door.

Registered policies belong to a connection, or to a policy session of it, and add up: nothing that is registered can
take away what another forbids. Equality here is of JSON values: 5 and 5.0 are different.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeGuard

import msgspec

from car_trio.wire.errors import invalid_params
from car_trio.wire.policies import PolicyLine, RegisterPolicy
from car_trio.wire.proposals import Action

MAX_POLICIES = 1000
MAX_POLICY_SESSIONS = 1000
MAX_POLICY_BYTES = 16 * 1024
_SIZED = frozenset((list, dict, str))

_sorted = msgspec.json.Encoder(order="sorted").encode


class State(Protocol):
    def get(self, key: str, default: Any = None, /) -> Any: ...

    def __contains__(self, key: object, /) -> bool: ...


Rule = Callable[[Action, State], str | None]
"""What an action violates, in words; None when nothing."""


class Policy(NamedTuple):
    name: str
    description: str
    rule: Rule
    key: str | None = None
    """Of the state, if the rule looks at it."""


def is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def text_of(value: Any) -> str:
    """The string form of a parameter: a string itself, anything else as compact JSON."""
    return value if isinstance(value, str) else _sorted(value).decode()


def is_same(one: Any, other: Any) -> bool:
    # A NaN, which a file may hold, is written as null.
    wanted = _sorted(other)
    return (one is None) == (other is None) and not outgrows(one, len(wanted)) and _sorted(one) == wanted


def outgrows(value: Any, most: int) -> bool:
    """Whether the value takes more than so many bytes for sure. Stops looking as soon as it does."""
    waiting, seen = [value], 0
    while waiting and seen <= most:
        place = waiting.pop()
        if is_list(place):
            seen += 2 * len(place) + 1
            waiting += _sized(place) if seen <= most else []
        elif is_object(place):
            seen += 5 * len(place) + 1
            waiting += _sized(place.values()) if seen <= most else []
        elif isinstance(place, str):
            seen += len(place)
    return seen > most


def _sized(items: Iterable[Any]) -> list[Any]:
    """Those that take more than the byte that is counted for each. Nearly all may be numbers, and very many."""
    return [each for each in items if each.__class__ in _SIZED]


def reasons(policies: Iterable[Policy], action: Action, state: State) -> Iterator[str]:
    """Why these policies reject the action: every one that does."""
    for policy in policies:
        try:
            said = policy.rule(action, state)
        except Exception as error:  # whatever it is, what could not be checked does not run
            said = f"could not be checked ({type(error).__name__})"
        if said is not None:
            yield f"policy '{policy.name}': {said}"


def calls(action: Action, tool: str | None) -> bool:
    """Whether the action calls this tool; None means any tool."""
    return action.type == "tool_call" and (tool is None or action.tool == tool)


# Registered policies


def _deny_tool(ask: RegisterPolicy) -> Policy:
    tool = _needed(ask, "target", ask.target)

    def rule(action: Action, state: State) -> str | None:
        return f"tool '{tool}' is denied" if calls(action, tool) else None

    return Policy(ask.name, f"deny_tool {tool}", rule)


def _deny_tool_param(ask: RegisterPolicy) -> Policy:
    tool, key = _needed(ask, "target", ask.target), _needed(ask, "key", ask.key)
    pattern = _needed(ask, "pattern", ask.pattern)

    def rule(action: Action, state: State) -> str | None:
        if not calls(action, tool) or key not in action.parameters:
            return None
        denied = pattern in text_of(action.parameters[key])
        return f"parameter '{key}' of tool '{tool}' has a denied value" if denied else None

    return Policy(ask.name, f"deny_tool_param {tool}.{key}", rule)


def _require_state(ask: RegisterPolicy) -> Policy:
    key, value = _needed(ask, "key", ask.key), ask.value
    if value is msgspec.UNSET:
        raise _lacks(ask, "value")
    target = ask.target

    def rule(action: Action, state: State) -> str | None:
        if not calls(action, target) or (key in state and is_same(state.get(key), value)):
            return None
        return f"state '{key}' does not have the required value"

    of = "every tool" if target is None else f"tool {target}"
    return Policy(ask.name, f"require_state {key} for {of}", rule, key)


_MAKERS = {"deny_tool": _deny_tool, "deny_tool_param": _deny_tool_param, "require_state": _require_state}


def _needed(ask: RegisterPolicy, field: str, value: str | None) -> str:
    if value is None:
        raise _lacks(ask, field)
    return value


def _lacks(ask: RegisterPolicy, field: str) -> Exception:
    return invalid_params(f"policy.register: rule {ask.rule} needs {field}")


def policy_of(ask: RegisterPolicy) -> Policy:
    """Raises Refusal (-32602) for a rule without what it needs, or one too large to be kept."""
    if not ask.name:
        raise invalid_params("policy.register: name must not be empty")
    if outgrows(ask.value, MAX_POLICY_BYTES) or len(msgspec.json.encode(ask)) > MAX_POLICY_BYTES:
        raise invalid_params(f"policy.register: a policy may have {MAX_POLICY_BYTES} bytes; shorten it")
    return _MAKERS[ask.rule](ask)


class PolicyBook:
    """The registered policies of one connection: those for all its proposals, and those of its policy sessions."""

    def __init__(self, session_id: str) -> None:
        self._own_id = session_id
        self._global: list[Policy] = []
        self._sessions: dict[str, list[Policy]] = {}

    def open(self) -> str:
        if len(self._sessions) >= MAX_POLICY_SESSIONS:
            raise invalid_params(
                f"session.policy.open: {MAX_POLICY_SESSIONS} policy sessions are open; close some first"
            )
        session_id = uuid.uuid4().hex
        self._sessions[session_id] = []
        return session_id

    def close(self, session_id: str) -> bool:
        return self._sessions.pop(session_id, None) is not None

    def scope(self, session_id: str | None, method: str) -> list[Policy]:
        """The policies of one scope, to read and to change. The connection's own id stands for all of it. Raises
        Refusal (-32602) for a policy session that is not open."""
        if session_id is None or session_id == self._own_id:
            return self._global
        try:
            return self._sessions[session_id]
        except KeyError:
            raise invalid_params(
                f"{method}: unknown session_id {session_id[:80]!r}; session.policy.open gives one"
            ) from None

    def register(self, asks: Iterable[RegisterPolicy]) -> int:
        """All or none. A second policy of the same name stands beside the first."""
        made = [(self.scope(ask.session_id, "policy.register"), policy_of(ask)) for ask in asks]
        if len(made) + self._count() > MAX_POLICIES:
            raise invalid_params(
                f"policy.register: a connection may have {MAX_POLICIES} policies; unregister some first"
            )
        for scope, policy in made:
            scope.append(policy)
        return len(made)

    def unregister(self, name: str, session_id: str | None) -> int:
        scope = self.scope(session_id, "policy.unregister")
        kept = [policy for policy in scope if policy.name != name]
        removed = len(scope) - len(kept)
        scope[:] = kept
        return removed

    def listed(self, session_id: str | None) -> list[PolicyLine]:
        scope = self.scope(session_id, "policy.list")
        return [PolicyLine(policy.name, policy.description) for policy in scope]

    def applying(self, session_id: str | None) -> Callable[[], Iterator[Policy]]:
        """What holds for a submit in this policy session, asked anew for each action: a policy that is registered
        while the plan runs holds for the rest of it. Closing the session takes nothing away from a plan under way."""
        scope = self.scope(session_id, "proposal.submit")

        def now() -> Iterator[Policy]:
            yield from self._global
            if scope is not self._global:
                yield from scope

        return now

    def _count(self) -> int:
        return len(self._global) + sum(map(len, self._sessions.values()))
