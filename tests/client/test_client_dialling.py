"""Real sockets: what a client that finds no daemon is told, and the two transports."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair
from trio_websocket import ConnectionClosed, serve_websocket, wrap_server_stream

from car_trio.client import CarError, DaemonUnreachable, connect, dialling
from car_trio.client.finding import Search
from tests.process.daemon_process import PATIENCE


async def test_a_daemon_that_is_not_there_is_named_with_its_address_and_the_next_step() -> None:
    with trio.fail_after(PATIENCE):
        with pytest.raises(DaemonUnreachable) as caught:
            async with connect("ws://127.0.0.1:1"):
                raise AssertionError("connected to nothing")
    assert isinstance(caught.value, CarError)
    assert caught.value.address == "ws://127.0.0.1:1/"
    assert caught.value.why == "Connection refused"
    for part in ("ws://127.0.0.1:1/", "the url argument", "car-trio serve", "CAR_DAEMON_URL"):
        assert part in str(caught.value)


async def test_a_missing_unix_socket_is_a_daemon_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="No such file"):
        async with connect(socket=tmp_path / "car.sock"):
            raise AssertionError("connected to nothing")


async def test_an_error_of_the_block_passes_through_the_websocket_unwrapped(daemon: Any) -> None:
    with pytest.raises(LookupError):
        async with dialling.open_websocket(Search().endpoint()):
            raise LookupError("mine")


async def test_both_transports_carry_calls(nursery: trio.Nursery, tmp_path: Path) -> None:
    async def answer(request: Any) -> None:
        websocket = await request.accept()
        with suppress(ConnectionClosed):
            while True:
                asked = json.loads(await websocket.get_message())
                await websocket.send_message(json.dumps({"id": asked["id"], "result": asked["method"]}))

    async def serve_one(stream: Any) -> None:
        async with trio.open_nursery() as reading:
            await answer(await wrap_server_stream(reading, stream))

    socket = trio.socket.socket(trio.socket.AF_UNIX)
    await socket.bind(str(tmp_path / "car.sock"))
    socket.listen()
    nursery.start_soon(trio.serve_listeners, serve_one, [trio.SocketListener(socket)])
    (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, serve_one, [tcp])
    with trio.fail_after(PATIENCE):
        for url in (f"ws+unix://{tmp_path}/car.sock", f"ws://127.0.0.1:{tcp.socket.getsockname()[1]}"):
            async with connect(url) as car:
                assert await car.call("some.method") == "some.method"
    nursery.cancel_scope.cancel()


async def reject(request: Any) -> None:
    await request.reject(421, body=b"unknown host")


async def test_a_daemon_that_rejects_the_upgrade_is_quoted(nursery: trio.Nursery) -> None:
    server = await nursery.start(serve_websocket, reject, "127.0.0.1", 0, None)
    with trio.fail_after(PATIENCE):
        with pytest.raises(DaemonUnreachable, match="HTTP 421 unknown host"):
            async with connect(f"ws://127.0.0.1:{server.port}"):
                raise AssertionError("connected to a server that rejects")
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<!doctype html>\n<html>...", "HTTP 421 with a web page: it is no daemon."),
        (b"\n" + b"x" * 5000 + b"\nmore", f"HTTP 421 {'x' * 300}."),
    ],
)
async def test_an_answer_that_is_no_line_for_a_person_is_not_shown(
    nursery: trio.Nursery, body: bytes, said: str
) -> None:
    async def serve_page(request: Any) -> None:
        await request.reject(421, body=body)

    server = await nursery.start(serve_websocket, serve_page, "127.0.0.1", 0, None)
    with trio.fail_after(5):
        with pytest.raises(DaemonUnreachable) as caught:
            async with connect(f"ws://127.0.0.1:{server.port}"):
                raise AssertionError("connected to a page")
    assert said in str(caught.value)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]
)
async def test_something_that_is_not_a_daemon_is_recognised(answer: bytes, monkeypatch: Any) -> None:
    ours, theirs = memory_stream_pair()
    await theirs.send_all(answer)

    async def dial(endpoint: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return ours

    monkeypatch.setattr(dialling, "dial", dial)
    with trio.fail_after(PATIENCE):
        with pytest.raises(DaemonUnreachable):
            async with connect():
                raise AssertionError("connected to something else")


async def test_a_peer_that_accepts_and_says_nothing_is_given_up(
    monkeypatch: Any, autojump_clock: Any
) -> None:
    ours, theirs = memory_stream_pair()

    async def dial(endpoint: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return ours

    monkeypatch.setattr(dialling, "dial", dial)
    with trio.fail_after(60):
        with pytest.raises(DaemonUnreachable, match="nothing that speaks WebSocket within 5 s"):
            async with connect():
                raise AssertionError("connected to silence")
    await theirs.aclose()
