"""The run bracket: one start, the turns, one end."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from car_trio.client import Car, Disconnected, RunNotCurrent, TurnsDropped
from car_trio.wire.runs import AgentOutcome, NarratedTurn


def outcome_of(daemon: Any) -> Any:
    (params,) = daemon.calls_of("runs.complete")
    assert params["run_id"] == "r"
    return params["outcome"]


async def test_a_block_that_ends_completes_its_run_with_success(daemon: Any, car: Car) -> None:
    async with car.run("tidy", agent_id="a", idempotency_key="k") as run:
        assert (run.run_id, run.agent_id) == ("r", "a")
        assert daemon.calls_of("runs.complete") == []
    assert daemon.calls_of("runs.start") == [{"intent": "tidy", "agent_id": "a", "idempotency_key": "k"}]
    outcome = outcome_of(daemon)
    assert (outcome["status"], outcome["summary"], outcome["evidence"]) == ("success", "", [])
    assert set(outcome) == {"status", "summary", "evidence", "metrics", "timestamp"}


async def test_the_outcome_can_be_chosen_by_finish(daemon: Any, car: Car) -> None:
    async with car.run("tidy") as run:
        run.finish("give_up", summary="no", evidence=[{"kind": "stop_reason", "why": [1]}])
    outcome = outcome_of(daemon)
    assert (outcome["status"], outcome["summary"]) == ("give_up", "no")
    assert outcome["evidence"] == [{"kind": "stop_reason", "why": [1]}]


@pytest.mark.parametrize("chosen", ["timeout", AgentOutcome(status="timeout")])
async def test_the_outcome_can_be_assigned_as_a_status_or_whole(daemon: Any, car: Car, chosen: Any) -> None:
    async with car.run("tidy") as run:
        run.outcome = chosen
    assert outcome_of(daemon)["status"] == "timeout"


async def test_a_status_that_does_not_exist_is_refused_where_it_is_chosen(car: Car) -> None:
    with pytest.raises(ValueError, match="Invalid enum value 'splendid'"):
        async with car.run("tidy") as run:
            run.finish("splendid")  # type: ignore[arg-type]


async def test_a_block_that_raises_is_a_failure_and_the_exception_passes_through(
    daemon: Any, car: Car
) -> None:
    error = LookupError("where")
    with pytest.raises(LookupError) as caught:
        async with car.run("tidy") as run:
            run.finish("success", summary="premature")
            raise error
    assert caught.value is error
    assert (outcome_of(daemon)["status"], outcome_of(daemon)["summary"]) == ("failure", "LookupError: where")


async def test_an_exception_passes_through_even_when_its_failure_cannot_be_reported(
    daemon: Any, car: Car, autojump_clock: Any
) -> None:
    with pytest.raises(LookupError) as caught:
        async with car.run("tidy"):
            await daemon.peers[0].drop()
            raise LookupError("where")
    assert "the outcome of run r could not be reported" in caught.value.__notes__[0]


async def test_a_connection_that_went_is_told_at_the_end_of_a_block_that_succeeded(
    daemon: Any, car: Car, autojump_clock: Any
) -> None:
    with pytest.raises(Disconnected):
        async with car.run("tidy"):
            await daemon.peers[0].drop()


async def test_a_cancelled_block_leaves_the_end_to_the_daemon(
    daemon: Any, car: Car, autojump_clock: Any
) -> None:
    with trio.move_on_after(1) as scope:
        async with car.run("tidy"):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    await wait_all_tasks_blocked()
    assert daemon.calls_of("runs.complete") == []


async def test_turns_go_out_in_batches_of_256_and_are_counted_together(daemon: Any, car: Car) -> None:
    def record(peer: Any, params: Any) -> Any:
        base = 10 + sum(len(call["turns"]) for call in daemon.calls_of("runs.record_turns")[:-1])
        return {"run_id": "r", "base_index": base, "count": len(params["turns"]), "ok": True}

    daemon.methods["runs.record_turns"] = record
    async with car.run("tidy") as run:
        recorded = await run.record([{"prompt": str(n)} for n in range(300)])
        none = await run.record([])
        one = await run.record([NarratedTurn(prompt="typed")])
    sent = [call["turns"] for call in daemon.calls_of("runs.record_turns")]
    assert [len(turns) for turns in sent] == [256, 44, 1]
    assert sent[1][0] == {"prompt": "256"}
    assert sent[2][0]["prompt"] == "typed"
    assert (recorded.base_index, recorded.count) == (10, 300)
    assert (none.count, one.base_index) == (0, 310)


async def test_turns_that_the_daemon_drops_are_not_dropped_in_silence(daemon: Any, car: Car) -> None:
    answers = [
        {"run_id": "r", "base_index": 0, "count": 256, "ok": True},
        {"run_id": "r", "base_index": 0, "count": 0, "ok": False, "dropped": "run_not_found"},
    ]
    daemon.methods["runs.record_turns"] = lambda peer, params: answers.pop(0)
    with pytest.raises(TurnsDropped, match=r"run_not_found .*connect\(agent_id") as caught:
        async with car.run("tidy") as run:
            await run.record([{"prompt": "p"}] * 257)
    assert (caught.value.reason, caught.value.recorded) == ("run_not_found", 256)


async def test_a_run_submits_through_its_connection(daemon: Any, car: Car) -> None:
    daemon.methods["proposal.submit"] = {"proposal_id": "p", "results": [], "cost": {}}
    async with car.run("tidy") as run:
        assert (await run.submit([])).proposal_id == "p"
    assert [name for name, _ in daemon.calls] == ["runs.start", "proposal.submit", "runs.complete"]


async def test_a_plan_that_would_be_recorded_elsewhere_is_not_submitted(daemon: Any, car: Car) -> None:
    daemon.methods["proposal.submit"] = {"proposal_id": "p", "results": [], "cost": {}}
    async with car.run("outer") as outer:
        await outer.submit([])
        daemon.methods["runs.start"] = {"run_id": "s", "agent_id": "a"}
        async with car.run("inner") as inner:
            await inner.submit([])
            with pytest.raises(RunNotCurrent, match="run 'r' is not the current one .* recorded in run 's'"):
                await outer.submit([])
        with pytest.raises(RunNotCurrent, match="recorded in none"):
            await outer.submit([])
    assert len(daemon.calls_of("proposal.submit")) == 2
