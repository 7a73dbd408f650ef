"""What leaves together leaves by one system call, and arrives as if each had been sent alone."""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from car_trio.nursery.outbound import HARD_LIMIT, Outbound
from car_trio.nursery.send_queue import FEW, PLACE_BYTES, SLOTS, SendQueue, open_send_queue
from car_trio.nursery.together import Together
from car_trio.store import kernel_queue
from tests.process.daemon_process import PATIENCE

MANY = SLOTS + 30
CLOSED = (1 << 32) - 1
"""A descriptor of -1, as the kernel is given it."""
Pair = tuple[socket.socket, socket.socket]


def unix_pair() -> Pair:
    return socket.socketpair()


def tcp_pair() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        return listener.accept()[0], theirs


class Kernel:
    """One that writes itself, `at_once` requests of a call, and takes no request of a `refused` descriptor."""

    def __init__(self) -> None:
        self.at_once = 1000
        self.refused: set[int] = set()
        self.submits: list[int] = []
        self._done: list[tuple[int, int]] = []

    def call(self, number: ctypes.c_long, context: Any, *arguments: Any) -> int:
        found: int = getattr(self, kernel_queue.Calls._fields[number.value - 1])(*arguments)
        return found

    def setup(self, _: Any) -> int:
        return 0

    def destroy(self) -> int:
        return 0

    def submit(self, count: ctypes.c_long, addresses: Any) -> int:
        self.submits.append(count.value)
        array = ctypes.cast(addresses, ctypes.POINTER(ctypes.c_void_p))
        for taken in range(min(count.value, self.at_once)):
            request = kernel_queue.Request.from_address(array[taken] or 0)
            assert request.operation == kernel_queue.WRITE
            if request.descriptor in self.refused or request.descriptor == CLOSED:
                return taken or -1
            text = ctypes.string_at(request.address, request.size)
            try:
                self._done.append((request.tag, os.write(request.descriptor, text)))
            except OSError as error:
                self._done.append((request.tag, -(error.errno or 0)))
        return min(count.value, self.at_once)

    def events(self, least: ctypes.c_long, most: ctypes.c_long, done: Any, timeout: None) -> int:
        told, self._done = self._done, []
        for place, (tag, result) in enumerate(told):
            done[place].tag, done[place].result = tag, result
        return len(told)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(kernel_queue, "_system_call", kernel.call)
    monkeypatch.setattr(kernel_queue, "_CALLS", {platform.machine(): kernel_queue.Calls(1, 2, 3, 4)})
    monkeypatch.setattr(sys, "platform", "linux")
    return kernel


@pytest.fixture(params=["this machine's", "one of ours"])
def queue(request: pytest.FixtureRequest) -> Iterator[SendQueue]:
    if request.param == "one of ours":
        request.getfixturevalue("kernel")
    queue = open_send_queue()
    if queue is None:
        pytest.skip("this system has no such queue")
    yield queue
    queue.close()


class Peers:
    """Connections that send together, and what each of the other ends has read."""

    def __init__(self, stack: ExitStack, nursery: trio.Nursery, queue: SendQueue | None) -> None:
        self._stack = stack
        self._nursery = nursery
        self.together = Together(queue)
        self.cuts: list[str] = []
        self.outs: list[Outbound] = []
        self.ends: list[socket.socket] = []

    def add(self, pair: Callable[[], Pair]) -> None:
        ours, theirs = pair()
        self._stack.callback(theirs.close)
        theirs.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self._stack.callback(stream.socket.close)
        self.ends.append(theirs)
        self.outs.append(
            Outbound(
                stream,
                stall_seconds=30,
                together=self.together,
                cut=self.cuts.append,
                spawn=self._nursery.start_soon,
            )
        )

    @staticmethod
    async def read(end: socket.socket, size: int) -> bytes:
        said = b""
        with trio.fail_after(PATIENCE):
            while len(said) < size:
                await trio.lowlevel.wait_readable(end)
                said += end.recv(1 << 20)
        return said


@asynccontextmanager
async def connected(
    queue: SendQueue | None, count: int, pair: Callable[[], Pair] = unix_pair
) -> AsyncGenerator[Peers]:
    with ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            peers = Peers(stack, nursery, queue)
            for _ in range(count):
                peers.add(pair)
            yield peers


