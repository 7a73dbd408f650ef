"""`runs rm`, `prune`, `reindex`: nothing is removed without a yes, and then exactly what was shown."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from car_trio.cli.files import Files
from car_trio.store import lock
from car_trio.store.disk import Disk
from car_trio.store.layout import Layout
from car_trio.store.lock import hold_lock
from car_trio.wire.runs import RunRef
from tests.cli.homes import Shell, ended, started, whole, write

OLD = [RunRef("agent", f"old-{number}") for number in range(3)]
NEW = RunRef("agent", "new")
OPEN = RunRef("agent", "open")


@pytest.fixture
def runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for ref in OLD:
        at = "2020-01-01T00:00:00.000000Z"
        write(home, ref, [started(ref, at=at), ended(ref, at=at)])
    write(home, NEW, [started(NEW), ended(NEW, at="2999-01-01T00:00:00.000000Z")])
    write(home, OPEN, [started(OPEN, at="2020-01-01T00:00:00.000000Z")])
    monkeypatch.setattr(lock, "PROBE_SECONDS", 0.0)
    return home / "runs"


def names(runs: Path) -> set[str]:
    return {path.stem for path in runs.glob("*/*.jsonl")}


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


@pytest.mark.parametrize("said", ["", "\n", "n\n", "no\n", "maybe\n"])
@pytest.mark.parametrize("words", [["prune", "--older-than", "30d"], ["rm", "old-0", "old-1"]])
def test_no_answer_and_any_answer_but_yes_removes_nothing(
    shell: Shell, runs: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    before = names(runs)
    answer(monkeypatch, said)
    ran = shell("runs", *words)
    assert ran.code == 1
    assert names(runs) == before
    assert "old-0" in ran.out
    assert "nothing was" in ran.out
    assert "[y/N]" in ran.err
    assert ran.err.endswith("\n") == (said == ""), (
        "the terminal ends the line of an answer, nobody that of none"
    )


def test_a_dry_run_says_what_would_go_and_asks_nothing(shell: Shell, runs: Path) -> None:
    before = names(runs)
    ran = shell("runs", "prune", "--older-than", "30d", "--dry-run", "--json")
    assert ran.code == 0
    assert sorted(ran.document["would_remove"]) == ["old-0", "old-1", "old-2"]
    assert ran.document["removed"] == []
    assert names(runs) == before


@pytest.mark.parametrize(("flags", "said"), [((), "y\n"), ((), "YES\n"), (("--yes",), "")])
def test_with_a_yes_what_ended_long_ago_goes_and_leaves_a_tombstone(
    shell: Shell, home: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], said: str
) -> None:
    answer(monkeypatch, said)
    ran = shell("runs", "prune", "--older-than", "30d", *flags)
    assert ran.code == 0
    assert names(runs) == {"new", "open"}
    stones = [json.loads(line) for line in (home / "deleted-runs.jsonl").read_text().splitlines()]
    assert {stone["run_id"] for stone in stones} == {"old-0", "old-1", "old-2"}
    assert {stone["why"] for stone in stones} == {"removed by hand"}


def test_an_open_run_is_never_removed(shell: Shell, runs: Path) -> None:
    ran = shell("runs", "rm", "open", "old-0", "--yes")
    assert ran.code == 1
    assert "'open' is still open" in ran.err
    assert "old-0" in names(runs)


def test_a_run_of_which_the_end_was_not_there_any_more_stays(
    shell: Shell, runs: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Layout(home).run_file(OLD[0])
    show = Files.row

    def reopened(self: Files, name: str) -> object:
        row = show(self, name)
        path.write_bytes(started(OLD[0]) + b"\n")
        return row

    monkeypatch.setattr(Files, "row", reopened)
    assert shell("runs", "rm", "old-0", "--yes").code == 1
    assert "old-0" in names(runs)


def test_nothing_to_prune_is_well(shell: Shell, home: Path) -> None:
    assert shell("runs", "prune", "--older-than", "30d")[:2] == (0, "no run is to be removed\n")
    assert shell("runs", "prune", "--older-than", "never").code == 2


@pytest.mark.parametrize("flags", [[], ["--json"], ["--dry-run"]])
def test_the_runs_of_an_agent_that_has_none_are_not_pruned_in_silence(
    shell: Shell, runs: Path, flags: list[str]
) -> None:
    ran = shell("runs", "prune", "--older-than", "30d", "--agent", "agnet", *flags)
    assert (ran.code, ran.out) == (1, "")
    assert "there is no agent 'agnet'; the nearest is 'agent'" in ran.err
    assert shell("runs", "prune", "--older-than", "9000d", "--agent", "agent", *flags).code == 0


def test_the_catalog_is_made_anew_whatever_it_was(shell: Shell, home: Path, runs: Path) -> None:
    (home / "catalog.sqlite").write_bytes(b"not a catalog at all")
    assert shell("runs", "reindex").out == "5 runs in the catalog\n"
    Layout(home).run_file(NEW).unlink()
    listed = shell("runs", "ls", "--json").document["runs"]
    assert {run["run_id"] for run in listed} >= {"new"}, "the list comes from the catalog"


def test_a_store_that_somebody_writes_is_not_reindexed(shell: Shell, home: Path, runs: Path) -> None:
    Layout(home).prepare(Disk())
    with hold_lock(Layout(home)):
        ran = shell("runs", "reindex")
    assert ran.code == 1
    assert "stop the daemon first" in ran.err


def test_progress_is_shown_on_a_terminal_only(
    shell: Shell, home: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shell("runs", "reindex").err == ""
    monkeypatch.setattr("car_trio.cli.removing.is_watched", lambda: True)
    assert "5/5" in shell("runs", "reindex").err


def test_reading_goes_on_while_somebody_writes(shell: Shell, home: Path) -> None:
    write(home, NEW, whole(NEW))
    with hold_lock(Layout(home)):
        assert shell("runs", "show", "new").code == 0
