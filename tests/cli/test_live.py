"""Following a run through the daemon: what comes from its file, beside what comes from the watch."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from car_trio.cli import live
from car_trio.cli.files import Files
from car_trio.cli.tail import Printer
from car_trio.client import Car, Retracted, WatchEvent
from car_trio.client.watching import decode_record
from car_trio.wire.runs import RunRef
from tests.cli.homes import ended, started, turn, write

A = RunRef("agent", "run-a")


class OneRun:
    """A daemon with one run, of which it brings two turns and the end; `begun` is called when it is watched."""

    def __init__(self, begun: Callable[[], object]) -> None:
        self._begun = begun

    def watch(self, run_id: str, from_cursor: int) -> AbstractContextManager[AsyncIterator[Any]]:
        return nullcontext(self._events(from_cursor))

    async def _events(self, from_cursor: int) -> AsyncIterator[WatchEvent | Retracted]:
        self._begun()
        for line, cursor in ((turn(0), 1), (turn(1), 2), (ended(A), 2)):
            if cursor > from_cursor:
                yield WatchEvent("run-a", "agent", decode_record(msgspec.Raw(line)), cursor, "in_progress")


async def shown(home: Path, begun: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> list[str]:
    await live.watch(cast("Car", OneRun(begun)), Files(str(home)), Printer(json=True), A)
    return [json.loads(line)["record"]["record"] for line in capsys.readouterr().out.splitlines()]


async def test_the_start_comes_from_the_file_before_anything_else(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(home, A, [started(A)])
    assert await shown(home, lambda: None, capsys) == ["started", "turn", "turn", "ended"]


async def test_a_start_that_is_on_disk_only_later_is_shown_before_what_comes_after_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await shown(home, lambda: write(home, A, [started(A)]), capsys) == [
        "started",
        "turn",
        "turn",
        "ended",
    ]
    write(home, A, [])
    assert await shown(home, lambda: write(home, A, [started(A)]), capsys) == [
        "started",
        "turn",
        "turn",
        "ended",
    ]


async def test_a_run_without_a_file_or_with_a_start_that_cannot_be_read_is_followed_all_the_same(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await shown(home, lambda: None, capsys) == ["turn", "turn", "ended"]
    write(home, A, [b"{"])
    assert await shown(home, lambda: None, capsys) == ["turn", "turn", "ended"]


async def test_nobody_says_how_long_a_turn_took_whose_predecessor_was_not_brought(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(home, A, [started(A)])
    await live.watch(cast("Car", OneRun(lambda: None)), Files(str(home)), Printer(first_turn=1), A)
    begun, first, *_ = capsys.readouterr().out.splitlines()
    assert begun == "begins, of agent: tidy the notes"
    assert first.split() == ["1", "says", "-"]
