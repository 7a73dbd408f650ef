"""A client that may do anything: bytes of a test's own making over a plain socket.

It shares nothing with the libraries that the daemon and the other clients are built on, so it can send what they
refuse to send, and sees what they hide.
"""

from __future__ import annotations

import json
import socket
import struct
from types import TracebackType
from typing import Any, NamedTuple

from tests.process.daemon_process import PATIENCE

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA
NO_CODE = 1005
LOST = 1006
UPGRADE = {
    "Host": "127.0.0.1",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


class Frame(NamedTuple):
    opcode: int
    payload: bytes


class Gone(Exception):
    """The daemon closed or reset the connection."""


def http_request(*more: tuple[str, str], **changed: str | None) -> bytes:
    """An upgrade request. A header given as `None` is left out; `more` are added as they are, doubles too."""
    headers = {name.replace("-", "_"): (name, value) for name, value in UPGRADE.items()}
    for name, value in changed.items():
        headers[name] = (name.replace("_", "-"), value)  # type: ignore[assignment]
    pairs = [pair for pair in headers.values() if pair[1] is not None] + list(more)
    return ("GET / HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in pairs) + "\r\n").encode()


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    masked: bool = True,
    reserved: int = 0,
    length: int | None = None,
) -> bytes:
    """One frame; `length` is what its header claims, by default the truth."""
    claimed = len(payload) if length is None else length
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    mask_bit = 0x80 if masked else 0
    if claimed < 126:
        header = bytes((first, mask_bit | claimed))
    elif claimed < 65_536:
        header = bytes((first, mask_bit | 126)) + claimed.to_bytes(2, "big")
    else:
        header = bytes((first, mask_bit | 127)) + claimed.to_bytes(8, "big")
    # A mask of zeros leaves the payload as it is.
    return header + (bytes(4) if masked else b"") + payload


def text(message: Any) -> bytes:
    """A message in one frame: bytes as they are, anything else as JSON."""
    return frame(TEXT, message if isinstance(message, bytes) else json.dumps(message).encode())


def request(method: str, params: Any = None, request_id: Any = 1) -> bytes:
    return text({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})


class Stream:
    """The daemon's frames out of bytes that come in any pieces; texts in fragments are put together."""

    def __init__(self) -> None:
        self._rest = b""
        self._partial = b""

    def feed(self, data: bytes) -> list[Frame]:
        found, data, at = list[Frame](), self._rest + data, 0
        while (frame := self._frame_at(data, at)) is not None:
            opcode, is_final, begin, at = frame
            payload = data[begin:at]
            if opcode in (TEXT, CONTINUATION):
                self._partial += payload
                if not is_final:
                    continue
                opcode, payload, self._partial = TEXT, self._partial, b""
            found.append(Frame(opcode, payload))
        self._rest = data[at:]
        return found

    @staticmethod
    def _frame_at(data: bytes, at: int) -> tuple[int, bool, int, int] | None:
        """Opcode, whether it is the last fragment, and where the payload begins and ends; None for a part of one."""
        if len(data) < at + 2:
            return None
        length, begin = data[at + 1] & 0x7F, at + 2
        if length > 125:
            begin += 2 if length == 126 else 8
            length = int.from_bytes(data[at + 2 : begin], "big")
        if len(data) < begin + length or len(data) < begin:
            return None
        return data[at] & 0x0F, bool(data[at] & 0x80), begin, begin + length


def frames_in(data: bytes) -> list[Frame]:
    """The whole unmasked frames of which these bytes are."""
    return Stream().feed(data)


class RawPeer:
    """One connection: to a TCP port, or over a socket that is connected already."""

    def __init__(self, where: int | socket.socket) -> None:
        if isinstance(where, int):
            where = socket.create_connection(("127.0.0.1", where), PATIENCE)
        if where.family != socket.AF_UNIX:
            where.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = where
        self._unread = b""

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise Gone from None

    def _read(self) -> bool:
        try:
            data = self.socket.recv(65_536)
        except ConnectionResetError:
            data = b""
        self._unread += data
        return bool(data)

    def _take(self, count: int) -> bytes:
        while len(self._unread) < count:
            if not self._read():
                raise Gone
        taken, self._unread = self._unread[:count], self._unread[count:]
        return taken

    def status(self) -> int:
        """The status of the daemon's answer to an HTTP request, its body left out; 0 when it hangs up without one."""
        while b"\r\n\r\n" not in self._unread:
            if not self._read():
                return 0
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1])

    def ask(self, *more: tuple[str, str], **changed: str | None) -> int:
        self.send(http_request(*more, **changed))
        return self.status()

    def rest(self) -> bytes:
        """All that still comes until the daemon hangs up."""
        while self._read():
            pass
        return self._unread

    def next_frame(self) -> Frame:
        first, second = self._take(2)
        length = second & 0x7F
        if length == 126:
            length = int.from_bytes(self._take(2), "big")
        elif length == 127:
            length = int.from_bytes(self._take(8), "big")
        return Frame(first & 0x0F, self._take(length))

    def reply_bytes(self) -> bytes:
        """The next text, unread; what else comes before it is dropped."""
        while (received := self.next_frame()).opcode != TEXT:
            if received.opcode == CLOSE:
                raise Gone(received.payload)
        return received.payload

    def reply(self) -> dict[str, Any]:
        decoded: dict[str, Any] = json.loads(self.reply_bytes())
        return decoded

    def call(self, method: str, params: Any = None) -> Any:
        self.send(request(method, params))
        return self.reply()

    def close_code(self) -> int:
        """Waits for the daemon to close; the code it gives, 1005 for a close without one, 1006 for none at all."""
        try:
            while (received := self.next_frame()).opcode != CLOSE:
                pass
        except Gone:
            return LOST
        return int.from_bytes(received.payload[:2], "big") if received.payload else NO_CODE

    def reset(self) -> None:
        """Closes with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
