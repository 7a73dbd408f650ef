"""What the daemon does by itself, beside and after its connections: sweeps, retention, heartbeat, watchdog.

A duty that fails is logged and begun again after a pause that doubles; only an error of the journal ends the process.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable

import trio

from car_trio.methods.context import Daemon
from car_trio.methods.runs import taken_off
from car_trio.nursery.connection import Connection
from car_trio.nursery.peer import WAITS
from car_trio.nursery.storage import OpenStore
from car_trio.nursery.systemd import notify
from car_trio.state.runs import RunRegistry

LOG = logging.getLogger("car_trio.duties")
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
BEAT_SECONDS = 5.0
RETENTION_SECONDS = 3600.0
REMOVAL_PAUSE = 0.05


async def guarded(name: str, duty: Callable[[], Awaitable[None]]) -> None:
    """Runs a duty for as long as the daemon lives, again and again if it must be."""
    pause = FIRST_PAUSE
    while True:
        try:
            await duty()
        except Exception:
            LOG.exception("%s failed; again in %g s", name, pause)
        else:
            return
        await trio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


async def grace_sweep(
    runs: RunRegistry,
    session_id: str,
    due: float,
    over: Callable[[], Awaitable[object]],
    is_stopping: Callable[[], bool],
) -> None:
    """Ends the runs that a vanished connection has left open, when its time of grace is over or the daemon stops.

    A `complete` that lands meanwhile wins, and so does another connection that takes a run over by its key. Requests
    of the connection may take as long; the sweep waits until they are `over`, so that their turns come before the end.
    """
    try:
        await trio.sleep_until(due)
        await over()
    finally:
        runs.sweep(session_id, "shutdown" if is_stopping() else "disconnected")


async def retention(daemon: Daemon, store: OpenStore) -> None:
    """Once now and then every hour: removes what the limits take away, a few runs a second.

    Slowly, because a file system that digests many removals at once makes creating files slow for everybody.
    """
    while True:
        now = store.look_at_clock()
        for row, why in await trio.to_thread.run_sync(store.expired, now):
            await taken_off(daemon, WAITS, row, why)
            await trio.sleep(REMOVAL_PAUSE)
        await trio.to_thread.run_sync(store.drop_journals, set(daemon.sessions), now)
        await trio.sleep(RETENTION_SECONDS)


async def heartbeat(connections: Iterable[Connection]) -> None:
    """Every few seconds: long calls say that they go on, silent remote clients are asked or cut."""
    before = trio.current_time()
    while True:
        await trio.sleep(BEAT_SECONDS)
        now = trio.current_time()
        for connection in [each for each in connections if each.wants_a_beat]:
            connection.beat(before, now)
        before = now


async def deadlines(daemon: Daemon) -> None:
    """Ends approvals and chats whose time is over."""
    while True:
        now = trio.current_time()
        daemon.host.approvals.expire(now)
        daemon.chats.expire(now)
        await daemon.alarm.until_due()


async def watchdog(address: str | None, seconds: float, ping: Callable[[], Awaitable[None]]) -> None:
    """Tells systemd that all is well, only while both the loop and the journal's thread answer."""
    while True:
        await ping()
        notify(address, "WATCHDOG=1")
        await trio.sleep(seconds / 2)
