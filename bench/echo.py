"""The baseline for small calls and for fan-out: the plainest server that trio-websocket makes.

It sends back what it gets. Whoever sends `watch` is a watcher from then on; what begins with `all` goes to each
watcher, by `send_message` in a loop, and then back."""

from __future__ import annotations

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

WATCHERS: list[WebSocketConnection] = []


async def echo(request: WebSocketRequest) -> None:
    socket = await request.accept()
    try:
        while True:
            message = await socket.get_message()
            if message == "watch":
                WATCHERS.append(socket)
            elif message[:3] == "all":
                await tell(message)
            await socket.send_message(message)
    except ConnectionClosed:
        pass


async def tell(message: str | bytes) -> None:
    """`all N …` is sent to everybody N times."""
    for _ in range(int(message.split()[1])):
        for watcher in WATCHERS:
            await watcher.send_message(message)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, echo, "127.0.0.1", 0, None)
        print(f"echo ready ws://127.0.0.1:{server.port}", flush=True)


if __name__ == "__main__":
    trio.run(main)
