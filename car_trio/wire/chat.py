"""Chat between a host and an attached agent (protocol `host.md` section 4)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct

SessionId = Annotated[str, Meta(min_length=1, max_length=256)]
ChatEvent = Annotated[dict[str, Raw], Meta(max_length=256)]
"""`agent.chat.event`: `session_id`, `kind`, and what belongs to the kind."""


class ImageBase64(Struct, tag_field="type", tag="image_base64"):
    data: str
    media_type: Literal["image/png", "image/jpeg", "image/gif", "image/webp"]


class ImageUrl(Struct, tag_field="type", tag="image_url"):
    url: Annotated[str, Meta(pattern="^https?://[^\\s]+$")]


Attachments = Annotated[list[ImageBase64 | ImageUrl], Meta(max_length=1000)]


class StartChat(Struct, omit_defaults=True):
    """`agents.chat`."""

    agent_id: str
    prompt: str
    session_id: SessionId | None = None
    stream: bool = True
    voice_input: bool = False
    model: str | None = None
    attachments: Attachments | None = None


class ChatAccepted(Struct):
    accepted: Literal[True]
    session_id: str


class ChatContext(Struct):
    host_client_id: str
    voice_input: bool


class AgentChat(Struct, omit_defaults=True):
    """Params of our request `agent.chat`."""

    session_id: str
    prompt: str
    stream: bool
    context: ChatContext
    model: str | None = None
    attachments: Attachments | None = None


class ChatSession(Struct):
    """`agents.chat.cancel`, and our notification `agent.chat.cancel`."""

    session_id: str


class ChatCancelled(Struct):
    cancelled: bool


class ApproveInChat(Struct):
    """`agents.chat.approve`, and our request `agent.chat.approve`."""

    session_id: str
    approval_id: str
    decision: str | bool


class ChatResolved(Struct):
    resolved: bool
    session_id: str


class ChatFailure(Struct, tag_field="kind", tag="error"):
    """Our own terminal event: the chat ends and the agent is not the one who says so."""

    session_id: str
    agent_id: str
    error: str
