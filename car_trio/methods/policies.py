"""`policy.*`, `session.policy.*`, `replan.set_config`: what a connection asks for beyond the daemon's own policies
(protocol `engine.md` section 1, `wire.md` section 5)."""

from __future__ import annotations

from car_trio.methods.context import Context
from car_trio.wire.analysis import ReplanConfig
from car_trio.wire.policies import (
    ClosePolicySession,
    InScope,
    ListPolicies,
    PolicyList,
    PolicyRegistered,
    PolicySessionClosed,
    PolicySessionOpened,
    PolicyUnregistered,
    RegisterPolicy,
    Scope,
    UnregisterPolicy,
)
from car_trio.wire.session import NoParams


def _scope(session_id: str | None) -> Scope:
    return "global" if session_id is None else InScope(session_id)


def register(context: Context, ask: RegisterPolicy) -> PolicyRegistered:
    context.daemon.policies.require()
    context.session.policies.register([ask])
    return PolicyRegistered(ask.name, _scope(ask.session_id))


def listed(context: Context, ask: ListPolicies) -> PolicyList:
    context.daemon.policies.require()
    return PolicyList(context.session.policies.listed(ask.session_id), _scope(ask.session_id))


def unregister(context: Context, ask: UnregisterPolicy) -> PolicyUnregistered:
    context.daemon.policies.require()
    removed = context.session.policies.unregister(ask.name, ask.session_id)
    return PolicyUnregistered(ask.name, removed, _scope(ask.session_id))


def open_session(context: Context, _: NoParams) -> PolicySessionOpened:
    return PolicySessionOpened(context.session.policies.open())


def close_session(context: Context, ask: ClosePolicySession) -> PolicySessionClosed:
    return PolicySessionClosed(context.session.policies.close(ask.session_id))


def set_replan(context: Context, ask: ReplanConfig) -> ReplanConfig:
    """Accepted and reported; nothing replans here."""
    context.session.replan = ask
    return ask
