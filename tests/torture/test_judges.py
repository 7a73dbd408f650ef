"""The judges of the campaigns see what they look for: each is shown a daemon with a planted defect."""

from __future__ import annotations

from pathlib import Path

import pytest

from torture import leak
from torture.orders import Orders, Verdict
from torture.planted import DEFECTS


@pytest.mark.parametrize("defect", DEFECTS)
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
