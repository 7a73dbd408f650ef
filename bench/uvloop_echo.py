"""A second baseline: `websockets` on asyncio, with uvloop where it is installed; it sends back what it gets."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from websockets.asyncio.server import ServerConnection, serve


async def echo(socket: ServerConnection) -> None:
    async for message in socket:
        await socket.send(message)


async def main() -> None:
    # The load generator only counts frames: it answers no pings, and would take one for a reply.
    async with serve(echo, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(f"echo ready ws://127.0.0.1:{port}", flush=True)
        await server.serve_forever()


def loop_factory() -> Any:
    """uvloop's, or `None` for asyncio's own."""
    try:
        return importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None


if __name__ == "__main__":
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(main())
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass
