"""The tools a client offers, and one execution of one of them (protocol `wire.md` section 4).

A tool is `async def f(parameters: dict) -> JSON`. What it returns is the action's output; what it raises is
the action's error, as `TypeName: text`; a result with a NaN or an infinity, which JSON cannot write, is one too.
`TerminalToolError` tells the daemon not to retry.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from car_trio.client.dialling import only
from car_trio.client.errors import TerminalToolError
from car_trio.client.sent import encoded
from car_trio.wire import frames
from car_trio.wire.errors import INVALID_PARAMS, METHOD_NOT_FOUND, REFUSED, Refusal
from car_trio.wire.tools import ExecuteTool, Tool

ToolFunction = Callable[[dict[str, Any]], Awaitable[Any]]


class Toolbox:
    """The tools that a program has given to its connection, by name. A later tool of one name replaces the
    earlier."""

    def __init__(self) -> None:
        self._tools: dict[str, tuple[Tool, ToolFunction]] = {}

    def add(self, tool: Tool, function: ToolFunction) -> None:
        self._tools[tool.name] = (tool, function)

    def beyond(self, registered: Mapping[str, Tool]) -> list[Tool]:
        """The tools that are not, or not in this form, among `registered`."""
        return [tool for tool, _ in self._tools.values() if registered.get(tool.name) != tool]

    async def answer(self, request_id: bytes, params: msgspec.Raw) -> bytes:
        """Runs the tool that a `tools.execute` asks for, and returns the reply's frame; raises only what is
        fatal."""
        try:
            request = msgspec.json.decode(params, type=ExecuteTool)
            output = await self._function(request.tool)(request.parameters)
            return frames.result_frame(request_id, encoded(output, f"the result of tool {request.tool!r}"))
        except Refusal as refusal:
            return frames.error_frame(request_id, refusal)
        except msgspec.ValidationError as error:
            return frames.error_frame(request_id, Refusal(f"tools.execute: {error}", INVALID_PARAMS))
        except Exception as error:
            return frames.error_frame(request_id, _refusal(error))

    def _function(self, name: str) -> ToolFunction:
        if name not in self._tools:
            raise Refusal(f"tool {name!r} is not offered by this client", METHOD_NOT_FOUND)
        return self._tools[name][1]


def _refusal(raised: Exception) -> Refusal:
    """A tool's exception as the error of its reply. A group of one, as a nursery makes it, counts as that
    one."""
    error = only(raised)
    if isinstance(error, TerminalToolError):
        return Refusal(str(error), REFUSED, {"terminal": True})
    return Refusal(f"{type(error).__name__}: {error}", REFUSED)
