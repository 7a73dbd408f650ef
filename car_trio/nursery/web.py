"""The page over HTTP: a few files, and the WebSocket that the page talks through (`wire.md` section 3).

h11 decides what is a request; it neither reads nor writes. A visit is one request and one answer, then the end, so
nothing can be smuggled behind a request and nobody keeps a place for having been here. The files are read once, at the
start: no request reaches the file system. Nothing that is answered here depends on who asks, and nothing is a secret.

`/rpc` is the exception: a request that passed the guard is written anew from what was judged, without what a WebSocket
does not need, and becomes a `Connection` like any other, together with every byte that came behind it.

There are at most `max_unauthenticated` visitors. When one more comes, the one who is here longest has to go: whoever
opens connections and says nothing takes their places from each other, not from a person who opens the page.
"""

from __future__ import annotations

import http
import logging
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from importlib.resources import files
from typing import NamedTuple

import h11
import trio

from car_trio.config import Server
from car_trio.nursery.socket import LINGER_SECONDS
from car_trio.nursery.web_guard import Guard, Headers, values

LOG = logging.getLogger("car_trio.web")
MAX_HEAD_BYTES = 16_384
RECEIVE_BYTES = 4096
RPC = "/rpc"
INDEX = "index.html"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What a file of the page may be. Any other is not served."""

ALWAYS = (
    # Only what is served here is loaded, run or talked to, and text never becomes a document or a script.
    (
        "Content-Security-Policy",
        "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Connection", "close"),
)
GOES_ON = ("host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version")
"""What a WebSocket needs of the request. Cookies belong to all ports of this machine and are nobody's business."""

Upgrade = Callable[[trio.abc.Stream, bytes], object]


class Answer(NamedTuple):
    """`length` is what a body would have that is not sent."""

    status: http.HTTPStatus
    body: bytes
    kind: str = "text/plain; charset=utf-8"
    more: tuple[tuple[str, str], ...] = ()
    length: int | None = None


def text(status: http.HTTPStatus, said: str, *more: tuple[str, str]) -> Answer:
    return Answer(status, said.encode(), more=more)


def page_files() -> dict[str, Answer]:
    """Every answer that is a file, by its path: `/` is the index, the others go by their names."""
    found: dict[str, Answer] = {}
    for file in sorted((files("car_trio") / "page").iterdir(), key=lambda each: each.name):
        kind = KINDS.get(file.name[file.name.rfind(".") :])
        if kind is not None:
            path = "/" if file.name == INDEX else f"/{file.name}"
            found[path] = Answer(http.HTTPStatus.OK, file.read_bytes(), kind)
    return found


