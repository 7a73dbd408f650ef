"""Executions: with tools that answer at once, with slow ones, and cancelled in the middle."""

import copy
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from car_trio.engine import execute, simulate
from car_trio.engine.execute import Clock, Execution, ToolFailed, budget_seconds
from car_trio.engine.model import parse
from car_trio.engine.ordering import levels
from car_trio.engine.preconditions import failed_preconditions
from car_trio.engine.values import digest
from car_trio.wire.errors import Refusal
from car_trio.wire.proposals import Action
from tests.engine.plans import asserts, call, plan, plans, write

REGISTERED = {"ok", "fail", "slow"}


def in_virtual_time(main: Callable[[], Awaitable[Any]]) -> Any:
    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


class Bench:
    """An execution with scripted tools and everything it reports."""

    def __init__(self, proposal: dict[str, Any], state: dict[str, Any] | None = None, **fields: Any) -> None:
        self.state = {} if state is None else state
        self.calls: list[tuple[str, int]] = []
        self.delays: dict[str, float] = {}
        self.finals: list[tuple[str, str]] = []
        self.events: list[tuple[str, str | None]] = []
        self.gates: dict[str, trio.Event] = {}
        fields = {"registered": REGISTERED, **fields}
        self.tool: Callable[[Action, int], Awaitable[Any]] = self.call
        self.execution = Execution(
            parse(proposal),
            call=self.attempt,
            state=self.state,
            final=self.final,
            event=self.event,
            **fields,
        )

    async def attempt(self, action: Action, attempt: int) -> Any:
        return await self.tool(action, attempt)

    async def call(self, action: Action, attempt: int) -> Any:
        self.calls.append((action.id, attempt))
        if action.id in self.gates:
            await self.gates[action.id].wait()
        if action.id in self.delays:
            await trio.sleep(self.delays[action.id])
        if action.tool == "fail":
            raise ToolFailed(f"boom {attempt}", terminal=action.parameters.get("terminal", False))
        return {"of": action.id}

    def final(self, action: Action, row: dict[str, Any]) -> None:
        assert row["action_id"] == action.id
        self.finals.append((action.id, row["status"]))

    def event(self, kind: str, action: Action | None, data: dict[str, Any]) -> None:
        self.events.append((kind, action and action.id))

    async def run(self) -> dict[str, Any]:
        return await self.execution.run()


def brief(result: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(row["status"], row.get("error")) for row in result["results"]]


def statuses(result: dict[str, Any]) -> list[str]:
    return [row["status"] for row in result["results"]]


# Tools that answer at once.


class InSequence:
    """Section 8.2 read literally, one action after the other."""

    def __init__(self, proposal: dict[str, Any], state: dict[str, Any]) -> None:
        self.actions = parse(proposal).actions
        self.state = state
        self.rows: dict[int, tuple[str, Any]] = {}
        self.calls: list[tuple[str, int]] = []
        self.aborted = False
        before = copy.deepcopy(state)
        done: dict[str, Any] = {}
        for level in levels(self.actions):
            words = "skipped due to earlier abort" if self.aborted else "skipped due to abort"
            for place in level:
                self.rows[place] = ("skipped", words) if self.aborted else self.act(self.actions[place], done)
        if self.aborted:
            state.clear()
            state.update(before)

    def act(self, action: Action, done: dict[str, Any]) -> tuple[str, Any]:
        missing = [key for key in action.state_dependencies if key not in self.state]
        reasons = [f"tool '{action.tool}' is not registered"] if action.tool == "unknown" else []
        reasons += failed_preconditions(action, self.state)
        reasons += [f"state dependency '{key}' not found" for key in missing]
        if reasons:
            return "rejected", "; ".join(reasons)
        same_call = repr((action.type, action.tool, sorted(action.parameters.items(), key=repr)))
        if action.idempotent and same_call in done:
            return "succeeded", done[same_call]
        for attempt in range(1, 2 + (action.max_retries if action.failure_behavior == "retry" else 0)):
            ok, output = self.attempt(action, attempt)
            if ok:
                if action.idempotent:
                    done[same_call] = output
                return "succeeded", output
        self.aborted = action.failure_behavior == "abort"
        return ("skipped" if action.failure_behavior == "skip" else "failed"), output

    def attempt(self, action: Action, attempt: int) -> tuple[bool, Any]:
        key = action.parameters.get("key")
        match action.type:
            case "tool_call":
                self.calls.append((action.id, attempt))
                return (True, {"of": action.id}) if action.tool == "ok" else (False, f"boom {attempt}")
            case "state_write":
                self.state[key] = action.parameters["value"]
                return True, f"written: {key}"
            case "state_read":
                return True, self.state.get(key)
        value, expected = self.state.get(key), action.parameters["expected"]
        if repr(value) == repr(expected):
            return True, {"asserted": key, "value": value}
        return False, None


