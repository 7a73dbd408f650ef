"""What happens to runs when their connection goes (`runs.md` section 2, "Disconnect"), in virtual time."""

from __future__ import annotations

import pytest
import trio

from tests.peer import Refused, open_house

pytestmark = pytest.mark.usefixtures("inline_threads")
GRACE = 0.25


def trace_of(house, run_id: str) -> list[dict]:
    import msgspec

    from car_trio.store.reader import START

    run = house.daemon.runs.find(run_id)
    page = house.store.read_page(run.ref, START, until=None, max_bytes=1 << 24, max_records=None)
    return [msgspec.json.decode(record.raw) for record in page.records]


async def test_a_dropped_run_becomes_incomplete_only_after_the_grace_window(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer("alice")
        run_id = (await peer.call("runs.start", {"intent": "x"}))["run_id"]
        await peer.drop()
        await trio.sleep(GRACE * 0.9)
        assert house.status(run_id) == "in_progress"
        await trio.sleep(GRACE * 0.2)
        assert house.status(run_id) == "incomplete"
        assert trace_of(house, run_id)[-1]["termination"] == {"kind": "incomplete", "reason": "disconnected"}


async def test_every_open_run_that_the_connection_started_is_swept_not_only_the_current_one(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        runs = [
            (await peer.call("runs.start", {"intent": "x", "agent_id": f"a{n % 2}"}))["run_id"]
            for n in range(4)
        ]
        await peer.call("runs.complete", {"run_id": runs[1], "outcome": {"status": "done"}})
        await peer.drop()
        await trio.sleep(GRACE * 1.1)
        assert [house.status(run_id) for run_id in runs] == [
            "incomplete",
            "completed",
            "incomplete",
            "incomplete",
        ]


async def test_a_complete_that_was_sent_before_the_drop_wins(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer("alice")
        run_id = (await peer.call("runs.start", {"intent": "x"}))["run_id"]
        await peer.request("runs.complete", {"run_id": run_id, "outcome": {"status": "failure"}})
        await peer.drop()
        await trio.sleep(GRACE * 2)
        assert house.status(run_id) == "completed"
        assert [record["record"] for record in trace_of(house, run_id)] == ["started", "ended"]


async def test_a_complete_from_another_connection_within_the_grace_wins(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer("alice")
        run_id = (await peer.call("runs.start", {"intent": "x"}))["run_id"]
        await peer.drop()
        await trio.sleep(GRACE / 2)
        again = await house.peer("alice")
        await again.call("runs.complete", {"run_id": run_id, "outcome": {"status": "success"}})
        await trio.sleep(GRACE * 2)
        assert house.status(run_id) == "completed"


async def test_a_reconnected_agent_takes_its_run_over_by_its_key_and_the_old_sweep_leaves_it(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        ask = {"intent": "x", "idempotency_key": "job-1"}
        peer = await house.peer("alice")
        await peer.call("runs.start", ask)
        await peer.call("runs.record_turns", {"run_id": "job-1", "turns": [{"prompt": "one"}]})
        await peer.drop()
        await trio.sleep(GRACE / 2)
        again = await house.peer("alice")
        assert await again.call("runs.start", ask) == {"run_id": "job-1", "agent_id": "alice"}
        await trio.sleep(GRACE * 4)
        assert house.status("job-1") == "in_progress"
        answer = await again.call("runs.record_turns", {"run_id": "job-1", "turns": [{"prompt": "two"}]})
        assert answer["base_index"] == 1
        await again.drop()
        await trio.sleep(GRACE * 1.1)
        assert house.status("job-1") == "incomplete"


async def test_fifty_concurrent_starts_with_one_key_make_one_run(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peers = [await house.peer() for _ in range(5)]
        asked = [
            (peer, await peer.request("runs.start", {"intent": "x", "agent_id": "a", "idempotency_key": "k"}))
            for _ in range(10)
            for peer in peers
        ]
        for peer, request_id in asked:
            assert await peer.reply(request_id) == {"run_id": "k", "agent_id": "a"}
        assert house.daemon.runs.open_count == 1
        assert [record["record"] for record in trace_of(house, "k")] == ["started"]


async def test_an_agent_id_is_free_again_as_soon_as_its_connection_is_gone(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer("alice")
        other = await house.peer()
        with pytest.raises(Refused, match="already attached on another connection"):
            await other.call("session.auth", {"token": "the-daemons-token", "agent_id": "alice"})
        await peer.drop()
        await trio.testing.wait_all_tasks_blocked()
        await other.call("session.auth", {"token": "the-daemons-token", "agent_id": "alice"})


async def test_a_stop_ends_open_runs_as_shutdown_whatever_ended_the_connection(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        dropped, staying = await house.peer("alice"), await house.peer("bob")
        first = (await dropped.call("runs.start", {"intent": "x"}))["run_id"]
        second = (await staying.call("runs.start", {"intent": "x"}))["run_id"]
        await dropped.drop()
        await trio.sleep(GRACE / 2)
        house.stop.set()
        assert await staying.closed() == 1001
        await house.stopped.wait()
        for run_id in (first, second):
            assert trace_of(house, run_id)[-1]["termination"]["reason"] == "shutdown"
