"""What `submit` and `record` give back, as types (protocol `engine.md` section 8.1 and `runs.md` section
2)."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

RowStatus = Literal["succeeded", "failed", "rejected", "skipped"]


class Row(Struct, kw_only=True):
    """What became of one action. `output` is there after success, `error` otherwise or after a rollback."""

    action_id: str
    status: RowStatus
    output: Any = None
    error: str | None = None
    state_changes: dict[str, Any] = {}
    rolled_back: bool = False
    terminal: bool = False
    duration_ms: float | None = None
    timestamp: str


class Cost(Struct, kw_only=True):
    tool_calls: int = 0
    actions_executed: int = 0
    actions_rejected: int = 0
    actions_skipped: int = 0
    retries: int = 0
    total_duration_ms: float = 0.0


class Submitted(Struct, kw_only=True):
    """The result of a proposal, rows in proposal order. `recorded` is set when the run ended before all were
    turns."""

    proposal_id: str
    results: list[Row]
    cost: Cost
    recorded: int | None = None
    replan_lineage: list[dict[str, Any]] = []

    @property
    def succeeded(self) -> bool:
        """Every action succeeded and none of it was rolled back."""
        return all(row.status == "succeeded" and not row.rolled_back for row in self.results)

    def __getitem__(self, action_id: str) -> Row:
        """The row of an action; `KeyError` when the proposal had none of that id."""
        for row in self.results:
            if row.action_id == action_id:
                return row
        raise KeyError(action_id)


class Recorded(Struct):
    """Turns that are on disk: positions `base_index` to `base_index + count - 1` of the run."""

    base_index: int
    count: int
