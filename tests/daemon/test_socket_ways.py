"""The socket's short ways are invisible: whatever came by them would have come by the long way too."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from car_trio.nursery import outbound
from car_trio.nursery.framing import packed_frames, text_frames
from car_trio.nursery.outbound import Outbound
from car_trio.nursery.socket import Socket
from car_trio.nursery.together import Together
from tests.process.daemon_process import PATIENCE

LIMIT = 300_000
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Wire:
    """A socket of the daemon and the bare other end of its stream."""

    def __init__(self, ours: trio.abc.Stream, theirs: trio.abc.Stream, nursery: trio.Nursery) -> None:
        self.theirs = theirs
        self.cuts: list[str] = []
        self.together = Together()
        nursery.start_soon(self.together.deliver)
        self.out = Outbound(
            ours, stall_seconds=30, together=self.together, cut=self.cuts.append, spawn=nursery.start_soon
        )
        self.socket = Socket(ours, self.out, max_message_bytes=LIMIT)

    async def shake_hands(self, request: bytes = REQUEST) -> None:
        await self.theirs.send_all(request)
        assert await self.socket.handshake(lambda _: None)

    async def received(self, count: int) -> list[bytes]:
        messages: list[bytes] = []
        with trio.fail_after(PATIENCE):
            while len(messages) < count:
                came = await self.socket.receive()
                assert came is not None
                messages += map(bytes, came)
        return messages


async def real_pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    ours, theirs = trio.socket.socketpair()
    return trio.SocketStream(ours), trio.SocketStream(theirs)


async def memory_pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    return memory_stream_pair()


@asynccontextmanager
async def wire(pair: Callable[..., object] = real_pair) -> AsyncGenerator[Wire]:
    ours, theirs = await pair()  # type: ignore[misc]
    async with trio.open_nursery() as nursery:
        yield Wire(ours, theirs, nursery)
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(ours)
    await trio.aclose_forcefully(theirs)


def frame(payload: bytes, opcode: Opcode = Opcode.TEXT, *, fin: bool = True, mask: bool = True) -> bytes:
    return Frame(opcode, payload, fin=fin).serialize(mask=mask)


async def close_code(connected: Wire) -> int:
    """The code with which the daemon's side closed."""
    while await connected.socket.receive() is not None:
        pass
    client = ClientProtocol(parse_uri("ws://localhost/"), max_size=None)
    client.state = OPEN
    client.parser = super(ClientProtocol, client).parse()
    next(client.parser)
    said = b""
    with trio.fail_after(PATIENCE):
        while b"\r\n\r\n" not in said or client.close_rcvd is None:
            came = bytes(await connected.theirs.receive_some())  # type: ignore[attr-defined]
            before, said = said, said + came
            if b"\r\n\r\n" in said:
                at = said.index(b"\r\n\r\n") + 4
                client.receive_data(said[max(at, len(before)) :])
    assert client.close_rcvd is not None
    return client.close_rcvd.code


def a_mixture() -> tuple[bytes, list[bytes]]:
    """Messages of every kind of frame, and what a reader should get."""
    short, medium, long = b'"short"', b'"' + b"m" * 127 + b'"', b'"' + b"l" * 70_000 + b'"'
    edges = [b"x" * size for size in (0, 1, 125, 126, 127, 128, 65_535, 65_536)]
    sent = b"".join([
        frame(short),
        frame(medium),
        frame(b"", Opcode.PING),
        frame(short),
        frame(b"frag", fin=False),
        frame(b"", Opcode.PING),
        frame(b"ment", Opcode.CONT),
        frame("ü".encode()),
        frame(long),
        *map(frame, edges),
        frame(short),
    ])  # fmt: skip
    return sent, [short, medium, short, b"fragment", "ü".encode(), long, *edges, short]


@pytest.mark.parametrize("pair", [real_pair, memory_pair])
@pytest.mark.parametrize("size", [1, 3, 100, 4_096, 1_000_000])
async def test_messages_come_whole_and_in_order_however_the_bytes_are_cut(
    pair: Callable[..., object], size: int
) -> None:
    sent, expected = a_mixture()
    sent = (
        sent if size > 3 else sent[:600]
    )  # what comes later is long, and tells nothing more in small pieces
    expected = expected if size > 3 else expected[:5]
    async with wire(pair) as connected, trio.open_nursery() as nursery:
        await connected.shake_hands()

        async def send() -> None:
            for at in range(0, len(sent), size):
                await connected.theirs.send_all(sent[at : at + size])
                await trio.lowlevel.checkpoint()

        nursery.start_soon(send)
        assert await connected.received(len(expected)) == expected
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("size", [1, 2, 3, 50, 1000])
async def test_a_message_right_behind_the_upgrade_is_not_lost(size: int) -> None:
    async with wire(memory_pair) as connected, trio.open_nursery() as nursery:
        sent = REQUEST + frame(b"early") + frame(b"too")

        async def send() -> None:
            for at in range(0, len(sent), size):
                await connected.theirs.send_all(sent[at : at + size])

        nursery.start_soon(send)
        assert await connected.socket.handshake(lambda _: None)
        assert await connected.received(2) == [b"early", b"too"]


