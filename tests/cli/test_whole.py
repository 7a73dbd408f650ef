"""The table of commands, exit codes, `status`, `doctor`, `config show` and `completion`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from car_trio import __version__
from car_trio.cli import checks, doctor
from car_trio.cli.app import COMMANDS, run
from car_trio.cli.failures import explain
from car_trio.cli.flags import options
from car_trio.client import CallRefused, DaemonUnreachable, Disconnected
from car_trio.config import ConfigError
from car_trio.store.layout import Layout
from car_trio.store.lock import StoreBusy, hold_lock
from car_trio.store.retention import tombstone
from car_trio.store.run_store import RunStore
from car_trio.wire.errors import Refusal
from car_trio.wire.runs import CatalogRow, RunRef
from car_trio.wire.text import escaped, escaped_json, one_line
from tests.cli.homes import HOSTILE, Shell, started, whole, write

A = RunRef("agent", "run-a")

# The table


def test_help_lists_every_command_and_groups_list_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)
    assert "Exit codes" in out
    assert run(["runs"]) == 0
    assert "serve" not in capsys.readouterr().out
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_in_the_table_is_there_and_has_help(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*name.split(), "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: car-trio {name}")


@pytest.mark.parametrize(
    ("words", "near"), [(["statsu"], "'status'"), (["runs", "shwo"], "'runs show'"), (["xyzzy"], "--help")]
)
def test_a_command_that_does_not_exist_is_usage_with_the_nearest(
    words: list[str], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    said = capsys.readouterr()
    assert near in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (Refusal("x"), 2),
        (StoreBusy(1), 1),
        (DaemonUnreachable("a", "b", "c"), 3),
        (Disconnected("x"), 3),
        (CallRefused(-32001, "auth required"), 4),
        (CallRefused(-32603, "auth failed: token mismatch"), 4),
        (CallRefused(-32603, "'runs.search' needs the host role; authenticate"), 4),
        (CallRefused(-32603, "unknown run_id"), 1),
        (PermissionError(13, "Permission denied", "/x"), 2),
        (OSError(22, "not a regular file", "/x"), 5),
        (ZeroDivisionError(), None),
    ],
)
def test_what_goes_wrong_has_its_exit_code_and_a_defect_has_none(error: Exception, code: int | None) -> None:
    assert explain(error) == code


def test_a_failure_is_one_line_in_which_nothing_is_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    explain(ConfigError(HOSTILE))
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "\x1b" not in err


def test_what_is_too_much_on_a_command_line_is_named(shell: Shell) -> None:
    ran = shell("status", "it", "all")
    assert ran.code == 2
    assert "nothing more is expected at 'it' 'all' (car-trio status --help" in ran.err


# Text


def test_escaping_shows_by_number_what_a_terminal_would_obey() -> None:
    assert escaped("a\x1b[1m\u202eb\nü\t") == "a\\x1b[1m\\u202eb\nü\\x09"
    assert one_line("a\nb\ud800") == "a\\nb\\ud800"


def test_the_number_of_a_character_is_not_mistaken_for_that_of_another_and_a_digit() -> None:
    assert escaped("\x202e") != escaped("\u202e")
    assert escaped("\u202e1") != escaped("\U000202e1")
    assert escaped("\U000e0041\x1b0041") == "\\U000e0041\\x1b0041"


@pytest.mark.parametrize(
    "unseen", ["\u200b", "\u200c", "\u200d", "\u2060", "\xad", "\u3164", "\ufe0e", "\U000e0100"]
)
def test_what_has_no_width_is_shown_by_its_number(unseen: str) -> None:
    assert unseen not in escaped(f"rm{unseen}dir")
    document = json.dumps(f"rm{unseen}dir", ensure_ascii=False)
    assert unseen not in escaped_json(document)
    assert json.loads(escaped_json(document)) == json.loads(document)


@pytest.mark.parametrize("picture", ["\U0001f468\u200d\U0001f469", "\u2764\ufe0f\u200d\U0001f525"])
def test_a_joiner_between_pictures_stays(picture: str) -> None:
    assert escaped(picture) == picture


def test_escaped_json_means_the_same() -> None:
    document = json.dumps({"k\u202e": "\x9b\U000e0041ü"}, ensure_ascii=False) + "\r\n"
    shown = escaped_json(document)
    assert json.loads(shown) == json.loads(document)
    assert "\u202e" not in shown
    assert "\\udb40\\udc41" in shown


# status


def test_status_shows_what_the_files_say_when_the_daemon_is_down(shell: Shell, home: Path) -> None:
    write(home, A, whole(A))
    open_run = RunRef("agent", "open")
    write(home, open_run, [started(open_run)])
    ran = shell("status", "--json")
    assert ran.code == 3
    found = ran.document
    assert (found["running"], found["runs"], found["open_runs"]) == (False, 2, 1)
    assert found["next_to_go"] == "run-a"
    assert found["next_to_go_at"] == "2027-02-18T10:00:00.000000Z"
    assert "down" in shell("status").out


def test_status_of_a_home_that_is_not_there_makes_none(shell: Shell, home: Path) -> None:
    assert shell("status").code == 3
    assert not home.exists()


# config show


def test_each_setting_says_where_it_comes_from(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    (home / "config.toml").write_text(
        "[server]\nport = 9200\n[runs]\nmax_turns = 5\ngrace_ms = -1\nodd = 1\n"
    )
    monkeypatch.setenv("CAR_TRIO_RUNS_MAX_TURNS", "7")
    monkeypatch.setenv("CAR_TOOL_TIMEOUT", "11")
    monkeypatch.setenv("CAR_NO_APPROVALS", "1")
    document = shell("config", "show", "--json").document
    found = {(each["section"], each["key"]): (each["value"], each["source"]) for each in document["settings"]}
    file = str(home / "config.toml")
    assert found["server", "port"] == (9200, file)
    assert found["runs", "max_turns"] == (7, "CAR_TRIO_RUNS_MAX_TURNS")
    assert found["runs", "grace_ms"] == (250, "default")
    assert found["server", "tool_timeout_seconds"] == (11, "CAR_TOOL_TIMEOUT")
    assert found["approvals", "enabled"] == (False, "CAR_NO_APPROVALS")
    assert found["log", "level"] == ("info", "default")
    assert any("odd" in warning for warning in document["warnings"])
    assert "odd" in shell("config", "show").out


def test_what_is_ignored_says_where_it_stands_and_what_would_be_read(shell: Shell, home: Path) -> None:
    home.mkdir()
    file = home / "config.toml"
    file.write_text(
        "port = 1\nweb = 3\n[odd]\na = 1\n[runs]\nmax_turn = 3\ndurability = 'x'\n[server]\nport = 5\n"
    )
    document = shell("config", "show", "--json").document
    sections = "is ignored; the sections are server, runs, approvals, permissions, web, log"
    assert document["warnings"] == [
        f"{file}: port, which is in no section, {sections}",
        f"{file}: web, which is in no section, {sections}",
        f"{file}: unknown section [odd] {sections}",
        f"{file}: unknown key [runs] max_turn is ignored; its keys are durability, sync_interval_ms, "
        "max_per_agent, max_age_days, grace_ms, max_turns, keep_free_bytes",
        f"{file}: [runs] durability is 'x': expected one of always, interval, os; the default is used",
    ]
    sources = {(each["section"], each["key"]): each["source"] for each in document["settings"]}
    assert (sources["server", "port"], sources["runs", "durability"]) == (str(file), "default")


def test_a_setting_that_cannot_be_used_is_exit_2(shell: Shell, home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text("[server]\nport = 'many'\n")
    assert shell("config", "show").code == 2


# completion


def test_a_shell_that_is_not_known_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", "tcsh"]) == 2
    assert "tcsh" in capsys.readouterr().err


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_a_completion_script_knows_every_command(shell_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell_name]) == 0
    out = capsys.readouterr().out
    assert all(word in out for name in COMMANDS for word in name.split())


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not here")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["run"], "runs"),
        (["runs", "sh"], "show"),
        (["runs", "export", "--fo"], "--format --force"),
        (["runs", "export", "--format", "js"], "jsonl json"),
        (["runs", "export", "-o", ""], ""),
        (["runs", "ls", "--home", ""], ""),
        (["runs", "show", "x", "--no"], "--no-pager"),
        (["status", "--j"], "--json"),
        (["completion", ""], "bash zsh fish --help"),
    ],
)
def test_tab_offers_commands_flags_and_the_words_they_take(
    typed: list[str], offered: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["completion", "bash"]) == 0
    words = " ".join(f"'{word}'" for word in ["car-trio", *typed])
    line = f"COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _car_trio; echo ${{COMPREPLY[@]}}"
    script = f"{capsys.readouterr().out}\n{line}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{offered}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_looks_at_a_home_can_be_told_which(name: str) -> None:
    module, _, function = COMMANDS[name].place.partition(":")
    command = getattr(import_module(f"car_trio.cli.{module}"), function)
    assert ("home" in options(command)) == (name not in {"demo", "completion"})


# doctor


def complaints(shell: Shell, *flags: str) -> dict[str, str]:
    document = shell("doctor", "--json", *flags).document
    return {each["check"]: each["what"] for each in document["findings"] if each["level"] != "ok"}


@pytest.fixture
def healthy(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(home, A, whole(A))
    RunStore(home).reindex(lambda: None)
    monkeypatch.setenv("CAR_TRIO_SERVER_PORT", "0")
    return home


def test_a_healthy_home_has_no_complaints_and_twenty_checks_were_made(shell: Shell, healthy: Path) -> None:
    assert len(doctor.CHECKS) >= 20
    assert complaints(shell) == {}
    assert shell("doctor").code == 0


def test_doctor_mends_permissions_only_when_asked(shell: Shell, healthy: Path) -> None:
    (healthy / "runs").chmod(0o755)
    (healthy / "catalog.sqlite").chmod(0o644)
    assert set(complaints(shell)) == {"private_directories", "private_files"}
    assert shell("doctor").code == 1
    assert (healthy / "runs").stat().st_mode & 0o077
    assert shell("doctor", "--fix").code == 0
    assert complaints(shell) == {}


def test_doctor_names_damage_torn_tails_and_runs_without_an_end(shell: Shell, healthy: Path) -> None:
    torn = RunRef("agent", "torn")
    path = write(healthy, torn, [started(torn), b"{"], tail=b"half")
    found = shell("doctor", "--json").document["findings"]
    said = [each["what"] for each in found if each["check"] == "damage" and each["level"] != "ok"]
    assert said == [
        "run torn line 2: not a record",
        "4 torn bytes at the ends of runs: left by a crash",
        "1 runs have no end",
    ]
    assert "older than the files of 1 runs" in complaints(shell)["catalog_agrees"]
    before = path.read_bytes()
    shell("doctor", "--fix")
    assert path.read_bytes() == before, "no repair ever touches a run"


def test_doctor_takes_away_what_a_removal_left_that_was_interrupted_and_no_other_file(
    shell: Shell, healthy: Path
) -> None:
    layout = Layout(healthy)
    left, lost, whole = (RunRef("agent", name) for name in ("left", "lost", "whole"))
    for ref in (left, lost, whole):
        write(healthy, ref, [started(ref), b"{}"])
        layout.run_file(ref, 2).write_bytes(b"{}\n")
    for ref in (left, lost):
        layout.run_file(ref).unlink()
    row = CatalogRow(run_id="left", agent_id="agent", intent="i", started_at="2026-01-01T00:00:00Z")
    layout.deleted_runs.write_bytes(
        b"half of a l\n" + tombstone(row, "by hand", "2026-01-02T00:00:00Z") + b"\n"
    )
    said = [
        each["what"]
        for each in shell("doctor", "--json").document["findings"]
        if each["check"] == "leftovers"
    ]
    assert [text.rpartition("/")[2] for text in said] == [
        "left~2.jsonl is left of a removed run",
        "lost~2.jsonl continues run lost, whose first file is missing",
    ]
    shell("doctor", "--fix")
    there = [layout.run_file(ref, 2).exists() for ref in (left, lost, whole)]
    assert there == [False, True, True]


def test_doctor_names_what_lies_among_the_runs_and_is_none(
    shell: Shell, healthy: Path, tmp_path: Path
) -> None:
    (healthy / "runs" / "agent" / "notes.txt").write_text("x")
    (healthy / "runs" / "Stranger").mkdir()
    (healthy / "runs" / "agent" / "old.torn").write_text("x")
    what = [
        each["what"]
        for each in shell("doctor", "--json").document["findings"]
        if each["check"] == "strangers"
    ]
    assert len(what) == 2
    assert "torn_files" in complaints(shell)
    shutil.rmtree(healthy / "run")
    (healthy / "run").symlink_to(tmp_path)
    assert "links" in complaints(shell)


def test_doctor_names_settings_that_are_unknown_or_risky(shell: Shell, healthy: Path) -> None:
    (healthy / "config.toml").write_text("[server]\nauth = false\n[runs]\ndurability = 'os'\nodd = 1\n")
    assert set(complaints(shell)) == {"config_keys", "exposure", "durability"}


def test_doctor_names_the_file_and_line_of_a_policy_that_stops_every_plan(
    shell: Shell, healthy: Path
) -> None:
    (healthy / "policies").mkdir(mode=0o700)
    (healthy / "policies" / "good.toml").write_text("deny_tool = ['drop_database']\n")
    assert complaints(shell) == {}
    (healthy / "policies" / "typo.toml").write_text("\ndeny_tool = 5\n")
    assert complaints(shell)["policies"].startswith("policies/typo.toml, line 2: Expected array, got int")
    assert shell("doctor").code == 1


def test_doctor_names_a_pattern_that_does_not_compile_and_a_file_in_the_place_of_the_policies(
    shell: Shell, healthy: Path
) -> None:
    (healthy / "policies").mkdir(mode=0o700)
    (healthy / "policies" / "odd.toml").write_text(
        "\ndeny_tool_param_matching = [{tool = 'deploy', param = 'x', matches = '('}]\n"
    )
    said = "policies/odd.toml, line 2: the pattern does not compile, so tool 'deploy' is denied"
    assert complaints(shell) == {"policies": said}
    shutil.rmtree(healthy / "policies")
    (healthy / "policies").write_text("")
    said = f"{healthy / 'policies'}: Not a directory: no plan is run and no tool registered"
    assert complaints(shell) == {"policies": said}


def test_doctor_names_a_catalog_that_is_not_trusted(shell: Shell, healthy: Path) -> None:
    (healthy / "run" / "clean-stop").unlink()
    assert "reindex" not in complaints(shell)["catalog"]
    assert "not trusted" in complaints(shell)["catalog"]


def test_doctor_names_what_lies_in_the_place_of_a_run(shell: Shell, healthy: Path) -> None:
    folder = next((healthy / "runs").glob("*/"))
    (folder / "k1.jsonl").mkdir()
    os.mkfifo(folder / "k2.jsonl")
    found = [
        each["what"] for each in shell("doctor", "--json").document["findings"] if "is no run" in each["what"]
    ]
    assert len(found) == 2


def test_doctor_says_when_the_holder_of_the_store_does_not_answer(
    shell: Shell, healthy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAR_DAEMON_URL", "ws://127.0.0.1:1")
    with hold_lock(Layout(healthy)):
        assert "does not answer" in complaints(shell)["daemon"]
        assert shell("status").code == 3


def test_a_check_that_cannot_look_is_a_finding(
    shell: Shell, healthy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: checks.Patient) -> checks.Found:
        raise PermissionError(13, "Permission denied", "/x")
        yield

    monkeypatch.setattr(doctor, "CHECKS", [broken])
    assert "cannot look" in complaints(shell)["broken"]


def test_a_run_from_the_future_and_a_full_disk_are_named(
    shell: Shell, healthy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = RunRef("agent", "late")
    write(healthy, late, whole(late, at="2999-01-01T00:00:00.000000Z"))
    RunStore(healthy).reindex(lambda: None)
    monkeypatch.setenv("CAR_TRIO_RUNS_KEEP_FREE_BYTES", str(1 << 60))
    assert {"clock", "free_space"} <= set(complaints(shell))


# docs/commands.md


def test_the_documentation_names_every_command_and_the_fields_of_every_document(
    shell: Shell, healthy: Path
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    named = re.sub(r"`, `", "` `", text)
    assert [name for name in COMMANDS if f"`{name}" not in named and name.split()[-1] not in named] == []
    for words in (
        ["status"],
        ["doctor"],
        ["config", "show"],
        ["runs", "ls"],
        ["runs", "verify"],
        ["runs", "show", "run-a"],
    ):
        documented = next(
            line for line in text.splitlines() if line.startswith(f"| `{' '.join(words[:2])}` | `{{")
        )
        for field in shell(*words, "--json").document:
            assert field in documented
