"""What the run files themselves say, for when the catalog is not there, not trusted or behind.

`survey` looks at names only: which runs there are, how large, when changed. `summarize` reads one run and
makes its catalog row. What does not belong among the files is logged and left alone: a link in place of an
agent's directory or of a run's file is never followed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from car_trio.store.disk import Disk, FileStat
from car_trio.store.layout import Layout, decode_name, parse_run_file
from car_trio.store.reader import Record, read_records
from car_trio.wire.runs import CatalogRow, Ended, Outcome, RunRef, Started, status_of

LOG = logging.getLogger("car_trio.store")
MAX_TOOL_NAMES = 256


class Found(NamedTuple):
    """A run as the names of its files show it: their bytes together and the latest change."""

    ref: RunRef
    bytes: int
    mtime_ns: int


class _TurnTool(msgspec.Struct):
    tool: str | None = None


_STARTED = msgspec.json.Decoder(Started)
_ENDED = msgspec.json.Decoder(Ended)
_TOOL = msgspec.json.Decoder(_TurnTool)


def survey(disk: Disk, layout: Layout) -> Iterator[Found]:
    """Every run under the root. No file is opened. A run needs its first file; continuations alone are
    none."""
    for agent_id in agents(disk, layout):
        yield from survey_agent(disk, layout, agent_id)


def agents(disk: Disk, layout: Layout) -> list[str]:
    """The ids of all agents that have a directory."""
    try:
        entries = disk.entries(layout.runs)
    except FileNotFoundError:
        return []
    found: list[str] = []
    for name, stat in sorted(entries):
        agent_id = decode_name(name)
        if agent_id is not None and stat.directory:
            found.append(agent_id)
        elif name != ".nobackup":
            LOG.warning("%s is no agent's directory: left alone", layout.runs / name)
    return found


def survey_agent(disk: Disk, layout: Layout, agent_id: str) -> list[Found]:
    """The runs of one agent, none when it has no directory."""
    runs: dict[str, Found] = {}
    first: set[str] = set()
    for name, stat in _entries(disk, layout, agent_id):
        parsed = parse_run_file(name)
        if parsed is None:
            continue
        run_id, segment = parsed
        if not stat.regular:
            LOG.warning("%s is not a regular file: left alone", layout.agent_directory(agent_id) / name)
            continue
        if segment == 0:
            first.add(run_id)
        known = runs.get(run_id) or Found(RunRef(agent_id, run_id), 0, 0)
        runs[run_id] = Found(known.ref, known.bytes + stat.size, max(known.mtime_ns, stat.mtime_ns))
    return [found for run_id, found in runs.items() if run_id in first]


def obstructed(disk: Disk, layout: Layout) -> Iterator[RunRef]:
    """The runs in the place of whose first file something else lies. `survey` leaves them alone."""
    for agent_id in agents(disk, layout):
        for name, stat in _entries(disk, layout, agent_id):
            parsed = parse_run_file(name)
            if parsed is not None and parsed[1] == 0 and not stat.regular:
                yield RunRef(agent_id, parsed[0])


def continuations_alone(disk: Disk, layout: Layout) -> Iterator[tuple[RunRef, Path]]:
    """The files that would continue a run whose first file is not there. `survey` leaves them alone."""
    for agent_id in agents(disk, layout):
        names = {name: stat for name, stat in _entries(disk, layout, agent_id) if stat.regular}
        for name in sorted(names):
            run_id, segment = parse_run_file(name) or ("", 0)
            ref = RunRef(agent_id, run_id)
            if segment and layout.run_file(ref).name not in names:
                yield ref, layout.run_file(ref, segment)


def _entries(disk: Disk, layout: Layout, agent_id: str) -> list[tuple[str, FileStat]]:
    try:
        return disk.entries(layout.agent_directory(agent_id))
    except FileNotFoundError:
        return []


def find_run(disk: Disk, layout: Layout, run_id: str) -> RunRef | None:
    """The run with this id, whoever owns it."""
    for agent_id in agents(disk, layout):
        ref = RunRef(agent_id, run_id)
        try:
            if disk.stat(layout.run_file(ref)).regular:
                return ref
        except FileNotFoundError:
            continue
    return None


def measure(disk: Disk, layout: Layout, ref: RunRef) -> Found:
    """One run's sizes; `FileNotFoundError` when there is no such run."""
    stats = [disk.stat(layout.run_file(ref))]
    while True:
        try:
            stats.append(disk.stat(layout.run_file(ref, len(stats))))
        except FileNotFoundError:
            return Found(ref, sum(stat.size for stat in stats), max(stat.mtime_ns for stat in stats))