async def test_text_that_is_not_utf8_closes_and_takes_along_what_follows_but_not_what_came_before() -> None:
    async with wire() as connected:
        await connected.shake_hands()
        await connected.theirs.send_all(frame(b"good") + frame(b"\xff") + frame(b"never"))
        assert await connected.received(1) == [b"good"]
        assert await close_code(connected) == 1007


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (frame(b"text", mask=False), 1002),
        (frame(b"x" * (LIMIT + 1)), 1009),
        (frame(b"more", Opcode.CONT), 1002),
        (frame(b"binary", Opcode.BINARY), 1003),
    ],
)
async def test_a_frame_that_may_not_come_closes_with_the_code_that_says_why(bad: bytes, code: int) -> None:
    async with wire() as connected:
        await connected.shake_hands()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connected.theirs.send_all, frame(b"good") + bad)
            assert await connected.received(1) == [b"good"]
            assert await close_code(connected) == code
            nursery.cancel_scope.cancel()


async def test_a_short_frame_over_the_limit_is_refused_like_a_long_one() -> None:
    async with wire() as connected:
        await connected.shake_hands()
        connected.socket.allow(100)
        await connected.theirs.send_all(frame(b"x" * 100) + frame(b"x" * 101))
        assert await connected.received(1) == [b"x" * 100]
        assert await close_code(connected) == 1009


async def test_what_the_kernel_does_not_take_at_once_follows_whole_and_in_order() -> None:
    payloads = [bytes([65 + number]) * 900_000 for number in range(8)]
    async with wire() as connected:
        await connected.shake_hands()
        await connected.theirs.send_all(frame(b"go"))
        await connected.received(1)
        for payload in payloads[:4]:
            connected.socket.post(payload)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                connected.socket.receive
            )  # the reader's turn ends: one attempt, then the writer's
            await wait_all_tasks_blocked()
            assert not connected.out.is_drained
            for payload in payloads[4:]:
                connected.socket.post(payload)
            said = bytearray()
            with trio.fail_after(PATIENCE):
                while not said.endswith(b"H" * 900_000):
                    said += await connected.theirs.receive_some()  # type: ignore[attr-defined]
            nursery.cancel_scope.cancel()
        at = said.index(b"\r\n\r\n") + 4
        assert said[at:] == b"".join(b"\x81\x7f" + len(each).to_bytes(8, "big") + each for each in payloads)
        assert connected.out.is_drained


async def test_a_peer_that_takes_nothing_is_cut_and_frees_what_waited(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with wire() as connected:
        await connected.shake_hands()
        connected.socket.post(b"x" * 5_000_000)
        await trio.sleep(29)
        assert connected.cuts == []
        await trio.sleep(2)
        assert connected.cuts == ["the peer accepted nothing for 30 s"]
        assert not connected.socket.is_open
        assert connected.out.is_drained


async def test_a_reply_leaves_with_the_readers_turn_and_a_later_post_with_the_next_turn_of_the_loop() -> None:
    async with wire() as connected:
        await connected.shake_hands()
        await connected.theirs.send_all(frame(b"ask"))
        await connected.received(1)
        connected.socket.post(b"answer")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connected.socket.receive)
            await wait_all_tasks_blocked()
            connected.socket.post(b"event")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        said = os.read(connected.theirs.socket.fileno(), 10_000)  # type: ignore[attr-defined]
        assert said.endswith(b"\x81\x06answer\x81\x05event")


async def test_in_a_flush_replies_leave_at_its_end_and_what_many_watch_with_the_next_turn_of_the_loop() -> (
    None
):
    async with wire() as watcher, wire() as recorder:
        for each in (watcher, recorder):
            await each.shake_hands()
            await wait_all_tasks_blocked()
            await each.theirs.receive_some()
        with watcher.together:
            watcher.socket.post_frames(packed_frames([b"one", b"two"]))
        with recorder.together:
            recorder.socket.post(b"reply")
        assert os.read(recorder.theirs.socket.fileno(), 100) == b"\x81\x05reply"  # type: ignore[attr-defined]
        with pytest.raises(BlockingIOError):
            os.read(watcher.theirs.socket.fileno(), 100)  # type: ignore[attr-defined]
        await wait_all_tasks_blocked()
        assert os.read(watcher.theirs.socket.fileno(), 100) == b"\x81\x03one\x81\x03two"  # type: ignore[attr-defined]


