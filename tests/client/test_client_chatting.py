"""A chat in the client library: every event once and in order, and every way it can end."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from car_trio.client import CallRefused, Car, ChatOverrun, Disconnected, feed
from tests.client.conftest import Peer, Refuse, ScriptedDaemon


async def say(peer: Peer, chat_id: str, kind: Any, **fields: Any) -> None:
    await peer.notify("agents.chat.event", {"session_id": chat_id, "agent_id": "ada", "kind": kind, **fields})


def accepting(*events: tuple[Any, dict[str, Any]]) -> Any:
    """An agent that accepts and says these things, some of them before its acceptance is read."""

    async def chat(peer: Peer, params: Any) -> Any:
        for kind, fields in events:
            await say(peer, params["session_id"], kind, **fields)
        return {"accepted": True, "session_id": params["session_id"]}

    return chat


async def test_what_the_agent_says_is_heard_once_in_order_up_to_the_last(
    daemon: ScriptedDaemon, car: Car
) -> None:
    daemon.methods["agents.chat"] = accepting(
        ("token", {"delta": "he"}), ("odd", {"x": 1}), ("done", {"text": "hey"}), ("token", {"delta": "late"})
    )
    async with car.chat("ada", "hi", model="m") as chat:
        heard = [(event.kind, event.fields.get("delta"), event.is_last) async for event in chat]
        assert chat.is_over
        with pytest.raises(StopAsyncIteration):
            await anext(chat)
    assert heard == [("token", "he", False), ("odd", None, False), ("done", None, True)]
    (asked,) = daemon.calls_of("agents.chat")
    assert (asked["agent_id"], asked["prompt"], asked["model"]) == ("ada", "hi", "m")
    assert asked["session_id"] == chat.session_id
    await wait_all_tasks_blocked()
    assert daemon.calls_of("agents.chat.cancel") == []


async def test_two_chats_do_not_hear_each_other(daemon: ScriptedDaemon, car: Car) -> None:
    daemon.methods["agents.chat"] = accepting()
    async with car.chat("ada", "1", session_id="one") as one, car.chat("ada", "2", session_id="two") as two:
        await say(daemon.peers[0], "two", "error", error="no")
        await say(daemon.peers[0], "three", "done")
        await say(daemon.peers[0], "one", "done")
        assert [event.kind async for event in one] == ["done"]
        assert [event.fields["error"] async for event in two] == ["no"]


async def test_a_chat_that_is_refused_is_never_begun(daemon: ScriptedDaemon, car: Car) -> None:
    def refuse(peer: Peer, params: Any) -> Any:
        raise Refuse(-32603, "agent 'ada' is not attached")

    daemon.methods["agents.chat"] = refuse
    with pytest.raises(CallRefused, match="not attached"):
        async with car.chat("ada", "hi"):
            pytest.fail("the block is not entered")
    await wait_all_tasks_blocked()
    assert daemon.calls_of("agents.chat.cancel") == []  # the id may be that of somebody else's chat


async def test_a_second_chat_of_one_id_is_refused_and_the_first_goes_on(
    daemon: ScriptedDaemon, car: Car
) -> None:
    daemon.methods["agents.chat"] = accepting()
    async with car.chat("ada", "1", session_id="one") as chat:
        with pytest.raises(CallRefused, match="'one' is in use on this connection"):
            async with car.chat("ada", "2", session_id="one"):
                pytest.fail("the block is not entered")
        await say(daemon.peers[0], "one", "done")
        assert [event.kind async for event in chat] == ["done"]
    assert len(daemon.calls_of("agents.chat")) == 1


async def test_leaving_before_the_end_cancels_the_chat_without_waiting(
    daemon: ScriptedDaemon, car: Car
) -> None:
    daemon.methods["agents.chat"] = accepting(("token", {"delta": "a"}))
    with trio.CancelScope() as scope:
        async with car.chat("ada", "hi", session_id="c") as chat:
            await anext(chat)
            scope.cancel()
            await anext(chat)
    assert scope.cancelled_caught
    await wait_all_tasks_blocked()
    assert daemon.calls_of("agents.chat.cancel") == [{"session_id": "c"}]


async def test_a_wait_that_is_cancelled_loses_nothing(daemon: ScriptedDaemon, car: Car) -> None:
    daemon.methods["agents.chat"] = accepting()
    async with car.chat("ada", "hi", session_id="c") as chat:
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(chat)
        await say(daemon.peers[0], "c", "done")
        assert (await anext(chat)).kind == "done"


async def test_a_lost_connection_is_said_after_what_was_heard(daemon: ScriptedDaemon, car: Car) -> None:
    daemon.methods["agents.chat"] = accepting(("token", {"delta": "a"}))
    async with car.chat("ada", "hi") as chat:
        await daemon.peers[0].drop()
        await wait_all_tasks_blocked()
        assert (await anext(chat)).kind == "token"
        with pytest.raises(Disconnected, match="before the chat did"):
            await anext(chat)


async def test_a_chat_that_is_read_too_slowly_is_an_error_and_not_a_gap(
    daemon: ScriptedDaemon, car: Car, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_EVENTS", 2)
    daemon.methods["agents.chat"] = accepting(*[("token", {"delta": str(n)}) for n in range(3)])
    async with car.chat("ada", "hi", session_id="c") as chat:
        await wait_all_tasks_blocked()
        assert [(await anext(chat)).fields["delta"] for _ in range(2)] == ["0", "1"]
        with pytest.raises(ChatOverrun, match="'c' was read too slowly"):
            await anext(chat)
    await wait_all_tasks_blocked()
    assert daemon.calls_of("agents.chat.cancel") == [{"session_id": "c"}]


async def test_an_approval_is_answered_and_a_kind_that_is_no_text_does_no_harm(
    daemon: ScriptedDaemon, car: Car
) -> None:
    daemon.methods["agents.chat"] = accepting(({"k": 1}, {}), ("approval_pending", {"approval_id": "x"}))
    daemon.methods["agents.chat.approve"] = lambda peer, params: {
        "resolved": params["decision"] == "approve",
        "session_id": params["session_id"],
    }
    async with car.chat("ada", "hi", session_id="c") as chat:
        assert (await anext(chat)).kind == "{'k': 1}"
        assert (await anext(chat)).fields["approval_id"] == "x"
        assert await chat.approve("x", "approve")
        assert not await chat.approve("x", False)
    assert daemon.calls_of("agents.chat.approve")[0] == {
        "session_id": "c",
        "approval_id": "x",
        "decision": "approve",
    }
