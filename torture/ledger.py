"""What was promised, against what the run files hold: read without any code of the daemon's.

A run that is removed and whose key is used again has another life. Its file holds lines of one life: the newest that
was acknowledged, unless that may be gone, or one that was begun after it; never one whose removal was acknowledged. Of
each that was acknowledged and is gone a line of `deleted-runs.jsonl` tells.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torture.orders import Verdict


@dataclass(slots=True)
class Promise:
    """All that clients were told about one life of a run. `batches` are base index (if told) and numbers."""

    life: int = -1
    started: bool = False
    sent: set[int] = field(default_factory=set[int])
    batches: list[tuple[int | None, list[int]]] = field(default_factory=list[tuple[int | None, list[int]]])
    watched_from: int = 0
    events: list[tuple[int, dict[str, Any]]] = field(default_factory=list[tuple[int, dict[str, Any]]])
    status: str | None = None
    removing: bool = False
    """It may be gone."""
    removed: bool = False


Lives = list[Promise]
"""Of one run id, the oldest first."""


class Ledger:
    """Promises of every client, gathered from its file as far as it was not read yet."""

    def __init__(self) -> None:
        self.lives: defaultdict[str, Lives] = defaultdict(list)
        self.complaints: list[str] = []
        self.counts: Counter[str] = Counter()
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
        self.complaints += [f"{note[0]}: {note[1]}" for note in notes if note[0] in COMPLAINTS]
        return {self._take(*note) for note in notes if note[0] not in COMPLAINTS}

    def _take(self, what: str, run: str, *rest: Any) -> str:
        lives = self.lives[run]
        match what:
            case "starting":
                lives.append(Promise(rest[0]))
            case "started":
                if not lives or lives[-1].life != rest[0]:
                    lives.append(Promise(rest[0]))
                lives[-1].started = True
                self.counts["ids used again"] += len(lives) > 1
            case "sent":
                lives[-1].sent.update(rest)
            case "turns":
                lives[-1].batches.append((rest[0], list(rest[1:])))
            case "ended":
                lives[-1].status = rest[0]
            case "watched":
                lives[-1].watched_from = rest[0]
            case "event":
                lives[-1].events.append((rest[0], rest[1]))
            case _:
                self.counts["acknowledged removals"] += what == "removed"
                for each in lives:
                    if each.life <= rest[0]:
                        each.removing, each.removed = True, each.removed or what == "removed"
        return run


COMPLAINTS = ("refused", "wrong")
Counters = defaultdict[Path, int]


def number_of(turn: dict[str, Any]) -> int:
    return int(re.match(r"\d+", turn["prompt"])[0])  # type: ignore[index]


def life_of(record: dict[str, Any]) -> int:
    """The life that a `started` record, a tombstone or a row tells of; -1 for anything else."""
    found = re.search(r"\d+$", record.get("intent", ""))
    return int(found[0]) if found else -1


def run_file(home: Path, run: str) -> Path | None:
    found = list((home / "runs").glob(f"*/{run}.jsonl"))
    return found[0] if len(found) == 1 else None


def tombstones(home: Path) -> set[tuple[str, int]]:
    """Each run and life that the log of removals speaks of."""
    found: set[tuple[str, int]] = set()
    for path in home.glob("deleted-runs*.jsonl"):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):  # a kill may have torn it
                told = json.loads(line)
                if "run_id" in told:  # else it is the beginning of a continuation
                    found.add((told["run_id"], life_of(told)))
    return found


def judge(verdict: Verdict, home: Path, run: str, lives: Lives, gone: Container[tuple[str, int]]) -> None:
    """One run after an adoption. `gone`: whose `tombstones` there are."""
    path = run_file(home, run)
    present = None if path is None else _judge_file(verdict, run, path, lives)
    for each in lives:
        if each.started and (path is None or present not in (None, each.life)):
            verdict.expect(
                each.removing, f"{run}: acknowledged, but there is no file of it (life {each.life})"
            )
            there = not each.removing or (run, each.life) in gone
            verdict.expect(
                there, f"{run}: removed (life {each.life}), and no line of deleted-runs.jsonl says so"
            )


def _judge_file(verdict: Verdict, run: str, path: Path, lives: Lives) -> int | None:
    """Returns which life it holds, if that can be told."""
    raw = path.read_bytes().splitlines(keepends=True)
    try:
        records = [json.loads(line) for line in raw]
    except ValueError:
        verdict.expect(False, f"{run}: a line is not JSON")
        return None
    kinds = [record["record"] for record in records]
    verdict.expect(kinds.count("started") <= 1, f"{run}: lines of several lives in one file")
    whole = (kinds[:1], kinds[-1:]) == (["started"], ["ended"]) and set(kinds[1:-1]) <= {"turn"}
    verdict.expect(whole, f"{run}: not started, turns, one end: {kinds[:3]}…{kinds[-3:]}")
    if not whole:
        return None
    life = life_of(records[0])
    promise = next((each for each in lives if each.life == life), None)
    verdict.expect(promise or not lives, f"{run}: nobody began life {life}, which it holds")
    promise = promise or Promise(life)
    verdict.expect(not promise.removed, f"{run}: life {life} was removed, and is back")
    others = [each for each in lives if each is not promise]
    _judge_turns(verdict, run, promise, records[1:-1], others)
    _judge_end(verdict, run, promise, records[-1]["termination"])
    _judge_events(verdict, run, promise, records)
    return life


def _judge_turns(
    verdict: Verdict, run: str, promise: Promise, turns: list[dict[str, Any]], others: Lives
) -> None:
    verdict.expect([turn["index"] for turn in turns] == list(range(len(turns))), f"{run}: indices have gaps")
    numbers = [number_of(turn) for turn in turns]
    verdict.expect(numbers == sorted(set(numbers)), f"{run}: turns doubled or out of order")
    mixed = [each.life for each in others if each.sent & set(numbers)]
    verdict.expect(not mixed, f"{run}: life {promise.life} holds turns of the lives {mixed}")
    verdict.expect(promise.sent >= set(numbers) or mixed, f"{run}: holds turns that nobody sent")
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
    seen = promise.watched_from
    for cursor, record in promise.events:
        verdict.counts["events seen"] += 1
        is_end = record["record"] == "ended"
        verdict.expect(cursor == (turns if is_end else seen + 1), f"{run}: event {cursor} after {seen}")
        seen = cursor
        held = records[-1] if is_end else records[cursor] if cursor <= turns else None
        verdict.expect(held == record, f"{run}: event {cursor} was shown and is not what the file holds")
