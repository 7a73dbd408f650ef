"""`session.*` and `server.*`: who is talking, and to whom (protocol `wire.md` section 3)."""

from __future__ import annotations

from car_trio.methods.context import Context
from car_trio.state.session import authenticate as decide
from car_trio.state.session import shake
from car_trio.wire.session import (
    PROTOCOL_VERSIONS,
    Authenticate,
    Authenticated,
    Handshake,
    Health,
    InitSession,
    NoParams,
    ServerName,
    SessionReady,
    Shaken,
)


def authenticate(context: Context, ask: Authenticate) -> Authenticated:
    if ask.agent_id is not None:
        context.daemon.check_name(ask.agent_id)
    return decide(context.session, ask, context.daemon.secrets, context.daemon.attachments)


def handshake(context: Context, ask: Handshake) -> Shaken:
    shake(context.session, ask)
    version = ask.protocol_version
    return Shaken(version, version, ServerName("car-trio", context.daemon.version))


def health(context: Context, _: NoParams) -> Health:
    degraded = context.daemon.store.degraded is not None
    return Health(
        ok=not degraded,
        version=context.daemon.version,
        protocol_versions=PROTOCOL_VERSIONS,
        uptime_secs=context.daemon.uptime(),
        auth_enabled=context.daemon.secrets is not None,
        store="degraded" if degraded else "ok",
        durability=context.daemon.durability,
    )


def init(context: Context, ask: InitSession) -> SessionReady:
    return SessionReady(context.session.id, context.session.register(ask.tools), 0)
