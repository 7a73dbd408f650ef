"""`tools.*`: what a client offers to be called (protocol `wire.md` section 5)."""

from __future__ import annotations

from car_trio.methods.context import Context
from car_trio.wire.session import NoParams
from car_trio.wire.tools import Tool, ToolList, Unregistered, UnregisterTool


def register(context: Context, tools: list[Tool]) -> int:
    return context.session.register(tools)


def listed(context: Context, _: NoParams) -> ToolList:
    tools = sorted(context.session.tools.values(), key=lambda tool: tool.name)
    return ToolList(tools, len(tools))


def unregister(context: Context, ask: UnregisterTool) -> Unregistered:
    removed = context.session.tools.pop(ask.name, None)
    return Unregistered(ask.name, int(removed is not None))
