"""Policies (`engine.md` section 1): what they forbid does not run, whatever the plan says, and nothing leaks why."""

from __future__ import annotations

import pytest
import trio

from car_trio.config import Permissions
from tests.peer import Refused, open_house

pytestmark = pytest.mark.usefixtures("inline_threads")

SECRET = "sk-live-123"


def call(tool: str = "deploy", **parameters: object) -> dict:
    return {"id": f"a-{tool}", "type": "tool_call", "tool": tool, "parameters": parameters}


def plan(*actions: dict, **more: object) -> dict:
    return {"proposal": {"id": "p", "actions": list(actions)}, **more}


async def rows(peer, *actions: dict, **more: object) -> list[dict]:
    """The rows of a plan whose tools all answer `ok`."""
    submitted = await peer.request("proposal.submit", plan(*actions, **more))
    while True:
        frame = await peer.receive()
        if frame.get("method") == "tools.execute":
            await peer.answer(frame["params"], "ok")
        elif frame.get("id") == submitted and "method" not in frame:
            if "error" in frame:
                raise Refused(frame["error"])
            return frame["result"]["results"]


async def with_tools(house, *names: str):
    peer = await house.peer("alice")
    await peer.call("tools.register", [{"name": name} for name in names or ("deploy", "http_request")])
    return peer


def policy_file(home, text: str, name: str = "base.toml") -> None:
    (home / "policies").mkdir(exist_ok=True)
    (home / "policies" / name).write_text(text)


REGISTERED = [
    ({"rule": "deny_tool", "target": "deploy"}, call(), "tool 'deploy' is denied"),
    ({"rule": "deny_tool", "target": "other"}, call(), None),
    (
        {"rule": "deny_tool_param", "target": "deploy", "key": "to", "pattern": "sk-"},
        call(to=SECRET),
        "parameter 'to' of tool 'deploy' has a denied value",
    ),
    (
        {"rule": "deny_tool_param", "target": "deploy", "key": "to", "pattern": '"sk'},
        call(to={"in": [SECRET]}),
        "parameter 'to' of tool 'deploy' has a denied value",
    ),
    ({"rule": "deny_tool_param", "target": "deploy", "key": "to", "pattern": "sk-"}, call(to="x"), None),
    ({"rule": "deny_tool_param", "target": "deploy", "key": "to", "pattern": "sk-"}, call(at=SECRET), None),
    (
        {"rule": "require_state", "key": "ok", "value": 5},
        call(),
        "state 'ok' does not have the required value",
    ),
    ({"rule": "require_state", "key": "set", "value": 5}, call(), None),
    (
        {"rule": "require_state", "key": "set", "value": 5.0},
        call(),
        "state 'set' does not have the required value",
    ),
    ({"rule": "require_state", "key": "ok", "value": 5, "target": "other"}, call(), None),
]


@pytest.mark.parametrize(("policy", "action", "reason"), REGISTERED)
async def test_a_registered_policy_rejects_what_it_forbids_and_nothing_else(
    tmp_path, autojump_clock, policy, action, reason
):
    async with open_house(tmp_path) as house:
        peer = await with_tools(house)
        await peer.call("state.set", {"key": "set", "value": 5})
        answer = await peer.call("policy.register", {"name": "mine", **policy})
        assert answer == {"registered": "mine", "scope": "global"}
        [row] = await rows(peer, action)
        assert row.get("error") == (reason and f"policy 'mine': {reason}")
        assert row["status"] == ("rejected" if reason else "succeeded")


