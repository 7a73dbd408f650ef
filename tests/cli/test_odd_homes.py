"""Homes that are not as they should be: a command says what is the matter and goes on where it can."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from car_trio.cli.remarks import Remarks
from car_trio.store.disk import Disk
from car_trio.store.layout import Layout
from car_trio.store.lock import hold_lock
from car_trio.store.run_store import RunStore
from car_trio.wire.runs import RunRef
from tests.cli.homes import Shell, ended, started, turn, whole, write
from tests.process.daemon_process import free_ports

A = RunRef("agent", "run-a")
DEEP = b'{"record":"turn","index":0,"output":' + b"[" * 3000 + b"]" * 3000 + b"}"


# A line that nests deeper than anything can read


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["runs", "ls"], 0),
        (["runs", "ls", "--grep", "echo"], 0),
        (["runs", "show", "run-a"], 0),
        (["runs", "show", "run-a", "--json"], 0),
        (["runs", "diff", "run-a", "run-a"], 0),
        (["runs", "tail", "run-a"], 0),
        (["runs", "verify"], 5),
        (["runs", "reindex"], 0),
        (["status"], 3),
        (["doctor"], 1),
    ],
)
def test_a_line_that_nests_too_deeply_is_one_damaged_line_to_every_command(
    shell: Shell, home: Path, words: list[str], code: int
) -> None:
    write(home, A, [started(A), DEEP, ended(A)])
    ran = shell(*words)
    assert ran.code == code
    if code == 5:
        assert "run run-a line 2: not a record" in ran.out


def test_a_run_with_a_line_that_nests_too_deeply_is_adopted(home: Path) -> None:
    write(home, A, [started(A), DEEP])
    store = RunStore(home)
    assert store.adopt_orphans() == 1
    assert [row.status for row in store.list_runs("agent")] == ["incomplete"]


def test_a_continuation_that_begins_with_such_a_line_is_damaged_there(shell: Shell, home: Path) -> None:
    path = write(home, A, whole(A))
    path.with_name("run-a~1.jsonl").write_bytes(b'{"previous_bytes":' + b"[" * 1900 + b"]" * 1900 + b"}\n")
    assert "line 1 of continuation 1: not a record" in shell("runs", "verify").out


# A run that cannot be read


def test_verify_reports_what_lies_in_the_place_of_runs_and_checks_the_others(
    shell: Shell, home: Path
) -> None:
    folder = write(home, A, whole(A)).parent
    write(home, RunRef("agent", "run-b"), whole(RunRef("agent", "run-b")))
    (folder / "run-0.jsonl").mkdir()
    os.mkfifo(folder / "run-1.jsonl")
    (folder / "run-b~1.jsonl").mkdir()
    ran = shell("runs", "verify")
    *said, total = ran.out.splitlines()
    assert ran.code == 5
    assert sorted(said) == [
        f"run {run}: cannot be read: not a regular file (refused, never followed); look at {folder}/{file}"
        for run, file in (
            ("run-0", "run-0.jsonl"),
            ("run-1", "run-1.jsonl"),
            ("run-b", "run-b~1.jsonl"),
        )
    ]
    assert total == "4 runs, 5 records, 3 turns: 3 faults"


@pytest.mark.parametrize("named", [None, "file"])
def test_verify_reports_a_run_that_may_not_be_read_and_checks_the_others(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    path = write(home, A, [started(A), b"{"])
    write(home, RunRef("agent", "run-b"), [b"{"])
    opened = Disk.open_read

    def refuse(disk: Disk, asked: Path) -> int:
        if asked == path:
            raise PermissionError(13, "Permission denied", named and str(path))
        return opened(disk, asked)

    monkeypatch.setattr(Disk, "open_read", refuse)
    faults = shell("runs", "verify", "--json").document["faults"]
    look = f"; look at {path}" if named else ""
    assert [(each["run_id"], each["line"], each["what"]) for each in faults] == [
        ("run-a", 0, f"cannot be read: Permission denied{look}"),
        ("run-b", 1, "not a record"),
        ("run-b", 1, "there is no start"),
    ]
    found = shell("doctor", "--json").document["findings"]
    assert f"run run-a: cannot be read: Permission denied{look}" in [each["what"] for each in found]


# A root that is none


@pytest.mark.parametrize("words", [["runs", "ls"], ["status"], ["doctor"], ["runs", "tail", "--all"]])
@pytest.mark.parametrize("inside", ["", "deeper/still"])
def test_a_root_that_is_a_file_is_a_mistake_that_is_named(
    shell: Shell, home: Path, words: list[str], inside: str
) -> None:
    home.write_text("no directory")
    shell.home = home / inside
    ran = shell(*words)
    assert (ran.code, ran.out) == (2, "")
    assert f"the state root {shell.home} cannot be used: {home} is not a directory" in ran.err
    assert "--home" in ran.err


def test_the_daemon_of_another_home_is_not_asked_in_the_place_of_one_that_is_down(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        monkeypatch.setattr(
            "car_trio.client.finding.DEFAULT_URL", f"ws://127.0.0.1:{elsewhere.getsockname()[1]}"
        )
        elsewhere.settimeout(0)
        ran = shell("agents", "ls")
        assert (ran.code, f"there is no {home}/run/daemon.json" in ran.err) == (3, True)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


# A configuration that cannot be used


@pytest.mark.parametrize("text", ["[server]\nport = 'many'\n", "[server\n"])
def test_doctor_and_status_look_on_when_the_configuration_cannot_be_used(
    shell: Shell, home: Path, text: str
) -> None:
    write(home, A, whole(A))
    (home / "config.toml").write_text(text)
    ran = shell("doctor", "--json")
    found = {each["check"]: each for each in ran.document["findings"]}
    assert (ran.code, found["config_keys"]["level"]) == (1, "error")
    assert "config.toml" in found["config_keys"]["what"]
    assert "5 records" in found["damage"]["what"]
    ran = shell("status")
    assert ran.code == 2
    assert "1, 0 open" in ran.out
    assert "config.toml" in ran.out
    assert "the defaults" in ran.out


def test_every_check_says_something(shell: Shell, home: Path) -> None:
    write(home, A, whole(A))
    document = shell("doctor", "--json").document
    assert len({each["check"] for each in document["findings"]}) == document["checks"]


# What goes next


def ended_runs(home: Path, count: int) -> None:
    for n in range(count):
        ref = RunRef("agent", f"run-{n}")
        at = f"2026-11-20T09:00:0{n}.000000Z"
        write(home, ref, [started(ref, at=at), ended(ref, at=at)])


def test_the_run_that_goes_next_is_the_one_that_the_stricter_limit_takes(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_runs(home, 5)
    monkeypatch.setenv("CAR_TRIO_RUNS_MAX_AGE_DAYS", "36500")
    assert shell("status", "--json").document["due"] == 0
    monkeypatch.setenv("CAR_TRIO_RUNS_MAX_PER_AGENT", "2")
    document = shell("status", "--json").document
    assert (document["next_to_go"], document["due"]) == ("run-0", 3)
    assert "run-0 and 2 more, within the hour" in shell("status").out
    monkeypatch.setenv("CAR_TRIO_RUNS_MAX_AGE_DAYS", "0")
    monkeypatch.setenv("CAR_TRIO_RUNS_MAX_PER_AGENT", "0")
    assert shell("status", "--json").document["next_to_go"] is None


# Whoever else has the store


def test_a_command_that_has_the_store_is_no_daemon_that_does_not_answer(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("car_trio.store.lock.PROBE_SECONDS", 0)
    write(home, A, whole(A))
    with hold_lock(Layout(home)):
        ran = shell("status")
        assert ran.code == 3
        assert f"process {os.getpid()} works with the store: another command" in ran.out
        ran = shell("runs", "rm", "run-a", "--yes")
        assert ran.code == 1
        assert f"process {os.getpid()}, which is no daemon that answers: try again when it is done" in ran.err


def test_who_wants_to_remove_a_run_of_a_living_agent_is_told_to_let_it_end(shell: Shell, home: Path) -> None:
    write(home, A, [started(A), turn(0)])
    assert "start the daemon once" in shell("runs", "rm", "run-a").err
    with hold_lock(Layout(home)):
        assert "it ends with its agent" in shell("runs", "rm", "run-a").err


# What is left alone


def test_a_link_among_the_runs_is_remarked_once_by_each_command(home: Path, tmp_path: Path) -> None:
    write(home, A, whole(A))
    (home / "runs" / "Odd").symlink_to(tmp_path)
    for words in (["runs", "ls"], ["status"], ["doctor"]):
        ran = subprocess.run(
            [sys.executable, "-m", "car_trio", *words, "--home", str(home)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.stderr == f"car-trio: {home}/runs/Odd is no agent's directory: left alone\n"


def test_a_remark_obeys_nothing_that_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    remarks = Remarks()
    for _ in range(2):
        remarks.handle(logging.makeLogRecord({"msg": "\x1b[31mred", "levelno": logging.WARNING}))
    assert capsys.readouterr().err == "car-trio: \\x1b[31mred\n"


# Ports, and a catalog of nothing


def test_a_port_that_nobody_listens_on_and_that_cannot_be_bound_is_not_called_free(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Layout(home).prepare(Disk())
    with socket.socket() as near:
        near.bind(("127.0.0.1", free_ports()))  # bound and not listening, as the near end of a connection is
        monkeypatch.setenv("CAR_TRIO_SERVER_PORT", str(near.getsockname()[1]))
        found = [each for each in shell("doctor", "--json").document["findings"] if each["check"] == "port"]
    assert [(each["level"], "cannot be taken" in each["what"]) for each in found] == [("error", True)]
    found = [each for each in shell("doctor", "--json").document["findings"] if each["check"] == "port"]
    assert [each["level"] for each in found] == ["ok"]


def test_a_catalog_of_no_runs_needs_no_trust(shell: Shell, home: Path) -> None:
    write(home, A, whole(A)).unlink()
    RunStore(home).reindex(lambda: None)
    (home / "run" / "clean-stop").unlink()
    levels = {each["check"]: each["level"] for each in shell("doctor", "--json").document["findings"]}
    assert levels["catalog"] == "ok"


# Exports


def test_an_export_of_no_run_is_usage(shell: Shell, home: Path) -> None:
    ran = shell("runs", "export")
    assert (ran.code, ran.out) == (2, "")
    assert "at least one RUN" in ran.err


def test_the_span_of_an_open_run_has_no_status_and_ends_with_its_newest_turn(
    shell: Shell, home: Path
) -> None:
    write(home, A, [started(A), turn(0, tool="read"), turn(7, prompt="hm")])
    document = json.loads(shell("runs", "export", "run-a", "--format", "otlp-json").out)
    run, tool = document["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert run["status"] == {"code": 0}
    assert run["endTimeUnixNano"] == "1795165207500000000"
    assert int(run["endTimeUnixNano"]) >= int(tool["endTimeUnixNano"])
    write(home, A, [started(A)])
    document = json.loads(shell("runs", "export", "run-a", "--format", "otlp-json").out)
    (run,) = document["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert run["startTimeUnixNano"] == run["endTimeUnixNano"]
