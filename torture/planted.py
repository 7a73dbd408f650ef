"""Defects that are planted on purpose, each to show that a judge sees it. None of them is in the daemon.

A campaign that starts a daemon of its own passes the defect's name in the environment (`DEFECT`, read by
`torture.counted`) or in the order to a `torture.zygote`; a test in the same process uses `planted`, which takes it
back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio

from car_trio.nursery import connection, supervisor
from car_trio.nursery.connection import Common
from car_trio.nursery.dispatch import Dispatcher
from car_trio.state.agents import Agents
from car_trio.store import orphans
from car_trio.store.journal import Journal
from car_trio.store.survey import survey
from car_trio.wire.runs import now

kept: list[Any] = []
"""What leaks."""
MUCH = 64 * 1024


def leaking(leak: Callable[[Common], None]) -> Any:
    """`admit`, with a leak at each connection."""
    admit: Any = supervisor.admit

    def admitting(common: Common, *args: Any) -> Any:
        leak(common)
        return admit(common, *args)

    return admitting


def answering(times: int) -> Any:
    """Each `server.health` is answered so often."""
    reply: Any = Dispatcher._reply

    def replying(self: Any, request: Any, result: Any) -> None:
        for _ in range(times if request.method == "server.health" else 1):
            reply(self, request, result)

    return replying


def failing() -> Any:
    """What an error in a method looks like."""

    def fail(self: Any, session: Any) -> Any:
        raise KeyError(session.id)

    return fail


def acknowledging_early() -> Any:
    """What is put counts as true at once, before a byte of it is written."""
    put: Any = Journal.put

    def hasty(self: Journal, *args: Any, durable: Callable[[], None], **more: Any) -> Any:
        durable()
        ticket = put(self, *args, durable=lambda: None, **more)
        ticket.settle(None)
        return ticket

    return hasty


def ending_twice() -> Any:
    """An adopted run is ended, and ended again."""
    end: Any = orphans._append_end

    def twice(*args: Any) -> None:
        end(*args)
        end(*args)

    return twice


def ending_again() -> Any:
    """The adoption looks at every run, and ends each of them."""

    def all_runs(disk: Any, layout: Any, catalog: Any) -> Any:
        found = [each.ref for each in survey(disk, layout)]
        for ref in found:
            orphans._append_end(disk, layout, ref, now())
        return found

    return all_runs


def adopting_nothing() -> Any:
    return lambda disk, layout, catalog: []


def keeping_torn_tails() -> Any:
    return lambda disk, layout, ref: 0


def believing_the_catalog() -> Any:
    """After a kill the catalog is taken for complete."""
    return lambda disk, layout, catalog: catalog.complete()


DEFECTS: dict[str, tuple[Any, str, Callable[[], Any]]] = {
    "descriptor": (supervisor, "admit", lambda: leaking(lambda _: kept.append(os.open(os.devnull, os.O_RDONLY)))),
    "task": (supervisor, "admit", lambda: leaking(lambda common: common.spawn(trio.sleep_forever))),
    "memory": (supervisor, "admit", lambda: leaking(lambda _: kept.append(os.urandom(MUCH)))),
    "welcome": (connection, "judge", lambda: lambda server, request: None),
    "error": (Agents, "listed", failing),
    "twice": (Dispatcher, "_reply", lambda: answering(2)),
    "dumb": (Dispatcher, "_reply", lambda: answering(0)),
    "early": (Journal, "put", acknowledging_early),
    "two ends": (orphans, "_append_end", ending_twice),
    "ended again": (orphans, "_open_runs", ending_again),
    "no end": (orphans, "_open_runs", adopting_nothing),
    "torn": (orphans, "_cut_tails_off", keeping_torn_tails),
    "stale": (orphans, "reconcile", believing_the_catalog),
}  # fmt: skip
"""Where it is planted, and what takes the place of what is there."""


def plant(name: str) -> tuple[Any, str, Any]:
    """Plants it; returns what was there, for taking it back."""
    where, attribute, defect = DEFECTS[name]
    before = getattr(where, attribute)
    setattr(where, attribute, defect())
    return where, attribute, before


@contextmanager
def planted(name: str) -> Iterator[None]:
    was = plant(name)
    try:
        yield
    finally:
        setattr(*was)
