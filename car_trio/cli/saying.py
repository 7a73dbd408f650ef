"""What a record says beside its payloads, in the same words on the screen and in an export. Pure.

What an agent wrote comes out as it is: whoever shows it escapes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
from msgspec import UNSET, UnsetType

from car_trio.cli.screen import human_size, lasting
from car_trio.wire.runs import AgentOutcome, CliOutcome, Cut, Metrics, Turn


def went_wrong(turn: Turn) -> bool:
    """Whether the turn is one that somebody looks for who wants to know why a run failed."""
    return (
        turn.status in {"failed", "rejected"}
        or turn.error is not UNSET
        or turn.policy_rejected is True
        or turn.verifier_verdict == "failed"
        or (turn.cli_outcome is not UNSET and ended_badly(turn.cli_outcome))
    )


def ended_badly(cli: CliOutcome) -> bool:
    return cli.timed_out or bool(cli.exit_code)


def exit_of(cli: CliOutcome) -> str:
    """How a program ended."""
    code = "no exit code" if cli.exit_code is None else f"exit {cli.exit_code}"
    return f"{code}, timed out" if cli.timed_out else code


def is_in_output(tail: str, turn: Turn) -> bool:
    """Whether the turn's output holds what the program printed last."""
    return turn.output is not UNSET and msgspec.json.encode(tail)[1:-1] in bytes(turn.output)


def cuts(truncated: Mapping[str, Cut] | UnsetType | None) -> Iterator[str]:
    """What was too long to be recorded whole: which field, and what it was."""
    for path, cut in (truncated or {}).items():
        yield f"{path} was cut when it was recorded: it had {human_size(cut.bytes)}, SHA-256 {cut.sha256}"


def evidence(outcome: AgentOutcome) -> Iterator[str]:
    """Each piece of evidence that the agent gave, as JSON."""
    for piece in outcome.evidence:
        yield bytes(piece).decode(errors="replace")


def counts(metrics: Metrics) -> str:
    """What the agent counted; nothing for what it left at zero."""
    known = (
        (metrics.turns, "turn", "turns"),
        (metrics.tool_calls, "tool call", "tool calls"),
        (metrics.retries, "retry", "retries"),
        (metrics.actions_succeeded, "action succeeded", "actions succeeded"),
        (metrics.actions_failed, "action failed", "actions failed"),
    )
    told = [f"{count} {one if count == 1 else many}" for count, one, many in known if count]
    return ", ".join([*told, *([lasting(metrics.duration_ms / 1000)] if metrics.duration_ms else [])])
