"""Calls back into the client (`wire.md` section 4): every way out of a call is told once, and leaves nothing behind."""

from __future__ import annotations

import gc

import pytest
import trio

from car_trio.nursery.backstops import ROOM, Backstops
from car_trio.nursery.callbacks import _Pending
from tests.peer import Refused, open_house

pytestmark = pytest.mark.usefixtures("inline_threads")


def plan(*actions: dict) -> dict:
    return {
        "proposal": {
            "id": "p",
            "actions": [
                {"id": f"a{n}", "type": "tool_call", "tool": "t", "max_retries": 0, **action}
                for n, action in enumerate(actions)
            ],
        }
    }


async def with_tool(house, agent: str | None = "alice"):
    peer = await house.peer(agent)
    await peer.call("tools.register", [{"name": "t"}])
    return peer


async def quiet(peer) -> bool:
    """Whether nothing more comes in the next ten (virtual) minutes but progress notes."""
    with trio.move_on_after(600):
        while (await peer.receive()).get("method") == "infer.progress":
            pass
        return False
    return True


async def test_a_call_names_the_action_its_attempt_its_budget_and_its_execution(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_tool(house)
        submitted = await peer.request("proposal.submit", plan({"parameters": {"m": 1}, "timeout_ms": 5000}))
        frame = await peer.receive()
        assert (frame["id"], frame["method"]) == ("cb-0", "tools.execute")
        call = frame["params"]
        assert call.pop("session_id")
        assert call == {
            "action_id": "a0",
            "tool": "t",
            "parameters": {"m": 1},
            "timeout_ms": 5000,
            "attempt": 1,
            "request_id": "cb-0",
        }
        await peer.answer(call, {"ok": [1, 2.50]})
        result = await peer.reply(submitted)
        assert result["results"][0]["output"] == {"ok": [1, 2.5]}
        assert len(house.daemon.runs.in_memory()) == 0


async def test_a_result_that_is_absent_is_null(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_tool(house)
        submitted = await peer.request("proposal.submit", plan({}))
        call = await peer.notification("tools.execute")
        await peer.send({"jsonrpc": "2.0", "id": call["request_id"]})
        row = (await peer.reply(submitted))["results"][0]
        assert (row["status"], row["output"]) == ("succeeded", None)


async def test_an_error_reply_is_the_actions_error_and_a_terminal_one_aborts_whatever_the_action_says(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        peer = await with_tool(house)
        actions = ({"failure_behavior": "skip"}, {"failure_behavior": "skip", "state_dependencies": []})
        submitted = await peer.request("proposal.submit", plan(*actions))
        first = await peer.notification("tools.execute")
        second = await peer.notification("tools.execute")
        await peer.answer(first, error={"code": 1, "message": "boom"})
        await peer.answer(second, error={"code": 1, "message": "dead", "data": {"terminal": True}})
        rows = (await peer.reply(submitted))["results"]
        assert [(row["status"], row["error"]) for row in rows] == [("skipped", "boom"), ("failed", "dead")]
        assert rows[1]["terminal"] is True


async def test_the_actions_own_budget_fires_first_and_the_client_is_told_to_stop_once(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        peer = await with_tool(house)
        submitted = await peer.request("proposal.submit", plan({"timeout_ms": 700}))
        call = await peer.notification("tools.execute")
        cancel = await peer.notification("tools.cancel")
        assert cancel == {"request_id": call["request_id"], "action_id": "a0", "reason": "deadline"}
        row = (await peer.reply(submitted))["results"][0]
        assert (row["status"], row["error"]) == ("failed", "action timed out after 700 ms")
        await peer.answer(call, "too late")
        await peer.answer(call, "and again")
        assert await quiet(peer)
        assert house.daemon.counters["late_replies"] == 2


async def test_without_a_budget_the_daemons_tool_timeout_is_the_bound(tmp_path, autojump_clock):
    async with open_house(tmp_path, server={"tool_timeout_seconds": 40}) as house:
        peer = await with_tool(house)
        submitted = await peer.request("proposal.submit", plan({}))
        await peer.notification("tools.execute")
        assert (await peer.notification("tools.cancel"))["action_id"] == "a0"
        row = (await peer.reply(submitted))["results"][0]
        assert row["error"] == "tool 't' callback timed out (40s)"


async def test_a_client_is_kept_waiting_by_progress_notes_every_ten_seconds(tmp_path, autojump_clock):
    async with open_house(tmp_path, server={"tool_timeout_seconds": 31}) as house:
        peer = await with_tool(house)
        submitted = await peer.request("proposal.submit", plan({}))
        notes = [await peer.notification("infer.progress") for _ in range(2)]
        assert notes == [{"id": submitted}] * 2
        await peer.reply(submitted)


@pytest.mark.parametrize("after", [0.1, 1.9, 5.0])
async def test_the_first_progress_note_comes_soon_after_ten_seconds_and_the_others_as_often(
    tmp_path, autojump_clock, after
):
    async with open_house(tmp_path) as house:
        peer = await with_tool(house)
        await trio.sleep(after)
        await peer.request("proposal.submit", plan({}))
        began = trio.current_time()
        for number in (1, 2, 3):
            await peer.notification("infer.progress")
            assert 10 * number <= trio.current_time() - began < 10 * number + 5.1


async def test_the_handler_deadline_abandons_the_submit_records_what_is_final_and_cancels_the_call(
    tmp_path, autojump_clock
):
    from car_trio.config import Environment

    async with open_house(tmp_path, environment=Environment(handler_timeout=5)) as house:
        peer = await with_tool(house)
        run_id = (await peer.call("runs.start", {"intent": "x"}))["run_id"]
        submitted = await peer.request("proposal.submit", plan({}, {}))
        first = await peer.notification("tools.execute")
        second = await peer.notification("tools.execute")
        await peer.answer(first, "done")
        cancel = await peer.notification("tools.cancel")
        assert cancel["request_id"] == second["request_id"]
        with pytest.raises(Refused, match="abandoned at its deadline after 5 s") as caught:
            await peer.reply(submitted)
        assert caught.value.code == -32004
        trace = await peer.call("runs.get_trace", {"run_id": run_id})
        assert [record.get("output") for record in trace["records"]] == [None, "done"]
        assert await quiet(peer)


async def test_a_stop_cancels_calls_records_what_is_final_and_says_that_the_daemon_is_stopping(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        peer = await with_tool(house)
        run_id = (await peer.call("runs.start", {"intent": "x"}))["run_id"]
        submitted = await peer.request("proposal.submit", plan({}, {}))
        first = await peer.notification("tools.execute")
        second = await peer.notification("tools.execute")
        await peer.answer(first, "done")
        await trio.testing.wait_all_tasks_blocked()
        house.stop.set()
        cancel = await peer.notification("tools.cancel")
        assert (cancel["request_id"], cancel["reason"]) == (second["request_id"], "shutdown")
        with pytest.raises(Refused, match="^daemon is stopping") as caught:
            await peer.reply(submitted)
        assert caught.value.code == -32603
        assert await peer.closed() == 1001
        await house.stopped.wait()
        run = house.daemon.runs.find(run_id)
        assert (run.turns, run.status) == (1, "incomplete")


async def test_a_call_that_ends_within_the_drain_is_answered_before_the_close(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_tool(house)
        submitted = await peer.request("proposal.submit", plan({}))
        call = await peer.notification("tools.execute")
        house.stop.set()
        await trio.sleep(2)
        with pytest.raises(Refused, match="^daemon is stopping"):
            await peer.call("state.keys")
        await peer.answer(call, "in time")
        assert (await peer.reply(submitted))["results"][0]["output"] == "in time"
        assert await peer.closed() == 1001


async def test_a_client_that_vanishes_fails_its_calls_and_its_turns_come_before_the_end(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        peer = await with_tool(house)
        run_id = (await peer.call("runs.start", {"intent": "x"}))["run_id"]
        await peer.request("proposal.submit", plan({"failure_behavior": "skip"}, {}))
        await peer.notification("tools.execute")
        await peer.notification("tools.execute")
        await peer.drop()
        await trio.sleep(1)
        host = await house.peer(host=True)
        records = (await host.call("runs.get_trace", {"run_id": run_id}))["records"]
        assert [record.get("error", record["record"]) for record in records] == [
            "started",
            "tool 't' callback channel closed",
            "tool 't' callback channel closed",
            "ended",
        ]
        assert records[-1]["termination"]["reason"] == "disconnected"


async def test_retries_of_a_vanished_client_do_not_outlive_the_grace(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_tool(house)
        run_id = (await peer.call("runs.start", {"intent": "x"}))["run_id"]
        await peer.request("proposal.submit", plan({"failure_behavior": "retry", "max_retries": 50}))
        await peer.notification("tools.execute")
        await peer.drop()
        await trio.sleep(0.3)
        assert house.status(run_id) == "incomplete"
        host = await house.peer(host=True)
        turn, _ = (await host.call("runs.get_trace", {"run_id": run_id}))["records"][1:]
        assert turn["error"] == "tool 't' callback channel closed"  # and no pause before another try


async def test_replies_to_nobody_are_dropped_and_counted(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_tool(house)
        submitted = await peer.request("proposal.submit", plan({}))
        call = await peer.notification("tools.execute")
        for stray in ("cb-99", "nobody", 7, None):
            await peer.send({"jsonrpc": "2.0", "id": stray, "result": 1})
        await peer.answer(call, 1)
        await peer.answer(call, 2)
        assert (await peer.reply(submitted))["results"][0]["output"] == 1
        assert await peer.call("state.keys") == []
        assert house.daemon.counters["late_replies"] == 5


async def test_a_tool_may_call_the_daemon_before_it_answers(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_tool(house)
        submitted = await peer.request("proposal.submit", plan({}))
        call = await peer.notification("tools.execute")
        assert await peer.call("state.set", {"key": "k", "value": 1}) == "ok"
        await peer.answer(call, "done")
        assert (await peer.reply(submitted))["results"][0]["status"] == "succeeded"


async def test_a_result_that_no_reader_decodes_fails_the_action(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_tool(house)
        submitted = await peer.request("proposal.submit", plan({}))
        call = await peer.notification("tools.execute")
        await peer.send('{"jsonrpc":"2.0","id":"%s","result":{"n":1e999}}' % call["request_id"])
        row = (await peer.reply(submitted))["results"][0]
        assert row["status"] == "failed"
        assert row["error"].startswith("invalid tool result JSON: ")


async def test_an_unregistered_tool_is_rejected_and_never_called(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer("alice")
        run_id = (await peer.call("runs.start", {"intent": "x"}))["run_id"]
        result = await peer.call("proposal.submit", plan({}))
        assert result["results"][0]["status"] == "rejected"
        turn = (await peer.call("runs.get_trace", {"run_id": run_id}))["records"][1]
        assert (turn["policy_rejected"], turn["error"]) == (True, "tool 't' is not registered")


async def test_a_submit_whose_run_ended_meanwhile_says_how_much_was_recorded(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_tool(house)
        run_id = (await peer.call("runs.start", {"intent": "x"}))["run_id"]
        submitted = await peer.request("proposal.submit", plan({}, {}))
        first = await peer.notification("tools.execute")
        second = await peer.notification("tools.execute")
        await peer.answer(first, 1)
        await peer.call("runs.complete", {"run_id": run_id, "outcome": {"status": "done"}})
        await peer.answer(second, 2)
        result = await peer.reply(submitted)
        assert result["recorded"] == 1
        assert [row["output"] for row in result["results"]] == [1, 2]


async def test_a_submit_belongs_to_the_run_that_was_current_when_it_was_read(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_tool(house)
        first = (await peer.call("runs.start", {"intent": "one"}))["run_id"]
        submitted = await peer.request("proposal.submit", plan({}))
        call = await peer.notification("tools.execute")
        second = (await peer.call("runs.start", {"intent": "two"}))["run_id"]
        await peer.answer(call, 1)
        await peer.reply(submitted)
        counts = {row.run_id: row.turn_count for row in house.daemon.runs.in_memory()}
        assert counts == {first: 1, second: 0}


async def test_a_tenants_state_survives_its_connection_and_a_connections_state_does_not(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        write = {
            "actions": [
                {"id": "w", "type": "state_write", "parameters": {"key": "k", "value": 5}},
            ]
        }
        await peer.call("proposal.submit", {"proposal": write, "scope": {"tenantId": "acme"}})
        await peer.call("proposal.submit", {"proposal": write | {"id": "q"}})
        await peer.drop()
        again = await house.peer()
        assert await again.call("state.get", {"key": "k"}) is None
        assert await again.call("state.get", {"key": "k", "tenant_id": "acme"}) == 5
        with pytest.raises(Refused, match=r"scope.tenantId must be a string"):
            await again.call("proposal.submit", {"proposal": write, "scope": {"tenantId": 5}})


async def test_a_proposal_that_cannot_be_read_or_repeats_a_key_is_refused(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_tool(house)
        for proposal, said in (
            ('{"actions":5}', "invalid proposal JSON"),
            ('{"actions":[{"type":"zz"}]}', "unknown variant `zz`"),
            ('{"actions":[],"actions":[]}', "duplicate"),
            ('{"actions":[{"type":"tool_call","parameters":{"x":{"k":1,"k":2}}}]}', "duplicate"),
        ):
            await peer.send('{"id":9,"method":"proposal.submit","params":{"proposal":%s}}' % proposal)
            with pytest.raises(Refused, match=said) as caught:
                await peer.reply(9)
            assert caught.value.code == -32602
        with pytest.raises(Refused, match="unknown session_id"):
            await peer.call("proposal.submit", {"proposal": {"actions": []}, "session_id": "s"})


class Waiter:
    """Somebody who waits, as the backstops see it."""

    def __init__(self) -> None:
        self.is_over = False
        self.expired_at: float | None = None

    def expire(self) -> None:
        self.is_over, self.expired_at = True, trio.current_time()


async def test_backstops_expire_what_waits_each_at_its_time_and_nothing_that_is_over(nursery, autojump_clock):
    backstops, waiters = Backstops(), [Waiter() for _ in range(5)]
    nursery.start_soon(backstops.keep)
    began = trio.current_time()
    for waiter, seconds in zip(waiters, (30, 10, 20, 10, -1), strict=True):
        backstops.add(waiter, seconds)
    waiters[2].is_over = True
    await trio.sleep(100)
    took = [None if each.expired_at is None else round(each.expired_at - began) for each in waiters]
    assert took == [30, 10, None, 10, 0]
    late = Waiter()
    backstops.add(late, 5)
    await trio.sleep(10)
    assert late.is_over


async def test_backstops_keep_little_of_what_is_over_and_all_that_waits(nursery, autojump_clock):
    backstops = Backstops()
    nursery.start_soon(backstops.keep)
    waiting = [Waiter() for _ in range(ROOM)]
    for waiter in waiting:
        backstops.add(waiter, 300)
        for _ in range(20):
            over = Waiter()
            backstops.add(over, 200)
            over.is_over = True
    assert len(backstops) <= 3 * ROOM
    await trio.sleep(301)
    assert all(waiter.expired_at is not None for waiter in waiting)
    assert len(backstops) == 0


async def test_an_answer_is_not_kept_for_as_long_as_the_client_would_have_been_waited_for(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        peer = await with_tool(house)
        submitted = await peer.request("proposal.submit", plan({}))
        call = await peer.notification("tools.execute")
        await peer.answer(call, "x" * 100_000)
        await peer.reply(submitted)
        gc.collect()
        kept = [each for each in gc.get_objects() if isinstance(each, _Pending)]
        assert kept
        assert all(each.task is None and each.answer is None for each in kept)
