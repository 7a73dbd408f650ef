"""Approvals: asked once, answered once, remembered for a day (`host.md` section 3)."""

from __future__ import annotations

import hashlib
import itertools
import math

import msgspec
import pytest
from msgspec import UNSET, Raw

from car_trio.state import approvals as approvals_module
from car_trio.state.session import Session
from car_trio.wire.errors import Refusal
from car_trio.wire.host import ApprovalLine
from tests.state.hosting import HOST, Stage, Watcher, bound, host, unbound


@pytest.fixture
def stage():
    return Stage()


def plain(row) -> dict:
    return msgspec.json.decode(msgspec.json.encode(row))


def test_a_row_has_its_fields_default_options_and_the_digest_of_what_was_sent(stage):
    owner = unbound("o")
    row = stage.request(owner, {"cmd": "rm"})
    assert plain(row) == {
        "id": "approval-000000000001",
        "agent_id": None,
        "client_id": "o",
        "action": "do it",
        "details": {"cmd": "rm"},
        "options": ["approve", "deny"],
        "status": "pending",
        "created_at": stage.now(),
        "resolved_at": None,
        "resolution": None,
        "details_sha256": hashlib.sha256(b'{"cmd":"rm"}').hexdigest(),
    }
    assert stage.last()["payload"] == plain(row)
    assert stage.kinds() == ["approval.requested"]


def test_empty_options_are_the_usual_ones_and_repeated_ones_count_once(stage):
    assert stage.request(unbound(), options=[]).options == ["approve", "deny"]
    assert stage.request(unbound(), options=["a", "b", "a"]).options == ["a", "b"]


def test_the_owner_resolves_and_the_row_is_written_with_who_when_and_what(stage):
    owner = unbound("o")
    row = stage.request(owner, "d", options=["yes", "no"])
    stage.seconds = 5
    ended, ticket = stage.resolve(owner, row.id, "yes")
    assert ticket is not None
    assert (ended.status, ended.resolution, ended.resolved_at) == ("resolved", "yes", stage.now())
    assert bytes(ended.details) == b'"d"'
    assert stage.lines == [
        {
            "record": "approval",
            "id": row.id,
            "agent_id": None,
            "client_id": "o",
            "action": "do it",
            "options": ["yes", "no"],
            "status": "resolved",
            "created_at": row.created_at,
            "resolved_at": stage.now(),
            "resolution": "yes",
            "resolved_by": "o",
            "details_sha256": row.details_sha256,
        }
    ]
    assert stage.kinds() == ["approval.requested", "approval.resolved"]


@pytest.mark.parametrize(("approved", "resolution"), [(True, "approve"), (False, "deny")])
def test_approved_is_read_as_approve_or_deny(stage, approved, resolution):
    owner = unbound()
    row = stage.request(owner)
    ended, _ = stage.resolve(owner, row.id, None, approved=approved)
    assert ended.resolution == resolution


@pytest.mark.parametrize("resolution", ["maybe", None])
def test_a_resolution_that_is_not_offered_is_refused(stage, resolution):
    row = stage.request(unbound())
    with pytest.raises(Refusal, match="expected one of: approve, deny") as caught:
        stage.resolve(unbound(), row.id, resolution)
    assert caught.value.code == -32602
    assert stage.lines == []


def test_somebody_else_asks_the_owner_who_follows_the_events(stage):
    owner, other = unbound("owner"), host("other")
    row = stage.request(owner)
    with pytest.raises(Refusal) as caught:
        stage.resolve(other, row.id)
    said = (
        f"approval '{row.id}' is owned by session 'owner' which is not currently connected to the host events"
    )
    assert caught.value.message.startswith(said)
    assert "has to follow them with host.subscribe" in caught.value.message
    stage.events.watch("owner", Watcher())
    pending, ticket = stage.resolve(other, row.id, "deny")
    assert (pending.status, ticket) == ("pending", None)
    assert stage.last()["kind"] == "approval.resolve_requested"
    assert stage.last()["payload"] == {
        "approval_id": row.id,
        "resolution": "deny",
        "requesting_client_id": "other",
        "owner_client_id": "owner",
    }
    assert stage.resolve(owner, row.id)[0].resolution == "approve"


