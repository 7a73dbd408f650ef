"""Following runs through the daemon's socket (`tail.py` says when). Each run has a task of its own.

A watch hands out turns and the end, and the snapshot it begins with leaves out the start, so that is read from the
file: before the run is watched, or, when it was not on disk yet, before the first record that the watch brings.

Which runs begin is told by the host events. Where those begin anew, at first and after what was missed, the names of
the files are looked at, in a thread, so a slow disk stops no stream; what happens meanwhile waits in the feed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import trio

from car_trio.cli.calling import first
from car_trio.cli.files import Files
from car_trio.cli.tail import Chosen, Printer
from car_trio.client import CallRefused, Car, DaemonUnreachable, Retracted, connect
from car_trio.wire.host import HostEvent, HostSnapshot, RunChange
from car_trio.wire.runs import RunRef


class NotFollowingError(Exception):
    """The daemon lets us not in: the files show the same."""


def follow_run(home: str | None, files: Files, printer: Printer, ref: RunRef) -> bool:
    """Follows one run to its end; false, with nothing shown, when the daemon does not answer or let us in."""
    return _run(home, lambda car: watch(car, files, printer, ref))


def follow_many(home: str | None, files: Files, printer: Printer, chosen: Chosen) -> bool:
    """Follows all that are chosen until interrupted; false, with nothing shown, as above."""
    return _run(home, lambda car: _follow_many(car, files, printer, chosen))


def _run(home: str | None, follow: Callable[[Car], Awaitable[None]]) -> bool:
    try:
        trio.run(_follow, home, follow)
    except (NotFollowingError, KeyboardInterrupt) as ended:
        return isinstance(ended, KeyboardInterrupt)
    except BaseExceptionGroup as group:
        cause = first(group)
        if not isinstance(cause, KeyboardInterrupt):
            raise cause from None
    return True


async def _follow(home: str | None, follow: Callable[[Car], Awaitable[None]]) -> None:
    entered = False
    try:
        async with connect(home=home, host=True) as car:
            entered = True
            await follow(car)
    except (DaemonUnreachable, CallRefused):
        if entered:
            raise
        raise NotFollowingError from None


async def _follow_many(car: Car, files: Files, printer: Printer, chosen: Chosen) -> None:
    async with trio.open_nursery() as runs:
        async for event in car.host_events():
            for ref in await _new(chosen, event):
                runs.start_soon(_watch_one_of_many, car, files, printer, ref)


async def _new(chosen: Chosen, event: HostSnapshot | HostEvent) -> list[RunRef]:
    if isinstance(event, HostSnapshot):
        return await trio.to_thread.run_sync(chosen.new)
    if event.kind != "run.started":
        return []
    begun = msgspec.json.decode(event.payload, type=RunChange)
    return chosen.fresh(RunRef(begun.agent_id, begun.run_id))


async def _watch_one_of_many(car: Car, files: Files, printer: Printer, ref: RunRef) -> None:
    try:
        await watch(car, files, printer, ref)
    except CallRefused as refused:
        # Removed between the look at the names and now; any other refusal is the caller's to know.
        if "unknown run_id" not in refused.message:
            raise


async def watch(car: Car, files: Files, printer: Printer, ref: RunRef) -> None:
    """Shows a run from its start and then the printer's first turn on, through any number of connections."""
    has_begun = await _begin(files, printer, ref)
    with car.watch(ref.run_id, printer.first_turn) as events:
        async for event in events:
            has_begun = has_begun or await _begin(files, printer, ref)
            if isinstance(event, Retracted):
                printer.retracted(ref, event.from_cursor)
                continue
            raw = msgspec.json.encode(event.record)
            printer.record(ref, kind_of(raw), raw, event.cursor)


async def _begin(files: Files, printer: Printer, ref: RunRef) -> bool:
    """Shows the start of a run; false when its file does not hold it yet."""
    try:
        page = await trio.to_thread.run_sync(partial(files.page, ref, max_records=1))
    except FileNotFoundError:
        return False
    for record in page.records:
        if record.kind == "started":
            printer.record(ref, record.kind, record.raw, 0)
    return bool(page.records)


class _Tag(msgspec.Struct):
    record: str


def kind_of(raw: bytes) -> str:
    return msgspec.json.decode(raw, type=_Tag).record
