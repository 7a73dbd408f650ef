"""Runs as they cross the socket and lie on disk (protocol `runs.md` sections 1 and 2).

A record is one JSON object on one line; its first key is `record`. What is encoded here is written once and then
passed on as bytes: the line in the file, the `record` of a live event and the item of a replay are the same bytes.

Payloads of agents (`parameters`, `output`, evidence) stay `msgspec.Raw`. Raw accepts numbers and strings that no
reader decodes, so whoever builds a `Turn` has decoded every Raw once (`state/turns.py` does).
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

OutcomeStatus = Literal["success", "partial_success", "give_up", "timeout", "failure", "done"]
EvidenceKind = Literal[
    "self_assessment", "tool_result", "state_change", "external_verification", "stop_reason", "evaluator"
]
IncompleteReason = Literal["disconnected", "orphaned", "shutdown"]
Verdict = Literal["not_run", "passed", "failed"]
RunStatus = Literal["in_progress", "completed", "incomplete"]
DropReason = Literal["run_not_found", "run_terminal", "run_turn_limit", "turn_too_large"]


def now() -> str:
    """The wall clock as the protocol writes it: RFC 3339, UTC, microseconds, `Z`."""
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{_to_the_second(seconds)}.{microseconds:06d}Z"


@lru_cache(maxsize=1)
def _to_the_second(seconds: int) -> str:
    # Each turn is stamped, and writing a date out costs more than the rest of the stamp.
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def rfc3339(moment: datetime) -> str:
    """A moment as `now` writes it, so that times compare as text."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


class Cut(Struct):
    """What a cut field was: its full length in bytes of UTF-8 and the SHA-256 of all of it, in hex."""

    bytes: int
    sha256: str


class CliOutcome(Struct, omit_defaults=True, kw_only=True):
    """What a command-line tool left behind."""

    cli: str | None = None
    exit_code: int | None = None
    timed_out: bool
    output_tail: str


class Metrics(Struct):
    turns: int = 0
    tool_calls: int = 0
    duration_ms: float = 0.0
    retries: int = 0
    actions_succeeded: int = 0
    actions_failed: int = 0


class AgentOutcome(Struct, kw_only=True):
    """The agent's own word on how the run went. Encoded with all five fields."""

    status: OutcomeStatus
    summary: str = ""
    evidence: Annotated[list[Raw], Meta(max_length=16_384)] = []
    metrics: Metrics = msgspec.field(default_factory=Metrics)
    timestamp: str = msgspec.field(default_factory=now)


class Outcome(Struct, tag_field="kind", tag="outcome"):
    outcome: AgentOutcome


class Incomplete(Struct, tag_field="kind", tag="incomplete"):
    reason: IncompleteReason


Termination = Outcome | Incomplete


class Started(Struct, tag_field="record", tag="started", omit_defaults=True, kw_only=True):
    run_id: str
    agent_id: str
    intent: str
    outcome_description: str | None = None
    started_at: str
    truncated: dict[str, Cut] | None = None


class Turn(Struct, tag_field="record", tag="turn", kw_only=True):
    """`index` is ours: a sender cannot know what else was appended before its batch."""

    index: int
    prompt: str | UnsetType = UNSET
    tool: str | UnsetType = UNSET
    parameters: Raw | UnsetType = UNSET
    output: Raw | UnsetType = UNSET
    cli_outcome: CliOutcome | UnsetType = UNSET
    verifier_verdict: Verdict = "not_run"
    policy_rejected: bool | UnsetType = UNSET
    recorded_at: str | UnsetType = UNSET
    status: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    action_id: str | UnsetType = UNSET
    proposal_id: str | UnsetType = UNSET
    truncated: dict[str, Cut] | UnsetType = UNSET


class Ended(Struct, tag_field="record", tag="ended", omit_defaults=True, kw_only=True):
    run_id: str
    agent_id: str
    termination: Termination
    ended_at: str
    truncated: dict[str, Cut] | None = None


class Damaged(Struct, tag_field="record", tag="damaged", omit_defaults=True):
    """Stands in a replay for a line that does not parse. `line` counts from 1 within its file; `segment` names a
    continuation file (1 for `<run>~1.jsonl`), 0 for the first."""

    line: int
    segment: int = 0


class RunSummary(Struct, kw_only=True, omit_defaults=True):
    """A run in a list. `outcome` is the status the agent reported, `bytes` the size of its files."""

    run_id: str
    agent_id: str
    intent: str
    started_at: str
    ended_at: str | None = None
    status: RunStatus
    turn_count: int
    outcome: OutcomeStatus | None = None
    bytes: int | UnsetType = UNSET


