"""Watching a run over the wire (`runs.md` section 2, "subscribe"): whatever happens, each watcher sees every record
once, in order, byte for byte as it is on disk."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from car_trio.methods import traces
from car_trio.nursery import outbound, subscriptions
from car_trio.state import run as run_module
from tests.peer import House, Peer, Refused, open_house

pytestmark = pytest.mark.usefixtures("inline_threads")


class Watching:
    """A watcher and what it has seen; it reads only when it is told to."""

    def __init__(self, house: House, run_id: str) -> None:
        self.house = house
        self.run_id = run_id
        self.seen: list[dict] = []
        self.ended = False
        self.peer: Peer | None = None

    async def subscribe(self) -> None:
        if self.peer is not None:
            await self.peer.drop()
        self.peer = await self.house.peer(host=True)
        asked = {"run_id": self.run_id, "from_cursor": len(self.seen)}
        snapshot = await self.peer.call("runs.subscribe", asked)
        self.seen += snapshot["turns_so_far"]
        assert snapshot["cursor"] == len(self.seen)

    async def read(self, events: int) -> None:
        """Reads up to this many events, as far as they come without waiting."""
        for _ in range(events):
            if self.peer is None or self.ended:
                return
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def give_up(scope: trio.CancelScope = scope) -> None:
                        await wait_all_tasks_blocked()
                        scope.cancel()

                    nursery.start_soon(give_up)
                    self.take(await self.peer.notification("runs.trace.event"))
                    nursery.cancel_scope.cancel()
            if scope.cancelled_caught:
                return

    def take(self, event: dict) -> None:
        if event["record"]["record"] == "ended":
            assert event["cursor"] == len(self.seen)
            self.ended = True
        else:
            self.seen.append(event["record"])
            assert event["cursor"] == len(self.seen), "a gap or a duplicate"


STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 9)),
    st.tuples(st.just("subscribe"), st.integers(0, 2)),
    st.tuples(st.just("read"), st.integers(0, 2)),
    st.tuples(st.just("let others run"), st.integers(1, 4)),
)


@pytest.fixture
def narrow(monkeypatch):
    """Bounds so small that overflow, paging and short snapshots happen all the time."""
    monkeypatch.setattr(run_module, "PASSAGE_BYTES", 200)
    monkeypatch.setattr(subscriptions, "PAGE_BYTES", 300)
    monkeypatch.setattr(traces, "PAGE_BYTES", 300)
    monkeypatch.setattr(traces, "MAX_SNAPSHOT_BYTES", 400)
    monkeypatch.setattr(outbound, "SOFT_LIMIT", 900)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=40))
def test_any_schedule_gives_each_watcher_the_exact_sequence(narrow, steps):
    clock = MockClock()

    async def play() -> None:
        with tempfile.TemporaryDirectory() as home:
            async with open_house(Path(home)) as house:
                await schedule(house, steps)
                clock.autojump_threshold = 0  # a stop waits for peers that do not say goodbye

    trio.run(play, clock=clock)


async def schedule(house: House, steps: list[tuple[str, int]]) -> None:
    agent = await house.peer("alice")
    run_id = (await agent.call("runs.start", {"intent": "x"}))["run_id"]
    watchers = [Watching(house, run_id) for _ in range(3)]
    recorded = 0
    for step, argument in steps:
        if step == "append":
            turns = [{"prompt": f"turn {recorded + n} {'x' * 50}"} for n in range(argument)]
            recorded += argument
            await agent.request("runs.record_turns", {"run_id": run_id, "turns": turns})
        elif step == "subscribe":
            await watchers[argument].subscribe()
        elif step == "read":
            await watchers[argument].read(4)
        else:
            for _ in range(argument):
                await trio.lowlevel.checkpoint()
    await agent.call("runs.complete", {"run_id": run_id, "outcome": {"status": "done"}})
    trace = (await agent.call("runs.get_trace", {"run_id": run_id}))["records"]
    for watcher in watchers:
        if watcher.peer is None:
            await watcher.subscribe()
        await watcher.read(10_000)
        assert watcher.ended
        assert watcher.seen == trace[1:-1]
        assert [turn["index"] for turn in watcher.seen] == list(range(recorded))


async def test_a_live_event_holds_the_bytes_of_the_file(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        agent = await house.peer("alice")
        run_id = (await agent.call("runs.start", {"intent": "x"}))["run_id"]
        watcher = await house.peer(host=True)
        await watcher.call("runs.subscribe", {"run_id": run_id})
        odd = (
            '{"run_id":"%s","turns":[{"output":{"n": 1.50, "big":123456789012345678901, "ü":"\\u00fc"}}]}'
            % run_id
        )
        await agent.send('{"id":77,"method":"runs.record_turns","params":%s}' % odd)
        raw: list[bytes] = []
        watcher._take = lambda frame: raw.append(bytes(frame.data)) or watcher.frames.append({})
        await watcher.receive()
        line = next(tmp_path.glob("runs/alice/*.jsonl")).read_bytes().splitlines()[1]
        assert line in raw[0]
        assert b'{"n": 1.50, "big":123456789012345678901' in line


async def test_a_wedged_watcher_delays_nobody_and_loses_nothing(tmp_path, autojump_clock):
    async with open_house(tmp_path, runs={"max_turns": 100_000}) as house:
        agent = await house.peer("alice")
        run_id = (await agent.call("runs.start", {"intent": "x"}))["run_id"]
        wedged, healthy = await house.peer(host=True, lockstep=True), await house.peer(host=True)
        for watcher in (wedged, healthy):
            await watcher.call("runs.subscribe", {"run_id": run_id})
        for n in range(40):
            turns = [{"prompt": f"{n} {'x' * 2000}"} for _ in range(50)]
            assert (await agent.call("runs.record_turns", {"run_id": run_id, "turns": turns}))["ok"]
        assert [(await healthy.notification("runs.trace.event"))["cursor"] for _ in range(2000)] == list(
            range(1, 2001)
        )
        held = [connection._out._bytes for connection in house.connections]
        assert max(held) <= outbound.SOFT_LIMIT + subscriptions.PAGE_BYTES + 3000
        assert [(await wedged.notification("runs.trace.event"))["cursor"] for _ in range(2000)] == list(
            range(1, 2001)
        )


async def test_a_peer_that_accepts_nothing_for_thirty_seconds_is_cut(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer("alice", lockstep=True)
        await peer.request("rpc.discover")
        await trio.sleep(31)
        other = await house.peer()
        answer = await other.call("session.auth", {"token": "the-daemons-token", "agent_id": "alice"})
        assert answer["agent_id"] == "alice"


async def test_an_ended_run_can_be_watched_and_ends_at_once(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        agent = await house.peer("alice")
        run_id = (await agent.call("runs.start", {"intent": "x"}))["run_id"]
        await agent.call("runs.record_turns", {"run_id": run_id, "turns": [{"prompt": "a"}, {"prompt": "b"}]})
        await agent.call(
            "runs.complete",
            {"run_id": run_id, "outcome": {"status": "done", "evidence": [{"kind": "evaluator"}]}},
        )
        await wait_all_tasks_blocked()
        snapshot = await agent.call("runs.subscribe", {"run_id": run_id, "from_cursor": 1})
        assert [turn["prompt"] for turn in snapshot["turns_so_far"]] == ["b"]
        assert (snapshot["cursor"], snapshot["status"]) == (2, "completed")
        event = await agent.notification("runs.trace.event")
        assert (event["record"]["record"], event["cursor"], event["status"]) == ("ended", 2, "completed")
        trace = await agent.call("runs.get_trace", {"run_id": run_id})
        assert event["record"] == trace["records"][-1]


async def test_a_cursor_past_the_end_is_answered_with_the_true_one(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        agent = await house.peer("alice")
        run_id = (await agent.call("runs.start", {"intent": "x"}))["run_id"]
        await agent.call("runs.record_turns", {"run_id": run_id, "turns": [{"prompt": "a"}]})
        snapshot = await agent.call("runs.subscribe", {"run_id": run_id, "from_cursor": 9})
        assert (snapshot["turns_so_far"], snapshot["cursor"]) == ([], 1)
        await agent.call("runs.record_turns", {"run_id": run_id, "turns": [{"prompt": "b"}]})
        assert (await agent.notification("runs.trace.event"))["cursor"] == 2


async def test_a_second_subscription_replaces_the_first_and_unsubscribing_ends_it(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        agent = await house.peer("alice")
        run_id = (await agent.call("runs.start", {"intent": "x"}))["run_id"]
        for _ in range(3):
            await agent.call("runs.subscribe", {"run_id": run_id})
        await agent.call("runs.record_turns", {"run_id": run_id, "turns": [{"prompt": "a"}]})
        assert (await agent.notification("runs.trace.event"))["cursor"] == 1
        assert await agent.call("runs.unsubscribe", {"run_id": run_id}) == {"run_id": run_id, "removed": True}
        assert await agent.call("runs.unsubscribe", {"run_id": run_id}) == {
            "run_id": run_id,
            "removed": False,
        }
        await agent.call("runs.record_turns", {"run_id": run_id, "turns": [{"prompt": "b"}]})
        assert not agent.frames


async def test_a_foreign_run_answers_byte_for_byte_like_an_unknown_one(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        owner, stranger = await house.peer("alice"), await house.peer("mallory")
        run_id = (await owner.call("runs.start", {"intent": "x"}))["run_id"]
        other = "0" * len(run_id)
        for method, extra in (
            ("runs.get_trace", {}),
            ("runs.subscribe", {}),
            ("runs.record_turns", {"turns": [{"prompt": "x"}]}),
            ("runs.complete", {"outcome": {"status": "done"}}),
        ):
            answers = []
            for asked in (run_id, other):
                await stranger.send({"id": 5, "method": method, "params": {"run_id": asked, **extra}})
                answers.append(json.dumps(await stranger.receive()).replace(asked, "RUN"))
            assert answers[0] == answers[1]
        with pytest.raises(Refused, match="not authorized for agent 'alice'"):
            await stranger.call("runs.list", {"agent_id": "alice"})


async def test_a_trace_is_paged_by_limit_and_names_the_next_page(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        agent = await house.peer("alice")
        run_id = (await agent.call("runs.start", {"intent": "x"}))["run_id"]
        await agent.call(
            "runs.record_turns", {"run_id": run_id, "turns": [{"prompt": str(n)} for n in range(7)]}
        )
        seen, cursor = [], 0
        while cursor is not None:
            page = await agent.call("runs.get_trace", {"run_id": run_id, "cursor": cursor, "limit": 3})
            assert page["cursor"] == cursor
            assert len(page["records"]) <= 3
            seen += page["records"]
            cursor = page.get("next_cursor")
        assert [record.get("prompt") for record in seen] == [None, *map(str, range(7))]
        past = await agent.call("runs.get_trace", {"run_id": run_id, "cursor": 99})
        assert (past["records"], past["cursor"]) == ([], 99)
        assert "next_cursor" not in past