def test_a_row_that_an_agent_owns_says_that_no_decision_reaches_it_until_it_is_over(stage):
    row = stage.request(bound("a"))
    with pytest.raises(Refusal, match="not currently connected .* asks with system_level true") as caught:
        stage.resolve(HOST, row.id)
    assert row.undecidable in caught.value.message
    stage.events.watch("of-a", Watcher())  # since before it spoke for the agent
    with pytest.raises(Refusal, match="not currently connected"):
        stage.resolve(HOST, row.id)
    assert stage.last()["payload"]["undecidable"] == row.undecidable
    stage.approvals.leave("of-a")
    assert "undecidable" not in stage.last()["payload"]
    assert [set(line) for line in stage.lines] == [{*ApprovalLine.__struct_fields__, "record"}]


@pytest.mark.parametrize("asker", [unbound(), host(), Session("o", open_house=True, agent_id="o")])
def test_a_row_of_whoever_can_follow_the_events_and_one_that_nobody_owns_can_be_decided(stage, asker):
    for fields in ({}, {"system_level": True}):
        assert stage.request(asker, **fields).undecidable is UNSET
    assert stage.request(bound("a"), system_level=True).undecidable is UNSET


def test_an_agent_learns_what_a_person_decided_also_on_a_new_connection(stage):
    asker = bound("a")
    stage.register(asker, "helper")
    asked = [
        stage.request(asker, "secret", system_level=True),
        stage.request(asker, agent_id="helper", system_level=True),
    ]
    stage.request(bound("b"), system_level=True)
    stage.request(unbound(), system_level=True)
    for row in asked:
        stage.resolve(HOST, row.id, "deny")
    seen = stage.approvals.listed(asker)
    assert [(row.id, row.resolution) for row in seen] == [(row.id, "deny") for row in reversed(asked)]
    again = Session("anew", authenticated=True, agent_id="a")
    assert [row.id for row in stage.approvals.listed(again)] == [asked[0].id]
    assert bytes(stage.approvals.listed(again)[0].details) == b"null"


OWNERLESS = {
    "host role": (host("h"), None),
    "unbound": (unbound("u"), "is decided by a host"),
    "about it, with the host role": (host("asker"), None),
    "authentication off": (Session("o", open_house=True), None),
    "about it, authentication off": (Session("asker", open_house=True), "is about this connection"),
}


@pytest.mark.parametrize("who", OWNERLESS)
@pytest.mark.parametrize("made_by", ["request", "gate"])
def test_what_nobody_owns_is_decided_by_hosts_and_never_by_itself_when_everybody_is_one(stage, who, made_by):
    asker = unbound("asker")
    if made_by == "request":
        approval_id = stage.request(asker, system_level=True).id
    else:
        approval_id = stage.gate(asker, "m", b"{}", 60, lambda _: None)
    session, refusal = OWNERLESS[who]
    if refusal is None:
        assert stage.resolve(session, approval_id)[0].status == "resolved"
    else:
        with pytest.raises(Refusal, match=refusal):
            stage.resolve(session, approval_id)
        assert stage.lines == []


def test_the_first_answer_wins_and_the_second_is_told_who_and_what(stage):
    row_id = stage.request(unbound(), system_level=True).id
    stage.resolve(host("first"), row_id, "deny")
    with pytest.raises(Refusal, match="already resolved as 'deny' by session 'first'") as caught:
        stage.resolve(host("second"), row_id)
    assert caught.value.data == {"resolution": "deny", "resolved_by": "first", "at": stage.now()}
    assert len(stage.lines) == 1


def test_an_unknown_approval_is_called_unknown(stage):
    with pytest.raises(Refusal, match="unknown approval 'x'"):
        stage.resolve(host(), "x")


