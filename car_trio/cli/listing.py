"""`car-trio runs ls`: which runs there are, from the catalog or the files."""

from __future__ import annotations

import sys
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
    columns,
    folded,
    is_terminal,
    lasting,
    padded,
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
        limit=min(limit + 1, 10_000) if limit > 0 and grep is None else 500,
    )
    found = files.search(ask)
    rows = found if grep is None else (row for row in found if holds(files, row, grep))
    shown = [files.fresh(row) for row in islice(rows, limit if limit > 0 else None)]
    if not shown:
        require_names(files, agent, tool)
    is_cut = limit > 0 and next(found, None) is not None
    if json:
        say_json({"runs": [row.in_list() for row in shown], "more": is_cut})
        return 0
    if not shown:
        print(
            "no runs" if files.root.is_dir() else f"no runs: there is nothing at {one_line(str(files.root))}"
        )
        return 0
    for line in table(shown):
        print(line)
    if is_cut:
        sys.stdout.flush()
        print(f"car-trio: these are the newest {limit}; --limit 0 shows all", file=sys.stderr)
    return 0


def require_names(files: Files, agent: str | None, tool: str | None) -> None:
    """Raises FailedError for a name that no run knows: that is why none was found."""
    if agent is not None:
        files.require_agent(agent)
    if tool is not None:
        files.require_tool(tool)


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


GAP = 2
ROOMY, LEAST = 30, 12
"""Columns of a terminal for an intent: with fewer than the first ids are shortened, with fewer than the second columns
are left out."""
SPARE = ("TOOK", "TURNS", "BEGAN", "AGENT", "STATUS")
"""What a terminal that is too narrow for all goes without, in this order."""
Column = tuple[str, list[str]]


def short_ids(run_ids: list[str]) -> int:
    """How much of each id is enough to tell these apart: every command takes the beginning of one."""
    return next(
        (length for length in range(8, 36) if len({each[:length] for each in run_ids}) == len(run_ids)), 36
    )


def table(rows: list[CatalogRow]) -> Iterator[str]:
    """A line per run under headings; in a terminal the intent gets what is left of the width."""
    if not rows:
        return
    shown = columns_of(rows, narrow=False)
    if is_terminal() and left_by(shown) < ROOMY:
        shown = fitting(columns_of(rows, narrow=True))
    wide = [max(map(columns, (heading, *cells))) for heading, cells in shown]
    room = left_by(shown)
    gap = " " * GAP
    heads = [padded(heading, w) for (heading, _), w in zip(shown, wide, strict=True)]
    yield styled(gap.join([*heads, "INTENT"]), "bold")
    for number, row in enumerate(rows):
        line = [
            toned(cells[number], w) if heading in TONED else padded(cells[number], w)
            for (heading, cells), w in zip(shown, wide, strict=True)
        ]
        yield gap.join([*line, folded(row.intent, room)]).rstrip(" ")


TONED = {"STATUS", "OUTCOME"}


def columns_of(rows: list[CatalogRow], *, narrow: bool) -> list[Column]:
    """All that is known of runs, heading by heading. Where room is short: as much of the ids as tells them apart, and
    one word for what a run came to, for who reported an outcome has completed."""
    shortest = short_ids([row.run_id for row in rows]) if narrow else 36
    ends: list[Column] = [
        ("STATUS", [row.status for row in rows]),
        ("OUTCOME", [row.outcome or "-" for row in rows]),
    ]
    return [
        ("RUN", [folded(row.run_id[:shortest], 36) for row in rows]),
        ("AGENT", [folded(row.agent_id, 16 if narrow else 24) for row in rows]),
        *([("STATUS", [row.outcome or row.status for row in rows])] if narrow else ends),
        ("TURNS", [str(row.turn_count) for row in rows]),
        ("BEGAN", [ago(row.started_at) for row in rows]),
        ("TOOK", [lasting(seconds_between(row.started_at, row.ended_at)) for row in rows]),
    ]


def left_by(shown: list[Column]) -> int:
    """How many columns of the terminal these leave for the intent."""
    return width() - sum(max(map(columns, (heading, *cells))) + GAP for heading, cells in shown)


def fitting(shown: list[Column]) -> list[Column]:
    """Without those columns for which there is no room."""
    for spare in SPARE:
        if left_by(shown) >= LEAST:
            break
        shown = [column for column in shown if column[0] != spare]
    return shown