def status_of(termination: Termination | None) -> RunStatus:
    """The status a run has with this end, or without one."""
    if termination is None:
        return "in_progress"
    return "completed" if isinstance(termination, Outcome) else "incomplete"


class StartRun(Struct, omit_defaults=True):
    """`runs.start`. `idempotency_key` becomes the run id, so that a repeated start finds the same run."""

    intent: str
    agent_id: str | None = None
    agent_name: str | None = None
    outcome_description: str | None = None
    idempotency_key: str | None = None


class RunStarted(Struct):
    run_id: str
    agent_id: str


class CompleteRun(Struct):
    run_id: str
    outcome: AgentOutcome


class RunCompleted(Struct):
    run_id: str
    ok: Literal[True] = True


class NarratedTurn(Struct, omit_defaults=True):
    """A turn as an agent tells it. There is no `index`: whatever is sent under that name is ignored, unread."""

    prompt: str | None = None
    tool: str | None = None
    parameters: Raw | UnsetType = UNSET
    output: Raw | UnsetType = UNSET
    cli_outcome: CliOutcome | None = None
    verifier_verdict: Verdict = "not_run"
    policy_rejected: bool | None = None


class RecordTurns(Struct):
    run_id: str
    turns: Annotated[list[NarratedTurn], Meta(min_length=1, max_length=256)]


class TurnsRecorded(Struct, omit_defaults=True):
    """`ok` false means nothing was written; `dropped` says why."""

    run_id: str
    base_index: int
    count: int
    ok: bool
    dropped: DropReason | None = None


class Subscribe(Struct, omit_defaults=True):
    run_id: str
    from_cursor: Annotated[int, Meta(ge=0)] = 0


class Snapshot(Struct):
    run_id: str
    agent_id: str
    turns_so_far: list[Raw]
    cursor: int
    status: RunStatus


class Unsubscribe(Struct):
    run_id: str


class Unsubscribed(Struct):
    run_id: str
    removed: bool


class TraceEvent(Struct):
    """Params of the notification `runs.trace.event`: `cursor` is the number of turns after this record."""

    run_id: str
    agent_id: str
    record: Raw
    cursor: int
    status: RunStatus


class ListRuns(Struct, omit_defaults=True):
    agent_id: str
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] | None = None


class RunList(Struct, omit_defaults=True):
    agent_id: str
    runs: list[RunSummary]
    next_cursor: str | None = None


class GetTrace(Struct, omit_defaults=True):
    run_id: str
    cursor: Annotated[int, Meta(ge=0)] = 0
    limit: Annotated[int, Meta(ge=1, le=10_000)] | None = None


class TornTail(Struct):
    bytes: int


class Trace(Struct, omit_defaults=True):
    run_id: str
    agent_id: str
    records: list[Raw]
    cursor: int
    next_cursor: int | None = None
    torn: TornTail | None = None


class NotFound(Struct):
    run_id: str
    not_found: Literal[True] = True


class RemoveRuns(Struct, omit_defaults=True):
    run_ids: Annotated[list[str], Meta(max_length=10_000)] = []
    older_than: str | None = None
    dry_run: bool = False


class RunsRemoved(Struct):
    removed: list[str]
    bytes: int


class SearchRuns(Struct, omit_defaults=True):
    query: str | None = None
    agent_id: str | None = None
    status: RunStatus | None = None
    outcome: OutcomeStatus | None = None
    tool: str | None = None
    since: str | None = None
    until: str | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] | None = None


class RunsFound(Struct, omit_defaults=True):
    runs: list[RunSummary]
    next_cursor: str | None = None


class RunRef(NamedTuple):
    """Which run, and under which agent its files lie."""

    agent_id: str
    run_id: str


class CatalogRow(Struct, kw_only=True):
    """What the catalog knows of a run. Counts and sizes change at the run's start and at its end only."""

    run_id: str
    agent_id: str
    intent: str
    outcome_description: str | None = None
    started_at: str
    ended_at: str | None = None
    status: RunStatus = "in_progress"
    outcome: OutcomeStatus | None = None
    summary: str = ""
    turn_count: int = 0
    tools: list[str] = []
    bytes: int = 0
    mtime_ns: int = 0

    def in_list(self) -> RunSummary:
        """The row as a list shows it."""
        return RunSummary(
            run_id=self.run_id,
            agent_id=self.agent_id,
            intent=self.intent,
            started_at=self.started_at,
            ended_at=self.ended_at,
            status=self.status,
            turn_count=self.turn_count,
            outcome=self.outcome,
            bytes=self.bytes,
        )