def test_a_row_expires_at_its_time_and_says_so_to_whoever_comes_late(stage):
    owner = unbound()
    soon, late = stage.request(owner, timeout_secs=10), stage.request(owner, timeout_secs=20)
    forever = stage.request(owner)
    assert stage.due == 10
    stage.seconds, stage.due = 10, math.inf
    stage.approvals.expire(10)
    assert stage.due == 20
    statuses = {row.id: row.status for row in stage.approvals.listed(owner)}
    assert statuses == {forever.id: "pending", late.id: "pending", soon.id: "expired"}
    assert stage.last()["kind"] == "approval.expired"
    assert [line["status"] for line in stage.lines] == ["expired"]
    with pytest.raises(Refusal, match=f"approval '{soon.id}' expired at"):
        stage.resolve(owner, soon.id)
    stage.due = math.inf
    stage.approvals.expire(20)
    assert stage.due == math.inf


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_time_limit_must_lie_ahead(stage, timeout):
    with pytest.raises(Refusal, match="expected more than 0"):
        stage.request(unbound(), timeout_secs=timeout)


def test_a_row_that_nobody_owns_is_not_pending_for_ever(stage):
    stage.request(unbound(), system_level=True)
    assert stage.due == 24 * 3600


def test_rows_of_a_vanished_connection_expire_and_what_nobody_owns_stays(stage):
    gone, staying = unbound("gone"), unbound("staying")
    owned = stage.request(gone)
    kept = [stage.request(gone, system_level=True), stage.request(staying)]
    ended = []
    gated = stage.gate(gone, "m", b"{}", 60, ended.append)
    stage.approvals.leave("gone")
    statuses = {row.id: row.status for row in stage.approvals.listed(HOST)}
    assert statuses == {owned.id: "expired", gated: "expired", **{row.id: "pending" for row in kept}}
    assert [row.status for row in ended] == ["expired"]


def test_a_gated_call_is_a_row_with_all_its_params_that_is_told_its_end_once(stage):
    ended = []
    params = b'{ "to": "ada" }'
    approval_id = stage.gate(bound("a"), "mail.send", params, 60, ended.append)
    row = stage.approvals.listed(HOST)[0]
    assert (row.action, row.client_id, row.agent_id) == ("ws.method:mail.send", None, "a")
    assert bytes(row.details) == params
    assert row.details_sha256 == hashlib.sha256(params).hexdigest()
    stage.resolve(host(), approval_id)
    stage.approvals.withdraw(approval_id)
    assert [row.resolution for row in ended] == ["approve"]


def test_whoever_gives_up_waiting_takes_the_question_back(stage):
    ended = []
    approval_id = stage.gate(unbound(), "m", b"{}", 60, ended.append)
    stage.approvals.withdraw(approval_id)
    assert [row.status for row in ended] == ["expired"]
    with pytest.raises(Refusal, match="expired"):
        stage.resolve(host(), approval_id)


def test_an_answer_in_the_same_instant_as_the_request_is_not_missed(stage):
    class Hasty:
        def offer(self, event):
            said = msgspec.json.decode(event.frame_for(HOST))["params"]
            if said["kind"] == "approval.requested":
                stage.resolve(HOST, said["payload"]["id"], "deny")

    stage.events.watch("hasty", Hasty())
    ended = []
    stage.gate(unbound(), "m", b"{}", 60, ended.append)
    assert [row.resolution for row in ended] == ["deny"]
    assert stage.request(unbound(), system_level=True).status == "resolved"


def test_in_a_thousand_races_one_answer_wins_and_the_other_is_told_who(stage):
    hosts = [host("one"), host("two")]
    for n in range(1000):
        first, second = hosts if n % 2 else hosts[::-1]
        ended = []
        approval_id = stage.gate(unbound(), "m", b"{}", 60, ended.append)
        stage.resolve(first, approval_id, "approve" if n % 3 else "deny")
        with pytest.raises(Refusal, match=f"by session '{first.id}'"):
            stage.resolve(second, approval_id, "deny" if n % 3 else "approve")
        assert [row.resolution for row in ended] == ["approve" if n % 3 else "deny"]
    assert len(stage.lines) == 1000


# Bounds


