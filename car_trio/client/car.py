"""The client's face: `connect` and what it gives.

A `Car` is an identity (where the daemon is, which token, which agent) and a toolbox; the socket under it is a
`Link`. Calls never hop from one socket to another: what was under way when a link ended raises
`Disconnected`, since nobody knows whether it took effect. Only a watch dials again, because it can: it knows
its cursor. After it has, the car's calls work again as well, on a connection whose tools are registered anew
and whose state, policies and current run are the daemon's fresh ones; the runs of the old connection have
ended as `incomplete`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec
import trio

from car_trio.client.aside import SetAside
from car_trio.client.chatting import Chat, conversation
from car_trio.client.errors import (
    CallRefused,
    DaemonUnreachable,
    Disconnected,
    TokenRefused,
    TokenUnreadable,
)
from car_trio.client.finding import Search
from car_trio.client.hosting import HostWatch
from car_trio.client.link import GOODBYE_SECONDS, Link
from car_trio.client.results import Submitted
from car_trio.client.running import Run, bracket
from car_trio.client.tools import Toolbox, ToolFunction
from car_trio.client.watching import Watch
from car_trio.wire import frames
from car_trio.wire.chat import StartChat
from car_trio.wire.runs import StartRun
from car_trio.wire.session import Authenticate
from car_trio.wire.tools import Tool

T = TypeVar("T")
F = TypeVar("F", bound=ToolFunction)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
REFUSALS_BORNE = 8
"""How often a dial may be refused in a row. A daemon that restarts refuses old tokens for a moment, and one
that has not yet seen the old socket's end still holds the agent's binding; a refusal that stays is the
caller's to know."""


@dataclass(frozen=True)
class Identity:
    """Who the connection is: its token if the caller gave one, the agent it is bound to, whether it is a
    host."""

    token: str | None
    agent_id: str | None
    host: bool