states = st.dictionaries(st.sampled_from(["k0", "k1", "k2"]), st.sampled_from([None, 0, 1, "a"]))


@given(plans(), states)
def test_tools_that_answer_at_once_give_the_sequential_rows(
    proposal: dict[str, Any], state: dict[str, Any]
) -> None:
    expected = InSequence(proposal, expected_state := dict(state))
    bench = Bench(proposal, state)
    result = in_virtual_time(bench.run)
    assert bench.calls == expected.calls
    assert state == expected_state
    for place, row in enumerate(result["results"]):
        status, said = expected.rows[place]
        assert row["status"] == status
        if said is not None and status == "succeeded":
            assert row["output"] == said
        elif said is not None:
            assert row["error"] == said
    assert result["cost"]["retries"] == sum(attempt > 1 for _, attempt in bench.calls) or any(
        action["type"] == "assertion" for action in proposal["actions"]
    )


@given(
    plans(("ok", "fail", "unknown", "slow")),
    states,
    st.lists(st.sampled_from([None, 0, 0.05, 1, 3]), min_size=7),
)
def test_with_slow_tools_every_row_is_final_once_and_in_proposal_order(
    proposal: dict[str, Any], state: dict[str, Any], delays: list[float | None]
) -> None:
    before = copy.deepcopy(state)
    bench = Bench(proposal, state)
    bench.delays = {f"a{n}": delay for n, delay in enumerate(delays) if delay is not None}
    result = in_virtual_time(bench.run)
    ids = [action["id"] for action in proposal["actions"]]
    assert bench.finals == list(zip(ids, statuses(result), strict=True))
    assert [row["action_id"] for row in result["results"]] == ids
    called = {id_ for id_, _ in bench.calls}
    rejected = {row["action_id"] for row in result["results"] if row["status"] == "rejected"}
    assert not called & rejected
    aborted = ("state_rollback", None) in bench.events
    if aborted:
        assert state == before
        assert all(row.get("rolled_back") for row in result["results"] if row["status"] == "succeeded")
    cost = result["cost"]
    assert cost["actions_executed"] + cost["actions_rejected"] + cost["actions_skipped"] == len(ids)


@given(
    plans(("ok", "fail", "slow")), st.integers(0, 6), st.lists(st.sampled_from([None, 0.05, 1]), min_size=7)
)
def test_a_cancelled_execution_still_delivers_what_is_finished_exactly_once(
    proposal: dict[str, Any], victim: int, delays: list[float | None]
) -> None:
    bench = Bench(proposal)
    bench.delays = {f"a{n}": delay for n, delay in enumerate(delays) if delay is not None}

    async def main() -> None:
        bench.gates[f"a{victim}"] = trio.Event()
        with trio.move_on_after(1000):
            await bench.run()

    in_virtual_time(main)
    finished = [row for row in bench.execution.rows if row is not None]
    assert bench.finals == [(row["action_id"], row["status"]) for row in finished]
    if any(id_ == f"a{victim}" for id_, _ in bench.calls):
        assert bench.execution.rows[victim] is None
        assert ("proposal_completed", None) not in bench.events


@given(plans(("ok",)))
def test_simulate_foretells_the_state_of_plans_whose_tools_change_none(proposal: dict[str, Any]) -> None:
    for action in proposal["actions"]:
        action.pop("expected_effects", None)
        action.pop("idempotent", None)
        if action["type"] == "assertion":
            action["failure_behavior"] = "skip"
    bench = Bench(proposal)
    in_virtual_time(bench.run)
    assert bench.state == simulate(proposal)


