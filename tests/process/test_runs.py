"""Runs over the life and death of the process that records them (protocol `runs.md`)."""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from websockets.exceptions import ConnectionClosed

from car_trio import RunStore, connect
from car_trio.client import Retracted
from car_trio.wire.runs import Ended, Incomplete, Started, Turn
from tests.process.daemon_process import (
    PATIENCE,
    DaemonProcess,
    complete,
    lines_on_disk,
    record,
    start_run,
    turn,
    until,
)
from tests.second_client import Refused

MakeDaemon = Callable[..., DaemonProcess]


def kinds(records: list[dict[str, Any]]) -> list[str]:
    return [each["record"] for each in records]


def prompts(records: list[dict[str, Any]]) -> list[str]:
    return [each["prompt"] for each in records if each["record"] == "turn"]


# A restart


def test_a_completed_run_is_the_same_after_a_restart_for_clients_and_for_the_library(
    daemon: DaemonProcess,
) -> None:
    with daemon.client("alice") as alice:
        run_id = start_run(alice, outcome_description="a tidy folder")
        record(alice, run_id, 0, 1)
        record(alice, run_id, 2)
        complete(alice, run_id, "partial_success")
        before = alice.call("runs.get_trace", {"run_id": run_id})
    daemon.restart()
    with daemon.client("alice") as alice:
        after = alice.call("runs.get_trace", {"run_id": run_id})
        (listed,) = alice.call("runs.list", {"agent_id": "alice"})["runs"]
    assert after == before
    assert kinds(after["records"]) == ["started", "turn", "turn", "turn", "ended"]
    assert after["records"][0]["intent"] == "tidy the notes"
    assert after["records"][0]["outcome_description"] == "a tidy folder"
    assert prompts(after["records"]) == ["turn 0", "turn 1", "turn 2"]
    assert [each["index"] for each in after["records"][1:-1]] == [0, 1, 2]
    assert after["records"] == lines_on_disk(daemon.home, run_id)
    assert (listed["status"], listed["turn_count"], listed["outcome"]) == ("completed", 3, "partial_success")


def test_the_library_reads_beside_a_daemon_what_clients_were_told(daemon: DaemonProcess) -> None:
    store = RunStore(daemon.home)
    with daemon.client("alice") as alice:
        run_id = start_run(alice)
        record(alice, run_id, 0, 1)
        (open_run,) = store.list_runs("alice")
        complete(alice, run_id)
    trace = store.get_run_trace(run_id)
    assert trace is not None
    match trace:
        case [Started(intent="tidy the notes"), Turn(prompt="turn 0"), Turn(prompt="turn 1"), Ended()]:
            pass
        case _:
            pytest.fail(repr(trace))
    assert (open_run.status, open_run.turn_count) == ("in_progress", 2)
    assert store.agent_for_run(run_id) == "alice"
    assert store.get_run_trace("unheard-of") is None
    assert daemon.stop() == 0
    assert RunStore(daemon.home).get_run_trace(run_id) == trace


# A drop


def test_a_dropped_run_becomes_incomplete_and_not_before_the_grace_is_over(daemon: DaemonProcess) -> None:
    with daemon.client("alice") as alice:
        run_id = start_run(alice)
        record(alice, run_id, 0)
    assert until(lambda: daemon.end_of(run_id)) == {"kind": "incomplete", "reason": "disconnected"}
    _, last_turn, ended = lines_on_disk(daemon.home, run_id)
    waited = datetime.fromisoformat(ended["ended_at"]) - datetime.fromisoformat(last_turn["recorded_at"])
    assert waited >= timedelta(milliseconds=250)


