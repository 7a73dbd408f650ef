"""Policies and policy sessions as they cross the socket (protocol `wire.md` section 5, `engine.md` section 1)."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

PolicyRule = Literal["deny_tool", "deny_tool_param", "require_state"]


class RegisterPolicy(Struct, omit_defaults=True):
    """`policy.register`, and an item of `session.init`'s `policies`."""

    name: str
    rule: PolicyRule
    target: str | None = None
    key: str | None = None
    pattern: str | None = None
    value: Any | UnsetType = UNSET
    session_id: str | None = None


class InScope(Struct):
    """The scope that is not the whole connection: one policy session of it."""

    session_id: str


Scope = Literal["global"] | InScope


class PolicyRegistered(Struct):
    registered: str
    scope: Scope


class ListPolicies(Struct, omit_defaults=True):
    session_id: str | None = None


class PolicyLine(Struct):
    name: str
    description: str


class PolicyList(Struct):
    policies: list[PolicyLine]
    scope: Scope


class UnregisterPolicy(Struct, omit_defaults=True):
    name: str
    session_id: str | None = None


class PolicyUnregistered(Struct):
    unregistered: str
    removed: int
    scope: Scope


class PolicySessionOpened(Struct):
    session_id: str


class ClosePolicySession(Struct):
    session_id: str


class PolicySessionClosed(Struct):
    closed: bool
