"""A host talks with an attached agent (`host.md` section 4): asking, streaming, and every way a chat can end."""

from __future__ import annotations

import base64

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.peer import Peer, Refused, open_house

pytestmark = pytest.mark.usefixtures("inline_threads")


async def request_of(peer: Peer, method: str) -> dict:
    """The next request of this name that the daemon makes."""
    while True:
        frame = await peer.receive()
        if frame.get("method") == method:
            return frame


async def ack(agent: Peer, result: object = None, method: str = "agent.chat", **frame) -> dict:
    """The agent answers what it is asked; returns the request's params."""
    asked = await request_of(agent, method)
    await agent.send({"jsonrpc": "2.0", "id": asked["id"], **(frame or {"result": result})})
    return asked["params"]


async def say(agent: Peer, chat_id: str, kind: str, **fields) -> None:
    params = {"session_id": chat_id, "kind": kind, **fields}
    await agent.send({"jsonrpc": "2.0", "method": "agent.chat.event", "params": params})


async def pair(house, **start) -> tuple[Peer, Peer, str]:
    """A host and an agent in an accepted chat, and its id."""
    host, agent = await house.peer(), await house.peer("ada")
    asking = await host.request("agents.chat", {"agent_id": "ada", "prompt": "hi", **start})
    await ack(agent, {"accepted": True})
    reply = await host.reply(asking)
    assert reply["accepted"] is True
    return host, agent, reply["session_id"]


async def heard(host: Peer) -> dict:
    return await host.notification("agents.chat.event")


async def test_a_chat_is_asked_accepted_streamed_and_done(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        host, agent = await house.peer(), await house.peer("ada")
        image = {"type": "image_base64", "data": base64.b64encode(b"png").decode(), "media_type": "image/png"}
        link = {"type": "image_url", "url": "https://example.org/a.png"}
        start = {"agent_id": "ada", "prompt": "hi", "model": "m", "attachments": [image, link]}
        asking = await host.request("agents.chat", start)
        asked = await ack(agent, {})
        session_id = asked.pop("session_id")
        assert session_id.startswith("chat-")
        host_id = asked["context"]["host_client_id"]
        assert host_id in house.daemon.clients
        assert asked == {
            "prompt": "hi",
            "stream": True,
            "context": {"host_client_id": host_id, "voice_input": False},
            "model": "m",
            "attachments": [image, link],
        }
        assert await host.reply(asking) == {"accepted": True, "session_id": session_id}
        await say(agent, session_id, "token", delta="hello")
        await say(agent, session_id, "done", finish_reason="stop", text="hello")
        await say(agent, session_id, "token", delta="late")
        token, done = await heard(host), await heard(host)
        assert token == {"session_id": session_id, "kind": "token", "delta": "hello", "agent_id": "ada"}
        assert (done["kind"], done["text"]) == ("done", "hello")
        await wait_all_tasks_blocked()
        assert (len(house.daemon.chats), house.daemon.counters["chat_events_dropped"]) == (0, 1)


async def test_what_the_agent_sends_right_after_its_ack_comes_after_the_acceptance(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        for _ in range(50):
            host, agent = await house.peer(), await house.peer("ada")
            await host.request("agents.chat", {"agent_id": "ada", "prompt": "hi"})
            asked = await request_of(agent, "agent.chat")
            session_id = asked["params"]["session_id"]
            await say(agent, session_id, "token", delta="0")
            await agent.send({"jsonrpc": "2.0", "id": asked["id"], "result": None})
            await say(agent, session_id, "token", delta="1")
            await say(agent, session_id, "done")
            frames = [await host.receive() for _ in range(4)]
            assert "result" in frames[0]
            assert [frame["params"]["kind"] for frame in frames[1:]] == ["token", "token", "done"]
            assert [frame["params"].get("delta") for frame in frames[1:3]] == ["0", "1"]
            await agent.drop()
            await host.drop()
            await wait_all_tasks_blocked()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"error": {"code": 1, "message": "busy"}}, "agent 'ada' refused: busy"),
        ({"result": {"accepted": False}}, "did not accept"),
    ],
)
async def test_an_agent_that_refuses_leaves_no_session(tmp_path, autojump_clock, answer, said):
    async with open_house(tmp_path) as house:
        host, agent = await house.peer(), await house.peer("ada")
        asking = await host.request("agents.chat", {"agent_id": "ada", "prompt": "hi", "session_id": "c"})
        await ack(agent, **answer)
        with pytest.raises(Refused, match=said):
            await host.reply(asking)
        assert len(house.daemon.chats) == 0


