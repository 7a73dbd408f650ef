"""Chat between a host and an attached agent (protocol `host.md` section 4).

Only the connection that the session's agent speaks through may speak in a chat, only the host that asked hears it,
and every accepted chat ends with exactly one terminal event: the agent's own, or an `error` of ours that says why.

A chat is first asked, then accepted. The agent may speak before the host has read that it accepted; such events are
held and follow the acceptance. `_finish` is the only way out of the table.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import msgspec
from msgspec import Raw

from car_trio.state.events import readable
from car_trio.state.session import Session
from car_trio.wire.chat import AgentChat, ApproveInChat, ChatContext, ChatFailure, ChatSession, StartChat
from car_trio.wire.errors import Refusal, invalid_params
from car_trio.wire.frames import encode

SILENT_SECONDS = 600.0
MAX_CHATS = 64
"""Of one host connection at a time."""
MAX_HELD_BYTES = 1024 * 1024
TERMINAL = frozenset({"done", "error"})
EVENT = "agents.chat.event"
CANCEL = "agent.chat.cancel"

Fields = dict[str, Raw]


@dataclass(slots=True, eq=False)
class Chat:
    """`host` and `speaker` are connections. `held` is what the agent said before the acceptance was posted."""

    id: str
    agent_id: str
    speaker: str
    host: str
    accepted: bool = False
    over: bool = False
    deadline: float = math.inf
    held: list[tuple[str, Fields | ChatFailure]] = field(
        default_factory=list[tuple[str, Fields | ChatFailure]]
    )
    held_bytes: int = 0


class Chats:
    """The chats under way. `tell(connection, method, params)` queues a notification, to nobody if it is gone;
    `due(at)` asks for `expire` at that time of `clock`."""

    def __init__(
        self,
        *,
        tell: Callable[[str, str, object], None],
        clock: Callable[[], float],
        new_id: Callable[[], str],
        due: Callable[[float], None],
        counters: Counter[str],
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._new_id = new_id
        self._due = due
        self._counters = counters
        self._chats: dict[str, Chat] = {}

    def __len__(self) -> int:
        return len(self._chats)

    # Beginning

    def ask(self, session: Session, ask: StartChat, speaker: str | None) -> tuple[Chat, AgentChat]:
        """A chat with the agent that `speaker` is the connection of, and what to ask it. Raises Refusal."""
        if speaker is None:
            raise Refusal(
                f"agent '{ask.agent_id}' is not attached; it has to connect with session.auth {{agent_id}} first"
            )
        chat_id = ask.session_id or f"chat-{self._new_id()}"
        if chat_id in self._chats:
            raise Refusal(f"session_id '{chat_id}' is in use; leave it out or choose another")
        if sum(chat.host == session.id for chat in self._chats.values()) >= MAX_CHATS:
            raise Refusal(f"this connection has {MAX_CHATS} chats; cancel some first")
        chat = self._chats[chat_id] = Chat(chat_id, ask.agent_id, speaker, session.id)
        context = ChatContext(session.id, ask.voice_input)
        return chat, AgentChat(chat_id, ask.prompt, ask.stream, context, ask.model, ask.attachments)

    def accept(self, chat: Chat) -> None:
        """The host has its acceptance: what was said meanwhile follows it."""
        chat.accepted = True
        self._heard(chat)
        self._due(chat.deadline)
        held, chat.held = chat.held, []
        for kind, event in held:
            self._pass_on(chat, kind, event)

    def abandon(self, chat: Chat) -> None:
        """The chat was not accepted: nothing of it is left, and the agent need not answer any more. It was told so
        already when the chat has left the table, and its id may be another's by now."""
        if self._chats.get(chat.id) is chat:
            self._leave(chat)
            self._tell(chat.speaker, CANCEL, ChatSession(chat.id))

    # Speaking

    def event(self, session: Session, fields: Fields) -> None:
        """`agent.chat.event`, known to be `readable`. What nobody waits for is dropped and counted. Raises Refusal
        (-32602)."""
        chat_id, kind = _text(fields, "session_id"), _text(fields, "kind")
        chat = self._chats.get(chat_id)
        if chat is None or chat.speaker != session.id or chat.over:
            self._counters["chat_events_dropped"] += 1
            return
        self._heard(chat)
        fields["agent_id"] = Raw(encode(chat.agent_id))
        if chat.accepted:
            self._pass_on(chat, kind, fields)
        else:
            self._hold(chat, kind, fields)

    def _heard(self, chat: Chat) -> None:
        chat.deadline = self._clock() + SILENT_SECONDS

    def _hold(self, chat: Chat, kind: str, fields: Fields) -> None:
        chat.held_bytes += sum(len(bytes(value)) for value in fields.values())
        if chat.held_bytes > MAX_HELD_BYTES:
            self._fail(chat, f"agent '{chat.agent_id}' said too much before it accepted the chat")
            return
        chat.held.append((kind, fields))
        chat.over = kind in TERMINAL

    def _pass_on(self, chat: Chat, kind: str, event: Fields | ChatFailure) -> None:
        self._tell(chat.host, EVENT, event)
        if kind in TERMINAL:
            self._leave(chat)

    # Ending

    def _fail(self, chat: Chat, why: str) -> None:
        """Ends a chat in the agent's place, now or when it is accepted."""
        if chat.over:
            return
        failure = ChatFailure(chat.id, chat.agent_id, why)
        if chat.accepted:
            self._pass_on(chat, "error", failure)
        else:
            chat.over = True
            chat.held.append(("error", failure))

    def _leave(self, chat: Chat) -> None:
        chat.over = True
        if self._chats.get(chat.id) is chat:
            del self._chats[chat.id]

    def find(self, session: Session, chat_id: str) -> Chat | None:
        """The chat if it is under way. Raises Refusal unless this connection started it or has the host role."""
        chat = self._chats.get(chat_id)
        if chat is not None and chat.host != session.id and not session.host:
            raise Refusal(f"chat '{chat_id}' was started by another host")
        return chat

    def cancel(self, session: Session, chat_id: str) -> bool:
        """`agents.chat.cancel`: whether there was something to cancel. Raises Refusal."""
        chat = self.find(session, chat_id)
        if chat is None or chat.over:
            return False
        self._tell(chat.speaker, CANCEL, ChatSession(chat_id))
        self._fail(chat, "the chat was cancelled")
        return True

    def approvable(self, session: Session, ask: ApproveInChat) -> Chat:
        """`agents.chat.approve`: the chat in which this connection may decide. Raises Refusal."""
        chat = self.find(session, ask.session_id)
        if chat is None:
            raise Refusal(f"unknown chat '{ask.session_id}'")
        if chat.speaker == session.id:
            raise Refusal(f"chat '{chat.id}': the agent itself does not decide what it may do")
        return chat

    def expire(self, now: float) -> None:
        """Ends chats whose agent was silent for too long, and asks to be called again for the others."""
        for chat in [each for each in self._chats.values() if each.accepted and each.deadline <= now]:
            self._tell(chat.speaker, CANCEL, ChatSession(chat.id))
            self._fail(chat, f"agent '{chat.agent_id}' was silent for {SILENT_SECONDS / 60:.0f} minutes")
        nearest = min((each.deadline for each in self._chats.values() if each.accepted), default=math.inf)
        if nearest < math.inf:
            self._due(nearest)

    def leave(self, session_id: str) -> None:
        """The connection is gone: its chats end, on whichever side it was."""
        for chat in list(self._chats.values()):
            if chat.host == session_id:
                self._leave(chat)
                self._tell(chat.speaker, CANCEL, ChatSession(chat.id))
            elif chat.speaker == session_id:
                self._fail(chat, f"agent '{chat.agent_id}' disconnected")


def read_fields(fields: Fields) -> Generator[None, None, Fields]:
    """The fields of an event, each known to be readable. Raises Refusal (-32602)."""
    read: Fields = {}
    for name, value in fields.items():
        read[name] = yield from readable(f"agent.chat.event: {name}", value, sys.maxsize)
    return read


def _text(fields: Fields, name: str) -> str:
    try:
        return msgspec.json.decode(fields[name], type=str)
    except (KeyError, msgspec.MsgspecError):
        raise invalid_params(f"agent.chat.event: {name} must be a string") from None
