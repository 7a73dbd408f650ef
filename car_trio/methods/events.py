"""`events.*`: the connection's own event log (protocol `wire.md` section 5)."""

from __future__ import annotations

from car_trio.methods.context import Answer, Context
from car_trio.state.events import MAX_PAYLOAD_BYTES, bounded
from car_trio.wire.errors import Refusal, invalid_params
from car_trio.wire.events import QueryEvents
from car_trio.wire.session import NoParams


def count(context: Context, _: NoParams) -> int:
    return context.events.count


def admit_query(context: Context, ask: QueryEvents) -> QueryEvents:
    """What happened before the question is part of the answer. Raises Refusal (-32602) for more than any event has."""
    matches = ask.data_matches or {}
    size = sum(len(bytes(value)) for value in matches.values())
    if size > MAX_PAYLOAD_BYTES:
        raise invalid_params(
            f"events.query: data_matches has {size} bytes, at most {MAX_PAYLOAD_BYTES} are possible; shorten it"
        )
    for key, value in matches.items():
        bounded(f"events.query: data_matches.{key[:80]}", value)
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
