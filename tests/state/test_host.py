"""Agents on the screens and the event ring (`host.md` sections 1 and 2)."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import UNSET, Raw

from car_trio.state import agents as agents_module
from car_trio.wire.errors import Refusal
from car_trio.wire.host import Notify, RegisterAgent, SetStatus
from car_trio.wire.runs import RunRef
from tests.state.hosting import HOST, Stage, Watcher, bound, host, unbound


@pytest.fixture
def stage():
    return Stage()


MUTATIONS = {
    "register": lambda stage, session: stage.register(session),
    "set_status": lambda stage, session: stage.agents.set_status(
        session, SetStatus(agent_id="x", status="running")
    ),
    "unregister": lambda stage, session: stage.agents.unregister(session, "x"),
    "request an approval": lambda stage, session: stage.request(session, agent_id="x"),
    "notify": lambda stage, session: stage.host.notify(session, Notify(agent_id="x")),
}
OWNED = "agent 'x' is owned by another session"
TABLE = {
    ("register", "owner"): None,
    ("register", "other"): f"{OWNED}; unregister it from that session first",
    ("register", "vanished"): None,
    ("set_status", "owner"): None,
    ("set_status", "other"): OWNED,
    ("set_status", "vanished"): f"{OWNED}, which is gone; register it to claim it",
    ("unregister", "owner"): None,
    ("unregister", "other"): OWNED,
    ("unregister", "vanished"): f"{OWNED}, which is gone; register it to claim it",
    ("request an approval", "owner"): None,
    ("request an approval", "other"): f"host.request_approval: {OWNED}; leave agent_id out to speak for 'b'",
    (
        "request an approval",
        "vanished",
    ): f"host.request_approval: {OWNED}; leave agent_id out to speak for 'b'",
    ("notify", "owner"): None,
    ("notify", "other"): f"host.notify: {OWNED}; leave agent_id out to speak for 'b'",
    ("notify", "vanished"): f"host.notify: {OWNED}; leave agent_id out to speak for 'b'",
}


@pytest.mark.parametrize(("mutation", "who"), TABLE, ids=lambda word: word)
def test_who_may_change_an_agent(stage, mutation, who):
    owner, other = bound("a"), bound("b")
    stage.register(owner)
    if who == "vanished":
        stage.agents.leave(owner.id)
    before = stage.agents.listed(HOST)
    refusal = TABLE[mutation, who]
    if refusal is None:
        MUTATIONS[mutation](stage, owner if who == "owner" else other)
    else:
        with pytest.raises(Refusal) as caught:
            MUTATIONS[mutation](stage, other)
        assert caught.value.message == refusal
        assert stage.agents.listed(HOST) == before


@pytest.mark.parametrize("who", ["other", "vanished"])
@pytest.mark.parametrize("mutation", ["request an approval", "notify"])
def test_an_unbound_connection_may_speak_about_any_agent(stage, mutation, who):
    owner = bound("a")
    stage.register(owner)
    if who == "vanished":
        stage.agents.leave(owner.id)
    MUTATIONS[mutation](stage, unbound())
    assert stage.last()["agent_id"] == "x"


def test_a_registered_agent_shows_all_its_fields_and_is_idle(stage):
    ask = RegisterAgent(name="Ada", kind="coder", pid=7, metadata=Raw(b'{"a":1}'))
    agent = stage.agents.register(unbound("s"), ask)
    assert msgspec.to_builtins(msgspec.json.decode(msgspec.json.encode(agent))) == {
        "id": "agent-000000000001",
        "name": "Ada",
        "kind": "coder",
        "capabilities": [],
        "project": None,
        "session_id": "s",
        "status": "idle",
        "current_task": None,
        "pid": 7,
        "display": {"label": None, "icon": None, "accent": None},
        "updated_at": stage.now(),
        "metadata": {"a": 1},
    }
    assert (stage.last()["kind"], stage.last()["payload"]["name"]) == ("agent.registered", "Ada")


def test_registering_again_replaces_what_was_there(stage):
    owner = unbound()
    stage.register(owner, project="old")
    stage.agents.set_status(owner, SetStatus(agent_id="x", status="running"))
    again = stage.register(owner)
    assert (again.project, again.status) == (None, "idle")
    assert len(stage.agents.listed(HOST)) == 1


def test_an_agent_whose_owner_vanished_is_stopped_nobodys_and_whoever_claims_it_has_it(stage):
    owner, other = unbound("owner"), unbound("other")
    stage.register(owner)
    stage.register(other, "y")
    stage.agents.leave(owner.id)
    left = stage.agents.listed(HOST)[0]
    assert (left.id, left.status, left.session_id) == ("x", "stopped", None)
    assert stage.last()["payload"]["status"] == "stopped"
    assert stage.register(other).session_id == "other"
    with pytest.raises(Refusal, match="unregister it from that session first"):
        stage.register(owner)


def test_an_unknown_agent_is_called_unknown(stage):
    for change in ("set_status", "unregister"):
        with pytest.raises(Refusal, match="unknown agent 'x'"):
            MUTATIONS[change](stage, unbound())


def test_a_status_is_the_whole_of_what_an_agent_shows(stage):
    owner = unbound()
    stage.register(owner)
    ask = SetStatus(agent_id="x", status="running", current_task="t", message="m", payload=Raw(b"[1]"))
    assert stage.agents.set_status(owner, ask).current_task == "t"
    event = stage.last()
    assert (event["kind"], event["message"], event["agent_id"]) == ("agent.status_changed", "m", "x")
    assert event["payload"] == {"status": "running", "current_task": "t", "payload": [1]}
    assert stage.agents.set_status(owner, SetStatus(agent_id="x", status="idle")).current_task is None
    assert stage.last()["message"] == "x is idle"


def test_agents_are_listed_by_name_then_id_and_an_agent_sees_its_own(stage):
    mine = bound("a")
    for agent_id, name in (("3", "b"), ("2", "a"), ("1", "b")):
        stage.agents.register(
            mine if name == "a" else unbound(), RegisterAgent(id=agent_id, name=name, kind="k")
        )
    assert [agent.id for agent in stage.agents.listed(unbound())] == ["2", "1", "3"]
    assert [agent.id for agent in stage.agents.listed(mine)] == ["2"]


def test_unregistering_takes_an_agent_off_the_screens(stage):
    owner = unbound()
    stage.register(owner)
    stage.agents.unregister(owner, "x")
    assert stage.agents.listed(HOST) == []
    assert stage.kinds() == ["agent.registered", "agent.unregistered"]


def test_an_agent_waits_while_any_of_its_approvals_is_pending_and_then_shows_what_it_said_last(stage):
    owner = unbound()
    stage.register(owner)
    stage.agents.set_status(owner, SetStatus(agent_id="x", status="running"))
    first, second = stage.request(owner, agent_id="x"), stage.request(owner, agent_id="x")
    assert stage.shown() == "waiting_for_approval"
    assert stage.kinds().count("agent.status_changed") == 2
    stage.resolve(owner, first.id)
    assert stage.shown() == "waiting_for_approval"
    stage.agents.set_status(owner, SetStatus(agent_id="x", status="paused"))
    assert stage.shown() == "waiting_for_approval"
    stage.resolve(owner, second.id)
    assert stage.shown() == "paused"


def test_a_stopped_agent_does_not_wait_and_an_agent_that_comes_later_does(stage):
    asker, owner = unbound("asker"), unbound("owner")
    row = stage.request(asker, agent_id="x")
    assert stage.register(owner).status == "waiting_for_approval"
    stage.agents.leave(owner.id)
    assert stage.shown() == "stopped"
    stage.resolve(asker, row.id)
    assert stage.shown() == "stopped"


def test_of_too_many_agents_the_one_that_was_left_first_goes_and_owned_ones_never_do(stage, monkeypatch):
    monkeypatch.setattr(agents_module, "MAX_AGENTS", 2)
    for seconds, agent_id in enumerate(("y", "x")):
        stage.seconds = seconds
        stage.register(unbound(agent_id), agent_id)
    with pytest.raises(Refusal, match="2 agents with owners"):
        stage.register(unbound(), "z")
    for agent_id in ("x", "y"):
        stage.seconds += 1
        stage.agents.leave(agent_id)
    stage.register(unbound(), "z")
    assert [agent.id for agent in stage.agents.listed(HOST)] == ["y", "z"]


def test_what_an_agent_says_about_itself_is_bounded_and_must_be_readable(stage):
    owner = unbound()
    for fields, said in (
        ({"metadata": Raw(b'"%b"' % (b"x" * 70_000))}, "metadata has 70002 bytes"),
        ({"metadata": Raw(b'{"n":1e999}')}, "cannot be read back"),
        ({"project": "x" * 70_000}, "shorten what it says"),
    ):
        with pytest.raises(Refusal, match=said) as caught:
            stage.register(owner, **fields)
        assert caught.value.code == -32602
    stage.register(owner)
    for fields in (
        {"payload": Raw(b" " * 70_000)},
        {"message": "x" * 70_000},
        {"current_task": "x" * 70_000},
    ):
        with pytest.raises(Refusal, match="shorten"):
            stage.agents.set_status(owner, SetStatus(agent_id="x", status="running", **fields))
    assert stage.shown() == "idle"


# Events


def test_events_are_numbered_kept_up_to_500_and_listed_newest_first(stage):
    for n in range(510):
        stage.host.notify(unbound(), Notify(message=str(n)))
    events = stage.events.recent(HOST, 1000)
    assert [event.sequence for event in events] == list(range(510, 10, -1))
    assert len({event.id for event in events}) == 500
    assert stage.events.sequence == 510
    assert len(stage.events.recent(HOST)) == 100
    assert stage.events.recent(HOST, 0) == []
    assert len(stage.events.recent(HOST, 2**63)) == 500
    with pytest.raises(Refusal, match="limit is -1"):
        stage.events.recent(HOST, -1)


def test_a_notification_says_who_and_what_and_null_where_nothing_was_said(stage):
    ask = Notify("deploy.done", "a", "hello", Raw(b'{"n":1}'))
    event = stage.host.notify(unbound(), ask)
    assert (event.kind, event.agent_id, event.message) == ("deploy.done", "a", "hello")
    assert bytes(event.payload) == b'{"n":1}'
    empty = stage.host.notify(unbound(), Notify())
    assert (empty.kind, empty.agent_id, empty.message) == ("host.notification", None, "")
    assert bytes(empty.payload) == b"null"
    assert stage.host.notify(bound("a"), Notify(payload=UNSET)).agent_id == "a"


@pytest.mark.parametrize(
    "kind", ["approval.resolved", "run.ended", "host.gap", "store.degraded", "agent.x", "k" * 200]
)
def test_a_client_cannot_forge_an_event_of_the_daemons(stage, kind):
    with pytest.raises(Refusal, match="is not for clients"):
        stage.host.notify(host(), Notify(kind))
    assert stage.kinds() == []


def test_every_subscriber_is_offered_every_event_until_it_leaves(stage):
    first, second = Watcher(), Watcher()
    stage.events.watch("1", first)
    stage.events.watch("2", second)
    stage.host.notify(unbound(), Notify())
    stage.events.unwatch("1")
    stage.events.unwatch("nobody")
    stage.host.notify(unbound(), Notify())
    assert [event.sequence for event in first.events] == [1]
    assert [event.sequence for event in second.events] == [1, 2]
    assert (stage.events.is_watched_by("1"), stage.events.is_watched_by("2")) == (False, True)


def test_an_event_is_encoded_once_per_form(stage):
    watcher = Watcher()
    stage.events.watch("w", watcher)
    owner = unbound("owner")
    stage.request(owner, details="secret")
    event = watcher.events[0]
    assert event.frame_for(owner) is event.frame_for(host())
    assert event.frame_for(unbound("1")) is event.frame_for(unbound("2"))
    assert b"secret" in event.frame_for(owner)
    assert b"secret" not in event.frame_for(unbound("1"))


def test_news_of_runs_and_of_the_store_carry_no_content(stage):
    stage.host.run_changed("run.ended", RunRef("a", "r"), "completed")
    event = stage.last()
    assert (event["kind"], event["agent_id"]) == ("run.ended", "a")
    assert event["payload"] == {"run_id": "r", "agent_id": "a", "status": "completed"}
    stage.host.store_changed("No space left on device")
    stage.host.store_changed(None)
    assert stage.kinds()[1:] == ["store.degraded", "store.recovered"]
