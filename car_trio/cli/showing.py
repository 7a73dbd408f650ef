"""`car-trio runs show`: a run as a timeline, read page by page as it is shown."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, NamedTuple

import msgspec

from car_trio.cli.failures import FailedError
from car_trio.cli.files import Files
from car_trio.cli.flags import Flag, Home, Json
from car_trio.cli.screen import page, styled
from car_trio.cli.timeline import Timeline, heading
from car_trio.store.reader import Record
from car_trio.store.survey import ref_of
from car_trio.wire.runs import CatalogRow, RunRef
from car_trio.wire.text import escaped_json


def show(
    run: Annotated[str, Flag("The run's id, or how it begins.")],
    /,
    *,
    turn: Annotated[int | None, Flag("Only this turn, whole.")] = None,
    full: Annotated[bool, Flag("Payloads whole instead of one line of each.")] = False,
    raw: Annotated[bool, Flag("The records as they are on disk, one per line.")] = False,
    pager: Annotated[bool, Flag("In a terminal, show through PAGER.", negative=True)] = True,
    home: Home = None,
    json: Json = False,
) -> int:
    """What happened in a run, turn by turn. Needs no daemon."""
    files = Files(home)
    row = files.row(run)
    found = chosen(files, ref_of(row), turn)
    if json:
        sys.stdout.writelines(document(files, row, found.records))
    elif raw:
        page((escaped_json(record.raw.decode(errors="replace")) for record in found.records), pager=pager)
    else:
        page(timeline(files, row, found, whole=full or turn is not None), pager=pager)
    return 0


class Chosen(NamedTuple):
    """Records to show, and the one that comes before them."""

    records: Iterable[Record]
    before: Record | None = None


def chosen(files: Files, ref: RunRef, turn: int | None) -> Chosen:
    """All records, or the one of a turn. What stands in a turn's place counts as one, readable or not."""
    records = files.records(ref)
    if turn is None:
        return Chosen(records)
    found = list(islice(records, turn, turn + 2)) if turn >= 0 else []
    if len(found) < 2 or found[1].kind == "ended":
        raise FailedError(f"run '{ref.run_id}' has no turn {turn}: they are counted from 0")
    return Chosen(found[1:], before=found[0])


def timeline(files: Files, row: CatalogRow, found: Chosen, *, whole: bool) -> Iterator[str]:
    yield from heading(row)
    shown = Timeline(whole=whole)
    if found.before is not None:
        shown.after(found.before.raw)
    for record in found.records:
        yield from shown.lines(record.raw)
    torn = files.torn_bytes(ref_of(row))
    if torn:
        yield styled(
            f"     ! {torn} bytes after the last whole line: torn by a crash, or being written", "yellow"
        )


def document(files: Files, row: CatalogRow, records: Iterable[Record]) -> Iterator[str]:
    """One JSON document on one line, in pieces; each record as it is on disk."""
    yield f'{{"run":{escaped_json(msgspec.json.encode(row.in_list()).decode())},"records":['
    comma = ""
    for record in records:
        yield comma + escaped_json(record.raw.decode(errors="replace"))
        comma = ","
    yield f'],"torn_bytes":{files.torn_bytes(ref_of(row))}}}\n'
