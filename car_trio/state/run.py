"""What a run is while it is in memory: its counters, its watchers, and the records on their way to them.

Only the registry (`state/runs.py`) assigns to these fields; everybody else reads. A run holds no turns: what was
recorded is on disk, and what is not yet on disk is in the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import Raw

from car_trio.wire.errors import Refusal
from car_trio.wire.frames import notification
from car_trio.wire.runs import CatalogRow, OutcomeStatus, RunRef, RunStatus, TraceEvent


class Ticket(Protocol):
    """The journal's promise about one hand-over; `settled` gets `None` when it is durable, a Refusal when late."""

    def then(self, settled: Callable[[Refusal | None], None], /) -> None: ...


class Recorder(Protocol):
    """The journal's `put`."""

    def __call__(
        self,
        ref: RunRef,
        lines: Sequence[bytes],
        *,
        durable: Callable[[], None],
        must: bool = False,
        row: CatalogRow | None = None,
        indexed: Callable[[], None] | None = None,
    ) -> Ticket: ...


class Watcher(Protocol):
    """Somebody who follows a run. `offer` never waits; `False` means that the watcher catches up from disk."""

    def offer(self, passage: Passage, /) -> bool: ...


@dataclass(slots=True, eq=False)
class Run:
    """A run's counters. `session` is the connection that ends it by leaving; `bound` says whether that connection
    spoke for the agent when it started the run. `durable_*` count what watchers may see."""

    ref: RunRef
    intent: str
    started_at: str
    outcome_description: str | None = None
    session: str | None = None
    bound: bool = False
    status: RunStatus = "in_progress"
    ended_at: str | None = None
    outcome: OutcomeStatus | None = None
    summary: str = ""
    turns: int = 0
    bytes: int = 0
    durable_turns: int = 0
    durable_records: int = 0
    is_live: bool = True
    tools: dict[str, None] = field(default_factory=dict[str, None])
    watchers: dict[Watcher, None] = field(default_factory=dict[Watcher, None])
    ticket: Ticket | None = None

    @property
    def is_open(self) -> bool:
        return self.status == "in_progress"

    @property
    def ended_durably(self) -> bool:
        """Whether the end is true: nothing comes after it."""
        return not self.is_live or (not self.is_open and self.durable_records == self.turns + 2)

    @property
    def durable_status(self) -> RunStatus:
        return self.status if self.ended_durably else "in_progress"

    def durable_row(self) -> CatalogRow:
        """The row as watchers may see it: neither turns nor an end that are still on their way to the disk."""
        row = self.row()
        row.turn_count = self.durable_turns
        if not self.ended_durably:
            row.status, row.ended_at, row.outcome, row.summary = "in_progress", None, None, ""
        return row

    def row(self) -> CatalogRow:
        """What the catalog will know once the journal has written what it was handed."""
        return CatalogRow(
            run_id=self.ref.run_id,
            agent_id=self.ref.agent_id,
            intent=self.intent,
            outcome_description=self.outcome_description,
            started_at=self.started_at,
            ended_at=self.ended_at,
            status=self.status,
            outcome=self.outcome,
            summary=self.summary,
            turn_count=self.turns,
            tools=list(self.tools),
            bytes=self.bytes,
        )


def from_row(row: CatalogRow) -> Run:
    """A run as the catalog knows it: ended, or about to be adopted; nobody appends to it any more.

    Its texts stay on disk: many such runs are remembered, and nobody asks the registry for them.
    """
    return Run(
        RunRef(row.agent_id, row.run_id),
        "",
        row.started_at,
        status=row.status,
        ended_at=row.ended_at,
        outcome=row.outcome,
        turns=row.turn_count,
        bytes=row.bytes,
        durable_turns=row.turn_count,
        durable_records=row.turn_count + 2,
        is_live=False,
        tools=dict.fromkeys(row.tools),
    )


PASSAGE_BYTES = 64 * 1024
"""Of the records in one passage; a single record may have more."""


class Passage:
    """Consecutive durable records on their way to watchers: encoded once, for the first of them.

    `cursor` is where it ends. It holds turns, or the end of the run alone.
    """

    __slots__ = ("_packed", "_ref", "cursor", "records", "status")

    def __init__(self, ref: RunRef, records: Sequence[bytes], cursor: int, status: RunStatus) -> None:
        self._ref = ref
        self.records = records
        self.cursor = cursor
        self.status: RunStatus = status
        self._packed: bytes | None = None

    def messages(self) -> Iterator[bytes]:
        """`runs.trace.event` for each record (protocol `runs.md`, "subscribe")."""
        run_id, agent_id = self._ref.run_id, self._ref.agent_id
        for cursor, record in enumerate(self.records, self.cursor - len(self.records) + 1):
            params = TraceEvent(run_id, agent_id, Raw(record), cursor, self.status)
            yield notification("runs.trace.event", params)

    def packed(self, pack: Callable[[Iterable[bytes]], bytes]) -> bytes:
        """Its messages as one piece of bytes, the same for all who ask; `pack` makes it for the first."""
        if self._packed is None:
            self._packed = pack(self.messages())
        return self._packed


def passages(ref: RunRef, turns: Sequence[bytes], cursor: int) -> Iterator[Passage]:
    """The turns that follow the cursor, in passages of at most `PASSAGE_BYTES`."""
    begin = size = 0
    for end, turn in enumerate(turns):
        if end > begin and size + len(turn) > PASSAGE_BYTES:
            yield Passage(ref, turns[begin:end], cursor + end, "in_progress")
            begin, size = end, 0
        size += len(turn)
    if turns:
        yield Passage(ref, turns[begin:], cursor + len(turns), "in_progress")
