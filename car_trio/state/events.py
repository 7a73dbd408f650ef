"""The ring of host events (protocol `host.md` section 2): numbered, the newest kept, offered to whoever subscribed.

An event is made once and shared. An approval's details are for its owner and for the host role: such an event has a
second form without them, and who asks gets the form that is his. Sizes are bounded at the door, so that the ring and
every subscriber's channel are bounded too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from itertools import islice
from typing import Protocol

import msgspec
from msgspec import UNSET, Raw, UnsetType

from car_trio.state.session import Session
from car_trio.wire.errors import invalid_params
from car_trio.wire.frames import DEEPEST_VALUE, notification
from car_trio.wire.host import HostEvent
from car_trio.wire.pieces import TooDeep, at_once, read_in_steps

NULL = Raw(b"null")
KEPT_EVENTS = 500
SHOWN_EVENTS = 100
MAX_PAYLOAD_BYTES = 64 * 1024
"""Of an event's payload or message, and of what an agent says about itself."""


def bounded(where: str, raw: Raw | UnsetType, most: int = MAX_PAYLOAD_BYTES) -> Raw:
    """A client's JSON, null when absent, read once so that it can be passed on. Raises Refusal (-32602)."""
    return at_once(readable(where, raw, most))


def readable(where: str, raw: Raw | UnsetType, most: int) -> Generator[None, None, Raw]:
    """The same in steps, for what can be large."""
    if raw is UNSET:
        return NULL
    payload = bytes(raw)
    if len(payload) > most:
        raise invalid_params(f"{where} has {len(payload)} bytes, at most {most} are possible; shorten it")
    try:
        if len(payload) <= 2 * DEEPEST_VALUE:  # it cannot nest deeper
            msgspec.json.decode(payload)
        else:
            yield from read_in_steps(payload, DEEPEST_VALUE)
    except (msgspec.MsgspecError, TooDeep) as error:
        raise invalid_params(f"{where} cannot be read back: {error}") from None
    return Raw(payload)


def bounded_text(where: str, text: str | None, most: int = MAX_PAYLOAD_BYTES) -> str:
    """A client's text, empty when absent. Raises Refusal (-32602)."""
    text = text or ""
    if len(text) > most:
        raise invalid_params(f"{where} has {len(text)} characters, at most {most} are possible; shorten it")
    return text


class Event:
    """An event on its way to hosts: encoded once per form, for the first who needs it."""

    __slots__ = ("_frames", "_full", "_hidden", "_owner")

    def __init__(self, full: HostEvent, hidden: Raw | None, owner: str | None) -> None:
        self._full = full
        self._hidden = full if hidden is None else msgspec.structs.replace(full, payload=hidden)
        self._owner = owner
        self._frames: dict[bool, bytes] = {}

    @property
    def sequence(self) -> int:
        return self._full.sequence

    def seen_by(self, session: Session) -> HostEvent:
        """The event as this connection may see it."""
        return self._full if sees_details(session, self._owner) else self._hidden

    def frame_for(self, session: Session) -> bytes:
        """The notification `host.event`."""
        shown = self.seen_by(session)
        is_full = shown is self._full
        if is_full not in self._frames:
            self._frames[is_full] = notification("host.event", shown)
        return self._frames[is_full]


def sees_details(session: Session, owner: str | None) -> bool:
    """Whether the details of what belongs to `owner` are for this connection."""
    return session.host or session.id == owner


class Watcher(Protocol):
    """A host that follows the events. `offer` never waits: a watcher that is too slow learns of its gap later."""

    def offer(self, event: Event, /) -> None: ...


class Events:
    """The ring and its subscribers, by connection."""

    def __init__(self, now: Callable[[], str], new_hex: Callable[[], str]) -> None:
        self._now = now
        self._new_hex = new_hex
        self._kept: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._watchers: dict[str, Watcher] = {}
        self.sequence = 0
        """Of the newest event."""

    def publish(
        self,
        kind: str,
        message: str,
        payload: Raw = NULL,
        *,
        agent_id: str | None = None,
        hidden: Raw | None = None,
        owner: str | None = None,
    ) -> Event:
        """Adds an event and offers it to everybody. `hidden` is the payload for those who may not see all of it."""
        self.sequence += 1
        event_id = f"event-{self._new_hex()}"
        full = HostEvent(event_id, self.sequence, self._now(), kind, agent_id, message, payload)
        event = Event(full, hidden, owner)
        self._kept.append(event)
        for watcher in list(self._watchers.values()):
            watcher.offer(event)
        return event

    def recent(self, session: Session, limit: int | None = None) -> list[HostEvent]:
        """The newest events, newest first. Raises Refusal (-32602) for a negative limit."""
        if limit is not None and limit < 0:
            raise invalid_params(f"host.events: limit is {limit}, expected 0 to {KEPT_EVENTS}")
        wanted = SHOWN_EVENTS if limit is None else min(limit, KEPT_EVENTS)
        return [event.seen_by(session) for event in islice(reversed(self._kept), wanted)]

    def watch(self, session_id: str, watcher: Watcher) -> None:
        """Every event from now on is offered to the watcher, in the place of an older one of the same connection."""
        self._watchers[session_id] = watcher

    def unwatch(self, session_id: str) -> None:
        self._watchers.pop(session_id, None)

    def is_watched_by(self, session_id: str) -> bool:
        return session_id in self._watchers
