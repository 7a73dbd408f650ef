"""WebSocket frames as bytes (RFC 6455 section 5.2), as far as the socket looks at them itself.

What a frame means is the business of `websockets`. Here is only where one ends, how a short text frame is unmasked,
and how our own text messages are cut into frames.
"""

from __future__ import annotations

from collections.abc import Iterable

from websockets.frames import Opcode

try:
    from websockets.speedups import apply_mask as apply_mask
except ImportError:  # pragma: no cover - a platform for which websockets has no wheel
    from websockets.utils import apply_mask as apply_mask

MAX_FRAME = 1024 * 1024
"""Larger messages leave in fragments: the published clients accept no single frame over 16 MiB."""
FINAL_TEXT = 0x81
FINAL_CLOSE = 0x88
MASKED = 0x80
MASK_BYTES = 4

_SHORT_HEADERS = [bytes((FINAL_TEXT, size)) for size in range(126)]


def payload_of(data: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """Where the payload of the frame at `at` begins and ends; `None` while its header has not come whole."""
    if len(data) < at + 2:
        return None
    begin, size = at + 2, data[at + 1] & 0x7F
    if size >= 126:
        begin += 2 if size == 126 else 8
        size = int.from_bytes(data[at + 2 : begin], "big")
    if data[at + 1] & MASKED:
        begin += MASK_BYTES
    return (begin, begin + size) if len(data) >= begin else None


def text_frames(payload: bytes) -> list[bytes]:
    """A text message as unmasked frames of at most 1 MiB."""
    if len(payload) < 126:
        return [_SHORT_HEADERS[len(payload)], payload]
    if len(payload) <= MAX_FRAME:
        return [_header(Opcode.TEXT, len(payload), fin=True), payload]
    pieces: list[bytes] = []
    for at in range(0, len(payload), MAX_FRAME):
        piece = payload[at : at + MAX_FRAME]
        opcode = Opcode.TEXT if at == 0 else Opcode.CONT
        pieces += [_header(opcode, len(piece), fin=at + MAX_FRAME >= len(payload)), piece]
    return pieces


def packed_frames(payloads: Iterable[bytes]) -> bytes:
    """Text messages as frames, in one piece."""
    return b"".join(piece for payload in payloads for piece in text_frames(payload))


def _header(opcode: Opcode, length: int, *, fin: bool) -> bytes:
    first = opcode | (0x80 if fin else 0)
    if length < 126:
        return bytes((first, length))
    if length < 65_536:
        return bytes((first, 126)) + length.to_bytes(2, "big")
    return bytes((first, 127)) + length.to_bytes(8, "big")
