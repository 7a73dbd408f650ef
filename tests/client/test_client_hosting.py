"""Watching as a host: a snapshot, what happens after it, and a snapshot again whenever something was missed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from car_trio.client import CallRefused, Car, WatchReplaced, connect, feed
from car_trio.wire.host import HostEvent, HostSnapshot
from tests.client.conftest import Peer, Refuse, ScriptedDaemon


async def happen(peer: Peer, sequence: int, kind: str = "run.started") -> None:
    event = {
        "id": f"event-{sequence}",
        "sequence": sequence,
        "timestamp": "2026-11-20T09:00:00.000000Z",
        "kind": kind,
        "agent_id": None,
        "message": "",
        "payload": {"run_id": f"r{sequence}"},
    }
    await peer.notify("host.event", event)


def snapshot(sequence: int) -> dict[str, Any]:
    identity = {"version": "1", "pid": 1, "boot_id": "b", "manifest_path": None, "manifest_role": "none"}
    return {
        "subscribed": True,
        "agents": [],
        "approvals": [],
        "events": [],
        "event_sequence": sequence,
        "identity": identity,
    }


def seen(event: HostSnapshot | HostEvent) -> tuple[str, int]:
    if isinstance(event, HostSnapshot):
        return ("snapshot", event.event_sequence)
    return (event.kind, event.sequence)


async def next_of(watch: Any, count: int) -> list[tuple[str, int]]:
    return [seen(await anext(watch)) for _ in range(count)]


async def test_a_snapshot_comes_first_and_every_event_after_it_once(daemon: ScriptedDaemon, car: Car) -> None:
    async def subscribe(peer: Peer, _: Any) -> Any:
        await happen(peer, 7)
        await happen(peer, 8)
        return snapshot(7)

    daemon.methods["host.subscribe"] = subscribe
    watch = car.host_events()
    assert await next_of(watch, 2) == [("snapshot", 7), ("run.started", 8)]
    await happen(daemon.peers[0], 8)
    await happen(daemon.peers[0], 9, "approval.requested")
    assert await next_of(watch, 1) == [("approval.requested", 9)]


async def test_a_gap_is_followed_by_a_new_snapshot(daemon: ScriptedDaemon, car: Car) -> None:
    daemon.methods["host.subscribe"] = lambda peer, _: snapshot(len(daemon.calls_of("host.subscribe")) * 10)
    watch = car.host_events()
    assert await next_of(watch, 1) == [("snapshot", 10)]
    await daemon.peers[0].notify("host.event", {"kind": "host.gap", "payload": {"from": 11, "to": 15}})
    assert await next_of(watch, 1) == [("snapshot", 20)]


async def test_a_loop_that_is_too_slow_gets_a_new_snapshot(
    daemon: ScriptedDaemon, car: Car, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_EVENTS", 2)
    daemon.methods["host.subscribe"] = lambda peer, _: snapshot(5 * len(daemon.calls_of("host.subscribe")))
    watch = car.host_events()
    assert await next_of(watch, 1) == [("snapshot", 5)]
    for sequence in range(6, 11):
        await happen(daemon.peers[0], sequence)
    await wait_all_tasks_blocked()
    assert await next_of(watch, 3) == [("run.started", 6), ("run.started", 7), ("snapshot", 10)]


async def test_a_lost_connection_is_dialled_again_and_begins_with_a_snapshot(
    daemon: ScriptedDaemon, car: Car, autojump_clock: trio.testing.MockClock
) -> None:
    daemon.methods["host.subscribe"] = lambda peer, _: snapshot(len(daemon.peers))
    watch = car.host_events()
    assert await next_of(watch, 1) == [("snapshot", 1)]
    await happen(daemon.peers[0], 2)
    await wait_all_tasks_blocked()
    await daemon.peers[0].drop()
    assert await next_of(watch, 2) == [("run.started", 2), ("snapshot", 2)]
    await happen(daemon.peers[1], 3)
    assert await next_of(watch, 1) == [("run.started", 3)]


async def test_a_connection_that_is_lost_while_subscribing_is_dialled_again(
    daemon: ScriptedDaemon, car: Car, autojump_clock: trio.testing.MockClock
) -> None:
    async def subscribe(peer: Peer, _: Any) -> Any:
        if len(daemon.peers) == 1:
            await peer.drop()
        return snapshot(1)

    daemon.methods["host.subscribe"] = subscribe
    assert await next_of(car.host_events(), 1) == [("snapshot", 1)]


async def test_a_second_watch_on_one_connection_ends_the_first(daemon: ScriptedDaemon, car: Car) -> None:
    daemon.methods["host.subscribe"] = snapshot(0)
    first, second = car.host_events(), car.host_events()
    await anext(first)
    await anext(second)
    with pytest.raises(WatchReplaced, match="the host events"):
        await anext(first)


async def test_who_may_not_see_the_events_is_told(daemon: ScriptedDaemon, car: Car) -> None:
    def refuse(peer: Peer, params: Any) -> Any:
        raise Refuse(-32603, "'host.subscribe' is for hosts")

    daemon.methods["host.subscribe"] = refuse
    with pytest.raises(CallRefused, match="is for hosts"):
        await anext(car.host_events())
    daemon.methods["ping"] = "pong"
    await happen(daemon.peers[0], 1)
    assert await car.call("ping") == "pong"


async def test_events_without_a_watch_are_no_matter(
    daemon: ScriptedDaemon, give_tokens: Callable[..., None]
) -> None:
    give_tokens(host_token="h")
    async with connect(host=True) as car:
        await happen(daemon.peers[0], 1)
        assert await car.call("ping") == "pong"
