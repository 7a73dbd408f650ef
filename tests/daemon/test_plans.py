"""A plan over the wire: schemas, rate limits, caches, levels side by side, and the log of every step."""

from __future__ import annotations

import hashlib
import json
import os
import time

import pytest
import trio

from tests.daemon.test_policies import call, plan, rows
from tests.peer import Refused, open_house

pytestmark = pytest.mark.usefixtures("inline_threads")


async def with_schema(house, schema: dict, **more: object):
    peer = await house.peer("alice")
    await peer.call("tools.register", [{"name": "deploy", "parameters": schema, **more}])
    return peer


SCHEMA = {
    "type": "object",
    "required": ["to"],
    "properties": {
        "to": {"type": "string", "maxLength": 5},
        "n": {"type": ["integer", "null"]},
        "deep": {"type": "object", "properties": {"a/b": {"enum": [1]}}},
    },
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"to": "x", "n": 1.0}, None),
        ({}, "tool 'deploy': missing required parameter 'to'"),
        ({"to": 5}, "tool 'deploy': parameter 'to' has wrong type: expected string, got number"),
        (
            {"n": "s"},
            "tool 'deploy': missing required parameter 'to'; "
            "tool 'deploy': parameter 'n' has wrong type: expected integer|null, got string",
        ),
        ({"to": "secret"}, "tool 'deploy': parameter '/to' violates maxLength"),
        ({"to": "x", "deep": {"a/b": "secret"}}, "tool 'deploy': parameter '/deep/a~1b' violates enum"),
        ({"to": "x", "secret": 1}, "tool 'deploy': parameter '/' violates additionalProperties"),
        ({"to": "x", "deep": {"a/b": "s" * 20_000}}, "tool 'deploy': parameter '/deep/a~1b' violates enum"),
    ],
)
async def test_parameters_are_checked_by_the_schema_before_the_call(
    tmp_path, autojump_clock, parameters, reason
):
    async with open_house(tmp_path) as house:
        peer = await with_schema(house, SCHEMA)
        [row] = await rows(peer, call(**parameters))
        assert (row["status"], row.get("error")) == ("rejected" if reason else "succeeded", reason)
        assert [event["kind"] for event in (await peer.call("events.query"))["events"]].count(
            "policy_violation"
        ) == 0


async def test_hostile_schemas_are_refused_and_nothing_is_fetched(tmp_path):
    asked = 0

    async def serve(stream):
        nonlocal asked
        asked += 1
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        port = listeners[0].socket.getsockname()[1]
        async with open_house(tmp_path) as house:
            peer = await house.peer()
            deep: dict = {}
            for _ in range(200):
                deep = {"properties": {"x": deep}}
            fan = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)} | {"d30": {}}
            for schema, said in (
                ({"$ref": f"http://127.0.0.1:{port}/x"}, "outside of itself"),
                ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "outside of itself"),
                ({"$schema": f"http://127.0.0.1:{port}/meta"}, "meta-schema"),
                ({"$dynamicRef": "#x"}, "dynamicRef"),
                ({"$ref": "#/nowhere"}, "is not there"),
                ({"$ref": "#/a/9", "a": [1]}, "is not there"),
                ({"$ref": "#/$defs/a", "$defs": {"a": {"$id": "x"}}}, "leave \\$id out"),
                ({"$ref": "#/$defs/d0", "$defs": fan}, "places"),
                ({"patternProperties": {f"a{n}": {} for n in range(65)}}, "patterns"),
                ({"pattern": "(?<=a)b"}, "regex"),
                ({"pattern": "((a{1,99}){1,99}){1,99}"}, "regex"),
                ({"description": "x" * 5_000_000}, "tool .x. is too large, at most 524288 bytes"),
                (deep, "nests more than"),
                ({"type": "nope"}, "schema of tool"),
            ):
                with pytest.raises(Refused, match=said) as caught:
                    await peer.call("tools.register", [{"name": "fine"}, {"name": "x", "parameters": schema}])
                assert caught.value.code == -32602
            assert (await peer.call("tools.list"))["count"] == 0
        nursery.cancel_scope.cancel()
    assert asked == 0