def test_a_dropped_run_stays_open_for_as_long_as_the_grace_lasts(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(config="[runs]\ngrace_ms = 3600000\n").start()
    with daemon.client("alice") as alice:
        run_id = start_run(alice)

    def bound_again() -> bool:
        # The binding is released in the same step in which the drop is noticed.
        with daemon.client() as other:
            try:
                other.auth(daemon.token, agent_id="alice")
            except Refused:
                return False
            return complete(other, run_id)["ok"] is True

    until(bound_again, "the drop is noticed and the run is still open")
    assert daemon.end_of(run_id)["kind"] == "outcome"  # type: ignore[index]


@pytest.mark.parametrize("attempt", range(3))
def test_a_complete_that_is_sent_in_the_moment_of_the_drop_wins(daemon: DaemonProcess, attempt: int) -> None:
    with daemon.client("alice") as alice:
        runs = [start_run(alice) for _ in range(5)]
        for run_id in runs:
            record(alice, run_id, attempt)
            alice.ask("runs.complete", {"run_id": run_id, "outcome": {"status": "done"}})
    for run_id in runs:
        end = until(lambda run_id=run_id: daemon.end_of(run_id))  # type: ignore[misc]
        assert end["outcome"]["status"] == "done"
        assert kinds(daemon.records(run_id)) == ["started", "turn", "ended"]


def test_every_open_run_of_a_dropped_connection_ends_not_only_the_current_one(daemon: DaemonProcess) -> None:
    with daemon.client() as loose, daemon.client() as other:
        dropped = [start_run(loose, agent_id=agent) for agent in ("a", "b", "a")]
        kept = start_run(other, agent_id="a")
        loose.drop()
        for run_id in dropped:
            until(lambda run_id=run_id: daemon.end_of(run_id), run_id)  # type: ignore[misc]
        assert daemon.end_of(kept) is None


def test_a_drop_within_a_tool_call_is_a_turn_that_says_so_before_the_end(daemon: DaemonProcess) -> None:
    with daemon.client("alice") as alice:
        run_id = start_run(alice)
        alice.call("tools.register", [{"name": "slow"}])
        steps = [
            {"id": "first", "type": "state_write", "parameters": {"key": "k", "value": 1}},
            {"id": "second", "type": "tool_call", "tool": "slow", "parameters": {}},
            {"id": "third", "type": "state_write", "parameters": {"key": "k", "value": 2}},
        ]
        alice.ask("proposal.submit", {"proposal": {"id": "p", "actions": steps}})
        alice.request()
    until(lambda: daemon.end_of(run_id))
    turns = daemon.records(run_id)[1:-1]
    assert [(turn["action_id"], turn["status"]) for turn in turns] == [
        ("first", "succeeded"),
        ("second", "failed"),
        ("third", "skipped"),
    ]
    assert turns[1]["error"] == "tool 'slow' callback channel closed"


def test_the_runs_of_two_agents_do_not_mix_on_one_connection(daemon: DaemonProcess) -> None:
    def plan(number: int) -> dict[str, Any]:
        action = {"id": "a", "type": "state_write", "parameters": {"key": "k", "value": number}}
        return {"proposal": {"id": f"p{number}", "actions": [action]}}

    with daemon.client() as client:
        first = start_run(client, agent_id="alice")
        client.call("proposal.submit", plan(1))
        second = start_run(client, agent_id="bob")
        client.call("proposal.submit", plan(2))
        again = start_run(client, agent_id="alice", idempotency_key=first)
        client.call("proposal.submit", plan(3))
        complete(client, second)
        complete(client, first)
    assert again == first
    for run_id, agent, numbers in ((first, "alice", [1, 3]), (second, "bob", [2])):
        records = daemon.records(run_id)
        assert records[0]["agent_id"] == records[-1]["agent_id"] == agent
        assert [each["parameters"]["value"] for each in records[1:-1]] == numbers
        assert lines_on_disk(daemon.home, run_id) == records


# A kill


def test_an_orphan_is_adopted_once_however_often_the_daemon_starts(daemon: DaemonProcess) -> None:
    with daemon.client("alice") as alice:
        finished, orphan = start_run(alice), start_run(alice)
        complete(alice, finished)
        record(alice, orphan, 0)
        daemon.kill()
    for _ in range(2):
        daemon.start()
        assert daemon.end_of(orphan) == {"kind": "incomplete", "reason": "orphaned"}
        assert kinds(lines_on_disk(daemon.home, orphan)) == ["started", "turn", "ended"]
        assert kinds(lines_on_disk(daemon.home, finished)) == ["started", "ended"]
        daemon.kill()
    daemon.start().restart()
    assert kinds(lines_on_disk(daemon.home, orphan)) == ["started", "turn", "ended"]


def test_an_orphan_is_found_after_a_start_that_failed_in_between(daemon: DaemonProcess) -> None:
    with daemon.client("alice") as alice:
        orphan = start_run(alice)
        daemon.kill()
    daemon.unix_socket.unlink()
    daemon.unix_socket.mkdir()
    with pytest.raises(AssertionError, match="cannot make the Unix socket"):
        daemon.start()
    assert daemon.ended() == 2
    assert kinds(lines_on_disk(daemon.home, orphan)) == ["started"]
    daemon.unix_socket.rmdir()
    daemon.start()
    assert daemon.end_of(orphan) == {"kind": "incomplete", "reason": "orphaned"}


def test_a_kill_among_acknowledged_turns_loses_none_doubles_none_and_keeps_their_order(
    daemon: DaemonProcess,
) -> None:
    acknowledged: dict[str, int] = {}
    warm = threading.Barrier(4, timeout=PATIENCE)

    def write(agent: str) -> None:
        with daemon.client(agent) as client:
            run_id = start_run(client)
            acknowledged[run_id] = 0
            try:
                for number in range(100_000):
                    if number == 20:
                        warm.wait()
                    assert record(client, run_id, number)["base_index"] == number
                    acknowledged[run_id] = number + 1
            except (ConnectionClosed, OSError):
                return

    writers = [threading.Thread(target=write, args=(agent,)) for agent in ("a", "b", "c")]
    for writer in writers:
        writer.start()
    warm.wait()
    until(lambda: sum(acknowledged.values()) > 200, "the writers are at work")
    daemon.kill()
    for writer in writers:
        writer.join(PATIENCE)
    daemon.start()
    assert len(acknowledged) == 3
    for run_id, count in acknowledged.items():
        records = daemon.records(run_id)
        told = prompts(records)
        assert told == [f"turn {number}" for number in range(len(told))]
        assert count <= len(told) <= count + 1
        assert kinds(records[-1:]) == ["ended"]


def test_a_torn_last_line_is_moved_aside_and_the_run_still_replays(daemon: DaemonProcess) -> None:
    with daemon.client("alice") as alice:
        run_id = start_run(alice)
        record(alice, run_id, 0)
        daemon.kill()
    (path,) = (daemon.home / "runs").glob(f"*/{run_id}.jsonl")
    with path.open("ab") as file:
        file.write(b'{"record":"turn","index":1,"pro')
    daemon.start()
    with daemon.client("alice") as alice:
        trace = alice.call("runs.get_trace", {"run_id": run_id})
    assert kinds(trace["records"]) == ["started", "turn", "ended"]
    assert path.with_suffix(".torn").read_bytes() == b'{"record":"turn","index":1,"pro'
    assert "torn" in daemon.said()


# Retention


def ended_runs(daemon: DaemonProcess, count: int, agent: str = "alice") -> list[str]:
    """Ended runs, oldest first, and one that stays open until the daemon is stopped."""
    with daemon.client(agent) as client:
        runs = [start_run(client, intent=f"run {number}") for number in range(count)]
        for run_id in runs:
            complete(client, run_id)
    return runs


def listed(daemon: DaemonProcess, agent: str = "alice") -> list[str]:
    with daemon.client(agent) as client:
        return [row["run_id"] for row in client.call("runs.list", {"agent_id": agent})["runs"]]


def test_retention_keeps_the_newest_runs_of_each_agent_and_a_tombstone_of_the_others(
    daemon: DaemonProcess,
) -> None:
    alices, bobs = ended_runs(daemon, 4), ended_runs(daemon, 2, "bob")
    daemon.stop()
    (daemon.home / "config.toml").write_text("[runs]\nmax_per_agent = 2\n")
    daemon.start()
    until(lambda: len(listed(daemon)) == 2, "retention at boot")
    assert set(listed(daemon)) == set(alices[2:])
    assert set(listed(daemon, "bob")) == set(bobs)
    stones = [json.loads(line) for line in (daemon.home / "deleted-runs.jsonl").read_text().splitlines()]
    assert [stone["run_id"] for stone in stones] == alices[:2]
    for stone, intent in zip(stones, ("run 0", "run 1"), strict=True):
        assert (stone["agent_id"], stone["intent"], stone["status"]) == ("alice", intent, "completed")
        assert stone["started_at"] <= stone["ended_at"] <= stone["removed_at"]
        assert "max_per_agent 2" in stone["why"]
        assert f"removing run {stone['run_id']} of alice" in daemon.said()
    assert {path.stem for path in (daemon.home / "runs" / "alice").iterdir()} == set(alices[2:])


def test_retention_removes_what_is_too_old(daemon: DaemonProcess) -> None:
    runs = ended_runs(daemon, 2)
    daemon.stop()
    (daemon.home / "config.toml").write_text("[runs]\nmax_age_days = 1e-9\n")
    daemon.start()
    until(lambda: listed(daemon) == [], "retention at boot")
    stones = (daemon.home / "deleted-runs.jsonl").read_text().splitlines()
    assert [json.loads(line)["run_id"] for line in stones] == runs


def test_zero_is_no_limit_for_either_criterion(daemon: DaemonProcess) -> None:
    runs = ended_runs(daemon, 3)
    daemon.stop()
    config = daemon.home / "config.toml"
    for limits in ("max_per_agent = 0\nmax_age_days = 0", "max_per_agent = -1\nmax_age_days = -0.5"):
        config.write_text(f"[runs]\n{limits}\n")
        daemon.start().stop()
        assert RunStore(daemon.home).gc() == 0
    assert not (daemon.home / "deleted-runs.jsonl").exists()
    config.write_text("[runs]\nmax_per_agent = 2\nmax_age_days = 0\n")
    daemon.start()
    until((daemon.home / "deleted-runs.jsonl").exists, "the limit that is set holds")
    daemon.restart()
    assert set(listed(daemon)) == set(runs[1:])
    daemon.stop()
    assert RunStore(daemon.home).gc() == 0


def test_a_broken_limit_is_its_own_default_with_a_warning(daemon: DaemonProcess) -> None:
    runs = ended_runs(daemon, 3)
    daemon.stop()
    (daemon.home / "config.toml").write_text('[runs]\nmax_per_agent = 2\nmax_age_days = "soon"\n')
    daemon.start()
    assert "config.toml: [runs] max_age_days is 'soon'" in daemon.said()
    until(lambda: set(listed(daemon)) == set(runs[1:]), "the key that is whole holds")


# Permissions


def test_everything_under_the_home_is_private_even_when_the_umask_allows_all(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(umask=0).start()
    with daemon.client("alice") as alice:
        run_id = start_run(alice)
        record(alice, run_id, 0)
        serving = modes(daemon.home)
        daemon.kill()
    (path,) = (daemon.home / "runs").glob(f"*/{run_id}.jsonl")
    with path.open("ab") as file:
        file.write(b'{"torn')
    daemon.start()
    ended_runs(daemon, 1)
    daemon.stop()
    (daemon.home / "config.toml").write_text("[runs]\nmax_per_agent = 1\n")
    (daemon.home / "config.toml").chmod(0o600)
    daemon.start()
    until((daemon.home / "deleted-runs.jsonl").exists, "a tombstone")
    assert daemon.stop() == 0
    for found in (serving, modes(daemon.home)):
        assert {path: oct(mode) for path, mode in found.items() if mode not in (0o600, 0o700)} == {}
    for name in ("run/car.sock", "run/daemon.json", "ai.parslee.car/auth-token", "catalog.sqlite"):
        assert serving[name] == 0o600


def modes(home: Path) -> dict[str, int]:
    """The permissions of everything there; 0700 on a file would be as wrong as 0600 on a directory."""
    found = {".": stat.S_IMODE(home.stat().st_mode)}
    for path in home.rglob("*"):
        status = path.lstat()
        mode = stat.S_IMODE(status.st_mode)
        is_right = mode == (0o700 if stat.S_ISDIR(status.st_mode) else 0o600)
        found[str(path.relative_to(home))] = mode if is_right else mode | 0o1000
    return found


# Watching


async def test_a_watch_goes_on_across_a_restart_without_a_gap_or_a_repetition(
    daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in [name for name in os.environ if name.startswith(("CAR_", "XDG_"))]:
        monkeypatch.delenv(variable)
    seen: list[str] = []
    with daemon.client("alice") as alice:
        run_id = start_run(alice)
        record(alice, run_id, 0, 1, 2)
        with trio.fail_after(PATIENCE):
            async with connect(home=str(daemon.home), host=True) as car:
                async for event in car.watch(run_id):
                    assert not isinstance(event, Retracted)
                    match event.record:
                        case Turn(prompt=prompt):
                            seen.append(str(prompt))
                        case Ended(termination=termination):
                            assert termination == Incomplete("orphaned")
                    if len(seen) == 3 and event.cursor == 3:
                        # Acknowledged, and on its way to the watcher when the process dies.
                        await trio.to_thread.run_sync(record, alice, run_id, 3, 4)
                        await trio.to_thread.run_sync(daemon.kill)
                        await trio.to_thread.run_sync(daemon.start)
                        seen.append("restarted")
    seen.remove("restarted")
    assert seen == [f"turn {number}" for number in range(5)]
    assert turn(4)["prompt"] == seen[-1]
    assert daemon.end_of(run_id) == {"kind": "incomplete", "reason": "orphaned"}


def test_a_stop_ends_open_runs_as_shutdown(daemon: DaemonProcess) -> None:
    with daemon.client("alice") as alice, daemon.client() as other:
        runs = [start_run(alice), start_run(alice), start_run(other, agent_name="Bob B.")]
        with daemon.client("carol") as carol:
            dropped = start_run(carol)
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 0
    for run_id in runs:
        assert lines_on_disk(daemon.home, run_id)[-1]["termination"] == {
            "kind": "incomplete",
            "reason": "shutdown",
        }
    assert kinds(lines_on_disk(daemon.home, dropped)) == ["started", "ended"]
