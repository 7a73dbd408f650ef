"""`agents.chat*` and what the agent answers (protocol `host.md` section 4). The rules are in `state/chat.py`."""

from __future__ import annotations

import binascii
from collections.abc import Generator
from functools import partial
from typing import NamedTuple

import msgspec
from msgspec import Raw, Struct

from car_trio.methods.context import Answer, CallbackTimedOut, ChannelClosed, Client, Context
from car_trio.state.chat import Chat, Fields, read_fields
from car_trio.wire.chat import (
    AgentChat,
    ApproveInChat,
    ChatAccepted,
    ChatCancelled,
    ChatResolved,
    ChatSession,
    ImageBase64,
    ImageUrl,
    StartChat,
)
from car_trio.wire.errors import Refusal, invalid_params
from car_trio.wire.frames import ErrorObject

ACK_SECONDS = 5.0
NO = Raw(b"false")


class Opening(NamedTuple):
    """A chat that the agent has still to accept."""

    chat: Chat
    agent: Client
    ask: AgentChat


def admit(context: Context, ask: StartChat) -> Opening:
    check_attachments(ask.attachments or [])
    speaker = context.daemon.attachments.session_of(ask.agent_id)
    chat, request = context.daemon.chats.ask(context.session, ask, speaker)
    return Opening(chat, context.daemon.clients[chat.speaker], request)


async def chat(context: Context, opening: Opening) -> Answer:
    """Asks the agent. Unless it accepts, nothing of the chat is left, also if cancelled."""
    chats, asked = context.daemon.chats, opening.chat
    is_accepted = False
    try:
        reply = await answered(opening.agent, asked.agent_id, "agent.chat", opening.ask)
        is_accepted = said(reply).accepted != NO
    finally:
        if not is_accepted:
            chats.abandon(asked)
    if not is_accepted:
        raise Refusal(f"agent '{asked.agent_id}' refused: it did not accept the chat")
    return Answer(ChatAccepted(True, asked.id), then=partial(chats.accept, asked))


def cancel(context: Context, ask: ChatSession) -> ChatCancelled:
    return ChatCancelled(context.daemon.chats.cancel(context.session, ask.session_id))


class Decision(NamedTuple):
    chat: Chat
    agent: Client
    ask: ApproveInChat


def may_approve(context: Context, ask: ApproveInChat) -> Decision:
    chat = context.daemon.chats.approvable(context.session, ask)
    agent = context.daemon.clients.get(chat.speaker)
    if agent is None:
        raise Refusal(f"agent '{chat.agent_id}' is not attached any more")
    return Decision(chat, agent, ask)


async def approve(_: Context, decision: Decision) -> ChatResolved:
    reply = await answered(decision.agent, decision.chat.agent_id, "agent.chat.approve", decision.ask)
    return ChatResolved(said(reply).resolved != NO, decision.chat.id)


def read_event(_: Context, fields: Fields) -> Generator[None, None, Fields]:
    return read_fields(fields)


def event(context: Context, fields: Fields) -> None:
    context.daemon.chats.event(context.session, fields)


async def answered(agent: Client, agent_id: str, method: str, params: object) -> Raw:
    """The agent's result. Raises Refusal when it answers with an error, not in time, or not at all."""
    try:
        reply = await agent.ask(method, params, ACK_SECONDS)
    except CallbackTimedOut:
        raise Refusal(f"agent '{agent_id}' did not answer '{method}' within {ACK_SECONDS:g} s") from None
    except ChannelClosed:
        raise Refusal(f"agent '{agent_id}' disconnected before it answered '{method}'") from None
    if isinstance(reply, ErrorObject):
        raise Refusal(f"agent '{agent_id}' refused: {reply.message}")
    return reply


class Said(Struct):
    """What an agent's answer may say; whatever else is in it is not read."""

    accepted: Raw = Raw(b"true")
    resolved: Raw = Raw(b"true")


def said(reply: Raw) -> Said:
    """An answer means yes, unless it is an object in which the word is `false`."""
    try:
        return msgspec.json.decode(reply, type=Said)
    except (msgspec.MsgspecError, RecursionError):
        return Said()


def check_attachments(attachments: list[ImageBase64 | ImageUrl]) -> None:
    """Raises Refusal (-32602) for an image that is no base64; the rest is said by the types."""
    for i, attachment in enumerate(attachments):
        if isinstance(attachment, ImageBase64):
            try:
                binascii.a2b_base64(attachment.data, strict_mode=True)
            except ValueError as error:
                raise invalid_params(f"agents.chat: attachments[{i}].data is not base64: {error}") from None
