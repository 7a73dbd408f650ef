"""A plan's call of a tool: from the cache, or in its turn from the client that submitted the plan.

A wait for one's turn counts as waiting for the tool: the action's own time limit covers both, and without one the
daemon's tool timeout does.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from car_trio.engine.execute import ToolFailed
from car_trio.engine.values import identity
from car_trio.methods.context import CallbackTimedOut, ChannelClosed, Context
from car_trio.state.tools import Offer
from car_trio.wire.frames import DEEPEST_VALUE, ErrorObject, encode
from car_trio.wire.pieces import TooDeep, read_in_steps
from car_trio.wire.proposals import Action, Proposal

LARGE_BYTES = 64 * 1024
"""Larger JSON is read piece by piece, and is not encoded anew."""
BACKSTOP_SECONDS = 5.0
"""What a callback may wait longer than the attempt's own time limit, which always fires first."""


class Parameters:
    """The parameters of a plan's actions as JSON: encoded once each, or, of a large plan, as they came."""

    def __init__(self, proposal: Proposal, raw: bytes) -> None:
        self.received: list[Raw] | None = None
        self._encoded: dict[int, Raw] = {}
        if len(raw) > LARGE_BYTES:
            plan = msgspec.json.decode(raw, type=_Plan)
            self.received = [Raw(bytes(each.parameters)) for each in plan.actions]
            self._encoded = {id(a): each for a, each in zip(proposal.actions, self.received, strict=True)}

    def of(self, action: Action) -> Raw:
        """Known by identity: the actions live as long as their plan."""
        known = self._encoded.get(id(action))
        if known is None:
            known = self._encoded[id(action)] = Raw(encode(action.parameters))
        return known


class _Received(Struct):
    parameters: Raw = Raw(b"{}")


class _Plan(Struct):
    actions: list[_Received]


class Caller:
    """Calls tools of the client that submitted, one execution's worth."""

    def __init__(self, context: Context, execution_id: str, parameters: Parameters) -> None:
        self._parameters = parameters
        self._context = context
        self._clock = context.daemon.uptime
        self._execution_id = execution_id

    async def call(self, action: Action, attempt: int) -> Any:
        """One attempt: the tool's result as JSON that was read once. Raises `ToolFailed`."""
        offer = self._context.session.tools.get(action.tool or "")
        if offer is None or not (offer.turns or offer.tool.cache_ttl_secs):
            return await self._ask(action, attempt, self._patience(action))
        parameters = identity(action.parameters) if offer.tool.cache_ttl_secs else b""
        known = self._context.session.results.get(offer, parameters, self._clock())
        if known is not None:
            return known
        began = self._clock()
        await self._turn(action, offer)
        output = await self._ask(action, attempt, self._patience(action) - (self._clock() - began))
        self._context.session.results.put(offer, parameters, output, self._clock())
        return output

    def _patience(self, action: Action) -> float:
        """Seconds after which the client is not waited for any more."""
        if action.timeout_ms is None:
            return self._context.daemon.tool_timeout_seconds
        return action.timeout_ms / 1000 + BACKSTOP_SECONDS

    async def _turn(self, action: Action, offer: Offer) -> None:
        """Waits until the tool's rate limit lets this call through. If cancelled, the turn is given back."""
        if offer.turns is None:
            return
        now = self._clock()
        turn = offer.turns.take(now)
        patience = self._patience(action)
        came = False
        try:
            if turn > now:
                self._context.events.flush()
                await self._context.sleep(min(turn - now, patience))
            came = turn - now < patience
        finally:
            if not came:
                offer.turns.give_back(turn)
        if not came:
            raise self._timed_out(action, round(patience))

    async def _ask(self, action: Action, attempt: int, patience: float) -> Raw:
        assert action.tool is not None
        self._context.events.flush()
        try:
            answer = await self._context.client.call_tool(
                action.tool,
                self._parameters.of(action),
                action_id=action.id,
                attempt=attempt,
                timeout_ms=action.timeout_ms,
                session_id=self._execution_id,
                backstop=patience,
            )
        except ChannelClosed:
            raise ToolFailed(f"tool '{action.tool}' callback channel closed", is_lasting=True) from None
        except CallbackTimedOut as late:
            raise self._timed_out(action, late.seconds) from None
        if isinstance(answer, ErrorObject):
            raise ToolFailed(answer.message, answer.is_terminal)
        try:
            await self._read(bytes(answer))
        except (msgspec.MsgspecError, RecursionError, TooDeep) as error:
            raise ToolFailed(f"invalid tool result JSON: {error or 'nested too deeply'}") from None
        return answer

    async def _read(self, answer: bytes) -> None:
        may_be_deep = answer.count(b"[") + answer.count(b"{") > DEEPEST_VALUE
        if may_be_deep or len(answer) > LARGE_BYTES:
            await self._context.in_steps(read_in_steps(answer, DEEPEST_VALUE))
        else:
            msgspec.json.decode(answer)

    def _timed_out(self, action: Action, seconds: int) -> ToolFailed:
        return ToolFailed(f"tool '{action.tool}' callback timed out ({seconds}s)")