async def test_a_pattern_that_backtracks_elsewhere_does_not_stall_the_loop(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_schema(house, {"properties": {"x": {"pattern": "^(a+)+$"}}})
        session = next(iter(house.daemon.sessions.values()))
        began = time.process_time()
        said = session.tools["deploy"].problems({"x": "a" * 60 + "!"})
        spent = time.process_time() - began
        assert said == ["tool 'deploy': parameter '/x' violates pattern"]
        assert spent < 5, "an engine that backtracks would need longer than anybody lives"
        assert (await rows(peer, call(x="aaa")))[0]["status"] == "succeeded"


async def test_a_recursive_schema_is_used_as_deep_as_it_can_be_checked(tmp_path, autojump_clock):
    twice = {"properties": {"a": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}}
    async with open_house(tmp_path) as house:
        peer = await with_schema(house, twice)
        deep: dict = {}
        for _ in range(60):
            deep = {"a": deep}
        [row] = await rows(peer, call(**deep))
        assert row["error"].endswith("too large or too deep to be checked by its schema")
        assert (await rows(peer, call(a={"a": {}})))[0]["status"] == "succeeded"


async def test_many_schemas_are_compiled_in_steps_and_offered_at_once(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        tools = [
            {"name": f"t{n}", "parameters": {"properties": {"x": {"pattern": f"a{n}"}}}} for n in range(400)
        ]
        registering = await peer.request("tools.register", tools)
        listing = await peer.request("tools.list")
        assert await peer.reply(registering) == 400
        assert (await peer.reply(listing))["count"] == 400, "wire order is the order of effects"


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ({"name": ""}, "name must not be empty"),
        ({"name": "x", "rate_limit": {"max_calls": 0, "interval_secs": 1}}, "max_calls of 1 or more"),
        ({"name": "x", "rate_limit": {"max_calls": 1, "interval_secs": 0}}, "interval_secs above 0"),
        ({"name": "x", "cache_ttl_secs": -1}, "must not be negative"),
        ({"name": "x", "description": "x" * 600_000}, "at most 524288"),
    ],
)
async def test_a_tool_whose_terms_cannot_be_kept_is_refused(tmp_path, autojump_clock, tool, said):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        with pytest.raises(Refused, match=said):
            await peer.call("session.init", {"tools": [tool]})


