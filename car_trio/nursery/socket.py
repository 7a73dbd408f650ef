"""A WebSocket over any Trio stream (RFC 6455, protocol `wire.md` section 1).

`websockets` decides what is a frame, answers pings and does the handshakes; it neither reads nor writes. This module
owns what it leaves open: time limits, UTF-8, message assembly and the sending side. The opening handshake has a
protocol object of its own, because the established connection should not carry the HTTP request along.

One task reads (`receive`), one task writes (`write`). Everybody else hands over with `post`, which never waits: the
frame joins the out-buffer, and the writer sends all that gathered in one call per turn of the loop. So no cancelled
task can leave half a frame behind, and a reader never waits for its peer to read.

Two shorter ways serve the ordinary small call, which costs little more than its system calls then. Whole short text
frames are unpacked here; whatever else comes (fragments, control frames, long, malformed ones) goes to the protocol.
And what the reader's own turn, or a flush of the journal, has posted is offered to the kernel at the end of that
stretch, in one attempt that does not wait; what the kernel does not take is the writer's. Both hold for a real socket;
other streams (tests) take the long way out.

Two limits bound the buffer. Above `SOFT_LIMIT` producers of streams wait in `drained()`. Above `HARD_LIMIT`, or when
the peer accepts nothing for `stall_seconds`, the connection is cut: memory is not lent to those who do not read.
"""

from __future__ import annotations

import http
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import trio
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import CONNECTING, OPEN, SERVER, Protocol
from websockets.server import ServerProtocol

from car_trio.nursery.framing import FINAL_TEXT, MASK_BYTES, MASKED, apply_mask, payload_of, text_frames
from car_trio.nursery.together import TOGETHER
from car_trio.wire.frames import is_utf8

