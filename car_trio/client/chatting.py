"""A chat with an attached agent (protocol `host.md` section 4): one prompt, and what the agent says to it.

The chat's id is chosen here, so that its feed is there before the daemon can send the first event. A chat lives
on one connection and dies with it; nothing of it is kept that could be asked for again, so an overflow and a
lost connection are errors. Leaving the block before the last event cancels the chat, by a notification: leaving
never waits.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio
from msgspec import Struct

from car_trio.client.errors import CallRefused, ChatOverrun, Disconnected
from car_trio.client.feed import Feed, Topic
from car_trio.client.link import Link
from car_trio.wire import frames
from car_trio.wire.chat import ApproveInChat, ChatAccepted, ChatResolved, ChatSession, StartChat
from car_trio.wire.errors import REFUSED

LAST = ("done", "error")


def topic_of(session_id: str) -> Topic:
    return Topic("agents.chat.event", session_id)


class ChatEvent(Struct):
    """What the agent said: `token {delta}`, `tool_call {tool, params}`, `approval_pending {approval_id, action,
    details}`, `done {finish_reason, text?}`, `error {error}`, or a kind of its own. Nobody has checked the
    fields: an agent may leave out any of them or say something else in its place."""

    kind: str
    fields: dict[str, Any]

    @property
    def is_last(self) -> bool:
        return self.kind in LAST


class Chat:
    """An async iterator over the events of one chat, ending after the last. A wait that is cancelled loses
    nothing."""

    def __init__(self, link: Link, agent_id: str, session_id: str) -> None:
        self.agent_id = agent_id
        self.session_id = session_id
        self.is_over = False
        self.was_refused = False
        """The daemon knows nothing of it; the id may be that of another chat."""
        self._link = link
        self._feed: Feed[dict[str, Any]] = link.attach(topic_of(session_id))

    def __aiter__(self) -> Chat:
        return self

    async def __anext__(self) -> ChatEvent:
        """The next event. Raises `Disconnected` when the connection ends before the chat, and `ChatOverrun`."""
        await trio.lowlevel.checkpoint()
        if self.is_over:
            raise StopAsyncIteration
        while (event := self._feed.take()) is None:
            if self._feed.behind:
                raise ChatOverrun(self.session_id)
            if self._link.gone.is_set():
                raise Disconnected(f"the connection ended before the chat did: {self._link.why}")
            await self._feed.wait()
        said = ChatEvent(str(event.get("kind")), event)
        self.is_over = said.is_last
        return said

    async def approve(self, approval_id: str, decision: str | bool) -> bool:
        """Answers an `approval_pending`; whether the agent took the answer. Raises `CallRefused`."""
        ask = ApproveInChat(self.session_id, approval_id, decision)
        reply = await self._link.call("agents.chat.approve", ask)
        return msgspec.json.decode(reply, type=ChatResolved).resolved

    def close(self) -> None:
        """Gives up what was not heard yet. Waits for nothing, so it works while being cancelled."""
        if self._link.detach(self._feed) and not (self.is_over or self.was_refused):
            self._link.post(frames.notification("agents.chat.cancel", ChatSession(self.session_id)))


@asynccontextmanager
async def conversation(link: Link, ask: StartChat) -> AsyncGenerator[Chat]:
    """Begins a chat, and leaves it."""
    ask = msgspec.structs.replace(ask, session_id=ask.session_id or f"chat-{uuid.uuid4()}")
    if link.is_attached(topic_of(str(ask.session_id))):
        raise CallRefused(
            REFUSED,
            f"session_id '{ask.session_id}' is in use on this connection; leave it out or choose another",
        )
    chat = Chat(link, ask.agent_id, str(ask.session_id))
    try:
        try:
            reply = await link.call("agents.chat", ask)
        except CallRefused:
            chat.was_refused = True
            raise
        msgspec.json.decode(reply, type=ChatAccepted)
        yield chat
    finally:
        chat.close()
