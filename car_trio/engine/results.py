"""The rows, the cost and the lineage of an executed proposal (protocol `engine.md` section 8.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from car_trio.engine.values import SAFE_INTEGER, Uncanonical, digest, is_simple
from car_trio.wire.proposals import Action, Proposal

Row = dict[str, Any]

ROLLED_BACK: Final = (
    "proposal aborted; state effects were rolled back; external effects may remain and were not undone"
)


def success(action: Action, output: Any, changes: dict[str, Any], duration_ms: float, stamp: str) -> Row:
    return {
        "action_id": action.id,
        "status": "succeeded",
        "output": output,
        "state_changes": changes,
        "duration_ms": duration_ms,
        "timestamp": stamp,
    }


def refusal(action: Action, status: str, error: str, stamp: str) -> Row:
    """A row of an action without a result: `failed`, `rejected` or `skipped`."""
    return {
        "action_id": action.id,
        "status": status,
        "error": error,
        "state_changes": {},
        "timestamp": stamp,
    }


def rolled_back(row: Row) -> Row:
    """A succeeded row as the reply shows it after an abort; the row itself stays as it was recorded."""
    return {
        "action_id": row["action_id"],
        "status": row["status"],
        "output": row["output"],
        "error": ROLLED_BACK,
        "rolled_back": True,
        "state_changes": {},
        "duration_ms": row["duration_ms"],
        "timestamp": row["timestamp"],
    }


def cost(actions: Sequence[Action], rows: Sequence[Row], retries: int) -> dict[str, Any]:
    counts = {"succeeded": 0, "failed": 0, "rejected": 0, "skipped": 0}
    tool_calls, duration_ms = 0, 0.0
    for action, row in zip(actions, rows, strict=True):
        status = row["status"]
        counts[status] += 1
        if status == "succeeded":
            duration_ms += row["duration_ms"]
            tool_calls += action.type == "tool_call"
    return {
        "tool_calls": tool_calls,
        "actions_executed": counts["succeeded"] + counts["failed"],
        "actions_rejected": counts["rejected"],
        "actions_skipped": counts["skipped"],
        "total_duration_ms": duration_ms,
        "retries": retries,
    }


NO_COST: Final = {
    "tool_calls": 0,
    "actions_executed": 0,
    "actions_rejected": 0,
    "actions_skipped": 0,
    "total_duration_ms": 0.0,
    "retries": 0,
}
"""What a proposal costs that was refused whole, whatever its rows say."""


def refusal_of(proposal: Proposal, plain: dict[str, Any]) -> tuple[str | None, str | None]:
    """Step 0: (why the whole proposal is refused, its digest); the digest is None when it has no canonical
    form.
    """
    try:
        fingerprint = digest(plain, _is_simple(proposal))
    except Uncanonical as reason:
        return str(reason), None
    seen: set[str] = set()
    for action in proposal.actions:
        if action.id in seen:
            return f"duplicate action id '{action.id}'", fingerprint
        seen.add(action.id)
    return None, fingerprint


def _is_simple(proposal: Proposal) -> bool:
    """`values.is_simple` of a plan, looking only where a client may put a number."""
    return is_simple(proposal.context) and all(map(_is_simple_action, proposal.actions))


def _is_simple_action(action: Action) -> bool:
    return (
        (action.timeout_ms is None or action.timeout_ms <= SAFE_INTEGER)
        and all((each.read_version or 0) <= SAFE_INTEGER for each in action.assumptions)
        and all(map(is_simple, action.free_form()))
    )


def result(
    plain: dict[str, Any],
    fingerprint: str | None,
    rows: Sequence[Row],
    cost: dict[str, Any],
    rejection: str | None,
) -> dict[str, Any]:
    proposal_id = plain["id"]
    ancestor: dict[str, Any] = {"generation": 0, "proposal_id": proposal_id}
    if fingerprint is not None:
        ancestor["proposal_digest"] = fingerprint
    ancestor["status"] = "accepted" if rejection is None else "rejected"
    if rejection is not None:
        ancestor["rejection_reason"] = rejection
    whole: dict[str, Any] = {
        "proposal_id": proposal_id,
        "original_proposal_id": proposal_id,
        "final_proposal": plain,
        "replan_lineage": [ancestor],
    }
    if rejection is None:
        whole["accepted_proposal_preimages"] = [
            {"generation": 0, "proposal_digest": fingerprint, "proposal": plain}
        ]
    whole["results"] = list(rows)
    whole["cost"] = cost
    return whole
