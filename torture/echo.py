"""The daemon's WebSocket alone, saying back what it hears: `python -m torture.echo`, for fuzzers that expect an echo.

Nothing of it is written for the test but the echo: handshake, framing, limits and the close are `nursery/socket.py`
and as the daemon's own connections use it. Prints the port; ends when standard input does.
"""

from __future__ import annotations

import sys

import trio

from car_trio.nursery.outbound import Outbound
from car_trio.nursery.socket import Socket
from car_trio.nursery.together import Together

MAX_MESSAGE = 16 * 1024 * 1024
STALL_SECONDS = 30.0


async def echo(stream: trio.SocketStream) -> None:
    """One connection, from its handshake to its end."""
    together = Together()
    try:
        async with trio.open_nursery() as io:
            out = Outbound(
                stream,
                stall_seconds=STALL_SECONDS,
                together=together,
                cut=lambda _: io.cancel_scope.cancel(),
                spawn=io.start_soon,
            )
            io.start_soon(together.deliver)
            socket = Socket(stream, out, max_message_bytes=MAX_MESSAGE)
            if await socket.handshake(lambda _: None):
                while (messages := await socket.receive()) is not None:
                    for message in messages:
                        socket.post(bytes(message))
            if not out.dead:
                out.finish()
                await socket.linger()
                await out.finished()
            io.cancel_scope.cancel()
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
