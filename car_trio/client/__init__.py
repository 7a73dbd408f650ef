"""The Trio client of the daemon: `connect`, runs, tools, watches.

    async with connect(agent_id="me") as car:
        async with car.run("tidy the notes") as run:
            await run.submit([{"type": "state_write", "parameters": {"key": "k", "value": 1}}])

Built on trio-websocket, an implementation of WebSocket that shares no code with the daemon's.
"""

from __future__ import annotations

from car_trio.client.car import Car, connect
from car_trio.client.chatting import Chat, ChatEvent
from car_trio.client.errors import (
    CallRefused,
    CarError,
    ChatOverrun,
    DaemonUnreachable,
    Disconnected,
    RunNotCurrent,
    TerminalToolError,
    TokenRefused,
    TokenUnreadable,
    TurnsDropped,
    WatchReplaced,
)
from car_trio.client.hosting import HostWatch
from car_trio.client.results import Cost, Recorded, Row, Submitted
from car_trio.client.running import Run
from car_trio.client.watching import Retracted, Watch, WatchEvent, decode_record

__all__ = [
    "CallRefused",
    "Car",
    "CarError",
    "Chat",
    "ChatEvent",
    "ChatOverrun",
    "Cost",
    "DaemonUnreachable",
    "Disconnected",
    "HostWatch",
    "Recorded",
    "Retracted",
    "Row",
    "Run",
    "RunNotCurrent",
    "Submitted",
    "TerminalToolError",
    "TokenRefused",
    "TokenUnreadable",
    "TurnsDropped",
    "Watch",
    "WatchEvent",
    "WatchReplaced",
    "connect",
    "decode_record",
]