async def test_the_result_carries_the_proposal_its_digest_and_its_lineage() -> None:
    result = await execute(plan(write("w", "k", 1)), no_tools)
    (lineage,) = result["replan_lineage"]
    assert result["final_proposal"]["actions"][0]["max_retries"] == 3
    assert lineage["proposal_digest"] == digest(result["final_proposal"])
    assert result["accepted_proposal_preimages"] == [
        {
            "generation": 0,
            "proposal_digest": lineage["proposal_digest"],
            "proposal": result["final_proposal"],
        }
    ]
    assert list(result) == [
        "proposal_id",
        "original_proposal_id",
        "final_proposal",
        "replan_lineage",
        "accepted_proposal_preimages",
        "results",
        "cost",
    ]


@pytest.mark.parametrize(
    "large",
    [
        {"actions": [call("a", timeout_ms=2**53)]},
        {"actions": [call("a", assumptions=[{"key": "k", "read_version": 2**53}])]},
        {"actions": [call("a", parameters={"n": [2**53]})]},
        {"actions": [call("a", metadata={"n": -(2**53)})]},
        {"actions": [call("a", preconditions=[{"key": "k", "value": 2**60}])]},
        {"actions": [], "context": {"n": 2**53}},
    ],
)
async def test_an_integer_that_not_every_reader_reads_refuses_the_proposal_wherever_it_is(
    large: dict[str, Any],
) -> None:
    result = await execute(large, no_tools)
    (lineage,) = result["replan_lineage"]
    assert "outside the interoperable safe integer range" in lineage["rejection_reason"]


async def test_a_number_is_hashed_as_every_reader_writes_it() -> None:
    proposals = [
        {**plan(call("a")), "timestamp": "2026-01-01T00:00:00Z", "context": {"n": n}} for n in (1, 1.0)
    ]
    results = [await execute(each, no_tools) for each in proposals]
    assert len({each["replan_lineage"][0]["proposal_digest"] for each in results}) == 1


async def no_tools(name: str | None, parameters: dict[str, Any]) -> Any:
    raise AssertionError("called")


async def test_a_proposal_refused_whole_calls_nothing_but_has_all_its_rows() -> None:
    bench = Bench(plan(call("a"), call("a")))
    assert bench.execution.refusal() == "duplicate action id 'a'"
    result = await bench.run()
    assert brief(result) == [("rejected", "duplicate action id 'a'")] * 2
    assert bench.finals == [("a", "rejected"), ("a", "rejected")]
    assert bench.calls == []
    assert "accepted_proposal_preimages" not in result


def test_a_gate_can_refuse_what_would_run() -> None:
    bench = Bench(plan(call("a"), write("w", "k", 1)))
    assert bench.execution.refusal() is None
    result = bench.execution.refuse("needs approval of tool_call|ok|{}")
    assert statuses(result) == ["rejected", "rejected"]
    assert result["replan_lineage"][0]["rejection_reason"] == "needs approval of tool_call|ok|{}"
    assert set(result["cost"].values()) == {0}
    assert bench.state == {}


# What tools say.


@pytest.mark.parametrize(
    ("answer", "row"),
    [
        ({"a": 1}, ("succeeded", None)),
        ('{"error":"x"}', ("succeeded", None)),
        (b"null", ("succeeded", None)),
        ("not json", ("failed", "invalid tool result JSON: expected ident at line 1 column 2")),
        ("[1,", ("failed", "invalid tool result JSON: EOF while parsing a value at line 1 column 3")),
        (KeyError("x"), ("failed", "Python tool error: KeyError: 'x'")),
        (ToolFailed("in my words"), ("failed", "in my words")),
    ],
)
async def test_a_tool_answers_with_a_value_or_json_text_or_raises(answer: Any, row: tuple[str, Any]) -> None:
    async def tool(name: str | None, parameters: dict[str, Any]) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert brief(await execute(plan(call("a")), tool)) == [row]


@pytest.mark.parametrize(
    ("action", "row"),
    [
        (call("a", None), ("failed", "tool_call has no tool")),
        (call("a", ""), ("rejected", "tool '' is not registered")),
        (
            call("a", invocation_mode="streaming"),
            ("failed", "tool 'ok': this executor does not support streaming/long-running invocation"),
        ),
        ({"id": "a", "type": "state_read"}, ("failed", "state_read requires 'key' parameter")),
    ],
)
async def test_what_cannot_be_called_is_not(action: dict[str, Any], row: tuple[str, str]) -> None:
    bench = Bench(plan(action), registered=None)
    assert brief(await bench.run()) == [row]
    assert bench.calls == []