async def test_tools_are_bounded_in_bytes(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        big = [{"name": f"t{n}", "description": "x" * 500_000} for n in range(30)]
        assert await peer.call("tools.register", big) == 30
        with pytest.raises(Refused, match="at most 16777216 fit"):
            await peer.call("tools.register", [{**each, "name": each["name"] * 2} for each in big[:10]])


# Calls


async def calls_until(peer, submitted: int) -> tuple[list[tuple[float, str]], dict]:
    """Answers each call at once; when each came, and the reply."""
    came: list[tuple[float, str]] = []
    while True:
        frame = await peer.receive()
        if frame.get("method") == "tools.execute":
            came.append((trio.current_time(), frame["params"]["action_id"]))
            await peer.answer(frame["params"], {"n": len(came)})
        elif frame.get("id") == submitted and "method" not in frame:
            return came, frame["result"]


def several(count: int, **more: object) -> list[dict]:
    return [{**call(), "id": f"a{n}", **more} for n in range(count)]


async def test_a_rate_limit_makes_calls_wait_for_their_turn(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_schema(house, {}, rate_limit={"max_calls": 2, "interval_secs": 10})
        began = trio.current_time()
        came, result = await calls_until(peer, await peer.request("proposal.submit", plan(*several(5))))
        assert [round(at - began) for at, _ in came] == [0, 0, 10, 10, 20]
        assert [row["status"] for row in result["results"]] == ["succeeded"] * 5
        turns = [(round(at - began), action) for at, action in came]
        assert sorted(turns) == [(0, "a0"), (0, "a1"), (10, "a2"), (10, "a3"), (20, "a4")]


async def test_the_wait_for_a_turn_counts_against_the_deadline_and_gives_the_turn_back(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path, server={"tool_timeout_seconds": 30}) as house:
        peer = await with_schema(house, {}, rate_limit={"max_calls": 1, "interval_secs": 100})
        actions = several(3, failure_behavior="skip")
        actions[1]["timeout_ms"] = 1000
        began = trio.current_time()
        _, result = await calls_until(peer, await peer.request("proposal.submit", plan(*actions)))
        assert [row.get("error") for row in result["results"]] == [
            None,
            "action timed out after 1000 ms",
            "tool 'deploy' callback timed out (30s)",
        ]
        assert round(trio.current_time() - began) == 30
        await trio.sleep(71)
        came, _ = await calls_until(peer, await peer.request("proposal.submit", plan(*several(1))))
        assert round(came[0][0] - began) == 101, "the turns that nobody took are free"


async def test_equal_calls_are_answered_from_the_cache_until_it_is_stale(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_schema(house, {}, cache_ttl_secs=60)

        async def outputs(*actions: dict) -> list:
            _, result = await calls_until(peer, await peer.request("proposal.submit", plan(*actions)))
            return [row["output"]["n"] for row in result["results"]]

        one, other = {**call(x=1, y=2), "id": "a"}, {**call(y=2, x=1), "id": "b"}
        assert await outputs(one, {**other, "state_dependencies": []}) == [1, 2], (
            "side by side both are called"
        )
        assert await outputs(one) == [2]
        assert await outputs({**call(x=1.0, y=2), "id": "c"}) == [1], "1.0 is another value"
        await trio.sleep(61)
        assert await outputs(one) == [1]
        await peer.call("tools.register", [{"name": "deploy", "cache_ttl_secs": 60}])
        assert await outputs(one) == [1], "registered anew, cached anew"


async def test_failures_are_not_cached(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_schema(house, {}, cache_ttl_secs=60)
        for _ in range(2):
            submitted = await peer.request("proposal.submit", plan(call()))
            asked = await peer.notification("tools.execute")
            await peer.answer(asked, error={"code": 1, "message": "boom"})
            assert (await peer.reply(submitted))["results"][0]["error"] == "boom"


async def test_two_slow_tools_of_one_level_run_side_by_side(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_schema(house, {})
        began = trio.current_time()
        submitted = await peer.request("proposal.submit", plan(*several(2)))
        asked = [await peer.notification("tools.execute") for _ in range(2)]
        await trio.sleep(0.5)
        for each in asked:
            await peer.answer(each, "ok")
        assert len((await peer.reply(submitted))["results"]) == 2
        assert trio.current_time() - began < 0.9


async def test_a_tool_that_never_answers_ends_at_its_deadline_with_one_cancel(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_schema(house, {})
        submitted = await peer.request("proposal.submit", plan({**call(), "timeout_ms": 500}))
        asked = await peer.notification("tools.execute")
        assert (await peer.notification("tools.cancel"))["request_id"] == asked["request_id"]
        assert (await peer.reply(submitted))["results"][0]["error"] == "action timed out after 500 ms"
        assert not peer.frames


async def test_a_disconnect_in_the_middle_of_a_level_ends_every_waiting_action_once(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_schema(house, {})
        run_id = (await peer.call("runs.start", {"intent": "x"}))["run_id"]
        await peer.request("proposal.submit", plan(*several(3)))
        for _ in range(3):
            await peer.notification("tools.execute")
        await peer.drop()
        await trio.sleep(1)
        host = await house.peer(host=True)
        records = (await host.call("runs.get_trace", {"run_id": run_id}))["records"]
        turns = [record for record in records if record["record"] == "turn"]
        assert [turn["action_id"] for turn in turns] == ["a0", "a1", "a2"]
        assert {turn["error"] for turn in turns} == {"tool 'deploy' callback channel closed"}
        assert records[-1]["record"] == "ended"


# Asking first


async def test_verify_knows_the_connections_tools_and_state_unless_told_others(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        bare = await house.peer()
        proposal = plan({**call(), "state_dependencies": ["k"]})["proposal"]
        ran = {
            each["name"]: each["ran"]
            for each in (await bare.call("verify", {"proposal": proposal}))["evidence"]["checks"]
        }
        assert (ran["tool_existence"], ran["param_schema"]) == (False, False), "a connection without tools"
        peer = await with_schema(house, {"required": ["to"]})
        await peer.call("state.set", {"key": "k", "value": 1})
        issues = (await peer.call("verify", {"proposal": proposal}))["issues"]
        assert [each["message"] for each in issues] == ["tool 'deploy': missing required parameter 'to'"]
        told = {"initial_state": {}, "tool_names": ["other"], "max_actions": 0}
        issues = (await peer.call("verify", {"proposal": proposal, **told}))["issues"]
        assert [each["message"] for each in issues] == [
            "excessive actions: 1 (limit 0)",
            "state dependency 'k' not available at this point",
            "tool 'deploy' is not registered",
        ]
        schemas = [{"name": "deploy", "parameters": {}}]
        assert (await peer.call("verify", {"proposal": proposal, "tool_schemas": schemas}))["valid"]
        write = {"type": "state_write", "parameters": {"key": "j", "value": 2}}
        assert await peer.call("simulate", {"proposal": {"actions": [write]}}) == {"k": 1, "j": 2}
        assert await peer.call("simulate", {"proposal": {"actions": [write]}, "initial_state": {}}) == {
            "j": 2
        }
        assert await peer.call("state.keys") == ["k"]


async def test_a_proposal_with_a_repeated_key_is_refused_wherever_it_is_asked_about(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        twice = '{"actions":[{"type":"state_read","parameters":{"key":1,"key":2}}]}'
        for method in (
            "verify",
            "simulate",
            "optimize",
            "transaction_check",
            "permission.classify",
            "permission.evaluate",
        ):
            await peer.send('{"id":9,"method":"%s","params":{"proposal":%s}}' % (method, twice))
            with pytest.raises(Refused, match=r"^invalid proposal JSON: duplicate key `key`") as caught:
                await peer.reply(9)
            assert caught.value.code == -32602
        for fields in (f'"p1":{twice},"p2":{{"actions":[]}}', f'"p2":{twice},"p1":{{"actions":[]}}'):
            await peer.send('{"id":9,"method":"equivalent","params":{%s}}' % fields)
            with pytest.raises(Refused, match=rf"^invalid proposal{fields[2]} JSON: duplicate key"):
                await peer.reply(9)


async def test_what_grows_with_the_square_of_a_plan_is_bounded(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        write = {"type": "state_write", "parameters": {"key": "k", "value": 1}}
        for method, action, count, said in (
            ("verify", write, 500, "pairs of actions"),
            (
                "transaction_check",
                {"type": "state_read", "write_set": ["k"], "read_set": ["k"]},
                400,
                "pairs of actions",
            ),
            (
                "transaction_check",
                {"type": "state_read", "parameters": {"key": "k"}},
                10_001,
                "10001 actions",
            ),
        ):
            with pytest.raises(Refused, match=said) as caught:
                await peer.call(method, {"proposal": {"actions": [action] * count}})
            assert caught.value.code == -32602
        assert len(await peer.call("permission.classify", {"proposal": {"actions": [write] * 2000}})) == 2000


# Events


async def test_every_step_is_an_event_that_joins_a_turn(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_schema(house, {})
        run_id = (await peer.call("runs.start", {"intent": "x"}))["run_id"]
        await peer.call("policy.register", {"name": "mine", "rule": "deny_tool", "target": "rm"})
        await peer.call("tools.register", [{"name": "rm"}])
        actions = [
            {"id": "w", "type": "state_write", "parameters": {"key": "k", "value": "secret"}},
            {**call(to="secret"), "id": "d", "state_dependencies": ["k"]},
            call("rm"),
            {"id": "x", "type": "assertion", "parameters": {"key": "k"}, "state_dependencies": ["k"]},
            {"id": "y", "type": "state_read", "parameters": {"key": "k"}, "state_dependencies": ["k"]},
        ]
        await rows(peer, *actions)
        await peer.call("runs.complete", {"run_id": run_id, "outcome": {"status": "done"}})
        found = await peer.call("events.query")
        events = found["events"][::-1]
        assert found["count"] == len(events) == await peer.call("events.count")
        assert [(each["kind"], each.get("action_id")) for each in events] == [
            ("run_started", None),
            ("proposal_received", None),
            ("action_validated", "w"),
            ("action_executing", "w"),
            ("state_changed", "w"),
            ("action_succeeded", "w"),
            ("policy_violation", "a-rm"),
            ("action_rejected", "a-rm"),
            ("action_validated", "d"),
            ("action_executing", "d"),
            ("action_validated", "x"),
            ("action_executing", "x"),
            ("action_failed", "x"),
            ("action_skipped", "y"),
            ("action_succeeded", "d"),
            ("state_rollback", None),
            ("proposal_completed", None),
            ("run_completed", None),
        ]
        assert len({each["id"] for each in events}) == len(events)
        assert [each["timestamp"] for each in events] == sorted(each["timestamp"] for each in events)
        executing = events[9]
        assert executing["proposal_id"] == "p"
        assert executing["data"] == {
            "run_id": run_id,
            "tool": "deploy",
            "parameters_sha256": hashlib.sha256(b'{"to":"secret"}').hexdigest(),
            "attempt": 1,
        }
        assert "secret" not in json.dumps([each for each in events if each["kind"] != "action_failed"])


async def test_events_are_asked_for_by_what_they_are(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_schema(house, {})
        assert await peer.call("events.query") == {"count": 0, "events": []}
        await rows(peer, *several(3))
        everything = (await peer.call("events.query"))["events"]

        async def kinds(**ask: object) -> list[str]:
            return [each["kind"] for each in (await peer.call("events.query", ask))["events"]]

        assert await kinds(kinds=["proposal_received"]) == ["proposal_received"]
        assert await kinds(action_id="a1") == ["action_succeeded", "action_executing", "action_validated"]
        assert await kinds(proposal_id="nope") == []
        assert await kinds(limit=1) == ["proposal_completed"]
        assert len(await kinds(data_matches={"tool": "deploy"})) == 9
        assert await kinds(data_matches={"attempt": 1.0}) == []
        await peer.send('{"id":7,"method":"events.query","params":{"data_matches":{"attempt":1e999}}}')
        with pytest.raises(Refused, match="data_matches.attempt cannot be read back: Number out of range"):
            await peer.reply(7)
        assert await kinds(since=everything[0]["timestamp"], limit=1) == ["proposal_completed"]
        assert await kinds(until="2000-01-01T00:00:00Z") == []
        assert len(await kinds(since="2000-01-01T00:00:00+02:00")) == len(everything)
        many = {"k": [[]] * 30_000}
        for ask in ({"since": "yesterday"}, {"limit": 0}, {"data_matches": many}):
            with pytest.raises(Refused) as caught:
                await peer.call("events.query", ask)
            assert caught.value.code == -32602


async def test_the_event_log_is_a_file_of_the_connection_removed_with_the_age_of_runs(
    tmp_path, autojump_clock
):
    journals = tmp_path / "journals"
    async with open_house(tmp_path, runs={"max_age_days": 1}) as house:
        peer = await with_schema(house, {})
        client_id = (await peer.call("session.init", {}))["session_id"]
        await rows(peer, *several(1))
        other = await house.peer("bob")
        await other.call("runs.start", {"intent": "x"})
        await other.drop()
        await trio.sleep(1)
        assert len(list(journals.iterdir())) == 2
        for file in journals.iterdir():
            os.utime(file, (0, 0))
        await trio.sleep(3601)
        assert [file.name for file in journals.iterdir()] == [f"{client_id}.jsonl"], (
            "who is connected keeps it"
        )
        lines = (journals / f"{client_id}.jsonl").read_text().splitlines()
        assert [json.loads(line)["kind"] for line in lines][:2] == ["proposal_received", "action_validated"]


async def test_state_is_bounded_in_depth(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        deep: list = []
        for _ in range(130):
            deep = [deep]
        with pytest.raises(Refused, match="nests more than 112 deep"):
            await peer.call("state.set", {"key": "k", "value": deep})
