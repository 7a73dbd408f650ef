"""`car-trio runs ls`: which runs there are, from the catalog or the files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import msgspec

from car_trio.cli.app import USAGE
from car_trio.cli.failures import FailedError
from car_trio.cli.files import Files, point_in_time
from car_trio.cli.flags import Flag, Home, Json
from car_trio.cli.screen import (
    ago,
    folded,
    is_terminal,
    lasting,
    say_json,
    seconds_between,
    styled,
    toned,
    width,
)
from car_trio.store.reader import read_records
from car_trio.store.survey import ref_of
from car_trio.wire.runs import CatalogRow, OutcomeStatus, RunStatus, SearchRuns
from car_trio.wire.text import one_line


def ls(
    *,
    agent: Annotated[str | None, Flag("Only this agent's runs.")] = None,
    status: Annotated[RunStatus | None, Flag("How far they are.")] = None,
    outcome: Annotated[OutcomeStatus | None, Flag("What the agent reported.")] = None,
    since: Annotated[str | None, Flag("Begun since: 2h, 30d, a date or a time.")] = None,
    until: Annotated[str | None, Flag("Begun until: 2h, 30d, a date or a time.")] = None,
    tool: Annotated[str | None, Flag("In which this tool was used.")] = None,
    grep: Annotated[str | None, Flag("With this text anywhere in a record, in any case.")] = None,
    limit: Annotated[int, Flag("At most so many; 0 shows all.")] = 50,
    home: Home = None,
    json: Json = False,
) -> int:
    """List runs, newest first. Needs no daemon."""
    if limit < 0:
        raise FailedError(f"--limit is {limit}: at most so many runs are shown, 0 shows all", USAGE)
    files = Files(home)
    ask = SearchRuns(
        agent_id=agent,
        status=status,
        outcome=outcome,
        tool=tool,
        since=point_in_time("--since", since),
        until=point_in_time("--until", until),
        limit=min(limit, 10_000) if limit > 0 and grep is None else 500,
    )
    rows = files.search(ask)
    if grep is not None:
        rows = (row for row in rows if holds(files, row, grep))
    shown = [files.fresh(row) for row in islice(rows, limit if limit > 0 else None)]
    if not shown and agent is not None:
        files.require_agent(agent)
    if json:
        say_json({"runs": [row.in_list() for row in shown]})
        return 0
    if not shown:
        print(
            "no runs" if files.root.is_dir() else f"no runs: there is nothing at {one_line(str(files.root))}"
        )
        return 0
    for line in table(shown):
        print(line)
    return 0


def holds(files: Files, row: CatalogRow, text: str) -> bool:
    """Whether any record of the run holds the text, whatever the case."""
    wanted = msgspec.json.encode(text).decode()[1:-1].casefold()
    try:
        for record in read_records(files.disk, files.layout, ref_of(row)):
            line = record.raw
            # The same text can be written in two ways in JSON; a line that is written the other way is put right.
            if rb"\u" in line or rb"\/" in line:
                line = msgspec.json.encode(msgspec.json.decode(line))
            if wanted in line.decode(errors="replace").casefold():
                return True
    except FileNotFoundError:
        pass
    return False


ROOMY = 120
"""A terminal of so many columns shows whole ids."""
HEADINGS = ("RUN", "AGENT", "STATUS", "OUTCOME", "TURNS", "BEGAN", "TOOK", "INTENT")


def short_ids(run_ids: list[str]) -> int:
    """How much of each id is enough to tell these apart: every command takes the beginning of one."""
    return next(
        (length for length in range(8, 36) if len({each[:length] for each in run_ids}) == len(run_ids)), 36
    )


def table(rows: list[CatalogRow]) -> Iterator[str]:
    """A line per run under headings; in a terminal the intent gets what is left of the width."""
    shortest = short_ids([row.run_id for row in rows]) if is_terminal() and width() < ROOMY else 36
    cells = [
        (
            folded(row.run_id[:shortest], 36),
            folded(row.agent_id, 24),
            row.status,
            row.outcome or "-",
            str(row.turn_count),
            ago(row.started_at),
            lasting(seconds_between(row.started_at, row.ended_at)),
        )
        for row in rows
    ]
    wide = [max(len(row[at]) for row in [HEADINGS, *cells]) for at in range(7)]
    room = max(20, width() - sum(wide) - 2 * len(wide))
    yield styled("  ".join(f"{text:{w}}" for text, w in zip(HEADINGS, [*wide, 0], strict=True)), "bold")
    for row, shown in zip(rows, cells, strict=True):
        padded = [f"{text:{w}}" for text, w in zip(shown, wide, strict=True)]
        padded[2], padded[3] = toned(shown[2], wide[2]), toned(shown[3], wide[3])
        yield re.sub(r" +$", "", "  ".join([*padded, folded(row.intent, room)]))