async def test_an_attempt_longer_than_its_time_limit_fails(autojump_clock: Any) -> None:
    bench = Bench(plan(call("a", timeout_ms=50, failure_behavior="retry", max_retries=1)))
    bench.delays["a"] = 1
    result = await bench.run()
    assert brief(result) == [("failed", "action timed out after 50 ms")]
    assert bench.calls == [("a", 1), ("a", 2)]


async def test_a_time_limit_is_no_matter_to_a_tool_that_keeps_it(autojump_clock: Any) -> None:
    assert brief(await Bench(plan(call("a", timeout_ms=50))).run()) == [("succeeded", None)]


async def test_retry_pauses_double_up_to_ten_seconds(autojump_clock: Any) -> None:
    began: list[float] = []

    async def tool(action: Action, attempt: int) -> Any:
        began.append(trio.current_time())
        raise ToolFailed("no")

    proposal = parse(plan(call("a", failure_behavior="retry", max_retries=9)))
    result = await Execution(proposal, call=tool, state={}).run()
    pauses = [later - earlier for earlier, later in pairwise(began)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])
    assert result["cost"]["retries"] == 9
    assert statuses(result) == ["failed"]


async def test_a_terminal_failure_is_not_retried_and_aborts(autojump_clock: Any) -> None:
    terminal = {"parameters": {"terminal": True}}
    for behaviour in ("skip", "retry"):
        bench = Bench(plan(call("a", "fail", failure_behavior=behaviour, **terminal), call("b")))
        result = await bench.run()
        assert brief(result) == [("failed", "boom 1"), ("skipped", "skipped due to abort")]
        assert result["results"][0]["terminal"] is True


# Slow tools.


async def test_a_level_begins_in_list_order_and_a_slow_tool_holds_nobody_up(autojump_clock: Any) -> None:
    bench = Bench(plan(call("a"), write("w", "k", 1), call("b"), call("c")))
    bench.gates = {"a": trio.Event(), "b": trio.Event()}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        await trio.testing.wait_all_tasks_blocked()
        assert bench.calls == [("a", 1), ("b", 1), ("c", 1)]
        assert bench.state == {"k": 1}
        assert bench.finals == []
        bench.gates["a"].set()
        await trio.testing.wait_all_tasks_blocked()
        assert bench.finals == [("a", "succeeded"), ("w", "succeeded")]
        bench.gates["b"].set()
    assert bench.finals[2:] == [("b", "succeeded"), ("c", "succeeded")]


async def test_the_next_level_waits_for_the_whole_of_this_one(autojump_clock: Any) -> None:
    for delays in ({"a": 5}, {"c": 5}, {"a": 5, "c": 9}, {"a": 9, "c": 5}):
        bench = Bench(plan(write("w", "k", 1), call("a"), call("c"), call("b", state_dependencies=["k"])))
        bench.delays = delays
        await bench.run()
        begins = bench.events.index(("action_executing", "b"))
        assert all(bench.events.index(("action_succeeded", each)) < begins for each in "ac")


async def test_a_retry_pause_lets_nobody_in_before_the_action_is_done(autojump_clock: Any) -> None:
    bench = Bench(
        plan(asserts("a", "k", 1, failure_behavior="retry", max_retries=2), write("w", "k", 1), call("b"))
    )
    result = await bench.run()
    assert statuses(result) == ["failed", "succeeded", "succeeded"]
    failing = Bench(plan(call("a", "fail", failure_behavior="retry", max_retries=2), call("b")))
    await failing.run()
    assert failing.calls == [("a", 1), ("a", 2), ("a", 3), ("b", 1)]


async def test_a_retry_pause_after_waiting_holds_nobody_up(autojump_clock: Any) -> None:
    bench = Bench(plan(call("a", "fail", failure_behavior="retry", max_retries=1), call("b"), call("c")))
    bench.delays = {"a": 1, "b": 2}
    await bench.run()
    assert bench.calls == [("a", 1), ("b", 1), ("c", 1), ("a", 2)]


