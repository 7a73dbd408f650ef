"""A WebSocket over any Trio stream (RFC 6455, protocol `wire.md` section 1).

`websockets` decides what is a frame, answers pings and does the handshakes; it neither reads nor writes. This module
owns what it leaves open: time limits, UTF-8 and message assembly; the sending side is in `outbound.py`. The opening
handshake has a protocol object of its own, because the established connection should not carry the HTTP request along.

One task reads (`receive`). Everybody hands over with `post`, which never waits, so a reader never waits for its peer
to read.

Whole short text frames are unpacked here, so that an ordinary small call costs little more than its system calls;
whatever else comes (fragments, control frames, long, malformed ones) goes to the protocol.
"""

from __future__ import annotations

import http
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import trio
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import CONNECTING, OPEN, SERVER, Protocol
from websockets.server import ServerProtocol

from car_trio.nursery.framing import (
    FINAL_CLOSE,
    FINAL_TEXT,
    MASK_BYTES,
    MASKED,
    apply_mask,
    payload_of,
    text_frames,
)
from car_trio.nursery.outbound import Outbound
from car_trio.wire.frames import is_utf8

RECEIVE_BYTES = 65_536
MAX_TAIL = 1024
LINGER_SECONDS = 2.0
"""How long a closed connection is still read, so that the peer gets our last frames instead of a reset."""

