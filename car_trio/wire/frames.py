"""JSON-RPC 2.0 envelopes as bytes in and bytes out (protocol `wire.md` section 2).

An envelope is decoded once, with everything inside it left as `Raw`; params meet their type in the dispatch. Replies
are joined, not encoded: the id goes back as the bytes it came as, so an integer stays an integer and a string a
string. Sixty-four bits or not, quoted or not is the client's business.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from car_trio.wire.errors import INVALID_REQUEST, PARSE_ERROR, Refusal

MAX_ID_BYTES = 256
"""An id is echoed in every reply and kept while the request runs; a client that needs more is not one."""

DEEPEST_VALUE = 112
"""How deep a value of a client's may nest. The readers of the real clients take 127 levels of a message and drop what
is deeper without a word, and a reply or an event has up to a dozen levels around a value."""

NULL = b"null"
TRUE = Raw(b"true")

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class Frame(Struct):
    """Any JSON-RPC object: a request, a notification (no id), or a reply to a call of ours (no method)."""

    method: str | UnsetType = UNSET
    id: Raw | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class ErrorObject(Struct):
    """The `error` member of a reply, read leniently: a client's tool may leave out anything but the message."""

    message: str
    code: int = 0
    data: Raw = Raw(NULL)

    @property
    def is_terminal(self) -> bool:
        """Whether the client says that trying again is of no use; nothing else of its data is read."""
        try:
            return msgspec.json.decode(self.data, type=_Data).terminal == TRUE
        except (msgspec.MsgspecError, RecursionError):
            return False


class _Data(Struct):
    terminal: Raw = Raw(NULL)


_decode_frame = msgspec.json.Decoder(Frame).decode
_decode_error = msgspec.json.Decoder(ErrorObject).decode
encode = msgspec.json.Encoder(decimal_format="number").encode
"""The one encoder of the wire: compact JSON, keys in the order of the types."""


class Unreadable(Refusal):
    """A message that is not an envelope. `id` is the id to answer to, `null` where it could not be told."""

    def __init__(self, message: str, code: int, reply_id: bytes = NULL) -> None:
        super().__init__(message, code)
        self.reply_id = reply_id


def is_utf8(message: bytes | bytearray) -> bool:
    """`Raw` passes bytes through unread, so the edge is the only place that can promise UTF-8."""
    if message.isascii():
        return True
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True


def parse(message: bytes | bytearray) -> Frame:
    """One text message, known to be UTF-8, as an envelope.

    Raises `Unreadable` for what is not JSON (-32700) and for JSON that is not one request, notification or reply
    (-32600; batches too).
    """
    try:
        frame = _decode_frame(message)
    except msgspec.ValidationError as error:
        raise _not_a_request(message, error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(f"not JSON: {error}", PARSE_ERROR) from None
    except RecursionError:
        raise Unreadable("not a request: nested too deeply", INVALID_REQUEST) from None
    if frame.id is not UNSET and not _is_id(bytes(frame.id)):
        raise Unreadable(
            f"not a request: id must be a string, a number or null of at most {MAX_ID_BYTES} bytes",
            INVALID_REQUEST,
        )
    if frame.method is UNSET and frame.id is UNSET:
        raise Unreadable("not a request: no method", INVALID_REQUEST)
    return frame


def _is_id(raw: bytes) -> bool:
    return len(raw) <= MAX_ID_BYTES and (raw[:1] in b'"-0123456789' or raw == NULL)


class _OnlyId(Struct):
    id: Raw = Raw(NULL)


def _not_a_request(message: bytes | bytearray, error: msgspec.ValidationError) -> Unreadable:
    if message.lstrip()[:1] == b"[":
        return Unreadable(
            "not a request: batches are not supported; send each request as a message", INVALID_REQUEST
        )
    try:
        reply_id = bytes(msgspec.json.decode(message, type=_OnlyId).id)
    except (msgspec.MsgspecError, RecursionError):
        reply_id = NULL
    return Unreadable(f"not a request: {error}", INVALID_REQUEST, reply_id if _is_id(reply_id) else NULL)


def read_error(raw: Raw) -> ErrorObject:
    """The error of a client's reply; one that is not an object is quoted as the message."""
    try:
        error = _decode_error(raw)
        error.data = Raw(bytes(error.data))  # it outlives the message that it came in
        return error
    except (msgspec.MsgspecError, RecursionError):
        return ErrorObject(message=f"malformed error: {bytes(raw)[:200].decode(errors='replace')}")


def result_frame(request_id: bytes, result: bytes) -> bytes:
    """A successful reply; `result` is encoded JSON."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (request_id, result)


def error_frame(request_id: bytes, refusal: Refusal) -> bytes:
    """A refusal as a reply. `data` is left out when there is none."""
    body: dict[str, Any] = {"code": refusal.code, "message": refusal.message}
    if refusal.data is not None:
        body["data"] = refusal.data
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (request_id, encode(body))


def notification(method: str, params: Any) -> bytes:
    """A message of ours that wants no answer."""
    return b'{"jsonrpc":"2.0","method":"%b","params":%b}' % (method.encode(), encode(params))


def request(method: str, request_id: str, params: Any) -> bytes:
    """A call of ours into the client."""
    return b'{"jsonrpc":"2.0","method":"%b","id":"%b","params":%b}' % (
        method.encode(),
        request_id.encode(),
        encode(params),
    )
