"""Every lifetime of the daemon, read from the indentation: what is further in dies first.

The journal is outermost, because everybody below writes to it. Ports are bound before any run is touched, orphans are
adopted before the first connection can exist, tokens are published last, because a token says "come in". Duties
outlive connections: a vanished connection's sweep is one. A stop walks the same way back: no new connections, then
the open ones with a deadline, then the duties (each sweep ends its runs as it goes), then what is still open, then
the journal writes all that waits.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from secrets import token_urlsafe
from typing import NamedTuple

import trio

import car_trio
from car_trio.config import Config, ConfigError, Server
from car_trio.methods.context import Client, Daemon
from car_trio.methods.method import Method
from car_trio.methods.table import METHODS
from car_trio.nursery.alarm import Alarm
from car_trio.nursery.connection import Common, Connection
from car_trio.nursery.duties import deadlines, grace_sweep, guarded, heartbeat, retention, watchdog
from car_trio.nursery.gate import Gate
from car_trio.nursery.limits import raise_descriptor_limit
from car_trio.nursery.listeners import Endpoints, bind
from car_trio.nursery.lookups import LookupDesk
from car_trio.nursery.peer import WAITS
from car_trio.nursery.policies import PolicyFiles
from car_trio.nursery.storage import LEDGER, OpenStore, open_store
from car_trio.nursery.systemd import notify
from car_trio.nursery.tokens import TOKEN_BYTES, Tokens, published_tokens, write_private
from car_trio.nursery.web import Page
from car_trio.state.chat import Chats
from car_trio.state.host import Host
from car_trio.state.permissions import Ledger, Permissions
from car_trio.state.run import Ticket
from car_trio.state.runs import RunRegistry
from car_trio.state.session import Attachments, Secrets
from car_trio.state.web_sessions import WebSessions
from car_trio.store.layout import encode_name
from car_trio.wire.errors import Refusal
from car_trio.wire.frames import encode
from car_trio.wire.runs import now
from car_trio.wire.session import Kept
from car_trio.wire.types import learn_types

LAST_FRAMES_SECONDS = 1.0
LAST_SYNC_SECONDS = 2.0

LOG = logging.getLogger("car_trio")


class Endpoint(NamedTuple):
    """Where clients find the daemon, once it serves."""

    url: str
    tokens: Tokens | None
    web_url: str | None = None


class Connections:
    """Those that are open, and how many of them are still strangers."""

    def __init__(self, max_connections: int, max_unauthenticated: int) -> None:
        self._max_connections = max_connections
        self._max_unauthenticated = max_unauthenticated
        self._strangers: set[Connection] = set()
        self.open: set[Connection] = set()

    def is_full(self) -> bool:
        """Whether one more would be too many; asked by the newcomer itself, which is counted already."""
        return len(self.open) > self._max_connections or len(self._strangers) > self._max_unauthenticated

    def enter(self, connection: Connection) -> None:
        self.open.add(connection)
        if not connection.session.authenticated:
            self._strangers.add(connection)

    def known(self, connection: Connection) -> None:
        self._strangers.discard(connection)

    def leave(self, connection: Connection) -> None:
        self.open.discard(connection)
        self._strangers.discard(connection)


async def serve(
    config: Config,
    stop_requested: Callable[[], Awaitable[object]],
    *,
    ready: Callable[[Config, Endpoint], None] = lambda _, __: None,
    methods: dict[str, Method] | None = None,
) -> None:
    """Runs the daemon until `stop_requested` returns. `ready` is called when the first connection can be made.
    `methods` takes the place of the usual table.

    Raises `ConfigError` for a lock, port, path or token file that cannot be had; then nothing was touched that the
    cause does not name. If cancelled, runs end as `shutdown` and everything acknowledged is on disk.
    """
    for warning in config.warnings:
        LOG.warning("%s", warning)
    learn_types()  # while there is one thread
    raise_descriptor_limit()
    async with open_store(config) as store:  # dies last: everybody below writes to it
        async with bound(config) as endpoints:  # a taken port touches no run
            failed = await store.adopt_orphans()  # before the first connection can exist
            with published(config, endpoints) as (secrets, tokens):
                daemon = build(config, store, secrets, web_sessions(endpoints), methods)
                for row in failed:
                    daemon.runs.end_orphan(row)
                try:
                    await live(
                        daemon,
                        config,
                        store,
                        endpoints,
                        stop_requested,
                        partial(ready, config, Endpoint(endpoints.url, tokens, endpoints.web_url)),
                    )
                finally:
                    ends = daemon.runs.end_all("shutdown")
                    LOG.info("stopped; %d open runs ended as shutdown", len(ends))
                await synced(ends)  # before the tokens and the socket go


async def synced(ends: Sequence[Ticket]) -> None:
    """Waits until these are on disk, for a moment: the journal writes them anyway before it closes."""
    with trio.move_on_after(LAST_SYNC_SECONDS):
        for ticket in ends:
            with suppress(Refusal):
                await WAITS.settled(ticket)


async def live(
    daemon: Daemon,
    config: Config,
    store: OpenStore,
    endpoints: Endpoints,
    stop_requested: Callable[[], Awaitable[object]],
    ready: Callable[[], None],
) -> None:
    """The nurseries of a serving daemon, from the one that dies last to the one that dies first."""
    server, environment = config.server, config.environment
    connections = Connections(server.max_connections, server.max_unauthenticated)
    daemon.host.approvals.restore(await store.ended_approvals())
    async with trio.open_nursery() as duties:  # outlives connections: a sweep may still have to wait
        duties.start_soon(guarded, "retention", partial(retention, daemon, store))
        duties.start_soon(guarded, "heartbeat", partial(heartbeat, connections.open))
        duties.start_soon(guarded, "deadlines", partial(deadlines, daemon))
        if environment.watchdog_seconds is not None:
            ping = partial(
                watchdog, environment.notify_socket, environment.watchdog_seconds, store.journal.ping
            )
            duties.start_soon(guarded, "watchdog", ping)
        duties.start_soon(guarded, "postman", store.together.deliver)
        async with trio.open_nursery() as guests:
            common = Common(
                daemon,
                config,
                LookupDesk(store.find, daemon.runs),
                Gate(daemon.host.approvals, config.approvals),
                store.together,
                spawn=guests.start_soon,
                is_full=connections.is_full,
                known=connections.known,
                left=partial(schedule_sweep, daemon, duties, config.runs.grace_ms / 1000),
            )
            duties.start_soon(guarded, "backstops", common.backstops.keep)
            welcome = partial(admit, common, connections)
            async with trio.open_nursery() as listeners:  # dies first, and visits of the page with it
                open_doors(endpoints, server, welcome, listeners)
                ready()
                notify(environment.notify_socket, "READY=1")
                await stop_requested()
                notify(environment.notify_socket, "STOPPING=1")
                listeners.cancel_scope.cancel()
            endpoints.close()
            daemon.is_stopping = True
            deadline = trio.current_time() + server.drain_seconds
            for connection in list(connections.open):
                connection.stop(deadline)
            guests.cancel_scope.deadline = deadline + LAST_FRAMES_SECONDS
        duties.cancel_scope.cancel()


def open_doors(
    endpoints: Endpoints, server: Server, welcome: Callable[..., object], listeners: trio.Nursery
) -> None:
    """Starts accepting connections, and visitors of the page, some of whom become connections."""
    endpoints.listen(listeners, welcome)
    if endpoints.page is not None:
        page = Page(
            server, endpoints.page.port, endpoints.url, lambda stream, said: welcome(stream, False, said)
        )
        endpoints.page.listen(listeners, partial(page.welcome, listeners))
        LOG.info("the page is at %s; car-trio ui opens it", endpoints.page.url)


def admit(
    common: Common,
    connections: Connections,
    stream: trio.abc.Stream,
    is_remote: bool,
    upgrade: bytes | None = None,
) -> Connection:
    """A new connection gets its own guarded task. `upgrade` comes from the page's port, see `Connection`."""
    connection = Connection(common, stream, is_remote=is_remote, upgrade=upgrade)
    connections.enter(connection)
    common.spawn(host, connection, connections)
    return connection


