"""One socket's life: calls out, calls in, events. A link is never reused; the car replaces it by a new one.

Two tasks own the socket. The writer is the only sender, because a cancelled send may leave half a frame on
the wire; everybody else posts, which never waits. The reader waits for the socket and nothing else: a reply
wakes its caller, a `tools.execute` starts a task, an event goes into its feed, all in one synchronous step,
so a tool may call the daemon and a slow watcher holds nobody up. When nothing more will be heard, for
whatever reason, `_settle` ends every wait at once: callers learn it (`Disconnected`), feeds wake, and running
tools are cancelled, because nobody is left to hear them. The writer then has a moment for its goodbye.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import trio
from msgspec import UNSET, Raw
from trio_websocket import ConnectionClosed, WebSocketConnection

from car_trio.client.dialling import SOCKET_ENDED, open_websocket
from car_trio.client.errors import CallRefused, Disconnected
from car_trio.client.feed import Feed, Topic
from car_trio.client.finding import Endpoint
from car_trio.client.sent import encoded
from car_trio.client.tools import Toolbox
from car_trio.wire import frames
from car_trio.wire.chat import ChatSession
from car_trio.wire.errors import METHOD_NOT_FOUND, Refusal
from car_trio.wire.host import Gap, HostEvent
from car_trio.wire.runs import TraceEvent
from car_trio.wire.tools import CancelTool, Tool

NULL = Raw(b"null")

GOODBYE_SECONDS = 2.0
"""For what is posted and the Close handshake. Closing at once could reset the connection under words that the
daemon has not read yet; a daemon that does not answer loses only its Close frame."""


def _trace(params: Raw) -> tuple[str, TraceEvent]:
    event = msgspec.json.decode(params, type=TraceEvent)
    return event.run_id, event


def _chat(params: Raw) -> tuple[str, dict[str, Any]]:
    about = msgspec.json.decode(params, type=ChatSession).session_id
    return about, msgspec.json.decode(params, type=dict[str, Any])


class _Kind(msgspec.Struct):
    kind: str


def _host(params: Raw) -> tuple[str, HostEvent | Gap]:
    if msgspec.json.decode(params, type=_Kind).kind == "host.gap":
        return "", msgspec.json.decode(params, type=Gap)
    return "", msgspec.json.decode(params, type=HostEvent)


TOPICS: dict[str, Callable[[Raw], tuple[str, Any]]] = {
    "runs.trace.event": _trace,
    "agents.chat.event": _chat,
    "host.event": _host,
}
"""The notifications that go into feeds: what each is about, and what it says."""


class Waiter:
    """A call that waits: woken by its reply, or by the end of the link, which leaves `reply` empty."""

    def __init__(self) -> None:
        self.woken = trio.Event()
        self.reply: frames.Frame | None = None


class Link:
    """A connection to the daemon from the dial to the end. `gone`: nothing more will be heard. `closed`: the
    socket is closed too. Both stay set."""

    def __init__(self, toolbox: Toolbox) -> None:
        self.gone = trio.Event()
        self.closed = trio.Event()
        self.registered: dict[str, Tool] = {}
        self._toolbox = toolbox
        self._ids = itertools.count(1)
        self._waiters: dict[int, Waiter] = {}
        self._running: dict[bytes, trio.CancelScope] = {}
        self._feeds: dict[Topic, Feed[Any]] = {}
        self._outbound, self._to_send = trio.open_memory_channel[bytes](math.inf)
        self._why = "the connection is closed"

    async def live(
        self, endpoint: Endpoint, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Owns the socket until either side ends it. Raises `DaemonUnreachable` before it has started."""
        try:
            async with open_websocket(endpoint) as websocket, trio.open_nursery() as pumps:
                pumps.start_soon(self._write, websocket)
                task_status.started()
                async with trio.open_nursery() as tools:
                    await self._read(websocket, tools)
                    self._settle()
                    tools.cancel_scope.cancel()
                pumps.cancel_scope.deadline = trio.current_time() + GOODBYE_SECONDS
        finally:
            self._settle()
            self.closed.set()

    def hang_up(self) -> None:
        """Lets the writer send what is posted and then say goodbye; `closed` tells when that is over."""
        self._outbound.close()

    async def call(self, method: str, params: object = None) -> Raw:
        """Sends a request and waits for its reply. Cancelled, it forgets the id, and a late reply is dropped.

        Raises `CallRefused` for an error reply, `Disconnected` when the socket has gone or goes, and ValueError or
        TypeError for params that JSON cannot write, which are not sent.
        """
        if self.gone.is_set():
            raise Disconnected(f"{method} was not sent: {self._why}")
        request_id = next(self._ids)
        frame = request_frame(request_id, method, params)
        waiter = self._waiters[request_id] = Waiter()
        self.post(frame)
        try:
            await waiter.woken.wait()
        finally:
            del self._waiters[request_id]
        if waiter.reply is None:
            raise Disconnected(f"{method} was sent, and no reply came: {self._why}")
        return _result(waiter.reply)

    def post(self, frame: bytes) -> None:
        """Hands a frame to the writer. On a link that has ended this does nothing: there is nobody to
        tell."""
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            self._outbound.send_nowait(frame)

    def attach(self, topic: Topic) -> Feed[Any]:
        """A new feed for the events of a topic; the feed that had them before gets no more and is told so."""
        replaced = self._feeds.get(topic)
        feed = self._feeds[topic] = Feed[Any](topic)
        if replaced is not None:
            replaced.replace()
        return feed

    def is_attached(self, topic: Topic) -> bool:
        """Whether a feed has the events of the topic."""
        return topic in self._feeds

    def detach(self, feed: Feed[Any]) -> bool:
        """Gives `feed` no more events. False if another feed has its topic by now: then the subscription is that
        one's."""
        if self._feeds.get(feed.topic) is not feed:
            return False
        del self._feeds[feed.topic]
        return True

    @property
    def why(self) -> str:
        """Why nothing more is heard, once `gone` is set."""
        return self._why

    async def _write(self, websocket: WebSocketConnection) -> None:
        with suppress(*SOCKET_ENDED):
            async for frame in self._to_send:
                await websocket.send_message(frame.decode())
            await websocket.aclose()

    async def _read(self, websocket: WebSocketConnection, tools: trio.Nursery) -> None:
        try:
            while True:
                message = await websocket.get_message()
                self._take(frames.parse(message.encode() if isinstance(message, str) else message), tools)
        except ConnectionClosed as closed:
            reason = closed.reason
            self._why = (
                f"it was closed ({reason.code} {reason.reason or reason.name})" if reason else self._why
            )
        except (frames.Unreadable, msgspec.ValidationError) as error:
            self._why = f"the daemon sent something that is not its protocol: {error}"

    def _take(self, frame: frames.Frame, tools: trio.Nursery) -> None:
        params = NULL if frame.params is UNSET else frame.params
        if frame.method is UNSET:
            self._reply(frame)
        elif frame.method in TOPICS:
            self._offer(frame.method, params)
        elif frame.method == "tools.cancel":
            self._cancel(msgspec.json.decode(params, type=CancelTool))
        elif frame.id is not UNSET:
            self._serve(frame.method, bytes(frame.id), params, tools)

    def _reply(self, frame: frames.Frame) -> None:
        with suppress(ValueError):
            waiter = self._waiters.get(int(bytes(frame.id if frame.id is not UNSET else NULL)))
            if waiter is not None:
                waiter.reply = frame
                waiter.woken.set()

    def _offer(self, method: str, params: Raw) -> None:
        about, event = TOPICS[method](params)
        feed = self._feeds.get(Topic(method, about))
        if feed is not None:
            feed.offer(event, len(bytes(params)))

    def _serve(self, method: str, request_id: bytes, params: Raw, tools: trio.Nursery) -> None:
        if method != "tools.execute":
            refusal = Refusal(f"this client does not answer {method!r}", METHOD_NOT_FOUND)
            self.post(frames.error_frame(request_id, refusal))
            return
        # The scope exists before its task runs, so that a cancel which overtakes the start is not lost.
        scope = self._running[request_id] = trio.CancelScope()
        tools.start_soon(self._execute, scope, request_id, params)

    async def _execute(self, scope: trio.CancelScope, request_id: bytes, params: Raw) -> None:
        reply = b""
        try:
            with scope:
                reply = await self._toolbox.answer(request_id, params)
        finally:
            self._running.pop(request_id, None)
        if not scope.cancel_called:
            self.post(reply)

    def _cancel(self, notice: CancelTool) -> None:
        scope = self._running.get(frames.encode(notice.request_id))
        if scope is not None:
            scope.cancel()

    def _settle(self) -> None:
        self.gone.set()
        self._outbound.close()
        for waiter in self._waiters.values():
            waiter.woken.set()
        for feed in self._feeds.values():
            feed.wake()


def request_frame(request_id: int, method: str, params: object) -> bytes:
    """A request; `params` that are `None` are left out. Raises ValueError for a number that JSON cannot write."""
    request: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": method}
    if params is not None:
        request["params"] = params
    return encoded(request, f"{method}: what is sent")


def _result(reply: frames.Frame) -> Raw:
    if reply.error is not UNSET:
        error = frames.read_error(reply.error)
        raise CallRefused(error.code, error.message, _said(error.data))
    return NULL if reply.result is UNSET else reply.result


def _said(data: Raw) -> Any:
    """What a refusal says beside its message; nothing when that cannot be read."""
    with suppress(msgspec.MsgspecError, RecursionError):
        return msgspec.json.decode(data)
    return None
