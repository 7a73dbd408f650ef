"""Talking with the daemon from a command: one connection with the host role, where the token can be read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import msgspec
import trio

from car_trio.cli.app import USAGE
from car_trio.cli.failures import FailedError, no_such
from car_trio.cli.flags import Flag, Home
from car_trio.cli.screen import say_json
from car_trio.client import CallRefused, Car, connect
from car_trio.wire.errors import METHOD_NOT_FOUND

T = TypeVar("T")


def call(
    method: Annotated[str, Flag("A method of the protocol; rpc.discover lists all.")],
    params: Annotated[str, Flag("Its params as JSON.")] = "null",
    /,
    *,
    agent: Annotated[str | None, Flag("Bind the connection to this agent.")] = None,
    home: Home = None,
) -> int:
    """Call any method of the daemon, with the host role; prints the result as JSON."""
    try:
        decoded = msgspec.json.decode(params)
    except msgspec.DecodeError as error:
        raise FailedError(f"the params are not JSON: {error}", USAGE) from None

    async def ask_or_name_the_nearest(car: Car) -> Any:
        try:
            return await car.call(method, decoded)
        except CallRefused as refused:
            if refused.code != METHOD_NOT_FOUND:
                raise
            unknown = refused
        known = [each["name"] for each in (await car.call("rpc.discover"))["methods"]]
        raise unknown if method in known else no_such("method", method, known)

    say_json(talk(home, ask_or_name_the_nearest, agent_id=agent))
    return 0


def ask(home: str | None, method: str, params: Any = None) -> Any:
    """The result of one call. Raises what the client raises."""
    return talk(home, lambda car: car.call(method, params))


def talk(home: str | None, what: Callable[[Car], Awaitable[T]], *, agent_id: str | None = None) -> T:
    """Connects and does something with the connection; an error comes out alone, never in a group."""

    async def session() -> T:
        async with connect(home=home, agent_id=agent_id, host=True) as car:
            return await what(car)

    try:
        return trio.run(session)
    except ValueError as error:
        raise FailedError(str(error), USAGE) from None
    except BaseExceptionGroup as group:
        raise first(group) from None


def first(error: BaseException) -> BaseException:
    """The exception that a group is about, or the exception itself."""
    exceptions: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return first(exceptions[0]) if exceptions else error
