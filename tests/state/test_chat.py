"""Chats: who speaks, who hears, and that each accepted one ends once (`host.md` section 4)."""

from __future__ import annotations

import math

import msgspec
import pytest
from msgspec import Raw

from car_trio.state import chat as chat_module
from car_trio.state.chat import read_fields
from car_trio.wire.chat import ApproveInChat, StartChat
from car_trio.wire.errors import Refusal
from car_trio.wire.pieces import at_once
from tests.state.hosting import Stage, bound, host, unbound

AGENT = bound("ada")
SCREEN = unbound("screen")


@pytest.fixture
def stage():
    return Stage()


def ask(stage, session=SCREEN, chat_id="c", agent=AGENT):
    return stage.chats.ask(session, StartChat(agent.agent_id, "hi", chat_id), agent.id)[0]


def accepted(stage, session=SCREEN, chat_id="c", agent=AGENT):
    chat = ask(stage, session, chat_id, agent)
    stage.chats.accept(chat)
    return chat


def say(stage, kind: str, session=AGENT, chat_id="c", **fields) -> None:
    event = {"session_id": chat_id, "kind": kind, **fields}
    stage.chats.event(session, {key: Raw(msgspec.json.encode(value)) for key, value in event.items()})


def heard(stage, session=SCREEN) -> list[dict]:
    return [params for to, method, params in stage.told if (to, method) == (session.id, "agents.chat.event")]


def cancels(stage, session=AGENT) -> list[dict]:
    return [params for to, method, params in stage.told if (to, method) == (session.id, "agent.chat.cancel")]


def test_the_agent_is_asked_with_all_that_the_host_said(stage):
    start = StartChat("ada", "hi", None, stream=False, voice_input=True, model="m")
    chat, request = stage.chats.ask(SCREEN, start, AGENT.id)
    assert chat.id == "chat-1"
    assert msgspec.to_builtins(request) == {
        "session_id": "chat-1",
        "prompt": "hi",
        "stream": False,
        "context": {"host_client_id": "screen", "voice_input": True},
        "model": "m",
    }


def test_events_reach_the_host_that_asked_with_the_agents_id_and_nobody_else(stage):
    accepted(stage)
    accepted(stage, unbound("other"), "d")
    say(stage, "token", delta="he", agent_id="mallory")
    say(stage, "something.else", more={"a": [1]})
    assert heard(stage) == [
        {"session_id": "c", "kind": "token", "delta": "he", "agent_id": "ada"},
        {"session_id": "c", "kind": "something.else", "more": {"a": [1]}, "agent_id": "ada"},
    ]
    assert heard(stage, unbound("other")) == []


@pytest.mark.parametrize("kind", ["done", "error"])
def test_done_and_error_end_a_chat_and_what_comes_after_is_dropped_and_counted(stage, kind):
    accepted(stage)
    say(stage, kind)
    say(stage, "token")
    say(stage, "done")
    assert [event["kind"] for event in heard(stage)] == [kind]
    assert stage.counters["chat_events_dropped"] == 2
    assert len(stage.chats) == 0
    accepted(stage)


def test_events_of_another_agent_or_of_an_unknown_chat_are_dropped_and_counted(stage):
    accepted(stage)
    say(stage, "token", bound("eve"))
    say(stage, "token", SCREEN)
    say(stage, "token", chat_id="unknown")
    assert heard(stage) == []
    assert stage.counters["chat_events_dropped"] == 3


def test_an_event_must_name_its_chat_and_its_kind_and_be_readable(stage):
    accepted(stage)
    for fields in ({"kind": Raw(b'"token"')}, {"session_id": Raw(b'"c"'), "kind": Raw(b"5")}):
        with pytest.raises(Refusal, match="must be a string"):
            stage.chats.event(AGENT, fields)
    with pytest.raises(Refusal, match="cannot be read back"):
        at_once(read_fields({"session_id": Raw(b'"c"'), "kind": Raw(b'"token"'), "n": Raw(b"1e999")}))
    assert heard(stage) == []
    fields = {"session_id": Raw(b'"c"'), "n": Raw(b"[1.50]")}
    assert at_once(read_fields(fields)) == fields


def test_what_the_agent_says_before_the_host_has_its_acceptance_follows_it_in_order(stage):
    chat = ask(stage)
    say(stage, "token", delta="1")
    say(stage, "done")
    say(stage, "token", delta="late")
    assert heard(stage) == []
    stage.chats.accept(chat)
    assert [event["kind"] for event in heard(stage)] == ["token", "done"]
    assert len(stage.chats) == 0
    assert stage.counters["chat_events_dropped"] == 1


def test_an_agent_that_says_too_much_before_it_accepts_ends_the_chat(stage, monkeypatch):
    monkeypatch.setattr(chat_module, "MAX_HELD_BYTES", 1000)
    chat = ask(stage)
    for _ in range(3):
        say(stage, "token", delta="x" * 600)
    stage.chats.accept(chat)
    assert [event["kind"] for event in heard(stage)] == ["token", "error"]
    assert "too much" in heard(stage)[-1]["error"]


def test_a_chat_needs_an_attached_agent_a_free_id_and_room(stage):
    with pytest.raises(Refusal, match="agent 'ada' is not attached"):
        stage.chats.ask(SCREEN, StartChat("ada", "hi"), None)
    ask(stage)
    with pytest.raises(Refusal, match="session_id 'c' is in use"):
        ask(stage, unbound("other"))
    for n in range(63):
        ask(stage, chat_id=f"c{n}")
    with pytest.raises(Refusal, match="64 chats"):
        ask(stage, chat_id="one more")
    ask(stage, unbound("other"), "another host's")


