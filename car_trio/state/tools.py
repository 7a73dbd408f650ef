"""A tool as it is offered: what checks its parameters, when its turn comes, what it answered lately.

All of it belongs to the connection. Times are seconds of a clock that never jumps, given by the caller.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec import Raw

from car_trio.wire.errors import invalid_params
from car_trio.wire.tools import RateLimit, Tool

MAX_TOOL_BYTES = 512 * 1024
MAX_CACHED_BYTES = 16 * 1024 * 1024
MAX_CACHED_RESULT = 1024 * 1024

Problems = Callable[[dict[str, Any]], list[str]]


class Turns:
    """`rate_limit`: so many calls within any interval. A turn is given away when it is asked for, not when it
    comes, so callers get theirs in the order in which they asked."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._given: deque[float] = deque()

    def take(self, now: float) -> float:
        """The time at which the caller's turn comes; maybe now."""
        while self._given and self._given[0] + self._limit.interval_secs <= now:
            self._given.popleft()
        turn = now
        if len(self._given) >= self._limit.max_calls:
            turn = max(now, self._given[-self._limit.max_calls] + self._limit.interval_secs)
        self._given.append(turn)
        return turn

    def give_back(self, turn: float) -> None:
        """A turn that nobody waits for any more."""
        if turn in self._given:
            self._given.remove(turn)


@dataclass(slots=True, eq=False)
class Offer:
    """A registered tool. `problems` says why parameters may not be used; without it they are not checked."""

    tool: Tool
    bytes: int = 0
    problems: Problems | None = None
    turns: Turns | None = field(init=False)

    def __post_init__(self) -> None:
        self.turns = None if self.tool.rate_limit is None else Turns(self.tool.rate_limit)


def check_tool(tool: Tool, size: int) -> None:
    """Raises Refusal (-32602) for a tool whose terms cannot be kept."""
    if not tool.name:
        raise invalid_params("tools.register: a tool's name must not be empty")
    said = f"tools.register: tool '{tool.name[:80]}'"
    if size > MAX_TOOL_BYTES:
        raise invalid_params(f"{said} is too large, at most {MAX_TOOL_BYTES} bytes are possible; shorten it")
    limit = tool.rate_limit
    if limit is not None and not (limit.max_calls >= 1 and limit.interval_secs > 0):
        raise invalid_params(f"{said}: rate_limit needs max_calls of 1 or more and interval_secs above 0")
    if tool.cache_ttl_secs is not None and not tool.cache_ttl_secs >= 0:
        raise invalid_params(f"{said}: cache_ttl_secs must not be negative")


class _Result(NamedTuple):
    expires: float
    output: Raw
    size: int


class Results:
    """`cache_ttl_secs`: successful results, the least recently used given up first. Keyed by the offer itself, so a
    tool that is registered anew starts without any."""

    def __init__(self) -> None:
        self._results: OrderedDict[tuple[Offer, bytes], _Result] = OrderedDict()
        self._bytes = 0

    def get(self, offer: Offer, parameters: bytes, now: float) -> Raw | None:
        key = (offer, parameters)
        found = self._results.get(key)
        if found is None:
            return None
        if found.expires <= now:
            self._drop(key)
            return None
        self._results.move_to_end(key)
        return found.output

    def put(self, offer: Offer, parameters: bytes, output: Raw, now: float) -> None:
        """Keeps a result for as long as the tool says, unless it is too large."""
        ttl = offer.tool.cache_ttl_secs
        size = len(parameters) + len(bytes(output))
        if not ttl or size > MAX_CACHED_RESULT:
            return
        self._drop((offer, parameters))
        self._results[offer, parameters] = _Result(now + ttl, output, size)
        self._bytes += size
        while self._bytes > MAX_CACHED_BYTES:
            self._drop(next(iter(self._results)))

    def _drop(self, key: tuple[Offer, bytes]) -> None:
        gone = self._results.pop(key, None)
        if gone is not None:
            self._bytes -= gone.size
