"""`car-trio runs diff`: where two runs went different ways.

Turns are aligned by what was done: the tool and its parameters in a canonical form, or the text of a turn without a
tool. What came of it (status, verdict, output, error) is compared where the same was done. Of each turn only two
digests are kept, so payloads of any size are compared without being held.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Annotated, Literal

import msgspec

from car_trio.cli.app import NO, OK
from car_trio.cli.files import Files
from car_trio.cli.flags import Flag, Home, Json
from car_trio.cli.screen import counted, folded, say_json, styled, width
from car_trio.cli.timeline import decoded
from car_trio.store.survey import ref_of
from car_trio.wire.runs import CatalogRow, Turn

SHOWN = 20


class Done(msgspec.Struct, frozen=True):
    """A turn as the comparison sees it."""

    index: int
    label: str
    what: str
    result: str


class Difference(msgspec.Struct, omit_defaults=True):
    """A turn that only one run has (`only_a`, `only_b`), or whose result differs (`result`)."""

    kind: Literal["only_a", "only_b", "result"]
    label: str
    turn_a: int | None = None
    turn_b: int | None = None


class Compared(msgspec.Struct):
    """What `--json` prints. `same` counts the turns that were the same in both."""

    a: str
    b: str
    same: int
    outcome_differs: bool
    first: Difference | None
    differences: list[Difference]


def diff(
    a: Annotated[str, Flag("A run's id, or how it begins.")],
    b: Annotated[str, Flag("The run to compare it with.")],
    /,
    *,
    calls_only: Annotated[bool, Flag("Do not compare what came of the calls.")] = False,
    home: Home = None,
    json: Json = False,
) -> int:
    """Where two runs went different ways; exit code 1 when they did. Needs no daemon."""
    files = Files(home)
    rows = files.row(a), files.row(b)
    found = compare(files, *rows, results=not calls_only)
    if json:
        say_json(found)
    else:
        for line in shown(found, rows):
            print(line)
    return NO if found.differences or found.outcome_differs else OK


def compare(files: Files, a: CatalogRow, b: CatalogRow, *, results: bool) -> Compared:
    left, right = list(turns(files, a)), list(turns(files, b))
    differences: list[Difference] = []
    same = 0
    matcher = SequenceMatcher(None, [one.what for one in left], [one.what for one in right], autojunk=False)
    for tag, from_a, to_a, from_b, to_b in matcher.get_opcodes():
        if tag != "equal":
            differences += [Difference("only_a", one.label, turn_a=one.index) for one in left[from_a:to_a]]
            differences += [Difference("only_b", one.label, turn_b=one.index) for one in right[from_b:to_b]]
            continue
        for one, other in zip(left[from_a:to_a], right[from_b:to_b], strict=True):
            if results and one.result != other.result:
                differences.append(Difference("result", one.label, one.index, other.index))
            else:
                same += 1
    outcome_differs = (a.status, a.outcome) != (b.status, b.outcome)
    first = differences[0] if differences else None
    return Compared(a.run_id, b.run_id, same, outcome_differs, first, differences)


def turns(files: Files, row: CatalogRow) -> Iterator[Done]:
    for record in files.records(ref_of(row)):
        turn = decoded(record.raw)
        if isinstance(turn, Turn):
            label = turn.tool if isinstance(turn.tool, str) else "says"
            said = turn.parameters if isinstance(turn.tool, str) else turn.prompt
            yield Done(
                turn.index,
                label,
                digest(label, said),
                digest(turn.status, turn.verifier_verdict, turn.output, turn.error),
            )


def digest(*parts: object) -> str:
    """The same for the same values, however their JSON was written and in whichever order their keys came."""
    values = [msgspec.json.decode(part) if isinstance(part, msgspec.Raw) else part for part in parts]
    plain = [None if value is msgspec.UNSET else value for value in values]
    return hashlib.sha256(msgspec.json.encode(plain, order="sorted")).hexdigest()


def shown(found: Compared, rows: tuple[CatalogRow, CatalogRow]) -> Iterator[str]:
    marks = {"only_a": ("-", "red"), "only_b": ("+", "green"), "result": ("~", "yellow")}
    for row, mark in zip(rows, "-+", strict=True):
        intent = folded(row.intent, max(20, width() - 60))
        yield f"{mark} {folded(row.run_id, 40)}  {row.status} {row.outcome or ''}  {intent}"
    for number, difference in enumerate(found.differences[:SHOWN]):
        mark, tone = marks[difference.kind]
        where = " / ".join(str(turn) for turn in (difference.turn_a, difference.turn_b) if turn is not None)
        note = "  ← the first divergence" if number == 0 else ""
        what = "  another result" if difference.kind == "result" else ""
        yield styled(f"{mark} turn {where:>9}  {folded(difference.label, 60)}{what}{note}", tone)
    if len(found.differences) > SHOWN:
        yield f"  and {len(found.differences) - SHOWN} more; --json lists all"
    yield f"{counted(found.same, 'turn')} the same, {len(found.differences)} different"