def test_of_a_chat_that_is_not_accepted_nothing_is_left(stage):
    stage.chats.abandon(ask(stage))
    assert len(stage.chats) == 0
    assert heard(stage) == []
    assert cancels(stage) == [{"session_id": "c"}]


# Endings


@pytest.mark.parametrize("moment", ["asked", "accepted"])
def test_a_vanished_agent_ends_its_chats_with_an_error_that_says_so(stage, moment):
    chat = ask(stage)
    if moment == "accepted":
        stage.chats.accept(chat)
    stage.chats.leave(AGENT.id)
    stage.chats.leave(AGENT.id)
    if moment == "asked":
        assert heard(stage) == []
        stage.chats.accept(chat)
    error = "agent 'ada' disconnected"
    assert heard(stage) == [{"kind": "error", "session_id": "c", "agent_id": "ada", "error": error}]
    assert len(stage.chats) == 0


@pytest.mark.parametrize("moment", ["asked", "accepted"])
def test_a_vanished_host_takes_its_chats_along_and_the_agent_is_told(stage, moment):
    chat = ask(stage)
    if moment == "accepted":
        stage.chats.accept(chat)
    stage.chats.leave(SCREEN.id)
    assert len(stage.chats) == 0
    assert cancels(stage) == [{"session_id": "c"}]
    say(stage, "done")
    assert stage.counters["chat_events_dropped"] == 1
    assert heard(stage) == []


def test_leaving_touches_no_other_chat(stage):
    accepted(stage)
    stage.chats.leave("somebody else")
    assert len(stage.chats) == 1


def test_ten_minutes_of_silence_end_a_chat_and_every_word_begins_them_anew(stage):
    accepted(stage)
    accepted(stage, chat_id="d")
    ask(stage, chat_id="not accepted yet")
    assert stage.due == 600
    stage.seconds = 599
    say(stage, "token")
    stage.seconds, stage.due = 600, math.inf
    stage.chats.expire(600)
    assert stage.due == 1199
    assert [event["session_id"] for event in heard(stage)] == ["c", "d"]
    assert heard(stage)[-1]["error"] == "agent 'ada' was silent for 10 minutes"
    assert cancels(stage) == [{"session_id": "d"}]
    stage.due = math.inf
    stage.chats.expire(1199)
    assert heard(stage)[-1]["session_id"] == "c"
    assert (len(stage.chats), stage.due) == (1, math.inf)


@pytest.mark.parametrize("who", [SCREEN, host()], ids=["the host that asked", "the host role"])
def test_a_cancelled_chat_ends_with_an_error_for_the_host_that_asked(stage, who):
    accepted(stage)
    assert stage.chats.cancel(who, "c") is True
    assert cancels(stage) == [{"session_id": "c"}]
    assert heard(stage)[-1]["error"] == "the chat was cancelled"
    assert stage.chats.cancel(who, "c") is False
    say(stage, "done")
    assert len(heard(stage)) == 1


def test_a_chat_may_be_cancelled_before_it_is_accepted_and_once(stage):
    chat = ask(stage)
    assert stage.chats.cancel(SCREEN, "c") is True
    assert stage.chats.cancel(SCREEN, "c") is False
    stage.chats.accept(chat)
    assert [event["kind"] for event in heard(stage)] == ["error"]


def test_another_host_may_neither_cancel_nor_decide_in_a_chat(stage):
    accepted(stage)
    other = unbound("other")
    with pytest.raises(Refusal, match="started by another host"):
        stage.chats.cancel(other, "c")
    with pytest.raises(Refusal, match="started by another host"):
        stage.chats.approvable(other, ApproveInChat("c", "a", "approve"))
    assert len(stage.chats) == 1


def test_the_agent_never_decides_about_itself_whatever_its_role(stage):
    agent = bound("ada")
    agent.host = True
    accepted(stage)
    decision = ApproveInChat("c", "a", "approve")
    with pytest.raises(Refusal, match="does not decide"):
        stage.chats.approvable(agent, decision)
    assert stage.chats.approvable(SCREEN, decision) is stage.chats.approvable(host(), decision)
    with pytest.raises(Refusal, match="unknown chat"):
        stage.chats.approvable(SCREEN, ApproveInChat("d", "a", "approve"))


def test_an_id_that_is_used_again_is_another_chat(stage):
    first = ask(stage)
    stage.chats.abandon(first)
    accepted(stage)
    stage.chats.abandon(first)
    assert len(stage.chats) == 1
    assert cancels(stage) == [{"session_id": "c"}]


def test_a_chat_whose_host_went_before_its_acceptance_arrived_is_over_all_the_same(stage):
    chat = ask(stage)
    say(stage, "done")
    stage.chats.leave("screen")
    stage.chats.accept(chat)
    assert len(stage.chats) == 0


def test_the_agent_is_told_once_of_a_chat_whose_host_went_before_it_was_accepted(stage):
    chat = ask(stage)
    stage.chats.leave("screen")
    accepted(stage, unbound("again"))
    stage.chats.abandon(chat)
    assert cancels(stage) == [{"session_id": "c"}]
    assert len(stage.chats) == 1
