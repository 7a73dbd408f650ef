"""Watching: every turn once and in order, whatever happens in between."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from trio_websocket import ConnectionClosed

from car_trio.client import (
    CallRefused,
    Car,
    Retracted,
    TokenUnreadable,
    WatchReplaced,
    connect,
    decode_record,
    feed,
)
from car_trio.wire.runs import Ended, TraceEvent, Turn


def turn(index: int) -> dict[str, Any]:
    return {"record": "turn", "index": index, "prompt": f"turn {index}"}


ENDED = {
    "record": "ended",
    "run_id": "r",
    "agent_id": "a",
    "termination": {"kind": "incomplete", "reason": "disconnected"},
    "ended_at": "t",
}


class Traced:
    """A run at the daemon: subscribers get its durable turns, then what is appended."""

    def __init__(self, daemon: Any, turns: int = 0) -> None:
        self.turns = turns
        self.ended = False
        self.page = 10_000
        self.asked: list[tuple[int, int]] = []
        self.watchers: dict[int, Any] = {}
        self._daemon = daemon
        daemon.methods["runs.subscribe"] = self.subscribe
        daemon.methods["runs.unsubscribe"] = self.unsubscribe

    async def subscribe(self, peer: Any, params: Any) -> Any:
        start = params.get("from_cursor", 0)
        number = self._daemon.peers.index(peer)
        self.asked.append((number, start))
        cursor = max(min(self.turns, start + self.page), min(start, self.turns))
        self.watchers[number] = peer
        if cursor < self.turns or self.ended:
            trio.lowlevel.spawn_system_task(self._catch_up, peer, cursor)
        return {
            "run_id": "r",
            "agent_id": "a",
            "turns_so_far": [turn(n) for n in range(start, cursor)],
            "cursor": cursor,
            "status": "completed" if self.ended else "in_progress",
        }

    async def unsubscribe(self, peer: Any, params: Any) -> Any:
        return {"run_id": "r", "removed": True}

    async def _catch_up(self, peer: Any, cursor: int) -> None:
        await wait_all_tasks_blocked()
        for n in range(cursor, self.turns):
            await peer.event("r", turn(n), n + 1)
        if self.ended:
            await peer.event("r", ENDED, self.turns)

    async def append(self, count: int = 1) -> None:
        for _ in range(count):
            self.turns += 1
            await self._tell(turn(self.turns - 1))

    async def end(self) -> None:
        self.ended = True
        await self._tell(ENDED)

    async def _tell(self, record: dict[str, Any]) -> None:
        for peer in self.watchers.values():
            with suppress(ConnectionClosed):
                await peer.event("r", record, self.turns)


@pytest.fixture
def run(daemon: Any) -> Traced:
    return Traced(daemon)


class Seen:
    """A task that watches and keeps what it saw."""

    def __init__(self) -> None:
        self.cursors: list[Any] = []
        self.records: list[Any] = []
        self.over = False

    async def watch(self, watch: Any) -> None:
        async for event in watch:
            self.cursors.append(event if isinstance(event, Retracted) else event.cursor)
            self.records.append(getattr(event, "record", None))
        self.over = True


@pytest.fixture
def seen() -> Seen:
    return Seen()


async def test_a_watch_gives_the_turns_so_far_then_the_live_ones_and_ends_with_the_run(
    car: Car, run: Traced, seen: Seen, nursery: trio.Nursery
) -> None:
    run.turns = 2
    nursery.start_soon(seen.watch, car.watch("r"))
    await wait_all_tasks_blocked()
    assert seen.cursors == [1, 2]
    await run.append()
    await wait_all_tasks_blocked()
    assert seen.cursors == [1, 2, 3]
    await run.end()
    await wait_all_tasks_blocked()
    assert (seen.cursors, seen.over) == ([1, 2, 3, 3], True)
    assert [type(record) for record in seen.records] == [Turn, Turn, Turn, Ended]
    assert [record.index for record in seen.records[:3]] == [0, 1, 2]


async def test_a_run_that_has_ended_is_replayed(car: Car, run: Traced, seen: Seen) -> None:
    run.turns, run.ended = 3, True
    await seen.watch(car.watch("r"))
    assert seen.cursors == [1, 2, 3, 3]


async def test_a_snapshot_that_is_only_a_page_is_followed_by_the_rest(
    car: Car, run: Traced, seen: Seen
) -> None:
    run.turns, run.ended, run.page = 7, True, 3
    await seen.watch(car.watch("r"))
    assert seen.cursors == [1, 2, 3, 4, 5, 6, 7, 7]


async def test_a_watch_can_start_at_a_cursor(car: Car, run: Traced, seen: Seen) -> None:
    run.turns, run.ended = 5, True
    await seen.watch(car.watch("r", 3))
    assert seen.cursors == [4, 5, 5]
    assert run.asked == [(0, 3)]


async def test_a_daemon_that_ignores_the_cursor_repeats_nothing(
    daemon: Any, car: Car, run: Traced, seen: Seen, nursery: trio.Nursery
) -> None:
    async def all_of_it(peer: Any, params: Any) -> Any:
        return await run.subscribe(peer, {})

    daemon.methods["runs.subscribe"] = all_of_it
    run.turns, run.ended = 5, True
    await seen.watch(car.watch("r", 3))
    assert seen.cursors == [4, 5, 5]


async def test_a_lost_connection_is_dialled_again_and_nothing_is_missed_or_repeated(
    daemon: Any, car: Car, run: Traced, seen: Seen, nursery: trio.Nursery, autojump_clock: Any
) -> None:
    run.turns = 1
    nursery.start_soon(seen.watch, car.watch("r"))
    await wait_all_tasks_blocked()
    await run.append()
    await daemon.peers[0].drop()
    await run.append(2)
    await trio.sleep(1)
    await run.append()
    await run.end()
    await wait_all_tasks_blocked()
    assert seen.cursors == [1, 2, 3, 4, 5, 5]
    assert run.asked == [(0, 0), (1, 2)]


async def test_dialling_again_shows_the_token_anew_and_registers_the_tools_again(
    daemon: Any, run: Traced, seen: Seen, nursery: trio.Nursery, give_tokens: Any, autojump_clock: Any
) -> None:
    async def tool(parameters: dict[str, Any]) -> str:
        return "done"

    give_tokens(auth_token="old")
    async with connect(agent_id="me") as car:
        await car.register(tool=tool)
        nursery.start_soon(seen.watch, car.watch("r"))
        await wait_all_tasks_blocked()
        give_tokens(auth_token="new")
        await daemon.peers[0].drop()
        await trio.sleep(1)
        assert daemon.peers[1].calls == [
            ("session.auth", {"token": "new", "agent_id": "me"}),
            ("tools.register", [{"name": "tool"}]),
            ("runs.subscribe", {"run_id": "r"}),
        ]
        assert await car.call("ping") == "pong"
        await run.end()
        await wait_all_tasks_blocked()
    assert seen.over


async def test_a_daemon_that_is_down_is_tried_until_it_is_back(
    daemon: Any, car: Car, run: Traced, seen: Seen, nursery: trio.Nursery, autojump_clock: Any
) -> None:
    nursery.start_soon(seen.watch, car.watch("r"))
    await wait_all_tasks_blocked()
    daemon.down = True
    await daemon.peers[0].drop()
    await trio.sleep(60)
    run.turns, run.ended, daemon.down = 2, True, False
    await trio.sleep(6)
    assert seen.cursors == [1, 2, 2]


async def test_several_watches_share_the_connection_that_is_dialled_again(
    daemon: Any, car: Car, nursery: trio.Nursery, autojump_clock: Any
) -> None:
    daemon.methods["runs.subscribe"] = lambda peer, params: {
        "run_id": params["run_id"],
        "agent_id": "a",
        "turns_so_far": [],
        "cursor": 0,
        "status": "in_progress",
    }
    first, second = Seen(), Seen()
    nursery.start_soon(first.watch, car.watch("one"))
    nursery.start_soon(second.watch, car.watch("two"))
    await wait_all_tasks_blocked()
    await daemon.peers[0].drop()
    await trio.sleep(1)
    assert len(daemon.peers) == 2
    await daemon.peers[1].event("two", turn(0), 1)
    await daemon.peers[1].event("one", turn(0), 1)
    await daemon.peers[1].event("three", turn(0), 1)
    await wait_all_tasks_blocked()
    assert (first.cursors, second.cursors) == ([1], [1])


async def test_a_daemon_that_keeps_refusing_is_the_watchers_to_know(
    daemon: Any, car: Car, run: Traced, refuse: Any, autojump_clock: Any
) -> None:
    def mismatch(peer: Any, params: Any) -> Any:
        raise refuse(-32603, "auth failed: token mismatch")

    async with connect(token="t") as car:
        watch = car.watch("r")
        run.turns = 1
        await anext(watch)
        daemon.methods["session.auth"] = mismatch
        await daemon.peers[1].drop()
        with pytest.raises(CallRefused, match="token mismatch"):
            await anext(watch)
        await wait_all_tasks_blocked()
        assert len(daemon.peers) == 10
        assert [peer.websocket.closed is None for peer in daemon.peers] == [True] + 9 * [False]


async def test_a_host_token_that_cannot_be_read_any_more_is_the_watchers_to_know(
    daemon: Any, run: Traced, give_tokens: Any, tmp_path: Path, autojump_clock: Any
) -> None:
    give_tokens(host_token="host")
    token = tmp_path / "home" / "ai.parslee.car" / "host-token"
    run.turns = 1
    async with connect(host=True) as car:
        watch = car.watch("r")
        await anext(watch)
        token.write_bytes(b"\xff")
        await daemon.peers[0].drop()
        with pytest.raises(TokenUnreadable, match="is not text"):
            await anext(watch)
        token.write_text("host")
        run.turns = 2
        assert (await anext(car.watch("r", 1))).cursor == 2


async def test_an_agent_whose_old_connection_is_not_gone_yet_gets_in_a_little_later(
    daemon: Any, run: Traced, refuse: Any, autojump_clock: Any
) -> None:
    attempts: list[int] = []

    def attached(peer: Any, params: Any) -> Any:
        attempts.append(1)
        if 1 < len(attempts) < 5:
            raise refuse(-32603, "agent 'me' is already attached on another connection")
        return {"ok": True, "auth_enabled": True}

    daemon.methods["session.auth"] = attached
    run.turns = 1
    async with connect(agent_id="me", token="t") as car:
        watch = car.watch("r")
        await anext(watch)
        await daemon.peers[0].drop()
        run.turns = 2
        assert (await anext(watch)).cursor == 2


async def test_turns_that_the_daemon_lost_are_retracted(
    daemon: Any, car: Car, run: Traced, seen: Seen, nursery: trio.Nursery, autojump_clock: Any
) -> None:
    run.turns = 5
    nursery.start_soon(seen.watch, car.watch("r"))
    await wait_all_tasks_blocked()
    run.turns = 3
    await daemon.peers[0].drop()
    await trio.sleep(1)
    await run.append()
    await run.end()
    await wait_all_tasks_blocked()
    assert seen.cursors == [1, 2, 3, 4, 5, Retracted(3), 4, 4]


async def test_a_slow_loop_loses_nothing_and_holds_up_nobody(
    daemon: Any, car: Car, run: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_EVENTS", 3)
    watch = car.watch("r")
    run.turns = 1
    assert (await anext(watch)).cursor == 1
    await run.append(10)
    await wait_all_tasks_blocked()
    assert await car.call("ping") == "pong"
    got = [(await anext(watch)).cursor for _ in range(10)]
    assert got == list(range(2, 12))
    assert run.asked == [(0, 0), (0, 4)]
    await run.append()
    assert (await anext(watch)).cursor == 12


async def test_a_feed_is_bounded_by_bytes_but_always_takes_one_record(
    car: Car, run: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_BYTES", 1)
    watch = car.watch("r")
    run.turns = 1
    await anext(watch)
    await run.append(3)
    await wait_all_tasks_blocked()
    assert [(await anext(watch)).cursor for _ in range(3)] == [2, 3, 4]
    assert run.asked == [(0, 0), (0, 2)]


async def test_events_of_an_older_subscription_are_not_given_twice(
    daemon: Any, car: Car, run: Traced
) -> None:
    run.turns = 3
    watch = car.watch("r")
    assert [(await anext(watch)).cursor for _ in range(3)] == [1, 2, 3]
    for n in (0, 2, 3):
        await daemon.peers[0].event("r", turn(n), n + 1)
    assert (await anext(watch)).cursor == 4
    assert run.asked == [(0, 0)]


async def test_a_gap_is_asked_for(daemon: Any, car: Car, run: Traced) -> None:
    run.turns = 1
    watch = car.watch("r")
    await anext(watch)
    run.turns = 4
    await daemon.peers[0].event("r", turn(3), 4)
    assert [(await anext(watch)).cursor for _ in range(3)] == [2, 3, 4]
    assert run.asked == [(0, 0), (0, 1)]


async def test_an_end_that_comes_before_its_turns_does_not_hide_them(
    daemon: Any, car: Car, run: Traced
) -> None:
    run.turns = 1
    watch = car.watch("r")
    await anext(watch)
    run.turns, run.ended = 2, True
    await daemon.peers[0].event("r", ENDED, 2)
    assert [type(event.record) async for event in watch] == [Turn, Ended]


async def test_a_gap_in_the_trace_itself_is_asked_for_once_and_then_accepted(
    daemon: Any, car: Car, run: Traced, autojump_clock: Any
) -> None:
    run.turns = 1
    watch = car.watch("r")
    await anext(watch)
    await daemon.peers[0].event("r", ENDED, 3)
    await wait_all_tasks_blocked()
    with trio.move_on_after(1):
        await anext(watch)
    await daemon.peers[0].event("r", ENDED, 3)
    assert [type(event.record) async for event in watch] == [Ended]
    assert run.asked == [(0, 0), (0, 1)]


async def test_a_record_of_an_unknown_kind_is_passed_on_as_it_is(daemon: Any, car: Car, run: Traced) -> None:
    run.turns = 1
    watch = car.watch("r")
    await anext(watch)
    await daemon.peers[0].event("r", {"record": "note", "text": "n"}, 1)
    assert (await anext(watch)).record == {"record": "note", "text": "n"}
    assert decode_record(msgspec.Raw(b'{"record":"damaged","line":3}')).line == 3  # type: ignore[union-attr]


async def test_a_wait_that_is_cancelled_loses_nothing(
    daemon: Any, car: Car, run: Traced, autojump_clock: Any
) -> None:
    answer = run.subscribe

    async def slow(peer: Any, params: Any) -> Any:
        await trio.sleep(5)
        return await answer(peer, params)

    daemon.methods["runs.subscribe"] = slow
    run.turns = 1
    watch = car.watch("r")
    with trio.move_on_after(1):
        await anext(watch)
    assert (await anext(watch)).cursor == 1
    with trio.move_on_after(1):
        await anext(watch)
    await run.append()
    assert (await anext(watch)).cursor == 2


async def test_a_run_that_may_not_be_read_is_refused(daemon: Any, car: Car, refuse: Any) -> None:
    def unknown(peer: Any, params: Any) -> Any:
        raise refuse(-32603, "unknown run_id `r`")

    daemon.methods["runs.subscribe"] = unknown
    with pytest.raises(CallRefused, match="unknown run_id `r`"):
        await anext(car.watch("r"))


async def test_leaving_the_loop_unsubscribes(daemon: Any, car: Car, run: Traced) -> None:
    run.turns = 2
    async for _ in car.watch("r"):
        break
    await wait_all_tasks_blocked()
    assert daemon.calls_of("runs.unsubscribe") == [{"run_id": "r"}]


async def test_the_end_of_a_with_block_unsubscribes_and_ends_the_iteration(
    daemon: Any, car: Car, run: Traced
) -> None:
    run.turns = 2
    with car.watch("r") as watch:
        await anext(watch)
    await wait_all_tasks_blocked()
    assert daemon.calls_of("runs.unsubscribe") == [{"run_id": "r"}]
    assert [event async for event in watch] == []


async def test_a_watch_that_never_began_is_closed_in_silence(daemon: Any, car: Car) -> None:
    car.watch("r").close()
    await wait_all_tasks_blocked()
    assert daemon.calls == []


async def test_a_second_watch_of_a_run_replaces_the_first_which_is_told(
    daemon: Any, car: Car, run: Traced
) -> None:
    run.turns = 1
    first, second = car.watch("r"), car.watch("r")
    await anext(first)
    await anext(second)
    with pytest.raises(WatchReplaced, match="'r'"):
        await anext(first)
    first.close()
    await run.append()
    assert (await anext(second)).cursor == 2
    assert daemon.calls_of("runs.unsubscribe") == []
    assert [event async for event in first] == []


async def test_events_that_wait_when_the_connection_goes_are_still_given(
    daemon: Any, car: Car, run: Traced, autojump_clock: Any
) -> None:
    run.turns = 1
    watch = car.watch("r")
    await anext(watch)
    await run.append(2)
    await wait_all_tasks_blocked()
    await daemon.peers[0].drop()
    await wait_all_tasks_blocked()
    daemon.down = True
    assert [(await anext(watch)).cursor for _ in range(2)] == [2, 3]


async def test_a_connection_that_goes_while_subscribing_is_dialled_again(
    daemon: Any, car: Car, run: Traced, autojump_clock: Any
) -> None:
    answer = run.subscribe

    async def drop_once(peer: Any, params: Any) -> Any:
        if peer is daemon.peers[0]:
            await peer.drop()
        return await answer(peer, params)

    daemon.methods["runs.subscribe"] = drop_once
    run.turns = 1
    assert (await anext(car.watch("r"))).cursor == 1


async def test_refusals_between_which_the_daemon_was_down_are_not_added_up(
    daemon: Any, car: Car, run: Traced, refuse: Any, autojump_clock: Any
) -> None:
    attempts: list[int] = []

    def refuse_five_times(peer: Any, params: Any) -> Any:
        attempts.append(1)
        daemon.down = len(attempts) == 5
        if len(attempts) < 10:
            raise refuse(-32603, "not yet")
        return {"ok": True, "auth_enabled": True}

    async def come_back() -> None:
        while True:
            await trio.sleep(20)
            daemon.down = False

    run.turns = 1
    async with connect(token="t") as other, trio.open_nursery() as outside:
        watch = other.watch("r")
        await anext(watch)
        daemon.methods["session.auth"] = refuse_five_times
        outside.start_soon(come_back)
        await daemon.peers[-1].drop()
        run.turns = 2
        assert (await anext(watch)).cursor == 2
        outside.cancel_scope.cancel()


async def test_a_subscription_that_was_asked_for_and_then_left_is_taken_back(
    daemon: Any, car: Car, autojump_clock: Any
) -> None:
    async def never(peer: Any, params: Any) -> None:
        await trio.sleep_forever()

    daemon.methods["runs.subscribe"] = never
    with trio.move_on_after(1):
        await anext(car.watch("r"))
    await wait_all_tasks_blocked()
    assert daemon.calls == [("runs.subscribe", {"run_id": "r"}), ("runs.unsubscribe", {"run_id": "r"})]


async def test_a_watch_that_has_events_ready_can_still_be_cancelled_and_keeps_them(
    car: Car, run: Traced
) -> None:
    run.turns = 2
    watch = car.watch("r")
    assert (await anext(watch)).cursor == 1
    with trio.CancelScope() as scope:
        scope.cancel()
        await anext(watch)
    assert scope.cancelled_caught
    assert (await anext(watch)).cursor == 2


def event(cursor: int) -> TraceEvent:
    return TraceEvent("r", "a", msgspec.Raw(b"x" * 10), cursor, "in_progress")


def test_what_was_taken_from_a_feed_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_BYTES", 20)
    waiting = feed.Feed[TraceEvent](feed.Topic("runs.trace.event", "r"))
    for cursor in range(1, 6):
        assert waiting.offer(event(cursor), 10)
        assert waiting.offer(event(cursor), 10)
        assert (waiting.take(), waiting.take(), waiting.take()) == (event(cursor), event(cursor), None)
    assert not waiting.behind


def test_a_feed_that_turned_an_event_away_takes_none_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_EVENTS", 1)
    waiting = feed.Feed[TraceEvent](feed.Topic("runs.trace.event", "r"))
    assert waiting.offer(event(1), 10)
    assert not waiting.offer(event(2), 10)
    assert waiting.take() == event(1)
    assert not waiting.offer(event(3), 10)
    assert waiting.take() is None
