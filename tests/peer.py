"""A daemon in memory and scripted clients of it: no port, no thread, virtual time if the test wants it.

The client speaks WebSocket through the sans-I/O client of `websockets` over one end of a memory stream pair, so what
the daemon's socket does is the real thing. It does nothing by itself: a test says what is sent and when.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import OPEN
from websockets.typing import Origin
from websockets.uri import parse_uri

from car_trio.config import Config, Runs, Server
from car_trio.methods.context import Daemon
from car_trio.nursery.connection import Connection
from car_trio.nursery.listeners import NO_PAGE
from car_trio.nursery.storage import OpenStore, open_store
from car_trio.nursery.supervisor import build, live, web_sessions
from car_trio.state.session import Secrets

TOKEN = "the-daemons-token"
HOST_TOKEN = "the-hosts-token"
LONGEST_TEST = 20_000.0
"""Virtual seconds after which a test is stuck: the daemon's own heartbeat would keep the clock jumping for ever."""


class Refused(Exception):
    """An error reply."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code = error["code"]
        self.message = error["message"]
        self.data = error.get("data")


class Closed(Exception):
    """The daemon closed the connection; `code` is the close code, 1006 for none."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class PageDoor:
    """The page's port in a test."""

    port = 9101
    url = "http://127.0.0.1:9101/"

    def __init__(self) -> None:
        self.visit: Callable[[trio.abc.Stream, bool], None] | None = None

    def listen(self, nursery: trio.Nursery, visit: Callable[[trio.abc.Stream, bool], None]) -> None:
        self.visit = visit


class Doors:
    """What the supervisor listens on in a test: whoever calls `connect` is let in."""

    tcp: list[Any] = []
    unix = None
    url = "ws://memory"
    path = None
    no_page = NO_PAGE

    def __init__(self, page: PageDoor | None = None) -> None:
        self.welcome: Callable[[trio.abc.Stream, bool], Connection] | None = None
        self.page = page

    @property
    def web_url(self) -> str | None:
        return None if self.page is None else self.page.url

    def listen(self, nursery: trio.Nursery, welcome: Callable[[trio.abc.Stream, bool], Connection]) -> None:
        self.welcome = welcome

    def close(self) -> None:
        self.welcome = None


class Peer:
    """A client that says what the test says. `receive` gives frames in the order in which they came."""

    def __init__(
        self, stream: trio.abc.Stream, uri: str = "ws://127.0.0.1/", origin: str | None = None
    ) -> None:
        self.stream = stream
        self.protocol = ClientProtocol(
            parse_uri(uri), origin=None if origin is None else Origin(origin), max_size=None
        )
        self.frames: deque[dict[str, Any]] = deque()
        self._ids = itertools.count(1)
        self._partial = b""

    async def open(self) -> Response:
        """The opening handshake; returns the daemon's answer."""
        self.protocol.send_request(self.protocol.connect())
        await self._flush()
        while not (events := self.protocol.events_received()):
            await self._feed()
        answer = events[0]
        assert isinstance(answer, Response)
        return answer

    async def _flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                await self.stream.send_all(data)

    async def _feed(self) -> None:
        try:
            data = await self.stream.receive_some(65_536)
        except trio.BrokenResourceError:
            data = b""
        if data:
            self.protocol.receive_data(data)
        else:
            self.protocol.receive_eof()
            raise Closed(self.protocol.close_rcvd.code if self.protocol.close_rcvd else 1006)

    async def send(self, message: Any) -> None:
        """Sends a frame: bytes and text as they are, anything else as JSON."""
        text = message if isinstance(message, (bytes, str)) else json.dumps(message)
        self.protocol.send_text(text.encode() if isinstance(text, str) else text)
        await self._flush()

    async def request(self, method: str, params: Any = None) -> int:
        """Sends a request and returns its id, without waiting."""
        request_id = next(self._ids)
        await self.send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
        return request_id

    async def receive(self) -> dict[str, Any]:
        """The next frame, whatever it is."""
        while not self.frames:
            await self._feed()
            for event in self.protocol.events_received():
                assert isinstance(event, Frame)
                self._take(event)
        return self.frames.popleft()

    def _take(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.CONT):
            self._partial += bytes(frame.data)
            if frame.fin:
                self.frames.append(json.loads(self._partial))
                self._partial = b""

    async def reply(self, request_id: Any) -> Any:
        """The result of this request; frames that came before it stay for `receive`. Raises `Refused`."""
        passed: list[dict[str, Any]] = []
        while True:
            frame = await self.receive()
            if "method" not in frame and frame.get("id") == request_id:
                self.frames.extendleft(reversed(passed))
                if "error" in frame:
                    raise Refused(frame["error"])
                return frame["result"]
            passed.append(frame)

    async def call(self, method: str, params: Any = None) -> Any:
        return await self.reply(await self.request(method, params))

    async def notification(self, method: str) -> Any:
        """The params of the next notification or request of this name; others are dropped."""
        while True:
            frame = await self.receive()
            if frame.get("method") == method:
                return frame["params"]

    async def closed(self) -> int:
        """Waits for the daemon to close; returns the close code."""
        try:
            while True:
                await self.receive()
        except Closed as closed:
            return closed.code

    async def answer(self, call: dict[str, Any], result: Any = None, **frame: Any) -> None:
        """Answers a `tools.execute`."""
        body = frame or {"result": result}
        await self.send({"jsonrpc": "2.0", "id": call["request_id"], **body})

    async def drop(self) -> None:
        """Vanishes without a goodbye, as the published clients do."""
        await trio.aclose_forcefully(self.stream)


