"""`events.*`: the connection's own event log (protocol `wire.md` section 5)."""

from __future__ import annotations

from car_trio.methods.context import Answer, Context
from car_trio.wire.errors import Refusal
from car_trio.wire.events import QueryEvents
from car_trio.wire.session import NoParams


def count(context: Context, _: NoParams) -> int:
    return context.events.count


def admit_query(context: Context, ask: QueryEvents) -> QueryEvents:
    """What happened before the question is part of the answer."""
    context.events.flush()
    return ask


async def query(context: Context, ask: QueryEvents) -> Answer:
    await context.drained()
    if context.events.ticket is not None:
        await context.settled(context.events.ticket)
    try:
        return Answer(await context.in_thread(context.daemon.store.events, context.session.id, ask))
    except OSError as error:
        raise Refusal(f"events.query: the log cannot be read: {error.strerror}; ask again later") from None
