"""The kill campaign sees a daemon that breaks its promises, and lets no operation of the disk out."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from torture import house
from torture.doomed import WAYS
from torture.forked import ForkedDaemon, zygote
from torture.house import House, writers
from torture.kill import Dooms, campaign
from torture.orders import Orders, Verdict


def lived(tmp_path: Path, when: str, defect: str | None) -> Verdict:
    """Lives of one home that end at an operation, each followed by one that is judged, until something is found."""
    verdict = Verdict()
    with zygote() as parent, writers(seed=1) as processes:
        daemon = ForkedDaemon(parent, tmp_path / "home", defect=defect)
        home = House(verdict, daemon, processes)
        try:
            for at in range(12, 52, 2):
                home.doomed_life(when, at)
                home.loaded_life(random.Random(at))
                if verdict.findings:
                    break
        finally:
            daemon.clean_up()
    return verdict


@pytest.mark.parametrize(
    ("defect", "when", "words"),
    [
        ("early", "before", ["acknowledged at", "there is no file of it", "unknown run_id"]),
        ("torn", "half", ["a line is not JSON", "not started, turns, one end"]),
        ("stale", "before", ["one end", "listed otherwise"]),
        ("two ends", "after", ["one end"]),
        ("ended again", "after", ["changed after its end", "one end"]),
        ("no end", "after", ["still open"]),
        ("kept", "after", ["was removed, and is back", "several lives"]),
        ("inherited", "after", ["holds turns of the lives"]),
        (
            "gone early",
            "before",
            ["was removed, and is back", "several lives", "no file of it", "should be []"],
        ),
        ("by name", "after", ["there is no file of it"]),
        ("listed", "after", ["and should be []"]),
    ],
)
def test_a_daemon_with_a_planted_defect_is_found_out(
    defect: str, when: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house, "PATIENCE", 5.0)
    findings = lived(tmp_path, when, defect).findings
    assert any(word in finding for finding in findings for word in words), findings


def test_a_turn_that_is_changed_long_after_its_run_was_judged_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house, "MEAN_LIFE", 60.0)  # long enough for a run
    verdict = Verdict()
    with zygote() as parent, writers(seed=2) as processes:
        daemon = ForkedDaemon(parent, tmp_path / "home")
        home = House(verdict, daemon, processes)
        try:
            home.loaded_life(random.Random(1))
            judged = {path: path.stat().st_ino for path in (tmp_path / "home" / "runs").glob("*/*.jsonl")}
            home.loaded_life(random.Random(2))
            assert not verdict.findings
            path = next(path for path, was in judged.items() if path.exists() and path.stat().st_ino == was)
            path.write_bytes(path.read_bytes().replace(b"be killed", b"be KILLED"))
            home.last_life()
        finally:
            daemon.clean_up()
    assert f"{path.stem}: changed after its end" in verdict.findings


def test_each_operation_is_the_last_one_in_every_way_before_one_of_them_is_so_again() -> None:
    dooms = Dooms(7, random.Random(1))
    passes = [[dooms.next() for _ in range(7 * len(WAYS))] for _ in range(2)]
    assert passes[0] != passes[1]
    for each in passes:
        assert sorted(each) == sorted((when, at) for when in WAYS for at in range(1, 8))


def test_every_kind_of_life_is_lived_also_in_an_interpreter_of_its_own(tmp_path: Path) -> None:
    verdict = campaign(Orders(tmp_path, seed=5, rounds=22))
    assert not verdict.findings
    assert verdict.counts["kills at an operation"] == 8
    assert verdict.counts["kills under load"] + verdict.counts["kills at start"] == 14
    assert verdict.counts["lives in an interpreter of their own"] == 1
    assert list(tmp_path.iterdir()) == [], "what is clean is removed"


def test_a_forked_daemon_is_a_process_with_papers_a_lock_threads_and_a_token_of_its_own(
    tmp_path: Path,
) -> None:
    with zygote() as parent:
        twins = [ForkedDaemon(parent, tmp_path / name) for name in ("one", "two")]
        try:
            for daemon in twins:
                daemon.start()
            ids = [daemon.pid for daemon in twins]
            assert [int((each.home / "run" / "daemon.lock").read_text()) for each in twins] == ids
            assert all(len(list(Path(f"/proc/{pid}/task").iterdir())) > 1 for pid in ids)
            assert len({daemon.token for daemon in twins}) == 2
            assert [daemon.stop() for daemon in twins] == [0, 0]
            assert all("stopped; 0 open runs" in daemon.said() for daemon in twins)
        finally:
            for daemon in twins:
                daemon.clean_up()
