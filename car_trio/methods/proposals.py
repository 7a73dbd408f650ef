"""`proposal.submit`: an agent's plan, executed by calling back into its own tools (protocol `engine.md` sections 1, 8).

The engine decides what happens in which order; here it gets its tools (calls to the client that submitted), its state
(the connection's or the tenant's) and its recorder: each row becomes a turn of the connection's current run as soon
as it is final. The run is the one that was current when the submit was read, whatever the client does meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Raw

from car_trio.engine.execute import Execution, ToolFailed, budget_seconds
from car_trio.engine.model import InvalidProposal, parse_strict
from car_trio.methods.context import Answer, CallbackTimedOut, ChannelClosed, Context
from car_trio.state.run import Run, Ticket
from car_trio.state.runs import RunRegistry
from car_trio.state.turns import executed
from car_trio.state.values import Values
from car_trio.wire.errors import invalid_params, storage_degraded
from car_trio.wire.frames import ErrorObject, encode
from car_trio.wire.proposals import Action, Proposal
from car_trio.wire.tools import SubmitProposal

LARGE_BYTES = 256 * 1024
"""Above this a proposal is parsed in a thread: the loop has others to serve."""

BACKSTOP_SECONDS = 5.0
"""What a callback may wait longer than the attempt's own time limit, which always fires first."""


class Submission(NamedTuple):
    """A submit as it was admitted: what it may not change any more."""

    raw: bytes
    run: Run | None
    state: Values


def admit(context: Context, ask: SubmitProposal) -> Submission:
    run = context.daemon.runs.current(context.session)
    degraded = context.daemon.store.degraded
    if degraded is not None:
        raise storage_degraded(degraded, pending=False)
    if run is not None:
        context.daemon.store.check("turns")
    if ask.session_id is not None:
        raise invalid_params(f"proposal.submit: unknown session_id {ask.session_id[:80]!r}; leave it out")
    return Submission(bytes(ask.proposal), run, _state(context, ask))


def _state(context: Context, ask: SubmitProposal) -> Values:
    scope = ask.scope if isinstance(ask.scope, dict) else {}
    tenant_id = scope.get("tenantId")
    if tenant_id is None:
        return context.session.state
    if not isinstance(tenant_id, str):
        raise invalid_params("proposal.submit: scope.tenantId must be a string")
    return context.daemon.tenants.of(tenant_id)


async def submit(context: Context, submission: Submission) -> Answer:
    proposal = await _parsed(context, submission.raw)
    context.allow(budget_seconds(proposal, context.daemon.tool_timeout_seconds))
    recorder = Recorder(context.daemon.runs, submission.run, proposal.id, context.daemon.now)
    execution = Execution(
        proposal,
        call=Caller(context, context.daemon.new_id()).call,
        state=submission.state,
        registered=context.session.tools,
        final=recorder.record,
    )
    result = await execution.run()
    if recorder.missed:
        result["recorded"] = recorder.recorded
    return Answer(result, recorder.ticket)


async def _parsed(context: Context, raw: bytes) -> Proposal:
    try:
        if len(raw) > LARGE_BYTES:
            return await context.in_thread(parse_strict, raw)
        return parse_strict(raw)
    except InvalidProposal as error:
        raise invalid_params(str(error)) from None


class Caller:
    """Calls tools of the client that submitted, one execution's worth."""

    def __init__(self, context: Context, execution_id: str) -> None:
        self._context = context
        self._execution_id = execution_id

    async def call(self, action: Action, attempt: int) -> Any:
        """One attempt: the tool's result as JSON that was read once. Raises `ToolFailed`."""
        assert action.tool is not None
        timeout_ms = action.timeout_ms
        tool_timeout = self._context.daemon.tool_timeout_seconds
        try:
            answer = await self._context.client.call_tool(
                action.tool,
                action.parameters,
                action_id=action.id,
                attempt=attempt,
                timeout_ms=timeout_ms,
                session_id=self._execution_id,
                backstop=tool_timeout if timeout_ms is None else timeout_ms / 1000 + BACKSTOP_SECONDS,
            )
        except ChannelClosed:
            raise ToolFailed(f"tool '{action.tool}' callback channel closed") from None
        except CallbackTimedOut as late:
            raise ToolFailed(f"tool '{action.tool}' callback timed out ({late.seconds}s)") from None
        if isinstance(answer, ErrorObject):
            raise ToolFailed(answer.message, answer.is_terminal)
        try:
            msgspec.json.decode(answer)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ToolFailed(f"invalid tool result JSON: {error or 'nested too deeply'}") from None
        return answer


class Recorder:
    """Rows become turns of one run. `missed` when the run ended before its last row was final."""

    def __init__(self, runs: RunRegistry, run: Run | None, proposal_id: str, now: Callable[[], str]) -> None:
        self._runs = runs
        self._run = run
        self._proposal_id = proposal_id
        self._now = now
        self.recorded = 0
        self.missed = False
        self.ticket: Ticket | None = None

    def record(self, action: Action, row: dict[str, Any]) -> None:
        if self._run is None:
            return
        if not self._run.is_open:
            self.missed = True
            return
        body = executed(
            tool=action.tool,
            parameters=Raw(encode(action.parameters)),
            output=Raw(encode(row["output"])) if "output" in row else UNSET,
            status=row["status"],
            error=row.get("error"),
            action_id=action.id,
            proposal_id=self._proposal_id,
            recorded_at=self._now(),
        )
        self.ticket = self._runs.append(self._run, [body], must=True)
        self.recorded += 1