@pytest.mark.parametrize("pair", [unix_pair, tcp_pair])
@pytest.mark.parametrize("count", [1, FEW, FEW + 1, SLOTS, MANY])
@pytest.mark.parametrize("size", [1, 2000, PLACE_BYTES - 1, PLACE_BYTES + 1])
async def test_everybody_gets_what_was_posted_and_in_its_order(
    queue: SendQueue, pair: Callable[[], Pair], count: int, size: int
) -> None:
    async with connected(queue, count, pair) as peers:
        expected = [b"%d:" % number + b"x" * (size if number % 3 == 0 else 10) for number in range(count)]
        with peers.together:
            for out, text in zip(peers.outs, expected, strict=True):
                out.add([text])
                out.add([b"|", b"more"])
        for end, text in zip(peers.ends, expected, strict=True):
            assert await peers.read(end, len(text) + 5) == text + b"|more"


async def test_all_of_a_stretch_leave_by_one_call(kernel: Kernel) -> None:
    async with connected(open_send_queue(), MANY) as peers:
        with peers.together:
            for out in peers.outs:
                out.add([b"text"])
        assert kernel.submits == [SLOTS, MANY - SLOTS]
        kernel.submits.clear()
        with peers.together:
            for out in peers.outs[:FEW]:
                out.add([b"text"])
        assert kernel.submits == []
        with peers.together:
            for out in peers.outs[: FEW + 1]:
                out.add([b"text"])
        assert kernel.submits == [FEW + 1]


async def test_the_postman_hands_over_many_by_one_call(kernel: Kernel) -> None:
    async with connected(open_send_queue(), MANY) as peers, trio.open_nursery() as nursery:
        nursery.start_soon(peers.together.deliver)
        for out in peers.outs:
            out.add([b"text"])
        await wait_all_tasks_blocked()
        assert kernel.submits == [SLOTS, MANY - SLOTS]
        nursery.cancel_scope.cancel()


async def test_who_stands_there_twice_sends_once(queue: SendQueue) -> None:
    async with connected(queue, 1) as peers:
        (out,) = peers.outs
        out.in_turn = True  # so that it stands nowhere yet
        out.add([b"text"])
        queue.send([out] * (FEW + 2))
        assert peers.ends[0].recv(100) == b"text"
        with pytest.raises(BlockingIOError):
            peers.ends[0].recv(100)


async def test_what_a_peer_has_no_room_for_follows_when_it_reads_and_the_others_do_not_wait(
    queue: SendQueue,
) -> None:
    async with connected(queue, 10, tcp_pair) as peers:
        slow = 4
        texts = [b"%04d" % number * 10_000 for number in range(300)]
        for text in texts:
            with peers.together:
                for number, out in enumerate(peers.outs):
                    out.add([text if number == slow else b"text"])
        for number, end in enumerate(peers.ends):
            if number != slow:
                assert await peers.read(end, 4 * len(texts)) == b"text" * len(texts)
        assert await peers.read(peers.ends[slow], 40_000 * len(texts)) == b"".join(texts)
    assert peers.cuts == []


async def test_a_peer_that_is_gone_keeps_nothing_from_the_others(queue: SendQueue) -> None:
    async with connected(queue, 10) as peers:
        peers.ends[3].close()
        stream: Any = peers.outs[6]._stream
        stream.socket.close()
        with peers.together:
            for out in peers.outs:
                out.add([b"text"])
        await wait_all_tasks_blocked()
        assert [number for number, out in enumerate(peers.outs) if out.dead] == [3, 6]
        for number, end in enumerate(peers.ends):
            if number not in (3, 6):
                assert end.recv(100) == b"text"


@pytest.mark.parametrize("at_once", [1, 3])
async def test_what_the_kernel_does_not_take_is_sent_all_the_same(kernel: Kernel, at_once: int) -> None:
    kernel.at_once = at_once
    async with connected(open_send_queue(), 10) as peers:
        streams: list[Any] = [out._stream for out in peers.outs]
        kernel.refused = {streams[number].socket.fileno() for number in (0, 4, 5, 9)}
        with peers.together:
            for out in peers.outs:
                out.add([b"text"])
        for end in peers.ends:
            assert await peers.read(end, 4) == b"text"


async def test_nothing_is_offered_when_nothing_waits_or_while_a_writer_is_at_work(queue: SendQueue) -> None:
    async with connected(queue, 1) as peers:
        (out,) = peers.outs
        assert out.take(HARD_LIMIT) is None
        out.add([b"x" * 3_000_000], at_once=True)
        assert out.take(HARD_LIMIT) is None
        await wait_all_tasks_blocked()
        out.add([b"later"])
        assert out.take(HARD_LIMIT) is None
        assert await peers.read(peers.ends[0], 3_000_005) == b"x" * 3_000_000 + b"later"


def test_there_is_none_where_the_kernel_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_queue, "_CALLS", dict[str, kernel_queue.Calls]())
    assert open_send_queue() is None
