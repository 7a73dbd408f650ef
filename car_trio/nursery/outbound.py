"""The sending side of a connection: one buffer, and whoever may touch it.

Everybody hands over with `add`, which never waits. What gathered in a stretch without a checkpoint (the reader's turn,
a flush of the journal, a turn of the loop: `together.py`) is offered to the kernel at its end, in one attempt that does
not wait; for a small reply a task's turn costs more than the system call. What the kernel does not take is the
writer's: a task that is started then and ends when nothing waits any more. So no cancelled task can leave half a frame
behind, nobody waits for a peer to read, and a connection that says nothing has no task for saying it. Streams that are
no real socket (tests) always take the writer's way.

Two limits bound the buffer. Above `SOFT_LIMIT` producers of streams wait in `drained()`. Above `HARD_LIMIT`, or when
the peer accepts nothing for `stall_seconds`, the connection is cut: memory is not lent to those who do not read.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

import trio

from car_trio.nursery.together import Together

SOFT_LIMIT = 1024 * 1024
HARD_LIMIT = 64 * 1024 * 1024
SEND_BYTES = 256 * 1024
"""What is made one piece of bytes to be sent. Events that wait are shared by all who watch; this is not."""

Spawn = Callable[[Callable[[], Awaitable[None]]], object]


class Post(Protocol):
    """Hands over a message; see `Socket.post`."""

    def __call__(self, payload: bytes, at_once: bool = False, /) -> None: ...


class Outbound:
    """What waits to be sent. `cut` ends the connection at once, it is called from `add` and from the writer; `spawn`
    starts the writer among tasks that outlive whoever adds."""

    __slots__ = (
        "_bytes", "_cut", "_finished", "_is_writing", "_producers", "_raw", "_spawn", "_stall_seconds",
        "_stream", "_together", "_waiting", "dead", "in_turn",
    )  # fmt: skip  # there is one for each idle connection

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        stall_seconds: float,
        together: Together,
        cut: Callable[[str], None],
        spawn: Spawn,
    ) -> None:
        self._stream = stream
        self._raw: trio.socket.SocketType | None = getattr(stream, "socket", None)
        self._stall_seconds = stall_seconds
        self._together = together
        self._cut = cut
        self._spawn = spawn
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._is_writing = False
        self._finished: trio.Event | None = None
        self._producers: trio.lowlevel.ParkingLot | None = None
        self.in_turn = False
        """The reader is at work: what is added leaves when it calls `send_now`."""
        self.dead = False
        """Nothing reaches the peer any more."""

    def add(self, pieces: Sequence[bytes], *, at_once: bool = False, can_wait: bool = False) -> None:
        """`at_once`: a task adds this as the last thing before it waits or ends, and knows of nobody whose posts
        should leave with it. `can_wait`: it need not leave in the stretch that is under way, others come first."""
        if self.dead:
            return
        if self._bytes > HARD_LIMIT:
            why = f"{self._bytes} bytes wait for a peer that does not read them"
            self.abandon()
            self._cut(why)
            return
        is_first = not (self._waiting or self.in_turn)
        self._waiting += pieces
        for piece in pieces:
            self._bytes += len(piece)
        if is_first:
            if at_once and not self._together.is_stretch:
                self.send_now()
            else:
                self._together.add(self, can_wait=can_wait)

    def send_now(self) -> None:
        """Offers what waits to the kernel, as far as that takes it at once.

        Not while a writer is in the middle of something, and never more than one attempt: the rest is the writer's.
        """
        if not self._waiting or self._is_writing:
            return
        if self._raw is None or self._bytes > SEND_BYTES:
            self._start_writer()
            return
        pending = b"".join(self._waiting)
        try:
            count = os.write(self._raw.fileno(), pending)
        except OSError:
            count = 0  # full, or gone, which the writer finds out by itself
        self.settle(pending, count)

    def take(self, most: int) -> tuple[int, bytes] | None:
        """What `send_now` would offer, and on which descriptor, to be offered with what others have; then `settle` has
        to follow. `None` when that is nothing, or more than so many bytes."""
        if not self._waiting or self._is_writing or self._raw is None or self._bytes > most:
            return None
        pending, self._waiting = b"".join(self._waiting), []
        return self._raw.fileno(), pending

    def settle(self, pending: bytes, count: int) -> None:
        """So much of it the kernel took; the rest is the writer's."""
        self._waiting = [pending[count:]] if count < len(pending) else []
        self._sent(count)
        if self._waiting:
            self._start_writer()

    def finish(self) -> None:
        """No more will be added: when everything is sent, the writer says goodbye and `finished` returns."""
        self._finished = trio.Event()
        self._start_writer()

    async def finished(self) -> None:
        """After `finish`: waits until everything is sent, or nobody is there to send it to."""
        assert self._finished is not None
        if not self.dead:
            await self._finished.wait()

    def abandon(self) -> None:
        """Nothing reaches the peer any more: what waits for it is dropped, who waits for room or the end goes on."""
        self.dead = True
        self._waiting.clear()
        self._bytes = 0
        self._let_produce()
        if self._finished is not None:
            self._finished.set()

    @property
    def is_drained(self) -> bool:
        return self._bytes <= SOFT_LIMIT

    async def drained(self) -> None:
        """Waits until at most 1 MiB is on its way. Always a checkpoint."""
        if self.is_drained:
            await trio.lowlevel.checkpoint()
        while not self.is_drained:
            self._producers = self._producers or trio.lowlevel.ParkingLot()
            await self._producers.park()

    # The writer

    def _start_writer(self) -> None:
        if not self._is_writing:
            self._is_writing = True
            self._spawn(self._write)

    async def _write(self) -> None:
        try:
            await self._send_all()
        except trio.Cancelled:
            self.abandon()  # perhaps in the middle of a frame: nothing may follow it
            raise
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            # The reader learns it by itself, and has perhaps still something to read.
            self.abandon()
        except trio.TooSlowError:
            self.abandon()
            self._cut(f"the peer accepted nothing for {self._stall_seconds:g} s")
        finally:
            self._is_writing = False
            if self._finished is not None:
                self._finished.set()

    async def _send_all(self) -> None:
        while self._waiting:
            await self._send(self._take())
        is_last = self._finished is not None and not self.dead
        if is_last and isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()

    def _take(self) -> bytes:
        """What is sent next: as many of those that wait as `SEND_BYTES` is for, at least one."""
        size = count = 0
        for piece in self._waiting:
            size += len(piece)
            if count and size > SEND_BYTES:
                break
            count += 1
        taken = b"".join(self._waiting[:count])
        del self._waiting[:count]
        return taken

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
        self._bytes = max(0, self._bytes - count)
        if self._producers is not None and self.is_drained:
            self._let_produce()

    def _let_produce(self) -> None:
        if self._producers is not None:
            self._producers.unpark_all()
            self._producers = None
