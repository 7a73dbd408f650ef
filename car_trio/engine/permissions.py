"""How much trust an action needs (protocol `engine.md` section 10).

Classification reads words (`words.py`). It is a net, not a proof: a tool it does not know needs
`sandbox_edit`, what it recognises as dangerous needs `full_access`, and that always needs a human.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, cast, get_args

import msgspec

from car_trio.engine.model import parse
from car_trio.engine.values import compact
from car_trio.engine.words import is_dangerous, tool_reversibility
from car_trio.wire.proposals import Action, Reversibility

Tier = Literal["read_only", "sandbox_edit", "full_access"]
TIERS: Final[tuple[Tier, ...]] = get_args(Tier)
STANDING_TIER: Final = "sandbox_edit"

Ledger = Mapping[str, Mapping[str, Any]]
"""Fingerprint to the latest ledger line about it: `{decision: "approved" | "rejected", reviewer, reason, …}`.
"""


def permission_classify(proposal: Any) -> list[dict[str, Any]]:
    return [
        {
            "action_id": action.id,
            "missing_compensation": action.reversibility == "compensable" and action.compensation is None,
            "required_tier": required_tier(action),
            "reversibility": reversibility(action),
            "tool": action.tool if action.type == "tool_call" else None,
        }
        for action in parse(proposal).actions
    ]


def permission_evaluate(
    proposal: Any, granted_tier: str | None = None, ledger: Ledger | None = None
) -> list[dict[str, Any]]:
    """A decision per action: `allow`, `needs_approval` or `deny`. Raises ValueError for an unknown tier."""
    granted = tier(STANDING_TIER if granted_tier is None else granted_tier)
    return evaluated(parse(proposal).actions, granted, ledger or {})


def evaluated(actions: Iterable[Action], granted: Tier, decided: Ledger) -> list[dict[str, Any]]:
    return [_evaluate(action, granted, decided) for action in actions]


def tier(name: str) -> Tier:
    if name not in TIERS:
        raise ValueError(f"invalid tier '{name}' (expected {'|'.join(TIERS)})")
    return name


def required_tier(action: Action) -> Tier:
    if action.type == "state_write":
        return "sandbox_edit"
    if action.type != "tool_call":
        return "read_only"
    return "full_access" if is_dangerous(action.tool or "", action.parameters) else "sandbox_edit"


def reversibility(action: Action) -> Reversibility:
    """What the action seems to do; what it declares about itself is not consulted."""
    if action.type != "tool_call":
        return "reversible"
    return tool_reversibility(action.tool or "", action.parameters)


def fingerprint(action: Action) -> str:
    """The same for every action that does the same: `tool_call|echo|{"m":1}`. What a human approves."""
    return f"{action.type}|{action.tool or '-'}|{compact(action.parameters)}"


def tier_of_fingerprint(mark: str) -> Tier:
    """The tier that actions of this fingerprint need. Unreadable ones count as the highest."""
    kind, _, rest = mark.partition("|")
    tool, separator, parameters = rest.partition("|{")
    try:
        decoded = msgspec.json.decode("{" + parameters) if separator else None
        action = msgspec.convert({"type": kind, "tool": tool, "parameters": decoded}, Action)
    except msgspec.MsgspecError:
        return "full_access"
    return required_tier(action)


def _evaluate(action: Action, granted: Tier, ledger: Ledger) -> dict[str, Any]:
    required, mark = required_tier(action), fingerprint(action)
    line = ledger.get(mark, cast("Mapping[str, Any]", {}))
    row: dict[str, Any] = {"action_id": action.id, "decision": "allow", "fingerprint": mark}
    if line.get("decision") == "rejected":
        because = f" ({line['reason']})" if line.get("reason") else ""
        row["decision"] = "deny"
        row["reason"] = f"previously rejected by {line['reviewer']}{because}"
    else:
        row["granted"] = granted
        if line.get("decision") != "approved" and (reason := _beyond(required, granted)):
            row["decision"] = "needs_approval"
            row["reason"] = reason
    row["required"] = required
    row["reversibility"] = reversibility(action)
    return row


def _beyond(required: Tier, granted: Tier) -> str | None:
    if required == "full_access":
        return "full_access actions require human approval before execution"
    if TIERS.index(required) > TIERS.index(granted):
        return f"action requires {required} but session is granted only {granted}"
    return None
