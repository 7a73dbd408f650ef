"""The short form of each campaign: long enough to show that it still bites, short enough for every test run."""

from __future__ import annotations

from pathlib import Path

import pytest

from torture.__main__ import CAMPAIGNS, campaign
from torture.orders import Orders

ROUNDS = {
    "power": 21,
    "kill": 40,
    "leak": 1000,
    "loop": 6,
    "watch": 500,
    "fault": 7,
    "clock": 1,
    "twins": 20,
    "hostile": 150,
}


@pytest.mark.parametrize("name", ROUNDS)
def test_the_short_campaign_finds_nothing(name: str, tmp_path: Path) -> None:
    verdict = campaign(name)(Orders(tmp_path, seed=6, rounds=ROUNDS[name]))
    assert not verdict.findings
    assert verdict.counts["checks"]


def test_every_campaign_has_a_short_form_but_the_one_that_needs_a_program_of_its_own() -> None:
    assert {*ROUNDS, "autobahn"} == set(CAMPAIGNS)
