"""Live watching: what was recorded at once reaches all who watch in one piece, as far as each has room."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from car_trio.methods import traces
from car_trio.nursery import outbound, together
from car_trio.nursery.subscriptions import RunSubscription
from car_trio.nursery.together import Together
from car_trio.state import run as run_module
from car_trio.state.run import Run
from tests.peer import House, Peer, open_house

pytestmark = pytest.mark.usefixtures("inline_threads")


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What subscriptions hand to their connections, live or from disk."""
    pieces: list[bytes] = []
    plain = RunSubscription._emit

    def emit(self: RunSubscription, passage: Any) -> None:
        post = self._post
        self._post = lambda frames: pieces.append(frames) or post(frames)
        plain(self, passage)
        self._post = post

    monkeypatch.setattr(RunSubscription, "_emit", emit)
    return pieces


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many records each page held that a subscription has read from disk."""
    read: list[int] = []
    plain = RunSubscription._next_page

    def next_page(self: RunSubscription) -> Any:
        page = plain(self)
        read.append(len(page.records))
        return page

    monkeypatch.setattr(RunSubscription, "_next_page", next_page)
    return read


async def watched(house: House, count: int, *, lockstep: bool = False) -> tuple[Peer, Run, list[Peer]]:
    """An agent with a run, and those who follow it live."""
    agent = await house.peer("alice")
    run_id = (await agent.call("runs.start", {"intent": "x"}))["run_id"]
    watchers = [await house.peer(host=True, lockstep=lockstep) for _ in range(count)]
    for watcher in watchers:
        await watcher.call("runs.subscribe", {"run_id": run_id})
    await wait_all_tasks_blocked()
    run = house.daemon.runs.find(run_id)
    assert run is not None
    return agent, run, watchers


def batch(run: Run, count: int, size: int = 1) -> dict[str, Any]:
    return {"run_id": run.ref.run_id, "turns": [{"prompt": "x" * size}] * count}


async def cursors(watcher: Peer, count: int) -> list[int]:
    return [(await watcher.notification("runs.trace.event"))["cursor"] for _ in range(count)]


async def test_a_batch_reaches_all_who_watch_as_one_piece_that_they_share(
    tmp_path, autojump_clock, posted, pages
):
    async with open_house(tmp_path) as house:
        agent, run, watchers = await watched(house, 3)
        assert (await agent.call("runs.record_turns", batch(run, 40)))["ok"]
        for watcher in watchers:
            assert await cursors(watcher, 40) == list(range(1, 41))
        assert len(posted) == 3
        assert posted[0] is posted[1] is posted[2]
        assert pages == []
        assert {watcher.cursor for watcher in run.watchers} == {40}


async def test_who_watches_his_own_run_has_the_reply_before_the_events(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        agent, run, _ = await watched(house, 0)
        await agent.call("runs.subscribe", {"run_id": run.ref.run_id})
        recorded = await agent.request("runs.record_turns", batch(run, 2))
        assert [(await agent.receive()).get("id") for _ in range(3)] == [recorded, None, None]
        ended = {"run_id": run.ref.run_id, "outcome": {"status": "success"}}
        completed = await agent.request("runs.complete", ended)
        assert [(await agent.receive()).get("id") for _ in range(2)] == [completed, None]


async def test_the_bytes_that_wait_for_wedged_watchers_are_theirs_together(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        agent, run, _ = await watched(house, 3, lockstep=True)
        for _ in range(5):
            await agent.call("runs.record_turns", batch(run, 5, 1000))
        await wait_all_tasks_blocked()
        waiting = [each._out._waiting for each in house.connections[1:]]
        assert [len(each) for each in waiting] == [4, 4, 4]
        assert all(one is two is three for one, two, three in zip(*waiting, strict=True))


async def test_of_a_batch_that_does_not_fit_the_rest_is_read_from_disk_once_there_is_room(
    tmp_path, autojump_clock, monkeypatch, posted, pages
):
    monkeypatch.setattr(run_module, "PASSAGE_BYTES", 600)
    monkeypatch.setattr(outbound, "SOFT_LIMIT", 2500)
    async with open_house(tmp_path) as house:
        agent, run, (slow,) = await watched(house, 1, lockstep=True)
        await agent.call("runs.record_turns", batch(run, 50, 100))
        await wait_all_tasks_blocked()
        live = list(posted)
        assert 1 < len(live) < 10
        assert sum(map(len, live)) > 2500 >= sum(map(len, live[:-1]))
        assert pages == []
        assert await cursors(slow, 50) == list(range(1, 51))
        assert pages
        await wait_all_tasks_blocked()
        pages.clear()
        await agent.call("runs.record_turns", batch(run, 2, 100))
        assert await cursors(slow, 2) == [51, 52]
        assert pages == []


async def test_an_end_right_behind_a_batch_comes_last_and_ends_the_subscription(
    tmp_path, autojump_clock, pages
):
    async with open_house(tmp_path) as house:
        agent, run, (watcher,) = await watched(house, 1)
        (connection,) = (each for each in house.connections if each.session.host)
        await agent.request("runs.record_turns", batch(run, 3))
        await agent.request("runs.complete", {"run_id": run.ref.run_id, "outcome": {"status": "success"}})
        events = [await watcher.notification("runs.trace.event") for _ in range(4)]
        assert [(each["cursor"], each["status"]) for each in events] == [
            *((cursor, "in_progress") for cursor in (1, 2, 3)),
            (3, "completed"),
        ]
        assert pages == []
        await wait_all_tasks_blocked()
        assert (run.watchers, connection._peer._subscriptions) == ({}, {})
        assert await watcher.call("runs.unsubscribe", {"run_id": run.ref.run_id}) == {
            "run_id": run.ref.run_id,
            "removed": False,
        }


async def test_a_subscription_closed_in_the_middle_of_a_batch_shows_nothing_more(
    tmp_path, autojump_clock, monkeypatch
):
    monkeypatch.setattr(run_module, "PASSAGE_BYTES", 1)
    async with open_house(tmp_path) as house:
        agent, run, (first, second) = await watched(house, 2)
        one, two = run.watchers
        post = one._post

        def closing(frames: bytes) -> None:
            post(frames)
            if one.cursor == 2:
                two.close()

        one._post = closing
        await agent.call("runs.record_turns", batch(run, 5))
        assert await cursors(first, 5) == [1, 2, 3, 4, 5]
        await wait_all_tasks_blocked()
        assert two.cursor == 2
        assert list(run.watchers) == [one]
        assert await cursors(second, 2) == [1, 2]
        assert await second.call("server.health")
        assert not second.frames


async def test_a_subscription_closed_while_a_page_comes_from_disk_shows_nothing_of_it(
    tmp_path, autojump_clock, monkeypatch, posted
):
    plain = RunSubscription._next_page

    def closed_meanwhile(self: RunSubscription) -> Any:
        page = plain(self)
        self.close()
        return page

    async with open_house(tmp_path) as house:
        agent, run, (watcher,) = await watched(house, 1)
        await agent.call("runs.record_turns", batch(run, 3))
        await cursors(watcher, 3)
        await wait_all_tasks_blocked()
        posted.clear()
        monkeypatch.setattr(traces, "MAX_SNAPSHOT_BYTES", 1)
        monkeypatch.setattr(RunSubscription, "_next_page", closed_meanwhile)
        snapshot = await watcher.call("runs.subscribe", {"run_id": run.ref.run_id})
        assert snapshot["cursor"] == 1
        await wait_all_tasks_blocked()
        assert (posted, run.watchers) == ([], {})


async def test_who_subscribes_while_a_batch_is_on_its_way_sees_it_once(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        agent, run, (watcher,) = await watched(house, 1)
        for asked in range(4):
            await agent.request("runs.record_turns", batch(run, 5))
            for _ in range(asked):
                await trio.lowlevel.checkpoint()
            asked_from = {"run_id": run.ref.run_id, "from_cursor": 5 * asked}
            request = await watcher.request("runs.subscribe", asked_from)
            snapshot = await watcher.reply(request)
            # What the replaced subscription was shown came before the reply, and is not what follows it.
            watcher.frames.clear()
            missing = 5 * (asked + 1) - snapshot["cursor"]
            assert await cursors(watcher, missing) == list(range(snapshot["cursor"] + 1, 5 * (asked + 1) + 1))
            assert len(snapshot["turns_so_far"]) == 5 - missing


class Sender:
    def __init__(self, said: list[str], name: str) -> None:
        self._said = said
        self._name = name

    def send_now(self) -> None:
        self._said.append(self._name)


async def test_in_a_flush_the_reply_leaves_before_what_many_watch():
    said: list[str] = []
    sending = Together()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sending.deliver)
        await wait_all_tasks_blocked()
        with sending:
            for name in ("one", "two"):
                sending.add(Sender(said, name), can_wait=True)
            sending.add(Sender(said, "reply"))
        assert said == ["reply"]
        await wait_all_tasks_blocked()
        assert said == ["reply", "one", "two"]
        nursery.cancel_scope.cancel()


async def test_while_the_postman_serves_many_others_have_their_turn(monkeypatch):
    monkeypatch.setattr(together, "SENT_AT_ONCE", 3)
    said: list[str] = []
    sending = Together()

    async def other() -> None:
        while len(said) < 12:
            said.append("turn")
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sending.deliver)
        await wait_all_tasks_blocked()
        for _ in range(7):
            sending.add(Sender(said, "sent"))
        nursery.start_soon(other)
        await wait_all_tasks_blocked()
        assert said.count("sent") == 7
        sent = [at for at, each in enumerate(said) if each == "sent"]
        assert "turn" in said[sent[0] : sent[-1]]
        sending.add(Sender(said, "again"))
        await wait_all_tasks_blocked()
        assert said[-1] == "again"
        nursery.cancel_scope.cancel()
