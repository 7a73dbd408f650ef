"""Judges look at daemons with a planted defect, of which many show by something that never comes."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def impatient_judges(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What never comes is waited for briefly. The campaigns themselves must find nothing, and are patient."""
    if request.path.name != "test_short_campaigns.py":
        monkeypatch.setattr("tests.process.daemon_process.PATIENCE", 10.0)
        monkeypatch.setattr("tests.second_client.REPLY_SECONDS", 5.0)
