"""Watching a run: every turn once, in order, whatever happens to the socket in between.

A watch counts the turns it has handed out. That number is the cursor of the protocol (`runs.md` section 2),
so whenever the stream is broken, by a lost connection, a feed that overflowed or a second subscription, the
way out is the same: subscribe again from that number. Events are judged by their cursor alone: not above the
number, a duplicate; one above, the next; further, a gap, and again a subscription. A daemon whose true cursor
is smaller than ours has lost turns in a power cut, and the watch says so with `Retracted` instead of
pretending.

Watches use the car's own link, not one of their own: an agent may be bound on one connection only, and the
right to read a run may rest on having started it. The car dials again when a watch asks for a link after the
end of one.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol

import msgspec
import trio
from msgspec import Struct

from car_trio.client.errors import Disconnected, WatchReplaced
from car_trio.client.feed import Feed, Topic
from car_trio.client.link import Link
from car_trio.wire import frames
from car_trio.wire.runs import Damaged, Ended, RunStatus, Snapshot, Started, Subscribe, TraceEvent, Turn

Record = Started | Turn | Ended | Damaged | dict[str, Any]
"""A record of a run; one with a tag that this version does not know stays a dict."""


class WatchEvent(Struct):
    """A record of a watched run. `cursor` is the number of turns up to and including it."""

    run_id: str
    agent_id: str
    record: Record
    cursor: int
    status: RunStatus


class Retracted(Struct):
    """The turns from this position on are gone: the daemon lost them before they were safe on disk."""

    from_cursor: int


class Links(Protocol):
    """Where a watch gets its connection from."""

    async def link(self) -> Link:
        """A link that has not ended, dialled anew if need be; raises `CallRefused` when the daemon lets
        nobody in."""
        ...


class Watch:
    """An async iterator over one run: the turns so far, then live events, ending after the `Ended` record.

    Leaving an `async for` over it unsubscribes, at the latest when the iterator is collected; `with
    car.watch(...) as events:` says when. A wait that is cancelled loses nothing: iterate again and it goes on
    where it was.
    """

    def __init__(self, links: Links, run_id: str, from_cursor: int = 0) -> None:
        self.run_id = run_id
        self.cursor = from_cursor
        self._links = links
        self._link: Link | None = None
        self._feed: Feed[TraceEvent] | None = None
        self._ready: deque[WatchEvent | Retracted] = deque()
        self._gap_after: int | None = None
        self._over = False

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # A collection outside of the event loop cannot post; the connection's end unsubscribes then.
        with suppress(RuntimeError):
            self.close()

    def close(self) -> None:
        """Unsubscribes and ends the iteration. Waits for nothing, so it works while being cancelled."""
        self._over = True
        self._ready.clear()
        self._unsubscribe()

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> WatchEvent | Retracted:
        await trio.lowlevel.checkpoint()
        while not self._ready:
            if self._over:
                raise StopAsyncIteration
            await self._advance()
        return self._ready.popleft()

    async def _advance(self) -> None:
        """One step towards the next event."""
        if self._link is None or self._link.gone.is_set():
            await self._connect()
        elif self._feed is None:
            await self._subscribe(self._link)
        elif (event := self._feed.take()) is not None:
            self._consider(event)
        elif self._feed.replaced:
            self._over = True
            raise WatchReplaced(self.run_id)
        elif self._feed.behind:
            self._unsubscribe()
        else:
            await self._feed.wait()

    async def _connect(self) -> None:
        while self._feed is not None and (event := self._feed.take()) is not None:
            self._consider(event)
        self._feed = None
        if not self._ready:
            self._link = await self._links.link()

    async def _subscribe(self, link: Link) -> None:
        feed = link.attach(Topic("runs.trace.event", self.run_id))
        try:
            raw = await link.call("runs.subscribe", Subscribe(self.run_id, self.cursor))
        except Disconnected:
            return
        except BaseException:
            self._leave(link, feed)
            raise
        self._feed = feed
        self._accept(msgspec.json.decode(raw, type=Snapshot))

    def _unsubscribe(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None and self._link is not None:
            self._leave(self._link, feed)

    def _leave(self, link: Link, feed: Feed[TraceEvent]) -> None:
        if link.detach(feed):
            link.post(frames.notification("runs.unsubscribe", {"run_id": self.run_id}))

    def _accept(self, snapshot: Snapshot) -> None:
        if snapshot.cursor < self.cursor:
            self.cursor = snapshot.cursor
            self._ready.append(Retracted(snapshot.cursor))
        first = snapshot.cursor - len(snapshot.turns_so_far) + 1
        for cursor, raw in enumerate(snapshot.turns_so_far, first):
            if cursor > self.cursor:
                event = TraceEvent(snapshot.run_id, snapshot.agent_id, raw, cursor, snapshot.status)
                self._hand_out(event, decode_record(raw))

    def _consider(self, event: TraceEvent) -> None:
        record = decode_record(event.record)
        counted = isinstance(record, Turn)
        ahead = event.cursor - self.cursor - counted
        if counted and ahead < 0:
            return
        # A gap that is still there after asking again is in the trace itself; it must not be asked for for
        # ever.
        if ahead > 0 and self._gap_after != self.cursor:
            self._gap_after = self.cursor
            self._unsubscribe()
            return
        self._hand_out(event, record)

    def _hand_out(self, event: TraceEvent, record: Record) -> None:
        self.cursor = event.cursor
        self._ready.append(WatchEvent(event.run_id, event.agent_id, record, event.cursor, event.status))
        if isinstance(record, Ended):
            self._over = True
            self._unsubscribe()


def decode_record(raw: msgspec.Raw) -> Record:
    """A line of a run as its type. Payloads inside (`parameters`, `output`) stay raw JSON."""
    try:
        return msgspec.json.decode(raw, type=Started | Turn | Ended | Damaged)
    except msgspec.ValidationError:
        return msgspec.json.decode(raw, type=dict[str, Any])
