"""Counting an event log, one JSON object per line (protocol `engine.md` section 1, "Event log").

Counts go by the kind of event. Of the data only what this daemon writes is read: the `decision` of permission
events. Tokens, money and model calls are no part of its log and stay zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec


class Event(msgspec.Struct):
    kind: str
    timestamp: datetime | None = None
    data: dict[str, Any] = {}

    @property
    def subject(self) -> str:
        """The kind together with the decision it is about."""
        return f"{self.kind}:{self.data.get('decision')}"


_decoder = msgspec.json.Decoder(Event)


def harness_metrics(events: str) -> dict[str, Any]:
    """Counts and rates; a rate of nothing is None. A line that is no event counts as a parse error."""
    lines = [line for line in events.splitlines() if line.strip()]
    read = [event for line in lines if (event := _event(line)) is not None]
    counts = Counter(event.kind for event in read) + Counter(event.subject for event in read)
    return {
        "trajectory_efficiency": _trajectory(counts, _wall_clock_ms(read)),
        "verification_strength": _verification(counts),
        "recovery": {
            "replan_attempts": counts["replan_attempted"],
            "replan_rejected": counts["replan_rejected"],
            "replan_exhausted": counts["replan_exhausted"],
            "retries": counts["action_retrying"],
            "branch_decisions": 0,
            "alternatives_rejected": 0,
        },
        "state_consistency": {
            "state_changes": counts["state_changed"],
            "snapshots": counts["state_snapshot"],
            "rollbacks": counts["state_rollback"],
        },
        "safety": {
            "permission_decisions": counts["permission_decision"],
            "escalations": counts["permission_decision:needs_approval"],
            "denials": counts["permission_decision:deny"],
            "approvals_recorded": counts["approval_recorded"],
            "approvals_rejected": counts["approval_recorded:rejected"],
        },
        "replayability": {
            "total_events": len(read),
            "state_effects_captured": counts["state_changed"] > 0,
        },
        "parse_errors": len(lines) - len(read),
    }


def _trajectory(counts: Counter[str], wall_clock_ms: float) -> dict[str, Any]:
    succeeded, failed = counts["action_succeeded"], counts["action_failed"]
    return {
        "attempts_total": succeeded + failed,
        "actions_succeeded": succeeded,
        "failed_attempts": failed,
        "total_tokens": 0,
        "total_cost_usd": 0.0,
        "wall_clock_ms": wall_clock_ms,
        "model_calls": 0,
        "success_rate": _rate(succeeded, succeeded + failed),
    }


def _verification(counts: Counter[str]) -> dict[str, Any]:
    validated, rejected = counts["action_validated"], counts["action_rejected"]
    return {
        "actions_validated": validated,
        "actions_rejected": rejected,
        "policy_violations": counts["policy_violation"],
        "rejection_rate": _rate(rejected, validated + rejected),
    }


def _event(line: str) -> Event | None:
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return None


def _wall_clock_ms(events: Sequence[Event]) -> float:
    times = [event.timestamp.timestamp() for event in events if event.timestamp is not None]
    return (max(times) - min(times)) * 1000 if times else 0.0


def _rate(part: int, whole: int) -> float | None:
    return part / whole if whole else None