FILES = [
    ('deny_tool = ["deploy"]', call(), "policy 'deny_tool:deploy': tool 'deploy' is denied"),
    (f'deny_keyword = ["{SECRET}"]', call(x={"deep": [f"a {SECRET} b"]}), "policy 'deny_keyword': parameter 'x' holds"),
    ('deny_keyword = ["a\\"b"]', call(x={"deep": ['a"b']}), "policy 'deny_keyword': parameter 'x' holds"),
    ('deny_keyword = ["nope"]', call(x=[1, None, "yes", {"k": {}}]), None),
    ('[[deny_tool_param]]\ntool="deploy"\nparam="x"', call(x=1), "policy 'deny_tool_param:deploy.x': "),
    ('[[deny_tool_param]]\ntool="deploy"\nparam="x"', call(y=1), None),
    ('[[deny_tool_param]]\ntool="deploy"\nparam="x"\nequals=5', call(x=5.0), "policy 'deny_tool_param:deploy.x': "),
    ('[[deny_tool_param]]\ntool="deploy"\nparam="x"\nequals=1', call(x=True), None),
    ('[[deny_tool_param]]\ntool="deploy"\nparam="x"\ncontains="pro"', call(x="prod"), "policy 'deny_tool_param:deploy.x': "),
    ('[[deny_tool_param]]\ntool="deploy"\nparam="x"\ncontains="pro"', call(x="dev"), None),
    ('[[allow_tool_param]]\ntool="deploy"\nparam="x"\nallow=["dev"]', call(x="dev"), None),
    ('[[allow_tool_param]]\ntool="deploy"\nparam="x"\nallow=["dev"]', call(x="prod"), "policy 'allow_tool_param:deploy.x': "),
    ('[[allow_tool_param]]\ntool="deploy"\nparam="x"\nallow=["dev"]', call(), "policy 'allow_tool_param:deploy.x': "),
    ('[[allow_tool_param]]\ntool="deploy"\nparam="x"\nallow=[5]', call(x=5.0), "policy 'allow_tool_param:deploy.x': "),
    ('[[allow_tool_param]]\ntool="deploy"\nparam="x"\nallow=[nan]', call(x=None), "policy 'allow_tool_param:deploy.x': "),
    ('[[allow_tool_param]]\ntool="other"\nparam="x"\nallow=["dev"]', call(), None),
    ('[[deny_tool_param_matching]]\ntool="deploy"\nparam="x"\nmatches="sk-[a-z]+-\\\\d"', call(x=f"a{SECRET}"), "policy 'deny_tool_param_matching:deploy.x': "),
    ('[[deny_tool_param_matching]]\ntool="deploy"\nparam="x"\nmatches="^sk"', call(x="a sk"), None),
    ('[[deny_tool_param_matching]]\ntool="deploy"\nparam="x"\nmatches="^sk"', call(y="sk"), None),
    ('[[deny_tool_param_matching]]\ntool="deploy"\nparam="x"\nmatches="("', call(), "policy 'deny_tool_param_matching:deploy.x': tool 'deploy' is denied: the pattern in policies/base.toml, line 1 does not compile"),
    ('[[deny_tool_param_matching]]\ntool="other"\nparam="x"\nmatches="("', call(), None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "action", "reason"), FILES)
async def test_a_policy_file_rejects_what_it_forbids_and_never_quotes_it(
    tmp_path, autojump_clock, text, action, reason
):
    policy_file(tmp_path, text)
    async with open_house(tmp_path) as house:
        peer = await with_tools(house)
        [row] = await rows(peer, action)
        if reason is None:
            assert row["status"] == "succeeded"
        else:
            assert row["status"] == "rejected"
            assert row["error"].startswith(reason)
            assert SECRET not in row["error"]


async def test_a_state_action_is_no_tool_call_and_no_policy_of_tools_holds_for_it(tmp_path, autojump_clock):
    policy_file(tmp_path, 'deny_keyword = ["k"]\ndeny_tool = ["deploy"]')
    async with open_house(tmp_path) as house:
        peer = await with_tools(house)
        write = {"id": "w", "type": "state_write", "tool": "deploy", "parameters": {"key": "k", "value": 1}}
        assert [row["status"] for row in await rows(peer, write)] == ["succeeded"]


async def test_reasons_come_after_the_engines_and_files_before_registered_ones(tmp_path, autojump_clock):
    policy_file(tmp_path, 'deny_tool = ["deploy"]')
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        schema = {"required": ["to"]}
        await peer.call("tools.register", [{"name": "deploy", "parameters": schema}])
        await peer.call("policy.register", {"name": "mine", "rule": "deny_tool", "target": "deploy"})
        [row] = await rows(peer, {**call(), "state_dependencies": ["k"]})
        assert row["error"] == (
            "state dependency 'k' not found; tool 'deploy': missing required parameter 'to'; "
            "policy 'deny_tool:deploy': tool 'deploy' is denied; policy 'mine': tool 'deploy' is denied"
        )