class Page:
    """The page's port. `daemon_url` is for programs that take it for the daemon's. `upgrade` takes over the stream of a
    WebSocket, with its request and what came behind it."""

    def __init__(self, server: Server, port: int, daemon_url: str, upgrade: Upgrade) -> None:
        self._guard = Guard(port, server.allowed_hosts)
        self._daemon_url = daemon_url
        self._upgrade = upgrade
        self._most = server.max_unauthenticated
        self._request_seconds = server.handshake_seconds
        self._answer_seconds = server.write_stall_seconds
        self._visitors: dict[trio.CancelScope, None] = {}
        self.routes = page_files()

    # Deciding

    def decide(self, method: str, target: str, headers: Headers) -> Answer | None:
        """The answer; `None` for what goes on as a WebSocket."""
        path = target.partition("?")[0]
        answer = self._refusal(path, headers) or self._routed(method, path, headers)
        if answer is not None and method == "HEAD":
            return answer._replace(body=b"", length=len(answer.body))
        return answer

    def _refusal(self, path: str, headers: Headers) -> Answer | None:
        rejection = self._guard.judge(headers, is_socket=path == RPC)
        if rejection is not None:
            return text(rejection.status, rejection.text)
        lengths = values(headers, "content-length")
        if values(headers, "transfer-encoding") or any(each != "0" for each in lengths):
            return text(http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "a request has no body here\n")
        return None

    def _routed(self, method: str, path: str, headers: Headers) -> Answer | None:
        may = ("GET",) if path == RPC else ("GET", "HEAD")
        if method not in may:
            allowed = ", ".join(may)
            return text(http.HTTPStatus.METHOD_NOT_ALLOWED, f"only {allowed}\n", ("Allow", allowed))
        is_socket = [each.lower() for each in values(headers, "upgrade")] == ["websocket"]
        if path != RPC and is_socket:
            said = f"this is the port of the page; the daemon is at {self._daemon_url}\n"
            return text(http.HTTPStatus.MISDIRECTED_REQUEST, said)
        if path != RPC:
            nothing = text(http.HTTPStatus.NOT_FOUND, "there is nothing here; the page is /\n")
            return self.routes.get(path, nothing)
        if not is_socket:
            wanted = ("Upgrade", "websocket")
            return text(http.HTTPStatus.UPGRADE_REQUIRED, "this is for WebSockets\n", wanted)
        return None

    # Visits

    def welcome(self, visits: trio.Nursery, stream: trio.abc.Stream, _is_remote: bool) -> None:
        visits.start_soon(self.visit, stream)

    async def visit(self, stream: trio.abc.Stream) -> None:
        """One visitor, from the first byte to the last. An error ends the visit and nothing else."""
        goes_on = False
        place = self._place()
        try:
            with place:
                request = await self._serve(stream)
                if request is not None:
                    self._upgrade(stream, request)
                    goes_on = True
        except Exception:
            LOG.exception("a visit of the page ended by an error of the daemon")
        finally:
            del self._visitors[place]
            if not goes_on:
                await trio.aclose_forcefully(stream)

    def _place(self) -> trio.CancelScope:
        waiting = [each for each in self._visitors if not each.cancel_called]
        if len(waiting) >= self._most:
            waiting[0].cancel()
        place = trio.CancelScope()
        self._visitors[place] = None
        return place

    async def _serve(self, stream: trio.abc.Stream) -> bytes | None:
        """Answers one request; of one that goes on as a WebSocket, all that has come of it."""
        wire = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            answer = await self._hear(stream, wire)
            if isinstance(answer, bytes):
                return answer
            if answer is not None:
                with trio.move_on_after(self._answer_seconds):
                    await stream.send_all(written(wire, answer))
                    await linger(stream)
        return None

    async def _hear(self, stream: trio.abc.Stream, wire: h11.Connection) -> Answer | bytes | None:
        with trio.move_on_after(self._request_seconds):
            try:
                request = await request_of(stream, wire)
            except h11.RemoteProtocolError as error:
                status = http.HTTPStatus(error.error_status_hint)
                return text(status, "this is not a request that is understood\n")
            if request is None:
                return None
            method, target, headers = readable(request)
            return self.decide(method, target, headers) or handed_on(wire, request, headers)
        is_begun = bool(wire.trailing_data[0])
        return text(http.HTTPStatus.REQUEST_TIMEOUT, "the request came too slowly\n") if is_begun else None


async def request_of(stream: trio.abc.Stream, wire: h11.Connection) -> h11.Request | None:
    """The request, without its body; `None` when the visitor left before one. Raises `RemoteProtocolError`."""
    while (event := wire.next_event()) is h11.NEED_DATA:
        wire.receive_data(bytes(await stream.receive_some(RECEIVE_BYTES)))
    return event if isinstance(event, h11.Request) else None


def readable(request: h11.Request) -> tuple[str, str, Headers]:
    """Method, target and headers as text; h11 has put the names in lower case."""
    headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers]
    return request.method.decode("ascii"), request.target.decode("ascii"), headers


def handed_on(wire: h11.Connection, request: h11.Request, headers: Headers) -> bytes:
    """The request for a WebSocket as it goes on, and what has come behind it."""
    wire.next_event()  # the request's end: it has no body
    kept = "".join(f"{name}: {value}\r\n" for name, value in headers if name in GOES_ON)
    line = b"GET %b HTTP/%b\r\n" % (request.target, request.http_version)
    return line + kept.encode("latin-1") + b"\r\n" + wire.trailing_data[0]


def written(wire: h11.Connection, answer: Answer) -> bytes:
    """The bytes of an answer."""
    length = len(answer.body) if answer.length is None else answer.length
    own = (
        ("Date", formatdate(usegmt=True)),
        ("Content-Type", answer.kind),
        ("Content-Length", str(length)),
    )
    head = h11.Response(
        status_code=answer.status,
        headers=[(name.encode(), value.encode()) for name, value in (*own, *answer.more, *ALWAYS)],
        reason=answer.status.phrase.encode(),
    )
    frames = [wire.send(head), wire.send(h11.Data(data=answer.body))] if answer.body else [wire.send(head)]
    return b"".join(frame for frame in frames if frame)


async def linger(stream: trio.abc.Stream) -> None:
    """Ends our side and reads until the visitor ends too, for a moment: closing over unread bytes is a reset, which
    takes the answer away from him."""
    with trio.move_on_after(LINGER_SECONDS):
        if isinstance(stream, trio.abc.HalfCloseableStream):
            await stream.send_eof()
        while await stream.receive_some():
            pass
