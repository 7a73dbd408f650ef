"""One client: a reader that is the dispatcher, and a task for each request that waits.

The reader waits for the socket and for nothing else, so replies to our own callbacks, pings and closes never wait
behind requests. Everything that belongs to the connection dies in `_gone`, one synchronous step that reads like a
list. What is posted after it (`tools.cancel`, a last reply) still goes out: a writer, when one is needed, is a task
beside the connection's own, and ends when the stream is closed at the latest.

A connection is a guarded place: an error in it ends it, is counted and logged, and touches nobody else.
"""

from __future__ import annotations

import http
import logging
import math
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import trio
from websockets.http11 import Request as HttpRequest

from car_trio.config import LOOPBACK, Config, Server
from car_trio.methods.context import Context, Daemon
from car_trio.nursery.backstops import Backstops
from car_trio.nursery.callbacks import Callbacks
from car_trio.nursery.dispatch import Dispatcher
from car_trio.nursery.gate import Gate
from car_trio.nursery.lookups import LookupDesk
from car_trio.nursery.outbound import Outbound
from car_trio.nursery.peer import WAITS, Peer
from car_trio.nursery.socket import Rejection, Socket
from car_trio.nursery.together import Together
from car_trio.state.event_log import EventLog
from car_trio.state.session import Session
from car_trio.wire.events import event_time

LOG = logging.getLogger("car_trio.connection")
UNAUTHENTICATED_MESSAGE_BYTES = 65_536


def is_allowed_host(values: Iterable[str], server: Server) -> bool | None:
    """Whether the Host header names this machine (DNS rebinding); `None` unless there is exactly one."""
    hosts = list(values)
    if len(hosts) != 1:
        return None
    host = hosts[0].strip().lower()
    name = host.rsplit(":", 1)[0] if host.rsplit(":", 1)[-1].isdigit() else host
    allowed = {"127.0.0.1", "localhost", "[::1]", *(each.lower() for each in server.allowed_hosts)}
    if server.host not in LOOPBACK:
        allowed.add(f"[{server.host.lower()}]" if ":" in server.host else server.host.lower())
    return name in allowed


def judge(server: Server, request: HttpRequest) -> Rejection | None:
    """The checks before the upgrade (protocol `wire.md` section 1). Authentication off does not weaken them."""
    host = is_allowed_host(request.headers.get_all("Host"), server)
    if host is None:
        return Rejection(http.HTTPStatus.BAD_REQUEST, "exactly one Host header is expected\n")
    if not host:
        text = "this Host is not served here; add it to [server] allowed_hosts if it should be\n"
        return Rejection(http.HTTPStatus.MISDIRECTED_REQUEST, text)
    origins = request.headers.get_all("Origin")
    if any(origin not in server.allowed_origins for origin in origins):
        text = "this Origin may not connect; add it to [server] allowed_origins if it should\n"
        return Rejection(http.HTTPStatus.FORBIDDEN, text)
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Common:
    """What all connections of a daemon share. `spawn` starts a task that outlives a connection's requests; `is_full`
    tells whether another stranger may be let in; `known` and `left` are told of those who said who they are, and of
    those who went."""

    daemon: Daemon
    config: Config
    desk: LookupDesk
    gate: Gate
    together: Together
    spawn: Callable[..., object]
    is_full: Callable[[], bool]
    known: Callable[[Connection], None]
    left: Callable[[Connection], None]
    backstops: Backstops = field(default_factory=Backstops)


