"""The judge of the kill campaign sees each kind of loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from torture.ledger import Ledger, judge
from torture.orders import Verdict

STARTED = {"record": "started"}
ENDED = {"record": "ended", "termination": {"kind": "outcome", "outcome": {"status": "success"}}}
LINES = [
    ["sent", "r", 4, 5, 6],
    ["started", "r"],
    ["turns", "r", 0, 4, 5],
    ["event", "r", 1, {"record": "turn", "index": 0, "prompt": "4 "}],
    ["ended", "r", "success"],
]


def turn(index: int, number: int) -> dict[str, Any]:
    return {"record": "turn", "index": index, "prompt": f"{number} "}


def judged(tmp_path: Path, *records: dict[str, Any]) -> list[str]:
    folder = tmp_path / "home" / "runs" / "a"
    folder.mkdir(parents=True)
    (folder / "r.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    notes = tmp_path / "ledger"
    notes.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    ledger, verdict = Ledger(), Verdict()
    assert ledger.gather(notes) == {"r"}
    assert ledger.gather(notes) == set()
    judge(verdict, tmp_path / "home", "r", ledger.promises["r"])
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
