"""The gate: a listed method runs when a host approved it, with the approved bytes, and never otherwise (`host.md` 3)."""

from __future__ import annotations

import hashlib
import json
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from msgspec import UNSET, Raw
from trio.testing import wait_all_tasks_blocked

from car_trio.config import Approvals, Environment
from car_trio.methods.context import Answer
from car_trio.methods.method import Method
from car_trio.state.absent import Lookup
from tests.peer import Refused, open_house

pytestmark = pytest.mark.usefixtures("inline_threads")


class Message(msgspec.Struct):
    to: str = "nobody"
    text: Raw | msgspec.UnsetType = UNSET


@asynccontextmanager
async def gated_house(
    tmp_path, ran: list, *, methods=("messages.send",), auth=True, config=None, **approvals
):
    """A house in which `messages.send` (and colours of it) are behind the gate and say what they ran."""

    def send(_, message: Message) -> str:
        ran.append((message.to, None if message.text is UNSET else bytes(message.text)))
        return "sent"

    async def send_later(context, message: Message) -> str:
        return send(context, message)

    def steps(_, message: Message):
        yield
        return message

    table = {
        "messages.send": Method(Message, send, str, "Send."),
        "mail.send": Method(Message, send_later, str, "Send in a task."),
        "mail.admitted": Method(
            Message, send_later, str, "Decide, then send.", admit=lambda _, message: message
        ),
        "mail.sliced": Method(Message, send, str, "Send in slices.", slices=steps),
    }
    settings = Approvals(methods=list(methods), **approvals)
    async with open_house(tmp_path, auth=auth, approvals=settings, **(config or {})) as house:
        house.daemon.methods = house.daemon.methods | table
        yield house


async def asked(host) -> dict:
    """The row that the host is asked about."""
    while True:
        event = await host.notification("host.event")
        if event["kind"] == "approval.requested":
            return event["payload"]


async def follow(house, name: str | None = None):
    host = await house.peer(name, host=True)
    await host.call("host.subscribe")
    return host


async def decide(host, row: dict, resolution: str = "approve") -> dict:
    return await host.call("host.resolve_approval", {"approval_id": row["id"], "resolution": resolution})


@pytest.mark.parametrize("method", ["messages.send", "mail.send", "mail.admitted", "mail.sliced"])
async def test_a_gated_method_of_any_colour_runs_once_when_a_host_approved(tmp_path, autojump_clock, method):
    ran: list = []
    async with gated_house(tmp_path, ran, methods=[method]) as house:
        host, alice = await follow(house), await house.peer("alice")
        sending = await alice.request(method, {"to": "ada"})
        row = await asked(host)
        assert (row["action"], row["client_id"], row["agent_id"]) == (f"ws.method:{method}", None, "alice")
        await wait_all_tasks_blocked()
        assert ran == []
        assert (await decide(host, row))["resolution"] == "approve"
        assert await alice.reply(sending) == "sent"
        assert ran == [("ada", None)]


async def test_the_row_has_the_full_params_and_exactly_those_bytes_run(tmp_path, autojump_clock):
    ran: list = []
    async with gated_house(tmp_path, ran) as house:
        host, alice = await follow(house), await house.peer("alice")
        params = '{ "to":"ada" , "text":{"b":1.50,"a":"é"}, "unknown":"%s" }' % ("x" * 10_000)
        await alice.send('{"id":7,"method":"messages.send","params":%s}' % params)
        row = await asked(host)
        assert row["details"] is None, "an event shortens, the row does not"
        full = (await host.call("host.approvals"))["approvals"][0]
        assert full["details"] == json.loads(params)
        assert full["details_sha256"] == hashlib.sha256(params.encode()).hexdigest()
        await decide(host, row)
        assert await alice.reply(7) == "sent"
        assert ran == [("ada", '{"b":1.50,"a":"é"}'.encode())]


async def test_params_that_are_left_out_are_approved_as_null(tmp_path, autojump_clock):
    ran: list = []
    async with gated_house(tmp_path, ran) as house:
        host, alice = await follow(house), await house.peer("alice")
        await alice.send('{"id":7,"method":"messages.send"}')
        row = await asked(host)
        assert row["details"] is None
        await decide(host, row)
        assert await alice.reply(7) == "sent"
        assert ran == [("nobody", None)]


async def test_nothing_runs_after_a_deny_and_the_connection_stays_open(tmp_path, autojump_clock):
    ran: list = []
    async with gated_house(tmp_path, ran) as house:
        host, alice = await follow(house), await house.peer("alice")
        sending = await alice.request("messages.send", {"to": "ada"})
        await decide(host, await asked(host), "deny")
        with pytest.raises(Refused, match="denied by a host") as caught:
            await alice.reply(sending)
        assert caught.value.code == -32003
        assert await alice.call("state.keys") == []
        assert ran == []


