"""Asking about a plan without running it: `verify`, `simulate`, `optimize`, `equivalent`, `transaction_check`, and
what permissions it needs (protocol `engine.md` sections 7 and 10).

The rules are the engine's. Here a proposal is read from its bytes, once, and the work goes to a thread when it is
large enough to be felt by others. What grows with the square of a plan is bounded before it is begun.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar, TypeVarTuple

from msgspec import Raw

from car_trio.engine.model import parse_strict
from car_trio.engine.optimize import optimize
from car_trio.engine.ordering import written_keys
from car_trio.engine.permissions import evaluated, fingerprint, permission_classify, tier
from car_trio.engine.simulate import equivalent, simulate
from car_trio.engine.transaction import transaction_check
from car_trio.engine.verify import verify
from car_trio.methods.context import Context
from car_trio.state.policies import outgrows
from car_trio.state.values import decoded, large_bytes
from car_trio.wire.analysis import (
    Equivalent,
    Evaluate,
    OfProposal,
    Simulate,
    TransactionCheck,
    Verify,
)
from car_trio.wire.errors import Refusal, invalid_params
from car_trio.wire.frames import encode
from car_trio.wire.parts import encoded_whole
from car_trio.wire.proposals import Action

LARGE_BYTES = 64 * 1024
"""Above this a proposal is read and worked on in a thread: the loop has others to serve."""
MAX_PAIRS = 100_000
MAX_COMPARED = 10_000

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def worked_out(context: Context, size: int, work: Callable[[*Ts], T], *args: *Ts) -> T:
    """What `work` returns, in a thread when `size` is large. What it says against its arguments is a refusal."""
    try:
        if size > LARGE_BYTES:
            return await context.in_thread(work, *args)
        return work(*args)
    except ValueError as error:
        raise invalid_params(str(error)) from None


async def _answered(context: Context, size: int, work: Callable[[*Ts], Any], *args: *Ts) -> Raw:
    """Encoded where it was worked out: a large answer is not encoded on the loop either."""
    return await worked_out(context, size, _encoded, size, work, *args)


def _encoded(size: int, work: Callable[[*Ts], Any], *args: *Ts) -> Raw:
    return Raw(encoded(size, work(*args)))


def encoded(size: int, value: Any) -> bytes:
    return encoded_whole(value) if size > LARGE_BYTES else encode(value)


def _bound_pairs(
    actions: Sequence[Action],
    writes: Callable[[Action], Iterable[str]],
    reads: Callable[[Action], Iterable[str]],
) -> None:
    """Raises Refusal (-32602) for a plan with more pairs around the same key than anybody could read about."""
    writers = Counter(key for action in actions for key in writes(action))
    readers = Counter(key for action in actions for key in reads(action))
    pairs = sum(count * (count - 1) // 2 + count * readers[key] for key, count in writers.items())
    if pairs > MAX_PAIRS:
        raise _too_many("pairs of actions that share a key", pairs, MAX_PAIRS)


def _too_many(what: str, count: int, most: int) -> Refusal:
    return invalid_params(f"the proposal has {count} {what}, at most {most} are compared; split it")


def _size_of(state: dict[str, Any]) -> int:
    """How much there is to look at, where it matters: what is still JSON, and what is decoded and large."""
    decoded_bytes = LARGE_BYTES + 1 if outgrows(list(state.values()), LARGE_BYTES) else 0
    return large_bytes(state) + decoded_bytes


class Verification(NamedTuple):
    """`verify` as it was asked, with what the connection knew at that moment."""

    ask: Verify
    state: dict[str, Any]
    schemas: list[dict[str, Any]] | None


def admit_verify(context: Context, ask: Verify) -> Verification:
    state = context.session.state.snapshot() if ask.initial_state is None else ask.initial_state
    schemas: list[dict[str, Any]] | None = None
    if ask.tool_schemas is not None:
        schemas = [{"name": each.name, "parameters": each.parameters} for each in ask.tool_schemas]
    elif ask.tool_names is None and context.session.tools:
        offers = context.session.tools.values()
        schemas = [{"name": each.tool.name, "parameters": each.tool.parameters} for each in offers]
    return Verification(ask, state, schemas)


async def verified(context: Context, asked: Verification) -> Raw:
    size = len(asked.ask.proposal) + _size_of(asked.state)
    return await _answered(context, size, _verify, asked)


def _verify(asked: Verification) -> dict[str, Any]:
    proposal = parse_strict(asked.ask.proposal)
    _bound_pairs(proposal.actions, written_keys, lambda _: ())
    return verify(proposal, decoded(asked.state), asked.ask.tool_names, asked.ask.max_actions, asked.schemas)


class Simulation(NamedTuple):
    proposal: Raw
    state: dict[str, Any]


def admit_simulate(context: Context, ask: Simulate) -> Simulation:
    state = context.session.state.snapshot() if ask.initial_state is None else ask.initial_state
    return Simulation(ask.proposal, state)


async def simulated(context: Context, asked: Simulation) -> Raw:
    size = len(asked.proposal) + _size_of(asked.state)
    return await _answered(
        context, size, lambda: simulate(parse_strict(asked.proposal), decoded(asked.state))
    )


async def optimized(context: Context, ask: OfProposal) -> Raw:
    return await _answered(context, len(ask.proposal), lambda: optimize(parse_strict(ask.proposal)))


async def compared(context: Context, ask: Equivalent) -> Raw:
    size = len(ask.p1) + len(ask.p2)
    return await _answered(context, size, _equivalent, ask.p1, ask.p2)


def _equivalent(one: Raw, other: Raw) -> bool:
    return equivalent(
        parse_strict(one, "invalid proposal1 JSON: "), parse_strict(other, "invalid proposal2 JSON: ")
    )


async def transaction_checked(context: Context, ask: TransactionCheck) -> Raw:
    return await _answered(context, len(ask.proposal), _transaction_check, ask)


def _transaction_check(ask: TransactionCheck) -> dict[str, Any]:
    proposal = parse_strict(ask.proposal)
    if len(proposal.actions) > MAX_COMPARED:
        raise _too_many("actions", len(proposal.actions), MAX_COMPARED)
    _bound_pairs(proposal.actions, lambda action: [*action.write_set, *written_keys(action)], _reads)
    return transaction_check(proposal, ask.versions)


def _reads(action: Action) -> list[str]:
    named = [*action.read_set, *action.state_dependencies]
    return [*named, *(each.key for each in action.assumptions), *([action.key] if action.key else [])]


# Permissions


async def classified(context: Context, ask: OfProposal) -> Raw:
    size = len(ask.proposal)
    return await _answered(context, size, lambda: permission_classify(parse_strict(ask.proposal)))


async def evaluated_for(context: Context, ask: Evaluate) -> Raw:
    """Against the tier that is named, or the connection's own, with what humans have decided."""
    size = len(ask.proposal)
    proposal = await worked_out(context, size, parse_strict, ask.proposal)
    decided = context.daemon.permissions.ledger.about(map(fingerprint, proposal.actions))
    granted = context.session.tier if ask.granted_tier is None else ask.granted_tier
    return await _answered(context, size, lambda: evaluated(proposal.actions, tier(granted), decided))
