"""Large messages are taken in pieces: others are served in between, order is kept, and nothing else is different."""

from __future__ import annotations

import json

import pytest
import trio

from car_trio.methods import analysis, calling, proposals, table
from car_trio.state import values
from car_trio.state.policies import outgrows
from car_trio.wire import pieces
from tests.daemon.test_chats import heard, pair, say
from tests.daemon.test_policies import call, plan, policy_file, rows, with_tools
from tests.peer import Refused, open_house

pytestmark = pytest.mark.usefixtures("inline_threads")

LARGE = [{"k": [1, 2.5, "three", None]}] * 8000
"""As JSON it has about 260 KiB."""
AT_MOST = 65_536
"""Bytes of a message that one step may be for."""


@pytest.fixture
def all_is_large(monkeypatch):
    """Every message counts as large, and is cut into very small pieces."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 64)
    monkeypatch.setattr(values, "LARGE_BYTES", 20)
    for module in (analysis, calling, proposals):
        monkeypatch.setattr(module, "LARGE_BYTES", 0)
    for method in table.METHODS.values():
        monkeypatch.setattr(method, "slice_bytes", 0)


class Steps(trio.abc.Instrument):
    """Counts the steps of every task."""

    def __init__(self) -> None:
        self.count = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("state.set", {"key": "k", "value": LARGE}),
        ("policy.register", {"name": "p", "rule": "require_state", "key": "k", "value": LARGE}),
        ("tools.register", [{"name": f"t{n}", "parameters": {"enum": LARGE[:1000]}} for n in range(8)]),
        ("session.init", {"tools": [{"name": "t", "parameters": {"enum": LARGE}}], "policies": []}),
        ("verify", {"proposal": {"actions": []}, "initial_state": {"k": LARGE}}),
        ("proposal.submit", {"proposal": {"actions": []}, "scope": {"other": LARGE}}),
        ("runs.record_turns", {"run_id": "r", "turns": [{"output": LARGE[:1000]}] * 12}),
        ("host.request_approval", {"action": "a", "details": LARGE}),
        ("agent.chat.event", {"session_id": "s", "kind": "text", "v": LARGE}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_large_message_is_prepared_in_many_steps(tmp_path, autojump_clock, method, params):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        message = json.dumps({"id": "large", "method": method, "params": params})
        counts = []
        for text in (
            message.replace(json.dumps(LARGE), "[]").replace(json.dumps(LARGE[:1000]), "[]"),
            message,
        ):
            steps = Steps()
            trio.lowlevel.add_instrument(steps)
            await peer.send(text)
            try:
                await peer.reply("large")
            except Refused as refused:
                assert "a policy may have" in refused.message or "more than 5000 places" in refused.message
            trio.lowlevel.remove_instrument(steps)
            counts.append(steps.count - len(text) // AT_MOST)
        # The bytes themselves come in steps too.
        assert counts[1] - counts[0] >= len(message) // AT_MOST


@pytest.mark.parametrize(
    ("value", "most", "is_more"),
    [
        (["x"] * 10, 40, False),
        ([1] * 30, 40, True),
        ([[[1] * 30]], 40, True),
        ({"a": {"b": "x" * 41}}, 40, True),
        ({str(n): n for n in range(9)}, 40, True),
        ({"a": 1, "b": [2, 3]}, 40, False),
        (None, 40, False),
    ],
)
def test_what_outgrows_a_bound_is_told_without_looking_at_all_of_it(value, most, is_more):
    assert outgrows(value, most) is is_more
    assert not is_more or len(json.dumps(value)) > most


async def test_a_large_value_comes_back_as_it_was_and_counts_until_it_is_replaced(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        text = '{"id":1,"method":"state.set","params":{"key":"k","value":{"a": 1.50, "b": %s}}}'
        await peer.send(text % json.dumps(LARGE))
        assert await peer.reply(1) == "ok"
        assert await peer.call("state.get", {"key": "k"}) == {"a": 1.5, "b": LARGE}
        assert await peer.call("state.snapshot") == {"k": {"a": 1.5, "b": LARGE}}
        assert await peer.call("state.set", {"key": "k", "value": 1}) == "ok"
        assert await peer.call("state.snapshot") == {"k": 1}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[" * 113 + "]" * 113, "state.set: value nests more than 112 deep"),
        ("[1e999]", "state.set: value cannot be read back: Number out of range"),
    ],
)
@pytest.mark.parametrize("before", ["", json.dumps(LARGE) + ","], ids=["small", "large"])
async def test_a_value_that_cannot_be_kept_is_refused_in_the_same_words_whatever_its_size(
    tmp_path, autojump_clock, value, said, before
):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        value = value.replace("[", "[" + before, 1)
        await peer.send(f'{{"id":1,"method":"state.set","params":{{"key":"k","value":{value}}}}}')
        with pytest.raises(Refused) as refused:
            await peer.reply(1)
        assert refused.value.code == -32602
        assert refused.value.message.partition(" - at ")[0] == said
        assert await peer.call("state.exists", {"key": "k"}) is False


async def test_what_follows_a_large_message_takes_effect_after_it(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        asked = [
            await peer.request("state.set", {"key": "k", "value": LARGE}),
            await peer.request("state.set", {"key": "k", "value": 5}),
            await peer.request("proposal.submit", plan(state_read("k"), scope={"x": LARGE})),
            await peer.request("state.set", {"key": "k", "value": LARGE}),
            await peer.request("state.set", {"key": "k", "value": 6}),
            await peer.request("state.get", {"key": "k"}),
        ]
        replies = [await peer.reply(request) for request in asked]
        assert replies[2]["results"][0]["status"] == "succeeded"
        assert replies[5] == 6


def state_read(key: str) -> dict:
    return {"id": "r", "type": "state_read", "parameters": {"key": key}}


async def test_while_a_large_plan_waits_for_its_tool_later_requests_are_answered(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_tools(house, "deploy")
        submitted = await peer.request("proposal.submit", plan(call(v=LARGE), scope={"x": LARGE}))
        called = await peer.notification("tools.execute")
        assert called["parameters"] == {"v": LARGE}
        assert await peer.call("state.exists", {"key": "k"}) is False
        await peer.answer(called, LARGE)
        assert (await peer.reply(submitted))["results"][0]["output"] == LARGE


async def test_a_plan_gives_the_same_rows_turns_and_digest_whether_it_counts_as_large_or_not(
    tmp_path, autojump_clock, request
):
    actions = [
        call(v=[1, {"a": "b"}], prompt="do it"),
        {"id": "w", "type": "state_write", "parameters": {"key": "k", "value": {"x": "y" * 50}}},
        {"id": "r", "type": "state_read", "parameters": {"key": "k"}},
        {"id": "s", "type": "assertion", "parameters": {"key": "k", "expected": {"x": "y" * 50}}},
        {"id": "n", "type": "tool_call", "tool": "nobody"},
        {**call("http_request", v=5), "preconditions": [{"key": "k", "operator": "contains", "value": "yy"}]},
    ]
    seen = []
    for home in ("small", "large"):
        if home == "large":
            request.getfixturevalue("all_is_large")
        async with open_house(tmp_path / home) as house:
            peer = await with_tools(house)
            run = (await peer.call("runs.start", {"intent": "i"}))["run_id"]
            submitted = await peer.request("proposal.submit", plan(*actions))
            for _ in range(2):
                await peer.answer(await peer.notification("tools.execute"), {"ok": [1, 2, 3]})
            result = await peer.reply(submitted)
            trace = (await peer.call("runs.get_trace", {"run_id": run}))["records"][1:]
            seen.append((without_times(result), without_times(trace)))
    assert seen[0] == seen[1]


def without_times(value):
    """The same without what the clock says."""
    if isinstance(value, list):
        return [without_times(each) for each in value]
    if isinstance(value, dict):
        gone = {"timestamp", "duration_ms", "total_duration_ms", "recorded_at", "proposal_digest"}
        return {key: without_times(each) for key, each in value.items() if key not in gone}
    return value


async def test_the_digest_of_a_large_plan_is_that_of_the_plan(tmp_path, autojump_clock, request):
    digests = []
    for home in ("small", "large"):
        if home == "large":
            request.getfixturevalue("all_is_large")
        async with open_house(tmp_path / home) as house:
            peer = await house.peer()
            proposal = {**plan()["proposal"], "timestamp": "2026-01-01T00:00:00Z", "context": {"a": [1, 2.0]}}
            result = await peer.call("proposal.submit", {"proposal": proposal})
            digests.append(result["replan_lineage"][0]["proposal_digest"])
    assert digests[0] == digests[1]


async def test_a_tools_large_result_that_cannot_be_read_fails_the_action(
    tmp_path, autojump_clock, all_is_large
):
    async with open_house(tmp_path) as house:
        peer = await with_tools(house, "deploy")
        submitted = await peer.request("proposal.submit", plan(call()))
        called = await peer.notification("tools.execute")
        await peer.send('{"id":"%s","result":[%s1e999]}' % (called["request_id"], "1," * 200))
        [row] = (await peer.reply(submitted))["results"]
        assert row["error"] == "invalid tool result JSON: Number out of range"


async def test_schemas_and_policies_hold_for_large_plans(tmp_path, autojump_clock, all_is_large):
    policy_file(tmp_path, 'deny_keyword = ["sk-live"]')
    async with open_house(tmp_path) as house:
        peer = await house.peer("alice")
        schema = {"properties": {"to": {"type": "string"}}}
        await peer.call(
            "tools.register", [{"name": "deploy", "parameters": schema}, {"name": "http_request"}]
        )
        found = await rows(peer, {**call(to=5), "id": "n"}, call(to="x"), call("http_request", v=["sk-live"]))
        assert [row.get("error") for row in found] == [
            "tool 'deploy': parameter 'to' has wrong type: expected string, got number",
            None,
            "policy 'deny_keyword': parameter 'v' holds a denied keyword",
        ]


async def test_a_tool_that_is_registered_anew_is_asked_anew(tmp_path, autojump_clock, all_is_large):
    async with open_house(tmp_path) as house:
        peer = await house.peer("alice")
        offers = [
            {"name": "deploy", "parameters": {"properties": {"to": {"type": "string"}}}},
            {"name": "other"},
        ]
        await peer.call("tools.register", offers)
        first = {**call("other"), "expected_effects": {}}
        second = {**call(to=5), "state_dependencies": ["ready"]}
        between = {"id": "w", "type": "state_write", "parameters": {"key": "ready", "value": 1}}
        submitted = await peer.request("proposal.submit", plan(first, between, second))
        called = await peer.notification("tools.execute")
        await peer.call("tools.register", [{"name": "deploy"}])
        await peer.answer(called, 1)
        await peer.answer(await peer.notification("tools.execute"), 2)
        assert [row["status"] for row in (await peer.reply(submitted))["results"]] == ["succeeded"] * 3


async def test_a_plan_of_too_many_actions_is_refused_whole(tmp_path, autojump_clock, monkeypatch):
    monkeypatch.setattr(proposals, "MAX_ACTIONS", 2)
    async with open_house(tmp_path) as house:
        peer = await with_tools(house, "deploy")
        with pytest.raises(Refused, match="the proposal has 3 actions, at most 2 run; split it") as refused:
            await peer.call("proposal.submit", plan(call(), call(), call()))
        assert refused.value.code == -32602


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize(
    ("method", "params", "said"),
    [
        ("tools.register", [{"name": 5}], "tools.register: params: Expected str, got int - at $[0].name"),
        ("tools.register", {"name": "x"}, "tools.register: params: Expected array, got object"),
        ("session.init", {"tools": [{}]}, "session.init: params: Object missing required field name"),
        (
            "policy.register",
            {"name": "p", "rule": "nope"},
            "policy.register: params: Invalid enum value 'nope' - at $.rule, expected one of deny_tool,",
        ),
        ("verify", {"initial_state": []}, "verify: params: "),
    ],
)
async def test_params_of_a_wrong_shape_are_refused_in_the_same_words_whatever_their_size(
    tmp_path, autojump_clock, request, size, method, params, said
):
    if size == "large":
        request.getfixturevalue("all_is_large")
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        with pytest.raises(Refused) as refused:
            await peer.call(method, params)
        assert refused.value.code == -32602
        assert refused.value.message.startswith(said)


async def test_a_number_that_cannot_be_read_in_large_params_is_refused(
    tmp_path, autojump_clock, all_is_large
):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        for params in ('{"initial_state":{"k":1e999},"proposal":{}}', '{"proposal":{"context":{"k":1e999}}}'):
            await peer.send(f'{{"id":1,"method":"verify","params":{params}}}')
            with pytest.raises(Refused, match="[Nn]umber out of range|missing field"):
                await peer.reply(1)
        assert await peer.call("state.keys") == []


async def test_a_large_message_of_somebody_who_leaves_leaves_nothing_behind(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer, other = await house.peer(), await house.peer()
        await peer.request("proposal.submit", plan(call(v=LARGE), scope={"x": LARGE}))
        await peer.request("state.set", {"key": "k", "value": LARGE})
        await peer.drop()
        assert await other.call("state.keys") == []
        await trio.testing.wait_all_tasks_blocked()
        assert all(not each.is_known or each.over.is_set() for each in house.connections[:1])


@pytest.mark.parametrize(
    ("method", "params", "said"),
    [
        ("runs.record_turns", {"run_id": "r", "turns": [{}] * 100_000}, "length <= 256 - at $.turns"),
        (
            "runs.complete",
            {"run_id": "r", "outcome": {"status": "done", "evidence": [1] * 200_000}},
            "length <= 16384 - at $.outcome.evidence",
        ),
        ("host.request_approval", {"action": "a", "options": ["o"] * 100_000}, "length <= 10000 - at $.options"),
        ("agent.chat.event", {f"k{n}": 1 for n in range(50_000)}, "object of length <= 256"),
        ("agents.chat", {"agent_id": "a", "prompt": "p", "attachments": [{}] * 100_000}, "length <= 1000"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
async def test_a_list_that_is_much_too_long_is_refused_after_a_few_steps(
    tmp_path, autojump_clock, method, params, said
):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        with pytest.raises(Refused) as refused:
            await peer.call(method, params)
        assert refused.value.code == -32602
        assert said in refused.value.message


async def test_what_a_large_word_in_a_chat_says_reaches_the_host_as_it_was(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        host, ada, chat = await pair(house, session_id="c")
        for number, value in enumerate((LARGE, 1)):
            await say(ada, chat, "text", number=number, v=value)
        for number, value in enumerate((LARGE, 1)):
            said = {"session_id": "c", "kind": "text", "number": number, "v": value, "agent_id": "ada"}
            assert await heard(host) == said
        text = '{"id":7,"method":"agent.chat.event","params":{"session_id":"c","kind":"text","v":[%s 1e999]}}'
        await ada.send(text % (json.dumps(LARGE)[1:-1] + ","))
        with pytest.raises(Refused, match="agent.chat.event: v cannot be read back: Number out of range"):
            await ada.reply(7)


@pytest.mark.parametrize("size", ["small", "large"])
async def test_details_nest_as_deep_as_readers_take_and_no_deeper_whatever_their_size(
    tmp_path, autojump_clock, request, size
):
    if size == "large":
        request.getfixturevalue("all_is_large")
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        for depth in (112, 113):
            details = "[" * depth + "]" * depth
            await peer.send(
                '{"id":%d,"method":"host.request_approval","params":{"action":"a","details":%s}}'
                % (depth, details)
            )
        assert (await peer.reply(112))["details"] == json.loads("[" * 112 + "]" * 112)
        with pytest.raises(Refused, match="details cannot be read back: nests more than 112 deep"):
            await peer.reply(113)


async def test_what_is_told_of_state_and_tools_is_as_it_was_when_it_was_asked_for(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        some = LARGE[:2000]
        for key in "abc":
            await peer.call("state.set", {"key": key, "value": some})
        schema = {"enum": ["x" * 70] * 1000}
        tools = [{"name": f"t{n}", "parameters": schema} for n in range(3)]
        await peer.call("tools.register", tools)
        snapshot = await peer.request("state.snapshot")
        listed = await peer.request("tools.list")
        await peer.request("state.set", {"key": "b", "value": 1})
        await peer.request("tools.unregister", {"name": "t1"})
        assert await peer.reply(snapshot) == dict.fromkeys("abc", some)
        found = await peer.reply(listed)
        assert ([tool["name"] for tool in found["tools"]], found["count"]) == (["t0", "t1", "t2"], 3)
        assert found["tools"][1]["parameters"] == schema


@pytest.mark.parametrize("method", ["verify", "simulate"])
async def test_a_large_state_that_is_sent_along_is_worked_on_in_a_thread(
    tmp_path, autojump_clock, monkeypatch, method
):
    threads = []
    plain = analysis.worked_out

    async def worked_out(context, size, work, *args):
        threads.append(size > analysis.LARGE_BYTES)
        return await plain(context, size, work, *args)

    monkeypatch.setattr(analysis, "worked_out", worked_out)
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        for value in (LARGE, 1):
            await peer.call(method, {"proposal": {"actions": []}, "initial_state": {"k": value}})
    assert threads == [True, False]


async def test_policies_look_at_large_values_that_were_decoded_before_the_plan_began(
    tmp_path, autojump_clock, all_is_large, monkeypatch
):
    opened, asked = [], []

    def open_ahead(self, large):
        assert not asked
        opened.extend(large)
        return real(self, large)

    def get(self, key, default=None, /):
        asked.append(key)
        return seen(self, key, default)

    real, seen = values.Opened.open, values.Opened.get
    monkeypatch.setattr(values.Opened, "open", open_ahead)
    monkeypatch.setattr(values.Opened, "get", get)
    async with open_house(tmp_path) as house:
        peer = await with_tools(house)
        await peer.call("state.set", {"key": "k", "value": LARGE[:2]})
        rule = {"rule": "require_state", "key": "k"}
        await peer.call("policy.register", {**rule, "name": "right", "value": LARGE[:2]})
        [row] = await rows(peer, call())
        assert row["status"] == "succeeded"
        await peer.call("policy.register", {**rule, "name": "wrong", "value": LARGE[:1]})
        asked.clear()
        [row] = await rows(peer, call())
    assert (row["status"], opened) == ("rejected", ["k", "k"])
    assert row["error"] == "policy 'wrong': state 'k' does not have the required value"


SOME = list(range(3000))
LATE = {
    "host.request_approval": {"action": "a", "details": SOME, "system_level": True},
    "host.register_agent": {"id": "late", "name": "n", "kind": "k", "metadata": SOME},
    "proposal.submit": {
        "scope": {"tenantId": "x"},
        "proposal": {"actions": [{"id": "w", "type": "state_write", "parameters": {"key": "k", "value": SOME}}]},
    },
}  # fmt: skip


@pytest.mark.usefixtures("all_is_large")
async def test_nothing_is_decided_for_a_client_that_has_gone_meanwhile(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        host = await house.peer(host=True)
        for method, params in LATE.items():
            peer = await house.peer()
            await peer.request(method, params)
            await peer.drop()
        await trio.sleep(2)
        assert (await host.call("host.approvals"))["approvals"] == []
        assert "late" not in {each["id"] for each in await host.call("host.agents")}
        assert await host.call("state.keys", {"tenant_id": "x"}) == []
