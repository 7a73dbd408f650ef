"""Removals of runs whose ids are used again meanwhile (`runs.md` section 2, "remove", and section 3, retention)."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from car_trio.methods import traces
from car_trio.methods.runs import taken_off
from car_trio.nursery.duties import retention
from car_trio.nursery.lookups import LookupDesk
from car_trio.nursery.peer import WAITS
from car_trio.state.runs import RunRegistry
from car_trio.store.tickets import RemovalTicket
from car_trio.wire.errors import STORAGE_DEGRADED, Refusal
from tests.peer import House, Peer, Refused, open_house

pytestmark = pytest.mark.usefixtures("inline_threads")


async def ended(peer: Peer, key: str) -> None:
    await peer.call("runs.start", {"intent": "first", "idempotency_key": key})
    await peer.call("runs.complete", {"run_id": key, "outcome": {"status": "done"}})


async def begun_anew(house: House, peer: Peer, key: str) -> None:
    host = await house.peer(host=True)
    assert (await host.call("runs.remove", {"run_ids": [key]}))["removed"] == [key]
    await peer.call("runs.start", {"intent": "second", "idempotency_key": key})
    assert (await peer.call("runs.record_turns", {"run_id": key, "turns": [{"prompt": "p"}]}))["ok"]


async def intent_and_turns(peer: Peer, key: str) -> tuple[str, int]:
    records = (await peer.call("runs.get_trace", {"run_id": key}))["records"]
    return records[0]["intent"], len(records) - 1


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_removal_that_comes_late_leaves_the_run_alone_that_has_the_key_now(
    tmp_path, autojump_clock, is_open
):
    async with open_house(tmp_path) as house:
        peer = await house.peer("alice")
        await ended(peer, "key")
        row = house.daemon.store.find("key")
        await begun_anew(house, peer, "key")
        if not is_open:
            await peer.call("runs.complete", {"run_id": "key", "outcome": {"status": "done"}})
        assert not await taken_off(house.daemon, WAITS, row, "late")
        assert await intent_and_turns(peer, "key") == ("second", 1 if is_open else 2)
        assert len((tmp_path / "deleted-runs.jsonl").read_text().splitlines()) == 1


async def test_of_two_removals_of_one_run_one_counts(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        await ended(await house.peer("alice"), "key")
        hosts = [await house.peer(host=True) for _ in range(2)]
        asked = [await host.request("runs.remove", {"run_ids": ["key"]}) for host in hosts]
        replies = [await host.reply(request) for host, request in zip(hosts, asked, strict=True)]
        assert sorted(reply["removed"] for reply in replies) == [[], ["key"]]
        assert len((tmp_path / "deleted-runs.jsonl").read_text().splitlines()) == 1


async def test_retention_leaves_a_run_alone_that_has_the_key_of_one_it_found(
    tmp_path, autojump_clock, monkeypatch
):
    async with open_house(tmp_path, runs={"max_per_agent": 1}) as house:
        peer = await house.peer("alice")
        for key in ("key", "newer"):
            await ended(peer, key)
        found = house.store.expired(house.store.look_at_clock())
        assert [row.run_id for row, _ in found] == ["key"]
        monkeypatch.setattr(type(house.store), "expired", lambda *_: found)
        await begun_anew(house, peer, "key")
        with trio.move_on_after(10):
            await retention(house.daemon, house.store)
        assert await intent_and_turns(peer, "key") == ("second", 1)


async def test_a_start_with_the_key_of_a_run_that_is_being_removed_waits_and_makes_a_new_one(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        peer = await house.peer("alice")
        await ended(peer, "key")
        runs, row, removal = house.daemon.runs, house.daemon.store.find("key"), RemovalTicket()
        assert runs.removal(row, lambda: removal) is removal
        start = await peer.request("runs.start", {"intent": "second", "idempotency_key": "key"})
        await trio.testing.wait_all_tasks_blocked()
        assert runs.open_count == 0
        removal.settle(None)
        assert (await peer.reply(start))["run_id"] == "key"
        assert (runs.open_count, runs.find("key").intent) == (1, "second")


async def test_what_the_catalog_said_of_a_run_that_was_removed_meanwhile_is_not_believed(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        await ended(await house.peer("alice"), "key")
        runs, row = house.daemon.runs, house.daemon.store.find("key")
        runs._absent._known.clear()

        def find(run_id: str):
            runs._absent.leaves(run_id, house.store.remove(row, "meanwhile"))
            runs._absent.left(run_id, gone=True)
            return row

        await LookupDesk(find, runs).ask("key")
        assert runs.find("key") is None


async def test_a_question_that_nobody_answers_is_over(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:

        def fail(run_id: str):
            raise OSError("the disk fails")

        with pytest.raises(OSError, match="the disk fails"):
            await LookupDesk(fail, house.daemon.runs).ask("key")
        assert not house.daemon.runs._absent._questions


async def test_a_removal_does_not_wait_for_a_long_sync_interval(tmp_path, autojump_clock):
    runs = {"durability": "interval", "sync_interval_ms": 60_000}
    async with open_house(tmp_path, runs=runs) as house:
        await ended(await house.peer("alice"), "key")
        host = await house.peer(host=True)
        before = trio.current_time()
        assert (await host.call("runs.remove", {"run_ids": ["key"]}))["removed"] == ["key"]
        assert trio.current_time() - before < 1


async def test_a_run_can_be_removed_as_soon_as_its_end_is_acknowledged(tmp_path, autojump_clock, monkeypatch):
    indexed, told = RunRegistry._indexed, []
    monkeypatch.setattr(RunRegistry, "_indexed", lambda *of: told.append(of))
    async with open_house(tmp_path) as house:
        host = await house.peer(host=True)
        await ended(await house.peer("alice"), "key")
        request = await host.request("runs.remove", {"run_ids": ["key"]})
        with trio.move_on_after(1):
            await host.reply(request)
        assert [run.ref.run_id for _, run in told] == ["key"]
        indexed(*told[0])
        assert (await host.reply(request))["removed"] == ["key"]


async def test_a_removal_does_not_wait_for_a_catalog_that_cannot_be_written(
    tmp_path, autojump_clock, monkeypatch
):
    monkeypatch.setattr(RunRegistry, "_indexed", lambda *_: None)
    async with open_house(tmp_path) as house:
        host = await house.peer(host=True)
        await ended(await house.peer("alice"), "key")
        assert (await host.call("runs.remove", {"run_ids": ["key"]}))["removed"] == []
        assert 4.9 < trio.current_time() < 7


# What is read while the id comes to name another run


async def recorded(peer: Peer, key: str, intent: str, count: int) -> None:
    """An ended run of turns that say which run they are of."""
    await peer.call("runs.start", {"intent": intent, "idempotency_key": key})
    turns = [{"prompt": intent + "x" * 2000}] * 50
    for _ in range(count // 50):
        assert (await peer.call("runs.record_turns", {"run_id": key, "turns": turns}))["ok"]
    outcome = {"status": "success" if intent == "first" else "failure"}
    await peer.call("runs.complete", {"run_id": key, "outcome": outcome})


async def used_again(house: House, peer: Peer, key: str) -> None:
    host = await house.peer(host=True)
    assert (await host.call("runs.remove", {"run_ids": [key]}))["removed"] == [key]
    await recorded(peer, key, "second", 2000)


async def test_a_watcher_that_is_slow_is_shown_nothing_of_the_next_run_of_the_id(
    tmp_path, autojump_clock, monkeypatch
):
    monkeypatch.setattr(traces, "MAX_SNAPSHOT_BYTES", 1)
    async with open_house(tmp_path) as house:
        peer, slow = await house.peer("alice"), await house.peer(host=True, lockstep=True)
        await recorded(peer, "key", "first", 2000)
        await slow.call("runs.subscribe", {"run_id": "key"})
        await trio.testing.wait_all_tasks_blocked()
        await used_again(house, peer, "key")
        shown = [await slow.notification("runs.trace.event")]
        while shown[-1]["status"] == "in_progress":
            shown.append(await slow.notification("runs.trace.event"))
        assert {event["record"]["prompt"][:5] for event in shown[:-1]} == {"first"}
        assert len(shown) < 2001
        assert shown[-1]["record"]["termination"]["outcome"]["status"] == "success"


async def test_a_read_that_waited_says_nothing_of_the_next_run_of_the_id(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer, slow = await house.peer("alice"), await house.peer(host=True, lockstep=True)
        await recorded(peer, "large", "first", 1000)
        await recorded(peer, "key", "first", 50)
        large = await slow.request("runs.get_trace", {"run_id": "large"})
        await trio.testing.wait_all_tasks_blocked()
        read = await slow.request("runs.get_trace", {"run_id": "key"})
        watch = await slow.request("runs.subscribe", {"run_id": "key"})
        await trio.testing.wait_all_tasks_blocked()
        await used_again(house, peer, "key")
        assert len((await slow.reply(large))["records"]) == 1002
        assert (await slow.reply(read)) == {"run_id": "key", "not_found": True}
        with pytest.raises(Refused, match="unknown run_id"):
            await slow.reply(watch)


@pytest.mark.parametrize("refusal", [None, Refusal("storage degraded: the disk fails", STORAGE_DEGRADED)])
async def test_a_trace_that_was_read_while_the_run_is_removed_is_not_shown_as_if_it_were_whole(
    tmp_path, autojump_clock, monkeypatch, refusal
):
    async with open_house(tmp_path) as house:
        peer = await house.peer("alice")
        await ended(peer, "key")
        row, removal = house.daemon.store.find("key"), RemovalTicket()

        def read(*_):
            assert house.daemon.runs.removal(row, lambda: removal) is removal
            return {"records": []}

        monkeypatch.setattr("car_trio.methods.runs.trace", read)
        request = await peer.request("runs.get_trace", {"run_id": "key"})
        with trio.move_on_after(1) as patience:
            await peer.reply(request)
        assert patience.cancelled_caught
        removal.settle(refusal)
        if refusal is None:
            assert await peer.reply(request) == {"run_id": "key", "not_found": True}
        else:
            with pytest.raises(Refused, match="the disk fails"):
                await peer.reply(request)