async def test_many_waiting_messages_are_made_bytes_of_their_own_in_small_parts_and_arrive_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = b"e" * 6_000
    offered: list[int] = []
    write = os.write

    def noted(descriptor: int, payload: bytes) -> int:
        offered.append(len(payload))
        return write(descriptor, payload)

    async with wire() as connected:
        await connected.shake_hands()
        monkeypatch.setattr(outbound.os, "write", noted)
        for _ in range(100):
            connected.socket.post(shared)
        said = bytearray()
        with trio.fail_after(PATIENCE):
            while said.count(b"e") < 600_000:
                said += await connected.theirs.receive_some()  # type: ignore[attr-defined]
    assert said.endswith(b"\x81\x7e" + (6_000).to_bytes(2, "big") + shared)
    assert max(offered) <= outbound.SEND_BYTES


async def test_a_peer_that_is_gone_ends_reader_and_writer_without_an_error() -> None:
    async with wire() as connected:
        await connected.shake_hands()
        await connected.theirs.send_all(frame(b"ask"))
        await connected.received(1)
        await connected.theirs.aclose()
        connected.socket.post(b"answer")
        assert await connected.socket.receive() is None
        connected.socket.post(b"nobody hears this")
        assert connected.out.is_drained
        assert not connected.socket.is_open


async def test_bytes_inside_a_long_message_that_look_like_a_frame_stay_inside() -> None:
    payload = ("Á" * 40_000).encode()  # C3 81 C3 81 …: behind any C3 seems to stand a short masked text frame
    whole = b"\x81\xff" + len(payload).to_bytes(8, "big") + bytes(4) + payload
    async with wire(memory_pair) as connected:
        await connected.shake_hands()
        await connected.theirs.send_all(whole[:1015])
        assert await connected.socket.receive() == []
        await connected.theirs.send_all(whole[1015:])
        assert await connected.received(1) == [payload]


@pytest.mark.parametrize("cut", range(1, 17))
async def test_a_frame_cut_anywhere_is_not_begun_anew_in_its_middle(cut: int) -> None:
    ping = b"\x89\x82" + b"\x81\x81\x81\x81" + b"\x81\x81"  # mask and payload look like the beginning of text
    fragments = frame(b"a", fin=False) + frame(b"b", Opcode.CONT)
    for whole, expected in ((ping + frame(b"after"), b"after"), (fragments, b"ab")):
        async with wire(memory_pair) as connected:
            await connected.shake_hands()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connected.theirs.send_all, whole[:cut])
                await wait_all_tasks_blocked()
                messages = await connected.socket.receive() or []
                nursery.start_soon(connected.theirs.send_all, whole[cut:])
                messages += await connected.received(1 - len(messages))
                nursery.cancel_scope.cancel()
            assert messages == [expected]


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.PING])
async def test_a_new_text_inside_a_fragmented_one_is_a_violation_but_a_ping_is_not(opcode: Opcode) -> None:
    async with wire() as connected:
        await connected.shake_hands()
        await connected.theirs.send_all(
            frame(b"a", fin=False) + frame(b"between", opcode) + frame(b"b", Opcode.CONT)
        )
        if opcode is Opcode.PING:
            assert await connected.received(1) == [b"ab"]
        else:
            assert await close_code(connected) == 1002


async def test_what_need_not_wait_for_others_leaves_at_once_but_not_before_what_came_earlier_nor_out_of_a_stretch():
    async with wire() as w:
        await w.shake_hands()
        w.out.send_now()
        theirs = w.theirs.socket  # type: ignore[attr-defined]
        await theirs.recv(65_536)

        def came() -> bytes:
            try:
                return os.read(theirs.fileno(), 65_536)
            except BlockingIOError:
                return b""

        w.socket.post(b"alone", True)
        assert came() == b"\x81\x05alone"
        w.socket.post(b"first")
        w.socket.post(b"second", True)
        assert came() == b""
        await wait_all_tasks_blocked()
        assert came() == b"\x81\x05first\x81\x06second"
        with w.together:
            w.socket.post(b"in a stretch", True)
            assert came() == b""
        assert came() == b"\x81\x0cin a stretch"
        w.out.in_turn = True
        w.socket.post(b"of the reader", True)
        assert came() == b""
        w.out.send_now()
        assert came() == b"\x81\x0dof the reader"


async def test_behind_half_a_frame_of_a_cancelled_writer_nothing_follows() -> None:
    ours, theirs = map(trio.SocketStream, trio.socket.socketpair())
    scope = trio.CancelScope()

    async def until_cancelled(write: Callable[[], Awaitable[None]]) -> None:
        with scope:
            await write()

    def received() -> bytes:
        """All that has come, without waiting."""
        said = b""
        with suppress(BlockingIOError):
            while came := os.read(theirs.socket.fileno(), LIMIT):
                said += came
        return said

    async with ours, theirs, trio.open_nursery() as nursery:
        out = Outbound(
            ours,
            stall_seconds=30,
            together=Together(),
            cut=lambda _: None,
            spawn=lambda write: nursery.start_soon(until_cancelled, write),
        )
        out.add(text_frames(b"x" * 900_000), at_once=True)
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert 0 < len(received()) < 900_000
        scope = trio.CancelScope()
        out.add(text_frames(b"later"), at_once=True)
        await wait_all_tasks_blocked()
        assert received() == b""
