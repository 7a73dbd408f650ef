"""`proposal.submit`: an agent's plan, executed by calling back into its own tools (protocol `engine.md` sections 1, 8).

The engine decides what happens in which order; here it gets its tools (calls to the client that submitted), its state
(the connection's or the tenant's), what else speaks against an action (schemas and policies), and who listens: each
row becomes a turn of the connection's current run as soon as it is final, each step an event of its log. The run is
the one that was current when the submit was read, whatever the client does meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from msgspec import UNSET, Raw

from car_trio.engine.execute import Execution, budget_seconds
from car_trio.engine.model import parse_strict
from car_trio.engine.permissions import evaluated, fingerprint
from car_trio.methods.analysis import LARGE_BYTES, encoded, worked_out
from car_trio.methods.calling import Caller, Parameters
from car_trio.methods.context import Answer, Context
from car_trio.state.event_log import PlanEvents
from car_trio.state.policies import Policy, reasons
from car_trio.state.run import Run, Ticket
from car_trio.state.runs import RunRegistry
from car_trio.state.tools import Offer
from car_trio.state.turns import executed
from car_trio.state.values import Opened, Values
from car_trio.wire.errors import invalid_params, storage_degraded
from car_trio.wire.frames import encode
from car_trio.wire.proposals import Action, Proposal
from car_trio.wire.tools import SubmitProposal

SHOWN_CHARACTERS = 64 * 1024
"""Of fingerprints, in all rows of a refused plan together; but a row always names one."""
MAX_ACTIONS = 10_000
"""Of one plan: what is decided about all of them at once has to be bounded."""


class Submission(NamedTuple):
    """A submit as it was admitted: what it may not change any more. `policies` are asked for each action anew."""

    raw: bytes
    run: Run | None
    state: Values
    policies: Callable[[], Iterator[Policy]]


def admit(context: Context, ask: SubmitProposal) -> Submission:
    run = context.daemon.runs.current(context.session)
    degraded = context.daemon.store.degraded
    if degraded is not None:
        raise storage_degraded(degraded, pending=False)
    if run is not None:
        context.daemon.store.check("turns", run.ref)
    context.daemon.policies.refresh()
    context.daemon.policies.require()
    return Submission(
        bytes(ask.proposal),
        run,
        _state(context, ask),
        context.session.policies.applying(ask.session_id),
    )


def _state(context: Context, ask: SubmitProposal) -> Values:
    scope = ask.scope if isinstance(ask.scope, dict) else {}
    tenant_id = scope.get("tenantId")
    if tenant_id is None:
        return context.session.state
    if not isinstance(tenant_id, str):
        raise invalid_params("proposal.submit: scope.tenantId must be a string")
    return context.daemon.tenants.of(tenant_id)


async def submit(context: Context, submission: Submission) -> Answer:
    size = len(submission.raw)
    proposal = await worked_out(context, size, parse_strict, Raw(submission.raw))
    if len(proposal.actions) > MAX_ACTIONS:
        raise invalid_params(
            f"proposal.submit: the proposal has {len(proposal.actions)} actions, at most {MAX_ACTIONS} run; split it"
        )
    context.allow(budget_seconds(proposal, context.daemon.tool_timeout_seconds))
    parameters = await worked_out(context, size, Parameters, proposal, submission.raw)
    recorder = Recorder(context.daemon.runs, submission.run, proposal.id, context.daemon.now, parameters)
    doorman = Doorman(context, submission, proposal)
    caller = Caller(context, context.daemon.new_id(), parameters)
    # Its digest of the whole plan takes long for a large one.
    prepare = partial(
        Execution,
        proposal,
        call=caller.call,
        state=submission.state,
        registered=context.session.tools,
        check=doorman.reasons,
        event=doorman.note,
        final=recorder.record,
        shown=parameters.received,
        aside=context.in_thread,
    )
    execution = await worked_out(context, size, prepare)
    try:
        if size > LARGE_BYTES:
            await context.in_thread(doorman.prepare)
        if large := doorman.large_state():
            await context.in_thread(doorman.state.open, large)
        refused = None
        if context.daemon.permissions.gate and execution.refusal() is None:
            refused = doorman.gate(await worked_out(context, len(submission.raw), doorman.decisions))
        result = await execution.run() if refused is None else execution.refuse(refused)
    finally:
        context.events.flush()
    if recorder.missed:
        result["recorded"] = recorder.recorded
    size += _said(result)
    return Answer(Raw(await worked_out(context, size, encoded, size, result)), recorder.ticket)


def _said(result: dict[str, Any]) -> int:
    """How much of a result comes from the state, which a small plan may show too: reasons, and what was read."""
    rows = result["results"]
    return sum(len(row["error"]) if "error" in row else _bytes_of(row.get("output")) for row in rows)


def _bytes_of(output: Any) -> int:
    return len(bytes(output)) if isinstance(output, Raw) else 0


class Doorman:
    """What speaks against a plan or an action of it besides the engine's own reasons, and who hears of every step."""

    def __init__(self, context: Context, submission: Submission, proposal: Proposal) -> None:
        self._context = context
        self._submission = submission
        self._proposal = proposal
        self.state = Opened(submission.state)
        self._known: dict[int, tuple[Offer, list[str]]] = {}
        self._events = PlanEvents(
            context.events, proposal.id, None if submission.run is None else submission.run.ref.run_id
        )

    def prepare(self) -> None:
        """Works out what depends on nothing but the plan: the events' digests, and what schemas say. For a thread."""
        tools = dict(self._context.session.tools)
        for action in self._proposal.actions:
            self._events.prepare(action)
            offer = tools.get(action.tool or "")
            if offer is not None:
                self._known[id(action)] = (offer, self._problems(offer, action))

    def large_state(self) -> dict[str, Raw]:
        """The large values that policies look at."""
        policies = [*self._context.daemon.policies.current.policies, *self._submission.policies()]
        return self.state.large(each.key for each in policies if each.key is not None)

    def _problems(self, offer: Offer, action: Action) -> list[str]:
        """What the tool's schema says."""
        if offer.problems is None or action.type != "tool_call":
            return []
        return offer.problems(action.parameters)

    def decisions(self) -> list[dict[str, Any]]:
        """What the session's tier and the ledger say of each action. Reads only, so a thread may do it."""
        actions = self._proposal.actions
        decided = self._context.daemon.permissions.ledger.about(map(fingerprint, actions))
        return evaluated(actions, self._context.session.tier, decided)

    def gate(self, rows: list[dict[str, Any]]) -> str | None:
        """Why the plan as a whole may not run: an action of it is above the session's tier and nobody approved."""
        for action, row in zip(self._proposal.actions, rows, strict=True):
            said = {"decision": row["decision"], "required": row["required"]}
            self._events.note("permission_decision", action, said)
        marks = list(dict.fromkeys(row["fingerprint"] for row in rows if row["decision"] != "allow"))
        if not marks:
            return None
        tier = self._context.session.tier
        room, shown = SHOWN_CHARACTERS // len(rows), 1
        while shown < len(marks) and sum(map(len, marks[: shown + 1])) <= room:
            shown += 1
        more = (
            f" and {len(marks) - shown} more, which permission.evaluate tells" if len(marks) > shown else ""
        )
        return (
            f"permission gate: {len(marks)} actions are above the session's tier '{tier}' or need a human; "
            f"approve with permission.approve and submit again: {', '.join(marks[:shown])}{more}"
        )

    def reasons(self, action: Action) -> list[str]:
        """What the tool's schema says, then the policies: the files', the connection's, its policy session's."""
        said: list[str] = []
        offer = self._context.session.tools.get(action.tool or "")
        if offer is not None:
            known = self._known.get(id(action))
            said += known[1] if known and known[0] is offer else self._problems(offer, action)
        said += reasons(self._context.daemon.policies.current.policies, action, self.state)
        said += reasons(self._submission.policies(), action, self.state)
        return said

    def note(self, kind: str, action: Action | None, data: dict[str, Any]) -> None:
        """An event of the engine's. What `reasons` says of a schema is no violation of a policy."""
        if kind == "policy_violation":
            data = {"reasons": [reason for reason in data["reasons"] if reason.startswith("policy ")]}
            if not data["reasons"]:
                return
        if kind == "action_validated" and action is not None:
            # The engine tells this in the step that admits the action, so no other can slip in between.
            self._context.daemon.policies.current.admitted(action, self._context.daemon.uptime())
        self._events.note(kind, action, data)


class Recorder:
    """Rows become turns of one run. `missed` when the run ended before its last row was final."""

    def __init__(
        self,
        runs: RunRegistry,
        run: Run | None,
        proposal_id: str,
        now: Callable[[], str],
        parameters: Parameters,
    ) -> None:
        self._parameters = parameters
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
            parameters=self._parameters.of(action),
            output=Raw(encode(row["output"])) if "output" in row else UNSET,
            status=row["status"],
            error=row.get("error"),
            action_id=action.id,
            proposal_id=self._proposal_id,
            recorded_at=self._now(),
        )
        self.ticket = self._runs.append(self._run, [body], must=True)
        self.recorded += 1
