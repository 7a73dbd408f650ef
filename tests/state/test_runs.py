"""The rules of runs (`runs.md` section 2) on a journal that the test flushes by hand."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from car_trio.state import absent
from car_trio.state import run as run_module
from car_trio.state import runs as runs_module
from car_trio.state.absent import Lookup
from car_trio.state.run import Passage, from_row, passages
from car_trio.state.runs import RunRegistry, slug
from car_trio.state.session import Session
from car_trio.state.turns import Body, TurnTooLarge, narrated
from car_trio.store.tickets import RemovalTicket
from car_trio.wire.errors import Refusal, storage_degraded
from car_trio.wire.runs import AgentOutcome, CatalogRow, NarratedTurn, RunRef, StartRun


class Ticket:
    def __init__(self) -> None:
        self.waiting: list[Callable] = []

    def then(self, settled: Callable) -> None:
        self.waiting.append(settled)


class Journal:
    """Keeps what was put until `flush`, as the real one does between two turns of the loop."""

    def __init__(self) -> None:
        self.puts: list = []
        self.lines: dict[str, list[bytes]] = {}
        self.rows: list[CatalogRow] = []
        self.told: list[Callable[[], None]] = []
        self.refuses: Refusal | None = None

    def put(self, ref, lines, *, durable, must=False, row=None, indexed=None):
        ticket = Ticket()
        self.puts.append((ref, list(lines), durable, row, indexed, ticket, must))
        return ticket

    def check(self, purpose: str, run: RunRef) -> None:
        if self.refuses:
            raise self.refuses

    def flush(self, *, index: bool = True) -> None:
        puts, self.puts = self.puts, []
        for ref, lines, durable, row, indexed, ticket, _ in puts:
            self.lines.setdefault(ref.run_id, []).extend(lines)
            durable()
            for settled in ticket.waiting:
                settled(None)
            if row is not None:
                self.rows.append(row)
            if indexed is not None:
                self.told.append(indexed)
        if index:
            self.index()

    def index(self) -> None:
        told, self.told = self.told, []
        for indexed in told:
            indexed()

    def records(self, run_id: str) -> list[dict]:
        return [json.loads(line) for line in self.lines[run_id]]


class Watching:
    """Takes so many passages."""

    def __init__(self, room: int = 1000) -> None:
        self.taken: list[Passage] = []
        self.room = room

    def offer(self, passage: Passage) -> bool:
        if len(self.taken) >= self.room:
            return False
        self.taken.append(passage)
        return True

    @property
    def messages(self) -> list[dict]:
        return [json.loads(message) for passage in self.taken for message in passage.messages()]

    @property
    def cursors(self) -> list[int]:
        return [message["params"]["cursor"] for message in self.messages]


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def registry(journal) -> RunRegistry:
    return make(journal)


def make(journal: Journal, **changes) -> RunRegistry:
    ids = iter(f"run-{n}" for n in range(1, 10_000))
    given = {
        "record": journal.put,
        "admit": journal.check,
        "check_name": check_name,
        "now": lambda: "2026-01-01T00:00:00.000000Z",
        "new_id": lambda: next(ids),
        "max_turns": 10,
    } | changes
    return RunRegistry(**given)


def check_name(name: str) -> None:
    if name.startswith("bad"):
        raise Refusal(f"bad name {name}", -32602)


def bound(agent: str, name: str | None = None) -> Session:
    return Session(name or f"s-{agent}", authenticated=True, agent_id=agent)


def unbound(name: str = "s-free") -> Session:
    return Session(name, authenticated=True)


def turns(count: int, **changes) -> list[Body]:
    return [narrated(NarratedTurn(prompt=f"p{n}", **changes), "now") for n in range(count)]


def done(status: str = "success") -> AgentOutcome:
    return AgentOutcome(status=status, timestamp="t")


# Start


def test_a_start_writes_its_record_and_makes_the_run_current(registry, journal):
    it = bound("a")
    run = registry.start(it, StartRun("do it", outcome_description="done when done"))
    journal.flush()
    assert journal.records("run-1") == [
        {
            "record": "started",
            "run_id": "run-1",
            "agent_id": "a",
            "intent": "do it",
            "outcome_description": "done when done",
            "started_at": "2026-01-01T00:00:00.000000Z",
        }
    ]
    assert registry.current(it) is run
    assert registry.open_count == 1
    assert journal.rows[0].status == "in_progress"


@pytest.mark.parametrize(
    ("session", "ask", "default", "owner"),
    [
        (bound("a"), StartRun("i"), "env", "a"),
        (bound("a"), StartRun("i", agent_id="a"), None, "a"),
        (unbound(), StartRun("i", agent_id="b"), "env", "b"),
        (unbound(), StartRun("i", agent_name="My Agent"), "env", "env"),
        (unbound(), StartRun("i", agent_name="  My Agent (2)! "), None, "name:my-agent-2"),
    ],
)
def test_the_owner_comes_from_the_first_place_that_names_one(journal, session, ask, default, owner):
    assert make(journal, default_agent=default).start(session, ask).ref.agent_id == owner


def test_a_start_that_nobody_owns_is_refused(registry):
    with pytest.raises(Refusal, match="whose run is it"):
        registry.start(unbound(), StartRun("i", agent_name="!!!"))


def test_a_slug_is_at_most_64_characters_without_a_dash_at_its_end():
    assert slug("a" * 63 + "-b") == "name:" + "a" * 63
    assert slug(None) is None


def test_a_bound_connection_may_not_start_a_run_for_another_agent(registry):
    with pytest.raises(Refusal, match="bound to agent 'a'"):
        registry.start(bound("a"), StartRun("i", agent_id="b"))


def test_a_name_that_no_file_can_have_is_refused_before_anything_is_written(registry, journal):
    for ask in (StartRun("i", agent_id="bad"), StartRun("i", agent_id="b", idempotency_key="bad")):
        with pytest.raises(Refusal, match="bad name"):
            registry.start(unbound(), ask)
    with pytest.raises(Refusal, match="bad name"):
        registry.start(unbound(), StartRun("i", agent_id="" + "bad"))
    assert journal.puts == []


def test_a_start_that_the_store_cannot_take_leaves_nothing_behind(registry, journal):
    journal.refuses = storage_degraded("full", pending=False)
    it = bound("a")
    with pytest.raises(Refusal, match="storage degraded"):
        registry.start(it, StartRun("i"))
    assert registry.current(it) is None
    assert registry.open_count == 0
    assert journal.puts == []


# Idempotency


def keyed(registry, session, key="key", agent=None):
    try:
        return registry.start(session, StartRun("i", agent_id=agent, idempotency_key=key))
    except Lookup as question:
        assert question.run_id == key
        tell(registry, key, None)
        return registry.start(session, StartRun("i", agent_id=agent, idempotency_key=key))


def tell(registry, run_id, row):
    """What the catalog says."""
    assert registry.ask(run_id) is None
    registry.answer(run_id, row)


def test_fifty_starts_with_one_key_make_one_run(registry, journal):
    it = bound("a")
    assert {keyed(registry, it).ref.run_id for _ in range(50)} == {"key"}
    journal.flush()
    assert len(journal.records("key")) == 1


@pytest.mark.parametrize("key", ["", "with space", "x" * 129, "slash/", "ünï"])
def test_a_key_of_a_wrong_form_is_refused(registry, key):
    with pytest.raises(Refusal, match="idempotency_key must be") as caught:
        registry.start(bound("a"), StartRun("i", idempotency_key=key))
    assert caught.value.code == -32602


def test_a_repeated_start_on_a_new_connection_takes_the_run_from_the_old_one(registry, journal):
    old, new = unbound("old"), unbound("new")
    run = keyed(registry, old, agent="a")
    assert keyed(registry, new, agent="a") is run
    assert registry.current(old) is None
    assert registry.current(new) is run
    assert registry.readable(old, "key") is None
    assert registry.readable(new, "key") is run
    registry.sweep("old", "disconnected")
    assert run.is_open
    registry.sweep("new", "disconnected")
    assert run.status == "incomplete"


def test_a_repointed_run_leaves_the_old_connections_newer_run_alone(registry):
    old, new = unbound("old"), unbound("new")
    keyed(registry, old, "first", agent="a")
    second = keyed(registry, old, "second", agent="a")
    keyed(registry, new, "first", agent="a")
    assert registry.current(old) is second


@pytest.mark.parametrize(
    ("first", "second", "agent"),
    [
        (bound("a"), unbound(), "a"),
        (unbound(), bound("a"), None),
        (bound("a"), bound("b"), None),
        (unbound("x"), unbound("y"), "b"),
    ],
)
def test_a_key_of_another_binding_or_agent_is_refused_in_one_text(registry, first, second, agent):
    keyed(registry, first, agent=None if first.agent_id else "a")
    with pytest.raises(Refusal, match="^idempotency_key cannot be used$"):
        keyed(registry, second, agent=agent)


def test_a_run_that_has_ended_is_found_again_by_its_key_and_stays_ended(registry, journal):
    it = bound("a")
    run = keyed(registry, it)
    registry.complete(it, "key", done())
    journal.flush()
    again = keyed(registry, it)
    assert again.ref == run.ref
    assert registry.current(it) is None


# Turns


def test_turns_get_their_positions_whatever_was_sent(registry, journal):
    it = bound("a")
    registry.start(it, StartRun("i"))
    first, _ = registry.record_turns(it, "run-1", turns(2))
    second, _ = registry.record_turns(it, "run-1", turns(3))
    assert (first.base_index, first.count, second.base_index, second.count) == (0, 2, 2, 3)
    journal.flush()
    assert [record.get("index") for record in journal.records("run-1")] == [None, 0, 1, 2, 3, 4]


def test_nobody_but_the_owner_may_write_and_a_foreign_run_answers_like_an_unknown_one(registry):
    owner = bound("a")
    registry.start(owner, StartRun("i"))
    tell(registry, "nothing", None)
    host = Session("h", authenticated=True, host=True)
    for stranger in (bound("b"), unbound(), host):
        for bodies in (turns(1), turns(11), TurnTooLarge()):
            foreign, _ = registry.record_turns(stranger, "run-1", bodies)
            unknown, _ = registry.record_turns(stranger, "nothing", bodies)
            assert foreign.dropped == unknown.dropped == "run_not_found"
            assert (foreign.ok, foreign.base_index, foreign.count) == (False, 0, 0)


def test_an_unbound_starter_may_write_only_with_authentication_off(registry):
    strict, open_house = unbound("strict"), Session("open", open_house=True)
    registry.start(strict, StartRun("i", agent_id="a"))
    registry.start(open_house, StartRun("i", agent_id="a"))
    assert registry.record_turns(strict, "run-1", turns(1))[0].dropped == "run_not_found"
    assert registry.record_turns(open_house, "run-2", turns(1))[0].ok
    assert registry.record_turns(open_house, "run-1", turns(1))[0].dropped == "run_not_found"


def test_a_batch_that_would_pass_the_ceiling_is_refused_whole(registry, journal):
    it = bound("a")
    registry.start(it, StartRun("i"))
    assert registry.record_turns(it, "run-1", turns(9))[0].ok
    assert registry.record_turns(it, "run-1", turns(2))[0].dropped == "run_turn_limit"
    assert registry.record_turns(it, "run-1", turns(1))[0].ok
    journal.flush()
    assert len(journal.records("run-1")) == 11


def test_turns_after_the_end_and_turns_too_large_are_told_apart(registry):
    it = bound("a")
    registry.start(it, StartRun("i"))
    assert registry.record_turns(it, "run-1", TurnTooLarge())[0].dropped == "turn_too_large"
    registry.complete(it, "run-1", done())
    assert registry.record_turns(it, "run-1", TurnTooLarge())[0].dropped == "run_terminal"


def test_a_degraded_store_refuses_turns_and_nothing_of_them_counts(registry, journal):
    it = bound("a")
    run = registry.start(it, StartRun("i"))
    journal.refuses = storage_degraded("full", pending=False)
    with pytest.raises(Refusal, match="storage degraded"):
        registry.record_turns(it, "run-1", turns(1))
    assert run.turns == 0


def test_what_was_executed_is_recorded_past_the_ceiling(registry, journal):
    run = registry.start(bound("a"), StartRun("i"))
    registry.append(run, turns(25, tool="t"), must=True)
    assert run.turns == 25
    assert journal.puts[-1][-1] is True


def test_a_run_remembers_a_bounded_number_of_tool_names(registry, monkeypatch):
    monkeypatch.setattr(runs_module, "MAX_TOOL_NAMES", 2)
    run = registry.start(bound("a"), StartRun("i"))
    for name in ("x", "y", "x", "z"):
        registry.append(run, turns(1, tool=name))
    assert list(run.tools) == ["x", "y"]


# The end


def test_a_complete_is_the_last_line_and_leaves_no_current_run(registry, journal):
    it = bound("a")
    run = registry.start(it, StartRun("i"))
    registry.complete(it, "run-1", AgentOutcome(status="failure", summary="sad", timestamp="t"))
    assert registry.current(it) is None
    journal.flush()
    end = journal.records("run-1")[-1]
    assert end["termination"]["outcome"]["status"] == "failure"
    assert (run.status, run.outcome, run.summary) == ("completed", "failure", "sad")
    assert (journal.rows[-1].status, journal.rows[-1].outcome) == ("completed", "failure")


def test_owner_starter_and_host_may_complete_and_for_others_the_run_does_not_exist(registry):
    host = Session("h", authenticated=True, host=True)
    starter = unbound("starter")
    for allowed in (starter, bound("a"), host):
        run = registry.start(starter, StartRun("i", agent_id="a"))
        for stranger in (bound("b"), unbound("other")):
            with pytest.raises(Refusal, match=f"^unknown run_id `{run.ref.run_id}`$"):
                registry.complete(stranger, run.ref.run_id, done())
        registry.complete(allowed, run.ref.run_id, done())
        with pytest.raises(Refusal, match="is already terminal — cannot record another outcome"):
            registry.complete(allowed, run.ref.run_id, done())


def test_an_unknown_run_cannot_be_completed(registry):
    with pytest.raises(Lookup):
        registry.complete(bound("a"), "nothing", done())
    tell(registry, "nothing", None)
    with pytest.raises(Refusal, match="unknown run_id `nothing`"):
        registry.complete(bound("a"), "nothing", done())


def test_a_sweep_ends_every_open_run_of_the_connection_and_no_other(registry, journal):
    mine, other = unbound("mine"), unbound("other")
    first = registry.start(mine, StartRun("i", agent_id="a"))
    second = registry.start(mine, StartRun("i", agent_id="b"))
    third = registry.start(mine, StartRun("i", agent_id="b"))
    foreign = registry.start(other, StartRun("i", agent_id="a"))
    registry.complete(mine, first.ref.run_id, done())
    registry.leave("mine")
    registry.sweep("mine", "disconnected")
    assert [run.status for run in (first, second, third, foreign)] == [
        "completed",
        "incomplete",
        "incomplete",
        "in_progress",
    ]
    journal.flush()
    assert journal.records(second.ref.run_id)[-1]["termination"] == {
        "kind": "incomplete",
        "reason": "disconnected",
    }


def test_nothing_is_current_on_a_connection_that_has_left(registry):
    it = bound("a")
    run = registry.start(it, StartRun("i"))
    registry.leave(it.id)
    registry.leave(it.id)
    assert registry.current(it) is None
    assert run.is_open


def test_stopping_ends_what_is_open(registry, journal):
    run = registry.start(bound("a"), StartRun("i"))
    assert registry.end_all("shutdown") == [run.ticket]
    assert registry.end_all("shutdown") == []
    journal.flush()
    assert journal.records(run.ref.run_id)[-1]["termination"]["reason"] == "shutdown"


def test_a_run_stays_in_memory_until_the_catalog_has_its_end(registry, journal):
    it = bound("a")
    registry.start(it, StartRun("i"))
    registry.complete(it, "run-1", done())
    journal.flush(index=False)
    assert [row.status for row in registry.in_memory("a")] == ["completed"]
    assert registry.in_memory("b") == []
    journal.index()
    assert registry.in_memory() == []
    assert registry.find("run-1").status == "completed"


def test_a_list_shows_what_is_durable_and_neither_turns_nor_an_end_on_their_way(registry, journal):
    it = bound("a")
    registry.start(it, StartRun("i"))
    assert registry.in_memory("a") == []
    journal.flush()
    registry.record_turns(it, "run-1", turns(2))
    registry.complete(it, "run-1", done())
    (row,) = registry.in_memory("a")
    assert (row.status, row.ended_at, row.outcome, row.summary) == ("in_progress", None, None, "")
    assert row.turn_count == 0
    journal.flush(index=False)
    (row,) = registry.in_memory("a")
    assert (row.status, row.ended_at, row.outcome) == ("completed", "2026-01-01T00:00:00.000000Z", "success")
    assert row.turn_count == 2


def test_an_open_run_that_only_the_catalog_knows_is_joined_and_taken_from_nobody(registry):
    row = CatalogRow(run_id="k", agent_id="a", intent="i", started_at="t", status="in_progress", turn_count=0)
    tell(registry, "k", row)
    joined = registry.start(unbound("s"), StartRun("i", agent_id="a", idempotency_key="k"))
    assert (joined.ref.run_id, joined.session) == ("k", "s")


# Reading and looking up


def test_what_the_catalog_said_is_remembered_up_to_a_bound(registry, monkeypatch):
    monkeypatch.setattr(absent, "MAX_REMEMBERED", 2)
    row = CatalogRow(run_id="r1", agent_id="a", intent="i", started_at="t", status="completed", turn_count=3)
    tell(registry, "r1", row)
    tell(registry, "r2", None)
    assert registry.find("r1").turns == 3
    assert registry.find("r2") is None
    tell(registry, "r3", None)
    with pytest.raises(Lookup):
        registry.find("r1")


def test_of_very_many_runs_the_starter_may_read_the_newest_and_all_that_are_open(
    registry, journal, monkeypatch
):
    monkeypatch.setattr(runs_module, "MAX_STARTED", 3)
    starter = unbound()
    for _ in range(5):
        registry.start(starter, StartRun("i", agent_id="a"))
    assert all(registry.readable(starter, f"run-{n}") for n in range(1, 6))
    for n in (2, 3):
        registry.complete(starter, f"run-{n}", done())
    registry.start(starter, StartRun("i", agent_id="a"))
    assert registry.readable(starter, "run-2") is None
    assert registry.readable(starter, "run-3") is not None
    journal.flush()
    registry.start(starter, StartRun("i", agent_id="a"))
    assert registry.readable(starter, "run-3") is None
    assert registry.readable(bound("a"), "run-3") is not None
    assert all(registry.readable(starter, f"run-{n}") for n in (1, 4, 5, 6, 7))


def test_a_bound_connection_costs_nothing_for_each_run_that_it_has_ended(registry, journal):
    owner = bound("a")
    for n in range(1, 50):
        registry.start(owner, StartRun("i"))
        registry.complete(owner, f"run-{n}", done())
        journal.flush()
    assert not registry._started
    assert registry.readable(owner, "run-1") is not None


# Removing

ROW = CatalogRow(run_id="r1", agent_id="a", intent="i", started_at="t", status="completed", turn_count=3)


def no_removal():
    raise AssertionError("nothing is to be removed")


@pytest.mark.parametrize("is_known", [True, False])
def test_a_run_that_is_being_removed_is_neither_there_nor_gone(registry, is_known):
    if is_known:
        tell(registry, "r1", ROW)
    removal = registry.removal(ROW, RemovalTicket)
    with pytest.raises(Lookup):
        registry.find("r1")
    assert registry.ask("r1") is removal
    assert registry.removal(ROW, no_removal) is None
    removal.settle(None)
    assert registry.find("r1") is None
    assert registry.removal(ROW, no_removal) is None


def test_a_removal_that_was_refused_can_be_asked_for_again(registry):
    tell(registry, "r1", ROW)
    registry.removal(ROW, RemovalTicket).settle(Refusal("the disk fails"))
    assert registry.find("r1").turns == 3
    assert registry.removal(ROW, RemovalTicket) is not None


def test_a_run_that_has_the_id_of_one_that_was_to_be_removed_stays(registry, journal):
    owner = bound("a")
    run = keyed(registry, owner, "r1")
    assert registry.removal(ROW, no_removal) is None
    registry.complete(owner, "r1", done())
    journal.flush(index=False)
    assert registry.removal(ROW, no_removal) is None
    journal.index()
    assert registry.removal(ROW, no_removal) is None
    assert registry.removal(run.row(), RemovalTicket) is not None


def test_what_the_catalog_said_before_a_removal_is_not_believed_after_it(registry):
    assert registry.ask("r1") is None
    registry.removal(ROW, RemovalTicket).settle(None)
    registry.answer("r1", ROW)
    assert registry.find("r1") is None


def test_an_answer_that_nobody_waits_for_is_not_believed(registry):
    registry.ask("r1")
    registry.give_up("r1")
    registry.answer("r1", ROW)
    with pytest.raises(Lookup):
        registry.find("r1")


def test_what_the_catalog_said_before_a_start_is_not_believed_after_its_end(registry, journal):
    owner = bound("a")
    keyed(registry, owner, "r1")
    registry.ask("r1")
    registry.complete(owner, "r1", done())
    journal.flush()
    registry.answer("r1", None)
    assert registry.find("r1").status == "completed"


def test_reading_needs_the_owner_the_starter_or_the_host(registry):
    starter = unbound("starter")
    run = registry.start(starter, StartRun("i", agent_id="a"))
    for reader in (starter, bound("a"), Session("h", host=True), Session("o", open_house=True)):
        assert registry.readable(reader, "run-1") is run
    for stranger in (bound("b"), unbound("other")):
        assert registry.readable(stranger, "run-1") is None


def test_a_starter_may_read_after_the_end_but_not_after_it_left(registry, journal):
    starter = unbound("starter")
    registry.start(starter, StartRun("i", agent_id="a"))
    registry.complete(starter, "run-1", done())
    journal.flush()
    assert registry.readable(starter, "run-1") is not None
    registry.sweep("starter", "disconnected")
    assert registry.readable(starter, "run-1") is None


def test_who_started_a_run_has_no_right_to_a_later_one_of_its_id(registry, journal):
    starter = unbound("starter")
    keyed(registry, starter, "r1", agent="a")
    registry.complete(starter, "r1", done())
    journal.flush()
    row = journal.rows[-1]
    registry.removal(row, RemovalTicket).settle(None)
    keyed(registry, bound("b"), "r1")
    assert registry.readable(starter, "r1") is None
    with pytest.raises(Refusal, match="unknown run_id"):
        registry.complete(starter, "r1", done())
    open_house = unbound("starter")
    open_house.open_house = True
    assert registry.record_turns(open_house, "r1", turns(1))[0].dropped == "run_not_found"


# Watching


def watched(registry, journal, *watching):
    """A run of agent `a` that these follow from its start."""
    run = registry.start(bound("a"), StartRun("i"))
    journal.flush()
    for each in watching:
        registry.watch(run, each)
    return run


def test_watchers_see_what_is_durable_and_nothing_before(registry, journal):
    watching = Watching()
    run = watched(registry, journal, watching)
    registry.record_turns(bound("a"), "run-1", turns(2))
    assert watching.taken == []
    journal.flush()
    assert watching.cursors == [1, 2]
    registry.record_turns(bound("a"), "run-1", turns(1))
    journal.flush()
    assert watching.cursors == [1, 2, 3]
    registry.complete(bound("a"), "run-1", done())
    assert not run.ended_durably
    journal.flush()
    assert run.ended_durably
    shown = [(each["params"]["cursor"], each["params"]["status"]) for each in watching.messages]
    assert shown == [*((cursor, "in_progress") for cursor in (1, 2, 3)), (3, "completed")]
    assert [line for passage in watching.taken for line in passage.records] == journal.lines["run-1"][1:]


def test_an_event_holds_the_line_of_the_file_and_says_where_it_stands(registry, journal):
    watching = Watching()
    watched(registry, journal, watching)
    registry.record_turns(bound("a"), "run-1", turns(1))
    journal.flush()
    (message,) = watching.taken[0].messages()
    assert journal.lines["run-1"][1] in message
    event = json.loads(message)
    assert event["method"] == "runs.trace.event"
    assert {key: event["params"][key] for key in ("run_id", "agent_id", "cursor", "status")} == {
        "run_id": "run-1",
        "agent_id": "a",
        "cursor": 1,
        "status": "in_progress",
    }


def test_what_is_recorded_at_once_is_packed_once_for_all_who_watch(registry, journal):
    watching = [Watching(), Watching()]
    watched(registry, journal, *watching)
    registry.record_turns(bound("a"), "run-1", turns(3))
    journal.flush()
    first, second = ([passage.packed(b"".join) for passage in each.taken] for each in watching)
    assert len(first) == 1
    assert first[0] is second[0]
    assert first[0] == b"".join(watching[0].taken[0].messages())


def test_many_turns_are_passages_of_a_bounded_size_and_a_larger_turn_is_one_alone(monkeypatch):
    monkeypatch.setattr(run_module, "PASSAGE_BYTES", 10)
    lines = [b"1111", b"22222", b"3", b"44", b"5" * 30, b"6"]
    split = list(passages(RunRef("a", "r"), lines, 7))
    assert [passage.records for passage in split] == [lines[0:3], lines[3:4], lines[4:5], lines[5:6]]
    assert [passage.cursor for passage in split] == [10, 11, 12, 13]
    cursors = [json.loads(message)["params"]["cursor"] for passage in split for message in passage.messages()]
    assert cursors == [8, 9, 10, 11, 12, 13]
    assert list(passages(RunRef("a", "r"), [], 7)) == []


def test_a_watcher_without_room_gets_no_later_passage_of_what_was_recorded(registry, journal, monkeypatch):
    monkeypatch.setattr(run_module, "PASSAGE_BYTES", 1)
    slow, quick = Watching(room=1), Watching()
    watched(registry, journal, slow, quick)
    registry.record_turns(bound("a"), "run-1", turns(1))
    journal.flush()
    slow.room = 2
    registry.record_turns(bound("a"), "run-1", turns(3))
    offered: list[int] = []
    plain = slow.offer
    slow.offer = lambda passage: offered.append(passage.cursor) or plain(passage)
    journal.flush()
    assert (slow.cursors, quick.cursors) == ([1, 2], [1, 2, 3, 4])
    assert offered == [2, 3]


def test_a_watcher_that_left_hears_nothing(registry, journal):
    it = bound("a")
    run = registry.start(it, StartRun("i"))
    watching = Watching()
    registry.watch(run, watching)
    registry.unwatch(run, watching)
    registry.unwatch(run, watching)
    registry.record_turns(it, "run-1", turns(1))
    registry.complete(it, "run-1", done())
    journal.flush()
    assert watching.taken == []


def test_a_run_that_ended_on_disk_takes_no_watcher():
    row = CatalogRow(run_id="r", agent_id="a", intent="i", started_at="t", status="completed", turn_count=2)
    run = from_row(row)
    make(Journal()).watch(run, Watching())
    assert run.watchers == {}
    assert run.ended_durably
    assert run.durable_status == "completed"
    assert run.durable_turns == 2
