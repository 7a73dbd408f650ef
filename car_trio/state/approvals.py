"""Approvals: questions that a person answers, each at most once (protocol `host.md` section 3).

A row is owned by the connection that asked, or by nobody: then a host decides it, and the gate in front of high-risk
methods waits for that. A row ends once, by the first answer, at its deadline, or with the connection that it is
about; `_end` is the only place where that happens. What has ended is written down and kept for a day.

A person's word about an owned row goes to its owner as an event. A connection that speaks for an agent follows none and
may resolve nothing, so what it owns can only expire, and says so; what it asks in nobody's name is decided by a host,
and it sees in the list what became of it, also on a new connection.

The full details are kept while a row is pending. Afterwards, and in events, only small ones are: a digest says what
the others were. `details_sha256` is over the bytes as they came, and the gate runs exactly those bytes.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from datetime import datetime

from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import asdict, replace

from car_trio.state.agents import Agents
from car_trio.state.events import NULL, Events, bounded_text, readable, sees_details
from car_trio.state.run import Ticket
from car_trio.state.session import Session
from car_trio.wire.errors import Refusal, invalid_params
from car_trio.wire.frames import encode
from car_trio.wire.host import (
    ApprovalLine,
    ApprovalRow,
    ApprovalStatus,
    RequestApproval,
    ResolveApproval,
    ResolveRequest,
)

APPROVE = "approve"
DENY = "deny"
MAX_PENDING = 256
MAX_PENDING_PER_CONNECTION = 32
MAX_ENDED = 1000
MAX_DETAILS_BYTES = 1024 * 1024
MAX_TEXT = 4096
MAX_OPTIONS = 32
KEPT_DETAILS_BYTES = 4096
"""Details up to this size stay readable after the end, and in events."""
LISTED_DETAILS_BYTES = 16 * 1024 * 1024
"""How much of pending details one list shows, newest first; older ones follow when those are decided."""
KEPT_SECONDS = 24 * 3600.0
UNHEARD = (
    "the agent that asked cannot hear of a decision, so it can only expire; what an agent asks with system_level true "
    "is decided by a person"
)
NO_LISTENER = "the program that asked has to follow them with host.subscribe to hear of a decision"
"""Why a person's word about an owned row has nowhere to go, and what its program has to do."""


@dataclass(slots=True, eq=False)
class Approval:
    """A pending row. `about` is the connection that asked, and `agent` whose that is; `ended`, of a call that waits, is
    told the end once."""

    row: ApprovalRow
    about: str
    agent: str | None
    deadline: float
    ended: Callable[[ApprovalRow], None] | None


def read_details(where: str, details: Raw | UnsetType) -> Generator[None, None, Raw]:
    """Details as a row may have them: bounded, and read once, in steps. Raises Refusal (-32602)."""
    return readable(where, details, MAX_DETAILS_BYTES)