class House:
    """A serving daemon in memory."""

    def __init__(self, home: Path, daemon: Daemon, store: OpenStore, doors: Doors) -> None:
        self.home = home
        self.daemon = daemon
        self.store = store
        self.doors = doors
        self.connections: list[Connection] = []
        self.stop = trio.Event()
        self.stopped = trio.Event()

    async def stranger(self, *, remote: bool = False, lockstep: bool = False) -> Peer:
        """A connection that has not said anything yet. `lockstep`: what is sent waits until it is read."""
        ours, theirs = lockstep_stream_pair() if lockstep else memory_stream_pair()
        assert self.doors.welcome is not None
        self.connections.append(self.doors.welcome(theirs, remote))
        return Peer(ours)

    def visitor(self) -> trio.abc.HalfCloseableStream:
        """A connection to the page's port."""
        ours, theirs = memory_stream_pair()
        assert self.doors.page is not None
        assert self.doors.page.visit is not None
        self.doors.page.visit(theirs, False)
        return ours

    async def page(self, **params: Any) -> Peer:
        """The page's WebSocket, with its `session.auth` if there are params for it."""
        peer = Peer(
            self.visitor(), f"ws://127.0.0.1:{PageDoor.port}/rpc", f"http://127.0.0.1:{PageDoor.port}"
        )
        assert (await peer.open()).status_code == 101
        if params:
            await peer.call("session.auth", params)
        return peer

    async def peer(self, agent_id: str | None = None, *, host: bool = False, lockstep: bool = False) -> Peer:
        """An authenticated client."""
        peer = await self.stranger(lockstep=lockstep)
        assert (await peer.open()).status_code == 101
        assert peer.protocol.state is OPEN
        params: dict[str, Any] = {"token": TOKEN}
        if agent_id is not None:
            params["agent_id"] = agent_id
        if host:
            params["host_token"] = HOST_TOKEN
        await peer.call("session.auth", params)
        return peer

    def connection_of(self, agent_id: str) -> Connection:
        """The daemon's end of the connection that is bound to this agent."""
        return next(each for each in self.connections if each.session.agent_id == agent_id)

    def status(self, run_id: str) -> str:
        """A run's status as the store has it."""
        run = self.daemon.runs.find(run_id)
        assert run is not None
        return run.durable_status


@asynccontextmanager
async def open_house(
    home: Path,
    *,
    auth: bool = True,
    disk: Any = None,
    runs: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
    page: bool = False,
    **changes: Any,
) -> AsyncGenerator[House]:
    """A daemon on `home`, without threads for writing, until the block ends."""
    config = Config(
        home=home,
        token_directory=home / "tokens",
        server=Server(auth=auth, **(server or {})),
        runs=Runs(**({"keep_free_bytes": 0} | (runs or {}))),
        **changes,
    )
    with trio.fail_after(LONGEST_TEST):
        async with open_store(config, disk, sync_threads=0) as store:
            failed = await store.adopt_orphans()
            doors = Doors(PageDoor() if page else None)
            endpoints: Any = doors
            secrets = Secrets(TOKEN, HOST_TOKEN) if auth else None
            daemon = build(config, store, secrets, web_sessions(endpoints))
            for row in failed:
                daemon.runs.end_orphan(row)
            house = House(home, daemon, store, doors)
            async with trio.open_nursery() as nursery:

                async def serve() -> None:
                    await live(daemon, config, store, endpoints, house.stop.wait, ready=lambda: None)
                    daemon.runs.end_all("shutdown")
                    house.stopped.set()

                nursery.start_soon(serve)
                while doors.welcome is None:
                    await trio.lowlevel.checkpoint()
                yield house
                house.stop.set()
