"""`car-trio runs diff`: where two runs went different ways.

Turns are aligned by what was done: the tool and its parameters in a canonical form, or the text of a turn without a
tool. What came of it (`RESULT`) is compared where the same was done. Of each turn only digests are kept, so payloads of
any size are compared without being held; the few that are shown are read once more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET

from car_trio.cli.aligning import aligned
from car_trio.cli.app import NO, OK
from car_trio.cli.files import Files
from car_trio.cli.flags import Flag, Home, Json
from car_trio.cli.listing import short_ids
from car_trio.cli.screen import counted, folded, is_terminal, say_json, styled, width
from car_trio.cli.timeline import decoded
from car_trio.store.survey import ref_of
from car_trio.wire.runs import CatalogRow, CliOutcome, Turn
from car_trio.wire.text import one_line

SHOWN = 20
INDENT = " " * 6
SHORT = 50
BEFORE = 24
"""How much of what is the same is shown before the first character that is not."""
Field = Literal[
    "status", "verdict", "policy", "output", "error", "exit_code", "timed_out", "cli", "output_tail"
]


def _of_program(name: str) -> Callable[[Turn], Any]:
    def value(turn: Turn) -> Any:
        cli = turn.cli_outcome
        return getattr(cli, name) if isinstance(cli, CliOutcome) else None

    return value


RESULT: dict[Field, Callable[[Turn], Any]] = {
    "status": lambda turn: turn.status,
    "verdict": lambda turn: turn.verifier_verdict,
    "policy": lambda turn: "rejected" if turn.policy_rejected is True else None,
    "exit_code": _of_program("exit_code"),
    "timed_out": _of_program("timed_out"),
    "error": lambda turn: turn.error,
    "output": lambda turn: turn.output,
    "cli": _of_program("cli"),
    "output_tail": _of_program("output_tail"),
}
"""What came of a turn, field by field, and where it stands in a record."""


class Done(msgspec.Struct, frozen=True):
    """A turn as the comparison sees it: digests of what was done and of each field of what came of it."""

    index: int
    label: str
    what: bytes
    result: tuple[bytes, ...]


class Difference(msgspec.Struct, omit_defaults=True):
    """A turn that only one run has (`only_a`, `only_b`), or whose result differs (`result`), and in which fields."""

    kind: Literal["only_a", "only_b", "result"]
    label: str
    turn_a: int | None = None
    turn_b: int | None = None
    fields: list[Field] = []


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
        for line in shown(files, found, rows):
            print(line)
    return NO if found.differences or found.outcome_differs else OK


def compare(files: Files, a: CatalogRow, b: CatalogRow, *, results: bool) -> Compared:
    left, right = list(turns(files, a)), list(turns(files, b))
    differences: list[Difference] = []
    same = after_a = after_b = 0
    pairs = aligned([one.what for one in left], [one.what for one in right])
    for at_a, at_b in [*pairs, (len(left), len(right))]:
        differences += [Difference("only_a", one.label, turn_a=one.index) for one in left[after_a:at_a]]
        differences += [Difference("only_b", one.label, turn_b=one.index) for one in right[after_b:at_b]]
        for one, other in zip(left[at_a : at_a + 1], right[at_b : at_b + 1], strict=True):
            fields = differing(one, other) if results else []
            same += not fields
            if fields:
                differences.append(Difference("result", one.label, one.index, other.index, fields))
        after_a, after_b = at_a + 1, at_b + 1
    outcome_differs = (a.status, a.outcome) != (b.status, b.outcome)
    first = differences[0] if differences else None
    return Compared(a.run_id, b.run_id, same, outcome_differs, first, differences)


def differing(one: Done, other: Done) -> list[Field]:
    return [name for name, mine, yours in zip(RESULT, one.result, other.result, strict=True) if mine != yours]


def turns(files: Files, row: CatalogRow) -> Iterator[Done]:
    """What nobody can read is the same as nothing else."""
    for place, record in enumerate(files.records(ref_of(row))):
        turn = decoded(record.raw)
        if record.kind == "damaged":
            unread = digest(row.run_id, place)
            yield Done(place - 1, "a line that cannot be read", unread, (NOTHING,) * len(RESULT))
        if not isinstance(turn, Turn):
            continue
        label = turn.tool if isinstance(turn.tool, str) else "says"
        said = turn.parameters if isinstance(turn.tool, str) else turn.prompt
        values = [plain(value(turn)) for value in RESULT.values()]
        result = tuple(NOTHING if value is None else digest(value) for value in values)
        yield Done(turn.index, label, digest(label, plain(said)), result)


def records(files: Files, row: CatalogRow) -> Iterator[Turn]:
    """The turns of a run that can be read."""
    for record in files.records(ref_of(row)):
        turn = decoded(record.raw)
        if isinstance(turn, Turn):
            yield turn


NOTHING = b""


def digest(*parts: object) -> bytes:
    """The same for the same values, however their JSON was written and in whichever order their keys came."""
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).digest()


def plain(value: object) -> object:
    """A value of a record as JSON has it; nothing for a field that is not there."""
    if isinstance(value, msgspec.Raw):
        return msgspec.json.decode(value)
    return None if value is UNSET else value


# As text


MARKS = {"only_a": ("-", "red"), "only_b": ("+", "green"), "result": ("~", "yellow")}


def shown(files: Files, found: Compared, rows: tuple[CatalogRow, CatalogRow]) -> Iterator[str]:
    length = short_ids([row.run_id for row in rows]) if is_terminal() else None
    wide = max(len(ended(row)) for row in rows)
    for row, mark in zip(rows, "-+", strict=True):
        yield folded(f"{mark} {row.run_id[:length]}  {ended(row):{wide}}  {row.intent}", width())
    some = found.differences[:SHOWN]
    ours = read(files, rows[0], {each.turn_a for each in some if each.fields})
    theirs = read(files, rows[1], {each.turn_b for each in some if each.fields})
    for number, difference in enumerate(some):
        mark, tone = MARKS[difference.kind]
        where = " / ".join(str(turn) for turn in (difference.turn_a, difference.turn_b) if turn is not None)
        note = "  ← the first divergence" if number == 0 else ""
        head = f"{mark} turn {where:>9}  "
        yield styled(f"{head}{folded(difference.label, width() - len(head) - len(note))}{note}", tone)
        for name in difference.fields:
            value = RESULT[name]
            mine, yours = value(ours[difference.turn_a]), value(theirs[difference.turn_b])
            yield from against(name.replace("_", " "), text_of(mine), text_of(yours))
    if len(found.differences) > SHOWN:
        yield f"  and {len(found.differences) - SHOWN} more; --json lists all"
    outcomes = f"; another outcome: {ended(rows[0])}, {ended(rows[1])}" if found.outcome_differs else ""
    yield f"{counted(found.same, 'turn')} the same, {len(found.differences)} different{outcomes}"


def ended(row: CatalogRow) -> str:
    return row.outcome or row.status


def read(files: Files, row: CatalogRow, wanted: set[int | None]) -> dict[int | None, Turn]:
    return {turn.index: turn for turn in records(files, row) if turn.index in wanted} if wanted else {}


def text_of(value: object) -> str:
    if isinstance(value, msgspec.Raw):
        return bytes(value).decode(errors="replace")
    known = plain(value)
    if known is None:
        return "nothing"
    return known if isinstance(known, str) else msgspec.json.encode(known).decode()


def against(name: str, mine: str, yours: str) -> Iterator[str]:
    """Two values, on a line if they are short; else each on its own, in a terminal from where they part."""
    if len(name) + len(mine) + len(yours) <= SHORT:
        yield folded(f"{INDENT}{name}: {one_line(mine)} → {one_line(yours)}", width())
        return
    same = next(
        (place for place, (x, y) in enumerate(zip(mine, yours, strict=False)) if x != y),
        min(len(mine), len(yours)),
    )
    cut = max(0, same - BEFORE) if is_terminal() else 0
    yield f"{INDENT}{name}:"
    for mark, text, tone in (("-", mine, "red"), ("+", yours, "green")):
        begun = f"…{text[cut:]}" if cut else text
        yield styled(f"{INDENT}{mark} {folded(begun, width() - len(INDENT) - 2)}", tone)