REQUEST_END = b"\r\n\r\n"
_quiet = logging.getLogger("car_trio.websocket")
_quiet.setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A handshake answered with an HTTP status instead of an upgrade."""

    status: http.HTTPStatus
    text: str


class Socket:
    """One WebSocket. It reads what comes over the stream; `out` is its sending side."""

    __slots__ = (
        "_early", "_out", "_owed", "_partial", "_protocol", "_raw", "_stream", "_tail", "last_heard",
    )  # fmt: skip  # there is one for each idle connection

    def __init__(
        self, stream: trio.abc.Stream, out: Outbound, *, max_message_bytes: int, early: bytes = b""
    ) -> None:
        """`early` is what has been read of the stream already."""
        self._stream = stream
        self._raw: trio.socket.SocketType | None = getattr(stream, "socket", None)
        self._out = out
        self._protocol = Protocol(SERVER, state=CONNECTING, max_size=max_message_bytes, logger=_quiet)
        self._partial: bytearray | None = None
        self._early: bytes | bytearray = early
        self._tail: bytes | bytearray = b""
        self._owed = 0
        self.last_heard = 0.0

    @property
    def is_open(self) -> bool:
        return self._protocol.state is OPEN and not self._out.dead

    # The opening handshake

    async def handshake(self, judge: Callable[[Request], Rejection | None]) -> bool:
        """Reads the HTTP request and answers it; `True` when the connection is a WebSocket now.

        `judge` sees the request first. The answer is posted, not sent: the writer sends it.
        """
        opening = ServerProtocol(logger=_quiet)
        before = b""
        while not (events := opening.events_received()):
            data, self._early = self._early, b""
            data = data or await self._read_some()
            if not data:
                return False
            # What follows the request already is not HTTP any more.
            found = (before + data).find(REQUEST_END)
            end = len(data) if found < 0 else found + len(REQUEST_END) - len(before)
            before, self._early = (before + data)[-3:], data[end:]
            opening.receive_data(data[:end])
            self._take_writes(opening)
            if opening.eof_sent:
                return False
        request = events[0]
        assert isinstance(request, Request)
        rejection = judge(request)
        response = (
            opening.accept(request) if rejection is None else opening.reject(rejection.status, rejection.text)
        )
        opening.send_response(response)
        self._take_writes(opening)
        self._protocol.state = opening.state
        return opening.state is OPEN

    def allow(self, max_message_bytes: int) -> None:
        """Raises the size of what may come in: the peer has said who it is."""
        self._protocol.max_message_size = max_message_bytes

    # Reading

    async def receive(self) -> list[bytes | bytearray] | None:
        """The text messages that came with the next bytes, perhaps none; `None` when the peer is gone or a close has
        begun. A violation of the protocol, or text that is not UTF-8 (1007), begins a close.

        Until the next call it is the caller's turn, and what is posted in it leaves with that call."""
        self._out.in_turn = False
        self._out.send_now()
        if not self.is_open:
            return None
        messages: list[bytes | bytearray] = []
        data, self._early = self._early, b""
        data = data or await self._read_some()
        if not data:
            self._out.abandon()
            return None
        self._unpack(data, messages)
        if not messages and self._protocol.state is not OPEN:
            return None
        self._out.in_turn = True
        return messages

    def _unpack(self, data: bytes | bytearray, messages: list[bytes | bytearray]) -> None:
        """Takes frame after frame. Whole short text frames are unpacked here, any other is the protocol's.

        Where a frame ends is known before its first byte is handed on, so the protocol never stands in the middle of
        one unnoticed: `_owed` is what it still has to get. What is too little to tell is kept for the next time.
        """
        data, self._tail = (self._tail + data, b"") if self._tail else (data, b"")
        at, end = 0, len(data)
        while at < end and self._protocol.state is OPEN:
            if not self._owed:
                payload = payload_of(data, at)
                if payload is None:
                    self._tail = data[at:]
                    return
                begin, stop = payload
                # A longer frame that comes in pieces is gathered by the protocol, not by copying it at each piece.
                if (stop <= end or stop - at <= MAX_TAIL) and self._is_plain(data, at, stop - begin):
                    if stop > end:
                        self._tail = data[at:]
                        return
                    self._take(apply_mask(data[begin:stop], data[begin - MASK_BYTES : begin]), messages)
                    at = stop
                    continue
                if data[at] == FINAL_CLOSE:
                    self._let_go()
                self._owed = stop - at
            piece = data[at : at + self._owed]
            at += len(piece)
            self._owed -= len(piece)
            self._hand_on(piece, messages)

    def _is_plain(self, data: bytes | bytearray, at: int, size: int) -> bool:
        """Whether the frame is a short message of its own, and nothing is wrong with it."""
        return (
            data[at] == FINAL_TEXT
            and MASKED <= data[at + 1] < MASKED | 127
            and self._partial is None
            and size <= (self._protocol.max_message_size or 0)
        )

    def _let_go(self) -> None:
        """The peer closes, perhaps between the fragments of a message, as it may (RFC 6455 section 5.4): what has come
        of that message is nothing then. The protocol object would call it a violation."""
        self._partial = self._protocol.current_size = None

    def _hand_on(self, piece: bytes | bytearray, messages: list[bytes | bytearray]) -> None:
        self._protocol.receive_data(piece)
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode in _DATA:
                self._assemble(event, messages)
        self._take_writes(self._protocol)

    def _take(self, message: bytes | bytearray, messages: list[bytes | bytearray]) -> None:
        if is_utf8(message):
            messages.append(message)
        else:
            self.close(1007, "text is not UTF-8")

    async def _read_some(self) -> bytes | bytearray:
        try:
            if self._raw is None:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            else:
                came = None
                while came is None:  # waits first: a reader mostly comes before what it reads
                    await trio.lowlevel.wait_readable(self._raw)
                    came = _read(self._raw)
                data = came
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            return b""
        self.last_heard = trio.current_time()
        return data

    def _assemble(self, frame: Frame, messages: list[bytes | bytearray]) -> None:
        if self._protocol.state is not OPEN:
            return
        if frame.opcode is Opcode.BINARY:
            self.close(1003, "send JSON-RPC in text frames")
            return
        if frame.fin and self._partial is None:
            message = frame.data
        else:
            self._partial = bytearray() if self._partial is None else self._partial
            self._partial += frame.data
            if not frame.fin:
                return
            message, self._partial = self._partial, None
        if not isinstance(message, (bytes, bytearray)):
            message = bytes(message)
        self._take(message, messages)

    # Writing

    def post(self, payload: bytes, at_once: bool = False) -> None:
        """Hands over a text message. After the close has begun, or the peer is gone, it is dropped.

        `at_once`: it need not wait for others of this turn of the loop; see `Outbound.add`."""
        if self._protocol.state is OPEN:
            self._out.add(text_frames(payload), at_once=at_once)

    def post_frames(self, frames: bytes) -> None:
        """As `post`, of messages that are frames already (`packed_frames`) because many get them. Others may go first:
        whoever wrote what so many watch waits for his reply."""
        if self._protocol.state is OPEN:
            self._out.add((frames,), can_wait=True)

    def ping(self) -> None:
        if self.is_open:
            self._protocol.send_ping(b"")
            self._take_writes(self._protocol)

    def close(self, code: int, reason: str) -> None:
        """Begins the close: what was posted before is still sent, nothing after it is."""
        if self.is_open:
            self._protocol.send_close(code, reason)
            self._take_writes(self._protocol)

    def _take_writes(self, protocol: Protocol) -> None:
        if pieces := [data for data in protocol.data_to_send() if data]:
            self._out.add(pieces)

    async def linger(self) -> None:
        """After our close: reads and drops until the peer is gone too, at most two seconds.

        Closing a TCP socket with unread bytes resets it, which would take our last frames away from the peer.
        """
        with trio.move_on_after(LINGER_SECONDS):
            while await self._read_some():
                pass


def _read(raw: trio.socket.SocketType) -> bytes | None:
    """What has come, `b""` at the end; `None` when nothing has."""
    try:
        return os.read(raw.fileno(), RECEIVE_BYTES)
    except BlockingIOError:
        return None


_DATA = {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}
