"""`car-trio runs verify`: every line of a run, and the catalog against the files.

A run that is whole has one `started` as its first record, turns whose positions rise by one from 0, and one `ended` as
its last, unless it is still open. Every claim that does not hold names its line. A tail without a newline is no damage:
a crash leaves one, and a daemon that is writing does. A run that cannot be read is damaged too, and the others are
looked at all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

from car_trio.cli.app import DAMAGED, OK
from car_trio.cli.files import Files
from car_trio.cli.flags import Flag, Home, Json
from car_trio.cli.screen import counted, say_json, styled
from car_trio.cli.timeline import decoded
from car_trio.store.lock import lock_is_held
from car_trio.store.reader import Record
from car_trio.store.survey import measure, obstructed, ref_of, summarize, survey
from car_trio.wire.runs import CatalogRow, Damaged, Ended, RunRef, Started, Turn
from car_trio.wire.text import one_line


class Fault(msgspec.Struct):
    """Something that is not as it must be. `line` counts from 1 within its file, and is 0 where it is about the run as
    a whole; `segment` names a continuation."""

    run_id: str
    agent_id: str
    line: int
    segment: int
    what: str

    @property
    def told(self) -> str:
        """Where it is and what."""
        line = f" line {self.line}" if self.line else ""
        continued = f" of continuation {self.segment}" if self.segment else ""
        return f"run {self.run_id}{line}{continued}: {self.what}"


class Checked(msgspec.Struct):
    """What `--json` prints."""

    runs: int
    records: int
    turns: int
    open: int
    torn_bytes: int
    faults: list[Fault]


def verify(
    *runs: Annotated[str, Flag("Run ids, or how they begin; none: all.")],
    home: Home = None,
    json: Json = False,
) -> int:
    """Check every line of runs, and the catalog against them. Needs no daemon; changes nothing."""
    files = Files(home)
    checked = check(files, [files.ref(name) for name in runs] or every_run(files))
    if json:
        say_json(checked)
    else:
        for fault in checked.faults:
            print(styled(one_line(fault.told), "red"))
        open_runs = f", {checked.open} still open" if checked.open else ""
        torn = f", {checked.torn_bytes} torn bytes at their ends" if checked.torn_bytes else ""
        print(
            f"{counted(checked.runs, 'run')}, {counted(checked.records, 'record')}, "
            f"{counted(checked.turns, 'turn')}{open_runs}{torn}: {counted(len(checked.faults), 'fault')}"
        )
    return DAMAGED if checked.faults else OK


def every_run(files: Files) -> list[RunRef]:
    """All runs, also those in whose place something else lies."""
    found = [each.ref for each in survey(files.disk, files.layout)]
    return [*found, *obstructed(files.disk, files.layout)]


def check(files: Files, refs: Sequence[RunRef]) -> Checked:
    """Reads all of it, one record at a time."""
    checked = Checked(0, 0, 0, 0, 0, [])
    beside = lock_is_held(files.layout)
    for ref in refs:
        found: list[tuple[int, int, str]] = []
        try:
            found.extend(_faults(files, ref, checked))
            found.extend((0, 0, what) for what in _catalog_faults(files, ref, beside=beside))
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError as error:
            look = f"; look at {error.filename}" if error.filename is not None else ""
            found.append((0, 0, f"cannot be read: {error.strerror}{look}"))
        checked.faults += [Fault(ref.run_id, ref.agent_id, *fault) for fault in found]
        checked.runs += 1
    return checked


def _faults(files: Files, ref: RunRef, checked: Checked) -> Iterator[tuple[int, int, str]]:
    """Line, continuation and what is wrong there; counts as it goes."""
    kinds = Counter[str]()
    expected = 0
    for record in files.records(ref):
        kinds[record.kind] += 1
        for what in _wrong(record, ref, kinds, expected):
            yield record.after.line, record.after.segment, what
        if record.kind in {"turn", "damaged"} and kinds.total() > 1:
            expected = _next(record, expected)
    if not kinds["started"]:
        yield 1, 0, "there is no start"
    checked.records += kinds.total()
    checked.turns += kinds["turn"]
    checked.open += not kinds["ended"]
    checked.torn_bytes += files.torn_bytes(ref)


def _wrong(record: Record, ref: RunRef, kinds: Counter[str], expected: int) -> Iterator[str]:
    """What is wrong with this record after those that are counted in `kinds`, itself included."""
    if kinds["ended"] and record.kind != "ended":
        yield f"a {one_line(record.kind)} after the end"
    match decoded(record.raw):
        case Damaged():
            yield "not a record"
        case Started() as started:
            if kinds.total() > 1:
                yield "a start that is not the first record"
            if (started.run_id, started.agent_id) != (ref.run_id, ref.agent_id):
                yield f"it names run {one_line(started.run_id)} of {one_line(started.agent_id)}"
        case Turn() as turn:
            if turn.index != expected:
                yield f"turn {turn.index} where turn {expected} belongs"
        case Ended():
            if kinds["ended"] > 1:
                yield "a second end"
        case None:
            if record.kind in {"started", "turn", "ended"}:
                yield f"a {record.kind} of a shape that cannot be read"


def _next(record: Record, expected: int) -> int:
    turn = decoded(record.raw)
    return turn.index + 1 if isinstance(turn, Turn) else expected + 1


def _catalog_faults(files: Files, ref: RunRef, *, beside: bool) -> Iterator[str]:
    """The catalog may be behind a run that is open, or that a living daemon has just touched; otherwise it agrees."""
    row = files.index.find(ref.run_id)
    if row is None or ref_of(row) != ref or row.ended_at is None:
        return
    found = measure(files.disk, files.layout, ref)
    if (found.bytes, found.mtime_ns) == (row.bytes, row.mtime_ns):
        return
    actual = summarize(files.disk, files.layout, ref)
    if not beside and _said(actual) != _said(row):
        yield "the catalog says something else; car-trio runs reindex makes it anew"


def _said(row: CatalogRow) -> tuple[object, ...]:
    return row.status, row.outcome, row.turn_count, row.ended_at
