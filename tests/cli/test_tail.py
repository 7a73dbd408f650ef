"""`runs tail` over the files: every record once and in order, whatever is appended and whoever appends it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_trio.cli import tail
from car_trio.cli.files import Files
from car_trio.cli.tail import Chosen, Printer, follow_files
from car_trio.store.appending import SegmentHeader
from car_trio.wire.runs import RunRef
from tests.cli.homes import Shell, ended, started, turn, whole, write

A = RunRef("agent", "run-a")
B = RunRef("other", "run-b")


class Script:
    """What happens at each pause; a KeyboardInterrupt when there is nothing more."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self._steps = list(steps)

    def pause(self, seconds: float) -> None:
        if not self._steps:
            raise KeyboardInterrupt
        self._steps.pop(0)()


def appender(path: Path, payload: bytes) -> Callable[[], object]:
    def append() -> None:
        with path.open("ab") as file:
            file.write(payload)

    return append


def documents(text: str) -> list[tuple[str, str, int]]:
    found = [json.loads(line) for line in text.splitlines()]
    return [(each["run_id"], each["record"]["record"], each["cursor"]) for each in found]


def test_what_is_appended_is_shown_once_and_a_line_only_when_it_is_whole(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(home, A, [started(A), turn(0)])
    script = Script(
        appender(path, turn(1) + b"\n" + turn(2)[:20]),
        appender(path, turn(2)[20:]),
        appender(path, b"\n"),
        appender(path, ended(A) + b"\n"),
    )
    follow_files(Files(str(home)), Printer(json=True), lambda: [A], until_ended=True, pause=script.pause)
    assert documents(capsys.readouterr().out) == [
        ("run-a", "started", 0),
        ("run-a", "turn", 1),
        ("run-a", "turn", 2),
        ("run-a", "turn", 3),
        ("run-a", "ended", 3),
    ]


def test_a_run_that_is_continued_in_another_file_is_followed_without_a_gap(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(home, A, [started(A), turn(0), turn(1)])
    cut = len(started(A)) + len(turn(0)) + 2
    header = msgspec.json.encode(SegmentHeader(cut)) + b"\n"
    further = path.with_name("run-a~1.jsonl")
    script = Script(
        lambda: further.write_bytes(header + turn(1) + b"\n"),
        appender(further, turn(2) + b"\n" + ended(A) + b"\n"),
    )
    follow_files(Files(str(home)), Printer(json=True), lambda: [A], until_ended=True, pause=script.pause)
    shown = documents(capsys.readouterr().out)
    assert [cursor for _, kind, cursor in shown if kind == "turn"] == [1, 2, 3]
    assert shown[-1] == ("run-a", "ended", 3)


def test_from_leaves_out_the_turns_before_it(shell: Shell, home: Path) -> None:
    write(home, A, whole(A, 5))
    shown = documents(shell("runs", "tail", "run-a", "--from", "3", "--json").out)
    assert [cursor for _, kind, cursor in shown if kind == "turn"] == [4, 5]


def test_a_damaged_line_counts_as_the_turn_in_whose_place_it_stands(shell: Shell, home: Path) -> None:
    write(home, A, [started(A), turn(0), b"{", turn(2), ended(A)])
    shown = documents(shell("runs", "tail", "run-a", "--from", "1", "--json").out)
    assert shown[1:] == [("run-a", "damaged", 2), ("run-a", "turn", 3), ("run-a", "ended", 3)]


def test_all_follows_what_is_open_and_what_begins_and_not_what_has_ended(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    over = RunRef("agent", "over")
    write(home, over, whole(over))
    path = write(home, A, [started(A)])
    files = Files(str(home))
    script = Script(
        lambda: write(home, B, [started(B), turn(0)]),
        appender(path, turn(0) + b"\n" + ended(A) + b"\n"),
        lambda: None,
    )
    with pytest.raises(KeyboardInterrupt):
        follow_files(
            files,
            Printer(json=True, several=True),
            Chosen(files, None).new,
            until_ended=False,
            pause=script.pause,
        )
    assert documents(capsys.readouterr().out) == [
        ("run-a", "started", 0),
        ("run-b", "started", 0),
        ("run-b", "turn", 1),
        ("run-a", "turn", 1),
        ("run-a", "ended", 1),
    ]


def test_an_agents_runs_are_told_apart_and_others_are_left_out(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home, A, [started(A), turn(0, tool="echo")])
    write(home, B, [started(B)])
    monkeypatch.setattr(tail.time, "sleep", Script().pause)
    monkeypatch.setattr(follow_files, "__kwdefaults__", {"pause": Script().pause})
    ran = shell("runs", "tail", "--agent", "agent")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[0] == "run-a    begins, of agent: tidy the notes"
    assert "echo" in ran.out
    assert "run-b" not in ran.out


def test_an_agent_that_has_no_run_is_named_with_the_nearest_and_waited_for(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home, A, [started(A)])
    monkeypatch.setattr(follow_files, "__kwdefaults__", {"pause": Script().pause})
    ran = shell("runs", "tail", "--agent", "agnet")
    assert (ran.code, ran.out) == (0, "")
    assert "the nearest is 'agent'; waiting for its first run" in ran.err


def test_a_run_that_is_removed_meanwhile_is_over(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(home, A, [started(A)])
    follow_files(
        Files(str(home)), Printer(json=True), lambda: [A], until_ended=True, pause=Script(path.unlink).pause
    )
    assert len(documents(capsys.readouterr().out)) == 1


def test_a_run_is_followed_from_its_beginning_with_its_intent(shell: Shell, home: Path) -> None:
    write(home, A, whole(A, 1))
    begun, first, *_ = shell("runs", "tail", "run-a").out.splitlines()
    assert begun == "begins, of agent: tidy the notes"
    assert "0.50 s" in first


def test_the_first_turn_that_is_shown_took_as_long_as_after_the_one_that_is_not(
    shell: Shell, home: Path
) -> None:
    write(home, A, [started(A), turn(0), turn(5), turn(6), ended(A)])
    lines = shell("runs", "tail", "run-a", "--from", "2").out.splitlines()
    assert "1.00 s" in lines[1]
    write(home, A, [started(A), b"odd", turn(6), ended(A)])
    assert lines[1].replace("1.00 s", "     -") in shell("runs", "tail", "run-a", "--from", "1").out


@pytest.mark.parametrize(
    "words", [["run-a", "--from", "-1"], ["--all", "--from", "5"], ["--agent", "a", "--from=1"]]
)
def test_a_first_turn_that_means_nothing_is_usage(shell: Shell, words: list[str]) -> None:
    ran = shell("runs", "tail", *words)
    assert (ran.code, ran.out) == (2, "")
    assert "--from" in ran.err


@pytest.mark.parametrize("words", [[], ["run-a", "--all"], ["--agent", "a", "--all"]])
def test_what_to_follow_is_said_once(shell: Shell, words: list[str]) -> None:
    assert shell("runs", "tail", *words).code == 2


def test_a_directory_that_has_not_changed_is_not_listed_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(home, A, [started(A)])
    write(home, B, [started(B)])
    for directory in (path.parent, path.parent.parent / "other"):
        os.utime(directory, ns=(1, 1))
    chosen = Chosen(Files(str(home)), None)
    looked: list[str] = []
    survey = tail.survey_agent

    def counted(disk: Any, layout: Any, agent_id: str) -> Any:
        looked.append(agent_id)
        return survey(disk, layout, agent_id)

    monkeypatch.setattr(tail, "survey_agent", counted)
    assert set(chosen.new()) == {A, B}
    assert chosen.new() == []
    assert sorted(looked) == ["agent", "other"]
    later = RunRef("agent", "later")
    write(home, later, [started(later)])
    assert chosen.new() == [later]
    assert looked[2:] == ["agent"]


def test_a_directory_that_has_changed_just_now_is_listed_again_for_its_clock_may_be_coarse(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "SETTLED_NS", 3_600_000_000_000)  # however long this test takes, it is just now
    path = write(home, A, [started(A)])
    chosen = Chosen(Files(str(home)), "agent")
    assert chosen.new() == [A]
    before = path.parent.stat()
    later = RunRef("agent", "later")
    write(home, later, [started(later)])
    os.utime(path.parent, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert chosen.new() == [later]


def test_an_agent_without_a_directory_has_no_runs_yet(home: Path) -> None:
    chosen = Chosen(Files(str(home)), "agent")
    assert chosen.new() == []
    write(home, A, [started(A)])
    assert chosen.new() == [A]
    assert chosen.fresh(A) == []
    assert chosen.fresh(B) == []
