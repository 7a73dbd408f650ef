"""`permission.set_tier`, `permission.approve`, `permission.reject`: what a human decides (protocol `engine.md` sections
1 and 10). Asking what a plan needs is in `analysis.py`."""

from __future__ import annotations

from functools import partial
from typing import Literal

from car_trio.engine.permissions import tier, tier_of_fingerprint
from car_trio.methods.context import Answer, Context
from car_trio.wire.analysis import Decide, LedgerLine, SetTier, TierSet
from car_trio.wire.errors import Refusal, invalid_params

HOST = "host"


def set_tier(context: Context, ask: SetTier) -> TierSet:
    try:
        granted = tier(ask.tier)
    except ValueError as error:
        raise invalid_params(f"permission.set_tier: {error}") from None
    client_id = context.session.id if ask.client_id is None else ask.client_id
    session = context.daemon.sessions.get(client_id)
    if session is None:
        raise Refusal(f"permission.set_tier: no connection has the client_id '{client_id[:80]}'")
    session.tier = granted
    return TierSet(granted, client_id)


def _decide(decision: Literal["approved", "rejected"], context: Context, ask: Decide) -> Answer:
    """The decision holds from now on, and is answered when it is on disk."""
    line = LedgerLine(
        ask.fingerprint,
        tier_of_fingerprint(ask.fingerprint),
        decision,
        context.session.agent_id or HOST,
        ask.reason,
        None,
        context.daemon.now().replace("Z", "000+00:00"),
    )
    ticket = context.daemon.permissions.ledger.decide(line)
    said = {"fingerprint": ask.fingerprint, "decision": decision, "reviewer": line.reviewer}
    context.events.note("approval_recorded", said)
    context.events.flush()
    return Answer(line, ticket)


approve = partial(_decide, "approved")
reject = partial(_decide, "rejected")
