"""The judges of the campaigns see what they look for: each is shown a daemon with a planted defect."""

from __future__ import annotations

from pathlib import Path

import pytest

from car_trio.methods.table import METHODS
from torture import hostile_memory, hostile_sockets, leak
from torture.hostile_mutations import SEEDS
from torture.orders import Orders, Verdict
from torture.planted import planted


@pytest.mark.parametrize("defect", ["descriptor", "task", "memory"])
def test_a_daemon_that_keeps_something_of_each_connection_is_found_out(
    defect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leak, "WARM_UP", 10)
    monkeypatch.setattr(leak, "ALLOWED_KIB", 512)
    verdict = Verdict()
    leak.cycles(Orders(tmp_path, seed=1, rounds=40), verdict, defect)
    words = {"descriptor": "descriptors have leaked", "task": "tasks have leaked", "memory": "KiB more than"}
    assert any(words[defect] in finding for finding in verdict.findings), verdict.findings


def held(*kib: int) -> list[leak.Held]:
    return [leak.Held(16, 11, each) for each in kib]


def test_a_memory_that_fills_up_once_is_none_and_one_that_goes_on_growing_is_a_leak() -> None:
    bounded, endless = Verdict(), Verdict()
    leak.judge(bounded, held(0, 2000, 4000, 4500, 5000, 5000, 5010, 5000, 5010))
    leak.judge(endless, held(*range(0, 5000, 500)))
    assert not bounded.findings
    assert len(endless.findings) == 1


@pytest.mark.parametrize(
    ("defect", "words"), [("task", "more tasks than before"), ("welcome", "was answered with 101, not 421")]
)
def test_hostile_connections_find_out_what_stays_and_who_is_let_in(
    defect: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostile_sockets, "WARM_UP", 20)
    monkeypatch.setattr(hostile_sockets, "REST_SECONDS", 1)
    monkeypatch.setattr(hostile_sockets, "QUIET_SECONDS", 0.5)
    verdict = Verdict()
    hostile_sockets.attack(Orders(tmp_path, seed=2, rounds=6), verdict, defect)
    assert any(words in finding for finding in verdict.findings), verdict.findings


@pytest.mark.parametrize(
    ("defect", "words"),
    [
        ("error", "failed on session"),
        ("twice", "were answered twice"),
        ("dumb", "not served"),
        ("task", "tasks stay"),
    ],
)
def test_mutated_frames_find_out_errors_and_answers_that_are_missing_or_too_many(
    defect: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostile_memory, "PATIENCE", 2.0)
    monkeypatch.setattr(hostile_memory, "PER_HOUSE", 40)
    monkeypatch.setattr(hostile_memory, "REST_SECONDS", 1)
    verdict = Verdict()
    with planted(defect):
        hostile_memory.attack(Orders(tmp_path, seed=3, rounds=20), verdict)
    assert any(words in finding for finding in verdict.findings), verdict.findings


def test_the_grammar_has_a_message_for_every_method() -> None:
    assert {method for method, _ in SEEDS} == set(METHODS)
