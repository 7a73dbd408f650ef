"""What hosts share: the agents, the approvals and the event ring (protocol `host.md`).

The parts are modules of their own (`agents`, `approvals`, `events`); here they meet, and the rest of the daemon tells
its news. Everything is synchronous: a snapshot and the registration that goes with it are one step.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Raw

from car_trio.state.agents import Agents
from car_trio.state.approvals import Approvals
from car_trio.state.events import Events, bounded, bounded_text
from car_trio.state.run import Ticket
from car_trio.state.session import Session
from car_trio.wire.errors import invalid_params
from car_trio.wire.frames import encode
from car_trio.wire.host import HostEvent, Notify, RunChange, StoreChange
from car_trio.wire.runs import RunRef

NOTIFICATION = "host.notification"
OUR_KINDS = ("agent.", "approval.", "run.", "store.", "host.")
MAX_KIND = 128


class Host:
    """Owns agents, approvals and the ring. `log` writes an ended approval; `due` and `clock` are for deadlines."""

    def __init__(
        self,
        *,
        now: Callable[[], str],
        clock: Callable[[], float],
        new_hex: Callable[[], str],
        log: Callable[[bytes], Ticket],
        due: Callable[[float], None],
    ) -> None:
        self.events = Events(now, new_hex)
        self.agents = Agents(self.events, now, new_hex)
        self.approvals = Approvals(
            self.events, self.agents, now=now, clock=clock, new_hex=new_hex, log=log, due=due
        )

    def notify(self, session: Session, ask: Notify) -> HostEvent:
        """`host.notify`. Raises Refusal (-32602) for a kind that only the daemon may use."""
        kind = ask.kind or NOTIFICATION
        if len(kind) > MAX_KIND or (kind.startswith(OUR_KINDS) and kind != NOTIFICATION):
            raise invalid_params(
                f"host.notify: kind {kind[:MAX_KIND]!r} is not for clients; use '{NOTIFICATION}' or a kind of your own"
            )
        event = self.events.publish(
            kind,
            bounded_text("host.notify: message", ask.message),
            bounded("host.notify: payload", ask.payload),
            agent_id=self.agents.speaker(session, ask.agent_id, "host.notify"),
        )
        return event.seen_by(session)

    def run_changed(self, kind: str, ref: RunRef, status: str) -> None:
        """News of a run: ids and status, never what the run says."""
        change = RunChange(ref.run_id, ref.agent_id, status)
        self.events.publish(kind, f"run {ref.run_id}: {status}", Raw(encode(change)), agent_id=ref.agent_id)

    def store_changed(self, cause: str | None) -> None:
        """The store's health turned: `cause` is what ails it, `None` when it is well again."""
        kind = "store.recovered" if cause is None else "store.degraded"
        self.events.publish(kind, cause or "the store works again", Raw(encode(StoreChange(cause))))
