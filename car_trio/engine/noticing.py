"""When a call begins to wait. Whether it will nobody knows before: a tool may answer at once, from a cache, say."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@coroutine
def noticed(call: Coroutine[Any, Any, T], waits: Callable[[*Ts], None], *args: *Ts) -> Generator[Any, Any, T]:
    """What `call` returns. When it begins to wait, `waits(*args)` is called first; if it never does, never."""
    try:
        waited_for = call.send(None)
        waits(*args)
        while True:  # Trio only ever sends: a cancellation, too, is raised by what it was waiting in
            waited_for = call.send((yield waited_for))
    except StopIteration as done:
        output: T = done.value
        return output
