"""The daemon's WebSocket alone, saying back what it hears: `python -m torture.echo`, for fuzzers that expect an echo.

Nothing of it is written for the test but the echo: handshake, framing, limits and the close are `nursery/socket.py`
and as the daemon's own connections use it. Prints the port; ends when standard input does.
"""

from __future__ import annotations

import sys

import trio

from car_trio.nursery.socket import Socket

MAX_MESSAGE = 16 * 1024 * 1024
STALL_SECONDS = 30.0


async def echo(stream: trio.SocketStream) -> None:
    """One connection, from its handshake to its end."""
    try:
        async with trio.open_nursery() as io:
            socket = Socket(
                stream,
                max_message_bytes=MAX_MESSAGE,
                stall_seconds=STALL_SECONDS,
                cut=lambda _: io.cancel_scope.cancel(),
            )
            io.start_soon(socket.write)
            if await socket.handshake(lambda _: None):
                while (messages := await socket.receive()) is not None:
                    for message in messages:
                        socket.post(bytes(message))
            socket.finish()
            await socket.linger()
    finally:
        await trio.aclose_forcefully(stream)


async def serve() -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, echo, 0)
        print(listeners[0].socket.getsockname()[1], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(serve)