async def host(connection: Connection, connections: Connections) -> None:
    """A connection from its first byte to its last."""
    try:
        await connection.run()
    finally:
        connections.leave(connection)


def schedule_sweep(daemon: Daemon, duties: trio.Nursery, grace: float, gone: Connection) -> None:
    due = gone.left_at + grace
    duties.start_soon(
        grace_sweep, daemon.runs, gone.session.id, due, gone.over.wait, lambda: daemon.is_stopping
    )


def build(
    config: Config,
    store: OpenStore,
    secrets: Secrets | None,
    web: WebSessions,
    methods: dict[str, Method] | None = None,
) -> Daemon:
    """The owners of state, wired to the journal and to each other. `methods` in the place of the usual table."""
    started = trio.current_time()
    alarm, clients, counters = Alarm(), dict[str, Client](), Counter[str]()
    host, journal = watched(store, alarm), store.journal
    runs = RunRegistry(
        record=journal.put,
        admit=journal.check,
        check_name=encode_name,
        now=now,
        new_id=lambda: str(uuid.uuid4()),
        max_turns=config.runs.max_turns,
        default_agent=config.environment.agent_id,
        publish=host.run_changed,
    )
    return Daemon(
        durability=config.runs.durability,
        kept=Kept(config.runs.max_per_agent, config.runs.max_age_days, config.runs.keep_free_bytes),
        tool_timeout_seconds=config.server.tool_timeout_seconds,
        version=car_trio.__version__,
        runs=runs,
        store=store,
        secrets=secrets,
        web=web,
        attachments=Attachments(),
        policies=PolicyFiles(config.home / "policies", lambda: trio.current_time() - started),
        permissions=Permissions(
            Ledger(partial(journal.log, LEDGER, sync=True), store.ledger()),
            gate=config.permissions.gate,
            tier=config.permissions.tier,
        ),
        check_name=encode_name,
        log_event=store.log_event,
        now=now,
        new_id=lambda: str(uuid.uuid4()),
        uptime=lambda: trio.current_time() - started,
        methods=METHODS if methods is None else methods,
        host=host,
        chats=chats_between(clients, alarm, counters),
        clients=clients,
        alarm=alarm,
        boot_id=str(uuid.uuid4()),
        counters=counters,
    )


