"""The short form of each campaign: long enough to show that it still bites, short enough for every test run."""

from __future__ import annotations

from pathlib import Path

import pytest

from torture.__main__ import CAMPAIGNS, campaign
from torture.orders import Orders

ROUNDS = {
    "kill": 12, "leak": 200, "loop": 6, "watch": 40, "fault": 7, "twins": 3, "hostile": 150,
    "power": 21, "clock": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_the_short_campaign_finds_nothing(name: str, tmp_path: Path) -> None:
    verdict = campaign(name)(Orders(tmp_path, seed=6, rounds=ROUNDS[name]))
    assert not verdict.findings
    assert verdict.counts["checks"]
