"""What goes wrong around a serving daemon, and stays where it went wrong."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import trio

from car_trio.config import Config, Server, Web
from car_trio.nursery.listeners import bind
from car_trio.state.run import Run
from car_trio.store.disk import Disk
from car_trio.store.reader import read_page
from tests.peer import TOKEN, Refused, open_house

pytestmark = pytest.mark.usefixtures("inline_threads")


async def a_run(peer, turns: int = 0, **ask) -> str:
    run_id = (await peer.call("runs.start", {"intent": "x", **ask}))["run_id"]
    if turns:
        prompts = [{"prompt": str(n)} for n in range(turns)]
        await peer.call("runs.record_turns", {"run_id": run_id, "turns": prompts})
    return run_id


async def test_a_watcher_survives_reads_that_fail_and_sees_every_turn_once(
    tmp_path, autojump_clock, monkeypatch
):
    from car_trio.nursery import storage

    failures = 0

    def failing(*args, **kwargs):
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return read_page(*args, **kwargs)

    monkeypatch.setattr(storage, "read_page", failing)
    async with open_house(tmp_path) as house:
        agent, watcher = await house.peer("alice"), await house.peer(host=True)
        run_id = await a_run(agent, 5)
        snapshot = await watcher.call("runs.subscribe", {"run_id": run_id})
        assert snapshot["cursor"] == 5
        failures = 3
        await agent.call("runs.record_turns", {"run_id": run_id, "turns": [{"prompt": "x"}] * 200})
        await agent.call("runs.record_turns", {"run_id": run_id, "turns": [{"prompt": "x"}] * 200})
        seen = [(await watcher.notification("runs.trace.event"))["cursor"] for _ in range(400)]
        assert seen == list(range(6, 406))
        await agent.call("runs.complete", {"run_id": run_id, "outcome": {"status": "done"}})
        assert (await watcher.notification("runs.trace.event"))["record"]["record"] == "ended"


async def test_a_subscription_that_cannot_read_is_refused_and_leaves_nothing_behind(
    tmp_path, autojump_clock, monkeypatch
):
    from car_trio.nursery import storage

    def failing(*args, **kwargs):
        raise OSError(errno.EIO, "input/output error")

    async with open_house(tmp_path) as house:
        agent = await house.peer("alice")
        run_id = await a_run(agent, 2)
        monkeypatch.setattr(storage, "read_page", failing)
        with pytest.raises(Refused, match="cannot be read: input/output error; ask again later"):
            await agent.call("runs.get_trace", {"run_id": run_id})
        with pytest.raises(Refused, match="cannot be read: input/output error; subscribe again later"):
            await agent.call("runs.subscribe", {"run_id": run_id})
        run: Run = house.daemon.runs.find(run_id)
        assert run.watchers == {}


async def test_a_watcher_of_a_removed_run_is_told_its_end(tmp_path, autojump_clock, monkeypatch):
    async with open_house(tmp_path) as house:
        agent = await house.peer("alice")
        run_id = await a_run(agent, 3)
        await agent.call("runs.complete", {"run_id": run_id, "outcome": {"status": "give_up"}})
        path = next(tmp_path.glob("runs/alice/*.jsonl"))
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
        await agent.call("runs.subscribe", {"run_id": run_id})
        end = await agent.notification("runs.trace.event")
        assert (end["record"]["record"], end["status"]) == ("ended", "completed")
        assert end["record"]["termination"]["outcome"]["status"] == "give_up"


async def test_a_run_that_could_not_be_adopted_is_ended_as_soon_as_the_disk_allows_it(
    tmp_path, autojump_clock
):
    class ReadOnly(Disk):
        broken = False

        def write(self, descriptor, payload):
            if self.broken:
                raise OSError(errno.ENOSPC, "no space left on device")
            return super().write(descriptor, payload)

    path = tmp_path / "runs" / "alice" / "left.jsonl"
    path.parent.mkdir(parents=True)
    started = {
        "record": "started",
        "run_id": "left",
        "agent_id": "alice",
        "intent": "x",
        "started_at": "2026-01-01T00:00:00.000000Z",
    }
    turn = {"record": "turn", "index": 0, "verifier_verdict": "not_run"}
    path.write_text(json.dumps(started) + "\n" + json.dumps(turn) + "\n")
    disk = ReadOnly()
    disk.broken = True
    async with open_house(tmp_path, disk=disk) as house:
        agent = await house.peer("alice")
        assert await agent.call("runs.record_turns", {"run_id": "left", "turns": [{"prompt": "late"}]}) == {
            "run_id": "left",
            "base_index": 0,
            "count": 0,
            "ok": False,
            "dropped": "run_terminal",
        }
        disk.broken = False
        await trio.sleep(10)
        records = (await agent.call("runs.get_trace", {"run_id": "left"}))["records"]
        assert [record["record"] for record in records] == ["started", "turn", "ended"]
        assert records[-1]["termination"] == {"kind": "incomplete", "reason": "orphaned"}


@pytest.mark.parametrize("stuck", [False, True])
async def test_a_run_whose_adopted_end_cannot_be_synced_has_one_end_all_the_same(
    tmp_path, autojump_clock, stuck
):
    class NoSync(Disk):
        broken = True

        def sync_directory(self, path):
            if self.broken and path.name == "alice":
                raise OSError(errno.EIO, "input/output error")
            super().sync_directory(path)

        def truncate(self, descriptor, size):
            if stuck:
                raise OSError(errno.EIO, "input/output error")
            super().truncate(descriptor, size)

    path = tmp_path / "runs" / "alice" / "left.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(
        '{"record":"started","run_id":"left","agent_id":"alice","intent":"x","started_at":"2026"}\n'
    )
    disk = NoSync()
    async with open_house(tmp_path, disk=disk) as house:
        disk.broken = False
        agent = await house.peer("alice")
        await trio.sleep(10)
        records = (await agent.call("runs.get_trace", {"run_id": "left"}))["records"]
        assert [record["record"] for record in records] == ["started", "ended"]


async def test_a_socket_file_that_cannot_be_removed_is_named_and_the_listeners_are_closed_all_the_same(
    tmp_path, monkeypatch, caplog
):
    def failing(self, missing_ok=False):
        raise OSError(errno.EIO, "input/output error")

    config = Config(home=tmp_path, token_directory=tmp_path, server=Server(port=0), web=Web(enabled=False))
    endpoints = await bind(config)
    monkeypatch.setattr(Path, "unlink", failing)
    endpoints.close()
    assert f"{config.socket_path} cannot be removed: input/output error" in caplog.text
    assert all(listener.fileno() == -1 for listener in (*endpoints.tcp, endpoints.unix))


async def test_a_directory_that_somebody_removed_is_made_again(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        agent = await house.peer("alice")
        run_id = await a_run(agent)
        await agent.call("runs.complete", {"run_id": run_id, "outcome": {"status": "done"}})
        shutil.rmtree(tmp_path / "runs" / "alice")
        again = await a_run(agent, 2)
        assert len((await agent.call("runs.get_trace", {"run_id": again}))["records"]) == 3
        assert (await agent.call("server.health"))["store"] == "ok"


async def test_a_torn_tail_stays_told_after_it_was_moved_aside(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        agent = await house.peer("alice")
        run_id = await a_run(agent, 1)
        await agent.call("runs.complete", {"run_id": run_id, "outcome": {"status": "done"}})
    path = next(tmp_path.glob("runs/alice/*.jsonl"))
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:2]) + whole[2][:10])
    (tmp_path / "catalog.sqlite").unlink()
    async with open_house(tmp_path) as house:
        agent = await house.peer("alice")
        trace = await agent.call("runs.get_trace", {"run_id": run_id})
        assert trace["torn"] == {"bytes": 10}
        assert trace["records"][-1]["termination"]["reason"] == "orphaned"


async def test_large_replies_are_built_one_after_the_other_and_all_arrive(
    tmp_path, autojump_clock, monkeypatch
):
    from car_trio.nursery import outbound

    monkeypatch.setattr(outbound, "HARD_LIMIT", 3_000_000)
    monkeypatch.setattr(outbound, "SOFT_LIMIT", 1_000)
    async with open_house(tmp_path) as house:
        agent = await house.peer("alice", lockstep=True)
        run_id = await a_run(agent)
        big = [{"output": ["y" * 10_000] * 20} for _ in range(10)]
        await agent.call("runs.record_turns", {"run_id": run_id, "turns": big})
        asked = [await agent.request("runs.get_trace", {"run_id": run_id}) for _ in range(8)]
        for request_id in asked:
            assert len((await agent.reply(request_id))["records"]) == 11


async def test_an_open_run_stands_on_its_own_page_of_the_list(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        agent = await house.peer("alice")
        ids = [await a_run(agent) for _ in range(7)]
        for run_id in ids[1:]:
            await agent.call("runs.complete", {"run_id": run_id, "outcome": {"status": "done"}})
        pages, cursor = [], None
        while True:
            ask = {"agent_id": "alice", "limit": 2} | ({"cursor": cursor} if cursor else {})
            page = await agent.call("runs.list", ask)
            pages.append([run["run_id"] for run in page["runs"]])
            if (cursor := page.get("next_cursor")) is None:
                break
        assert pages == [ids[6:4:-1], ids[4:2:-1], ids[2:0:-1], ids[:1]]


async def test_ids_that_no_file_can_have_are_unknown_without_asking_the_disk(
    tmp_path, autojump_clock, monkeypatch
):
    async with open_house(tmp_path) as house:
        agent = await house.peer("alice")
        monkeypatch.setattr(house.store._index, "find", lambda run_id: pytest.fail("asked the disk"))
        long = "x" * 100_000
        assert await agent.call("runs.get_trace", {"run_id": long}) == {"run_id": long, "not_found": True}
        host = await house.peer(host=True)
        with pytest.raises(Refused, match="too long"):
            await host.call("runs.list", {"agent_id": "x" * 300})


async def test_a_late_reply_without_a_result_is_dropped_like_any_other(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        agent = await house.peer("alice")
        for stray in ('{"id":"cb-99"}', '{"id":1e999,"result":1}', '{"id":"cb-5","error":null}'):
            await agent.send(stray)
        assert await agent.call("state.keys") == []
        assert not agent.frames


async def test_reading_a_tenant_does_not_make_it(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        for n in range(70):
            assert await peer.call("state.get", {"key": "k", "tenant_id": f"t{n}"}) is None
        assert await peer.call("state.set", {"key": "k", "value": 1, "tenant_id": "real"}) == "ok"
        assert await peer.call("state.snapshot", {"tenant_id": "real"}) == {"k": 1}


async def test_a_payload_that_cannot_be_read_back_is_named_by_its_turn(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        agent = await house.peer("alice")
        run_id = await a_run(agent)
        await agent.send(
            '{"id":7,"method":"runs.record_turns","params":{"run_id":"%s","turns":[{},{"output":1e999}]}}'
            % run_id
        )
        said = r"^runs.record_turns requires \{ run_id, turns: \[RunTurn\] \}: turns\[1\]: output cannot be read back"
        with pytest.raises(Refused, match=said):
            await agent.reply(7)


async def test_the_end_of_a_run_is_still_taken_while_the_daemon_stops(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        agent = await house.peer("alice")
        await agent.call("tools.register", [{"name": "t"}])
        run_id = await a_run(agent)
        submitted = await agent.request(
            "proposal.submit", {"proposal": {"actions": [{"type": "tool_call", "tool": "t"}]}}
        )
        call = await agent.notification("tools.execute")
        house.stop.set()
        await trio.testing.wait_all_tasks_blocked()
        completed = await agent.request("runs.complete", {"run_id": run_id, "outcome": {"status": "done"}})
        assert (await agent.reply(completed))["ok"] is True
        await agent.answer(call, 1)
        assert (await agent.reply(submitted))["recorded"] == 0


async def test_silent_connections_take_no_strangers_place_with_authentication_off(tmp_path, autojump_clock):
    async with open_house(tmp_path, auth=False, server={"max_unauthenticated": 2}) as house:
        for _ in range(4):
            assert (await (await house.stranger()).open()).status_code == 101


async def test_who_was_turned_away_takes_no_strangers_place(tmp_path, autojump_clock):
    async with open_house(tmp_path, server={"max_unauthenticated": 1}) as house:
        turned_away = await house.stranger()
        request = turned_away.protocol.connect()
        request.headers["Origin"] = "https://evil.example"
        turned_away.protocol.send_request(request)
        await turned_away._flush()
        await trio.testing.wait_all_tasks_blocked()
        peer = await house.stranger()
        assert (await peer.open()).status_code == 101
        await peer.call("session.auth", {"token": TOKEN})


async def test_the_sweep_does_not_wait_for_the_goodbye(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        agent = await house.peer("alice")
        run_id = await a_run(agent)
        agent.protocol.send_close(1000)
        await agent._flush()
        await trio.sleep(0.3)
        assert house.status(run_id) == "incomplete"