def web_sessions(endpoints: Endpoints) -> WebSessions:
    """Who may use the page; nobody, where it is not served."""
    return WebSessions(
        clock=trio.current_time,
        mint=partial(token_urlsafe, TOKEN_BYTES),
        url=endpoints.web_url,
        why=endpoints.no_page,
    )


def watched(store: OpenStore, alarm: Alarm) -> Host:
    """What hosts share, with news of the store's health."""
    host = Host(
        now=now,
        clock=trio.current_time,
        new_hex=lambda: uuid.uuid4().hex[:12],
        log=store.log_approval,
        due=alarm.set,
    )
    if store.degraded is not None:
        host.store_changed(store.degraded)
    store.health.listeners.append(host.store_changed)
    return host


def chats_between(clients: Mapping[str, Client], alarm: Alarm, counters: Counter[str]) -> Chats:
    """The chats of these connections."""

    def tell(session_id: str, method: str, params: object) -> None:
        if session_id in clients:
            clients[session_id].notify(method, params)

    return Chats(
        tell=tell,
        clock=trio.current_time,
        new_id=lambda: str(uuid.uuid4()),
        due=alarm.set,
        counters=counters,
    )


@asynccontextmanager
async def bound(config: Config) -> AsyncGenerator[Endpoints, None]:
    """The listening sockets; closing twice is fine, a stop closes them early."""
    endpoints = await bind(config)
    try:
        yield endpoints
    finally:
        endpoints.close()


def page_of(config: Config, endpoints: Endpoints) -> dict[str, str]:
    """What `daemon.json` says of the page: where it is, or why it is missing; nothing where nobody wanted one."""
    if endpoints.web_url is not None:
        return {"web_url": endpoints.web_url}
    return {"no_page": endpoints.no_page} if config.web.enabled else {}


@contextmanager
def published(
    config: Config, endpoints: Endpoints
) -> Generator[tuple[Secrets | None, Tokens | None], None, None]:
    """Tokens (with authentication on) and `run/daemon.json`, for as long as the daemon serves."""
    path = config.home / "run" / "daemon.json"
    with ExitStack() as files:
        tokens = files.enter_context(published_tokens(config)) if config.server.auth else None
        said = {
            "pid": os.getpid(),
            "url": endpoints.url,
            "socket": None if endpoints.path is None else str(endpoints.path),
            "version": car_trio.__version__,
            "started_at": now(),
        } | page_of(config, endpoints)
        try:
            write_private(path, encode(said))
        except OSError as error:
            raise ConfigError(
                f"cannot write {path}: {error.strerror}; remove what is in its place"
            ) from error
        files.callback(_withdraw, path)
        yield (None if tokens is None else Secrets(*tokens)), tokens


def _withdraw(path: Path) -> None:
    """Removes what says where the daemon is. One that stays names a process that is gone, as after a kill."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        LOG.warning("%s cannot be removed: %s", path, error.strerror)