def test_an_agent_that_comes_again_and_again_has_no_more_pending_rows_than_one_connection(stage):
    for n in range(32):
        it = bound("a")
        it.id = f"life-{n}"
        stage.request(it, system_level=True)
        stage.approvals.leave(it.id)
    with pytest.raises(Refusal, match="agent 'a' has 32 pending approvals"):
        stage.request(bound("a"))
    stage.request(bound("b"))


def test_a_connection_may_have_32_pending_rows_and_all_together_256(stage):
    mine = unbound("mine")
    rows = [stage.request(mine) for _ in range(32)]
    with pytest.raises(Refusal, match="this connection has 32 pending approvals") as caught:
        stage.request(mine)
    assert caught.value.code == -32602
    stage.resolve(mine, rows[0].id)
    stage.request(mine)
    for n in range(256 - 32):
        stage.request(unbound(f"other-{n % 8}"))
    with pytest.raises(Refusal, match="256 approvals are pending"):
        stage.request(unbound("last"))
    assert sum(row.status == "pending" for row in stage.approvals.listed(HOST)) == 256


def test_details_of_up_to_a_mebibyte_are_shown_whole_while_pending(stage):
    owner = unbound()
    row = stage.request(owner, "x" * (1024 * 1024 - 2))
    assert len(bytes(row.details)) == 1024 * 1024
    assert bytes(stage.approvals.listed(owner)[0].details) == bytes(row.details)
    assert stage.last()["payload"]["details"] is None
    ended, _ = stage.resolve(owner, row.id)
    assert bytes(ended.details) == b"null"
    assert ended.details_sha256 == row.details_sha256
    for asked in (
        lambda: stage.request(owner, "x" * (1024 * 1024 - 1)),
        lambda: gated(stage, b" " * (1024 * 1024 + 1)),
    ):
        with pytest.raises(Refusal, match="at most 1048576 are possible") as caught:
            asked()
        assert caught.value.code == -32602


def gated(stage, params: bytes) -> str:
    return stage.gate(unbound(), "m", params, 60, lambda _: None)


def test_details_that_no_reader_decodes_are_refused(stage):
    for raw in (b'{"n":1e999}', b'{"a":' * 100_000):
        with pytest.raises(Refusal, match="cannot be read back"):
            gated(stage, raw)


def test_actions_and_options_are_bounded(stage):
    for fields in ({"options": ["x" * 5000]}, {"options": [str(n) for n in range(33)]}):
        with pytest.raises(Refusal, match="at most 32 options"):
            stage.request(unbound(), **fields)
    with pytest.raises(Refusal, match="action has 5000 characters"):
        stage.approvals.request(unbound(), approvals_module.RequestApproval(action="x" * 5000))


def test_one_list_shows_so_many_bytes_of_details_and_no_more(stage, monkeypatch):
    monkeypatch.setattr(approvals_module, "LISTED_DETAILS_BYTES", 25_000)
    owner = unbound()
    for _ in range(3):
        stage.request(owner, "x" * 10_000)
    assert [len(bytes(row.details)) for row in stage.approvals.listed(owner)] == [10_002, 10_002, 4]


def test_details_are_for_the_owner_and_for_hosts(stage):
    owner = unbound("owner")
    row = stage.request(owner, "secret")
    for session, details in ((owner, "secret"), (host(), "secret"), (unbound("u"), None)):
        assert plain(stage.approvals.listed(session)[0])["details"] == details
        assert stage.last(session)["payload"]["details"] == details
        assert stage.approvals.listed(session)[0].details_sha256 == row.details_sha256
    stage.events.watch("owner", Watcher())
    assert plain(stage.resolve(unbound("u"), row.id)[0])["details"] is None


def test_an_agent_sees_its_own_rows_only(stage):
    mine = bound("a")
    row = stage.request(mine)
    stage.request(unbound())
    gated(stage, b"{}")
    assert [each.id for each in stage.approvals.listed(mine)] == [row.id]
    assert row.agent_id == "a"


# What ended


