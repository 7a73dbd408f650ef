"""What `verify` can and cannot vouch for (protocol `engine.md` section 7, `evidence`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from car_trio.wire.proposals import Action


class Check(NamedTuple):
    name: str
    verifies: str
    cannot_verify: str
    skipped: str = ""
    tier: str = "decision_procedure"


CHECKS: Final = (
    Check(
        "resource_bounds",
        "action count is within the limit ({limit})",
        "per-action cost, wall-clock time, or memory at runtime",
    ),
    Check(
        "loop_detection",
        "no identical tool call is repeated enough to look like a loop",
        "semantically redundant calls with differing arguments",
        tier="heuristic",
    ),
    Check(
        "preconditions",
        "declared preconditions hold against the statically-known state",
        "preconditions over keys whose values are only known at runtime",
    ),
    Check(
        "state_dependencies",
        "each declared state dependency is produced before it is read",
        "undeclared reads — state a tool consumes without listing it",
    ),
    Check(
        "tool_existence",
        "every tool_call names a registered tool",
        "whether the registered tool behaves as its name/description implies",
        "(skipped — no tool registry supplied)",
    ),
    Check(
        "param_schema",
        "tool_call parameters match the registered JSON Schema (types + required)",
        "value-level constraints beyond type/required (ranges, formats, cross-field)",
        "(skipped — no tool schemas supplied; existence only)",
    ),
    Check(
        "compensation_resolution",
        "a declared compensation names a registered tool or an action in this proposal, "
        "and a `compensable` action declares one at all",
        "whether the named compensation actually undoes the effect — that it is the right inverse, "
        "and that it will still work later",
    ),
    Check(
        "write_conflicts",
        "concurrent writers to the same key declare an ordering dependency",
        "semantic conflicts — two actions whose effects are logically incompatible",
    ),
)


class Grounds(NamedTuple):
    """What the checks were given, and what they found."""

    findings: dict[str, int]
    skipped: set[str]
    limit: int
    names_known: bool
    schemas_known: bool
    warnings: int


def evidence(actions: Sequence[Action], grounds: Grounds) -> dict[str, Any]:
    untested = untested_regions(actions)
    calls_tools = any(action.type == "tool_call" for action in actions)
    assumptions = [
        "supplied initial-state values are accurate",
        "tool implementations honor their declared effects and side effects",
    ]
    if calls_tools and not grounds.schemas_known:
        assumptions.append("tool_call parameters are well-formed (no schemas supplied to check them)")
    return {
        "assumptions": assumptions,
        "checks": [_ran(check, grounds) for check in CHECKS],
        "confidence": _confidence(calls_tools, len(untested), grounds),
        "residual_risks": _residual_risks(bool(untested), grounds),
        "untested_regions": untested,
    }


def untested_regions(actions: Sequence[Action]) -> list[str]:
    regions: set[str] = set()
    for action in actions:
        if action.type != "tool_call":
            continue
        if action.tool is not None:
            regions.add(f"runtime output of tool '{action.tool}' (action {action.id})")
        for key in action.expected_effects:
            regions.add(f"state key '{key}' (value set at runtime by action {action.id})")
    return sorted(regions)


def _ran(check: Check, grounds: Grounds) -> dict[str, Any]:
    ran = check.name not in grounds.skipped
    verifies = check.verifies if ran or not check.skipped else check.skipped
    return {
        "cannot_verify": check.cannot_verify,
        "findings": grounds.findings.get(check.name, 0),
        "name": check.name,
        "ran": ran,
        "tier": check.tier,
        "verifies": verifies.format(limit=grounds.limit) if check.name == "resource_bounds" else verifies,
    }


def _confidence(calls_tools: bool, untested: int, grounds: Grounds) -> float:
    """The order of the subtractions is part of the protocol: clients compare the exact double."""
    confidence = 1.0
    if calls_tools and not grounds.names_known and not grounds.schemas_known:
        confidence -= 0.15
    if calls_tools and not grounds.schemas_known:
        confidence -= 0.2
    confidence -= min(0.25, 0.02 * untested)
    confidence -= min(0.2, 0.05 * grounds.warnings)
    return confidence


def _residual_risks(untested: bool, grounds: Grounds) -> list[str]:
    risks: list[str] = []
    if conflicts := grounds.findings.get("write_conflicts"):
        risks.append(f"{conflicts} undeclared write conflict(s) — last-writer-wins at runtime")
    if grounds.warnings:
        risks.append(f"{grounds.warnings} warning(s) not blocking the verdict")
    if untested:
        risks.append("outcomes depending on runtime tool output or runtime-set state are unverified")
    return risks
