"""Executing a proposal (protocol `engine.md` sections 1 and 8): the only part of the engine that waits.

Levels run one after another. Within a level one task holds the lead: it begins the actions in list order and
finishes each before the next, until it has to wait for a tool. In the moment in which a tool's call begins to wait
the leader leaves a standby task in the nursery, which takes the lead and begins the next action. A tool that answers
at once never waits, so its rows are the sequential ones, and a level of such calls costs no task at all. A leader
that pauses before a retry keeps the lead: what follows in the list must see the state that the retried action leaves.

Whatever an action decides (skip, reject, reuse, write, abort) is decided in one stretch without a checkpoint.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
import trio

from car_trio.engine.effects import State, ToolFailed
from car_trio.engine.explain import syntax_error
from car_trio.engine.model import parse, plain
from car_trio.engine.noticing import noticed
from car_trio.engine.ordering import levels
from car_trio.engine.progress import CLOCK, Check, Clock, Event, Progress, Report, Surroundings
from car_trio.engine.results import Row
from car_trio.engine.values import identity
from car_trio.wire.proposals import Action, Proposal

__all__ = ["Clock", "Execution", "State", "ToolFailed", "budget_seconds", "execute"]

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 10.0
DEFAULT_TOOL_MS: Final = 300_000
MARGIN_SECONDS: Final = 15.0
LEAST_BUDGET_SECONDS: Final = 1800.0
BREATH: Final = 128
"""So many actions may run without a checkpoint; then other connections get their turn."""

Call = Callable[[Action, int], Awaitable[Any]]
Aside = Callable[[Callable[[], None]], Awaitable[None]]


@dataclass(slots=True)
class _Level:
    """A level under way. `leader` is the place of the action begun last: the task at it holds the lead,
    unless `free` says that it waits for a tool and another may take it. `standby`: one is scheduled for that.
    `tasks` counts those in the nursery of callers; the level is over when its first leader is done and they are.
    """

    todo: deque[int]
    callers: trio.Nursery | None
    leader: int = -1
    free: bool = False
    standby: bool = False
    tasks: int = 0
    over: trio.Event | None = None

    def begin(self) -> int:
        self.leader = self.todo.popleft()
        self.free = False
        return self.leader

    def came_back(self, place: int) -> None:
        """The action at `place` has its answer: if nobody took the lead meanwhile, it has it again."""
        if self.leader == place:
            self.free = False

    def left(self) -> None:
        """A task is done."""
        self.tasks -= 1
        if self.over is not None and not self.tasks:
            self.over.set()

    async def ended(self) -> None:
        if self.tasks:
            self.over = trio.Event()
            await self.over.wait()


def _pass(action: Action) -> Sequence[str]:
    return ()


def _unheard(kind: str, action: Action | None, data: dict[str, Any]) -> None:
    pass


def _unrecorded(action: Action, row: Row) -> None:
    pass


class Execution:
    """One run of one proposal.

    `call(action, attempt)` calls the tool of a tool_call and returns its output (any JSON value), or raises
    `ToolFailed`; attempts count from 1. The action's `timeout_ms` is kept here. Any other exception ends the
    run and comes out of `run` as it is.

    `state` is read and written in place; its `__setitem__` may raise `Refusal`, which fails the action.

    `check(action)` names further reasons to reject the action, after the engine's own. It is called exactly
    once for each action that is about to be admitted, in the same stretch. An exception in it rejects the
    action.

    `registered` holds the names of the tools that exist; None = every name.

    `event(kind, action, data)` hears every step (kinds: protocol section 1, "Event log").

    `final(action, row)` gets each row exactly once, in proposal order, as soon as it and all before it are
    final, and before a rollback rewrites rows in the reply. When `run` is cancelled or fails, the rows that
    are finished are still delivered, in proposal order, before the exception leaves; an action that never
    finished has none.

    `aside(work)` calls `work()` in a thread and waits for it: what actions ask about large values of the state is found
    out so, before it is their turn. Without it, in the stretch that decides.

    `shown` are the parameters of each action as JSON, for the result: large ones need not be encoded anew.

    `check`, `event` and `final` are synchronous and run inside the stretch that decides. If cancelled, `run`
    leaves the state as the delivered rows tell it: only an abort rolls back.
    """

    def __init__(
        self,
        proposal: Proposal,
        *,
        call: Call,
        state: State,
        check: Check = _pass,
        registered: Container[str] | None = None,
        event: Event = _unheard,
        final: Report = _unrecorded,
        clock: Clock | None = None,
        shown: Sequence[msgspec.Raw] | None = None,
        aside: Aside | None = None,
    ) -> None:
        around = Surroundings(state, check, registered, event, final, clock or CLOCK)
        self._progress = Progress(proposal, around, shown)
        self._actions = proposal.actions
        self._call = call
        self._aside = aside
        self._event = event
        self._unbroken = 0
        self._aborted = trio.Event()
        self._in_flight: dict[bytes, trio.Event] = {}
        self._succeeded: dict[bytes, Row] = {}
        self._errors: list[Exception] = []

    @property
    def rows(self) -> Sequence[Row | None]:
        """The rows so far, in proposal order; None for an action that is not finished."""
        return self._progress.rows

    def refusal(self) -> str | None:
        """Why the whole proposal is refused (protocol 8.2, step 0); None when it may run."""
        return self._progress.refusal

    def refuse(self, reason: str) -> dict[str, Any]:
        """The result of a proposal refused whole: every row rejected for this reason, nothing runs."""
        return self._progress.refuse(reason)

    async def run(self) -> dict[str, Any]:
        """Execute; the result of protocol 8.1. To be called once."""
        if (reason := self.refusal()) is not None:
            return self.refuse(reason)
        self._progress.received()
        try:
            await self._run_levels(levels(self._actions))
        finally:
            self._progress.deliver_rest()
        return self._progress.conclude()

    async def _run_levels(self, order: Sequence[Sequence[int]]) -> None:
        """One nursery serves all levels, because opening one costs more than an action. Without a level in which one
        action could wait and another go on there is none."""
        if not any(map(self._has_company, order)):
            for places in order:
                await self._run_level(places, None)
            return
        async with trio.open_nursery() as callers:
            for places in order:
                await self._run_level(places, callers)
                if self._errors:
                    break
        if self._errors:
            raise self._errors[0]

    def _has_company(self, places: Sequence[int]) -> bool:
        """Whether there is something to wait for in a level, and somebody to hand the lead to."""
        return len(places) > 1 and any(self._actions[place].type == "tool_call" for place in places)

    async def _run_level(self, places: Sequence[int], callers: trio.Nursery | None) -> None:
        if self._aborted.is_set():
            for place in places:
                self._progress.turn_away(place, "skipped", "skipped due to earlier abort")
            return
        level = _Level(deque(places), callers)
        if callers is None:
            await self._lead(level)
        else:
            await self._lead_or_end(level, callers)
            await level.ended()

    async def _lead_or_end(self, level: _Level, callers: trio.Nursery) -> None:
        """Caught inside the nursery, so that a caller sees the error itself and not a group."""
        try:
            await self._lead(level)
        except Exception as error:
            self._errors.append(error)
            callers.cancel_scope.cancel()

    async def _lead(self, level: _Level) -> None:
        """Begin what is left of the level, until another task takes the lead."""
        while level.todo:
            place = level.begin()
            self._unbroken += 1
            if self._unbroken == BREATH:
                self._unbroken = 0
                await trio.lowlevel.checkpoint()
            await self._act(place, level)
            if level.leader != place:
                return

    async def _stand_by(self, level: _Level, callers: trio.Nursery) -> None:
        level.standby = False
        try:
            if level.free:
                await self._lead_or_end(level, callers)
        finally:
            level.left()

    def _let_others(self, level: _Level, place: int) -> None:
        """The action at `place` begins to wait for a tool: from now on its lead may be taken."""
        if level.callers is None or level.leader != place or not level.todo:
            return
        level.free = True
        if not level.standby:
            level.standby = True
            level.tasks += 1
            level.callers.start_soon(self._stand_by, level, level.callers)

    async def _act(self, place: int, level: _Level) -> None:
        action = self._actions[place]
        key = _call_identity(action) if action.idempotent else None
        while await self._waited_for_twin(key, level, place) or await self._looked_aside(action):
            pass
        if self._aborted.is_set():
            self._progress.turn_away(place, "skipped", "skipped due to abort")
        elif (reasons := self._progress.reasons_against(action)) is not None:
            self._progress.turn_away(place, "rejected", reasons)
        elif key is None:
            self._progress.settle(place, await self._attempts(action, place, level))
        elif (earlier := self._succeeded.get(key)) is not None:
            self._progress.reuse(place, earlier)
        else:
            await self._act_once(key, action, place, level)

    async def _waited_for_twin(self, key: bytes | None, level: _Level, place: int) -> bool:
        """Whether there was one in flight, whose end was waited for."""
        if key is None or (twin := self._in_flight.get(key)) is None:
            return False
        self._let_others(level, place)
        await twin.wait()
        level.came_back(place)
        return True

    async def _looked_aside(self, action: Action) -> bool:
        """Whether there was something to find out, which took its time: the state may be another by now."""
        if self._aside is None or not (action.preconditions or action.type == "assertion"):
            return False
        questions = self._progress.looks.open_questions(action)
        if questions:
            await self._aside(partial(self._progress.looks.answer, questions))
        return bool(questions)

    async def _act_once(self, key: bytes, action: Action, place: int, level: _Level) -> None:
        """An idempotent action: equal ones wait until it is done, and reuse its success."""
        done = self._in_flight[key] = trio.Event()
        try:
            row = await self._attempts(action, place, level)
            if row["status"] == "succeeded":
                self._succeeded[key] = row
        finally:
            del self._in_flight[key]
            done.set()
        self._progress.settle(place, row)

    async def _attempts(self, action: Action, place: int, level: _Level) -> Row:
        began = self._progress.begun()
        attempt = 1
        while True:
            self._event("action_executing", action, {"attempt": attempt})
            try:
                if action.type != "tool_call":
                    return self._progress.perform(action, began)
                call = self._call_tool(action, attempt)
                try:
                    output = await (
                        call if level.callers is None else noticed(call, self._let_others, level, place)
                    )
                finally:
                    level.came_back(place)
                return self._progress.success(action, output, {}, began)
            except ToolFailed as failure:
                if not await self._may_retry(action, failure, attempt):
                    return self._failure(action, failure)
            attempt += 1
            self._progress.retries += 1
            if action.type == "assertion":
                await self._looked_aside(action)

    def _failure(self, action: Action, failure: ToolFailed) -> Row:
        row = self._progress.failure(action, failure)
        if self._progress.aborted:
            self._aborted.set()
        return row

    async def _call_tool(self, action: Action, attempt: int) -> Any:
        if action.tool is None:
            raise ToolFailed("tool_call has no tool")
        if action.invocation_mode != "one_shot":
            raise ToolFailed(
                f"tool '{action.tool}': this executor does not support streaming/long-running invocation"
            )
        if action.timeout_ms is None:
            return await self._call(action, attempt)
        with trio.move_on_after(action.timeout_ms / 1000):
            return await self._call(action, attempt)
        raise ToolFailed(f"action timed out after {action.timeout_ms} ms")

    async def _may_retry(self, action: Action, failure: ToolFailed, attempt: int) -> bool:
        """Pause before the next attempt, if there is to be one. An abort meanwhile means there is none."""
        is_last = failure.terminal or failure.is_lasting or attempt > action.max_retries
        if is_last or action.failure_behavior != "retry":
            return False
        self._event("action_retrying", action, {"attempt": attempt + 1, "error": failure.message})
        with trio.move_on_after(_pause_before(attempt)):
            await self._aborted.wait()
        return not self._aborted.is_set()


def _pause_before(attempt: int) -> float:
    """Seconds between this attempt and the next: doubling, up to the longest."""
    doublings = min(attempt - 1, 16)
    return min(FIRST_PAUSE * (1 << doublings), LONGEST_PAUSE)


def _call_identity(action: Action) -> bytes:
    """Equal for idempotent actions that do the same: type, tool and parameters count, nothing else."""
    return identity([action.type, action.tool, action.parameters])


def budget_seconds(proposal: Proposal, tool_seconds: float = DEFAULT_TOOL_MS / 1000) -> float:
    """The deadline of the whole: each action's own time-out, or the usual one, for every attempt it may make."""
    usual = tool_seconds * 1000
    attempts = ((a, 1 + a.max_retries if a.failure_behavior == "retry" else 1) for a in proposal.actions)
    milliseconds = sum((usual if a.timeout_ms is None else a.timeout_ms) * n for a, n in attempts)
    return max(milliseconds / 1000 + MARGIN_SECONDS, LEAST_BUDGET_SECONDS)


async def execute(
    proposal: Any,
    call_tool: Callable[[str | None, dict[str, Any]], Awaitable[Any]],
    *,
    tool_names: Any = None,
) -> dict[str, Any]:
    """Execute with a fresh state. `call_tool(name, parameters)` answers with a JSON value, or with JSON text.

    What it raises becomes the action's error; raise `ToolFailed` to choose the words, or to be terminal.
    """

    async def call(action: Action, attempt: int) -> Any:
        try:
            output = await call_tool(action.tool, action.parameters)
        except ToolFailed:
            raise
        except Exception as error:
            raise ToolFailed(f"Python tool error: {type(error).__name__}: {error}") from error
        return _decoded(output)

    names = plain(tool_names)
    registered = None if names is None else frozenset(names)
    execution = Execution(parse(proposal, prefix=""), call=call, state={}, registered=registered)
    return await execution.run()


def _decoded(output: Any) -> Any:
    if not isinstance(output, (str, bytes)):
        return output
    try:
        return msgspec.json.decode(output)
    except (msgspec.DecodeError, UnicodeError):
        raise ToolFailed(f"invalid tool result JSON: {syntax_error(output)}") from None