async def test_nothing_runs_after_the_time_is_over_and_the_caller_is_kept_waiting_meanwhile(
    tmp_path, autojump_clock
):
    ran: list = []
    async with gated_house(tmp_path, ran, timeout_secs=60) as house:
        host, alice = await follow(house), await house.peer("alice")
        began = trio.current_time()
        sending = await alice.request("messages.send", {"to": "ada"})
        row = await asked(host)
        notes = 0
        with pytest.raises(Refused, match="not approved within 60 s") as caught:
            while (frame := await alice.receive()).get("method") == "infer.progress":
                assert frame["params"] == {"id": sending}
                notes += 1
            alice.frames.appendleft(frame)
            await alice.reply(sending)
        assert (caught.value.code, trio.current_time() - began) == (-32003, 60)
        assert notes >= 5
        with pytest.raises(Refused, match="expired"):
            await decide(host, row)
        assert ran == []


async def test_nothing_runs_when_what_was_approved_is_not_what_would_run(tmp_path, autojump_clock):
    ran: list = []
    async with gated_house(tmp_path, ran) as house:
        host, alice = await follow(house), await house.peer("alice")
        sending = await alice.request("messages.send", {"to": "ada"})
        row = await asked(host)
        pending = house.daemon.host.approvals._pending[row["id"]]
        pending.row = msgspec.structs.replace(pending.row, details_sha256="0" * 64)
        await decide(host, row)
        with pytest.raises(Refused, match="is not what would run") as caught:
            await alice.reply(sending)
        assert (caught.value.code, ran) == (-32003, [])


async def test_a_caller_that_vanishes_takes_its_question_along(tmp_path, autojump_clock):
    ran: list = []
    async with gated_house(tmp_path, ran) as house:
        host, alice = await follow(house), await house.peer("alice")
        await alice.request("messages.send", {"to": "ada"})
        row = await asked(host)
        await alice.drop()
        await wait_all_tasks_blocked()
        with pytest.raises(Refused, match="expired"):
            await decide(host, row)
        await trio.sleep(1)
        assert ran == []


async def test_a_call_that_is_abandoned_takes_its_question_along(tmp_path, autojump_clock):
    ran: list = []
    config = {"environment": Environment(handler_timeout=5)}
    async with gated_house(tmp_path, ran, config=config) as house:
        host, alice = await follow(house), await house.peer("alice")
        sending = await alice.request("messages.send", {"to": "ada"})
        row = await asked(host)
        with pytest.raises(Refused, match="abandoned at its deadline") as caught:
            await alice.reply(sending)
        assert caught.value.code == -32004
        with pytest.raises(Refused, match="expired"):
            await decide(host, row)
        assert ran == []


async def test_a_stop_ends_the_wait_and_nothing_runs(tmp_path, autojump_clock):
    ran: list = []
    async with gated_house(tmp_path, ran) as house:
        host, alice = await follow(house), await house.peer("alice")
        sending = await alice.request("messages.send", {"to": "ada"})
        await asked(host)
        house.stop.set()
        with pytest.raises(Refused, match="^daemon is stopping"):
            await alice.reply(sending)
        assert await alice.closed() == 1001
        assert ran == []


async def test_a_listed_method_that_does_not_exist_is_unknown_and_asks_nobody(tmp_path, autojump_clock):
    async with gated_house(tmp_path, [], methods=["automation.shortcuts.run"]) as house:
        peer = await house.peer()
        with pytest.raises(Refused, match="unknown method") as caught:
            await peer.call("automation.shortcuts.run")
        assert caught.value.code == -32601
        assert (await peer.call("host.approvals"))["approvals"] == []


async def test_params_that_the_method_does_not_take_ask_nobody(tmp_path, autojump_clock):
    async with gated_house(tmp_path, []) as house:
        peer = await house.peer()
        with pytest.raises(Refused) as caught:
            await peer.call("messages.send", {"to": 5})
        assert caught.value.code == -32602
        assert (await peer.call("host.approvals"))["approvals"] == []


