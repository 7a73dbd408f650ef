"""A host's state without a daemon: a clock that the test moves, ids that count, lines that are kept."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from car_trio.state.approvals import read_details
from car_trio.state.chat import Chats
from car_trio.state.host import Host
from car_trio.state.session import Session
from car_trio.wire.host import RegisterAgent, RequestApproval, ResolveApproval
from car_trio.wire.pieces import at_once
from car_trio.wire.runs import rfc3339

START = datetime(2026, 11, 20, tzinfo=UTC)


class Ticket:
    """A promise that is kept at once."""

    def then(self, settled: Any) -> None:
        settled(None)


class Stage:
    """`seconds` is the clock, the wall clock is `wrong_by` so many; `lines` what was written; `due` the earliest time
    that was asked for; `told` what chats sent, as (connection, method, params)."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.wrong_by = 0.0
        self.lines: list[dict[str, Any]] = []
        self.due = math.inf
        self.told: list[tuple[str, str, dict[str, Any]]] = []
        self.counters: Counter[str] = Counter()
        self._ids = itertools.count(1)
        self.host = Host(
            now=self.now,
            clock=lambda: self.seconds,
            new_hex=lambda: f"{next(self._ids):012x}",
            log=self._log,
            due=self._due,
        )
        self.chats = Chats(
            tell=self._tell,
            clock=lambda: self.seconds,
            new_id=lambda: f"{next(self._ids)}",
            due=self._due,
            counters=self.counters,
        )
        self.agents, self.approvals, self.events = self.host.agents, self.host.approvals, self.host.events

    def now(self) -> str:
        return rfc3339(START + timedelta(seconds=self.seconds + self.wrong_by))

    def _log(self, line: bytes) -> Ticket:
        self.lines.append(msgspec.json.decode(line))
        return Ticket()

    def _due(self, at: float) -> None:
        self.due = min(self.due, at)

    def _tell(self, session_id: str, method: str, params: object) -> None:
        self.told.append((session_id, method, msgspec.json.decode(msgspec.json.encode(params))))

    def kinds(self) -> list[str]:
        """The kinds of all events, oldest first."""
        return [event.kind for event in reversed(self.events.recent(HOST, 500))]

    def last(self, session: Session | None = None) -> Any:
        """The newest event, with its payload decoded, as this connection sees it."""
        event = self.events.recent(session or HOST, 1)[0]
        return msgspec.json.decode(msgspec.json.encode(event))

    def register(self, session: Session, agent_id: str = "x", **fields: Any) -> Any:
        return self.agents.register(session, RegisterAgent(id=agent_id, name=agent_id, kind="test", **fields))

    def request(self, session: Session, details: Any = None, **fields: Any) -> Any:
        raw = UNSET if details is None else Raw(msgspec.json.encode(details))
        ask = RequestApproval(action="do it", details=at_once(read_details("details", raw)), **fields)
        return self.approvals.request(session, ask)

    def gate(self, session: Session, method: str, params: bytes, timeout: float, ended: Any) -> str:
        read = at_once(read_details("params", Raw(params)))
        return self.approvals.gate(session, method, read, timeout, ended)

    def resolve(
        self, session: Session, approval_id: str, resolution: str | None = "approve", **fields: Any
    ) -> Any:
        return self.approvals.resolve(session, ResolveApproval(approval_id, resolution, **fields))

    def shown(self, agent_id: str = "x") -> str | None:
        """The status that screens show."""
        return next((agent.status for agent in self.agents.listed(HOST) if agent.id == agent_id), None)


class Watcher:
    """Takes everything."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def offer(self, event: Any) -> None:
        self.events.append(event)


def unbound(name: str = "screen") -> Session:
    return Session(name, authenticated=True)


def bound(agent_id: str) -> Session:
    return Session(f"of-{agent_id}", authenticated=True, agent_id=agent_id)


def host(name: str = "host") -> Session:
    return Session(name, authenticated=True, host=True)


HOST = host("the-tests-own-eye")
