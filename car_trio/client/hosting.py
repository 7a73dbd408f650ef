"""What hosts see (protocol `host.md` section 2): a snapshot, then every event since.

The daemon keeps the newest events only, so what was missed cannot always be had. A watch that was too slow or
lost its connection does not pretend otherwise: it subscribes again and gives the new snapshot, which says how
everything is now. Whoever reads along takes each snapshot as a new beginning.
"""

from __future__ import annotations

from collections import deque

import msgspec
import trio

from car_trio.client.errors import Disconnected, WatchReplaced
from car_trio.client.feed import Feed, Topic
from car_trio.client.link import Link
from car_trio.client.watching import Links
from car_trio.wire.host import Gap, HostEvent, HostSnapshot

TOPIC = Topic("host.event")


class HostWatch:
    """An async iterator without an end: a `HostSnapshot`, then `HostEvent`s, and after every gap or lost
    connection a `HostSnapshot` again. A wait that is cancelled loses nothing."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._link: Link | None = None
        self._feed: Feed[HostEvent | Gap] | None = None
        self._ready: deque[HostSnapshot | HostEvent] = deque()
        self._sequence = 0

    def __aiter__(self) -> HostWatch:
        return self

    async def __anext__(self) -> HostSnapshot | HostEvent:
        """The next thing that happened. Raises `CallRefused` when the daemon lets nobody in, and
        `WatchReplaced`."""
        await trio.lowlevel.checkpoint()
        while not self._ready:
            await self._advance()
        return self._ready.popleft()

    async def _advance(self) -> None:
        """One step towards the next event."""
        if self._feed is not None and (event := self._feed.take()) is not None:
            self._consider(event)
        elif self._link is None or self._link.gone.is_set():
            self._feed = None
            self._link = await self._links.link()
        elif self._feed is None or self._feed.behind:
            await self._subscribe(self._link)
        elif self._feed.replaced:
            raise WatchReplaced(None)
        else:
            await self._feed.wait()

    async def _subscribe(self, link: Link) -> None:
        feed = link.attach(TOPIC)
        try:
            snapshot = msgspec.json.decode(await link.call("host.subscribe"), type=HostSnapshot)
        except Disconnected:
            return
        except BaseException:
            link.detach(feed)
            raise
        self._feed = feed
        self._sequence = snapshot.event_sequence
        self._ready.append(snapshot)

    def _consider(self, event: HostEvent | Gap) -> None:
        if isinstance(event, Gap):
            self._feed = None
        elif event.sequence > self._sequence:
            self._sequence = event.sequence
            self._ready.append(event)