async def test_beyond_the_bounds_a_gated_call_is_refused_as_such(tmp_path, autojump_clock):
    ran: list = []
    async with gated_house(tmp_path, ran) as house:
        alice = await house.peer("alice")
        with pytest.raises(Refused, match="at most 1048576") as caught:
            await alice.call("messages.send", {"to": "x" * (1 << 20)})
        assert caught.value.code == -32003
        for _ in range(32):
            await alice.request("messages.send")
        await wait_all_tasks_blocked()
        with pytest.raises(Refused, match="32 pending approvals") as caught:
            await alice.call("messages.send")
        assert (caught.value.code, ran) == (-32003, [])


async def test_without_approvals_nobody_is_asked(tmp_path, autojump_clock):
    ran: list = []
    async with gated_house(tmp_path, ran, enabled=False) as house:
        alice = await house.peer("alice")
        assert await alice.call("messages.send", {"to": "ada"}) == "sent"
        assert (ran, house.daemon.host.events.sequence) == ([("ada", None)], 0)


async def test_only_the_host_role_decides_what_the_gate_asks(tmp_path, autojump_clock):
    ran: list = []
    async with gated_house(tmp_path, ran) as house:
        host, alice, screen = await follow(house), await house.peer("alice"), await house.peer()
        sending = await alice.request("messages.send", {"to": "ada"})
        row = await asked(host)
        with pytest.raises(Refused, match="is for hosts"):
            await decide(alice, row)
        with pytest.raises(Refused, match="decided by a host"):
            await decide(screen, row)
        assert (await screen.call("host.approvals"))["approvals"][0]["details"] is None
        assert ran == []
        await decide(host, row)
        assert await alice.reply(sending) == "sent"


async def test_with_authentication_off_nobody_decides_about_itself(tmp_path, autojump_clock):
    ran: list = []
    async with gated_house(tmp_path, ran, auth=False) as house:
        caller, other = await house.peer(), await house.peer()
        await other.call("host.subscribe")
        sending = await caller.request("messages.send", {"to": "ada"})
        row = await asked(other)
        with pytest.raises(Refused, match="is about this connection"):
            await decide(caller, row)
        assert ran == []
        await decide(other, row)
        assert await caller.reply(sending) == "sent"


async def test_of_two_hosts_that_answer_at_once_one_wins_and_the_other_is_told_who(tmp_path, autojump_clock):
    ran: list = []
    async with gated_house(tmp_path, ran) as house:
        alice = await house.peer("alice")
        hosts = [await follow(house, "h0"), await follow(house, "h1")]
        sent = 0
        for _ in range(1000):
            sending = await alice.request("messages.send", {"to": "ada"})
            row = await asked(hosts[0])
            answers = [("approve", hosts[0]), ("deny", hosts[1])]
            asked_of = [
                await host.request("host.resolve_approval", {"approval_id": row["id"], "resolution": answer})
                for answer, host in answers
            ]
            outcomes = []
            for (answer, host), request_id in zip(answers, asked_of, strict=True):
                try:
                    outcomes.append((await host.reply(request_id))["resolution"] == answer)
                except Refused as late:
                    assert late.data["resolved_by"] in late.message
                    outcomes.append(False)
                host.frames.clear()
            assert sorted(outcomes) == [False, True]
            try:
                await alice.reply(sending)
                assert outcomes[0]
                sent += 1
            except Refused as denied:
                assert (denied.code, outcomes[1]) == (-32003, True)
            assert len(ran) == sent


async def test_a_rule_that_has_to_look_something_up_is_asked_after_the_approval(tmp_path, autojump_clock):
    looked: list[str] = []

    def look(_, message: Message) -> str:
        looked.append(message.to)
        if len(looked) == 1:
            raise Lookup("some-run")
        return "found"

    async with gated_house(tmp_path, [], methods=["look"]) as house:
        house.daemon.methods["look"] = Method(Message, look, str, "Look.")
        host, alice = await follow(house), await house.peer("alice")
        looking = await alice.request("look", {"to": "ada"})
        row = await asked(host)
        assert looked == []
        await decide(host, row)
        assert await alice.reply(looking) == "found"
        assert looked == ["ada", "ada"]


async def test_the_method_has_its_usual_time_after_a_long_wait_for_the_answer(tmp_path, autojump_clock):
    async def slow(_, __) -> Answer:
        await trio.sleep(25)
        return Answer("done")

    async with gated_house(
        tmp_path, [], methods=["slow"], config={"server": {"handler_timeout_seconds": 30}}, timeout_secs=60
    ) as house:
        house.daemon.methods["slow"] = Method(Message, slow, str, "Slow.")
        host, alice = await follow(house), await house.peer("alice")
        sending = await alice.request("slow")
        row = await asked(host)
        await trio.sleep(50)
        await decide(host, row)
        assert await alice.reply(sending) == "done"