def test_ended_rows_are_kept_for_a_day_and_pending_ones_for_as_long_as_they_are(stage):
    owner = unbound()
    pending = stage.request(owner)
    ended = stage.request(owner)
    stage.resolve(owner, ended.id)
    stage.seconds = 24 * 3600
    assert len(stage.approvals.listed(owner)) == 2
    stage.seconds += 1
    assert [row.id for row in stage.approvals.listed(owner)] == [pending.id]
    with pytest.raises(Refusal, match="unknown approval"):
        stage.resolve(owner, ended.id)


@pytest.mark.parametrize("jump", [3600, -3600, 10 * 365 * 86400, -10 * 365 * 86400])
def test_a_jump_of_the_wall_clock_ends_no_row_and_forgets_none(stage, jump):
    owner = unbound()
    ended = stage.request(owner)
    stage.resolve(owner, ended.id)
    stage.request(owner, timeout_secs=60)
    stage.wrong_by = jump
    later = stage.request(owner)
    stage.resolve(owner, later.id)
    stage.wrong_by = 0.0
    stage.seconds += 59
    stage.approvals.expire(stage.seconds)
    assert sorted(row.status for row in stage.approvals.listed(owner)) == ["pending", "resolved", "resolved"]


@pytest.mark.parametrize("time", ["noon", "2026-11-20T12:00:00", None])
def test_a_row_of_an_earlier_start_that_does_not_say_when_it_ended_is_not_shown(stage, time):
    owner = unbound()
    stage.resolve(owner, stage.request(owner).id)
    line = msgspec.structs.replace(msgspec.convert(stage.lines[0], ApprovalLine), resolved_at=time)
    after = Stage()
    after.approvals.restore([line])
    assert after.approvals.listed(HOST) == []


def test_of_a_thousand_ended_rows_the_oldest_goes_first(stage):
    owner = unbound()
    first = stage.request(owner)
    ids = [stage.request(owner).id]
    stage.resolve(owner, ids[0])
    for _ in range(1000):
        ids.append(stage.request(owner).id)
        stage.resolve(owner, ids[-1])
    listed = [row.id for row in stage.approvals.listed(owner)]
    assert listed == [*reversed(ids[1:]), first.id]


def test_what_ended_before_a_start_is_known_again_without_its_details(stage):
    before = Stage()
    owner = unbound()
    for n in range(3):
        before.seconds = n
        before.resolve(owner, before.request(owner, "secret", timeout_secs=5).id)
    lines = [msgspec.convert(line, ApprovalLine) for line in before.lines]
    after = Stage()
    after.seconds = 60
    after.approvals.restore(lines)
    rows = after.approvals.listed(HOST)
    assert [row.id for row in rows] == [line.id for line in reversed(lines)]
    assert all((row.status, bytes(row.details)) == ("resolved", b"null") for row in rows)
    with pytest.raises(Refusal, match="already resolved as 'approve' by session 'screen'"):
        after.resolve(owner, lines[0].id)
    later = Stage()
    later.seconds = 24 * 3600 + 1.5
    later.approvals.restore(lines)
    assert [row.id for row in later.approvals.listed(HOST)] == [lines[2].id]


@pytest.mark.parametrize("order", list(itertools.permutations(["answer", "deadline", "leave", "withdraw"])))
def test_whatever_ends_a_row_first_ends_it_once(stage, order):
    ended = []
    asker = unbound("asker")
    approval_id = stage.gate(asker, "m", b"{}", 60, ended.append)
    ends = {
        "answer": lambda: stage.resolve(host(), approval_id),
        "deadline": lambda: stage.approvals.expire(60),
        "leave": lambda: stage.approvals.leave("asker"),
        "withdraw": lambda: stage.approvals.withdraw(approval_id),
    }
    for each in order:
        if each == "answer" and ended:
            with pytest.raises(Refusal):
                ends[each]()
        else:
            ends[each]()
    assert len(ended) == len(stage.lines) == 1
    assert ended[0].status == ("resolved" if order[0] == "answer" else "expired")
    assert Raw(b"{}") == ended[0].details