async def test_a_finished_action_does_not_begin_the_next_while_another_leads(autojump_clock: Any) -> None:
    bench = Bench(plan(call("a"), call("b", "fail", failure_behavior="retry", max_retries=1), call("c")))
    bench.delays = {"a": 0.05}
    await bench.run()
    assert bench.calls == [("a", 1), ("b", 1), ("b", 2), ("c", 1)]


async def test_an_action_that_comes_back_takes_no_lead_from_one_that_just_left() -> None:
    for _ in range(20):  # Trio decides by lot which of the two goes first.
        bench = Bench(plan(call("a"), call("b"), call("c")))
        answered, held = trio.Event(), trio.Event()

        async def tool(
            action: Action,
            attempt: int,
            bench: Bench = bench,
            answered: trio.Event = answered,
            held: trio.Event = held,
        ) -> None:
            bench.calls.append((action.id, attempt))
            if action.id == "b":
                answered.set()
                await held.wait()
            await answered.wait()

        bench.tool = tool
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.run)
            await trio.testing.wait_all_tasks_blocked()
            assert bench.calls == [("a", 1), ("b", 1), ("c", 1)]
            held.set()


async def test_after_an_abort_those_that_wait_are_awaited_and_the_others_skipped(autojump_clock: Any) -> None:
    bench = Bench(
        plan(
            write("w", "k", 1),
            call("a"),
            call("b", "fail"),
            call("c"),
            call("d", "ok", state_dependencies=["k"]),
        )
    )
    bench.delays = {"a": 5}
    result = await bench.run()
    assert statuses(result) == ["succeeded", "succeeded", "failed", "skipped", "skipped"]
    assert result["results"][1]["rolled_back"] is True
    assert result["results"][1]["output"] == {"of": "a"}
    assert result["results"][3]["error"] == "skipped due to abort"
    assert result["results"][4]["error"] == "skipped due to earlier abort"
    assert bench.finals[0] == ("w", "succeeded")
    assert bench.state == {}


async def test_an_abort_ends_the_retry_pauses_of_others(autojump_clock: Any) -> None:
    bench = Bench(plan(call("a", "fail", failure_behavior="retry", max_retries=9), call("b", "fail")))
    bench.delays = {"a": 0.01, "b": 30}
    result = await bench.run()
    assert brief(result) == [("failed", "boom 9"), ("failed", "boom 1")]
    assert result["cost"]["retries"] == 8
    assert trio.current_time() == pytest.approx(30)


# Idempotence.


async def test_an_equal_idempotent_action_waits_for_the_one_in_flight(autojump_clock: Any) -> None:
    bench = Bench(
        plan(call("a", idempotent=True), call("b", idempotent=True), call("c"), call("d", idempotent=True))
    )
    bench.delays = {"a": 5}
    result = await bench.run()
    assert bench.calls == [("a", 1), ("c", 1)]
    assert statuses(result) == ["succeeded"] * 4
    assert [row["output"]["of"] for row in result["results"]] == ["a", "a", "c", "a"]
    assert ("action_deduplicated", "b") in bench.events
    assert result["cost"]["tool_calls"] == 4


async def test_after_the_failure_of_its_twin_the_waiting_action_calls_the_tool_itself(
    autojump_clock: Any,
) -> None:
    twins = [call(id_, "fail", idempotent=True, failure_behavior="skip") for id_ in ("a", "b", "c")]
    bench = Bench(plan(*twins))
    bench.delays = {"a": 1, "b": 1, "c": 1}
    result = await bench.run()
    assert sorted(bench.calls) == [("a", 1), ("b", 1), ("c", 1)]
    assert statuses(result) == ["skipped"] * 3
    assert trio.current_time() == pytest.approx(3)


async def test_a_twin_that_waits_is_skipped_by_an_abort(autojump_clock: Any) -> None:
    bench = Bench(plan(call("a", idempotent=True), call("b", idempotent=True), call("c", "fail")))
    bench.delays = {"a": 5}
    result = await bench.run()
    assert statuses(result) == ["succeeded", "skipped", "failed"]


# Reasons to reject.


