"""`runs.*`: the trace that must not be lost (protocol `runs.md` section 2).

What decides is in `state/runs.py`; here a rule's result becomes a reply. A reply about something that was written
carries the journal's ticket: it is posted by the flush that makes it true. Reads decide in the reader, synchronously
(who may, and up to where), and then read in a thread.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from car_trio.methods.context import Answer, Context, Daemon, Subscription, Waiting
from car_trio.methods.traces import found, listing, snapshot, trace
from car_trio.state.absent import Life
from car_trio.state.run import Run
from car_trio.state.runs import unknown_run
from car_trio.state.turns import Body, Cuts, TurnTooLarge, cut_outcome, narrated, received_bytes
from car_trio.wire.errors import Refusal, invalid_params
from car_trio.wire.runs import (
    CatalogRow,
    CompleteRun,
    GetTrace,
    ListRuns,
    NotFound,
    RecordTurns,
    RemoveRuns,
    RunCompleted,
    RunsRemoved,
    RunStarted,
    RunStatus,
    SearchRuns,
    Snapshot,
    StartRun,
    Subscribe,
    Unsubscribe,
    Unsubscribed,
)

TURNS = "{ run_id, turns: [RunTurn] }"
SETTLING_STEPS, SETTLING_SECONDS = 500, 0.01
STEP_BYTES = 64 * 1024
"""How much of a message is looked at in one step."""


def start(context: Context, ask: StartRun) -> Answer:
    run = context.daemon.runs.start(context.session, ask)
    context.events.note("run_started", {"run_id": run.ref.run_id, "agent_id": run.ref.agent_id})
    return Answer(RunStarted(run.ref.run_id, run.ref.agent_id), run.ticket)


class BoundedOutcome(NamedTuple):
    ask: CompleteRun
    cuts: Cuts


def bound_outcome(context: Context, ask: CompleteRun) -> Generator[None, None, BoundedOutcome]:
    cuts: Cuts = {}
    yield from cut_outcome(ask.outcome, cuts)
    return BoundedOutcome(ask, cuts)


def complete(context: Context, bounded: BoundedOutcome) -> Answer:
    ask = bounded.ask
    ticket = context.daemon.runs.complete(context.session, ask.run_id, ask.outcome, bounded.cuts)
    context.events.note("run_completed", {"run_id": ask.run_id, "status": ask.outcome.status})
    context.events.flush()
    return Answer(RunCompleted(ask.run_id), ticket)


class BoundedTurns(NamedTuple):
    run_id: str
    bodies: list[Body] | TurnTooLarge


def bound_turns(context: Context, ask: RecordTurns) -> Generator[None, None, BoundedTurns]:
    """Cuts turns to size, so many bytes of them in a step that a large message can be taken in slices."""
    recorded_at = context.daemon.now()
    bodies: list[Body] | TurnTooLarge = []
    looked_at = 0
    for i, turn in enumerate(ask.turns):
        try:
            body = narrated(turn, recorded_at)
        except TurnTooLarge as too_large:
            bodies = too_large
        except Refusal as refusal:
            raise invalid_params(
                f"runs.record_turns requires {TURNS}: turns[{i}]: {refusal.message}"
            ) from None
        else:
            if isinstance(bodies, list):
                bodies.append(body)
        looked_at += received_bytes(turn) if len(ask.turns) > 1 else 0
        if looked_at > STEP_BYTES:
            looked_at = 0
            yield
    return BoundedTurns(ask.run_id, bodies)


def record_turns(context: Context, bounded: BoundedTurns) -> Answer:
    result, ticket = context.daemon.runs.record_turns(context.session, bounded.run_id, bounded.bodies)
    return Answer(result, ticket)


# Watching


@dataclass(slots=True)
class Watch:
    """A subscription at the moment it was registered: what the snapshot may hold."""

    run: Run
    life: Life
    subscription: Subscription
    from_cursor: int
    durable_turns: int
    until: int | None
    status: RunStatus


def watch(context: Context, ask: Subscribe) -> Watch:
    """Registers the watcher; this and what the snapshot may show are one step, so nothing is missed or shown twice."""
    run = _readable(context, ask.run_id)
    life = context.daemon.runs.life(ask.run_id)
    subscription = context.client.subscribe(run, life)
    return Watch(run, life, subscription, ask.from_cursor, run.durable_turns, _until(run), run.durable_status)


async def subscribe(context: Context, watch: Watch) -> Answer:
    ref = watch.run.ref
    await context.drained()
    try:
        turns, cursor, position = await context.in_thread(
            snapshot, context.daemon.store, ref, watch.from_cursor, watch.durable_turns, watch.until
        )
        if watch.life.is_over:
            raise FileNotFoundError
    except FileNotFoundError:
        watch.subscription.close()
        raise unknown_run(ref.run_id) from None
    except OSError as error:
        watch.subscription.close()
        raise unreadable(ref.run_id, error, "subscribe") from None
    result = Snapshot(ref.run_id, ref.agent_id, turns, cursor, watch.status)
    return Answer(result, then=partial(watch.subscription.begin, cursor, position))


def unreadable(run_id: str, error: OSError, what: str) -> Refusal:
    return Refusal(f"run `{run_id}` cannot be read: {error.strerror}; {what} again later")


def unsubscribe(context: Context, ask: Unsubscribe) -> Unsubscribed:
    return Unsubscribed(ask.run_id, context.client.unsubscribe(ask.run_id))


# Reading


def _readable(context: Context, run_id: str) -> Run:
    run = context.daemon.runs.readable(context.session, run_id)
    if run is None:
        raise unknown_run(run_id)
    return run


def _until(run: Run) -> int | None:
    return run.durable_records if run.is_live else None


class Reading(NamedTuple):
    ask: GetTrace
    run: Run | None
    life: Life
    until: int | None


def may_read(context: Context, ask: GetTrace) -> Reading:
    runs = context.daemon.runs
    run = runs.readable(context.session, ask.run_id)
    return Reading(ask, run, runs.life(ask.run_id), None if run is None else _until(run))


async def get_trace(context: Context, reading: Reading) -> Answer:
    ask, run, life, until = reading
    await context.drained()
    if run is None or until == 0:
        return Answer(NotFound(ask.run_id))
    try:
        read = await context.in_thread(trace, context.daemon.store, run.ref, ask, until)
    except OSError as error:
        raise unreadable(ask.run_id, error, "ask") from None
    if life.leaving is not None:  # a file may have been gone already, and what was read end too early
        await context.settled(life.leaving)
    return Answer(NotFound(ask.run_id) if life.is_over else read)


class Listing(NamedTuple):
    ask: ListRuns
    newer: list[CatalogRow]


def may_list(context: Context, ask: ListRuns) -> Listing:
    if not context.session.host and context.session.agent_id != ask.agent_id:
        raise Refusal(
            f"not authorized for agent '{ask.agent_id}': bind this connection to it, or authenticate as host"
        )
    context.daemon.check_name(ask.agent_id)
    return Listing(ask, context.daemon.runs.in_memory(ask.agent_id))


async def list_runs(context: Context, listed: Listing) -> Answer:
    await context.drained()
    return Answer(await context.in_thread(listing, context.daemon.store, listed.newer, listed.ask))


async def search(context: Context, ask: SearchRuns) -> Answer:
    await context.drained()
    newer = context.daemon.runs.in_memory()
    return Answer(await context.in_thread(found, context.daemon.store, newer, ask))


# Removing


def bounded(_: Context, ask: RemoveRuns) -> RemoveRuns:
    if not ask.run_ids and ask.older_than is None:
        raise invalid_params("runs.remove requires { run_ids } or { older_than }")
    return ask


async def remove(context: Context, ask: RemoveRuns) -> Answer:
    """Removes ended runs, each with its tombstone, one after the other. With both criteria a run must meet both."""
    await ends_known(context, ask.run_ids)
    rows = await context.in_thread(
        context.daemon.store.removable, list(dict.fromkeys(ask.run_ids)), ask.older_than
    )
    removed: list[str] = []
    freed = 0
    for row in rows:
        if ask.dry_run or await taken_off(context.daemon, context.waiting, row, "removed by hand"):
            removed.append(row.run_id)
            freed += row.bytes
    return Answer(RunsRemoved(removed, freed))


async def ends_known(context: Context, run_ids: list[str]) -> None:
    """Waits until the catalog knows the ends of these runs: who was told of one may remove the run at once. A catalog
    that cannot be written is not waited for longer than for a moment."""
    settling = run_ids
    for step in range(SETTLING_STEPS):
        settling = [run_id for run_id in settling if context.daemon.runs.is_settling(run_id)]
        if not settling:
            return
        if step == 0:
            context.daemon.store.flush()  # else it could be an interval until then
        await context.sleep(SETTLING_SECONDS)


async def taken_off(daemon: Daemon, waiting: Waiting, row: CatalogRow, why: str) -> bool:
    """Removes the run that the row tells of. `False` when it is not there any more: rows are older than the removals
    before theirs, and meanwhile somebody may have removed the run, or used its key again. Raises Refusal (-32011)."""
    there = await waiting.in_thread(daemon.store.find, row.run_id)
    if there is None or there.started_at != row.started_at:
        return False
    ticket = daemon.runs.removal(there, partial(daemon.store.remove, there, why))
    if ticket is not None:
        await waiting.settled(ticket)
    return ticket is not None
