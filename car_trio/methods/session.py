"""`session.*` and `server.*`: who is talking, and to whom (protocol `wire.md` section 3)."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

from msgspec import UNSET

from car_trio.methods.context import Context
from car_trio.methods.tools import offers
from car_trio.state.session import authenticate as decide
from car_trio.state.session import shake
from car_trio.state.tools import Offer
from car_trio.wire.policies import RegisterPolicy
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


class Beginning(NamedTuple):
    """`session.init` with its tools prepared."""

    offers: list[Offer]
    policies: list[RegisterPolicy]


def authenticate(context: Context, ask: Authenticate) -> Authenticated:
    if ask.agent_id is not None:
        context.daemon.check_name(ask.agent_id)
    daemon = context.daemon
    return decide(context.session, ask, daemon.secrets, daemon.attachments, daemon.web)


def handshake(context: Context, ask: Handshake) -> Shaken:
    shake(context.session, ask)
    version = ask.protocol_version
    return Shaken(version, version, ServerName("car-trio", context.daemon.version))


def health(context: Context, _: NoParams) -> Health:
    daemon, counted = context.daemon, context.session.host
    degraded = daemon.store.degraded is not None
    return Health(
        ok=not degraded,
        version=daemon.version,
        protocol_versions=PROTOCOL_VERSIONS,
        uptime_secs=daemon.uptime(),
        auth_enabled=daemon.secrets is not None,
        store="degraded" if degraded else "ok",
        durability=daemon.durability,
        connections=len(daemon.clients) if counted else UNSET,
        open_runs=daemon.runs.open_count if counted else UNSET,
        kept=daemon.kept if counted else UNSET,
    )


def prepared(context: Context, ask: InitSession) -> Generator[None, None, Beginning]:
    return Beginning((yield from offers(context, ask.tools)), ask.policies)


def init(context: Context, begin: Beginning) -> SessionReady:
    """Tools and policies, all or none."""
    session = context.session
    context.daemon.policies.require()
    session.check_room(begin.offers)
    policies = session.policies.register(begin.policies)
    return SessionReady(session.id, session.register(begin.offers), policies)
