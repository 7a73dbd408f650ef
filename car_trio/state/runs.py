"""Every rule about runs (protocol `runs.md`), and not one `await`.

The registry owns the runs that are in memory: each one that is open, and each that has ended but is not in the
catalog yet. A run keeps its counters, never its turns. Whatever changes a run does so in one synchronous stretch:
check, stamp, encode, hand to the journal. Turns become visible only when the journal calls back that they are true;
that step moves the run's durable cursor and offers the records to its watchers, so live equals replay.

A run that is not in memory is looked for on disk (`absent.py`): a rule that needs it raises `Lookup`, whoever called it
asks the catalog, tells the registry, and calls the rule again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Literal

from car_trio.state.absent import Absent, Life, Lookup
from car_trio.state.run import Passage, Recorder, Run, Ticket, Watcher, from_row, passages
from car_trio.state.session import Session
from car_trio.state.turns import Body, Cuts, TurnTooLarge, ended_line, stamped, started_line
from car_trio.wire.errors import Refusal, invalid_params
from car_trio.wire.runs import (
    AgentOutcome,
    CatalogRow,
    DropReason,
    Ended,
    Incomplete,
    IncompleteReason,
    Outcome,
    RunRef,
    Started,
    StartRun,
    Termination,
    TurnsRecorded,
    status_of,
)

IDEMPOTENCY_KEY = re.compile(r"[A-Za-z0-9._:-]{1,128}")
MAX_STARTED = 10_000
"""How many runs a connection that speaks for no agent may read because it started them."""
MAX_TOOL_NAMES = 256
MAX_TOOL_NAME = 256
"""How many different tool names of a run the catalog keeps for searching, and how many characters of each."""


class RunRegistry:
    """The runs in memory, who may do what with them, and who watches them.

    `admit` raises Refusal (-32011) when the store cannot take a start or turns of this run now; it is asked before
    anything changes. `check_name` raises Refusal (-32602) for an id that no file can have. `publish` tells hosts
    about a run: what happened, which run, its status.
    """

    def __init__(
        self,
        *,
        record: Recorder,
        admit: Callable[[Literal["start", "turns"], RunRef], None],
        check_name: Callable[[str], object],
        now: Callable[[], str],
        new_id: Callable[[], str],
        max_turns: int,
        default_agent: str | None = None,
        publish: Callable[[str, RunRef, str], None] = lambda kind, ref, status: None,
    ) -> None:
        self._record = record
        self._admit = admit
        self._check_name = check_name
        self._now = now
        self._new_id = new_id
        self._max_turns = max_turns
        self._default_agent = default_agent
        self._announce = publish
        self._runs: dict[str, Run] = {}
        self._absent = Absent()
        self._current: dict[str, Run] = {}
        self._started: dict[str, dict[str, None]] = {}

    # What is known

    @property
    def open_count(self) -> int:
        return sum(run.is_open for run in self._runs.values())

    def ask(self, run_id: str) -> Ticket | None:
        """The catalog is about to be asked about a run, for `answer`. With a ticket it need not be: the run is being
        removed, until that is settled."""
        return self._absent.ask(run_id)

    def answer(self, run_id: str, row: CatalogRow | None) -> None:
        """What the catalog said about a run that was not in memory when it was asked."""
        self._absent.answer(run_id, row)

    def give_up(self, run_id: str) -> None:
        """Nobody waits for an answer about it any more, whether it came or not."""
        self._absent.give_up(run_id)

    def removal(self, row: CatalogRow, remove: Callable[[], Ticket]) -> Ticket | None:
        """Has an ended run removed, which is known by its row on disk. `None`: that run is not there any more. Its id
        may name another one by now, and nothing of that may be touched."""
        if row.run_id in self._runs or not self._absent.is_still(row):
            return None
        ticket = remove()
        self._absent.leaves(row.run_id, ticket)
        ticket.then(partial(self._removed, row))
        return ticket

    def _removed(self, row: CatalogRow, refusal: Refusal | None) -> None:
        self._absent.left(row.run_id, gone=refusal is None)
        if refusal is None:
            for started in self._started.values():  # who started it has no right to the next run of its id
                started.pop(row.run_id, None)
            self._announce("run.removed", RunRef(row.agent_id, row.run_id), row.status)

    def end_orphan(self, row: CatalogRow) -> None:
        """A run that an earlier process left open and that could not be ended at boot: its end is handed to the
        journal, which writes it when the disk allows it. Nobody can join or append to it meanwhile."""
        run = from_row(row)
        run.is_live = True
        run.durable_records = row.turn_count + 1
        run.intent, run.outcome_description = row.intent, row.outcome_description  # its row is written anew
        self._runs[row.run_id] = run
        self._end(run, Incomplete("orphaned"))

    def find(self, run_id: str) -> Run | None:
        """The run, or `None` for one that does not exist. Raises `Lookup` when only the disk can tell."""
        run = self._runs.get(run_id)
        if run is not None:
            return run
        with suppress(KeyError):
            return self._absent.find(run_id)
        try:
            self._check_name(run_id)
        except Refusal:
            return None
        raise Lookup(run_id)

    def is_settling(self, run_id: str) -> bool:
        """Whether it has ended and the catalog does not know that yet."""
        run = self._runs.get(run_id)
        return run is not None and not run.is_open

    def life(self, run_id: str) -> Life:
        """For whoever reads the file of the run that has this id now, to see afterwards that it was this run's."""
        return self._absent.life(run_id)

    def current(self, session: Session) -> Run | None:
        """The connection's current run, while it is open."""
        run = self._current.get(session.id)
        return run if run is not None and run.is_open else None

    def in_memory(self, agent_id: str | None = None) -> list[CatalogRow]:
        """The rows that may be newer than the catalog's, of one agent or of all; of each run what is durable."""
        chosen = (run for run in self._runs.values() if agent_id is None or run.ref.agent_id == agent_id)
        return [run.durable_row() for run in chosen if run.durable_records]

    # Who may

    def _is_starter(self, session: Session, run: Run) -> bool:
        return run.ref.run_id in self._started.get(session.id, ())

    def may_read(self, session: Session, run: Run) -> bool:
        return session.host or session.agent_id == run.ref.agent_id or self._is_starter(session, run)

    def _may_write(self, session: Session, run: Run) -> bool:
        return session.agent_id == run.ref.agent_id or (session.open_house and self._is_starter(session, run))

    def readable(self, session: Session, run_id: str) -> Run | None:
        """The run if this connection may read it; a foreign run is `None`, like one that does not exist."""
        run = self.find(run_id)
        return run if run is not None and self.may_read(session, run) else None

    # Start

    def start(self, session: Session, ask: StartRun) -> Run:
        """`runs.start`: makes a run, or finds the one that the idempotency key names, and makes it current.

        The caller replies when the run's `ticket` is settled. Raises Refusal, `Lookup`.
        """
        agent_id = self._owner(session, ask)
        if ask.idempotency_key is not None:
            if not IDEMPOTENCY_KEY.fullmatch(ask.idempotency_key):
                raise invalid_params("runs.start: idempotency_key must be 1 to 128 of A-Z a-z 0-9 . _ : -")
            self._check_name(ask.idempotency_key)
            existing = self.find(ask.idempotency_key)
            if existing is not None:
                return self._join(session, existing, agent_id)
        return self._create(session, ask, RunRef(agent_id, ask.idempotency_key or self._new_id()))

    def _owner(self, session: Session, ask: StartRun) -> str:
        if session.agent_id is not None:
            if ask.agent_id not in {None, session.agent_id}:
                raise Refusal(
                    f"this connection is bound to agent '{session.agent_id}' and may not start a run for another "
                    f"agent ('{ask.agent_id}'); leave agent_id out or use another connection"
                )
            return session.agent_id
        owner = self._default_agent or slug(ask.agent_name) if ask.agent_id is None else ask.agent_id
        if owner is None:
            raise Refusal(
                "runs.start: whose run is it? send agent_id or agent_name, or bind the connection to an agent"
            )
        return owner

    def _join(self, session: Session, run: Run, agent_id: str) -> Run:
        same_binding = not run.is_open or run.bound == (session.agent_id is not None)
        if run.ref.agent_id != agent_id or not same_binding:
            # One text for every cause: a key must not tell a stranger which runs exist.
            raise Refusal("idempotency_key cannot be used")
        if run.is_open and run.session != session.id:
            self._take_from(run)
            self._give(run, session)
        self._current[session.id] = run
        return run

    def _take_from(self, run: Run) -> None:
        if run.session is not None:
            self._started.get(run.session, {}).pop(run.ref.run_id, None)
            if self._current.get(run.session) is run:
                del self._current[run.session]

    def _give(self, run: Run, session: Session) -> None:
        run.session = session.id
        if session.agent_id == run.ref.agent_id:
            return  # it may do all of it as the owner, and stays that: a binding never changes
        started = self._started.setdefault(session.id, {})
        started[run.ref.run_id] = None
        if len(started) > MAX_STARTED:
            self._forget_oldest(started)

    def _forget_oldest(self, started: dict[str, None]) -> None:
        """The first run that has ended; none that is open, because whoever began it has to end it."""
        for run_id in started:
            if (run := self._runs.get(run_id)) is None or not run.is_open:
                del started[run_id]
                return

    def _create(self, session: Session, ask: StartRun, ref: RunRef) -> Run:
        self._check_name(ref.agent_id)
        self._admit("start", ref)
        run = Run(ref, ask.intent, self._now(), ask.outcome_description, bound=session.agent_id is not None)
        record = Started(
            run_id=ref.run_id,
            agent_id=ref.agent_id,
            intent=ask.intent,
            outcome_description=ask.outcome_description,
            started_at=run.started_at,
        )
        line = started_line(record)
        run.intent, run.outcome_description = record.intent, record.outcome_description
        self._runs[ref.run_id] = run
        self._give(run, session)
        self._absent.appeared(ref.run_id)
        self._current[session.id] = run
        self._put(run, [line], partial(self._started_durably, run), must=False, row=run.row())
        return run

    def _put(
        self,
        run: Run,
        lines: Sequence[bytes],
        durable: Callable[[], None],
        *,
        must: bool,
        row: CatalogRow | None = None,
        indexed: Callable[[], None] | None = None,
    ) -> Ticket:
        run.bytes += sum(map(len, lines)) + len(lines)
        run.ticket = self._record(run.ref, lines, durable=durable, must=must, row=row, indexed=indexed)
        return run.ticket

    def _started_durably(self, run: Run) -> None:
        run.durable_records += 1
        self._announce("run.started", run.ref, "in_progress")

    # Turns

    def record_turns(
        self, session: Session, run_id: str, bodies: Sequence[Body] | TurnTooLarge
    ) -> tuple[TurnsRecorded, Ticket | None]:
        """`runs.record_turns`, all or nothing. Without a ticket nothing was written. Raises Refusal, `Lookup`."""
        run = self.find(run_id)
        if run is None or not self._may_write(session, run):
            return _dropped(run_id, "run_not_found"), None
        if not run.is_open:
            return _dropped(run_id, "run_terminal"), None
        if isinstance(bodies, TurnTooLarge):
            return _dropped(run_id, "turn_too_large"), None
        if run.turns + len(bodies) > self._max_turns:
            return _dropped(run_id, "run_turn_limit"), None
        self._admit("turns", run.ref)
        base = run.turns
        ticket = self.append(run, bodies)
        return TurnsRecorded(run_id, base, len(bodies), ok=True), ticket

    def append(self, run: Run, bodies: Sequence[Body], *, must: bool = False) -> Ticket:
        """Gives turns their positions and hands them to the journal. The run is open.

        `must`: turns of a submit that was admitted, which no ceiling and no bound of the journal refuses.
        """
        lines = [stamped(body, run.turns + i) for i, body in enumerate(bodies)]
        run.turns += len(lines)
        for body in bodies:
            if body.tool is not None and len(run.tools) < MAX_TOOL_NAMES:
                run.tools[body.tool[:MAX_TOOL_NAME]] = None
        return self._put(run, lines, partial(self._turns_durable, run, lines), must=must)

    def _turns_durable(self, run: Run, lines: Sequence[bytes]) -> None:
        before = run.durable_turns
        run.durable_turns += len(lines)
        run.durable_records += len(lines)
        if run.watchers:
            self._publish(run, passages(run.ref, lines, before))

    def _publish(self, run: Run, told: Iterable[Passage]) -> None:
        watchers = list(run.watchers)
        for passage in told:
            # Who does not take one reads it from disk, and with it what follows.
            watchers = [watcher for watcher in watchers if watcher.offer(passage)]

    # The end

    def complete(
        self, session: Session, run_id: str, outcome: AgentOutcome, cuts: Cuts | None = None
    ) -> Ticket:
        """`runs.complete`, with an outcome that was cut to size: `cuts`. To whom it is not allowed, a run does not
        exist. Raises Refusal, `Lookup`."""
        run = self.find(run_id)
        if run is None or not self.may_read(session, run):
            raise unknown_run(run_id)
        if not run.is_open:
            raise Refusal(f"run `{run_id}` is already terminal — cannot record another outcome")
        return self._end(run, Outcome(outcome), cuts)

    def sweep(self, session_id: str, reason: IncompleteReason) -> None:
        """Ends every run that is still this connection's and still open."""
        for run in [run for run in self._runs.values() if run.session == session_id and run.is_open]:
            self._end(run, Incomplete(reason))
        self._started.pop(session_id, None)

    def end_all(self, reason: IncompleteReason) -> list[Ticket]:
        """Ends every open run: the daemon stops. Returns the promises about their ends."""
        return [self._end(run, Incomplete(reason)) for run in list(self._runs.values()) if run.is_open]

    def leave(self, session_id: str) -> None:
        """The connection is gone: nothing is current there. Its runs stay open for the grace sweep to judge."""
        self._current.pop(session_id, None)

    def _end(self, run: Run, termination: Termination, cuts: Cuts | None = None) -> Ticket:
        ended_at = self._now()
        record = Ended(
            run_id=run.ref.run_id, agent_id=run.ref.agent_id, termination=termination, ended_at=ended_at
        )
        line = ended_line(record, cuts)
        run.status, run.ended_at = status_of(termination), ended_at
        if isinstance(termination, Outcome):
            run.outcome, run.summary = termination.outcome.status, termination.outcome.summary
        if run.session is not None and self._current.get(run.session) is run:
            del self._current[run.session]
        ended = partial(self._ended_durably, run, line)
        return self._put(run, [line], ended, must=True, row=run.row(), indexed=partial(self._indexed, run))

    def _ended_durably(self, run: Run, line: bytes) -> None:
        run.durable_records += 1
        if run.watchers:
            self._publish(run, [Passage(run.ref, [line], run.durable_turns, run.status)])
        self._announce("run.ended", run.ref, run.status)

    def _indexed(self, run: Run) -> None:
        """The catalog has the end: what is known of the run can be asked there from now on."""
        self._runs.pop(run.ref.run_id, None)
        self._absent.learn(run.ref.run_id, run.row())

    # Watching

    def watch(self, run: Run, watcher: Watcher) -> None:
        """Registers a watcher at the run's durable cursor: every record that becomes durable later is offered to it.
        Of a run that has ended on disk nothing more will come."""
        if run.is_live:
            run.watchers[watcher] = None

    def unwatch(self, run: Run, watcher: Watcher) -> None:
        run.watchers.pop(watcher, None)


def _dropped(run_id: str, why: DropReason) -> TurnsRecorded:
    return TurnsRecorded(run_id, 0, 0, ok=False, dropped=why)


def unknown_run(run_id: str) -> Refusal:
    return Refusal(f"unknown run_id `{run_id}`")


def slug(agent_name: str | None) -> str | None:
    """`name:<slug>`, or `None` when nothing of the name is left (protocol `runs.md` section 2, "start")."""
    made = re.sub(r"[^a-z0-9]+", "-", (agent_name or "").lower()).strip("-")[:64].strip("-")
    return f"name:{made}" if made else None