class Car:
    """A connection to the daemon; made by `connect`."""

    def __init__(self, search: Search, identity: Identity) -> None:
        self._search = search
        self._identity = identity
        self._toolbox = Toolbox()
        self._link = Link(self._toolbox)
        self._refused: CallRefused | TokenUnreadable | None = None
        self.current: str | None = None
        self._wanted = trio.Event()
        self._arrived = trio.Event()

    @overload
    async def call(self, method: str, params: object = None) -> Any: ...
    @overload
    async def call(self, method: str, params: object, result_type: type[T]) -> T: ...
    async def call(self, method: str, params: object = None, result_type: Any = Any) -> Any:
        """Calls a method and returns its result, decoded as `result_type`.

        There is no timeout but the caller's: `with trio.fail_after(30)`. Cancelled, the daemon may still do
        it; the reply is dropped. Raises `CallRefused` for an error reply, `Disconnected` when the socket has
        gone, and ValueError or TypeError for params that JSON cannot write, which are not sent.
        """
        return msgspec.json.decode(await self._link.call(method, params), type=result_type)

    def notify(self, method: str, params: object = None) -> None:
        """Posts a notification. It has no reply, so nothing is learned about what became of it."""
        self._link.post(frames.notification(method, params))

    def tool(self, name: str, **description: Any) -> Callable[[F], F]:
        """A decorator that offers `async def f(parameters: dict)` as a tool.

        `description` holds the other fields of `tools.register`: `description`, `parameters` (a JSON Schema),
        `returns`, `idempotent`, `cache_ttl_secs`, `rate_limit`. The daemon is told by `register`, at the
        latest by the next `submit`.
        """
        tool = msgspec.convert({"name": name, **description}, Tool)

        def offer(function: F) -> F:
            self._toolbox.add(tool, function)
            return function

        return offer

    async def register(self, **functions: ToolFunction) -> int:
        """Offers functions under their keyword names, tells the daemon about every tool it does not know yet,
        and returns how many those were."""
        for name, function in functions.items():
            self._toolbox.add(Tool(name), function)
        return await self._register_on(self._link)

    async def submit(
        self,
        proposal: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        session_id: str | None = None,
        scope: Mapping[str, Any] | None = None,
    ) -> Submitted:
        """Submits a proposal, or a list of actions as one, and returns what became of each action.

        Tools run meanwhile, in this connection's own tasks. Cancelled, the daemon goes on until its own
        deadline.
        """
        await self._register_on(self._link)
        whole = proposal if isinstance(proposal, Mapping) else {"actions": proposal}
        params: dict[str, Any] = {"proposal": whole}
        if session_id is not None:
            params["session_id"] = session_id
        if scope is not None:
            params["scope"] = scope
        return await self.call("proposal.submit", params, Submitted)

    def run(
        self,
        intent: str,
        *,
        agent_id: str | None = None,
        agent_name: str | None = None,
        outcome_description: str | None = None,
        idempotency_key: str | None = None,
    ) -> AbstractAsyncContextManager[Run]:
        """`async with car.run("...") as run:` starts a run and completes it when the block is left."""
        return bracket(self, StartRun(intent, agent_id, agent_name, outcome_description, idempotency_key))

    def watch(self, run_id: str, from_cursor: int = 0) -> Watch:
        """`async for event in car.watch(run_id):` gives every turn from `from_cursor` on, once and in order,
        then the live ones, and ends after the run's end. Lost connections are dialled again."""
        return Watch(self, run_id, from_cursor)

    def host_events(self) -> HostWatch:
        """`async for event in car.host_events():` gives a snapshot of agents and approvals, then what happens.
        Lost connections are dialled again, and then there is a new snapshot."""
        return HostWatch(self)

    def chat(
        self,
        agent_id: str,
        prompt: str,
        *,
        session_id: str | None = None,
        stream: bool = True,
        model: str | None = None,
    ) -> AbstractAsyncContextManager[Chat]:
        """`async with car.chat("ada", "hello") as chat:` asks an attached agent; `async for event in chat:` is
        what it says. Leaving the block earlier cancels the chat. Raises `CallRefused` when the agent is not
        attached or does not want to."""
        ask = StartChat(agent_id, prompt, session_id=session_id, stream=stream, model=model)
        return conversation(self._link, ask)

    async def link(self) -> Link:
        """The link in use; if it has ended, the next one, which this asks for."""
        while self._link.gone.is_set():
            self._wanted.set()
            await self._arrived.wait()
            if self._refused is not None:
                raise self._refused
        return self._link

    async def dial(self, sockets: trio.Nursery) -> None:
        """Replaces the link by one whose socket lives in `sockets`, authenticated and with the tools
        registered.

        Raises `DaemonUnreachable`, `CallRefused`, `TokenUnreadable` or `Disconnected`, and then the old link stays.
        """
        link = Link(self._toolbox)
        await sockets.start(link.live, self._search.endpoint())
        try:
            await self._authenticate(link)
            await self._register_on(link)
        except BaseException:
            link.hang_up()
            raise
        self._link = link

    async def dial_when_wanted(self, sockets: trio.Nursery) -> None:
        """Dials for the watches whose link has ended, until it succeeds or is refused for good."""
        while True:
            await self._wanted.wait()
            self._refused = await self._dial_until_settled(sockets)
            arrived, self._arrived = self._arrived, trio.Event()
            self._wanted = trio.Event()
            arrived.set()

    async def hang_up(self) -> None:
        """Sends what is posted, closes the socket and waits until it is closed, but not for long."""
        self._link.hang_up()
        with trio.move_on_after(GOODBYE_SECONDS):
            await self._link.closed.wait()

    async def _dial_until_settled(self, sockets: trio.Nursery) -> CallRefused | TokenUnreadable | None:
        pause, refusals = FIRST_PAUSE, 0
        while True:
            # The pause comes first, so that a daemon that accepts and drops is not dialled in a tight loop.
            await trio.sleep(pause)
            try:
                await self.dial(sockets)
                return None
            except (CallRefused, TokenUnreadable) as refused:
                refusals += 1
                if refusals == REFUSALS_BORNE:
                    return refused
            except (DaemonUnreachable, Disconnected):
                refusals = 0
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _authenticate(self, link: Link) -> None:
        token = self._identity.token or self._search.token()
        try:
            await self._show(link, token)
        except CallRefused as refused:
            # The daemon may have restarted, with a new token, between the reading and the asking.
            fresh = self._identity.token or self._search.token()
            if fresh == token:
                raise self._by_its_source(refused, token) from None
            await self._show(link, fresh)
        secret = self._search.host_token() if self._identity.host else None
        if secret is not None:
            await link.call("session.auth", Authenticate(host_token=secret))

    def _by_its_source(self, refused: CallRefused, token: str | None) -> CallRefused:
        """The refusal, told by what the caller can mend."""
        is_found = self._identity.token is None and self._search.is_of_environment(token)
        is_token = refused.message.startswith("auth failed: token mismatch")
        return TokenRefused(refused) if is_found and is_token else refused

    async def _show(self, link: Link, token: str | None) -> None:
        if token is not None or self._identity.agent_id is not None:
            await link.call("session.auth", Authenticate(token=token or "", agent_id=self._identity.agent_id))

    async def _register_on(self, link: Link) -> int:
        tools = self._toolbox.beyond(link.registered)
        if tools:
            await link.call("tools.register", tools)
            link.registered |= {tool.name: tool for tool in tools}
        return len(tools)


@asynccontextmanager
async def connect(
    url: str | None = None,
    *,
    token: str | None = None,
    agent_id: str | None = None,
    host: bool = False,
    socket: str | Path | None = None,
    home: str | None = None,
) -> AsyncGenerator[Car]:
    """`async with connect() as car:` connects to the daemon of this machine, authenticated.

    The daemon is looked for at `url` (`ws://host:port` or `ws+unix:///path`) or `socket`, then
    `CAR_DAEMON_URL`, then where `run/daemon.json` under the state root says, then the socket of a state root that
    `home` or `CAR_HOME` names, or else `ws://127.0.0.1:9100`. The token is `token`, then `CAR_AUTH_TOKEN`, then
    the token file; without any the client tries without.
    `agent_id` binds the connection to that agent; `host` asks for the host role with the host's token file;
    `home` is the state root.

    Raises `DaemonUnreachable` when nobody answers, `CallRefused` when the daemon does not accept the token
    (`TokenRefused` that of `CAR_AUTH_TOKEN`), and `TokenUnreadable` for a host's token file that cannot be read.
    An exception of the block passes through as it is, not in a group.
    """
    car = Car(Search(url, socket, home), Identity(token, agent_id, host))
    async with trio.open_nursery() as sockets:
        with SetAside() as block:
            await car.dial(sockets)
            sockets.start_soon(car.dial_when_wanted, sockets)
            yield car
            await car.hang_up()
        sockets.cancel_scope.cancel()
    if block.error is not None:
        raise block.error
