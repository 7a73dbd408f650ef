"""The rules of RFC 6455 in a table, in the groups in which fuzzers publish them (Autobahn's 1 to 10).

The daemon's WebSocket says back what it hears (`torture.echo`); the client is bare bytes. Each row is what is sent and
what must come back: texts, pongs, and the code of the close, after which nothing comes. Of group 9 (limits) only sizes
are here; compression (12, 13) is never offered.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.process.daemon_process import PATIENCE
from tests.process.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    frame,
    frames_in,
    http_request,
    text,
)
from torture.echo import echo

HELLO = "Hello-µ@ßöäüàá-UTF-8!!".encode()


def echoed(*payloads: bytes) -> list[Frame]:
    return [Frame(TEXT, payload) for payload in payloads]


def ponged(*payloads: bytes) -> list[Frame]:
    return [Frame(PONG, payload) for payload in payloads]


def closed(code: int) -> list[Frame]:
    return [Frame(CLOSE, code.to_bytes(2, "big"))]


def pieces(payload: bytes, size: int, between: bytes = b"") -> bytes:
    """A text message in fragments of this size, with something between them."""
    parts = [payload[at : at + size] for at in range(0, len(payload), size)]
    return between.join(
        frame(TEXT if i == 0 else CONTINUATION, part, fin=i == len(parts) - 1) for i, part in enumerate(parts)
    )


Rows = dict[str, tuple[bytes | tuple[bytes, ...], list[Frame]]]
"""What is sent: in one go, or one after the other, when what comes first must have been answered before."""
SIZES = [0, 125, 126, 127, 128, 65_535, 65_536]

FRAMING: Rows = {
    **{f"1.1 a text of {size}": (text(b"*" * size), echoed(b"*" * size)) for size in SIZES},
    **{f"1.2 binary of {size}": (frame(BINARY, b"\xfe" * size), closed(1003)) for size in SIZES},
}
PINGS: Rows = {
    "2.1 without a payload": (frame(PING), ponged(b"")),
    "2.2 with a text": (frame(PING, b"Hello"), ponged(b"Hello")),
    "2.3 with bytes": (frame(PING, b"\0\xff\xfe\xfd"), ponged(b"\0\xff\xfe\xfd")),
    "2.4 of 125 bytes": (frame(PING, b"\xfe" * 125), ponged(b"\xfe" * 125)),
    "2.5 of 126 bytes": (frame(PING, b"\xfe" * 126), closed(1002)),
    "2.7 a pong that nobody asked for": (frame(PONG), []),
    "2.8 such a pong with a payload": (frame(PONG, b"p"), []),
    "2.9 such a pong, then a ping": (frame(PONG, b"p") + frame(PING, b"q"), ponged(b"q")),
    "2.10 ten": (b"".join(frame(PING, b"%d" % n) for n in range(10)), ponged(*(b"%d" % n for n in range(10)))),
}  # fmt: skip
RESERVED: Rows = {
    f"3.{bits} reserved bits {bits} in {kind}": (
        (text(b"a"), frame(opcode, payload, reserved=bits) + frame(PING)),
        echoed(b"a") + closed(1002),
    )
    for bits in range(1, 8)
    for kind, opcode, payload in [("text", TEXT, b"b"), ("binary", BINARY, b"b"), ("ping", PING, b""), ("close", CLOSE, b"")]
}  # fmt: skip
OPCODES: Rows = {
    f"4 opcode {opcode} with {len(payload)} bytes": (
        (text(b"a"), frame(opcode, payload) + frame(PING)),
        echoed(b"a") + closed(1002),
    )
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    for payload in (b"", b"reserved opcode payload")
}
FRAGMENTS: Rows = {
    "5.1 a ping in two": (frame(PING, b"a", fin=False) + frame(CONTINUATION, b"b"), closed(1002)),
    "5.2 a pong in two": (frame(PONG, b"a", fin=False) + frame(CONTINUATION, b"b"), closed(1002)),
    "5.3 a text in two": (pieces(b"fragment1fragment2", 9), echoed(b"fragment1fragment2")),
    "5.6 a ping between": (pieces(b"ab", 1, frame(PING, b"p")), ponged(b"p") + echoed(b"ab")),
    "5.9 the end of nothing": (frame(CONTINUATION, b"a") + text(b"b"), closed(1002)),
    "5.12 the middle of nothing": (frame(CONTINUATION, b"a", fin=False) + text(b"b"), closed(1002)),
    "5.15 a middle after the end": (
        (pieces(b"ab", 1), frame(CONTINUATION, b"c", fin=False) + text(b"d")),
        echoed(b"ab") + closed(1002),
    ),
    "5.16 the middle of nothing, again and again": (
        (frame(CONTINUATION, b"a", fin=False) + pieces(b"bc", 1)) * 2,
        closed(1002),
    ),
    "5.18 a text in a text": (frame(TEXT, b"a", fin=False) + text(b"b"), closed(1002)),
    "5.19 pings between five fragments": (
        pieces(b"abcde", 1, frame(PING, b"p")),
        ponged(*[b"p"] * 4) + echoed(b"abcde"),
    ),
    "5.20 empty fragments": (
        frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) + frame(CONTINUATION),
        echoed(b""),
    ),
}

VALID = [
    "κόσμε", "\0", "\x80", "ࠀ", "\U00010000", "\x7f", "\u07ff", "\uffff", "\ud7ff", "\ue000", "\ufffd", "\U0010ffff",
    "\ufffe", "\U0001fffe", "\U0002ffff", "\U0010fffe",
]  # fmt: skip
INVALID = [
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited", b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80",
    b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf", b"\xf4\x90\x80\x80", b"\x80", b"\xbf",
    b"\x80\xbf", b"\x80\xbf\x80\xbf\x80\xbf", b"\xc0 \xc1 \xdf ", b"\xe0 \xef ", b"\xf0 \xf7 ", b"\xc0", b"\xe0\x80",
    b"\xf0\x80\x80", b"\xdf", b"\xef\xbf", b"\xf7\xbf\xbf", b"\xfe", b"\xff", b"\xfe\xfe\xff\xff", b"\xc0\xaf",
    b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xc0\x80", b"\xe0\x80\x80",
    b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xaf\xbf", b"\xed\xb0\x80", b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80", b"\xed\xaf\xbf\xed\xbf\xbf",
]  # fmt: skip
UTF8: Rows = {
    "6.1 nothing in three": (frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) + frame(CONTINUATION, b"x"), echoed(b"x")),
    "6.2.1 in one": (text(HELLO), echoed(HELLO)),
    "6.2.2 in two, within a character": (pieces(HELLO, 7), echoed(HELLO)),
    "6.2.3 in single bytes": (pieces(HELLO, 1), echoed(HELLO)),
    **{f"6.5 {value!a}": (text(value.encode()), echoed(value.encode())) for value in VALID},
    **{f"6.6 {value!a} in bytes": (pieces(value.encode(), 1), echoed(value.encode())) for value in VALID},
    **{f"6.8 {value.hex()}": ((text(b"a"), text(value) + frame(PING)), echoed(b"a") + closed(1007)) for value in INVALID},
    **{f"6.9 {value.hex()} in bytes": (pieces(value + b"!", 1) + frame(PING), closed(1007)) for value in INVALID},
}  # fmt: skip
TOOK_LEAVE = closed(1000)
LEAVE = frame(CLOSE, TOOK_LEAVE[0].payload)
CLOSES: Rows = {
    "7.1.1 after a text": ((text(b"a"), LEAVE), echoed(b"a") + TOOK_LEAVE),
    "7.1.2 twice": (LEAVE * 2, TOOK_LEAVE),
    "7.1.3 then a ping": (LEAVE + frame(PING), TOOK_LEAVE),
    "7.1.4 then a text": (LEAVE + text(b"a"), TOOK_LEAVE),
    "7.1.5 between fragments": (
        frame(TEXT, b"a", fin=False) + LEAVE + frame(CONTINUATION, b"b"),
        TOOK_LEAVE,
    ),
    "7.1.6 after a large text": ((text(b"*" * 262_144), LEAVE), echoed(b"*" * 262_144) + TOOK_LEAVE),
    "7.3.1 without a code": (frame(CLOSE), [Frame(CLOSE, b"")]),
    "7.3.2 half a code": (frame(CLOSE, b"\x03"), closed(1002)),
    "7.3.4 with a reason": (frame(CLOSE, b"\x03\xe8Hello"), closed(1000)),
    "7.3.5 with the longest reason": (frame(CLOSE, b"\x03\xe8" + b"*" * 123), closed(1000)),
    "7.3.6 with a longer reason": (frame(CLOSE, b"\x03\xe8" + b"*" * 124), closed(1002)),
    "7.5.1 with a reason that is not UTF-8": (frame(CLOSE, b"\x03\xe8\xce\xba\xed\xa0\x80"), closed(1007)),
    **{
        f"7.7 with {code}": (frame(CLOSE, code.to_bytes(2, "big")), closed(code))
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
    },
    **{
        f"7.9 with {code}, which nobody may send": (frame(CLOSE, code.to_bytes(2, "big")), closed(1002))
        for code in (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535)
    },
}
LIMITS: Rows = {
    **{f"9.1 a text of {kib} KiB": (text(b"*" * kib * 1024), echoed(b"*" * kib * 1024)) for kib in (64, 256, 1024)},
    **{f"9.3 256 KiB in fragments of {size}": (pieces(b"*" * 262_144, size), echoed(b"*" * 262_144)) for size in (64, 1024, 65_536)},
    "10.1 64 KiB in fragments of 1300": (pieces(b"*" * 65_536, 1300), echoed(b"*" * 65_536)),
}  # fmt: skip

ROWS = FRAMING | PINGS | RESERVED | OPCODES | FRAGMENTS | UTF8 | CLOSES | LIMITS


def parts(row: str) -> tuple[bytes, ...]:
    sent = ROWS[row][0]
    return (sent,) if isinstance(sent, bytes) else sent


async def answer_to(*sent: bytes) -> list[Frame]:
    """What comes back when this is sent, until the echo waits or has closed; of a close only the code."""
    ours, theirs = trio.socket.socketpair()
    client = trio.SocketStream(theirs)
    heard = bytearray()

    async def listen() -> None:
        async for came in client:
            heard.extend(came)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo, trio.SocketStream(ours))
            nursery.start_soon(listen)
            for part in (http_request(), *sent):
                await client.send_all(part)
                await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    theirs.close()
    found = frames_in(bytes(heard).partition(b"\r\n\r\n")[2])
    return [Frame(CLOSE, each.payload[:2]) if each.opcode == CLOSE else each for each in found]


@pytest.mark.parametrize("row", ROWS)
async def test_what_comes_back_is_what_the_rfc_says(row: str) -> None:
    assert await answer_to(*parts(row)) == ROWS[row][1]


@pytest.mark.parametrize("row", [row for row in ROWS if len(b"".join(parts(row))) <= 400])
async def test_it_is_the_same_byte_by_byte(row: str) -> None:
    assert await answer_to(*(bytes((octet,)) for octet in b"".join(parts(row)))) == ROWS[row][1]
