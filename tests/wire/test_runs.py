"""Records as bytes (`runs.md` section 1): the tag comes first, and what is absent is left out."""

from __future__ import annotations

import re
import time

import msgspec
import pytest

from car_trio.wire.runs import (
    AgentOutcome,
    Ended,
    Incomplete,
    Outcome,
    Started,
    Turn,
    now,
    status_of,
)


def test_the_tag_is_the_first_key_of_every_record():
    started = Started(run_id="r", agent_id="a", intent="i", started_at="t")
    ended = Ended(run_id="r", agent_id="a", termination=Incomplete("shutdown"), ended_at="t")
    assert [bytes(msgspec.json.encode(record))[:12] for record in (started, Turn(index=0), ended)] == [
        b'{"record":"s',
        b'{"record":"t',
        b'{"record":"e',
    ]


def test_a_turn_always_says_its_verdict_and_leaves_out_what_it_has_not():
    assert msgspec.json.encode(Turn(index=3)) == b'{"record":"turn","index":3,"verifier_verdict":"not_run"}'


def test_an_outcome_is_written_with_all_five_fields():
    written = msgspec.json.decode(msgspec.json.encode(AgentOutcome(status="done")))
    assert list(written) == ["status", "summary", "evidence", "metrics", "timestamp"]
    assert written["metrics"] == {
        "turns": 0,
        "tool_calls": 0,
        "duration_ms": 0.0,
        "retries": 0,
        "actions_succeeded": 0,
        "actions_failed": 0,
    }


def test_times_are_rfc_3339_in_utc_with_microseconds():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", now())


def test_a_time_is_that_of_the_wall_clock_also_when_it_is_set_back(monkeypatch: pytest.MonkeyPatch):
    second = 1_000_000_000
    clock = 1_735_689_599 * second + 7_000  # seven microseconds into the last second of a year
    shown: list[str] = []
    for moment in (clock, clock + second - 7_001, clock + second, clock + second + 999, clock):
        monkeypatch.setattr(time, "time_ns", lambda moment=moment: moment)
        shown.append(now())
    assert shown == [
        "2024-12-31T23:59:59.000007Z",
        "2024-12-31T23:59:59.999999Z",
        "2025-01-01T00:00:00.000007Z",
        "2025-01-01T00:00:00.000007Z",
        "2024-12-31T23:59:59.000007Z",
    ]


@pytest.mark.parametrize(
    ("termination", "status"),
    [
        (None, "in_progress"),
        (Incomplete("orphaned"), "incomplete"),
        (Outcome(AgentOutcome(status="failure")), "completed"),
    ],
)
def test_a_reported_failure_is_a_completed_run(termination, status):
    assert status_of(termination) == status
