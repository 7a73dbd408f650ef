"""Hosts against a daemon in memory: snapshots, events, approvals on disk, and what a disconnect leaves (`host.md`)."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace

import pytest
import trio
from trio.testing import lockstep_stream_pair, wait_all_tasks_blocked

from car_trio.nursery import outbound, storage
from car_trio.nursery.duties import grace_sweep
from car_trio.nursery.outbound import Outbound
from car_trio.store.disk import Disk
from tests.peer import HOST_TOKEN, TOKEN, Peer, Refused, open_house

pytestmark = pytest.mark.usefixtures("inline_threads")

FOR_HOSTS = {
    "host.events": {},
    "host.subscribe": {},
    "host.resolve_approval": {"approval_id": "x", "resolution": "approve"},
    "agents.chat": {"agent_id": "a", "prompt": "p"},
    "agents.chat.cancel": {"session_id": "c"},
    "agents.chat.approve": {"session_id": "c", "approval_id": "a", "decision": "approve"},
}


def agent(name: str = "x") -> dict:
    return {"id": name, "name": name, "kind": "test"}


async def events_of(peer: Peer, count: int) -> list[dict]:
    return [await peer.notification("host.event") for _ in range(count)]


@pytest.mark.parametrize("method", FOR_HOSTS)
async def test_an_agents_connection_is_told_what_is_for_hosts(tmp_path, autojump_clock, method):
    async with open_house(tmp_path) as house:
        peer = await house.peer("alice")
        with pytest.raises(Refused, match=f"^'{method}' is for hosts") as caught:
            await peer.call(method, FOR_HOSTS[method])
        assert caught.value.code == -32603


async def test_an_agent_registers_reports_notifies_asks_and_sees_what_is_its_own(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        alice, screen = await house.peer("alice"), await house.peer()
        await screen.call("host.register_agent", agent("other"))
        await screen.call("host.request_approval", {"action": "other"})
        assert (await alice.call("host.register_agent", agent()))["status"] == "idle"
        assert (await alice.call("host.set_status", {"agent_id": "x", "status": "running"}))[
            "status"
        ] == "running"
        assert (await alice.call("host.notify", {"message": "hello"}))["agent_id"] == "alice"
        row = await alice.call("host.request_approval", {"agent_id": "x", "action": "go"})
        assert [each["id"] for each in await alice.call("host.agents")] == ["x"]
        assert [each["id"] for each in (await alice.call("host.approvals"))["approvals"]] == [row["id"]]
        assert (
            len(await screen.call("host.agents"))
            == len((await screen.call("host.approvals"))["approvals"])
            == 2
        )
        assert await alice.call("host.unregister_agent", {"agent_id": "x"}) == {"ok": True}
        kinds = [event["kind"] for event in (await screen.call("host.events", {"limit": 6}))["events"]]
        assert kinds == [
            "agent.unregistered",
            "approval.requested",
            "agent.status_changed",
            "host.notification",
            "agent.status_changed",
            "agent.registered",
        ]


async def test_a_subscription_begins_with_a_snapshot_and_misses_nothing_after_it(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        host, source = await house.peer(host=True), await house.peer()
        await source.call("host.register_agent", agent())
        snapshot = await host.call("host.subscribe")
        identity = snapshot["identity"]
        assert identity["boot_id"] == house.daemon.boot_id
        assert (identity["manifest_path"], identity["manifest_role"]) == (None, "none")
        assert snapshot["subscribed"] is True
        assert [each["id"] for each in snapshot["agents"]] == ["x"]
        assert snapshot["approvals"] == []
        assert snapshot["event_sequence"] == snapshot["events"][0]["sequence"] == 1
        await source.call("host.notify", {"message": "one"})
        await source.call("host.notify", {"message": "two"})
        events = await events_of(host, 2)
        assert [(event["sequence"], event["message"]) for event in events] == [(2, "one"), (3, "two")]
        assert set(events[0]) == {"id", "sequence", "timestamp", "kind", "agent_id", "message", "payload"}


async def test_events_around_a_subscription_are_in_the_snapshot_or_pushed_and_never_both(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        source = await house.peer()
        for _ in range(50):
            host = await house.peer(host=True)
            for _ in range(2):
                await source.request("host.notify")
            asked = await host.request("host.subscribe")
            await source.request("host.notify")
            snapshot = await host.reply(asked)
            await wait_all_tasks_blocked()
            await source.call("host.notify", {"message": "last"})
            seen = [snapshot["event_sequence"]]
            while (event := await host.notification("host.event"))["message"] != "last":
                seen.append(event["sequence"])
            assert [*seen, event["sequence"]] == list(range(seen[0], event["sequence"] + 1))
            await host.drop()


async def test_subscribing_again_takes_the_place_of_the_older_subscription(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        host = await house.peer(host=True)
        await host.call("host.subscribe")
        await host.call("host.subscribe")
        await host.call("host.notify", {"message": "once"})
        await host.call("host.notify", {"message": "end"})
        assert [event["message"] for event in await events_of(host, 2)] == ["once", "end"]


async def test_a_subscriber_that_becomes_an_agent_sees_nothing_more(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer, source = await house.peer(), await house.peer()
        await peer.call("host.subscribe")
        await source.call("host.notify", {"message": "seen"})
        assert (await peer.notification("host.event"))["message"] == "seen"
        await peer.call("session.auth", {"token": TOKEN, "agent_id": "alice"})
        await source.call("host.notify", {"message": "unseen"})
        with trio.move_on_after(60) as waited:
            await peer.notification("host.event")
        assert waited.cancelled_caught


async def wedged_host(house) -> Peer:
    """A host that subscribes and then never reads: its stream takes a send only when somebody receives it."""
    ours, theirs = lockstep_stream_pair()
    house.doors.welcome(theirs, False)
    peer = Peer(ours)
    await peer.open()
    await peer.call("session.auth", {"token": TOKEN, "host_token": HOST_TOKEN})
    await peer.call("host.subscribe")
    return peer


async def test_a_wedged_host_delays_nobody_and_is_cut_after_thirty_seconds(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        await wedged_host(house)
        host, source = await house.peer(host=True), await house.peer()
        await host.call("host.subscribe")
        began = trio.current_time()
        for n in range(1000):
            await source.call("host.notify", {"message": str(n), "payload": "x" * 4000})
            assert (await host.notification("host.event"))["message"] == str(n)
        assert trio.current_time() == began
        wedged, _ = house.daemon.host.events._watchers.values()
        assert wedged._receive.statistics().current_buffer_used <= 500
        assert len(house.daemon.clients) == 3
        await trio.sleep(31)
        assert len(house.daemon.clients) == 2
        assert len(house.daemon.host.events._watchers) == 1


async def test_events_that_gathered_reach_a_host_together_and_in_order(tmp_path, autojump_clock, monkeypatch):
    async with open_house(tmp_path) as house:
        host = await house.peer(host=True)
        await host.call("host.subscribe")
        await wait_all_tasks_blocked()
        waits: list[int] = []
        drained = Outbound.drained
        monkeypatch.setattr(Outbound, "drained", lambda out: waits.append(1) or drained(out))
        for n in range(20):
            house.daemon.host.events.publish("told", str(n))
        for n in range(20):
            assert (await host.notification("host.event"))["message"] == str(n)
        assert len(waits) == 1


async def test_of_many_large_events_a_host_is_handed_no_more_than_it_has_room_for(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        host = await house.peer(host=True, lockstep=True)
        await host.call("host.subscribe")
        await wait_all_tasks_blocked()
        for n in range(60):
            house.daemon.host.events.publish("told", str(n) + "x" * 60_000)
        await wait_all_tasks_blocked()
        assert house.connections[0]._out._bytes <= outbound.SOFT_LIMIT + 61_000
        for n in range(60):
            assert (await host.notification("host.event"))["message"].rstrip("x") == str(n)


async def test_a_host_that_was_too_slow_is_told_its_gap_and_goes_on(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        slow = await wedged_host(house)
        source = await house.peer()
        for _ in range(1500):
            await source.call("host.notify", {"payload": "x" * 2000})
        seen = 0
        while True:
            event = await slow.notification("host.event")
            if event["kind"] == "host.gap":
                break
            seen += 1
            assert event["sequence"] == seen
        assert event == {"kind": "host.gap", "payload": {"from": seen + 1, "to": 1500}}
        await source.call("host.notify", {"message": "after"})
        after = await slow.notification("host.event")
        assert (after["sequence"], after["message"]) == (1501, "after")


# Approvals


async def test_an_owner_that_follows_is_asked_and_resolves(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        owner, other = await house.peer(), await house.peer(host=True)
        row = await owner.call("host.request_approval", {"action": "go", "details": {"n": 1}})
        with pytest.raises(Refused, match="which is not currently connected"):
            await other.call("host.resolve_approval", {"approval_id": row["id"], "resolution": "approve"})
        await owner.call("host.subscribe")
        answer = await other.call("host.resolve_approval", {"approval_id": row["id"], "approved": True})
        assert answer["status"] == "pending"
        asked = await owner.notification("host.event")
        assert asked["kind"] == "approval.resolve_requested"
        payload = asked["payload"]
        answer = await owner.call(
            "host.resolve_approval", {k: payload[k] for k in ("approval_id", "resolution")}
        )
        assert (answer["status"], answer["resolution"]) == ("resolved", "approve")


async def test_ended_approvals_are_on_disk_when_the_answer_says_so_and_known_after_a_restart(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        ids = [(await peer.call("host.request_approval", {"action": f"go {n}"}))["id"] for n in range(3)]
        await peer.call("host.resolve_approval", {"approval_id": ids[0], "resolution": "deny"})
        lines = (tmp_path / "approvals.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == [ids[0]]
    async with open_house(tmp_path) as house:
        host = await house.peer(host=True)
        rows = (await host.call("host.approvals"))["approvals"]
        assert {row["id"]: (row["status"], row["resolution"]) for row in rows} == {
            ids[0]: ("resolved", "deny"),
            ids[1]: ("expired", None),
            ids[2]: ("expired", None),
        }
        with pytest.raises(Refused, match="already resolved as 'deny'"):
            await host.call("host.resolve_approval", {"approval_id": ids[0], "resolution": "approve"})


async def test_approvals_that_cannot_be_read_are_forgotten_and_the_daemon_serves(
    tmp_path, autojump_clock, caplog, monkeypatch
):
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(storage, "newest", broken)
    async with open_house(tmp_path) as house:
        host = await house.peer(host=True)
        assert (await host.call("host.approvals"))["approvals"] == []
    assert "approvals.jsonl" in caplog.text


async def test_a_row_expires_by_itself_at_its_time(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        await peer.call("host.subscribe")
        for seconds in (50, 20, 30):
            await peer.call("host.request_approval", {"action": f"{seconds}", "timeout_secs": seconds})
        began = trio.current_time()
        ended = []
        while len(ended) < 3:
            event = await peer.notification("host.event")
            if event["kind"] == "approval.expired":
                ended.append((event["payload"]["action"], round(trio.current_time() - began)))
        assert ended == [("20", 20), ("30", 30), ("50", 50)]


# Runs and the store


async def test_runs_tell_hosts_that_they_began_ended_and_were_removed_and_nothing_of_what_they_say(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        host, alice = await house.peer(host=True), await house.peer("alice")
        await host.call("host.subscribe")
        run_id = (await alice.call("runs.start", {"intent": "secret"}))["run_id"]
        outcome = {"status": "success", "summary": "secret"}
        await alice.call("runs.complete", {"run_id": run_id, "outcome": outcome})
        await wait_all_tasks_blocked()
        await host.call("runs.remove", {"run_ids": [run_id]})
        events = await events_of(host, 3)
        assert [(event["kind"], event["payload"]["status"]) for event in events] == [
            ("run.started", "in_progress"),
            ("run.ended", "completed"),
            ("run.removed", "completed"),
        ]
        assert all(event["agent_id"] == event["payload"]["agent_id"] == "alice" for event in events)
        assert all(set(event["payload"]) == {"run_id", "agent_id", "status"} for event in events)
        assert "secret" not in json.dumps(events)


class FullDisk(Disk):
    """The real disk, until it is full."""

    is_full = False

    def write(self, descriptor: int, payload: bytes) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(descriptor, payload)


async def test_hosts_are_told_that_the_store_is_degraded_and_that_it_recovered(tmp_path, autojump_clock):
    disk = FullDisk()
    async with open_house(tmp_path, disk=disk) as house:
        host, alice = await house.peer(host=True), await house.peer("alice")
        await host.call("host.subscribe")
        disk.is_full = True
        starting = await alice.request("runs.start", {"intent": "x"})
        degraded = await host.notification("host.event")
        assert degraded["kind"] == "store.degraded"
        assert "No space left" in degraded["payload"]["cause"]
        disk.is_full = False
        run_id = (await alice.reply(starting))["run_id"]
        events = {event["kind"]: event["payload"] for event in await events_of(host, 2)}
        assert events["store.recovered"] == {"cause": None}
        assert events["run.started"]["run_id"] == run_id


# The end of a connection


async def test_a_vanished_connection_leaves_stopped_agents_expired_rows_and_no_subscription(
    tmp_path, autojump_clock
):
    async with open_house(tmp_path) as house:
        owner, host = await house.peer(), await house.peer(host=True)
        await owner.call("host.register_agent", agent())
        await owner.call("host.subscribe")
        row = await owner.call("host.request_approval", {"agent_id": "x", "action": "go"})
        await host.call("host.subscribe")
        await owner.drop()
        kinds = [(event["kind"], event["payload"]["status"]) for event in await events_of(host, 2)]
        assert kinds == [("agent.status_changed", "stopped"), ("approval.expired", "expired")]
        assert len(house.daemon.host.events._watchers) == len(house.daemon.clients) == 1
        left = (await host.call("host.agents"))[0]
        assert (left["status"], left["session_id"]) == ("stopped", None)
        assert (await host.call("host.approvals"))["approvals"][0]["id"] == row["id"]
        assert (await host.call("host.register_agent", agent()))["status"] == "idle"


async def test_a_disconnect_walks_its_list_in_order(tmp_path, autojump_clock, monkeypatch):
    steps: list[str] = []

    def noted(name, function):
        def call(*args, **kwargs):
            steps.append(name)
            return function(*args, **kwargs)

        return call

    async with open_house(tmp_path) as house:
        peer = await house.peer("alice")
        daemon, connection = house.daemon, house.connection_of("alice")
        for name, owner, method in (
            ("callbacks failed", connection._callbacks, "close"),
            ("agent binding released", daemon.attachments, "release"),
            ("chats ended", daemon.chats, "leave"),
            ("host agents stopped", daemon.host.agents, "leave"),
            ("host subscription dropped", connection._peer, "unwatch_host"),
            ("approvals dropped", daemon.host.approvals, "leave"),
            ("trace subscriptions dropped", connection._peer, "unsubscribe_all"),
            ("nothing is current", daemon.runs, "leave"),
        ):
            monkeypatch.setattr(type(owner), method, noted(name, getattr(type(owner), method)))
        common = connection._common
        connection._common = replace(common, left=noted("sweep scheduled", common.left))
        await peer.drop()
        await trio.sleep(1)
    assert steps == [
        "callbacks failed",
        "agent binding released",
        "chats ended",
        "host agents stopped",
        "host subscription dropped",
        "approvals dropped",
        "trace subscriptions dropped",
        "nothing is current",
        "sweep scheduled",
    ]


async def test_a_sweep_waits_until_the_requests_of_its_connection_are_over(autojump_clock):
    swept: list[float] = []
    over = trio.Event()

    class Runs:
        def sweep(self, session_id: str, reason: str) -> None:
            swept.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon(grace_sweep, Runs(), "s", began + 0.25, over.wait, lambda: False)
        await trio.sleep(2)
        assert swept == []
        over.set()
    assert swept == [began + 2]


async def test_every_method_for_hosts_is_discovered_with_its_types(tmp_path, autojump_clock):
    async with open_house(tmp_path) as house:
        peer = await house.peer()
        document = await peer.call("rpc.discover")
        methods = {method["name"]: method for method in document["methods"]}
        assert set(FOR_HOSTS) <= set(methods)
        assert [p["name"] for p in methods["host.resolve_approval"]["params"]] == [
            "approval_id",
            "resolution",
            "approved",
        ]
        assert "HostEvent" in document["components"]["schemas"]