RECEIVE_BYTES = 65_536
MAX_TAIL = 1024
SOFT_LIMIT = 1024 * 1024
HARD_LIMIT = 64 * 1024 * 1024
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
    """One WebSocket. `cut` ends the connection's tasks at once; it is the connection's, and is called from `post`."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        max_message_bytes: int,
        stall_seconds: float,
        cut: Callable[[str], None],
        early: bytes = b"",
    ) -> None:
        """`early` is what has been read of the stream already."""
        self._stream = stream
        self._raw: trio.socket.SocketType | None = getattr(stream, "socket", None)
        self._protocol = Protocol(SERVER, state=CONNECTING, max_size=max_message_bytes, logger=_quiet)
        self._stall_seconds = stall_seconds
        self._cut = cut
        self._partial: bytearray | None = None
        self._early: bytes | bytearray = early
        self._tail: bytes | bytearray = b""
        self._owed = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._finished = False
        self._dead = False
        self._in_turn = False
        self._sending = False
        self._writer = trio.lowlevel.ParkingLot()
        self._waiting = trio.lowlevel.ParkingLot()
        self.last_heard = 0.0

    @property
    def is_open(self) -> bool:
        return self._protocol.state is OPEN and not self._dead

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
        self._end_turn()
        if not self.is_open:
            return None
        messages: list[bytes | bytearray] = []
        data, self._early = self._early, b""
        data = data or await self._read_some()
        if not data:
            self._abandon()
            return None
        self._unpack(data, messages)
        if not messages and self._protocol.state is not OPEN:
            return None
        self._in_turn = True
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
                data = await _received(self._raw)
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

    def post(self, payload: bytes) -> None:
        """Hands over a text message. After the close has begun, or the peer is gone, it is dropped."""
        if self._dead or self._protocol.state is not OPEN:
            return
        self._append(text_frames(payload))

    def ping(self) -> None:
        if self.is_open:
            self._protocol.send_ping(b"")
            self._take_writes(self._protocol)

    def close(self, code: int, reason: str) -> None:
        """Begins the close: what was posted before is still sent, nothing after it is."""
        if self.is_open:
            self._protocol.send_close(code, reason)
            self._take_writes(self._protocol)

    def finish(self) -> None:
        """No more will be posted: the writer ends when everything is sent."""
        self._finished = True
        self._writer.unpark()

    def _take_writes(self, protocol: Protocol) -> None:
        self._append([data for data in protocol.data_to_send() if data])

    def _append(self, frames: list[bytes]) -> None:
        if not frames or self._dead:
            return
        if self._out_bytes > HARD_LIMIT:
            why = f"{self._out_bytes} bytes wait for a peer that does not read them"
            self._abandon()
            self._cut(why)
            return
        if not (self._out or self._in_turn or TOGETHER.takes(self)):
            self._writer.unpark()
        self._out += frames
        for frame in frames:
            self._out_bytes += len(frame)

    def _end_turn(self) -> None:
        """The reader is about to wait: what it posted goes out."""
        self._in_turn = False
        self.send_now()

    def send_now(self) -> None:
        """Offers what is posted to the kernel, as far as that takes it at once.

        Not while the writer is in the middle of something, and never more than one attempt: the rest is the writer's.
        """
        if not self._out:
            return
        if self._raw is None or self._sending:
            self._writer.unpark()
            return
        pending = b"".join(self._out)
        try:
            sent = os.write(self._raw.fileno(), pending)
        except OSError:
            sent = 0  # full, or gone, which the writer finds out by itself
        self._out = [pending[sent:]] if sent < len(pending) else []
        self._sent(sent)
        if self._out:
            self._writer.unpark()

    def _abandon(self) -> None:
        """Nothing reaches the peer any more: what waits for it is dropped, who waits for room goes on."""
        self._dead = True
        self._out.clear()
        self._out_bytes = 0
        self._writer.unpark()
        self._waiting.unpark_all()

    @property
    def is_drained(self) -> bool:
        return self._out_bytes <= SOFT_LIMIT

    async def drained(self) -> None:
        """Waits until at most 1 MiB is on its way. Always a checkpoint."""
        if self.is_drained:
            await trio.lowlevel.checkpoint()
        while not self.is_drained:
            await self._waiting.park()

    async def write(self) -> None:
        """Sends what is posted, until `finish`; then says goodbye. Ends early when the peer is gone or stalls."""
        try:
            while self._out or not (self._finished or self._dead):
                if not self._out:
                    await self._writer.park()
                    continue
                pending, self._out = b"".join(self._out), []
                self._sending = True
                await self._send(pending)
                self._sending = False
            if not self._dead and isinstance(self._stream, trio.abc.HalfCloseableStream):
                await self._stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            # The reader learns it by itself, and has perhaps still something to read.
            self._abandon()
        except trio.TooSlowError:
            self._abandon()
            self._cut(f"the peer accepted nothing for {self._stall_seconds:g} s")

    async def _send(self, pending: bytes) -> None:
        """Sends all of it. A peer that reads slowly is fine, one that reads nothing is not: progress is measured."""
        if self._raw is None:
            with trio.fail_after(self._stall_seconds):
                await self._stream.send_all(pending)
            self._sent(len(pending))
            return
        at = 0
        with memoryview(pending) as view:
            while True:
                with suppress(BlockingIOError):
                    sent = os.write(self._raw.fileno(), view[at:])
                    at += sent
                    self._sent(sent)
                if at == len(pending):
                    return
                with trio.fail_after(self._stall_seconds):
                    await trio.lowlevel.wait_writable(self._raw)

    def _sent(self, count: int) -> None:
        self._out_bytes = max(0, self._out_bytes - count)
        if self._waiting and self.is_drained:
            self._waiting.unpark_all()

    async def linger(self) -> None:
        """After our close: reads and drops until the peer is gone too, at most two seconds.

        Closing a TCP socket with unread bytes resets it, which would take our last frames away from the peer.
        """
        with trio.move_on_after(LINGER_SECONDS):
            while await self._read_some():
                pass


async def _received(raw: trio.socket.SocketType) -> bytes:
    """The next bytes of a socket, `b""` at its end. Waits first: a reader mostly comes before what it reads."""
    while True:
        await trio.lowlevel.wait_readable(raw)
        try:
            return os.read(raw.fileno(), RECEIVE_BYTES)
        except BlockingIOError:
            continue


_DATA = {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}