def summarize(disk: Disk, layout: Layout, ref: RunRef) -> CatalogRow:
    """The catalog row of a run, from its files. `FileNotFoundError` when there is no such run.

    Agent and run are what the names say. A run whose first line is damaged has an empty intent and began when
    its file was last changed, for want of a better word."""
    _, size, mtime_ns = measure(
        disk, layout, ref
    )  # before reading: a row may be behind its files, never ahead
    changed = datetime.fromtimestamp(mtime_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    row = CatalogRow(
        run_id=ref.run_id,
        agent_id=ref.agent_id,
        intent="",
        started_at=changed,
        status="in_progress",
        bytes=size,
        mtime_ns=mtime_ns,
    )
    tools: dict[str, None] = {}
    for place, record in enumerate(read_records(disk, layout, ref)):
        _take_in(row, tools, record, place)
    row.tools = list(tools)
    return row


def ended_rows(disk: Disk, layout: Layout, agent_id: str | None = None) -> list[CatalogRow]:
    """The rows of all ended runs, each read from its file; those that cannot be read are left out."""
    return [row for row in all_rows(disk, layout, agent_id) if row.ended_at is not None]


def all_rows(disk: Disk, layout: Layout, agent_id: str | None = None) -> Iterator[CatalogRow]:
    """The rows of the runs of one agent or of all, each read from its file."""
    for found in survey(disk, layout) if agent_id is None else survey_agent(disk, layout, agent_id):
        try:
            yield summarize(disk, layout, found.ref)
        except OSError as error:
            LOG.warning("run %s of %s cannot be read: %s", found.ref.run_id, found.ref.agent_id, error)


def ref_of(row: CatalogRow) -> RunRef:
    return RunRef(row.agent_id, row.run_id)


def _take_in(row: CatalogRow, tools: dict[str, None], record: Record, place: int) -> None:
    match record.kind:
        case "turn":
            row.turn_count += 1
            tool = _tool_of(record.raw)
            if tool is not None and len(tools) < MAX_TOOL_NAMES:
                tools[tool] = None
        case "damaged" if place > 0:
            row.turn_count += 1  # it stands in the place of a turn
        case "started":
            _take_start(row, record.raw)
        case "ended":
            _take_end(row, record.raw)
        case _:
            pass


def _take_start(row: CatalogRow, raw: bytes) -> None:
    try:
        started = _STARTED.decode(raw)
    except msgspec.ValidationError:
        return
    row.intent, row.outcome_description = started.intent, started.outcome_description
    row.started_at = started.started_at


def _take_end(row: CatalogRow, raw: bytes) -> None:
    """An end that says something unknown is still an end."""
    try:
        ended = _ENDED.decode(raw)
    except msgspec.ValidationError:
        row.status, row.ended_at = "completed", row.started_at
        return
    row.status, row.ended_at = status_of(ended.termination), ended.ended_at
    if isinstance(ended.termination, Outcome):
        row.outcome, row.summary = ended.termination.outcome.status, ended.termination.outcome.summary


def _tool_of(raw: bytes) -> str | None:
    try:
        return _TOOL.decode(raw).tool
    except msgspec.ValidationError:
        return None
