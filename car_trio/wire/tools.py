"""Tools, the calls back into them, and proposals as params (protocol `wire.md` sections 4 and 5)."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from car_trio.wire.pieces import MAX_MEMBERS

Members = Annotated[dict[str, Any], Meta(max_length=MAX_MEMBERS)]
"""A free-form object of a client's."""


class RateLimit(Struct):
    max_calls: int
    interval_secs: float


class Tool(Struct, omit_defaults=True):
    """A tool a client offers. `parameters` is its JSON Schema; `{}` or absent means unchecked."""

    name: str
    description: str | None = None
    parameters: Members | None = None
    returns: Any = None
    idempotent: bool = False
    cache_ttl_secs: float | None = None
    rate_limit: RateLimit | None = None


Tools = Annotated[list[Tool], Meta(max_length=10_000)]


class ToolList(Struct):
    tools: list[Tool]
    count: int


class UnregisterTool(Struct):
    name: str


class Unregistered(Struct):
    unregistered: str
    removed: int


class ExecuteTool(Struct):
    """Params of our request `tools.execute`. `session_id` is our id of the execution; `request_id` repeats the id."""

    action_id: str
    tool: str
    parameters: Any
    timeout_ms: int | None
    attempt: int
    request_id: str
    session_id: str


class CancelTool(Struct):
    """Params of our notification `tools.cancel`."""

    request_id: str
    action_id: str
    reason: str


class SubmitProposal(Struct, omit_defaults=True):
    """`proposal.submit`. The proposal stays raw: its bytes are checked for repeated keys before anything reads it."""

    proposal: Raw
    session_id: str | None = None
    scope: Members | UnsetType | None = UNSET
