"""Refusals: every way in which the daemon says no, as JSON-RPC error codes (protocol `wire.md` section 2).

A rule anywhere in the program raises `Refusal` with a message that says what was refused, which object, why and
what to do next. One place, the connection's dispatch, turns it into a frame. Nothing else builds error frames.
"""

from __future__ import annotations

from typing import Any

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
REFUSED = -32603
"""Ordinary refusals; the original protocol has no finer code, so clients know them by their message."""
NOT_AUTHENTICATED = -32001
GATE_DENIED = -32003
DEADLINE_EXCEEDED = -32004
HANDSHAKE_REQUIRED = -32005
VERSION_MISMATCH = -32006
MISSING_CAPABILITY = -32008
TOO_MANY_REQUESTS = -32010
STORAGE_DEGRADED = -32011


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not a defect
    """An answer that says no. `code` is a JSON-RPC error code, `data` any JSON value for programs."""

    def __init__(self, message: str, code: int = REFUSED, data: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.data = data


def invalid_params(message: str, data: Any = None) -> Refusal:
    """Params of a wrong shape or beyond a limit: name the field and what was expected."""
    return Refusal(message, INVALID_PARAMS, data)


def storage_degraded(why: str, *, pending: bool) -> Refusal:
    """The store cannot write now.

    `pending=False`: refused, never written, send it again later. `pending=True`: accepted before the trouble, kept
    in memory, written when the store heals; sending it again would record it twice.
    """
    advice = (
        "kept in memory and written when the store heals; do not send it again"
        if pending
        else "send it again later"
    )
    return Refusal(f"storage degraded: {why}; {advice}", STORAGE_DEGRADED, {"pending": pending})
