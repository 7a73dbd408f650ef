"""A disk that fails under a serving daemon (`runs.md` section 3, `wire.md` -32011): refused, kept, told, healed."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from car_trio.store.disk import Disk
from tests.peer import Refused, open_house

pytestmark = pytest.mark.usefixtures("inline_threads")


class Breakable(Disk):
    """The real disk, until it is told to fail."""

    def __init__(self) -> None:
        self.write_error: int | None = None
        self.sync_error: int | None = None

    def write(self, descriptor: int, payload: bytes) -> int:
        if self.write_error:
            raise OSError(self.write_error, os.strerror(self.write_error))
        return super().write(descriptor, payload)

    def sync(self, descriptor: int) -> None:
        if self.sync_error:
            raise OSError(self.sync_error, os.strerror(self.sync_error))
        super().sync(descriptor)


@pytest.mark.parametrize(
    ("which", "number"),
    [
        ("write_error", errno.ENOSPC),
        ("write_error", errno.EDQUOT),
        ("sync_error", errno.EIO),
        ("write_error", errno.EROFS),
    ],
)
async def test_what_was_accepted_is_pending_what_is_new_is_refused_and_both_are_told(
    tmp_path, autojump_clock, which, number
):
    disk = Breakable()
    async with open_house(tmp_path, disk=disk) as house:
        agent, watcher = await house.peer("alice"), await house.peer(host=True)
        run_id = (await agent.call("runs.start", {"intent": "x"}))["run_id"]
        one = {"run_id": run_id, "turns": [{"prompt": "one"}]}
        await agent.call("runs.record_turns", one)
        await watcher.call("runs.subscribe", {"run_id": run_id})
        setattr(disk, which, number)
        began = trio.current_time()
        with pytest.raises(Refused, match="^storage degraded: .*do not send it again") as caught:
            await agent.call("runs.record_turns", one)
        assert (caught.value.code, caught.value.data["pending"]) == (-32011, True)
        assert caught.value.data["result"]["base_index"] == 1
        assert trio.current_time() - began == pytest.approx(20)
        for method, params in (
            ("runs.start", {"intent": "y"}),
            ("runs.record_turns", one),
            ("proposal.submit", {"proposal": {"actions": []}}),
        ):
            with pytest.raises(Refused, match="^storage degraded: .*send it again later") as caught:
                await agent.call(method, params)
            assert (caught.value.code, caught.value.data) == (-32011, {"pending": False})
        assert (await agent.call("server.health"))["store"] == "degraded"
        assert len((await agent.call("runs.get_trace", {"run_id": run_id}))["records"]) == 2
        assert not watcher.frames
        setattr(disk, which, None)
        assert (await watcher.notification("runs.trace.event"))["cursor"] == 2
        assert (await agent.call("server.health"))["store"] == "ok"
        assert (await agent.call("runs.record_turns", one))["base_index"] == 2
        trace = (await agent.call("runs.get_trace", {"run_id": run_id}))["records"]
        assert [record.get("index") for record in trace] == [None, 0, 1, 2]


async def test_an_end_is_accepted_on_a_degraded_store_and_written_when_it_heals(tmp_path, autojump_clock):
    disk = Breakable()
    async with open_house(tmp_path, disk=disk) as house:
        agent = await house.peer("alice")
        run_id = (await agent.call("runs.start", {"intent": "x"}))["run_id"]
        disk.write_error = errno.ENOSPC
        with pytest.raises(Refused, match="do not send it again") as caught:
            await agent.call("runs.complete", {"run_id": run_id, "outcome": {"status": "success"}})
        assert caught.value.data["pending"] is True
        with pytest.raises(Refused, match="already terminal"):
            await agent.call("runs.complete", {"run_id": run_id, "outcome": {"status": "success"}})
        assert house.status(run_id) == "in_progress"
        disk.write_error = None
        await trio.sleep(10)
        assert house.status(run_id) == "completed"


async def test_a_submit_that_was_admitted_is_recorded_although_the_disk_fails_meanwhile(
    tmp_path, autojump_clock
):
    disk = Breakable()
    async with open_house(tmp_path, disk=disk) as house:
        agent = await house.peer("alice")
        await agent.call("tools.register", [{"name": "t"}])
        run_id = (await agent.call("runs.start", {"intent": "x"}))["run_id"]
        submitted = await agent.request(
            "proposal.submit", {"proposal": {"actions": [{"type": "tool_call", "tool": "t"}]}}
        )
        call = await agent.notification("tools.execute")
        disk.write_error = errno.ENOSPC
        await agent.answer(call, "done")
        with pytest.raises(Refused, match="do not send it again") as caught:
            await agent.reply(submitted)
        assert caught.value.data["result"]["results"][0]["output"] == "done"
        disk.write_error = None
        await trio.sleep(10)
        trace = (await agent.call("runs.get_trace", {"run_id": run_id}))["records"]
        assert trace[1]["output"] == "done"


async def notice(agent) -> None:
    """The space is measured by the writing thread, at most once a second, when somebody asks."""
    await trio.sleep(2)
    with suppress(Refused):
        await agent.call("runs.start", {"intent": "ask"})


async def test_space_is_kept_for_ends_when_the_disk_runs_low(tmp_path, autojump_clock, monkeypatch):
    free = 10_000
    monkeypatch.setattr(Disk, "free_bytes", lambda self, path: free)
    async with open_house(tmp_path, runs={"keep_free_bytes": 8_000}) as house:
        agent = await house.peer("alice")
        run_id = (await agent.call("runs.start", {"intent": "x"}))["run_id"]
        turns = {"run_id": run_id, "turns": [{"prompt": "one"}]}
        free = 5_000
        await notice(agent)
        with pytest.raises(Refused, match="has 5000 bytes free") as caught:
            await agent.call("runs.start", {"intent": "y"})
        assert caught.value.data == {"pending": False}
        assert (await agent.call("runs.record_turns", turns))["ok"]
        free = 3_000
        await notice(agent)
        with pytest.raises(Refused, match="has 3000 bytes free"):
            await agent.call("runs.record_turns", turns)
        assert (await agent.call("runs.complete", {"run_id": run_id, "outcome": {"status": "done"}}))["ok"]


async def test_a_stop_on_a_broken_disk_ends_in_time(tmp_path, autojump_clock):
    disk = Breakable()
    async with open_house(tmp_path, disk=disk) as house:
        agent = await house.peer("alice")
        await agent.call("runs.start", {"intent": "x"})
        disk.write_error = errno.EIO
        house.stop.set()
        with trio.fail_after(60):
            await house.stopped.wait()
        assert house.daemon.runs.open_count == 0


def a_fifo(runs: Path) -> Path:
    os.mkfifo(path := runs / "alice" / "k.jsonl")
    return path


def a_link(runs: Path) -> Path:
    (path := runs / "alice" / "k.jsonl").symlink_to(runs / ".nobackup")
    return path


def a_directory(runs: Path) -> Path:
    (path := runs / "alice" / "k.jsonl").mkdir()
    return path


def a_file_for_its_directory(runs: Path) -> Path:
    (runs / "alice").rmdir()
    (path := runs / "alice").write_text("")
    return path


@pytest.mark.parametrize("put", [a_fifo, a_link, a_directory, a_file_for_its_directory])
async def test_what_lies_in_the_place_of_a_run_stops_that_run_alone_until_it_is_moved_away(
    tmp_path, autojump_clock, put
):
    disk = Breakable()
    key = {"intent": "x", "idempotency_key": "k"}
    (tmp_path / "runs" / "alice").mkdir(parents=True)
    path = put(tmp_path / "runs")
    async with open_house(tmp_path, disk=disk) as house:
        alice, bob = await house.peer("alice"), await house.peer("bob")
        began = trio.current_time()
        with pytest.raises(
            Refused, match=f"never followed.*{path}.*; move it away; kept in memory"
        ) as caught:
            await alice.call("runs.start", key)
        assert (caught.value.code, caught.value.data["pending"]) == (-32011, True)
        assert trio.current_time() - began < 1
        assert (await bob.call("server.health"))["store"] == "ok"
        plan = {
            "proposal": {
                "actions": [{"id": "w", "type": "state_write", "parameters": {"key": "k", "value": 1}}]
            }
        }
        for method, params in (
            ("proposal.submit", plan),
            ("runs.record_turns", {"run_id": "k", "turns": [{}]}),
        ):
            with pytest.raises(Refused, match="move it away; send it again later"):
                await alice.call(method, params)
        run_id = (await bob.call("runs.start", {"intent": "y"}))["run_id"]

        disk.write_error = errno.ENOSPC
        with pytest.raises(Refused, match="No space left"):
            await bob.call("runs.complete", {"run_id": run_id, "outcome": {"status": "success"}})
        assert (await bob.call("server.health"))["store"] == "degraded"
        disk.write_error = None
        await trio.sleep(2)
        assert (await bob.call("server.health"))["store"] == "ok"

        path.rename(tmp_path / "aside")
        await trio.sleep(2)
        assert await alice.call("runs.start", key) == {"run_id": "k", "agent_id": "alice"}
        assert len((await alice.call("runs.get_trace", {"run_id": "k"}))["records"]) == 1


async def test_a_stop_says_which_run_was_not_written_and_what_lies_in_its_place(
    tmp_path, autojump_clock, caplog
):
    (tmp_path / "runs" / "alice").mkdir(parents=True)
    path = a_fifo(tmp_path / "runs")
    async with open_house(tmp_path) as house:
        alice = await house.peer("alice")
        with pytest.raises(Refused):
            await alice.call("runs.start", {"intent": "x", "idempotency_key": "k"})
    said = [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
    assert len(said) == 1
    assert "puts were never written" in said[0]
    assert str(path) in said[0]
    assert "move it away" in said[0]


async def test_an_orphan_whose_end_comes_later_keeps_what_it_was_for(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        agent = await house.peer("alice")
        wanted = {"intent": "find the needle", "outcome_description": "the haystack is as it was"}
        await agent.call("runs.start", {**wanted, "idempotency_key": "k"})
    path = tmp_path / "runs" / "alice" / "k.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])  # as a kill leaves it
    (tmp_path / "catalog.sqlite").unlink()
    disk = Breakable()
    disk.write_error = errno.ENOSPC
    for healed in (False, True):
        async with open_house(tmp_path, disk=disk) as house:
            host = await house.peer(host=True)
            while True:
                (row,) = (await host.call("runs.list", {"agent_id": "alice"}))["runs"]
                assert row["intent"] == "find the needle"
                if row["status"] == "incomplete":
                    break
                assert not healed
                disk.write_error = None
                await trio.sleep(2)
            (found,) = (await host.call("runs.search", {"query": "haystack"}))["runs"]
            assert found["run_id"] == "k"