async def test_all_reasons_are_joined_and_the_policies_come_last() -> None:
    action = call(
        "a",
        "nope",
        compensation={"type": "tool", "tool": "undo"},
        preconditions=[{"key": "k", "value": 1}],
        state_dependencies=["d"],
    )
    bench = Bench(plan(action), check=lambda action: ["policy 'one': no", "policy 'two': never"])
    assert brief(await bench.run()) == [
        (
            "rejected",
            "tool 'nope' is not registered; compensation tool 'undo' is not registered; "
            "key 'k' has no value; state dependency 'd' not found; policy 'one': no; policy 'two': never",
        )
    ]
    assert [kind for kind, _ in bench.events] == [
        "proposal_received",
        "policy_violation",
        "action_rejected",
        "proposal_completed",
    ]


async def test_a_check_that_breaks_rejects_without_quoting_anything() -> None:
    def check(action: Action) -> list[str]:
        raise ValueError("the password is hunter2")

    bench = Bench(plan(call("a"), write("w", "k", 1)), check=check)
    assert brief(await bench.run()) == [("rejected", "policy check failed: ValueError")] * 2
    assert bench.calls == [] and bench.state == {}


async def test_each_action_is_checked_once_even_when_it_waits_for_a_twin(autojump_clock: Any) -> None:
    checked: list[str] = []

    def check(action: Action) -> list[str]:
        checked.append(action.id)
        return []

    bench = Bench(plan(call("a", idempotent=True), call("b", idempotent=True)), check=check)
    bench.delays = {"a": 1}
    await bench.run()
    assert checked == ["a", "b"]


# State.


class Full(dict[str, Any]):
    """State that has no room for long texts."""

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, str) and len(value) > 10:
            raise Refusal(f"state is full: {key}")
        super().__setitem__(key, value)


async def test_state_that_refuses_a_write_fails_the_action() -> None:
    bench = Bench(plan(write("w", "k", "x" * 20), write("v", "j", 1)), Full())
    assert brief(await bench.run()) == [
        ("failed", "state is full: k"),
        ("skipped", "skipped due to abort"),
    ]
    assert bench.state == {}


async def test_a_rollback_restores_what_was_there() -> None:
    bench = Bench(
        plan(write("a", "k", 2), write("b", "k", 3), write("c", "new", 1), asserts("z", "k", 9)), {"k": 1}
    )
    await bench.run()
    assert bench.state == {"k": 1}


async def test_a_rollback_leaves_what_others_wrote_meanwhile(autojump_clock: Any) -> None:
    bench = Bench(
        plan(
            write("a", "theirs", 1),
            write("b", "gone", 1),
            write("c", "between", 1),
            call("t", state_dependencies=["theirs"]),
            write("d", "between", 2, state_dependencies=["theirs"]),
            call("z", "fail", state_dependencies=["between"]),
        ),
        {"between": 0},
    )
    bench.delays = {"t": 1}

    async def other() -> None:
        await trio.testing.wait_all_tasks_blocked()
        bench.state["theirs"] = "theirs"
        del bench.state["gone"]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        nursery.start_soon(other)
    assert bench.state == {"theirs": "theirs", "between": 0}


async def test_a_rollback_goes_back_to_what_others_wrote_between_two_writes() -> None:
    async def tool(action: Action, attempt: int) -> Any:
        bench.state["k"] = "theirs"

    bench = Bench(
        plan(
            write("a", "k", 1),
            call("t"),
            write("b", "k", 2),
            asserts("z", "k", 0, state_dependencies=["k"]),
        ),
        {"j": 1},
    )
    bench.tool = tool
    await bench.run()
    assert bench.state == {"j": 1, "k": "theirs"}


async def test_a_rollback_that_no_longer_fits_leaves_the_value_and_says_so() -> None:
    state = Full()
    dict.__setitem__(state, "k", "a long old value")
    told: list[Any] = []

    def event(kind: str, action: Action | None, data: dict[str, Any]) -> None:
        if kind == "state_rollback":
            told.append(data)

    proposal = parse(plan(write("w", "k", 1), write("v", "j", 1), asserts("z", "k", 9)))
    await Execution(proposal, call=Bench(plan()).call, state=state, event=event).run()
    assert state == {"k": 1}
    assert told == [{"keys": ["j"]}]


# Errors that are nobody's answer.


