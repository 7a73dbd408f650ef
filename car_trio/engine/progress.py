"""What has become of each action of a proposal so far: every decision of an execution, and not one wait.

A row is settled once. Rows are delivered in proposal order, each as soon as it and all before it are settled,
and counted before they are handed over, so that none is delivered twice whatever the receiver does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec import Raw

from car_trio.engine import results
from car_trio.engine.effects import State, ToolFailed, Writes
from car_trio.engine.preconditions import failed_preconditions, missing_dependencies
from car_trio.engine.results import Row
from car_trio.wire.proposals import Action, Proposal, ToolCompensation, timestamp

Check = Callable[[Action], Sequence[str]]
Event = Callable[[str, Action | None, dict[str, Any]], None]
Report = Callable[[Action, Row], None]


@dataclass(frozen=True, slots=True)
class Clock:
    """Nanoseconds: of the wall, for timestamps, and of a clock that never jumps, for durations."""

    wall_ns: Callable[[], int] = time.time_ns
    tick_ns: Callable[[], int] = time.perf_counter_ns


CLOCK: Final = Clock()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an execution may touch besides its tools; `Execution` says what each of them is."""

    state: State
    check: Check
    registered: Container[str] | None
    event: Event
    final: Report
    clock: Clock


class Progress:
    def __init__(self, proposal: Proposal, around: Surroundings, shown: Sequence[Raw] | None = None) -> None:
        self.proposal = proposal
        self.rows: list[Row | None] = [None] * len(proposal.actions)
        self.retries = 0
        self.aborted = False
        self._plain = proposal.plain()
        self.refusal, self._digest = results.refusal_of(proposal, self._plain)
        for plain, parameters in zip(self._plain["actions"], shown or (), strict=False):
            plain["parameters"] = parameters
        self._around = around
        self._event = around.event
        self._writes = Writes(around.state)
        self._delivered = 0

    def received(self) -> None:
        self._event("proposal_received", None, {"actions": len(self.rows)})

    def refuse(self, reason: str) -> dict[str, Any]:
        """The result of a proposal refused whole: every row rejected for this reason."""
        self.received()
        for place in range(len(self.rows)):
            self.turn_away(place, "rejected", reason)
        self._event("proposal_completed", None, {"rejection_reason": reason})
        return results.result(
            self._plain, self._digest, self._settled(), dict(results.NO_COST), rejection=reason
        )

    def conclude(self) -> dict[str, Any]:
        """The result, once every row is settled. After an abort the state is rolled back here."""
        rows = self._settled()
        cost = results.cost(self.proposal.actions, rows, self.retries)
        if self.aborted:
            self._event("state_rollback", None, {"keys": self._writes.roll_back()})
            rows = [results.rolled_back(row) if row["status"] == "succeeded" else row for row in rows]
        self._event("proposal_completed", None, cost)
        return results.result(self._plain, self._digest, rows, cost, rejection=None)

    def settle(self, place: int, row: Row) -> None:
        self.rows[place] = row
        while self._delivered < len(self.rows) and self.rows[self._delivered] is not None:
            self._deliver_next()

    def deliver_rest(self) -> None:
        """Deliver what is settled and waits behind an action that will never be."""
        while self._delivered < len(self.rows):
            self._deliver_next()

    def turn_away(self, place: int, status: str, reason: str) -> None:
        action = self.proposal.actions[place]
        self._event(f"action_{status}", action, {"error": reason})
        self.settle(place, results.refusal(action, status, reason, self._stamp()))

    def reuse(self, place: int, earlier: Row) -> None:
        action = self.proposal.actions[place]
        self._event("action_deduplicated", action, {"of": earlier["action_id"]})
        row = results.success(action, earlier["output"], {}, earlier["duration_ms"], self._stamp())
        self.settle(place, row)

    def reasons_against(self, action: Action) -> str | None:
        """The reasons to reject the action, joined; None admits it."""
        own, policies = self._own_reasons(action), self._policy_reasons(action)
        if own or policies:
            return "; ".join([*own, *policies])
        self._event("action_validated", action, {})
        return None

    def begun(self) -> int:
        return self._around.clock.tick_ns()

    def perform(self, action: Action, began: int) -> Row:
        """Do a state action or an assertion. Raises `ToolFailed`."""
        output, changes = self._writes.perform(action)
        for key in changes:
            self._event("state_changed", action, {"key": key})
        return self.success(action, output, changes, began)

    def success(self, action: Action, output: Any, changes: dict[str, Any], began: int) -> Row:
        duration_ms = (self._around.clock.tick_ns() - began) / 1e6
        self._event("action_succeeded", action, {"duration_ms": duration_ms})
        return results.success(action, output, changes, duration_ms, self._stamp())

    def failure(self, action: Action, failure: ToolFailed) -> Row:
        """The row of an action whose last attempt failed. May abort the proposal."""
        skips = action.failure_behavior == "skip" and not failure.terminal
        status = "skipped" if skips else "failed"
        if failure.terminal or action.failure_behavior == "abort":
            self.aborted = True
        self._event(f"action_{status}", action, {"error": failure.message})
        row = results.refusal(action, status, failure.message, self._stamp())
        if failure.terminal:
            row["terminal"] = True
        return row

    def _settled(self) -> list[Row]:
        return [row for row in self.rows if row is not None]

    def _deliver_next(self) -> None:
        place = self._delivered
        self._delivered += 1
        if (row := self.rows[place]) is not None:
            self._around.final(self.proposal.actions[place], row)

    def _stamp(self) -> str:
        return timestamp(self._around.clock.wall_ns())

    def _own_reasons(self, action: Action) -> list[str]:
        said: list[str] = []
        if action.type == "tool_call" and action.tool is not None and self._lacks(action.tool):
            said.append(f"tool '{action.tool}' is not registered")
        if isinstance(action.compensation, ToolCompensation) and self._lacks(action.compensation.tool):
            said.append(f"compensation tool '{action.compensation.tool}' is not registered")
        if action.preconditions:
            said += failed_preconditions(action, self._around.state)
        if action.state_dependencies:
            missing = missing_dependencies(action, self._around.state)
            said += [f"state dependency '{key}' not found" for key in missing]
        return said

    def _lacks(self, tool: str) -> bool:
        registered = self._around.registered
        return not tool or (registered is not None and tool not in registered)

    def _policy_reasons(self, action: Action) -> Sequence[str]:
        try:
            reasons = self._around.check(action)
        except Exception as error:
            # A check that cannot answer must not let anything pass. Its words could quote parameters, so only
            # its kind is told.
            reasons = [f"policy check failed: {type(error).__name__}"]
        if reasons:
            self._event("policy_violation", action, {"reasons": list(reasons)})
        return reasons
