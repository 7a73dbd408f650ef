"""What a method may touch.

A method is a function of a `Context` and its decoded params. It decides with the shared owners (`daemon`) and the
connection's own things, and waits only through the context: for a thread (`in_thread`) or for the peer to read
(`drained`). It never sees a socket, and it never builds a frame: it returns a value or raises a Refusal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, TypeVarTuple

from msgspec import Raw

from car_trio.state.absent import Life
from car_trio.state.chat import Chats
from car_trio.state.event_log import EventLog
from car_trio.state.host import Host
from car_trio.state.permissions import Permissions
from car_trio.state.policy_files import FilePolicies
from car_trio.state.run import Run, Ticket
from car_trio.state.runs import RunRegistry
from car_trio.state.session import Attachments, Secrets, Session
from car_trio.state.values import Tenants
from car_trio.state.web_sessions import WebSessions
from car_trio.store.reader import Page, Position
from car_trio.wire.events import EventsFound, QueryEvents
from car_trio.wire.frames import ErrorObject
from car_trio.wire.runs import CatalogRow, RunRef, SearchRuns
from car_trio.wire.session import Kept

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Paged = tuple[list[CatalogRow], str | None]
"""Rows, newest first, and the cursor of the next page."""


@dataclass(slots=True)
class Answer:
    """A result that is not simply posted: after the `ticket` is settled (what it says is true then), or with
    something to do in the same step, right after the reply is queued."""

    result: Any
    ticket: Ticket | None = None
    then: Callable[[], None] | None = None


class Removal(Ticket, Protocol):
    """The ticket of a removal; `bytes` is what it freed, once it is settled."""

    bytes: int


class Store(Protocol):
    """The store as methods see it. What reads blocks: it is for a thread."""

    @property
    def degraded(self) -> str | None: ...
    def find(self, run_id: str) -> CatalogRow | None: ...
    def check(self, purpose: Literal["start", "turns"], run: RunRef) -> None: ...
    def list_runs(
        self, agent_id: str, cursor: str | None, limit: int | None, newer: list[CatalogRow]
    ) -> Paged: ...
    def torn_bytes(self, ref: RunRef) -> int: ...
    def search(self, ask: SearchRuns, newer: list[CatalogRow]) -> Paged: ...
    def read_page(
        self, ref: RunRef, position: Position, *, until: int | None, max_bytes: int, max_records: int | None
    ) -> Page: ...
    def flush(self) -> None: ...
    def remove(self, row: CatalogRow, why: str) -> Removal: ...
    def removable(self, run_ids: Sequence[str], older_than: str | None) -> list[CatalogRow]: ...
    def events(self, client_id: str, ask: QueryEvents) -> EventsFound: ...


class Policies(Protocol):
    """The policies that come from files. `refresh` notices changes, `require` raises Refusal while a file is broken."""

    @property
    def current(self) -> FilePolicies: ...
    def refresh(self) -> None: ...
    def require(self) -> None: ...


class Subscription(Protocol):
    """One connection's view of one run. `begin` starts its delivery after this cursor, which stands at this place."""

    def begin(self, cursor: int, position: Position) -> None: ...
    def close(self) -> None: ...


class Feed(Protocol):
    """One connection's view of the host events. `begin` starts its delivery."""

    def begin(self) -> None: ...


class Alarm(Protocol):
    """Wakes the daemon's deadlines: `until_due` returns at the earliest time that was set since it last did."""

    def set(self, at: float) -> None: ...
    async def until_due(self) -> None: ...


class ChannelClosed(Exception):  # noqa: N818 - how a call ended, not a defect
    """The client left before it answered."""


class CallbackTimedOut(Exception):  # noqa: N818 - how a call ended, not a defect
    """The client did not answer within the backstop; `seconds` as the message shows them."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Client(Protocol):
    """The connection at whose request a method runs."""

    async def call_tool(
        self,
        tool: str,
        parameters: object,
        *,
        action_id: str,
        attempt: int,
        timeout_ms: int | None,
        session_id: str,
        backstop: float,
    ) -> Raw | ErrorObject: ...
    def subscribe(self, run: Run, life: Life) -> Subscription: ...
    def unsubscribe(self, run_id: str) -> bool: ...
    async def drained(self) -> None: ...
    def notify(self, method: str, params: object) -> None: ...
    async def ask(self, method: str, params: object, seconds: float) -> Raw | ErrorObject: ...
    def watch_host(self) -> Feed: ...


@dataclass(slots=True, eq=False)
class Daemon:
    """What all connections share: the owners of state, and the store. `clients` are the connections by session."""

    version: str
    durability: str
    kept: Kept
    tool_timeout_seconds: float
    runs: RunRegistry
    store: Store
    secrets: Secrets | None
    web: WebSessions
    attachments: Attachments
    policies: Policies
    permissions: Permissions
    check_name: Callable[[str], object]
    log_event: Callable[[str, bytes, bool], Ticket]
    now: Callable[[], str]
    new_id: Callable[[], str]
    uptime: Callable[[], float]
    methods: dict[str, Any]
    host: Host
    chats: Chats
    clients: dict[str, Client]
    alarm: Alarm
    boot_id: str
    tenants: Tenants = field(default_factory=Tenants)
    sessions: dict[str, Session] = field(default_factory=dict[str, Session])
    is_stopping: bool = False
    document: Raw | None = None
    counters: Counter[str] = field(default_factory=Counter[str])


class Waiting(Protocol):
    """How a method waits; made of Trio by the connection."""

    async def in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T: ...
    async def settled(self, ticket: Ticket) -> None: ...
    async def sleep(self, seconds: float) -> None: ...
    async def in_steps(self, steps: Generator[None, None, T]) -> T: ...


@dataclass(slots=True, eq=False)
class Context:
    """`allow(seconds)` gives the request at hand another deadline than the usual one, counted from now."""

    daemon: Daemon
    session: Session
    events: EventLog
    client: Client
    waiting: Waiting
    allow: Callable[[float], None]

    def of_request(self, allow: Callable[[float], None]) -> Context:
        """The same for one request."""
        return Context(self.daemon, self.session, self.events, self.client, self.waiting, allow)

    async def in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Runs a plain function that blocks (disk, SQLite). If cancelled, the thread ends by itself, unheard."""
        return await self.waiting.in_thread(function, *args)

    async def settled(self, ticket: Ticket) -> None:
        """Waits until it is durable. Raises the ticket's Refusal."""
        await self.waiting.settled(ticket)

    async def sleep(self, seconds: float) -> None:
        await self.waiting.sleep(seconds)

    async def in_steps(self, steps: Generator[None, None, T]) -> T:
        """Takes the steps of a generator, with others in between; returns its value."""
        return await self.waiting.in_steps(steps)

    async def drained(self) -> None:
        """Waits until the peer has read enough: a reply built from disk is not built before."""
        await self.client.drained()
