"""The event log of one connection (protocol `engine.md` section 1, "Event log").

Events are encoded when they happen and handed to the journal in bunches: when the plan is about to wait, when it is
done, at a run's end, or when many have gathered. They are a log, not the record: runs are what must not be lost. Long
texts are cut, and no parameter gets in but as a digest, which is how an event joins a turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET

from car_trio.state.policies import is_list
from car_trio.state.run import Ticket
from car_trio.wire.events import Event
from car_trio.wire.frames import encode
from car_trio.wire.parts import encoded_parts
from car_trio.wire.proposals import Action

MAX_WAITING = 64
MAX_TEXT = 1024
MAX_ITEMS = 64

_sorted = msgspec.json.Encoder(order="sorted").encode


def digest_of(parameters: dict[str, Any]) -> str:
    """SHA-256 of the parameters as compact JSON with sorted keys, in hex."""
    return hashlib.sha256(_sorted(parameters)).hexdigest()


def patient_digest_of(parameters: dict[str, Any]) -> str:
    """The same of large ones, for a thread: others go on meanwhile."""
    digest = hashlib.sha256()
    for part in encoded_parts(parameters, in_order=True):
        digest.update(part)
    return digest.hexdigest()


class EventLog:
    """The events of a connection. `write` hands the client's lines to the journal, and says whether they are the
    last; `count` is how many events there are."""

    __slots__ = ("_client_id", "_now", "_waiting", "_write", "count", "ticket")

    def __init__(
        self, client_id: str, write: Callable[[str, bytes, bool], Ticket], now: Callable[[], str]
    ) -> None:
        self._client_id = client_id
        self._write = write
        self._now = now
        self._waiting: list[bytes] = []
        self.ticket: Ticket | None = None
        self.count = 0

    def note(
        self, kind: str, data: dict[str, Any], *, action_id: str | None = None, proposal_id: str | None = None
    ) -> None:
        event = Event(
            f"{self._client_id}-{self.count}",
            kind,
            self._now(),
            UNSET if action_id is None else _cut(action_id),
            UNSET if proposal_id is None else _cut(proposal_id),
            _bounded(data),
        )
        self.count += 1
        self._waiting.append(encode(event))
        if len(self._waiting) >= MAX_WAITING:
            self.flush()

    def flush(self) -> None:
        """Hands over what has gathered. `ticket` is then about the last of it."""
        if self._waiting:
            lines, self._waiting = b"\n".join(self._waiting), []
            self.ticket = self._write(self._client_id, lines, False)

    def close(self) -> None:
        """The connection is over: nothing follows."""
        lines, self._waiting = b"\n".join(self._waiting), []
        if lines or self.ticket is not None:
            self._write(self._client_id, lines, True)


def _bounded(data: dict[str, Any]) -> dict[str, Any]:
    """Nearly always as it is: looking costs less than copying."""
    for value in data.values():
        if value.__class__ is list or (value.__class__ is str and len(value) > MAX_TEXT):
            return {key: _cut(each) for key, each in data.items()}
    return data


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return value[:MAX_TEXT] + "…"
    if is_list(value):
        return [_cut(item) for item in value[:MAX_ITEMS]]
    return value


class PlanEvents:
    """The events of one proposal, each with its tool, its parameters' digest and the run that it belongs to."""

    def __init__(self, log: EventLog, proposal_id: str, run_id: str | None) -> None:
        self._log = log
        self._proposal_id = proposal_id
        self._run_id = run_id
        self._facts: dict[int, dict[str, Any]] = {}

    def note(self, kind: str, action: Action | None, data: dict[str, Any]) -> None:
        facts = self._common() if action is None else self._facts_of(action)
        self._log.note(
            kind,
            {**facts, **data},
            action_id=None if action is None else action.id,
            proposal_id=self._proposal_id,
        )

    def prepare(self, action: Action) -> None:
        """Makes the digest of its parameters now; any thread may do it."""
        self._facts_of(action, patient_digest_of)

    def _common(self) -> dict[str, Any]:
        return {} if self._run_id is None else {"run_id": self._run_id}

    def _facts_of(
        self, action: Action, digest: Callable[[dict[str, Any]], str] = digest_of
    ) -> dict[str, Any]:
        """Made once for each action, which lives as long as its plan."""
        known = self._facts.get(id(action))
        if known is None:
            known = self._common()
            if action.tool is not None:
                known["tool"] = action.tool
            known["parameters_sha256"] = digest(action.parameters)
            self._facts[id(action)] = known
        return known
