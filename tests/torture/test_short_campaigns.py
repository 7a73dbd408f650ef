"""The short form of each campaign: long enough to show that it still bites, short enough for every test run.

Times are judged by the long forms alone: a test on a busy machine must not fail of them (`Verdict.late`).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from torture import clock
from torture.__main__ import CAMPAIGNS, campaign
from torture.orders import Orders


class Short(NamedTuple):
    """How many rounds it has, and what it must have done in them at least."""

    rounds: int
    least: dict[str, int]


SHORT = {
    "kill": Short(40, {"kills": 40, "acknowledged turns": 40, "ids used again": 1}),
    "power": Short(21, {"states": 1_000_000, "booted": 1, "booted for real": 1, "ids used again": 40}),
    "fault": Short(7, {"faults": 4, "refusals": 1}),
    "hostile": Short(150, {"hostile connections": 3000, "mutated messages": 50_000}),
    "leak": Short(1000, {"cycles": 1000}),
    "watch": Short(500, {"schedules": 500, "ids used again": 100, "watchers over processes": 2 * 50 + 4}),
    "loop": Short(6, {"messages": 6}),
    "clock": Short(1, {"jumps": 2}),
    "twins": Short(20, {"starts": 60}),
}


KILLS = ("under load", "at start", "at an operation")


@pytest.mark.parametrize("name", SHORT)
def test_the_short_campaign_finds_nothing(name: str, tmp_path: Path) -> None:
    if name == "clock" and not clock.LIBRARY:
        pytest.skip("needs libfaketime")
    verdict = campaign(name)(Orders(tmp_path, seed=6, rounds=SHORT[name].rounds))
    assert not verdict.findings
    done = verdict.counts | Counter(kills=sum(verdict.counts[f"kills {when}"] for when in KILLS))
    for what, least in SHORT[name].least.items():
        assert done[what] >= least, what


def test_every_campaign_has_a_short_form_but_those_that_need_a_program_of_their_own() -> None:
    assert {*SHORT, "autobahn", "service"} == set(CAMPAIGNS)
