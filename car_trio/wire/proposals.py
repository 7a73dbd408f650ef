"""Proposals as they cross the socket (protocol `engine.md` section 5).

A proposal is a list of actions that an agent wants done. `Proposal` and `Action` hold it with every default
filled in. Free-form values (`parameters`, `expected_effects`, …) are plain JSON values and are never changed
once decoded: results, digests and turns share them.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from time import time_ns
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

ActionType = Literal["tool_call", "state_write", "state_read", "assertion"]
FailureBehavior = Literal["abort", "retry", "skip"]
InvocationMode = Literal["one_shot", "streaming", "long_running"]
Reversibility = Literal["reversible", "compensable", "irreversible"]
U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
U64 = Annotated[int, Meta(ge=0)]


def new_id() -> str:
    """An id for what came without one."""
    return secrets.token_hex(6)


_second: tuple[int, str] = (-1, "")


def timestamp(wall_ns: int) -> str:
    """RFC 3339, UTC, nanoseconds, `Z`. The text of the current second is kept: rows come many to a second."""
    global _second  # noqa: PLW0603 - one entry, replaced whole
    seconds, fraction = divmod(wall_ns, 1_000_000_000)
    if _second[0] != seconds:
        _second = (seconds, datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S."))
    return f"{_second[1]}{fraction:09}Z"


class Precondition(Struct, frozen=True):
    key: str
    operator: str = "eq"
    value: Any = None
    description: str = ""

    def plain(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "operator": self.operator,
            "value": self.value,
            "description": self.description,
        }


class Assumption(Struct, frozen=True):
    """What the planner believed: that `key` held `expected_value`, or was at version `read_version`."""

    key: str
    expected_value: Any = None
    read_version: U64 | None = None

    def plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"key": self.key}
        if self.expected_value is not None:
            plain["expected_value"] = self.expected_value
        if self.read_version is not None:
            plain["read_version"] = self.read_version
        return plain


class ToolCompensation(Struct, frozen=True, tag_field="type", tag="tool"):
    tool: str
    parameters: dict[str, Any] = {}

    def plain(self) -> dict[str, Any]:
        return {"type": "tool", "tool": self.tool, "parameters": self.parameters}


class ActionCompensation(Struct, frozen=True, tag_field="type", tag="action_ref"):
    action_id: str

    def plain(self) -> dict[str, Any]:
        return {"type": "action_ref", "action_id": self.action_id}


class Action(Struct, frozen=True, kw_only=True):
    id: str = field(default_factory=new_id)
    type: ActionType
    tool: str | None = None
    parameters: dict[str, Any] = {}
    preconditions: list[Precondition] = []
    expected_effects: dict[str, Any] = {}
    state_dependencies: list[str] = []
    read_set: list[str] = []
    write_set: list[str] = []
    assumptions: list[Assumption] = []
    invocation_mode: InvocationMode = "one_shot"
    reversibility: Reversibility = "irreversible"
    compensation: ToolCompensation | ActionCompensation | None = None
    idempotent: bool = False
    max_retries: U32 = 3
    failure_behavior: FailureBehavior = "abort"
    timeout_ms: U64 | None = None
    metadata: dict[str, Any] = {}

    @property
    def key(self) -> str | None:
        """The state key that a state action or an assertion is about; None when it names none."""
        key = self.parameters.get("key")
        return key if isinstance(key, str) else None

    def free_form(self) -> list[Any]:
        """The values that may be any JSON; what is empty is left out."""
        values = [each for each in (self.parameters, self.expected_effects, self.metadata) if each]
        if self.preconditions:
            values += [each.value for each in self.preconditions]
        if self.assumptions:
            values += [each.expected_value for each in self.assumptions]
        if self.compensation is not None:
            values.append(self.compensation.plain())
        return values

    def plain(self) -> dict[str, Any]:
        """The action as JSON, every default filled in, in the protocol's order of keys."""
        plain: dict[str, Any] = {"id": self.id, "type": self.type}
        if self.tool is not None:
            plain["tool"] = self.tool
        plain["parameters"] = self.parameters
        plain["preconditions"] = [each.plain() for each in self.preconditions]
        plain["expected_effects"] = self.expected_effects
        plain["state_dependencies"] = self.state_dependencies
        plain["read_set"] = self.read_set
        plain["write_set"] = self.write_set
        plain["assumptions"] = [each.plain() for each in self.assumptions]
        plain["invocation_mode"] = self.invocation_mode
        plain["reversibility"] = self.reversibility
        if self.compensation is not None:
            plain["compensation"] = self.compensation.plain()
        plain["idempotent"] = self.idempotent
        plain["max_retries"] = self.max_retries
        plain["failure_behavior"] = self.failure_behavior
        if self.timeout_ms is not None:
            plain["timeout_ms"] = self.timeout_ms
        plain["metadata"] = self.metadata
        return plain


class Proposal(Struct, frozen=True, kw_only=True):
    id: str = field(default_factory=new_id)
    source: str = "unknown"
    actions: list[Action]
    timestamp: str = field(default_factory=lambda: timestamp(time_ns()))
    context: dict[str, Any] = {}

    def plain(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "source": self.source,
            "actions": [action.plain() for action in self.actions],
            "timestamp": self.timestamp,
            "context": self.context,
        }
