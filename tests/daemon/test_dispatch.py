"""Requests over the wire (`wire.md` section 2): ids, limits, order, and what a refusal says."""

from __future__ import annotations

import json

import pytest
import trio

import car_trio
from car_trio.methods.method import Method
from car_trio.methods.table import METHODS
from car_trio.nursery.connection import Connection
from car_trio.nursery.dispatch import Dispatcher
from car_trio.nursery.duties import BEAT_SECONDS
from car_trio.nursery.outbound import Outbound
from car_trio.state.runs import RunRegistry
from car_trio.store.catalog import CatalogWriter
from car_trio.wire.session import NoParams
from tests.peer import HOST_TOKEN, TOKEN, Refused, open_house

pytestmark = pytest.mark.usefixtures("inline_threads")


async def test_ids_go_back_as_they_came_and_may_repeat(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        for request_id in ("1", '"one"', "1", "null", "12345678901234567890"):
            await peer.send('{"id":%s,"method":"state.keys"}' % request_id)
            assert await peer.receive() == {"jsonrpc": "2.0", "id": json.loads(request_id), "result": []}


async def test_notifications_get_no_reply_whatever_happens(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        for notification in (
            {"method": "no.such"},
            {"method": "state.set", "params": 5},
            {"method": "state.set", "params": {"key": "k", "value": 1}},
            {"method": "runs.get_trace", "params": {"run_id": "x"}},
        ):
            await peer.send(notification)
        assert await peer.call("state.get", {"key": "k"}) == 1
        assert not peer.frames


async def test_params_may_be_absent_null_or_empty(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        for params in ("", ',"params":null', ',"params":{}', ',"params":{"unknown":1}'):
            await peer.send('{"id":1,"method":"state.keys"%s}' % params)
            assert await peer.reply(1) == []


@pytest.mark.parametrize(
    ("method", "params", "said"),
    [
        ("runs.start", {}, "runs.start: params: .*missing required field intent"),
        ("runs.start", {"intent": 5}, r"Expected str, got int - at \$.intent"),
        ("state.get", [], "state.get: params: Expected object, got array"),
        ("tools.register", {}, "tools.register: params: Expected array"),
        (
            "runs.record_turns",
            {"run_id": "r"},
            r"^runs.record_turns requires \{ run_id, turns: \[RunTurn\] \}: ",
        ),
        ("runs.record_turns", {"run_id": "r", "turns": []}, "length >= 1"),
        ("runs.record_turns", {"run_id": "r", "turns": [{}] * 257}, "length <= 256"),
        ("runs.complete", {"run_id": "r", "outcome": {"status": "fine"}}, r"at \$.outcome.status"),
        (
            "runs.complete",
            {"run_id": "r", "outcome": {"status": "fine"}},
            "expected one of done, failure, give_up, partial_success, success, timeout$",
        ),
        (
            "runs.record_turns",
            {"run_id": "r", "turns": [{"verifier_verdict": "maybe"}]},
            "verifier_verdict, expected one of failed, not_run, passed$",
        ),
        ("runs.search", {"status": "lost"}, "expected one of completed, in_progress, incomplete$"),
        ("session.auth", {"token": 5}, "at .*token"),
    ],
)
async def test_a_wrong_shape_names_the_field_and_what_was_expected(
    tmp_path, autojump_clock, method, params, said
):
    async with open_house(tmp_path) as house:
        peer = await house.peer(host=True)
        with pytest.raises(Refused, match=said) as caught:
            await peer.call(method, params)
        assert caught.value.code == -32602


async def test_params_nested_beyond_reason_are_refused(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        deep = "[" * 5000 + "]" * 5000
        for method, params in (
            ("state.set", '{"key":"k","value":%s}' % deep),
            ("session.init", '{"tools":%s}' % deep),
        ):
            await peer.send('{"id":1,"method":"%s","params":%s}' % (method, params))
            frame = await peer.receive()
            assert frame["error"]["code"] in (-32600, -32602)


async def test_an_unknown_method_points_to_the_list(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        with pytest.raises(Refused, match="unknown method 'no.such'; rpc.discover") as caught:
            await peer.call("no.such")
        assert caught.value.code == -32601


async def test_broken_envelopes_are_answered_and_the_connection_goes_on(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        for text, code, reply_id in (
            ("nope", -32700, None),
            ('[{"id":1,"method":"state.keys"}]', -32600, None),
            ('{"id":3}', -32600, 3),
            ('{"id":3,"method":7}', -32600, 3),
        ):
            await peer.send(text)
            frame = await peer.receive()
            assert (frame["error"]["code"], frame["id"]) == (code, reply_id)
        assert await peer.call("state.keys") == []


async def test_more_than_256_requests_in_flight_are_refused_until_one_is_answered(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        await peer.call("tools.register", [{"name": "t"}])
        action = {"type": "tool_call", "tool": "t"}
        asked = [
            await peer.request("proposal.submit", {"proposal": {"actions": [action]}}) for _ in range(256)
        ]
        calls = [await peer.notification("tools.execute") for _ in asked]
        with pytest.raises(Refused, match="^too many requests in flight") as caught:
            await peer.call("state.keys")
        assert caught.value.code == -32010
        await peer.answer(calls[7], 1)
        while "result" not in (frame := await peer.receive()):
            pass
        assert (frame["id"] in asked, frame["result"]["cost"]["tool_calls"]) == (True, 1)
        assert await peer.call("state.keys") == []


async def test_a_defect_in_a_method_is_told_without_its_insides_and_ends_nothing(
    tmp_path, autojump_clock, caplog
):
    def broken(context, ask):
        raise ZeroDivisionError("secret insides")

    async def broken_later(context, ask):
        raise ZeroDivisionError("secret insides")

    async with open_house(tmp_path) as house:
        house.daemon.methods = METHODS | {
            "x.broken": Method(NoParams, broken, int, ""),
            "x.later": Method(NoParams, broken_later, int, ""),
        }
        peer = await house.peer()
        for method in ("x.broken", "x.later"):
            with pytest.raises(
                Refused, match=f"^'{method}' failed inside the daemon; its log says why$"
            ) as caught:
                await peer.call(method)
            assert caught.value.code == -32603
        assert await peer.call("state.keys") == []
        assert "secret insides" in caplog.text


async def test_a_large_batch_keeps_wire_order_as_the_order_of_effects(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer("alice")
        run_id = (await peer.call("runs.start", {"intent": "x"}))["run_id"]
        large = [{"output": ["y" * 1000] * 30} for _ in range(60)]
        asked = [
            await peer.request("runs.record_turns", {"run_id": run_id, "turns": large}),
            await peer.request("runs.record_turns", {"run_id": run_id, "turns": [{"prompt": "small"}]}),
            await peer.request("runs.record_turns", {"run_id": run_id, "turns": large}),
            await peer.request("runs.complete", {"run_id": run_id, "outcome": {"status": "done"}}),
            await peer.request("state.keys"),
        ]
        answers = [await peer.reply(request_id) for request_id in asked]
        assert [answer["base_index"] for answer in answers[:3]] == [0, 60, 61]
        assert answers[3]["ok"] is True
        trace = (await peer.call("runs.get_trace", {"run_id": run_id}))["records"]
        assert [record.get("index") for record in trace[1:-1]] == list(range(121))


async def test_a_turn_too_large_refuses_its_batch_whole(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer("alice")
        run_id = (await peer.call("runs.start", {"intent": "x"}))["run_id"]
        turns = [{"prompt": "a"}, {"tool": "t" * 300_000}, {"prompt": "b"}]
        assert await peer.call("runs.record_turns", {"run_id": run_id, "turns": turns}) == {
            "run_id": run_id,
            "base_index": 0,
            "count": 0,
            "ok": False,
            "dropped": "turn_too_large",
        }


async def test_before_authentication_health_answers_and_anything_else_closes(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        stranger = await house.stranger()
        await stranger.open()
        health = await stranger.call("server.health")
        assert {key: health[key] for key in ("ok", "store", "auth_enabled", "durability", "version")} == {
            "ok": True,
            "store": "ok",
            "auth_enabled": True,
            "durability": "always",
            "version": car_trio.__version__,
        }
        with pytest.raises(Refused, match="^auth required") as caught:
            await stranger.call("runs.start", {"intent": "x"})
        assert caught.value.code == -32001
        assert await stranger.closed() == 1008


async def test_how_busy_the_daemon_is_is_told_to_hosts_and_to_nobody_else(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        agent, host, stranger = await house.peer("ada"), await house.peer(host=True), await house.stranger()
        await stranger.open()
        await agent.call("runs.start", {"intent": "x"})
        health = await host.call("server.health")
        assert (health["connections"], health["open_runs"]) == (3, 1)
        assert (health["kept"]["max_per_agent"], health["kept"]["max_age_days"]) == (1000, 90)
        for other in (agent, stranger, await house.peer()):
            assert not {"connections", "open_runs", "kept"} & set(await other.call("server.health"))


async def test_a_wrong_token_leaves_the_connection_open_for_another_try_and_ten_close_it(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        stranger = await house.stranger()
        await stranger.open()
        for _ in range(9):
            with pytest.raises(Refused, match="^auth failed: token mismatch"):
                await stranger.call("session.auth", {"token": "wrong"})
        assert (await stranger.call("session.auth", {"token": TOKEN}))["ok"] is True
        with pytest.raises(Refused, match="closing the connection"):
            await stranger.call("session.auth", {"token": "wrong"})
        assert await stranger.closed() == 1008


async def test_a_stranger_has_five_seconds_for_the_handshake_and_five_to_say_who_it_is(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        mute, stranger = await house.stranger(), await house.stranger()
        await stranger.open()
        await trio.sleep(5.1)
        assert await mute.closed() == 1006
        assert await stranger.closed() == 1006


async def test_a_stranger_may_not_send_large_messages(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        stranger = await house.stranger()
        await stranger.open()
        await stranger.send({"id": 1, "method": "session.auth", "params": {"token": "x" * 66_000}})
        assert await stranger.closed() == 1009


async def test_both_handshakes_echo_their_version_and_name_no_server_version(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        for version in (2, 3):
            assert await peer.call("server.handshake", {"protocol_version": version}) == {
                "protocol_version": version,
                "client_protocol_version": version,
                "server": {"name": "car-trio", "version": car_trio.__version__},
            }
        with pytest.raises(Refused, match="^protocol version mismatch:"):
            await peer.call("server.handshake", {"protocol_version": 1})


async def test_the_method_table_describes_itself(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        document = await peer.call("rpc.discover")
        assert document["openrpc"].startswith("1.")
        described = {method["name"]: method for method in document["methods"]}
        assert described.keys() == METHODS.keys()
        start = {param["name"]: param for param in described["runs.start"]["params"]}
        assert start["intent"]["required"] is True
        assert start["idempotency_key"]["required"] is False
        assert described["tools.register"]["paramStructure"] == "by-position"
        references = json.dumps(document).count('"$ref": "#/components/schemas/')
        assert references > 20


async def test_tools_are_listed_by_name_and_can_be_taken_back(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        assert await peer.call("tools.register", [{"name": "b"}, {"name": "a", "parameters": {}}]) == 2
        listed = await peer.call("tools.list")
        assert ([tool["name"] for tool in listed["tools"]], listed["count"]) == (["a", "b"], 2)
        assert await peer.call("tools.unregister", {"name": "a"}) == {"unregistered": "a", "removed": 1}
        assert await peer.call("tools.unregister", {"name": "a"}) == {"unregistered": "a", "removed": 0}
        ready = await peer.call("session.init", {"tools": [{"name": "c"}]})
        assert (ready["tools_registered"], ready["policies_registered"]) == (1, 0)
        assert ready["session_id"]


async def test_state_belongs_to_the_connection(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer, other = await house.peer(), await house.peer()
        assert await peer.call("state.set", {"key": "k", "value": {"a": 1.5}}) == "ok"
        assert await peer.call("state.set", {"key": "absent"}) == "ok"
        assert await peer.call("state.get", {"key": "k"}) == {"a": 1.5}
        assert await peer.call("state.get", {"key": "nothing"}) is None
        assert await peer.call("state.exists", {"key": "absent"}) is True
        assert await peer.call("state.exists", {"key": "nothing"}) is False
        assert await peer.call("state.keys") == ["absent", "k"]
        assert await peer.call("state.snapshot") == {"k": {"a": 1.5}, "absent": None}
        assert await other.call("state.keys") == []
        await peer.send('{"id":9,"method":"state.set","params":{"key":"k","value":1e999}}')
        with pytest.raises(Refused, match="value cannot be read back"):
            await peer.reply(9)


async def test_runs_are_listed_newest_first_while_open_and_after_and_searched_by_the_host(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        peer = await house.peer("alice")
        ids = [(await peer.call("runs.start", {"intent": f"Paint the door {n}"}))["run_id"] for n in range(3)]
        await peer.call("runs.record_turns", {"run_id": ids[0], "turns": [{"tool": "brush"}]})
        await peer.call("runs.complete", {"run_id": ids[0], "outcome": {"status": "give_up"}})
        listed = (await peer.call("runs.list", {"agent_id": "alice"}))["runs"]
        assert [run["run_id"] for run in listed] == ids[::-1]
        assert [run["status"] for run in listed] == ["in_progress", "in_progress", "completed"]
        assert (listed[2]["turn_count"], listed[2]["outcome"]) == (1, "give_up")
        first = await peer.call("runs.list", {"agent_id": "alice", "limit": 2})
        rest = await peer.call("runs.list", {"agent_id": "alice", "cursor": first["next_cursor"]})
        assert [run["run_id"] for run in first["runs"] + rest["runs"]] == ids[::-1]
        with pytest.raises(Refused, match="'runs.search' needs the host role"):
            await peer.call("runs.search", {"query": "door"})
        host = await house.peer(host=True)
        for ask, found in (
            ({"query": "PAINT doo"}, ids[::-1]),
            ({"query": "window"}, []),
            ({"tool": "brush"}, ids[:1]),
            ({"status": "in_progress"}, ids[:0:-1]),
            ({"outcome": "give_up", "agent_id": "alice"}, ids[:1]),
            ({"until": "2000-01-01T00:00:00Z"}, []),
        ):
            assert [run["run_id"] for run in (await host.call("runs.search", ask))["runs"]] == found
        with pytest.raises(Refused, match="since"):
            await host.call("runs.search", {"since": "yesterday"})


async def test_a_search_finds_what_was_acknowledged_whatever_the_catalog_knows_yet(
    tmp_path, autojump_clock, monkeypatch
):
    monkeypatch.setattr(CatalogWriter, "write", lambda *_, **__: None)  # it is behind
    async with open_house(tmp_path) as house:
        peer, host = await house.peer("alice"), await house.peer(host=True)
        for key in ("old", "new"):
            await peer.call("runs.start", {"intent": f"Paint the {key} door", "idempotency_key": key})
            await peer.call("runs.record_turns", {"run_id": key, "turns": [{"tool": f"brush-{key}"}]})

        async def found(**ask) -> list[str]:
            return [run["run_id"] for run in (await host.call("runs.search", ask))["runs"]]

        assert await found(query="door") == ["new", "old"]
        assert await found(tool="brush-old") == await found(query="brush-old") == ["old"]
        assert await found(status="completed") == []


async def test_a_search_shows_no_run_whose_status_is_another_by_now(tmp_path, autojump_clock, monkeypatch):
    async with open_house(tmp_path) as house:
        peer, host = await house.peer("alice"), await house.peer(host=True)
        await peer.call("runs.start", {"intent": "x", "idempotency_key": "key"})
        monkeypatch.setattr(CatalogWriter, "write", lambda *_, **__: None)
        monkeypatch.setattr(RunRegistry, "_indexed", lambda *_: None)
        await peer.call("runs.complete", {"run_id": "key", "outcome": {"status": "done"}})
        for status, ids in (("in_progress", []), ("completed", ["key"])):
            rows = (await host.call("runs.search", {"status": status}))["runs"]
            assert [row["run_id"] for row in rows] == ids


async def test_ended_runs_are_removed_with_a_tombstone_and_open_ones_stay(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer("alice")
        ended, still_open = [(await peer.call("runs.start", {"intent": "x"}))["run_id"] for _ in range(2)]
        await peer.call("runs.complete", {"run_id": ended, "outcome": {"status": "done"}})
        with pytest.raises(Refused, match="needs the host role"):
            await peer.call("runs.remove", {"run_ids": [ended]})
        host = await house.peer(host=True)
        with pytest.raises(Refused, match="requires { run_ids } or { older_than }"):
            await host.call("runs.remove", {})
        ask = {"run_ids": [ended, still_open, "nothing"]}
        dry = await host.call("runs.remove", ask | {"dry_run": True})
        assert dry["removed"] == [ended]
        assert (await host.call("runs.get_trace", {"run_id": ended}))["records"]
        assert await host.call("runs.remove", ask | {"older_than": "2000-01-01T00:00:00Z"}) == {
            "removed": [],
            "bytes": 0,
        }
        done = await host.call("runs.remove", ask)
        assert (done["removed"], done["bytes"]) == ([ended], dry["bytes"])
        assert await host.call("runs.get_trace", {"run_id": ended}) == {"run_id": ended, "not_found": True}
        tombstone = json.loads((tmp_path / "deleted-runs.jsonl").read_text())
        assert (tombstone["run_id"], tombstone["why"]) == (ended, "removed by hand")
        assert (await host.call("runs.get_trace", {"run_id": still_open}))["records"]


async def test_with_authentication_off_everybody_is_host_and_a_starter_may_write(tmp_path, autojump_clock):
    async with open_house(tmp_path, auth=False) as house:
        peer = await house.stranger()
        await peer.open()
        run_id = (await peer.call("runs.start", {"intent": "x", "agent_id": "a"}))["run_id"]
        assert (await peer.call("runs.record_turns", {"run_id": run_id, "turns": [{"prompt": "x"}]}))["ok"]
        assert (await peer.call("session.auth", {"host_token": HOST_TOKEN}))["auth_enabled"] is False
        assert len((await peer.call("runs.search", {}))["runs"]) == 1


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 101),
        ("localhost:9100", 101),
        ("[::1]:80", 101),
        ("LOCALHOST", 101),
        ("car.internal", 101),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
    ],
)
async def test_only_names_of_this_machine_and_configured_ones_are_served(
    tmp_path, autojump_clock, host, status
):
    async with open_house(tmp_path, server={"allowed_hosts": ["car.internal"]}) as house:
        peer = await house.stranger()
        request = peer.protocol.connect()
        request.headers.pop("Host", None)
        request.headers["Host"] = host
        peer.protocol.send_request(request)
        peer.protocol.connect = lambda: request
        await peer._flush()
        while not (events := peer.protocol.events_received()):
            await peer._feed()
        assert events[0].status_code == status


@pytest.mark.parametrize(
    ("origin", "status"), [("https://evil.example", 403), ("null", 403), ("http://ok.test", 101)]
)
async def test_a_browsers_origin_must_be_on_the_list_also_without_authentication(
    tmp_path, autojump_clock, origin, status
):
    async with open_house(tmp_path, auth=False, server={"allowed_origins": ["http://ok.test"]}) as house:
        peer = await house.stranger()
        request = peer.protocol.connect()
        request.headers["Origin"] = origin
        peer.protocol.send_request(request)
        await peer._flush()
        while not (events := peer.protocol.events_received()):
            await peer._feed()
        assert events[0].status_code == status


async def test_strangers_beyond_the_limit_are_turned_away_before_the_upgrade(tmp_path, autojump_clock):
    async with open_house(tmp_path, server={"max_unauthenticated": 2}) as house:
        first, second, third = [await house.stranger() for _ in range(3)]
        assert (await third.open()).status_code == 503
        await third.drop()
        await trio.testing.wait_all_tasks_blocked()
        assert (await first.open()).status_code == 101
        await first.call("session.auth", {"token": TOKEN})
        fourth = await house.stranger()
        assert (await fourth.open()).status_code == 101
        assert (await second.open()).status_code == 101


async def test_a_silent_remote_client_is_pinged_and_then_cut(tmp_path, autojump_clock):
    async with open_house(tmp_path, server={"ping_seconds": 30}) as house:
        peer = await house.stranger(remote=True)
        await peer.open()
        await peer.call("session.auth", {"token": TOKEN})
        assert await peer.closed() == 1006
        assert trio.current_time() >= 60


async def test_an_error_in_one_connection_ends_that_one_and_nothing_else(
    tmp_path, autojump_clock, monkeypatch, caplog
):
    take = Dispatcher.take

    def broken(dispatcher, message):
        if b"break me" in message:
            raise ZeroDivisionError("a defect")
        take(dispatcher, message)

    monkeypatch.setattr(Dispatcher, "take", broken)
    async with open_house(tmp_path) as house:
        victim, other = await house.peer("alice"), await house.peer()
        run_id = (await victim.call("runs.start", {"intent": "x"}))["run_id"]
        await victim.send("break me")
        assert await victim.closed() == 1006
        assert await other.call("state.keys") == []
        assert house.daemon.counters["connections_failed"] == 1
        assert "ended by an error of the daemon" in caplog.text
        await trio.sleep(1)
        assert house.status(run_id) == "incomplete"
        await other.call("session.auth", {"token": TOKEN, "agent_id": "alice"})


async def test_a_request_held_behind_a_large_one_binds_nobody_after_the_client_is_gone(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        await peer.call("session.auth", {"token": TOKEN, "agent_id": "writer"})
        run_id = (await peer.call("runs.start", {"intent": "x"}))["run_id"]
        large = [{"output": ["y" * 1000] * 30} for _ in range(60)]
        await peer.request("runs.record_turns", {"run_id": run_id, "turns": large})
        await peer.request("session.auth", {"token": TOKEN, "agent_id": "writer"})
        await peer.request("runs.start", {"intent": "after"})
        await peer.request("runs.complete", {"run_id": run_id, "outcome": {"status": "done"}})
        await peer.drop()
        await trio.sleep(1)
        assert house.status(run_id) == "completed"
        assert house.daemon.attachments.session_of("writer") is None
        again = await house.peer("writer")
        assert len((await again.call("runs.list", {"agent_id": "writer"}))["runs"]) == 1


async def test_an_error_in_a_writer_ends_its_connection_and_nothing_else(
    tmp_path, autojump_clock, monkeypatch
):
    async with open_house(tmp_path) as house:
        victim, other = await house.peer("alice"), await house.peer()
        broken = house.connection_of("alice")._out

        send_all = Outbound._send_all

        async def fail(out):
            if out is broken:
                raise ZeroDivisionError("a defect")
            await send_all(out)

        monkeypatch.setattr(Outbound, "_send_all", fail)
        await victim.request("state.keys")
        assert await victim.closed() == 1006
        assert await other.call("state.keys") == []
        assert house.daemon.counters["connections_failed"] == 1


async def test_the_heartbeat_visits_only_who_waits_for_something_or_is_far(
    tmp_path, autojump_clock, monkeypatch
):
    visited = []
    beat = Connection.beat
    monkeypatch.setattr(
        Connection,
        "beat",
        lambda connection, before, now: (visited.append(connection), beat(connection, before, now)),
    )
    async with open_house(tmp_path) as house:
        await house.peer()
        busy, far = await house.peer("alice"), await house.stranger(remote=True)
        await far.open()
        await far.call("session.auth", {"token": TOKEN})
        await busy.call("tools.register", [{"name": "t"}])
        await busy.request(
            "proposal.submit", {"proposal": {"actions": [{"id": "a", "type": "tool_call", "tool": "t"}]}}
        )
        await trio.sleep(BEAT_SECONDS + 1)
        assert set(visited) == {house.connection_of("alice"), house.connections[2]}