class Connection:
    """One client's connection; `run` is its whole life.

    `upgrade` is a request that was read, and judged, at the page's port, and what came behind it."""

    __slots__ = (
        "_callbacks", "_common", "_dispatcher", "_events", "_is_judged", "_out", "_peer", "_reading",
        "_requests", "_requests_deadline", "_socket", "_stream", "is_known", "is_remote", "left_at", "over",
        "session",
    )  # fmt: skip  # there is one for each idle connection

    def __init__(
        self,
        common: Common,
        stream: trio.abc.Stream,
        *,
        is_remote: bool = False,
        upgrade: bytes | None = None,
    ) -> None:
        daemon = common.daemon
        self._common = common
        self._stream = stream
        self._is_judged = upgrade is not None
        self._reading = trio.CancelScope()
        self._requests: trio.CancelScope | None = None
        self._requests_deadline = math.inf
        self._peer: Peer | None = None
        self._dispatcher: Dispatcher | None = None
        self.session = Session(
            uuid.uuid4().hex,
            open_house=daemon.secrets is None,
            at_page=self._is_judged,
            tier=daemon.permissions.tier,
        )
        self.is_remote = is_remote
        self.is_known = False
        self.left_at = math.inf
        self.over = trio.Event()
        self._out = Outbound(
            stream,
            stall_seconds=common.config.server.write_stall_seconds,
            together=common.together,
            cut=self._cut,
            spawn=self._spawn_writer,
        )
        self._socket = Socket(
            stream, self._out, max_message_bytes=UNAUTHENTICATED_MESSAGE_BYTES, early=upgrade or b""
        )
        self._callbacks = Callbacks(self._socket.post, common.backstops, daemon.counters)
        self._events = EventLog(self.session.id, daemon.log_event, event_time)

    # The life

    async def run(self) -> None:
        """Until the client is gone, `stop` and its deadline, or an error, which is logged and goes no further."""
        try:
            await self._live()
        except* Exception:
            self._failed()
        finally:
            self._gone()
            self.over.set()
            self._events.close()
            self._out.abandon()
            await trio.aclose_forcefully(self._stream)

    async def _live(self) -> None:
        server = self._common.config.server
        upgraded = False
        with self._reading:
            self._reading.deadline = trio.current_time() + server.handshake_seconds
            upgraded = await self._socket.handshake(self._judge)
        if self._reading.cancelled_caught:
            return
        if upgraded:
            self._reading = trio.CancelScope(deadline=trio.current_time() + server.auth_seconds)
            async with trio.open_nursery() as requests:
                try:
                    await self._read(requests)
                finally:
                    self._gone()
                    requests.cancel_scope.deadline = self._requests_deadline
        else:
            self._common.known(self)  # turned away: it takes no stranger's place while it reads the answer
        self.over.set()
        if not self._out.dead:
            self._out.finish()
            await self._socket.linger()
            await self._out.finished()

    def _failed(self) -> None:
        self._common.daemon.counters["connections_failed"] += 1
        LOG.exception("session %s ended by an error of the daemon", self.session.id)

    def _spawn_writer(self, write: Callable[[], Awaitable[None]]) -> None:
        self._common.spawn(self._guarded, write)

    async def _guarded(self, write: Callable[[], Awaitable[None]]) -> None:
        try:
            await write()
        except Exception:
            self._failed()
            self._cut("its writer failed")

    def _judge(self, request: HttpRequest) -> Rejection | None:
        if self._common.is_full():
            return Rejection(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many connections; try again later\n")
        return None if self._is_judged else judge(self._common.config.server, request)

    async def _read(self, requests: trio.Nursery) -> None:
        common = self._common
        self._peer = Peer(
            common.daemon, self.session, self._socket, self._out, self._callbacks, requests.start_soon
        )
        common.daemon.clients[self.session.id] = self._peer
        self._dispatcher = Dispatcher(
            Context(common.daemon, self.session, self._events, self._peer, WAITS, allow=lambda _: None),
            self._callbacks,
            common.desk,
            common.gate,
            common.config,
            post=self._socket.post,
            close=self._close,
            spawn=requests.start_soon,
        )
        self._requests = requests.cancel_scope
        self._recognise()
        with self._reading:
            while (messages := await self._socket.receive()) is not None:
                for message in messages:
                    self._dispatcher.take(message)
                if not self.is_known or self.session.at_page:
                    self._recognise()
        if self._reading.cancelled_caught and trio.current_time() >= self._reading.deadline:
            self._time_is_over()

    def _time_is_over(self) -> None:
        """A stranger's, to say who it is, or that of a page's session."""
        if self.is_known:
            self._socket.close(1008, "the web session is over")
        else:
            self._out.abandon()

    def _recognise(self) -> None:
        """Once the client has said who it is, the limits for strangers are lifted. A page has its role for a time."""
        if self.session.authenticated:
            self.is_known = True
            self._common.daemon.sessions[self.session.id] = self.session
            self._reading.deadline = self.session.valid_until
            self._socket.allow(self._common.config.server.max_message_bytes)
            self._common.known(self)

    # The end

    def _gone(self) -> None:
        """The client is gone. Its runs stay open for the grace sweep; its requests have as long to finish."""
        if self.left_at < math.inf:
            return
        self.left_at = trio.current_time()
        self.session.is_gone = True
        self._requests_deadline = min(
            self._requests_deadline, self.left_at + self._common.config.runs.grace_ms / 1000
        )
        daemon, session_id = self._common.daemon, self.session.id
        if not self._socket.is_open:
            # A stop cancels its requests instead, while the client can still be told to stop each call.
            self._callbacks.close()
        daemon.attachments.release(session_id)
        daemon.clients.pop(session_id, None)
        daemon.chats.leave(session_id)
        daemon.host.agents.leave(session_id)
        if self._peer is not None:
            self._peer.unwatch_host()
        daemon.host.approvals.leave(session_id)
        if self._peer is not None:
            self._peer.unsubscribe_all()
        daemon.runs.leave(session_id)
        daemon.sessions.pop(session_id, None)
        self._common.left(self)

    def _close(self, code: int, reason: str) -> None:
        """Ends the connection in order: what is posted is sent, then the close."""
        self._socket.close(code, reason)
        self._reading.cancel()

    def _cut(self, why: str) -> None:
        """Ends the connection at once: a writer in the middle of a send would wait for a peer that is given up."""
        LOG.warning("session %s is cut: %s", self.session.id, why)
        self._out.abandon()
        self._reading.cancel()

    def stop(self, deadline: float) -> None:
        """The daemon stops: an idle connection closes now, requests under way may take until `deadline`."""
        if self._dispatcher is None or self._requests is None:
            self._out.abandon()
            self._reading.cancel()
            return
        self._callbacks.reason = "shutdown"
        self._requests_deadline = deadline
        self._requests.deadline = min(self._requests.deadline, deadline)
        self._dispatcher.stop()

    @property
    def wants_a_beat(self) -> bool:
        """Whether it has requests under way or a far client; of the others nothing is to be said or asked."""
        return self.is_remote or (self._dispatcher is not None and bool(self._dispatcher.in_flight))

    def beat(self, before: float, now: float) -> None:
        """Called every few seconds, the last time `before`: says that long calls go on, and that a remote client is
        still there."""
        if self._dispatcher is not None:
            self._dispatcher.progress(before, now)
        if self.is_remote and self.is_known:
            silent = now - self._socket.last_heard
            if silent > 2 * self._common.config.server.ping_seconds:
                self._cut(f"no sign of life for {silent:.0f} s")
            elif silent > self._common.config.server.ping_seconds:
                self._socket.ping()
