"""`tools.*`: what a client offers to be called (protocol `wire.md` section 5).

A tool's schema is compiled when it is registered, one tool a step: a message with many is prepared by a task.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

from msgspec import Raw

from car_trio.engine.validation import BadSchema, ParameterCheck
from car_trio.engine.values import too_deep
from car_trio.methods.context import Context
from car_trio.state.policies import outgrows
from car_trio.state.tools import MAX_TOOL_BYTES, Offer, check_tool
from car_trio.wire.errors import invalid_params
from car_trio.wire.frames import DEEPEST_VALUE, encode
from car_trio.wire.parts import joined_in_steps
from car_trio.wire.session import NoParams
from car_trio.wire.tools import Tool, Unregistered, UnregisterTool


def offers(context: Context, tools: list[Tool]) -> Generator[None, None, list[Offer]]:
    """The tools as they can be offered. Raises Refusal (-32602) for the first that cannot."""
    context.daemon.policies.require()
    prepared: list[Offer] = []
    for tool in tools:
        prepared.append(_offer(tool))
        yield
    return prepared


def _offer(tool: Tool) -> Offer:
    # How large exactly does not matter when it is far too large, and takes long to tell.
    is_huge = outgrows([tool.parameters, tool.returns], MAX_TOOL_BYTES)
    size = MAX_TOOL_BYTES + 1 if is_huge else len(encode(tool))
    check_tool(tool, size)
    if too_deep(tool.returns, DEEPEST_VALUE):
        raise invalid_params(
            f"tools.register: returns of '{tool.name[:80]}' nests more than {DEEPEST_VALUE} deep"
        )
    try:
        check = ParameterCheck(tool.name, tool.parameters) if tool.parameters else None
    except BadSchema as error:
        raise invalid_params(f"tools.register: the schema of tool '{tool.name[:80]}' {error}") from None
    return Offer(tool, size, None if check is None else check.problems)


def register(context: Context, prepared: list[Offer]) -> int:
    context.daemon.policies.require()
    return context.session.register(prepared)


def offered(context: Context, _: NoParams) -> list[Tool]:
    context.daemon.policies.require()
    return sorted((offer.tool for offer in context.session.tools.values()), key=lambda tool: tool.name)


async def listed(context: Context, tools: list[Tool]) -> Raw:
    """A `ToolList`. Schemas can be large, so it is encoded in steps."""
    return Raw(await context.in_steps(joined_in_steps(_parts(tools))))


def _parts(tools: list[Tool]) -> Iterator[bytes]:
    comma = b'{"tools":['
    for tool in tools:
        yield comma + encode(tool)
        comma = b","
    yield (b"" if tools else comma) + b'],"count":%d}' % len(tools)


def unregister(context: Context, ask: UnregisterTool) -> Unregistered:
    context.daemon.policies.require()
    removed = context.session.tools.pop(ask.name, None)
    return Unregistered(ask.name, int(removed is not None))
