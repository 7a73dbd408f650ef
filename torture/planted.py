"""Defects that are planted on purpose, each to show that a judge sees it. None of them is in the daemon.

A daemon in a process of its own is told the defect's name: `python -m torture.planted NAME serve …`, in the order to a
`torture.zygote`, or in the environment (`DEFECT`) where it is another module's daemon. A test in the same process uses
`planted`, which takes it back.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import trio

from car_trio.__main__ import main
from car_trio.nursery import connection, outbound, supervisor
from car_trio.nursery.connection import Common
from car_trio.nursery.dispatch import Dispatcher
from car_trio.state.agents import Agents
from torture.planted_store import STORE_DEFECTS, Defect

kept: list[Any] = []
"""What leaks."""
MUCH = 64 * 1024


def leaking(leak: Callable[[Common], object]) -> Any:
    """`admit`, with a leak at each connection."""
    admit: Any = supervisor.admit

    def admitting(common: Common, *args: Any) -> Any:
        leak(common)
        return admit(common, *args)

    return admitting


def answering(times: int) -> Any:
    """Each `server.health` is answered so often."""
    reply: Any = vars(Dispatcher)["_reply"]

    def replying(self: Any, request: Any, result: Any) -> None:
        for _ in range(times if request.method == "server.health" else 1):
            reply(self, request, result)

    return replying


def failing() -> Any:
    """What an error in a method looks like."""

    def fail(self: Any, session: Any) -> Any:
        raise KeyError(session.id)

    return fail


def welcoming() -> Any:
    """A guard that lets everybody in."""

    def judge(server: Any, request: Any) -> None:
        return None

    return judge


DEFECTS: dict[str, Defect] = {
    "descriptor": (supervisor, "admit", lambda: leaking(lambda _: kept.append(os.open(os.devnull, os.O_RDONLY)))),
    "task": (supervisor, "admit", lambda: leaking(lambda common: common.spawn(trio.sleep_forever))),
    "memory": (supervisor, "admit", lambda: leaking(lambda _: kept.append(os.urandom(MUCH)))),
    "hoarding": (outbound, "SOFT_LIMIT", lambda: outbound.HARD_LIMIT),
    "welcome": (connection, "judge", welcoming),
    "error": (Agents, "listed", failing),
    "twice": (Dispatcher, "_reply", lambda: answering(2)),
    "dumb": (Dispatcher, "_reply", lambda: answering(0)),
    **STORE_DEFECTS,
}  # fmt: skip
"""Where it is planted, and what takes the place of what is there."""


def plant(name: str) -> tuple[Any, str, Any]:
    """Plants it; returns what was there, for taking it back."""
    where, attribute, defect = DEFECTS[name]
    before = getattr(where, attribute)
    setattr(where, attribute, defect())
    return where, attribute, before


def plant_from_environment() -> None:
    """What the environment says, if it does."""
    if name := os.environ.get("DEFECT"):
        plant(name)


@contextmanager
def planted(name: str) -> Generator[None]:
    was = plant(name)
    try:
        yield
    finally:
        setattr(*was)


if __name__ == "__main__":
    plant(sys.argv[1])
    sys.argv[1:] = sys.argv[2:]
    main()
