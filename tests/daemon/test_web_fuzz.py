"""Whatever is sent to the page's port, in whatever pieces: an answer or silence, the end, and nobody else is touched."""

from __future__ import annotations

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair

from car_trio.config import Server
from car_trio.nursery.web import Page

WORDS = [
    b"GET ", b"HEAD ", b"POST ", b"/", b"/rpc", b"/?", b" HTTP/1.1", b" HTTP/1.0", b" HTTP/9.9", b"\r\n", b"\n", b"\r\n\r\n",
    b"Host: 127.0.0.1:9101", b"Host: evil.example", b"Origin: http://127.0.0.1:9101", b"Origin: null",
    b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version: 13", b"Content-Length: 0", b"Content-Length: 5", b"Transfer-Encoding: chunked",
    b"Expect: 100-continue", b"Sec-Fetch-Site: same-origin", b"X: ", b"\x00", b"\xff", b":", b" ", b"a" * 5000,
]  # fmt: skip
PIECES = st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=40)), max_size=30)
WHOLE = [
    b"\r\n".join((line, b"Host: 127.0.0.1:9101", b"Origin: http://127.0.0.1:9101", b"Upgrade: websocket", b"", b""))
    for line in (b"GET /rpc HTTP/1.1", b"GET / HTTP/1.1", b"GET /rpc HTTP/1.0", b"HEAD / HTTP/1.1")
]  # fmt: skip


async def visited(pieces: list[bytes], handed: list[bytes]) -> bytes:
    """All that a visitor is told who sends this."""

    def take(stream: trio.abc.Stream, said: bytes) -> None:
        handed.append(said)
        nursery.start_soon(trio.aclose_forcefully, stream)

    page = Page(Server(), 9101, "ws://127.0.0.1:9100", take)
    ours, theirs = memory_stream_pair()
    told = b""
    async with trio.open_nursery() as nursery:
        page.welcome(nursery, theirs, False)
        for piece in pieces:
            try:
                await ours.send_all(piece)
            except trio.BrokenResourceError:
                break
            await trio.lowlevel.checkpoint()
        while data := await ours.receive_some():
            told += data
        await ours.aclose()
    assert not page._visitors
    return told


@settings(max_examples=300)
@given(PIECES, st.sampled_from([b"", *WHOLE]), st.integers(0, 60))
def test_whatever_is_sent_there_is_at_most_one_answer_and_then_the_end(pieces, whole, cut):
    handed: list[bytes] = []
    sent = [whole[:cut], whole[cut:], *pieces] if cut % 2 else [*pieces, whole]
    clock = MockClock(autojump_threshold=0)
    told = trio.run(visited, [each for each in sent if each], handed, clock=clock)
    if handed:
        assert (told, len(handed)) == (b"", 1)
        assert handed[0].startswith(b"GET /rpc")
        assert handed[0].count(b"\r\nhost: 127.0.0.1:9101\r\n") == 1
    elif told:
        head, _, body = told.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 ")
        assert b"Traceback" not in body
        assert b"HTTP/1.1" not in body
