"""A WebSocket client that costs next to nothing: raw sockets, frames masked beforehand, replies counted, not decoded.

It is the same for the daemon and for every baseline, and it shares no code with either, so what a measurement sees
is the server.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

MASK = b"\x37\xfa\x21\x3d"
UPGRADE = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
PATIENCE = 60.0
PROCESS_CLOCK = 2
"""Linux: the clock of another process is its id, inverted, and this."""


def masked(payload: bytes) -> bytes:
    """A whole text message as a client sends it."""
    size = len(payload)
    if size < 126:
        head = bytes((0x81, 0x80 | size))
    elif size < 65_536:
        head = bytes((0x81, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x81, 0x80 | 127)) + size.to_bytes(8, "big")
    key = (MASK * (size // 4 + 1))[:size]
    return head + MASK + (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


def request(method: str, params: Any = None, request_id: int = 1) -> bytes:
    """A request as a frame."""
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}
    return masked(json.dumps(body, separators=(",", ":")).encode())


FINAL = 0x80
"""The first byte of a message's last frame is at least this."""


def frame_end(data: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """Where the payload of the server's frame at `at` begins and ends; `None` when it has not come whole."""
    if len(data) < at + 2:
        return None
    size, begin = data[at + 1], at + 2
    if size == 126:
        begin, size = at + 4, int.from_bytes(data[at + 2 : at + 4], "big")
    elif size == 127:
        begin, size = at + 10, int.from_bytes(data[at + 2 : at + 10], "big")
    return (begin, begin + size) if len(data) >= max(begin + size, begin) else None


class Client:
    """One connection. `call` waits for its reply; `send` and `count` are for floods of frames of equal meaning."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = bytearray()
        self.socket.sendall(UPGRADE.format(port=port).encode())
        while b"\r\n\r\n" not in self.rest:
            self._receive()
        answer, self.rest = self.rest.split(b"\r\n\r\n", 1)
        if b" 101 " not in answer:
            raise ConnectionError(answer.decode())

    def _receive(self) -> None:
        data = self.socket.recv(262_144)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.rest += data

    def authenticate(self, token: str, **more: str) -> Client:
        self.call("session.auth", {"token": token, **more})
        return self

    def send(self, frames: bytes) -> None:
        self.socket.sendall(frames)

    def message(self) -> Any:
        """The next message, decoded. One of more than a MiB comes in several frames."""
        payload, is_whole = b"", False
        while not is_whole:
            while (place := frame_end(self.rest, 0)) is None:
                self._receive()
            is_whole = self.rest[0] >= FINAL
            payload += self.rest[place[0] : place[1]]
            del self.rest[: place[1]]
        return json.loads(payload)

    def call(self, method: str, params: Any = None) -> Any:
        """The result; events that come first are skipped."""
        self.send(request(method, params))
        while "method" in (reply := self.message()):
            pass
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']}")
        return reply["result"]

    def count(self) -> int:
        """How many messages came with the next bytes. They are not looked at."""
        data = self.socket.recv(262_144)
        if not data:
            raise ConnectionError("the server closed the connection")
        if self.rest:
            data = bytes(self.rest) + data
        found = at = 0
        size = len(data)
        while at < size and (place := frame_end(data, at)) is not None:
            found += data[at] >= FINAL
            at = place[1]
        self.rest = bytearray(data[at:])
        return found

    def close(self) -> None:
        self.socket.close()


class Flood(NamedTuple):
    """What a flood did: messages answered, seconds, seconds of processor time that the server took, and with one
    request in flight per client the median of what a request took."""

    answered: int
    seconds: float
    server_seconds: float
    p50: float

    @property
    def rate(self) -> float:
        return self.answered / self.seconds

    @property
    def server_rate(self) -> float:
        """Messages per second of the server's processor time: what the machine's other work disturbs least."""
        return self.answered / self.server_seconds


def processor_seconds(pid: int) -> float:
    """Processor time of a process, threads that have ended included, by the kernel's clock of that process."""
    return time.clock_gettime((~pid << 3) | PROCESS_CLOCK)


def flood(
    clients: list[Client], frames: list[bytes], *, window: int, seconds: float, server: int,
    most: int | None = None,
) -> Flood:  # fmt: skip
    """Every client keeps `window` requests unanswered, for so long or until each has sent `most`."""
    poll = select.epoll()
    by_descriptor = {each.socket.fileno(): (each, frame) for each, frame in zip(clients, frames, strict=True)}
    left = dict.fromkeys(by_descriptor, (most or 1 << 60) - window)
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    cpu = processor_seconds(server)
    begin = time.perf_counter()
    sent: dict[int, float] = {}
    took: list[float] = []
    for descriptor, (client, frame) in by_descriptor.items():
        sent[descriptor] = time.perf_counter()
        client.send(frame * window)
    answered, outstanding, until = 0, window * len(clients), begin + seconds
    while outstanding:
        sending = time.perf_counter() < until
        for descriptor, _ in poll.poll(PATIENCE):
            client, frame = by_descriptor[descriptor]
            found = client.count()
            if found:
                took.append(time.perf_counter() - sent[descriptor])
            answered += found
            outstanding -= found
            again = min(found, left[descriptor]) if sending else 0
            if again:
                left[descriptor] -= again
                outstanding += again
                sent[descriptor] = time.perf_counter()
                client.send(frame * again)
    elapsed = time.perf_counter() - begin
    return Flood(answered, elapsed, max(processor_seconds(server) - cpu, 1e-9), median(took))


def timed(action: Callable[[], Any], count: int) -> list[float]:
    """How long each of `count` calls took, in seconds."""
    took: list[float] = []
    for _ in range(count):
        begin = time.perf_counter()
        action()
        took.append(time.perf_counter() - begin)
    return took
