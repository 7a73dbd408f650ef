"""Asking about a proposal without running it, and permissions (protocol `engine.md` sections 1, 7 and 10)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

from car_trio.wire.tools import Members

Tier = Literal["read_only", "sandbox_edit", "full_access"]
Count = Annotated[int, Meta(ge=0, le=2**32 - 1)]


class ToolSchema(Struct, omit_defaults=True):
    name: str
    parameters: Any = None


class Verify(Struct, omit_defaults=True):
    """`verify`. State and tools default to the connection's own."""

    proposal: Raw
    initial_state: Members | None = None
    tool_names: Annotated[list[str], Meta(max_length=10_000)] | None = None
    max_actions: int | None = None
    tool_schemas: Annotated[list[ToolSchema], Meta(max_length=10_000)] | None = None


class Simulate(Struct, omit_defaults=True):
    proposal: Raw
    initial_state: Members | None = None


class OfProposal(Struct):
    """`optimize`, `permission.classify`."""

    proposal: Raw


class Equivalent(Struct):
    p1: Raw
    p2: Raw


class TransactionCheck(Struct, omit_defaults=True):
    """`transaction_check`; `state` is accepted and unused."""

    proposal: Raw
    versions: Members | None = None
    state: Any = None


class Evaluate(Struct, omit_defaults=True):
    """`permission.evaluate`; the tier is checked by the rule, whose words name the three."""

    proposal: Raw
    granted_tier: str | None = None


class SetTier(Struct, omit_defaults=True):
    tier: str
    client_id: str | None = None


class TierSet(Struct):
    tier: str
    client_id: str


class Decide(Struct, omit_defaults=True):
    """`permission.approve` and `permission.reject`."""

    fingerprint: str
    reason: str | None = None


class LedgerLine(Struct):
    """A human's decision about everything of one fingerprint; the last line about it holds."""

    fingerprint: str
    required_tier: Tier
    decision: Literal["approved", "rejected"]
    reviewer: str
    reason: str | None
    evidence: None
    decided_at: str


class ReplanConfig(Struct):
    """`replan.set_config`: accepted and reported. What is left out has its default."""

    max_replans: Count = 0
    delay_ms: Count = 0
    replan_on_rejected: bool = False
    verify_before_execute: bool = False