async def test_a_new_rule_holds_for_agents_that_are_already_connected_and_a_removed_one_does_not(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        peer = await with_tools(house)
        assert (await rows(peer, call()))[0]["status"] == "succeeded"
        policy_file(tmp_path, 'deny_tool = ["deploy"]')
        assert (await rows(peer, call()))[0]["status"] == "rejected"
        (tmp_path / "policies" / "base.toml").unlink()
        assert (await rows(peer, call()))[0]["status"] == "succeeded"


async def test_a_rate_limit_is_one_window_for_the_whole_daemon_counted_at_admission(tmp_path, autojump_clock):
    rule = '[[rate_limit_tool]]\ntool="http_request"\nmax_calls=2\ninterval_secs=60\n'
    rule += '[[rate_limit_tool]]\ntool="other"\nmax_calls=0\ninterval_secs=60\n'
    policy_file(tmp_path, rule)
    async with open_house(tmp_path) as house:
        one, other = await with_tools(house), await house.peer()
        await other.call("tools.register", [{"name": "http_request"}])
        request = call("http_request")
        # What another reason rejects is not admitted and does not count.
        assert (await rows(one, {**request, "state_dependencies": ["k"]}))[0]["status"] == "rejected"
        assert (await rows(one, request))[0]["status"] == "succeeded"
        assert (await rows(other, request))[0]["status"] == "succeeded"
        [row] = await rows(other, request)
        assert row["error"] == (
            "policy 'rate_limit_tool:http_request': tool 'http_request' was called too often lately; try again later"
        )
        policy_file(tmp_path, rule + "# read again: the window stays\n")
        assert (await rows(other, request))[0]["status"] == "rejected"
        await trio.sleep(61)
        assert (await rows(other, request))[0]["status"] == "succeeded"


BROKEN = [
    ('deny_tool = ["a"]\ndeny_tool = [', 2),
    ('\n[[deny_tool_param]]\ntool="x"\n', 2),
    ('[[rate_limit_tool]]\ntool="x"\nmax_calls=1\ninterval_secs=1\n[[rate_limit_tool]]\ntool="x"\nmax_calls=-1\ninterval_secs=1', 5),
    ('# a\ndeny_tools = ["x"]', 2),
    ('[[allow_tool_param]]\ntool="x"\nparam="y"\nallow=[]\nmore=1', 1),
    ("deny_keyword = [5]", 1),
    ('deny_tool_param = [{tool="x"}]', 1),
    ("x = " + "[" * 2000, 1),
    ('"deny tools" = 1', 1),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line"), BROKEN)
async def test_a_broken_file_refuses_what_depends_on_policies_naming_file_and_line(
    tmp_path, autojump_clock, text, line
):
    async with open_house(tmp_path) as house:
        peer = await with_tools(house)
        policy_file(tmp_path, text, "x.toml")
        for method, params in (
            ("proposal.submit", plan(call())),
            ("tools.list", {}),
            ("tools.register", []),
            ("tools.unregister", {"name": "x"}),
            ("policy.list", {}),
            ("policy.register", {"name": "x", "rule": "deny_tool", "target": "t"}),
            ("policy.unregister", {"name": "x"}),
            ("session.init", {"tools": []}),
        ):
            with pytest.raises(Refused, match=rf"policies/x\.toml, line {line}: ") as caught:
                await peer.call(method, params)
            assert caught.value.code == -32603
        assert await peer.call("state.keys") == []
        policy_file(tmp_path, "", "x.toml")
        assert await peer.call("tools.register", [{"name": "more"}]) == 1, "noticed without a submit"


async def test_a_file_that_cannot_be_read_is_as_broken_as_one_that_does_not_parse(tmp_path, autojump_clock):
    directory = tmp_path / "policies"
    directory.mkdir()
    async with open_house(tmp_path) as house:
        peer = await with_tools(house)
        (directory / "a.toml").mkdir()
        for said in (
            "a.toml, line 1: is no regular file",
            "b.toml, line 2: is not UTF-8",
            "c.toml, line 1: has ",
        ):
            with pytest.raises(Refused, match=said):
                await peer.call("proposal.submit", plan(call()))
            for old in directory.iterdir():
                old.rmdir() if old.is_dir() else old.unlink()
            if said.startswith("a"):
                (directory / "b.toml").write_bytes(b"# \n\xff")
            elif said.startswith("b"):
                (directory / "c.toml").write_text("#" * (1024 * 1024 + 1))
        (directory / "d.toml").symlink_to("nowhere")
        with pytest.raises(Refused, match="d.toml, line 1: is no regular file"):
            await peer.call("proposal.submit", plan(call()))
        (directory / "d.toml").unlink()
        directory.rmdir()
        assert (await rows(peer, call()))[0]["status"] == "succeeded"
        directory.write_text("no directory")
        with pytest.raises(Refused, match=f"goes on: {directory}: Not a directory; correct"):
            await peer.call("proposal.submit", plan(call()))


async def test_a_pattern_that_does_not_compile_is_logged_with_its_file_and_line(
    tmp_path, autojump_clock, caplog
):
    rule = "[[deny_tool_param_matching]]\ntool = 'deploy'\nparam = 'x'\nmatches = '%s'\n"
    policy_file(tmp_path, rule % "^sk" + rule % "(?=sk" + rule % "(")
    async with open_house(tmp_path):
        assert [each.getMessage() for each in caplog.records if each.name == "car_trio.policies"] == [
            f"policies/base.toml, line {line}: the pattern does not compile, so tool 'deploy' is denied; "
            "correct it in the file"
            for line in (5, 9)
        ]


async def test_policy_sessions_hold_for_the_submits_that_name_them(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_tools(house)
        session_id = (await peer.call("session.policy.open", {}))["session_id"]
        scoped = {"name": "s", "rule": "deny_tool", "target": "deploy", "session_id": session_id}
        assert (await peer.call("policy.register", scoped))["scope"] == {"session_id": session_id}
        assert (await rows(peer, call()))[0]["status"] == "succeeded"
        assert (await rows(peer, call(), session_id=session_id))[0]["status"] == "rejected"
        assert await peer.call("policy.list") == {"policies": [], "scope": "global"}
        assert await peer.call("policy.list", {"session_id": session_id}) == {
            "policies": [{"name": "s", "description": "deny_tool deploy"}],
            "scope": {"session_id": session_id},
        }
        await peer.call("policy.register", scoped)
        removed = await peer.call("policy.unregister", {"name": "s", "session_id": session_id})
        assert removed == {"unregistered": "s", "removed": 2, "scope": {"session_id": session_id}}
        assert await peer.call("session.policy.close", {"session_id": session_id}) == {"closed": True}
        assert await peer.call("session.policy.close", {"session_id": session_id}) == {"closed": False}
        for method, params in (
            ("proposal.submit", plan(call(), session_id=session_id)),
            ("policy.list", {"session_id": session_id}),
        ):
            with pytest.raises(Refused, match="unknown session_id") as caught:
                await peer.call(method, params)
            assert caught.value.code == -32602


async def test_session_init_offers_tools_and_policies_all_or_none(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        policy = {"name": "n", "rule": "deny_tool", "target": "deploy"}
        for bad in (
            {"policies": [policy, {"name": "m", "rule": "deny_tool"}]},
            {"policies": [policy] * 1001},
        ):
            with pytest.raises(Refused):
                await peer.call("session.init", {"tools": [{"name": "deploy"}], **bad})
        with pytest.raises(Refused, match="1000 tools"):
            await peer.call(
                "session.init", {"tools": [{"name": f"t{n}"} for n in range(1001)], "policies": [policy]}
            )
        assert (await peer.call("tools.list"))["count"] == 0
        assert (await peer.call("policy.list"))["policies"] == []
        ready = await peer.call("session.init", {"tools": [{"name": "deploy"}], "policies": [policy]})
        assert (ready["tools_registered"], ready["policies_registered"]) == (1, 1)
        assert (await rows(peer, call(), session_id=ready["session_id"]))[0]["status"] == "rejected"


async def test_what_a_rule_needs_is_asked_for_and_a_thousand_policies_are_enough(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        for policy, said in (
            ({"rule": "deny_tool"}, "deny_tool needs target"),
            ({"rule": "deny_tool_param", "target": "t", "key": "k"}, "needs pattern"),
            ({"rule": "require_state", "key": "k"}, "needs value"),
            ({"rule": "nope"}, "rule"),
            ({"rule": "deny_tool", "target": "t" * 20_000}, "bytes"),
        ):
            with pytest.raises(Refused, match=said) as caught:
                await peer.call("policy.register", {"name": "x", **policy})
            assert caught.value.code == -32602
        with pytest.raises(Refused, match="name must not be empty"):
            await peer.call("policy.register", {"name": "", "rule": "deny_tool", "target": "t"})
        await peer.call(
            "session.init", {"policies": [{"name": "x", "rule": "deny_tool", "target": "t"}] * 1000}
        )
        with pytest.raises(Refused, match="1000 policies"):
            await peer.call("policy.register", {"name": "x", "rule": "deny_tool", "target": "t"})
        for _ in range(1000):
            await peer.call("session.policy.open")
        with pytest.raises(Refused, match="1000 policy sessions"):
            await peer.call("session.policy.open")


async def test_a_policy_that_breaks_rejects_and_says_only_what_kind_of_error_it_was(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_tools(house)
        await peer.call("policy.register", {"name": "mine", "rule": "deny_tool", "target": "other"})
        [session] = [each for each in house.daemon.sessions.values() if each.tools]
        policies = session.policies.scope(None, "a test")

        def breaks(action, state):
            raise ZeroDivisionError(SECRET)

        policies[0] = policies[0]._replace(rule=breaks)
        [row] = await rows(peer, call())
        assert row["error"] == "policy 'mine': could not be checked (ZeroDivisionError)"


# Tiers


GATED = Permissions(gate=True)


async def test_the_gate_refuses_a_plan_whole_until_its_fingerprints_are_approved(tmp_path, autojump_clock):
    async with open_house(tmp_path, permissions=GATED) as house:
        peer, host = await with_tools(house, "deploy", "echo"), await house.peer(host=True)
        run_id = (await peer.call("runs.start", {"intent": "x"}))["run_id"]
        both = (call("echo"), call("deploy", to="prod"))
        mark = 'tool_call|deploy|{"to":"prod"}'
        refused = await rows(peer, *both)
        assert [row["status"] for row in refused] == ["rejected", "rejected"]
        assert mark in refused[0]["error"]
        with pytest.raises(Refused, match="needs the host role"):
            await peer.call("permission.approve", {"fingerprint": mark})
        line = await host.call("permission.approve", {"fingerprint": mark, "reason": "fine"})
        assert line.pop("decided_at").endswith("000+00:00")
        assert line == {
            "fingerprint": mark,
            "required_tier": "full_access",
            "decision": "approved",
            "reviewer": "host",
            "reason": "fine",
            "evidence": None,
        }
        assert [row["status"] for row in await rows(peer, *both)] == ["succeeded", "succeeded"]
        await host.call("permission.reject", {"fingerprint": "tool_call|echo|{}"})
        assert [row["status"] for row in await rows(peer, *both)] == ["rejected", "rejected"]
        trace = await peer.call("runs.get_trace", {"run_id": run_id})
        assert [record.get("status") for record in trace["records"]][1:] == ["rejected"] * 2 + [
            "succeeded"
        ] * 2 + ["rejected"] * 2
    async with open_house(tmp_path, permissions=GATED) as house:
        peer = await with_tools(house, "deploy", "echo")
        assert (await rows(peer, both[1]))[0]["status"] == "succeeded", "the decision holds for good"
        decisions = await peer.call("permission.evaluate", {"proposal": plan(*both)["proposal"]})
        assert [row["decision"] for row in decisions] == ["deny", "allow"]


async def test_a_tier_is_the_hosts_to_give_and_the_sessions_to_have(tmp_path, autojump_clock):
    async with open_house(tmp_path, permissions=GATED) as house:
        peer, host = await with_tools(house, "echo"), await house.peer(host=True)
        client_id = (await peer.call("session.init", {}))["session_id"]
        assert (await rows(peer, call("echo")))[0]["status"] == "succeeded"
        tier = {"tier": "read_only", "client_id": client_id}
        assert await host.call("permission.set_tier", tier) == tier
        assert (await rows(peer, call("echo")))[0]["status"] == "rejected"
        many = [{**call("echo", n=n), "id": f"a{n}"} for n in range(20)]
        said = (await rows(peer, *many))[0]["error"]
        assert all(f'tool_call|echo|{{"n":{n}}}' in said for n in range(20))
        long = [{**call("echo", n=n, text="x" * 5000), "id": f"a{n}"} for n in range(20)]
        assert (await rows(peer, *long))[0]["error"].endswith("and 19 more, which permission.evaluate tells")
        own = await host.call("permission.set_tier", {"tier": "full_access"})
        assert own["client_id"] != client_id
        for who, params, said in (
            (peer, tier, "host role"),
            (host, {"tier": "zzz"}, r"invalid tier 'zzz' \(expected read_only"),
            (host, {"tier": "read_only", "client_id": "gone"}, "no connection has"),
        ):
            with pytest.raises(Refused, match=said):
                await who.call("permission.set_tier", params)
        with pytest.raises(Refused, match="invalid tier 'zzz'"):
            await peer.call("permission.evaluate", {"proposal": {"actions": []}, "granted_tier": "zzz"})
        with pytest.raises(Refused, match="fingerprint must not be empty"):
            await host.call("permission.approve", {"fingerprint": ""})


async def test_without_the_gate_nothing_asks(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await with_tools(house)
        assert (await rows(peer, call()))[0]["status"] == "succeeded"
        config = {"max_replans": 2, "delay_ms": 5, "replan_on_rejected": True, "verify_before_execute": False}
        assert await peer.call("replan.set_config", config) == config
