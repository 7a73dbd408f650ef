"""A client that shares nothing with `car_trio.client`: synchronous, on the `websockets` library, plain dicts.

Tests use it where our own client must not vouch for itself. It does what the published clients do and no
more: text frames, no Origin, no subprotocol, no extensions, no pings, integer ids, and a goodbye without a
Close frame. It has no threads of its own visible to the test: whatever is not the reply that is waited for is
kept, in the order it came, until somebody asks for it.

    with SecondClient.dial("ws://127.0.0.1:9100") as client:
        client.auth("token")
        client.call("runs.start", {"intent": "i", "agent_name": "a"})
        client.drop()
"""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.sync.client import ClientConnection, connect, unix_connect

REPLY_SECONDS = 60.0
"""How long any reply or event may take before the test fails with `TimeoutError`; as patient as the tests of processes."""

Tool = Callable[[dict[str, Any]], Any]


class Refused(Exception):
    """An error reply."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: Any = error.get("data")


class SecondClient:
    """One connection. `tools` answer `tools.execute` whenever the client is waiting for something else."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket
        self.tools: dict[str, Tool] = {}
        self.kept: list[dict[str, Any]] = []
        self._ids = itertools.count(1)

    @classmethod
    def dial(cls, url: str, **options: Any) -> SecondClient:
        return cls(connect(url, **OPTIONS, **options))

    @classmethod
    def dial_unix(cls, path: str | Path) -> SecondClient:
        return cls(unix_connect(str(path), uri="ws://localhost/", **OPTIONS))

    def __enter__(self) -> SecondClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.drop()

    def auth(self, token: str | None = None, **more: Any) -> Any:
        """`session.auth` with the token, or with only what `more` says (`host_token=`, `agent_id=`)."""
        return self.call("session.auth", more if token is None else {"token": token, **more})

    def call(self, method: str, params: Any = None) -> Any:
        """The result of a call; `Refused` when the reply is an error."""
        return self.reply(self.ask(method, params))

    def ask(self, method: str, params: Any = None, request_id: Any = None) -> Any:
        """Sends a request without waiting and returns its id, for pipelining and for ids of other kinds."""
        if request_id is None:
            request_id = next(self._ids)
        self.send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
        return request_id

    def reply(self, request_id: Any) -> Any:
        """The result of the request of that id, whatever comes before it."""
        frame = self.wait(lambda frame: "method" not in frame and frame.get("id") == request_id)
        if "error" in frame:
            raise Refused(frame["error"])
        return frame["result"]

    def notify(self, method: str, params: Any = None) -> None:
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def event(self, method: str) -> Any:
        """The params of the next notification of this method."""
        return self.wait(lambda frame: frame.get("method") == method and "id" not in frame)["params"]

    def request(self, method: str = "tools.execute") -> dict[str, Any]:
        """The next request of the daemon, whole and unanswered, for tests that answer late, twice or not at
        all."""
        return self.wait(lambda frame: frame.get("method") == method and "id" in frame)

    def answer(self, request_id: Any, result: Any = None, error: dict[str, Any] | None = None) -> None:
        body: dict[str, Any] = {"result": result} if error is None else {"error": error}
        self.send({"jsonrpc": "2.0", "id": request_id, **body})

    def wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first frame that is wanted, kept ones first; serves tools and keeps all others."""
        for position, frame in enumerate(self.kept):
            if wanted(frame):
                return self.kept.pop(position)
        while True:
            frame = self.receive()
            if wanted(frame):
                return frame
            if not self._serve(frame):
                self.kept.append(frame)

    def receive(self) -> dict[str, Any]:
        """The next frame off the socket, which must be a text."""
        text = self.websocket.recv(timeout=REPLY_SECONDS)
        assert isinstance(text, str), "the daemon answered with a binary frame"
        frame: dict[str, Any] = json.loads(text)
        return frame

    def send(self, frame: Any) -> None:
        """Sends any JSON value as a text frame."""
        self.websocket.send(json.dumps(frame))

    def send_raw(self, text: str | bytes) -> None:
        """Sends a message that need not be JSON; bytes go as a binary frame."""
        self.websocket.send(text)

    def drop(self) -> None:
        """Drops TCP without a Close frame, as the published clients say goodbye."""
        with suppress(OSError):
            self.websocket.socket.shutdown(socket.SHUT_RDWR)
        self.websocket.recv_events_thread.join(REPLY_SECONDS)
        self.websocket.socket.close()

    def _serve(self, frame: dict[str, Any]) -> bool:
        if frame.get("method") != "tools.execute" or frame["params"]["tool"] not in self.tools:
            return False
        params = frame["params"]
        try:
            self.answer(frame["id"], self.tools[params["tool"]](params["parameters"]))
        except Exception as error:
            self.answer(frame["id"], error={"code": -32603, "message": f"{type(error).__name__}: {error}"})
        return True


OPTIONS: dict[str, Any] = {
    "legacy": True,
    "compression": None,
    "max_size": None,
    "ping_interval": None,
    "open_timeout": REPLY_SECONDS,
    "close_timeout": REPLY_SECONDS,
    "user_agent_header": None,
    "proxy": None,
}