async def test_an_agent_that_does_not_answer_within_five_seconds_leaves_no_session(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        host, agent = await house.peer(), await house.peer("ada")
        began = trio.current_time()
        asking = await host.request("agents.chat", {"agent_id": "ada", "prompt": "hi", "session_id": "c"})
        with pytest.raises(Refused, match="did not answer 'agent.chat' within 5 s"):
            await host.reply(asking)
        assert trio.current_time() - began == 5
        assert len(house.daemon.chats) == 0
        await say(agent, "c", "token")
        assert await agent.notification("agent.chat.cancel") == {"session_id": "c"}
        await wait_all_tasks_blocked()
        assert house.daemon.counters["chat_events_dropped"] == 1


async def test_an_agent_that_vanishes_before_it_answers_leaves_no_session(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        host, agent = await house.peer(), await house.peer("ada")
        asking = await host.request("agents.chat", {"agent_id": "ada", "prompt": "hi"})
        await request_of(agent, "agent.chat")
        await agent.drop()
        with pytest.raises(Refused, match="disconnected before it answered"):
            await host.reply(asking)
        assert len(house.daemon.chats) == 0


async def test_an_agent_that_accepts_and_vanishes_in_one_breath_ends_the_accepted_chat(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        host, agent = await house.peer(), await house.peer("ada")
        asking = await host.request("agents.chat", {"agent_id": "ada", "prompt": "hi"})
        await ack(agent)
        await agent.drop()
        await host.reply(asking)
        assert (await heard(host))["error"] == "agent 'ada' disconnected"
        assert len(house.daemon.chats) == 0


async def test_a_host_that_vanishes_while_it_asks_leaves_no_session(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        host, agent = await house.peer(), await house.peer("ada")
        await host.request("agents.chat", {"agent_id": "ada", "prompt": "hi", "session_id": "c"})
        await request_of(agent, "agent.chat")
        await host.drop()
        assert await agent.notification("agent.chat.cancel") == {"session_id": "c"}
        await trio.sleep(1)
        assert len(house.daemon.chats) == 0


async def test_nobody_is_asked_when_the_agent_is_not_attached_or_the_id_is_taken(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        host, _, session_id = await pair(house)
        with pytest.raises(Refused, match="agent 'bob' is not attached"):
            await host.call("agents.chat", {"agent_id": "bob", "prompt": "hi"})
        with pytest.raises(Refused, match="is in use"):
            await host.call("agents.chat", {"agent_id": "ada", "prompt": "hi", "session_id": session_id})
        assert len(house.daemon.chats) == 1


@pytest.mark.parametrize(
    "attachment",
    [
        {"type": "image_base64", "data": "not base64!", "media_type": "image/png"},
        {"type": "image_base64", "data": "aGk=", "media_type": "image/tiff"},
        {"type": "image_url", "url": "file:///etc/passwd"},
        {"type": "image_url", "url": "javascript:https://x"},
        {"type": "video_url", "url": "https://example.org"},
        "aGk=",
    ],
)
async def test_attachments_of_any_other_kind_are_refused(tmp_path, autojump_clock, attachment):
    async with open_house(tmp_path) as house:
        host = await house.peer()
        await house.peer("ada")
        with pytest.raises(Refused) as caught:
            await host.call("agents.chat", {"agent_id": "ada", "prompt": "hi", "attachments": [attachment]})
        assert caught.value.code == -32602
        assert len(house.daemon.chats) == 0


# Speaking and ending


async def test_only_the_sessions_agent_is_heard_and_only_by_the_host_that_asked(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        host, agent, session_id = await pair(house)
        other, eve = await house.peer(host=True), await house.peer("eve")
        await say(eve, session_id, "token", delta="lies")
        await say(host, session_id, "token", delta="echo")
        await say(agent, "unknown", "token")
        await wait_all_tasks_blocked()
        await say(agent, session_id, "token", delta="truth")
        assert (await heard(host))["delta"] == "truth"
        assert house.daemon.counters["chat_events_dropped"] == 3
        await other.call("state.keys")
        assert not other.frames


async def test_an_agent_that_dies_ends_its_chat(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        host, agent, session_id = await pair(house)
        await agent.drop()
        error = "agent 'ada' disconnected"
        assert await heard(host) == {
            "kind": "error",
            "session_id": session_id,
            "agent_id": "ada",
            "error": error,
        }
        assert len(house.daemon.chats) == 0


async def test_an_agent_that_is_silent_for_ten_minutes_ends_its_chat(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        host, agent, session_id = await pair(house)
        began = trio.current_time()
        await trio.sleep(400)
        await say(agent, session_id, "token")
        assert (await heard(host))["kind"] == "token"
        assert (await heard(host))["error"] == "agent 'ada' was silent for 10 minutes"
        assert trio.current_time() - began == 1000
        assert await agent.notification("agent.chat.cancel") == {"session_id": session_id}
        await say(agent, session_id, "done")
        await wait_all_tasks_blocked()
        assert house.daemon.counters["chat_events_dropped"] == 1


async def test_a_cancelled_chat_ends_and_the_agent_is_told(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        host, agent, session_id = await pair(house)
        with pytest.raises(Refused, match="started by another host"):
            await (await house.peer()).call("agents.chat.cancel", {"session_id": session_id})
        boss = await house.peer(host=True)
        assert await boss.call("agents.chat.cancel", {"session_id": session_id}) == {"cancelled": True}
        assert await agent.notification("agent.chat.cancel") == {"session_id": session_id}
        assert (await heard(host))["error"] == "the chat was cancelled"
        assert await host.call("agents.chat.cancel", {"session_id": session_id}) == {"cancelled": False}


async def test_a_decision_in_a_chat_reaches_the_agent_and_its_answer_comes_back(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        host, agent, session_id = await pair(house)
        await say(agent, session_id, "approval_pending", approval_id="a", action="rm", details={})
        assert (await heard(host))["approval_id"] == "a"
        decision = {"session_id": session_id, "approval_id": "a", "decision": "approve"}
        for answer, resolved in (({"resolved": True}, True), ({"resolved": False}, False), (None, True)):
            deciding = await host.request("agents.chat.approve", decision)
            assert await ack(agent, answer, "agent.chat.approve") == decision
            assert await host.reply(deciding) == {"resolved": resolved, "session_id": session_id}
        for stranger in (await house.peer(), await house.peer("eve"), agent):
            with pytest.raises(Refused, match="another host|is for hosts"):
                await stranger.call("agents.chat.approve", decision)


async def test_an_agent_with_the_host_role_does_not_decide_about_itself(tmp_path, autojump_clock):
    async with open_house(tmp_path, auth=False) as house:
        _, agent, session_id = await pair(house)
        decision = {"session_id": session_id, "approval_id": "a", "decision": True}
        with pytest.raises(Refused, match="does not decide"):
            await agent.call("agents.chat.approve", decision)


async def test_a_chat_whose_agent_is_gone_already_takes_no_decision(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        host, agent = await house.peer(), await house.peer("ada")
        await host.request("agents.chat", {"agent_id": "ada", "prompt": "hi", "session_id": "c"})
        await ack(agent)
        await wait_all_tasks_blocked()
        house.daemon.clients.pop(house.connection_of("ada").session.id)
        with pytest.raises(Refused, match="not attached any more"):
            decision = {"session_id": "c", "approval_id": "a", "decision": "deny"}
            await host.call("agents.chat.approve", decision)


async def test_a_stop_ends_every_chat(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        host, _, _ = await pair(house)
        house.stop.set()
        assert await host.closed() == 1001
        await house.stopped.wait()
        assert len(house.daemon.chats) == 0
