"""Who is talking: `session.*`, `server.*` and `state.*` (protocol `wire.md` sections 3 and 5)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from car_trio.wire.policies import RegisterPolicy
from car_trio.wire.tools import Tools

PROTOCOL_VERSIONS = (2, 3)


class Authenticate(Struct, omit_defaults=True):
    """`session.auth`: the daemon's token, or the host's; `agent_id` binds the connection to an agent.

    On the page's port, and only there, it is a `web_code`, once, or the `web_session` that one gave."""

    token: str | None = None
    host_token: str | None = None
    agent_id: str | None = None
    memory_namespace: str | None = None
    web_code: str | None = None
    web_session: str | None = None


class Authenticated(Struct, omit_defaults=True):
    """`web_session` comes with a code alone; how long it lasts, with each use of it."""

    ok: Literal[True]
    auth_enabled: bool
    role: Literal["host"] | None = None
    agent_id: str | None = None
    web_session: str | None = None
    web_session_expires_in_secs: int | None = None


class Handshake(Struct, omit_defaults=True):
    protocol_version: int
    client_version: str | None = None
    required_capabilities: Annotated[list[str], Meta(max_length=10_000)] = []


class ServerName(Struct):
    name: str
    version: str


class Shaken(Struct):
    """No `server_version`: any value but the client's own makes 0.58 print a version-skew warning."""

    protocol_version: int
    client_protocol_version: int
    server: ServerName


class Kept(Struct):
    """How much of what has ended stays, as this daemon was started; `runs.md` section 3."""

    max_per_agent: int
    max_age_days: float
    keep_free_bytes: int


class Health(Struct):
    """The counts and limits are for the host role alone: anybody may ask how the daemon is, not how busy it is."""

    ok: bool
    version: str
    protocol_versions: tuple[int, ...]
    uptime_secs: float
    auth_enabled: bool
    store: Literal["ok", "degraded"]
    durability: str
    connections: int | UnsetType = UNSET
    open_runs: int | UnsetType = UNSET
    kept: Kept | UnsetType = UNSET


class InitSession(Struct, omit_defaults=True):
    tools: Tools = []
    policies: Annotated[list[RegisterPolicy], Meta(max_length=10_000)] = []


class SessionReady(Struct):
    session_id: str
    tools_registered: int
    policies_registered: int


class StateKey(Struct, omit_defaults=True):
    key: str
    tenant_id: str | None = None


class SetState(Struct, omit_defaults=True):
    key: str
    value: Raw | UnsetType = UNSET
    tenant_id: str | None = None


class WholeState(Struct, omit_defaults=True):
    tenant_id: str | None = None


class NoParams(Struct):
    """A method that takes nothing; what is sent anyway is ignored."""


JsonObject = dict[str, Any]
