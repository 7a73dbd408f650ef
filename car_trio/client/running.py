"""One run as a block of code: `runs.start` on the way in, one outcome on the way out.

Leaving normally completes with the outcome that was chosen, `success` if none was. An exception completes
with `failure` and passes through unchanged. A block that is cancelled says nothing: the program is on its way
out and must not wait, so the daemon ends the run as `incomplete` when the connection has gone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from msgspec import Raw, convert

from car_trio.client.aside import SetAside
from car_trio.client.errors import CarError, RunNotCurrent, TurnsDropped
from car_trio.client.results import Recorded, Submitted
from car_trio.client.sent import encoded
from car_trio.wire.runs import (
    AgentOutcome,
    CompleteRun,
    Metrics,
    NarratedTurn,
    OutcomeStatus,
    RunStarted,
    StartRun,
    TurnsRecorded,
)

MAX_BATCH = 256
"""What one `runs.record_turns` may carry."""


class Daemon(Protocol):
    """The part of the car that a run uses. `current` is the run in which the daemon records what is submitted, of those
    that were begun here."""

    current: str | None

    async def call(self, method: str, params: object, result_type: Any) -> Any: ...

    async def submit(self, proposal: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Submitted: ...


class Run:
    """A run in progress. `outcome` is what leaving the block will report: a status, or the whole outcome."""

    def __init__(self, car: Daemon, started: RunStarted) -> None:
        self.run_id = started.run_id
        self.agent_id = started.agent_id
        self.outcome: OutcomeStatus | AgentOutcome = "success"
        self._car = car

    def finish(
        self,
        status: OutcomeStatus,
        *,
        summary: str = "",
        evidence: Sequence[Mapping[str, Any]] = (),
        metrics: Metrics | None = None,
    ) -> None:
        """Chooses the outcome. Sent when the block is left; until then the last choice counts."""
        self.outcome = AgentOutcome(
            status=convert(status, OutcomeStatus),
            summary=summary,
            evidence=[Raw(encoded(item, "the evidence")) for item in evidence],
            metrics=metrics or Metrics(),
        )

    async def record(self, turns: Sequence[Mapping[str, Any] | NarratedTurn]) -> Recorded:
        """Appends turns that the agent tells about, in batches of 256; returns when all are durable.

        Raises `TurnsDropped` when the daemon records none of a batch; earlier batches of the call stay.
        Cancelled, the batch that was under way may have been recorded.
        """
        recorded = Recorded(base_index=0, count=0)
        for start in range(0, len(turns), MAX_BATCH):
            params = {"run_id": self.run_id, "turns": turns[start : start + MAX_BATCH]}
            reply: TurnsRecorded = await self._car.call("runs.record_turns", params, TurnsRecorded)
            if not reply.ok:
                raise TurnsDropped(self.run_id, reply.dropped or "no reason given", recorded.count)
            if start == 0:
                recorded.base_index = reply.base_index
            recorded.count += reply.count
        return recorded

    async def submit(self, proposal: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Submitted:
        """Submits a proposal; its rows become turns of this run, which has to be the connection's current one: the one
        that was started last, and has not ended. Raises `RunNotCurrent`."""
        if self._car.current != self.run_id:
            raise RunNotCurrent(self.run_id, self._car.current)
        return await self._car.submit(proposal)

    async def complete(self) -> None:
        """Reports the outcome. Leaving the block does this."""
        outcome = (
            self.outcome if isinstance(self.outcome, AgentOutcome) else AgentOutcome(status=self.outcome)
        )
        await self._car.call("runs.complete", CompleteRun(self.run_id, outcome), dict[str, Any])


@asynccontextmanager
async def bracket(car: Daemon, start: StartRun) -> AsyncGenerator[Run]:
    """Starts a run, and completes it as the module says."""
    run = Run(car, await car.call("runs.start", start, RunStarted))
    car.current = run.run_id
    with SetAside() as block:
        yield run
    if car.current == run.run_id:
        car.current = None
    if block.error is None:
        await run.complete()
    else:
        if isinstance(block.error, Exception):
            await _fail(run, block.error)
        raise block.error


async def _fail(run: Run, error: Exception) -> None:
    run.finish("failure", summary=f"{type(error).__name__}: {error}")
    try:
        await run.complete()
    except CarError as unsaid:
        error.add_note(f"the outcome of run {run.run_id} could not be reported: {unsaid}")
