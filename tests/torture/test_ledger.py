"""The judge of the kill campaign sees each kind of loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from torture.ledger import Ledger, judge, tombstones
from torture.orders import Verdict

STARTED = {"record": "started", "intent": "be killed 000000003"}
AGAIN = {"record": "started", "intent": "be killed 000000007"}
ENDED = {"record": "ended", "termination": {"kind": "outcome", "outcome": {"status": "success"}}}
LINES = [
    ["started", "r", 3],
    ["sent", "r", 4, 5, 6],
    ["turns", "r", 0, 4, 5],
    ["watched", "r", 0],
    ["event", "r", 1, {"record": "turn", "index": 0, "prompt": "4 "}],
    ["ended", "r", "success"],
]
REMOVED = [*LINES, ["removing", "r", 3], ["removed", "r", 3]]
BEGUN_ANEW = [*REMOVED, ["starting", "r", 7], ["started", "r", 7], ["sent", "r", 8], ["turns", "r", 0, 8]]
WHOLE = (
    STARTED,
    {"record": "turn", "index": 0, "prompt": "4 "},
    {"record": "turn", "index": 1, "prompt": "5 "},
    ENDED,
)


def turn(index: int, number: int) -> dict[str, Any]:
    return {"record": "turn", "index": index, "prompt": f"{number} "}


def judged(
    tmp_path: Path, *records: dict[str, Any], lines: list[list[Any]] = LINES, tombstone: bool = False
) -> list[str]:
    folder = tmp_path / "home" / "runs" / "a"
    folder.mkdir(parents=True)
    if records:
        (folder / "r.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if tombstone:
        line = json.dumps({"run_id": "r", "intent": STARTED["intent"]})
        (tmp_path / "home" / "deleted-runs.jsonl").write_text('{"run_' + "\n" + line + "\n")
    notes = tmp_path / "ledger"
    notes.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ledger, verdict = Ledger(), Verdict()
    assert ledger.gather(notes) == {"r"}
    assert ledger.gather(notes) == set()
    judge(verdict, tmp_path / "home", "r", ledger.lives["r"], tombstones(tmp_path / "home"))
    return verdict.findings


def test_a_run_that_holds_what_was_promised_is_right_also_with_a_turn_that_nobody_acknowledged(
    tmp_path: Path,
) -> None:
    assert judged(tmp_path, STARTED, turn(0, 4), turn(1, 5), turn(2, 6), ENDED) == []


@pytest.mark.parametrize(
    ("records", "finding"),
    [
        ([STARTED, turn(0, 4), ENDED], "acknowledged at 0"),
        ([STARTED, turn(0, 5), turn(1, 4), ENDED], "out of order"),
        ([STARTED, turn(0, 4), turn(1, 5), turn(2, 5), ENDED], "doubled"),
        ([STARTED, turn(0, 4), turn(2, 5), ENDED], "gaps"),
        ([STARTED, turn(0, 4), turn(1, 5), turn(2, 7), ENDED], "nobody sent"),
        ([STARTED, turn(0, 4), turn(1, 5)], "one end"),
        ([STARTED, turn(0, 4), turn(1, 5), ENDED, ENDED], "one end"),
        ([STARTED, turn(0, 4), turn(1, 5), {**ENDED, "termination": {}}], "acknowledged success"),
        ([STARTED, {**turn(0, 4), "tool": "t"}, turn(1, 5), ENDED], "not what the file holds"),
    ],
)
def test_each_broken_promise_is_found(tmp_path: Path, records: list[dict[str, Any]], finding: str) -> None:
    assert any(finding in each for each in judged(tmp_path, *records))


# Lives


@pytest.mark.parametrize(
    ("lines", "records"),
    [
        (REMOVED, ()),
        (REMOVED[:-1], ()),
        (REMOVED[:-1], WHOLE),
        ([*REMOVED[:-1], ["starting", "r", 7]], WHOLE),
        ([*REMOVED, ["starting", "r", 7]], ()),
        ([*REMOVED, ["starting", "r", 7]], (AGAIN, ENDED)),
        (BEGUN_ANEW, (AGAIN, turn(0, 8), ENDED)),
    ],
)
def test_a_run_that_may_be_gone_is_whole_or_absent_and_another_life_takes_its_place(
    tmp_path: Path, lines: list[list[Any]], records: tuple[dict[str, Any], ...]
) -> None:
    assert judged(tmp_path, *records, lines=lines, tombstone=True) == []


@pytest.mark.parametrize(
    ("lines", "records", "finding"),
    [
        (LINES, (), "there is no file of it"),
        (REMOVED, WHOLE, "was removed, and is back"),
        (REMOVED, (), "no line of deleted-runs.jsonl"),
        (REMOVED[:-1], (), "no line of deleted-runs.jsonl"),
        (REMOVED[:-1], (STARTED, turn(0, 4), ENDED), "acknowledged at 0"),
        (BEGUN_ANEW, WHOLE, "was removed, and is back"),
        (BEGUN_ANEW, WHOLE, "there is no file of it (life 7)"),
        (BEGUN_ANEW, (), "there is no file of it (life 7)"),
        (BEGUN_ANEW, (AGAIN, turn(0, 8), turn(1, 4), ENDED), "holds turns of the lives [3]"),
        (BEGUN_ANEW, (*WHOLE, AGAIN, turn(0, 8), ENDED), "several lives"),
        (BEGUN_ANEW, (AGAIN, ENDED), "acknowledged at 0"),
        (BEGUN_ANEW, ({**AGAIN, "intent": "be killed 000000009"}, ENDED), "nobody began life 9"),
    ],
)
def test_a_life_that_comes_back_or_into_another_is_found(
    tmp_path: Path, lines: list[list[Any]], records: tuple[dict[str, Any], ...], finding: str
) -> None:
    found = judged(tmp_path, *records, lines=lines)
    assert any(finding in each for each in found), found