@pytest.mark.parametrize("actions", [[call("a")], [call("a"), call("b"), call("c")]])
async def test_an_unexpected_error_comes_out_as_itself_after_the_finished_rows(
    actions: list[dict[str, Any]], autojump_clock: Any
) -> None:
    bench = Bench(plan(write("w", "k", 1), *actions))
    bench.delays = {"b": 3}

    async def tool(action: Action, attempt: int) -> Any:
        if action.id == "a":
            await trio.sleep(1)
            raise Refusal("daemon is stopping")
        return await bench.call(action, attempt)

    bench.tool = tool
    with pytest.raises(Refusal, match="daemon is stopping"):
        await bench.run()
    assert bench.finals == [("w", "succeeded"), *[("c", "succeeded")] * (len(actions) == 3)]
    assert trio.current_time() == pytest.approx(1)


async def test_after_an_unexpected_error_of_a_tool_that_answers_at_once_no_later_level_begins() -> None:
    bench = Bench(plan(write("w", "k", 1), call("a"), call("b", state_dependencies=["k"])))

    async def tool(action: Action, attempt: int) -> Any:
        bench.calls.append((action.id, attempt))
        raise Refusal("daemon is stopping")

    bench.tool = tool
    with pytest.raises(Refusal, match="daemon is stopping"):
        await bench.run()
    assert bench.calls == [("a", 1)]


async def test_a_receiver_that_breaks_gets_no_row_twice() -> None:
    got: list[str] = []

    def final(action: Action, row: dict[str, Any]) -> None:
        got.append(action.id)
        if action.id == "a":
            raise RuntimeError("disk gone")

    proposal = parse(plan(call("a"), call("b")))
    with pytest.raises(RuntimeError, match="disk gone"):
        await Execution(proposal, call=Bench(plan()).call, state={}, final=final).run()
    assert got == ["a"]


# Time.


async def test_calls_that_wait_for_a_moment_only_are_begun_in_list_order_and_once_whoever_goes_first() -> (
    None
):
    for _ in range(20):  # Trio decides by lot whether the leader comes back before its standby begins.
        bench = Bench(plan(*(call(f"a{n}") for n in range(4))))

        async def tool(action: Action, attempt: int, bench: Bench = bench) -> None:
            bench.calls.append((action.id, attempt))
            await trio.lowlevel.checkpoint()

        bench.tool = tool
        assert statuses(await bench.run()) == ["succeeded"] * 4
        assert bench.calls == [(f"a{n}", 1) for n in range(4)]


class Spawned(trio.abc.Instrument):
    """Counts tasks."""

    def __init__(self) -> None:
        self.tasks = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.tasks += 1


async def test_a_level_costs_a_task_only_for_a_call_that_waits(autojump_clock: Any) -> None:
    calls = [call(f"a{n}") for n in range(10)]
    counted = []
    for delays in ({}, {"a3": 1.0}, dict.fromkeys(("a3", "a7", "a9"), 1.0)):
        bench, spawned = Bench(plan(*calls)), Spawned()
        bench.delays = delays
        trio.lowlevel.add_instrument(spawned)
        assert statuses(await bench.run()) == ["succeeded"] * 10
        trio.lowlevel.remove_instrument(spawned)
        counted.append(spawned.tasks)
    assert counted == [0, 1, 2]


async def test_many_instant_actions_let_other_tasks_run_in_between() -> None:
    turns = 0

    async def neighbour() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(neighbour)
        await Bench(plan(*(write(f"w{n}", f"k{n}", n) for n in range(1000)))).run()
        assert turns >= 5
        nursery.cancel_scope.cancel()


async def test_rows_carry_the_injected_clock() -> None:
    ticks = iter(range(0, 10_000_000, 1_500_000))
    clock = Clock(wall_ns=lambda: 1_767_225_600_000_000_007, tick_ns=lambda: next(ticks))
    result = await Bench(plan(write("w", "k", 1)), clock=clock).run()
    assert result["results"][0]["timestamp"] == "2026-01-01T00:00:00.000000007Z"
    assert result["results"][0]["duration_ms"] == 1.5
    assert result["cost"]["total_duration_ms"] == 1.5


def test_the_budget_counts_every_attempt_and_is_never_under_half_an_hour() -> None:
    retried = {"failure_behavior": "retry", "max_retries": 9}
    assert budget_seconds(parse(plan())) == 1800
    assert budget_seconds(parse(plan(call("a", timeout_ms=600_000, **retried)))) == 6015
    assert budget_seconds(parse(plan(call("a", **retried), call("b", max_retries=9)))) == 3315
