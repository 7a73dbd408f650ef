"""What was promised, against what the run files hold: read without any code of the daemon's."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torture.orders import Verdict


@dataclass(slots=True)
class Promise:
    """All that clients were told about one run. `batches` are base index (if told) and numbers."""

    sent: set[int] = field(default_factory=set[int])
    batches: list[tuple[int | None, list[int]]] = field(default_factory=list[tuple[int | None, list[int]]])
    events: list[tuple[int, dict[str, Any]]] = field(default_factory=list[tuple[int, dict[str, Any]]])
    status: str | None = None


class Ledger:
    """Promises of every client, gathered from its file as far as it was not read yet."""

    def __init__(self) -> None:
        self.promises: defaultdict[str, Promise] = defaultdict(Promise)
        self.refusals: list[str] = []
        self._read: Counters = defaultdict(int)

    def gather(self, path: Path) -> set[str]:
        """Reads on; returns the runs that the new lines speak of."""
        if not path.exists():
            return set()
        with path.open("rb") as file:
            file.seek(self._read[path])
            lines = file.readlines()
            self._read[path] = file.tell()
        notes = [json.loads(line) for line in lines]
        self.refusals += [message for what, message, *_ in notes if what == "refused"]
        return {self._take(*note) for note in notes if note[0] != "refused"}

    def _take(self, what: str, run: str, *rest: Any) -> str:
        promise = self.promises[run]
        match what:
            case "sent":
                promise.sent.update(rest)
            case "turns":
                promise.batches.append((rest[0], list(rest[1:])))
            case "ended":
                promise.status = rest[0]
            case "event":
                promise.events.append((rest[0], rest[1]))
            case _:
                pass
        return run


Counters = defaultdict[Path, int]


def number_of(turn: dict[str, Any]) -> int:
    return int(re.match(r"\d+", turn["prompt"])[0])  # type: ignore[index]


def run_file(home: Path, run: str) -> Path | None:
    found = list((home / "runs").glob(f"*/{run}.jsonl"))
    return found[0] if len(found) == 1 else None


def judge(verdict: Verdict, home: Path, run: str, promise: Promise) -> None:
    """One run that must be on disk, after an adoption."""
    path = run_file(home, run)
    verdict.expect(path is not None, f"{run}: acknowledged, but there is no file of it")
    if path is None:
        return
    raw = path.read_bytes().splitlines(keepends=True)
    try:
        records = [json.loads(line) for line in raw]
    except ValueError:
        verdict.expect(False, f"{run}: a line is not JSON")
        return
    kinds = [record["record"] for record in records]
    turns = records[1:-1]
    whole = (kinds[:1], kinds[-1:]) == (["started"], ["ended"]) and set(kinds[1:-1]) <= {"turn"}
    verdict.expect(whole, f"{run}: not started, turns, one end: {kinds[:3]}…{kinds[-3:]}")
    if whole:
        _judge_turns(verdict, run, promise, turns)
        _judge_end(verdict, run, promise, records[-1]["termination"])
        _judge_events(verdict, run, promise, records)


def _judge_turns(verdict: Verdict, run: str, promise: Promise, turns: list[dict[str, Any]]) -> None:
    verdict.expect([turn["index"] for turn in turns] == list(range(len(turns))), f"{run}: indices have gaps")
    numbers = [number_of(turn) for turn in turns]
    verdict.expect(numbers == sorted(set(numbers)), f"{run}: turns doubled or out of order")
    verdict.expect(promise.sent >= set(numbers), f"{run}: holds turns that nobody sent")
    place = {number: index for index, number in enumerate(numbers)}
    for base, batch in promise.batches:
        verdict.counts["acknowledged turns"] += len(batch)
        places = [place.get(number) for number in batch]
        first = places[0] if base is None else base
        wanted = None if first is None else list(range(first, first + len(batch)))
        verdict.expect(places == wanted, f"{run}: acknowledged at {base}: {batch}, found at {places}")


def _judge_end(verdict: Verdict, run: str, promise: Promise, termination: dict[str, Any]) -> None:
    verdict.counts["runs"] += 1
    if promise.status is not None:
        verdict.counts["acknowledged ends"] += 1
        told = termination.get("outcome", {}).get("status")
        verdict.expect(
            told == promise.status, f"{run}: acknowledged {promise.status}, ended as {termination}"
        )


def _judge_events(verdict: Verdict, run: str, promise: Promise, records: list[dict[str, Any]]) -> None:
    turns = len(records) - 2
    seen = 0
    for cursor, record in promise.events:
        verdict.counts["events seen"] += 1
        is_end = record["record"] == "ended"
        verdict.expect(cursor == (turns if is_end else seen + 1), f"{run}: event {cursor} after {seen}")
        seen = cursor
        held = records[-1] if is_end else records[cursor] if cursor <= turns else None
        verdict.expect(held == record, f"{run}: event {cursor} was shown and is not what the file holds")
