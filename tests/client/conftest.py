"""A scripted daemon on trio-websocket, over streams in memory or over real sockets."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from car_trio.client import Car, connect, dialling
from car_trio.client.finding import Endpoint
from tests.process.daemon_process import PATIENCE


class Refuse(Exception):
    """Raised by a scripted method to answer with an error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        self.error = {"code": code, "message": message, **({} if data is None else {"data": data})}


class Peer:
    """The daemon's end of one connection."""

    def __init__(self, websocket: WebSocketConnection, stream: Any) -> None:
        self.websocket = websocket
        self.stream = stream
        self.replies: dict[Any, Any] = {}
        self.calls: list[tuple[str, Any]] = []

    async def send(self, **frame: Any) -> None:
        await self.websocket.send_message(json.dumps({"jsonrpc": "2.0", **frame}))

    async def notify(self, method: str, params: Any) -> None:
        await self.send(method=method, params=params)

    async def execute(self, tool: str, parameters: Any, request_id: str = "cb-0") -> None:
        params = {
            "action_id": "a1",
            "tool": tool,
            "parameters": parameters,
            "timeout_ms": None,
            "attempt": 1,
            "request_id": request_id,
            "session_id": "s",
        }
        await self.send(method="tools.execute", id=request_id, params=params)

    async def event(self, run_id: str, record: dict[str, Any], cursor: int) -> None:
        status = "completed" if record["record"] == "ended" else "in_progress"
        params = {"run_id": run_id, "agent_id": "a", "record": record, "cursor": cursor, "status": status}
        await self.notify("runs.trace.event", params)

    async def drop(self) -> None:
        await trio.aclose_forcefully(self.stream)


class ScriptedDaemon:
    """Answers from `methods`: a value, or a function of the peer and the params, which may wait or raise
    `Refuse`."""

    def __init__(self) -> None:
        self.methods: dict[str, Any] = {
            "session.auth": {"ok": True, "auth_enabled": True},
            "tools.register": lambda peer, params: len(params),
            "ping": "pong",
            "runs.start": {"run_id": "r", "agent_id": "a"},
            "runs.complete": {"run_id": "r", "ok": True},
        }
        self.peers: list[Peer] = []
        self.client_streams: list[Any] = []
        self.down = False

    @property
    def calls(self) -> list[tuple[str, Any]]:
        return [call for peer in self.peers for call in peer.calls]

    def calls_of(self, method: str) -> list[Any]:
        return [params for name, params in self.calls if name == method]

    async def serve(self, peer: Peer) -> None:
        self.peers.append(peer)
        async with trio.open_nursery() as handlers:
            try:
                while True:
                    await self._take(peer, json.loads(await peer.websocket.get_message()), handlers)
            except ConnectionClosed:
                handlers.cancel_scope.cancel()

    async def _take(self, peer: Peer, frame: dict[str, Any], handlers: trio.Nursery) -> None:
        if "method" not in frame:
            peer.replies[frame["id"]] = frame
            return
        peer.calls.append((frame["method"], frame.get("params")))
        if "id" in frame:
            handlers.start_soon(self._answer, peer, frame)

    async def _answer(self, peer: Peer, frame: dict[str, Any]) -> None:
        try:
            answer = self.methods[frame["method"]]
            if callable(answer):
                answer = answer(peer, frame.get("params"))
            if inspect.isawaitable(answer):
                answer = await answer
            await peer.send(id=frame["id"], result=answer)
        except KeyError:
            await peer.send(id=frame["id"], error={"code": -32601, "message": "unknown method"})
        except Refuse as refusal:
            await peer.send(id=frame["id"], error=refusal.error)
        except ConnectionClosed:
            pass

    async def accept(self, stream: Any) -> None:
        async with trio.open_nursery() as reading:
            request = await wrap_server_stream(reading, stream)
            await self.serve(Peer(await request.accept(), stream))
            reading.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("CAR_DAEMON_URL", "CAR_AUTH_TOKEN", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CAR_HOME", str(tmp_path / "home"))


@pytest.fixture
def give_tokens(tmp_path: Any) -> Callable[..., None]:
    """Writes token files where the client looks for them."""

    def give(**tokens: str) -> None:
        directory = tmp_path / "home" / "ai.parslee.car"
        directory.mkdir(parents=True, exist_ok=True)
        for name, token in tokens.items():
            (directory / name.replace("_", "-")).write_text(token + "\n")

    return give


@pytest.fixture
def refuse() -> type[Refuse]:
    return Refuse


@pytest.fixture
async def daemon(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedDaemon]:
    """A daemon that every `connect` of the test reaches over a stream in memory."""
    scripted = ScriptedDaemon()

    async def dial(endpoint: Endpoint) -> Any:
        await trio.lowlevel.checkpoint()
        if scripted.down:
            raise dialling.unreachable(endpoint, OSError("down"))
        ours, theirs = memory_stream_pair()
        scripted.client_streams.append(ours)
        nursery.start_soon(scripted.accept, theirs)
        return ours

    async def notice_a_hang() -> None:
        virtual = isinstance(trio.lowlevel.current_clock(), MockClock)
        with trio.fail_after(600 if virtual else PATIENCE):
            await trio.sleep_forever()

    monkeypatch.setattr(dialling, "dial", dial)
    nursery.start_soon(notice_a_hang)
    yield scripted
    nursery.cancel_scope.cancel()


@pytest.fixture
async def car(daemon: ScriptedDaemon) -> AsyncIterator[Car]:
    async with connect() as connected:
        yield connected
