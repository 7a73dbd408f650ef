"""What has to go, why, and what stays of it."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from car_trio.store.layout import Layout
from car_trio.store.retention import Limits, ended_before, expired, read_limits, tombstone
from car_trio.wire.runs import CatalogRow, RunRef
from tests.store.store_scripts import row

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def run(name: str, day: int, *, agent: str = "a", ended: str | None = "same") -> CatalogRow:
    at = f"2026-11-{day:02}T09:00:00.000000Z"
    return row(
        RunRef(agent, name), started_at=at, ended_at=at if ended == "same" else ended, status="completed"
    )


def names(rows: list[CatalogRow], per_agent: int, days: float) -> list[tuple[str, str]]:
    return [(gone.row.run_id, gone.why) for gone in expired(rows, NOW, per_agent, days)]


def test_an_agent_keeps_its_newest_ended_runs() -> None:
    rows = [run("r1", 1), run("r3", 3), run("r2", 2), run("x", 1, agent="b")]
    assert names(rows, 2, 0) == [("r1", "max_per_agent 2")]


def test_a_run_that_ended_too_long_ago_goes_whatever_the_count() -> None:
    assert names([run("r1", 1), run("r19", 19)], 0, 10) == [("r1", "max_age_days 10")]


def test_the_stricter_limit_wins_and_the_one_that_ended_first_goes_first() -> None:
    rows = [run("r19", 19), run("r18", 18), run("r17", 17), run("r1", 1, agent="b")]
    assert [name for name, _ in names(rows, 1, 10)] == ["r1", "r17", "r18"]


def test_an_open_run_stays_and_does_not_count() -> None:
    assert names([run("open", 1, ended=None), run("r2", 2), run("r3", 3)], 2, 0) == []


@pytest.mark.parametrize("none", [0, -1, -1000])
def test_zero_and_less_mean_no_limit(none: int) -> None:
    assert names([run(f"r{day}", day) for day in range(1, 20)], none, none) == []


def test_an_age_beyond_the_calendar_is_no_limit() -> None:
    assert names([run("r1", 1)], 0, 1e9) == []
    assert ended_before(NOW, 1e300) is None


def test_a_run_whose_end_cannot_be_read_as_a_time_is_not_old() -> None:
    rows = [run("odd", 1, ended="yesterday"), run("plain", 1, ended="2026-11-01T00:00:00")]
    assert [name for name, _ in names(rows, 0, 1)] == ["plain"]


def test_a_tombstone_says_what_was_removed_when_and_why() -> None:
    line = tombstone(run("r1", 1), "max_age_days 10", "2026-11-20T12:00:00.000000Z")
    assert b"\n" not in line
    assert msgspec.json.decode(line) == {
        "run_id": "r1",
        "agent_id": "a",
        "intent": "intent",
        "status": "completed",
        "started_at": "2026-11-01T09:00:00.000000Z",
        "ended_at": "2026-11-01T09:00:00.000000Z",
        "removed_at": "2026-11-20T12:00:00.000000Z",
        "why": "max_age_days 10",
    }


@pytest.mark.parametrize(
    ("text", "limits", "warned"),
    [
        (None, Limits(1000, 90), ""),
        ("", Limits(1000, 90), ""),
        ("[runs]\nmax_per_agent = 5\nmax_age_days = 1.5", Limits(5, 1.5), ""),
        ("[runs]\nmax_per_agent = 0", Limits(0, 90), ""),
        ("[runs]\nmax_per_agent = 'many'\nmax_age_days = 7", Limits(1000, 7), "max_per_agent"),
        ("[runs]\nmax_per_agent = 2.5", Limits(1000, 90), "max_per_agent"),
        ("[runs]\nmax_age_days = true", Limits(1000, 90), "max_age_days"),
        ("[runs]\nmax_age_days = nan", Limits(1000, 90), "max_age_days"),
        ("runs = 3", Limits(1000, 90), "no table"),
        ("[runs", Limits(1000, 90), "cannot be read"),
        ("\udcff", Limits(1000, 90), "cannot be read"),
    ],
)
def test_a_missing_or_broken_limit_has_its_own_default(
    tmp_path: Path, text: str | None, limits: Limits, warned: str, caplog: pytest.LogCaptureFixture
) -> None:
    if text is not None:
        (tmp_path / "config.toml").write_bytes(text.encode(errors="surrogateescape"))
    with caplog.at_level(logging.WARNING):
        assert read_limits(Layout(tmp_path)) == limits
    assert (warned in caplog.text) if warned else not caplog.records