class Approvals:
    """The pending rows and those that ended lately. `due(at)` asks for `expire` at that time of `clock`."""

    def __init__(
        self,
        events: Events,
        agents: Agents,
        *,
        now: Callable[[], str],
        clock: Callable[[], float],
        new_hex: Callable[[], str],
        log: Callable[[bytes], Ticket],
        due: Callable[[float], None],
    ) -> None:
        self._events = events
        self._agents = agents
        self._now = now
        self._clock = clock
        self._new_hex = new_hex
        self._log = log
        self._due = due
        self._pending: dict[str, Approval] = {}
        self._ended: deque[tuple[float, ApprovalLine]] = deque()
        """With the time of the clock until which each is shown: a jump of the wall clock forgets nothing."""
        self._rows: dict[str, ApprovalRow] = {}

    # Asking

    def request(self, session: Session, ask: RequestApproval) -> ApprovalRow:
        """`host.request_approval`, its details read (`read_details`). Raises Refusal."""
        timeout = ask.timeout_secs
        if timeout is not None and not timeout > 0:
            raise invalid_params(f"host.request_approval: timeout_secs is {timeout}, expected more than 0")
        options = list(dict.fromkeys(ask.options or [])) or [APPROVE, DENY]
        if len(options) > MAX_OPTIONS or any(len(option) > MAX_TEXT for option in options):
            raise invalid_params(
                f"host.request_approval: at most {MAX_OPTIONS} options of {MAX_TEXT} characters"
            )
        if timeout is None and ask.system_level:
            timeout = KEPT_SECONDS  # nobody owns it, so nobody's leaving ends it
        approval_id = self._open(
            session,
            agent_id=self._agents.speaker(session, ask.agent_id, "host.request_approval"),
            client_id=None if ask.system_level else session.id,
            action=bounded_text("host.request_approval: action", ask.action, MAX_TEXT),
            details=NULL if ask.details is UNSET else ask.details,
            options=options,
            deadline=math.inf if timeout is None else self._clock() + timeout,
            ended=None,
        )
        return self._rows[approval_id]

    def gate(
        self,
        session: Session,
        method: str,
        params: Raw,
        timeout: float,
        ended: Callable[[ApprovalRow], None],
    ) -> str:
        """A row that nobody owns, about a call of `method` with exactly these params, read; returns its id.

        `ended` is in its place before anybody can see the row. Raises Refusal when there can be no row.
        """
        return self._open(
            session,
            agent_id=session.agent_id,
            client_id=None,
            action=f"ws.method:{method}",
            details=params,
            options=[APPROVE, DENY],
            deadline=self._clock() + timeout,
            ended=ended,
        )

    def _open(
        self,
        session: Session,
        *,
        agent_id: str | None,
        client_id: str | None,
        action: str,
        details: Raw,
        options: list[str],
        deadline: float,
        ended: Callable[[ApprovalRow], None] | None,
    ) -> str:
        self._check_room(session)
        row = ApprovalRow(
            id=f"approval-{self._new_hex()}",
            agent_id=agent_id,
            client_id=client_id,
            action=action,
            details=details,
            options=options,
            status="pending",
            created_at=self._now(),
            resolved_at=None,
            resolution=None,
            details_sha256=digest(bytes(details)),
            undecidable=UNHEARD if client_id is not None and session.is_agent else UNSET,
        )
        self._pending[row.id] = Approval(row, session.id, session.agent_id, deadline, ended)
        self._rows[row.id] = row
        if deadline < math.inf:
            self._due(deadline)
        self._agents.waits(agent_id)
        self._publish("approval.requested", f"asks: {action}", row)
        return row.id

    def _check_room(self, session: Session) -> None:
        # An agent's connections count together: what nobody owns stays when the connection goes, and an agent that
        # comes again and again must not fill the table.
        agent = session.agent_id
        mine = sum(
            approval.about == session.id or (agent is not None and approval.agent == agent)
            for approval in self._pending.values()
        )
        if mine >= MAX_PENDING_PER_CONNECTION:
            whose = "this connection" if agent is None else f"agent '{agent}'"
            raise invalid_params(f"{whose} has {mine} pending approvals; wait until some are answered")
        if len(self._pending) >= MAX_PENDING:
            raise invalid_params(f"{MAX_PENDING} approvals are pending; try again when some are answered")

    def _publish(self, kind: str, message: str, row: ApprovalRow) -> None:
        shown = lean(row)
        self._events.publish(
            kind,
            message,
            Raw(encode(shown)),
            agent_id=row.agent_id,
            hidden=Raw(encode(replace(shown, details=NULL))),
            owner=row.client_id,
        )

    # Answering

    def resolve(self, session: Session, ask: ResolveApproval) -> tuple[ApprovalRow, Ticket | None]:
        """`host.resolve_approval`: the row, and a ticket when this was the answer. Raises Refusal."""
        approval = self._pending.get(ask.approval_id)
        if approval is None:
            raise self._too_late(ask.approval_id)
        row = approval.row
        resolution = _resolution(row, ask)
        if row.client_id is None:
            self._check_host(session, approval)
        elif row.client_id != session.id:
            return self._ask_owner(session, row, row.client_id, resolution), None
        ticket = self._end(approval, "resolved", resolution, session.id)
        return self._seen(session, self._rows[row.id]), ticket

    def _too_late(self, approval_id: str) -> Refusal:
        line = next((each for _, each in self._ended if each.id == approval_id), None)
        if line is None:
            return Refusal(f"unknown approval '{approval_id}'")
        first = {"resolution": line.resolution, "resolved_by": line.resolved_by, "at": line.resolved_at}
        if line.status == "expired":
            return Refusal(f"approval '{approval_id}' expired at {line.resolved_at}", data=first)
        return Refusal(
            f"approval '{approval_id}' was already resolved as '{line.resolution}' by session "
            f"'{line.resolved_by}'; the first answer counts",
            data=first,
        )

    def _check_host(self, session: Session, approval: Approval) -> None:
        if not session.host:
            raise Refusal(
                f"approval '{approval.row.id}' is decided by a host; authenticate with session.auth {{host_token}}"
            )
        if session.open_house and approval.about == session.id:
            raise Refusal(
                f"approval '{approval.row.id}' is about this connection; another one has to decide it"
            )

    def _ask_owner(self, session: Session, row: ApprovalRow, owner: str, resolution: str) -> ApprovalRow:
        if row.undecidable is not UNSET or not self._events.is_watched_by(owner):
            why = NO_LISTENER if row.undecidable is UNSET else row.undecidable
            raise Refusal(
                f"approval '{row.id}' is owned by session '{owner}' which is not currently connected to the host "
                f"events, so nothing was decided: {why}"
            )
        request = ResolveRequest(row.id, resolution, session.id, owner)
        self._events.publish(
            "approval.resolve_requested",
            f"asks its owner for '{resolution}'",
            Raw(encode(request)),
            agent_id=row.agent_id,
        )
        return self._seen(session, row)

    # The end

    def withdraw(self, approval_id: str) -> None:
        """Whoever waited for it has given up."""
        approval = self._pending.get(approval_id)
        if approval is not None:
            self._end(approval, "expired")

    def expire(self, now: float) -> None:
        """Ends what is over at this time of the clock, and asks to be called again for the rest."""
        for approval in [each for each in self._pending.values() if each.deadline <= now]:
            self._end(approval, "expired")
        nearest = min((each.deadline for each in self._pending.values()), default=math.inf)
        if nearest < math.inf:
            self._due(nearest)

    def leave(self, session_id: str) -> None:
        """The connection is gone: what it owned, and what its waiting calls asked, expires."""
        for approval in [each for each in self._pending.values() if each.about == session_id]:
            if approval.row.client_id is not None or approval.ended is not None:
                self._end(approval, "expired")

    def _end(
        self,
        approval: Approval,
        status: ApprovalStatus,
        resolution: str | None = None,
        resolved_by: str | None = None,
    ) -> Ticket:
        ended = replace(
            approval.row, status=status, resolution=resolution, resolved_at=self._now(), undecidable=UNSET
        )
        kept = lean(ended)
        line = ApprovalLine(
            **{k: v for k, v in asdict(kept).items() if k not in {"details", "undecidable"}},
            resolved_by=resolved_by,
        )
        del self._pending[ended.id]
        self._rows[ended.id] = kept
        self._ended.append((self._clock() + KEPT_SECONDS, line))
        self._forget_old()
        if approval.ended is not None:
            approval.ended(ended)
        self._agents.resumes(ended.agent_id)
        self._publish(f"approval.{status}", f"{ended.action}: {resolution or status}", kept)
        return self._log(encode(line))

    def _forget_old(self) -> None:
        now = self._clock()
        while self._ended and (len(self._ended) > MAX_ENDED or self._ended[0][0] < now):
            del self._rows[self._ended.popleft()[1].id]

    def restore(self, lines: Iterable[ApprovalLine]) -> None:
        """What ended before this start, oldest first. Of the details only the digests were written."""
        now = datetime.fromisoformat(self._now())
        for line in lines:
            row = {k: v for k, v in asdict(line).items() if k != "resolved_by"}
            self._rows[line.id] = ApprovalRow(**row, details=NULL)
            self._ended.append((self._clock() + KEPT_SECONDS - _passed(line, now), line))
        self._forget_old()

    # Seeing

    def listed(self, session: Session) -> list[ApprovalRow]:
        """The rows, newest first; a connection that speaks for an agent sees those that it owns, and of those that
        nobody owns the ones about its agents."""
        self._forget_old()
        room = LISTED_DETAILS_BYTES
        rows: list[ApprovalRow] = []
        newest_first = list(self._rows.values())[::-1]
        for row in sorted(newest_first, key=lambda row: row.created_at, reverse=True):
            if session.is_agent and not self._is_of(session, row):
                continue
            shown = self._seen(session, row)
            room -= len(bytes(shown.details))
            rows.append(shown if room >= 0 else lean(shown))
        return rows

    def _is_of(self, session: Session, row: ApprovalRow) -> bool:
        if row.client_id is not None:
            return row.client_id == session.id
        return self._agents.speaks_for(session, row.agent_id)

    def _seen(self, session: Session, row: ApprovalRow) -> ApprovalRow:
        return row if sees_details(session, row.client_id) else replace(row, details=NULL)


def _passed(line: ApprovalLine, now: datetime) -> float:
    """Seconds since it ended; more than are shown when its line does not say."""
    try:
        return max(0.0, (now - datetime.fromisoformat(line.resolved_at or "")).total_seconds())
    except (ValueError, TypeError):
        return KEPT_SECONDS + 1


def digest(details: bytes) -> str:
    """SHA-256 in hex: what an answer is about."""
    return hashlib.sha256(details).hexdigest()


def lean(row: ApprovalRow) -> ApprovalRow:
    """The row without details that are too large to be kept."""
    return row if len(bytes(row.details)) <= KEPT_DETAILS_BYTES else replace(row, details=NULL)


def _resolution(row: ApprovalRow, ask: ResolveApproval) -> str:
    resolution = ask.resolution
    if resolution is None and ask.approved is not None:
        resolution = APPROVE if ask.approved else DENY
    if resolution not in row.options:
        offered = ", ".join(row.options)
        raise invalid_params(
            f"host.resolve_approval: resolution is {resolution!r}, expected one of: {offered}"
        )
    return resolution
