"""From an address to an open WebSocket, and from trio-websocket's exceptions to ours.

trio-websocket runs a reader task in the nursery it is given. A handshake that the daemon rejects, and some
protocol errors later on, come out of that task, so they arrive in an exception group around the block that
uses the socket. This module is the one place that takes such groups apart: before the handshake is done they
mean `DaemonUnreachable`, afterwards only that the socket has ended, which the link sees anyway.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)
from wsproto.utilities import ProtocolError

from car_trio.client.aside import SetAside
from car_trio.client.errors import DaemonUnreachable
from car_trio.client.finding import Endpoint, Unix

CONNECT_SECONDS = 5.0
"""For the dial and the handshake together. A peer that accepts and then says nothing is not a daemon."""

MAX_MESSAGE_LENGTH = 64 * 1024 * 1024
"""The daemon's replies reach 30 MB; twice that and some is a defect, not a reply."""

MOST_SAID = 300
"""How much of an answer that is none is shown."""

RECEIVE_BYTES = 256 * 1024

SOCKET_ENDED = (ConnectionClosed, ProtocolError)
"""What a socket that is ending raises, from trio-websocket and from the wsproto underneath it."""


@asynccontextmanager
async def open_websocket(endpoint: Endpoint) -> AsyncGenerator[WebSocketConnection]:
    """A WebSocket to the daemon; the TCP connection is dropped when the block is left.

    Raises `DaemonUnreachable` on the way in. Inside, errors of the socket end the block quietly.
    """
    stream = await dial(endpoint)
    websocket: WebSocketConnection | None = None
    crash: BaseException | None = None
    block = SetAside()
    try:
        async with trio.open_nursery() as reading:
            with block:
                websocket = await _shake_hands(reading, stream, endpoint)
                yield websocket
            reading.cancel_scope.cancel()
    except ExceptionGroup as group:  # from trio-websocket's reader: what the block raised was set aside
        crash = only(group)
    finally:
        await trio.aclose_forcefully(stream)
    error = block.error
    if websocket is None and isinstance(crash or error, Exception):
        raise unreachable(endpoint, crash or error)
    if crash is not None:
        error = _not_cancelled(error)
    if error is not None:
        raise error


def _not_cancelled(error: BaseException | None) -> BaseException | None:
    """What else is in an exception. The reader's crash cancels the block, and that cancellation belongs to a
    nursery that has been left; if the caller is being cancelled too, its next checkpoint says so."""
    if isinstance(error, trio.Cancelled):
        return None
    split = getattr(error, "split", None)
    return error if split is None else split(trio.Cancelled)[1]


async def _shake_hands(
    reading: trio.Nursery, stream: trio.SocketStream, endpoint: Endpoint
) -> WebSocketConnection:
    with trio.fail_after(CONNECT_SECONDS):
        return await wrap_client_stream(
            reading,
            stream,
            endpoint.address.header,
            endpoint.address.resource,
            max_message_size=MAX_MESSAGE_LENGTH,
            receive_buffer_size=RECEIVE_BYTES,
        )


async def dial(endpoint: Endpoint) -> trio.SocketStream:
    try:
        with trio.fail_after(CONNECT_SECONDS):
            address = endpoint.address
            if isinstance(address, Unix):
                return await trio.open_unix_socket(address.path)
            return await trio.open_tcp_stream(address.host, address.port)
    except (OSError, trio.TooSlowError) as error:
        raise unreachable(endpoint, error) from None  # the words say what the system said


def only(error: BaseException) -> BaseException:
    """The one exception of a group of one, as nurseries make them, or the exception itself."""
    exceptions: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return only(exceptions[0]) if len(exceptions) == 1 else error


def in_words(error: BaseException) -> str:
    """What the system says, without the number and the address that the caller tells anyway."""
    number = getattr(error, "errno", None) or 0
    return os.strerror(number) if number > 0 else str(error)


def _answered(body: bytes) -> str:
    """What a server says for itself, if that is a line for a person."""
    text = body.decode(errors="replace").strip()
    return "with a web page: it is no daemon" if text.startswith("<") else text.partition("\n")[0][:MOST_SAID]


def unreachable(endpoint: Endpoint, error: BaseException | None) -> DaemonUnreachable:
    match error:
        case ConnectionRejected():
            why = f"it answers HTTP {error.status_code} {_answered(error.body or b'')}".rstrip()
        case trio.TooSlowError():
            why = f"nothing that speaks WebSocket within {CONNECT_SECONDS:g} s"
        case OSError():
            attempts: tuple[BaseException, ...] = getattr(error.__cause__, "exceptions", (error,))
            why = "; ".join(dict.fromkeys(map(in_words, attempts)))
        case _:
            why = f"it does not speak WebSocket ({type(error).__name__})"
    return DaemonUnreachable(str(endpoint.address), endpoint.found_by, why)
