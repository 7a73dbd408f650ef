"""The event log as it crosses the socket and lies on disk (protocol `engine.md` section 1, "Event log")."""

from __future__ import annotations

from time import time_ns
from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from car_trio.wire.proposals import timestamp


def event_time() -> str:
    """The wall clock in microseconds, as every record of ours has it."""
    return f"{timestamp(time_ns())[:26]}Z"


class Event(Struct):
    """A line of a connection's event log. What it is not about is left out."""

    id: str
    kind: str
    timestamp: str
    action_id: str | UnsetType = UNSET
    proposal_id: str | UnsetType = UNSET
    data: dict[str, Any] = {}


class QueryEvents(Struct, omit_defaults=True):
    """`events.query`. `data_matches`: members of `data` that must be equal to these."""

    kinds: Annotated[list[str], Meta(max_length=10_000)] | None = None
    action_id: str | None = None
    proposal_id: str | None = None
    since: str | None = None
    until: str | None = None
    data_matches: Annotated[dict[str, Raw], Meta(max_length=100)] | None = None
    limit: Annotated[int, Meta(ge=1)] | None = None


class EventsFound(Struct):
    count: int
    events: list[Raw]
