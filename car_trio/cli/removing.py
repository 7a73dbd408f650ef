"""`car-trio runs rm`, `prune` and `reindex`: the commands that change the store.

With a daemon they ask it, because it is the only writer; without one they take the lock themselves. Exactly the runs
that were shown are removed: they are named one by one, never by the condition that found them. Without a yes, none is.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

from car_trio.cli.app import NO, OK
from car_trio.cli.failures import FailedError
from car_trio.cli.files import Files, point_in_time
from car_trio.cli.flags import Flag, Home, Json
from car_trio.cli.listing import table
from car_trio.cli.screen import counted, human_size, say_json
from car_trio.store.lock import holder, lock_is_held
from car_trio.store.run_store import RunStore
from car_trio.store.survey import survey
from car_trio.wire.runs import CatalogRow, SearchRuns

BATCH = 1000
Yes = Annotated[bool, Flag("Do not ask.", ("--yes", "-y"))]
DryRun = Annotated[bool, Flag("Only say what would be removed.")]


def rm(
    run: Annotated[str, Flag("A run's id, or how it begins.")],
    /,
    *more: str,
    dry_run: DryRun = False,
    yes: Yes = False,
    home: Home = None,
    json: Json = False,
) -> int:
    """Remove ended runs. Asks, unless --yes."""
    files = Files(home)
    rows = [files.row(name) for name in dict.fromkeys((run, *more))]
    still_open = [row.run_id for row in rows if row.ended_at is None]
    if still_open:
        next_step = (
            "it ends with its agent, also by itself when that is gone"
            if lock_is_held(files.layout)
            else "start the daemon once, which ends what nobody works on"
        )
        raise FailedError(f"run '{still_open[0]}' is still open: only ended runs are removed; {next_step}")
    return remove(files, rows, dry_run=dry_run, yes=yes, home=home, json=json)


def prune(
    *,
    older_than: Annotated[str, Flag("Ended longer ago than this: 30d, 2w, a date or a time.")],
    agent: Annotated[str | None, Flag("Only this agent's runs.")] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    home: Home = None,
    json: Json = False,
) -> int:
    """Remove the runs that ended long ago. Asks, unless --yes."""
    files = Files(home)
    before = point_in_time("--older-than", older_than) or ""
    rows = [
        row
        for row in files.search(SearchRuns(agent_id=agent, limit=500))
        if row.ended_at is not None and row.ended_at < before
    ]
    if agent is not None and not rows:
        files.require_agent(agent)
    return remove(files, rows, dry_run=dry_run, yes=yes, home=home, json=json)


def remove(
    files: Files, rows: list[CatalogRow], *, dry_run: bool, yes: bool, home: str | None, json: bool
) -> int:
    """Says what would be removed, asks, removes."""
    if rows and not json:
        for line in table(rows):
            print(line)
    total = sum(row.bytes for row in rows)
    gone: list[str] = []
    agreed = not dry_run and bool(rows) and (yes or agreed_to(rows, total))
    if agreed:
        gone = taken_off(files, [row.run_id for row in rows], home)
    if json:
        say_json({"would_remove": [row.run_id for row in rows], "bytes": total, "removed": gone})
    elif agreed:
        print(f"removed {len(gone)} of {counted(len(rows), 'run')}")
    elif rows:
        print(f"{counted(len(rows), 'run')}, {human_size(total)}, would be removed; nothing was")
    else:
        print("no run is to be removed")
    return OK if dry_run or len(gone) == len(rows) else NO


def agreed_to(rows: list[CatalogRow], total: int) -> bool:
    """Asks; anything but a yes, also no answer at all, is a no."""
    print(
        f"Remove {counted(len(rows), 'run')}, {human_size(total)}? [y/N] ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):  # nobody has ended the line of the question
        print(file=sys.stderr)
    return answer.strip().lower() in {"y", "yes"}


def taken_off(files: Files, run_ids: list[str], home: str | None) -> list[str]:
    """Removes the runs through whoever may write the store; returns which are gone."""
    busy = holder(files.layout)
    if (
        busy is None or busy.url is None
    ):  # without an address it is no daemon: the lock is waited for, or refused
        return [ref.run_id for ref in RunStore(files.root).remove(run_ids, "removed by hand")]
    from car_trio.cli.calling import talk
    from car_trio.client import Car

    async def ask(car: Car) -> list[str]:
        gone: list[str] = []
        for start in range(0, len(run_ids), BATCH):
            answer: Any = await car.call("runs.remove", {"run_ids": run_ids[start : start + BATCH]})
            gone += answer["removed"]
        return gone

    return talk(home, ask)


def reindex(*, home: Home = None) -> int:
    """Make the catalog anew from the run files. The daemon must be down."""
    files = Files(home)
    if lock_is_held(files.layout):
        raise FailedError(
            "the catalog is not made anew while another process works with the store: stop the daemon "
            "first, then run car-trio runs reindex again"
        )
    total = sum(1 for _ in survey(files.disk, files.layout))
    bar = Bar(total)
    RunStore(files.root).reindex(bar.step)
    bar.close()
    print(f"{counted(total, 'run')} in the catalog")
    return OK


def is_watched() -> bool:
    return sys.stderr.isatty()


class Bar:
    """How far it is, on standard error where that is a terminal."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._shown = is_watched()

    def step(self) -> None:
        self._done += 1
        if self._shown and (self._done % 100 == 0 or self._done == self._total):
            full = 40 * self._done // max(1, self._total)
            print(f"\r[{'#' * full:40}] {self._done}/{self._total}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._shown:
            print(file=sys.stderr)
