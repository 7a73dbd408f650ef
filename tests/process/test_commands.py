"""Commands against a living daemon: what they ask it, and `runs tail` across its lives."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.process.daemon_process import (
    PATIENCE,
    DaemonProcess,
    clean_environment,
    command,
    complete,
    record,
    start_run,
    until,
)


def ran(home: Path, *words: str, stdin: str = "", **variables: str) -> tuple[int, str, str]:
    """A command on this home; with variables they name it, since a flag would win over them."""
    done = subprocess.run(
        command(*words) if variables else command(*words, "--home", str(home)),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment({"CAR_HOME": str(home), **variables} if variables else {}),
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout, done.stderr


class Following:
    """A command that follows, in a process of its own; what it printed goes to a file."""

    def __init__(self, home: Path, output: Path, *words: str) -> None:
        self.output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                command(*words, "--json", "--home", str(home)),
                stdout=file,
                stderr=subprocess.PIPE,
                env=clean_environment({}),
            )

    def shown(self) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for line in self.output.read_text().splitlines(keepends=True)
            if line.endswith("\n")
        ]

    def ids(self) -> list[str]:
        return [each["id"] for each in self.shown()]

    def prompts(self) -> list[str]:
        return [each["record"]["prompt"] for each in self.shown() if each["record"]["record"] == "turn"]

    def kinds(self, run_id: str | None = None) -> list[str]:
        return [each["record"]["record"] for each in self.shown() if run_id in {None, each["run_id"]}]

    def ends(self) -> list[str]:
        return [each["run_id"] for each in self.shown() if each["record"]["record"] == "ended"]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def ended(self) -> int:
        code = self.process.wait(PATIENCE)
        assert self.process.stderr is not None
        assert self.process.stderr.read() == b""
        self.process.stderr.close()
        return code


@pytest.fixture
def follow(daemon: DaemonProcess, tmp_path: Path) -> Iterator[Callable[..., Following]]:
    tails: list[Following] = []

    def begin(*words: str, command: Sequence[str] = ("runs", "tail")) -> Following:
        tails.append(Following(daemon.home, tmp_path / f"tail-{len(tails)}", *command, *words))
        return tails[-1]

    yield begin
    for tail in tails:
        if tail.process.poll() is None:
            tail.process.kill()
            tail.process.wait()
        if tail.process.stderr is not None:
            tail.process.stderr.close()


def test_tail_misses_and_repeats_no_turn_when_the_daemon_is_killed_and_starts_again(
    daemon: DaemonProcess, follow: Callable[..., Following]
) -> None:
    with daemon.client("agent") as client:
        run_id = start_run(client)
        record(client, run_id, 0, 1)
        tail = follow(run_id)
        until(lambda: len(tail.prompts()) == 2)
        record(client, run_id, 2)
        until(lambda: len(tail.prompts()) == 3)
        record(client, run_id, 3, 4)
        daemon.kill()
    daemon.start()
    assert tail.ended() == 0
    assert tail.prompts() == [f"turn {number}" for number in range(5)]
    assert tail.kinds() == ["started", *["turn"] * 5, "ended"]
    assert tail.shown()[-1]["record"]["termination"] == {"kind": "incomplete", "reason": "orphaned"}


def test_tail_of_an_agent_goes_on_with_its_runs_in_the_daemons_next_life(
    daemon: DaemonProcess, follow: Callable[..., Following]
) -> None:
    tail = follow("--agent", "agent")
    with daemon.client("agent") as client:
        first = start_run(client)
        record(client, first, 0, 1)
        until(lambda: len(tail.prompts()) == 2)
        daemon.restart()
    with daemon.client("agent") as client:
        second = start_run(client)
        record(client, second, 2)
        complete(client, second)
    until(lambda: sorted(tail.ends()) == sorted([first, second]), "both runs end")
    assert tail.prompts() == ["turn 0", "turn 1", "turn 2"]
    assert tail.stop() == 0


def test_tail_from_a_turn_on_leaves_out_the_turns_before_it(
    daemon: DaemonProcess, follow: Callable[..., Following]
) -> None:
    with daemon.client("agent") as client:
        run_id = start_run(client)
        record(client, run_id, 0, 1, 2)
        tail = follow(run_id, "--from", "2")
        until(lambda: tail.prompts() == ["turn 2"])
        record(client, run_id, 3)
        complete(client, run_id)
    assert tail.ended() == 0
    assert tail.prompts() == ["turn 2", "turn 3"]


def test_tail_begun_without_a_daemon_follows_into_its_next_life(
    daemon: DaemonProcess, follow: Callable[..., Following]
) -> None:
    with daemon.client("agent") as client:
        run_id = start_run(client)
        record(client, run_id, 0)
        daemon.kill()
    tail = follow(run_id)
    until(lambda: tail.prompts() == ["turn 0"])
    daemon.start()
    assert tail.ended() == 0
    assert tail.prompts() == ["turn 0"]
    assert tail.ends() == [run_id]


def test_status_says_how_the_daemon_is_and_3_when_it_is_down(daemon: DaemonProcess) -> None:
    code, out, _ = ran(daemon.home, "status", "--json")
    found = json.loads(out)
    assert (code, found["running"], found["daemon"]["pid"]) == (0, True, daemon.pid)
    assert found["health"]["store"] == "ok"
    assert "up, version" in ran(daemon.home, "status")[1]
    daemon.stop()
    code, out, _ = ran(daemon.home, "status", "--json")
    assert (code, json.loads(out)["health"]) == (3, None)
    assert ran(daemon.home, "call", "server.health")[0] == 3


def test_status_counts_who_is_there_and_what_is_open(daemon: DaemonProcess) -> None:
    with daemon.client("agent") as client:
        start_run(client)
        health = json.loads(ran(daemon.home, "status", "--json")[1])["health"]
        assert (health["connections"], health["open_runs"]) == (2, 1), "this command is there too"
        assert "1 connection, 1 open run" in ran(daemon.home, "status")[1]


def test_status_shows_the_limits_that_the_daemon_was_started_with(
    make_daemon: Callable[..., DaemonProcess],
) -> None:
    limits = {"CAR_TRIO_RUNS_MAX_PER_AGENT": "2", "CAR_TRIO_RUNS_DURABILITY": "os"}
    daemon = make_daemon(environment=limits).start()
    with daemon.client("agent") as client:
        runs = [start_run(client) for _ in range(3)]
        for run_id in runs:
            complete(client, run_id)
    found = json.loads(ran(daemon.home, "status", "--json")[1])
    assert (found["max_per_agent"], found["durability"], found["due"]) == (2, "os", 1)
    assert found["next_to_go"] == runs[0]
    (daemon.home / "config.toml").write_text("[server]\nport = 'many'\n")
    code, out, _ = ran(daemon.home, "status")
    assert (code, "the daemon would not start again" in out, "2 per agent" in out) == (2, True, True)
    daemon.stop()
    (daemon.home / "config.toml").unlink()
    found = json.loads(ran(daemon.home, "status", "--json")[1])
    assert (found["max_per_agent"], found["durability"]) == (1000, "always")


def test_any_method_can_be_called_and_a_refusal_is_a_no(daemon: DaemonProcess) -> None:
    code, out, _ = ran(daemon.home, "call", "tools.list")
    assert (code, json.loads(out)) == (0, {"tools": [], "count": 0})
    code, out, err = ran(daemon.home, "call", "runs.subscribe", '{"run_id":"none"}')
    assert (code, out) == (1, "")
    assert "unknown run_id" in err
    code, out, err = ran(daemon.home, "call", "server.helth")
    assert (code, out) == (1, "")
    assert err == "car-trio: there is no method 'server.helth'; the nearest is 'server.health'\n"
    assert ran(daemon.home, "call", "tools.list", "{")[0] == 2


def test_a_wrong_token_is_not_authorised(daemon: DaemonProcess) -> None:
    daemon.token_file.write_text("another")
    assert ran(daemon.home, "call", "tools.list")[0] == 4


def test_a_daemon_removes_what_it_is_asked_to_and_keeps_its_catalog(daemon: DaemonProcess) -> None:
    with daemon.client("agent") as client:
        ended = start_run(client)
        complete(client, ended)
        open_run = start_run(client)
        code, out, _ = ran(daemon.home, "runs", "prune", "--older-than", "0s", "--json")
        assert (code, json.loads(out)["removed"]) == (1, []), "nobody answered"
        code, out, _ = ran(daemon.home, "runs", "prune", "--older-than", "0s", "--yes", "--json")
        assert (code, json.loads(out)["removed"]) == (0, [ended])
        assert ran(daemon.home, "runs", "rm", open_run, "--yes")[0] == 1
        assert ran(daemon.home, "runs", "reindex")[0] == 1
        listed = client.call("runs.list", {"agent_id": "agent"})["runs"]
        assert [run["run_id"] for run in listed] == [open_run]


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(daemon: DaemonProcess) -> None:
    with daemon.client("agent") as client:
        run_id = start_run(client)
        for start in range(0, 1000, 200):
            record(client, run_id, *range(start, start + 200))
        complete(client, run_id)
    process = subprocess.Popen(
        command("runs", "show", run_id, "--home", str(daemon.home)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment({}),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith(b"run ")
    process.stdout.close()
    assert process.wait(PATIENCE) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_doctor_finds_nothing_wrong_with_a_healthy_daemon(daemon: DaemonProcess) -> None:
    code, out, _ = ran(daemon.home, "doctor", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["checks"] >= 20
    assert [each for each in found["findings"] if each["level"] != "ok"] == []


def test_doctor_mends_what_a_killed_daemon_left_and_nothing_else(daemon: DaemonProcess) -> None:
    with daemon.client("agent") as client:
        run_id = start_run(client)
        daemon.kill()
    left = [daemon.home / "run" / "daemon.json", daemon.unix_socket, daemon.token_file]
    before = {path.name: path.read_bytes() for path in (daemon.home / "runs").rglob("*.jsonl")}
    assert run_id
    found = json.loads(ran(daemon.home, "doctor", "--json")[1])["findings"]
    assert all(path.exists() for path in left), "nothing is mended unasked"
    for path in left:
        assert any(str(path) in each["what"] and each["next"] for each in found)
    ran(daemon.home, "doctor", "--fix")
    assert not any(path.exists() for path in left)
    assert {path.name: path.read_bytes() for path in (daemon.home / "runs").rglob("*.jsonl")} == before


def test_agents_and_approvals_are_seen_and_decided_from_a_terminal(daemon: DaemonProcess) -> None:
    assert ran(daemon.home, "agents", "ls")[1].startswith("no agents: none has registered")
    with daemon.client("agent") as client:
        client.call("host.register_agent", {"id": "agent", "name": "Tidier", "kind": "test"})
        assert ran(daemon.home, "agents", "ls")[1].endswith("\n1 agent\n")
        agents = json.loads(ran(daemon.home, "agents", "ls", "--json")[1])["agents"]
        assert [agent["name"] for agent in agents] == ["Tidier"]
        assert "Tidier" in ran(daemon.home, "agents", "ls")[1]
        ask = {"action": "rm -rf", "details": {"path": "\u202e" + "x" * 500}, "system_level": True}
        rows = [client.call("host.request_approval", ask)["id"] for _ in range(2)]
        shown = ran(daemon.home, "approvals", "ls")[1]
        assert "x" * 500 in shown
        assert "\u202e" not in shown
        code, out, _ = ran(daemon.home, "approvals", "approve", rows[0])
        assert (code, "approve" in out) == (0, True)
        assert ran(daemon.home, "approvals", "deny", rows[0])[0] == 1, "the first answer wins"
        assert ran(daemon.home, "approvals", "deny", rows[1])[0] == 0
        assert json.loads(ran(daemon.home, "approvals", "ls", "--json")[1])["approvals"] == []
        decided = json.loads(ran(daemon.home, "approvals", "ls", "--all", "--json")[1])["approvals"]
        assert {"resolved: approve", "resolved: deny"} <= {
            line.split("  ")[1]
            for line in ran(daemon.home, "approvals", "ls", "--all")[1].splitlines()
            if "resolved" in line
        }
        assert {row["id"]: row["resolution"] for row in decided} == {rows[0]: "approve", rows[1]: "deny"}
        code, _, err = ran(daemon.home, "approvals", "approve", rows[0][:-1])
        assert code == 1
        assert f"the nearest is '{rows[0]}'" in err or "the nearest is" in err


def test_approvals_are_shown_once_as_they_are_requested_in_every_life_of_the_daemon(
    daemon: DaemonProcess, follow: Callable[..., Following]
) -> None:
    def request(number: int) -> str:
        with daemon.client() as client:
            ask = {"action": f"act {number}", "details": {"n": number}, "system_level": True}
            approval_id: str = client.call("host.request_approval", ask)["id"]
            return approval_id

    first = request(1)
    watch = follow(command=("approvals", "watch"))
    until(lambda: watch.ids() == [first])
    second = request(2)
    until(lambda: watch.ids() == [first, second])
    assert watch.shown()[1]["details"] == {"n": 2}
    daemon.restart()
    third = request(3)
    until(lambda: watch.ids() == [first, second, third])
    assert ran(daemon.home, "approvals", "approve", third)[0] == 0
    fourth = request(4)
    until(lambda: watch.ids()[3:] == [fourth])
    assert watch.stop() == 0


def test_a_stale_token_of_the_environment_is_named_and_the_daemon_is_not_blamed(
    daemon: DaemonProcess,
) -> None:
    said = "the token in CAR_AUTH_TOKEN is not this daemon's; unset CAR_AUTH_TOKEN or correct it"
    assert ran(daemon.home, "agents", "ls", CAR_AUTH_TOKEN="stale") == (
        4,
        "",
        f"car-trio: auth failed: {said}\n",
    )
    code, out, _ = ran(daemon.home, "doctor", "--json", CAR_AUTH_TOKEN="stale")
    (found,) = [each for each in json.loads(out)["findings"] if each["level"] == "error"]
    assert code == 1
    assert f"{found['what']}; {found['next']}" == f"the daemon cannot be asked: auth failed: {said}"


def test_the_pages_port_in_the_place_of_the_daemons_names_the_daemons(daemon: DaemonProcess) -> None:
    page = json.loads((daemon.home / "run" / "daemon.json").read_text())["web_url"]
    url = page.replace("http", "ws").rstrip("/")
    code, out, err = ran(daemon.home, "agents", "ls", CAR_DAEMON_URL=url)
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "(from CAR_DAEMON_URL)" in err
    assert f"this is the port of the page; the daemon is at {daemon.url}." in err


def test_an_address_that_is_none_names_who_said_it(daemon: DaemonProcess) -> None:
    code, _, err = ran(daemon.home, "agents", "ls", CAR_DAEMON_URL="ws://127.0.0.1:99999")
    assert code == 2
    assert "'ws://127.0.0.1:99999' (from CAR_DAEMON_URL) is not a daemon's address: " in err
    code, out, _ = ran(daemon.home, "doctor", "--json", CAR_DAEMON_URL="ws://127.0.0.1:99999")
    (found,) = [each for each in json.loads(out)["findings"] if each["level"] == "error"]
    assert (code, found["next"].startswith("expected ws://host:port")) == (1, True)


def test_a_host_token_that_cannot_be_read_is_named_with_what_to_do(daemon: DaemonProcess) -> None:
    token = daemon.home / "ai.parslee.car" / "host-token"
    token.rename(daemon.home / "kept")
    token.mkdir()
    code, out, err = ran(daemon.home, "agents", "ls")
    assert (code, out) == (4, "")
    assert err.startswith(f"car-trio: the host token {token} cannot be read: it is not a regular file; make ")
    found = json.loads(ran(daemon.home, "doctor", "--json")[1])["findings"]
    errors = {each["check"]: each["what"] for each in found if each["level"] == "error"}
    assert f"{token} cannot be read: it is not a regular file" in errors["stale_tokens"]
    assert errors["daemon"].startswith(f"the daemon cannot be asked: the host token {token} cannot be read")
    token.rmdir()
    (daemon.home / "kept").rename(token)


def test_every_run_that_begins_is_followed_though_the_files_are_looked_at_once(
    daemon: DaemonProcess, follow: Callable[..., Following]
) -> None:
    with daemon.client("agent") as client, daemon.client("other") as other:
        before = start_run(client)
        record(client, before, 0)
        tail = follow("--all")
        until(lambda: tail.prompts() == ["turn 0"])
        begun = []
        for number in range(1, 6):
            begun.append(start_run(other))
            record(other, begun[-1], number)
            complete(other, begun[-1])
        complete(client, before)
        until(lambda: sorted(tail.ends()) == sorted([before, *begun]), "all of them end")
    assert sorted(tail.prompts()) == [f"turn {number}" for number in range(6)]
    assert all(tail.kinds(run_id) == ["started", "turn", "ended"] for run_id in [before, *begun])
    assert tail.stop() == 0


def test_tail_shows_with_a_daemon_what_it_shows_without_one(
    daemon: DaemonProcess, follow: Callable[..., Following]
) -> None:
    with daemon.client("agent") as client:
        run_id = start_run(client)
        tail = follow(run_id)
        until(lambda: tail.kinds() == ["started"])
        record(client, run_id, 0, 1)
        complete(client, run_id)
    assert tail.ended() == 0
    daemon.stop()
    assert ran(daemon.home, "runs", "tail", run_id, "--json")[1] == tail.output.read_text()
