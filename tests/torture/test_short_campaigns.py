"""The short form of each campaign: long enough to show that it still bites, short enough for every test run."""

from __future__ import annotations

from pathlib import Path

import pytest

from torture.__main__ import CAMPAIGNS, campaign
from torture.orders import Orders

ROUNDS = {
    "kill": 40,
    "power": 21,
    "fault": 7,
    "hostile": 150,
    "leak": 1000,
    "watch": 500,
    "loop": 6,
    "clock": 1,
    "twins": 20,
}


@pytest.mark.parametrize("name", ROUNDS)
def test_the_short_campaign_finds_nothing(name: str, tmp_path: Path) -> None:
    verdict = campaign(name)(Orders(tmp_path, seed=6, rounds=ROUNDS[name]))
    assert not verdict.findings
    assert verdict.counts["checks"]


def test_every_campaign_has_a_short_form_but_those_that_need_a_program_of_their_own() -> None:
    assert {*ROUNDS, "autobahn", "service"} == set(CAMPAIGNS)
