"""`runs ls`, `show`, `verify`, `diff` and `export`: what is in the files, and nothing that a terminal would obey."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from car_trio.cli import differing, listing, screen, timeline
from car_trio.cli.export import save
from car_trio.store.run_store import RunStore
from car_trio.wire.runs import AgentOutcome, Ended, Metrics, Outcome, RunRef
from tests.cli.homes import HOSTILE, Shell, ended, started, turn, whole, write
from tests.store.store_scripts import row

A = RunRef("agent", "run-a")
B = RunRef("agent", "run-b")
C = RunRef("other", "run-c")
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def three_runs(home: Path) -> None:
    write(home, A, whole(A, at="2026-11-20T09:00:00.000000Z"))
    write(home, B, [started(B, at="2026-11-20T09:30:00.000000Z"), turn(0, tool="think", prompt="Grüße")])
    fails = [started(C, intent="break it", at="2026-11-18T09:00:00.000000Z"), ended(C, status="failure")]
    write(home, C, fails)


def listed(shell: Shell, *flags: str) -> list[str]:
    return [run["run_id"] for run in shell("runs", "ls", "--json", *flags).document["runs"]]


# runs ls


@pytest.mark.parametrize("catalog", [False, True])
def test_runs_are_listed_newest_first_and_filtered(shell: Shell, home: Path, catalog: bool) -> None:
    three_runs(home)
    if catalog:
        RunStore(home).reindex(lambda: None)
    assert listed(shell) == ["run-b", "run-a", "run-c"]
    assert listed(shell, "--agent", "other") == ["run-c"]
    assert listed(shell, "--status", "in_progress") == ["run-b"]
    assert listed(shell, "--outcome", "failure") == ["run-c"]
    assert listed(shell, "--tool", "echo") == ["run-a"]
    assert listed(shell, "--since", "2026-11-20T09:10:00Z") == ["run-b"]
    assert listed(shell, "--until", "2026-11-19") == ["run-c"]
    assert listed(shell, "--limit", "1") == ["run-b"]
    assert listed(shell, "--limit", "0") == ["run-b", "run-a", "run-c"]


def test_an_age_is_a_time_before_now(shell: Shell, home: Path) -> None:
    write(home, A, whole(A, at="2001-01-01T00:00:00.000000Z"))
    assert listed(shell, "--until", "30d") == ["run-a"]
    assert listed(shell, "--since", "1.5h") == []


def test_grep_finds_text_inside_of_turns_however_its_json_was_written(shell: Shell, home: Path) -> None:
    three_runs(home)
    spelled = b'{"record":"turn","index":0,"output":"a\\/b \\u00e9t\\u00e9","verifier_verdict":"not_run"}'
    write(home, C, [started(C), spelled, ended(C)])
    assert listed(shell, "--grep", "OUT 2") == ["run-a"]
    assert listed(shell, "--grep", "grüsse") == ["run-b"]
    assert listed(shell, "--grep", "a/b Été") == ["run-c"]
    write(home, C, [started(C), spelled.replace(b"\\/", b"-"), ended(C)])
    assert listed(shell, "--grep", "a-b Été") == ["run-c"]
    assert listed(shell, "--grep", "nowhere") == []


def test_an_open_run_is_counted_from_its_file(shell: Shell, home: Path) -> None:
    path = write(home, B, [started(B)])
    RunStore(home).reindex(lambda: None)
    with path.open("ab") as file:
        file.write(turn(0) + b"\n")
    (run,) = shell("runs", "ls", "--json").document["runs"]
    assert run["turn_count"] == 1


def test_an_agent_without_a_run_is_a_no_with_the_nearest(shell: Shell, home: Path) -> None:
    three_runs(home)
    for flags in ([], ["--json"]):
        ran = shell("runs", "ls", "--agent", "agnet", *flags)
        assert (ran.code, ran.out) == (1, "")
        assert "there is no agent 'agnet'; the nearest is 'agent'" in ran.err
    assert shell("runs", "ls", "--agent", "other", "--tool", "echo").code == 0


@pytest.mark.parametrize("catalog", [False, True])
def test_a_tool_that_no_run_used_is_a_no_with_the_nearest(shell: Shell, home: Path, catalog: bool) -> None:
    three_runs(home)
    if catalog:
        RunStore(home).reindex(lambda: None)
    ran = shell("runs", "ls", "--tool", "ehco")
    assert (ran.code, ran.out) == (1, "")
    assert "there is no tool 'ehco'; the nearest is 'echo'" in ran.err
    ran = shell("runs", "ls", "--tool", "zzz", "--json")
    assert (ran.code, "car-trio runs show RUN lists what there is" in ran.err) == (1, True)


def test_a_list_that_was_cut_short_says_so(shell: Shell, home: Path) -> None:
    three_runs(home)
    for flags, more in (
        ([], False),
        (["--limit", "3"], False),
        (["--limit", "2"], True),
        (["--limit", "0"], False),
    ):
        ran = shell("runs", "ls", *flags)
        assert ("these are the newest 2; --limit 0 shows all" in ran.err) == more
        assert shell("runs", "ls", "--json", *flags).document["more"] == more


def test_a_search_that_was_cut_short_says_so_without_looking_further(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_runs(home)
    looked: list[str] = []
    holds = listing.holds

    def counted(files: Any, row: Any, text: str) -> bool:
        looked.append(row.run_id)
        return holds(files, row, text)

    monkeypatch.setattr(listing, "holds", counted)
    assert shell("runs", "ls", "--grep", "Grüße", "--limit", "1", "--json").document["more"] is True
    assert looked == ["run-b"]


def test_nothing_took_less_than_no_time(shell: Shell, home: Path) -> None:
    assert [screen.lasting(seconds) for seconds in (-0.004, -0.0, 0.0)] == ["0.00 s"] * 3
    assert [screen.lasting(seconds) for seconds in (-16200, -1, -0.005, None)] == ["-"] * 4
    write(home, A, [started(A, at="2026-11-20T09:00:00.002000Z"), ended(A, at="2026-11-20T09:00:00.000000Z")])
    assert "  0.00 s  " in shell("runs", "ls").out


def test_no_runs_are_said_to_be_none_and_a_reading_command_makes_no_home(shell: Shell, home: Path) -> None:
    assert shell("runs", "ls").out == f"no runs: there is nothing at {home}\n"
    assert not home.exists()
    home.mkdir()
    assert shell("runs", "ls").out == "no runs\n"


def test_a_narrow_terminal_gets_as_much_of_the_ids_as_tells_them_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [row(RunRef("agent", "0a1b2c3d-1111")), row(RunRef("agent", "0a1b2c3d-2222"))]
    whole = [line.split()[0] for line in listing.table(rows)]
    monkeypatch.setattr(listing, "is_terminal", lambda: True)
    monkeypatch.setattr(listing, "width", lambda: 80)
    short = [line.split()[0] for line in listing.table(rows)]
    assert whole[1:] == ["0a1b2c3d-1111", "0a1b2c3d-2222"]
    assert short[1:] == ["0a1b2c3d-1", "0a1b2c3d-2"]
    assert [line.split()[0] for line in listing.table(rows[:1])][1:] == ["0a1b2c3d"]


@pytest.mark.parametrize(
    "words", [["--since", "soon"], ["--status", "odd"], ["--limit", "many"], ["--limit", "-1"], ["--odd"]]
)
def test_a_wrong_flag_is_usage(shell: Shell, words: list[str]) -> None:
    ran = shell("runs", "ls", *words)
    assert ran.code == 2
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--since", "-5m"], "--since wants a value, and '-5m' is taken for a flag; an age is written without a sign: --since 5m"),
        (["--json", "--until", "-2h", "--limit", "3"], "an age is written without a sign: --until 2h"),
        (["--since=-5m"], "--since is '-5m': expected an age like 30d or 2h, without a sign, a date or an RFC 3339 time"),
        (["--since", "--json"], "--since wants a value, and '--json' is taken for a flag (car-trio"),
        (["--json=maybe"], "Invalid value for --json"),
        (["word", "--json"], "nothing more is expected at 'word'"),
    ],
)  # fmt: skip
def test_a_flag_without_its_value_says_how_that_is_written(shell: Shell, words: list[str], said: str) -> None:
    ran = shell("runs", "ls", *words)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert said in ran.err


# runs show


def test_a_run_is_shown_turn_by_turn(shell: Shell, home: Path) -> None:
    lines = [
        started(A),
        turn(0, tool="read", parameters={"p": 1}, output=[1], status="succeeded"),
        turn(1, prompt="hm", verifier_verdict="failed", policy_rejected=True, error="no way"),
        b"not json",
        b'{"record":"from the future","x":1}',
        ended(A, summary="all good"),
    ]
    write(home, A, lines, tail=b'{"record":"tu')
    out = shell("runs", "show", "run-a").out
    for said in (
        "read",
        "0.50 s",
        "succeeded",
        '← {"p":1}',
        "→ [1]",
        "says",
        "hm",
        "failed",
        "rejected",
        "✗ no way",
    ):
        assert said in out
    assert "line 4 is damaged" in out
    assert "from the future" in out
    assert "all good" in out
    assert "13 bytes after the last whole line" in out


def test_one_turn_is_shown_whole_and_one_that_is_not_there_is_a_no(shell: Shell, home: Path) -> None:
    write(home, A, whole(A))
    out = shell("runs", "show", "run-a", "--turn", "1").out
    assert '"out 1"' in out
    assert '"out 2"' not in out
    for missing in ("3", "-1", "99"):
        ran = shell("runs", "show", "run-a", "--turn", missing)
        assert (ran.code, ran.out) == (1, "")
        assert "has no turn" in ran.err


SHA = "ab" * 32
CUT = {"output/text": {"bytes": 40_960, "sha256": SHA}}
TAIL = "collected 3 items\nFAILED test_x.py::test_y\n"


def failing(output: Any = UNSET, **cli: Any) -> bytes:
    outcome = {"cli": "pytest", "exit_code": 1, "timed_out": False, "output_tail": TAIL, **cli}
    return turn(0, tool="run", output=output, cli_outcome=outcome, truncated=CUT)


@pytest.mark.parametrize("flags", [[], ["--full"], ["--turn", "0"]])
def test_what_a_program_said_and_what_was_cut_is_shown(shell: Shell, home: Path, flags: list[str]) -> None:
    write(home, A, [started(A), failing("x"), ended(A)])
    out = shell("runs", "show", "run-a", *flags).out
    assert "$ pytest  exit 1" in out
    assert "collected 3 items" in out
    assert "FAILED test_x.py::test_y" in out
    assert f"output/text was cut when it was recorded: it had 41.0 kB, SHA-256 {SHA}" in out


def test_in_a_terminal_a_program_that_failed_is_shown_with_its_last_line(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("car_trio.cli.timeline.is_terminal", lambda: True)
    write(home, A, [started(A), failing({"output_tail": TAIL}), ended(A)])
    assert "⋮ … FAILED test_x.py::test_y\n" in shell("runs", "show", "run-a").out
    assert "⋮" not in shell("runs", "show", "run-a", "--full").out, "the output has it"
    write(home, A, [started(A), failing({"output_tail": TAIL}, exit_code=0), ended(A)])
    assert "⋮" not in shell("runs", "show", "run-a").out


@pytest.mark.parametrize(
    ("cli", "said"),
    [
        ({"exit_code": None, "timed_out": True}, "$ pytest  no exit code, timed out"),
        ({"exit_code": 0, "cli": None, "output_tail": ""}, "$ exit 0"),
    ],
)
def test_how_a_program_ended_is_said(shell: Shell, home: Path, cli: dict[str, Any], said: str) -> None:
    write(home, A, [started(A), failing(**cli), ended(A)])
    assert f"       {said}\n" in shell("runs", "show", "run-a").out


def an_end(**fields: Any) -> bytes:
    piece = msgspec.Raw(b'{"kind":"tool_result","description":"3 passed"}')
    outcome = AgentOutcome(status="success", evidence=[piece, piece], metrics=Metrics(**fields))
    return msgspec.json.encode(
        Ended(run_id="run-a", agent_id="agent", termination=Outcome(outcome), ended_at="2026-11-20T10:00:00Z")
    )


def test_what_an_agent_gave_as_evidence_and_counted_is_shown(shell: Shell, home: Path) -> None:
    write(home, A, [started(A), an_end(turns=3, tool_calls=1, retries=2, duration_ms=1500.0)])
    out = shell("runs", "show", "run-a").out
    assert out.count("evidence") == 1
    assert "counted   3 turns, 1 tool call, 2 retries, 1.50 s" in out
    assert shell("runs", "show", "run-a", "--full").out.count('evidence  {"kind":"tool_result"') == 2
    write(home, A, [started(A), ended(A)])
    out = shell("runs", "show", "run-a").out
    assert "evidence" not in out
    assert "counted" not in out


def test_one_turn_is_shown_with_how_long_it_took_and_what_it_was(shell: Shell, home: Path) -> None:
    asked = turn(2, tool="t", action_id="a-1", proposal_id="p-1")
    write(home, A, [started(A), turn(0), turn(1), asked, b"odd", turn(4), ended(A)])
    out = shell("runs", "show", "run-a", "--turn", "2").out
    assert "1.00 s" in out
    assert "recorded 2026-11-20T09:00:02.500000Z, action a-1, proposal p-1" in out
    assert "0.50 s" in shell("runs", "show", "run-a", "--turn", "0").out
    assert " - " in f"{shell('runs', 'show', 'run-a', '--turn', '4').out} ".replace("-\n", "- ")


def test_in_a_terminal_a_run_begins_at_a_time_that_people_read(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home, A, whole(A))
    assert "began   2026-11-20T09:00:00.000000Z\n" in shell("runs", "show", "run-a").out
    for module in (screen, timeline):
        monkeypatch.setattr(module, "is_terminal", lambda: True)
    out = shell("runs", "show", "run-a", "--no-pager").out
    assert re.search("2026-11-20 09:00:00 UTC, .* ago\n", out)


def test_raw_and_json_show_the_records_as_they_are(shell: Shell, home: Path) -> None:
    lines = whole(A)
    write(home, A, lines)
    assert shell("runs", "show", "run-a", "--raw").out.encode() == b"".join(line + b"\n" for line in lines)
    ran = shell("runs", "show", "run-a", "--json")
    assert len(ran.out.splitlines()) == 1
    document = ran.document
    assert document["records"] == [json.loads(line) for line in lines]
    assert (document["run"]["run_id"], document["torn_bytes"]) == ("run-a", 0)


def test_a_long_run_is_read_page_by_page_while_it_is_shown(
    home: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from car_trio.cli.files import Files

    write(home, A, whole(A, 1000))
    pages: list[int] = []
    read = Files.page

    def counted(self: Files, *args: object) -> object:
        pages.append(1)
        return read(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Files, "page", counted)
    records = Files(str(home)).records(A)
    next(records)
    assert len(pages) == 1
    assert len(list(records)) == 1001
    assert len(pages) == 6


def test_a_beginning_of_an_id_names_the_only_run_it_fits(shell: Shell, home: Path) -> None:
    three_runs(home)
    ran = shell("runs", "show", "run-")
    assert ran.code == 1
    assert "3 runs begin with 'run-': run-a, run-b, run-c" in ran.err
    write(home, RunRef("x", "zz-9"), whole(RunRef("x", "zz-9")))
    assert "zz-9" in shell("runs", "show", "zz").out


@pytest.mark.parametrize(
    "words",
    [
        ["show", "rin-a"],
        ["tail", "rin-a"],
        ["export", "rin-a"],
        ["verify", "rin-a"],
        ["rm", "rin-a"],
        ["diff", "run-a", "rin-a"],
    ],
)
def test_a_run_that_does_not_exist_is_a_no_with_the_nearest(
    shell: Shell, home: Path, words: list[str]
) -> None:
    write(home, A, whole(A))
    ran = shell("runs", *words)
    assert ran.code == 1
    assert ran.err == "car-trio: there is no run 'rin-a'; the nearest is 'run-a'\n"


def test_a_run_that_nothing_is_near_to_is_a_no_that_says_where_to_look(shell: Shell, home: Path) -> None:
    write(home, A, whole(A))
    ran = shell("runs", "show", "zzz")
    assert (ran.code, ran.err) == (
        1,
        "car-trio: there is no run 'zzz'; car-trio runs ls lists what there is\n",
    )


def test_words_that_a_command_does_not_take_name_that_commands_help(shell: Shell, home: Path) -> None:
    ran = shell("runs", "diff", "one")
    assert ran.code == 2
    assert ran.err.endswith("(car-trio runs diff --help shows its options)\n")


# What an agent wrote


HOSTILE_RUN = RunRef("agent", "evil")


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize(
    "words",
    [
        ["ls"],
        ["ls", "--json"],
        ["show", "evil", "--no-pager"],
        ["show", "evil", "--full", "--no-pager"],
        ["show", "evil", "--raw", "--no-pager"],
        ["show", "evil", "--json"],
        ["tail", "evil"],
        ["tail", "evil", "--json"],
        ["export", "evil", "--format", "md"],
        ["export", "evil", "--format", "html"],
        ["diff", "evil", "run-a"],
    ],
)
def test_nothing_that_an_agent_wrote_reaches_the_terminal_as_a_command(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], terminal: bool
) -> None:
    evil = [
        started(HOSTILE_RUN, intent=HOSTILE),
        turn(
            0,
            tool=HOSTILE,
            prompt=HOSTILE,
            parameters={HOSTILE: HOSTILE},
            output=HOSTILE,
            error=HOSTILE,
            status=HOSTILE,
        ),
        '{"record":"odd","x":"\u202e\x9b\x7f"}'.encode(),
        ended(HOSTILE_RUN, summary=HOSTILE),
    ]
    write(home, HOSTILE_RUN, evil)
    write(home, A, whole(A))
    monkeypatch.setattr(screen, "is_terminal", lambda: terminal)
    out = shell("runs", *words).out
    assert out
    ours = re.sub("\x1b\\[[0-9]{1,2}m", "", out) if terminal else out
    assert not OBEYED.search(ours)


def test_an_export_that_cannot_be_written_is_no_damage(shell: Shell, home: Path, tmp_path: Path) -> None:
    write(home, A, [started(A), ended(A)])
    ran = shell("runs", "export", "run-a", "--output", str(tmp_path))
    assert ran.code == 2
    assert f"--output is '{tmp_path}', which cannot be written: Is a directory" in ran.err


def test_an_export_replaces_a_file_only_when_it_is_told_to_and_is_for_its_user_alone(
    shell: Shell, home: Path, tmp_path: Path
) -> None:
    path = write(home, A, whole(A))
    target, link = tmp_path / "kept", tmp_path / "link"
    target.write_text("kept")
    target.chmod(0o644)
    link.symlink_to(target)
    ran = shell("runs", "export", "run-a", "-o", str(link))
    assert (ran.code, target.read_text()) == (1, "kept")
    assert f"'{link}' is there already; choose another --output, or use --force to replace it" in ran.err
    assert shell("runs", "export", "run-a", "-o", str(link), "--force").code == 0
    assert (link.is_symlink(), target.read_bytes()) == (True, path.read_bytes())
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert shell("runs", "export", "run-a", "-o", str(tmp_path / "new")).code == 0
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


@pytest.mark.parametrize("failure", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_an_export_that_breaks_off_leaves_nothing_and_what_was_there_as_it_was(
    home: Path, tmp_path: Path, failure: BaseException
) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise failure

    folder = tmp_path / "exports"
    folder.mkdir()
    target = folder / "out"
    for before in (None, b"whole"):
        with pytest.raises(type(failure)):
            save(broken(), str(target), force=True)
        assert [path.read_bytes() for path in folder.iterdir()] == ([] if before is None else [before])
        target.write_bytes(b"whole")


def test_an_export_goes_into_what_is_no_file_as_it_is(shell: Shell, home: Path) -> None:
    write(home, A, whole(A))
    ran = shell("runs", "export", "run-a", "-o", "/dev/full")
    assert (ran.code, "which cannot be written: No space left on device" in ran.err) == (2, True)
    assert shell("runs", "export", "run-a", "-o", "/dev/null").code == 0
    assert Path("/dev/null").is_char_device()


def test_an_export_to_a_terminal_is_escaped_and_to_a_file_is_exact(
    shell: Shell, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(home, A, [started(A, intent="\u202e\x9b"), ended(A)])
    target = tmp_path / "out.jsonl"
    assert shell("runs", "export", "run-a", "--output", str(target)).code == 0
    assert target.read_bytes() == path.read_bytes()
    monkeypatch.setattr("car_trio.cli.export.is_terminal", lambda: True)
    out = shell("runs", "export", "run-a").out
    assert not OBEYED.search(out)
    assert [json.loads(line) for line in out.splitlines()] == [
        json.loads(line) for line in path.read_bytes().splitlines()
    ]


# runs verify


def test_a_whole_store_is_verified_and_counted(shell: Shell, home: Path) -> None:
    three_runs(home)
    RunStore(home).reindex(lambda: None)
    ran = shell("runs", "verify")
    assert (ran.code, ran.out) == (0, "3 runs, 9 records, 4 turns, 1 still open: 0 faults\n")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([started(A), turn(0), b"{", ended(A)], "line 3: not a record"),
        ([started(A), turn(0), turn(2), ended(A)], "line 3: turn 2 where turn 1 belongs"),
        ([started(A), turn(0), turn(0), ended(A)], "line 3: turn 0 where turn 1 belongs"),
        ([turn(0), ended(A)], "line 1: there is no start"),
        ([started(A), started(A), ended(A)], "line 2: a start that is not the first record"),
        ([started(A), ended(A), ended(A)], "line 3: a second end"),
        ([started(A), ended(A), turn(0)], "line 3: a turn after the end"),
        ([started(B), ended(A)], "line 1: it names run run-b of agent"),
        ([started(A), b'{"record":"turn"}', ended(A)], "line 2: a turn of a shape that cannot be read"),
    ],
)
def test_verify_names_the_line_of_every_damage(
    shell: Shell, home: Path, lines: list[bytes], said: str
) -> None:
    write(home, A, lines)
    ran = shell("runs", "verify", "run-a")
    assert ran.code == 5
    assert ran.out.splitlines()[0] == f"run run-a {said}"
    assert shell("runs", "verify", "--json").document["faults"][0]["what"] == said.partition(": ")[2]


def test_a_damaged_line_stands_for_a_turn_and_shifts_nothing(shell: Shell, home: Path) -> None:
    write(home, A, [started(A), turn(0), b"{", turn(2), ended(A)])
    assert len(shell("runs", "verify", "--json").document["faults"]) == 1


def test_a_catalog_that_says_something_else_is_a_fault(shell: Shell, home: Path) -> None:
    path = write(home, A, whole(A))
    RunStore(home).reindex(lambda: None)
    path.write_bytes(b"".join(line + b"\n" for line in whole(A, 2)))
    ran = shell("runs", "verify")
    assert ran.code == 5
    assert "the catalog says something else" in ran.out


# runs diff


def test_the_same_work_is_the_same_however_its_json_was_written(shell: Shell, home: Path) -> None:
    write(home, A, [started(A), turn(0, tool="t", parameters={"a": 1, "b": 2}), ended(A)])
    other = (
        b'{"record":"turn","index":0,"tool":"t","parameters":{ "b":2, "a":1 },"verifier_verdict":"not_run"}'
    )
    write(home, B, [started(B), other, ended(B)])
    ran = shell("runs", "diff", "run-a", "run-b")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == "1 turn the same, 0 different"


def test_the_first_divergence_is_named_and_the_rest_is_aligned_behind_it(shell: Shell, home: Path) -> None:
    def calls(ref: RunRef, *names: str) -> list[bytes]:
        return [started(ref), *(turn(n, tool=name, output=name) for n, name in enumerate(names)), ended(ref)]

    write(home, A, calls(A, "look", "edit", "test"))
    write(home, B, calls(B, "look", "ask", "edit", "test"))
    ran = shell("runs", "diff", "run-a", "run-b", "--json")
    assert ran.code == 1
    assert ran.document["same"] == 3
    assert ran.document["first"] == {"kind": "only_b", "label": "ask", "turn_b": 1}
    assert "the first divergence" in shell("runs", "diff", "run-a", "run-b").out


def test_another_result_of_the_same_call_differs_unless_only_calls_are_compared(
    shell: Shell, home: Path
) -> None:
    write(home, A, [started(A), turn(0, tool="t", output=1), ended(A)])
    write(home, B, [started(B), turn(0, tool="t", output=2), ended(B)])
    assert shell("runs", "diff", "run-a", "run-b", "--json").document["first"]["kind"] == "result"
    assert shell("runs", "diff", "run-a", "run-b", "--calls-only").code == 0


RAN = {"cli": "pytest", "exit_code": 0, "timed_out": False, "output_tail": "3 passed"}


@pytest.mark.parametrize(
    ("mine", "yours", "fields", "said"),
    [
        ({"cli_outcome": RAN}, {"cli_outcome": RAN | {"exit_code": 1}}, ["exit_code"], "exit code: 0 → 1"),
        (
            {"cli_outcome": RAN},
            {"cli_outcome": RAN | {"timed_out": True}},
            ["timed_out"],
            "timed out: false → true",
        ),
        (
            {"cli_outcome": RAN},
            {"cli_outcome": RAN | {"output_tail": "no"}},
            ["output_tail"],
            "3 passed → no",
        ),
        ({}, {"policy_rejected": True}, ["policy"], "policy: nothing → rejected"),
        (
            {"status": "succeeded"},
            {"status": "failed", "error": "no"},
            ["status", "error"],
            "error: nothing → no",
        ),
        (
            {"verifier_verdict": "passed"},
            {"verifier_verdict": "failed"},
            ["verdict"],
            "verdict: passed → failed",
        ),
        ({"output": None}, {}, [], "1 turn the same"),
        ({"policy_rejected": False}, {}, [], "1 turn the same"),
    ],
)
def test_whatever_came_of_a_call_is_compared_and_said(
    shell: Shell, home: Path, mine: dict[str, Any], yours: dict[str, Any], fields: list[str], said: str
) -> None:
    write(home, A, [started(A), turn(0, tool="t", **mine), ended(A)])
    write(home, B, [started(B), turn(0, tool="t", **yours), ended(B)])
    ran = shell("runs", "diff", "run-a", "run-b", "--json")
    assert [each["fields"] for each in ran.document["differences"]] == ([fields] if fields else [])
    assert ran.code == (1 if fields else 0)
    assert said in shell("runs", "diff", "run-a", "run-b").out


def test_long_values_are_shown_from_where_they_part(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = "the same words again and again " * 40
    write(home, A, [started(A), turn(0, tool="t", output=f"{same}ONE"), ended(A)])
    write(home, B, [started(B), turn(0, tool="t", output=f"{same}TWO"), ended(B)])
    lines = shell("runs", "diff", "run-a", "run-b").out.splitlines()
    assert [f'      - "{same}ONE"', f'      + "{same}TWO"'] == lines[4:6]
    for module in (screen, differing):
        monkeypatch.setattr(module, "is_terminal", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    lines = shell("runs", "diff", "run-a", "run-b").out.splitlines()
    assert [line[-4:] for line in lines[4:6]] == ['ONE"', 'TWO"']
    assert lines[4].startswith("      - …")


def test_calls_that_are_repeated_are_aligned_as_well_as_can_be(shell: Shell, home: Path) -> None:
    def polls(ref: RunRef, names: str) -> list[bytes]:
        return [started(ref), *(turn(n, tool=name) for n, name in enumerate(names)), ended(ref)]

    write(home, A, polls(A, "abxxabab"))
    write(home, B, polls(B, "ababyyab"))
    assert shell("runs", "diff", "run-a", "run-b", "--json").document["same"] == 6


def test_a_line_that_cannot_be_read_is_the_same_as_no_other(shell: Shell, home: Path) -> None:
    for ref in (A, B):
        write(home, ref, [started(ref), turn(0), b"{odd", turn(2), ended(ref)])
    result = shell("runs", "diff", A.run_id, B.run_id)
    assert result.code == 1
    assert result.out.count("a line that cannot be read") == 2
    assert "2 turns the same, 2 different" in result.out


def test_another_outcome_is_a_difference(shell: Shell, home: Path) -> None:
    write(home, A, [started(A), ended(A)])
    write(home, B, [started(B), ended(B, status="failure")])
    ran = shell("runs", "diff", "run-a", "run-b")
    assert ran.code == 1
    assert ran.out.splitlines()[-1] == "0 turns the same, 0 different; another outcome: success, failure"


# runs export


def exported(shell: Shell, tmp_path: Path, form: str, *runs: str) -> bytes:
    target = tmp_path / "exported"
    assert shell("runs", "export", *runs, "--format", form, "-o", str(target), "--force").code == 0
    return target.read_bytes()


def test_jsonl_is_the_file_and_json_holds_the_same_records(shell: Shell, home: Path, tmp_path: Path) -> None:
    path = write(home, A, whole(A))
    write(home, B, whole(B))
    assert exported(shell, tmp_path, "jsonl", "run-a") == path.read_bytes()
    document = json.loads(exported(shell, tmp_path, "json", "run-a", "run-b"))
    assert [run["run"]["run_id"] for run in document["runs"]] == ["run-a", "run-b"]
    assert document["runs"][0]["records"] == [json.loads(line) for line in whole(A)]


def test_html_is_one_file_in_which_payloads_are_text(shell: Shell, home: Path, tmp_path: Path) -> None:
    script = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    write(
        home,
        A,
        [
            started(A, intent=script),
            turn(0, tool=script, output=script, error=script),
            b"<b>",
            ended(A, summary=script),
        ],
    )
    text = exported(shell, tmp_path, "html", "run-a").decode()
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text
    assert "default-src 'none'" in text
    assert "http://" not in text
    assert "https://" not in text


def test_markdown_keeps_payloads_inside_of_their_fences(shell: Shell, home: Path, tmp_path: Path) -> None:
    write(home, A, [started(A, intent="# [x](y) <b>"), turn(0, prompt="```\n# out\n````"), b"odd", ended(A)])
    text = exported(shell, tmp_path, "md", "run-a").decode()
    assert text.startswith("# \\# \\[x\\](y) \\<b\\>\n")
    assert "`````\n```\n# out\n````\n`````" in text


def test_markdown_makes_no_link_of_an_address_that_an_agent_wrote(
    shell: Shell, home: Path, tmp_path: Path
) -> None:
    intent = "see https://evil.example/a and www.evil.example or mailto:a@evil.example at 09:00"
    write(home, A, [started(A, intent=intent), ended(A)])
    text = exported(shell, tmp_path, "md", "run-a").decode()
    shown = "see https\\://evil.example/a and www\\.evil.example or mailto\\:a\\@evil.example at 09:00"
    assert text.startswith(f"# {shown}\n")


@pytest.mark.parametrize("form", ["md", "html"])
def test_an_export_for_reading_shows_what_a_program_said_what_was_cut_and_what_the_agent_claimed(
    shell: Shell, home: Path, tmp_path: Path, form: str
) -> None:
    write(home, A, [started(A), failing("x"), an_end(turns=3)])
    text = exported(shell, tmp_path, form, "run-a").decode()
    for said in ("run · exit 1", "pytest  exit 1", TAIL.strip(), SHA, "3 passed", "3 turns"):
        assert said in text
    assert ('<details class="bad" open>' in text) == (form == "html")
    write(home, A, [started(A), failing({"output_tail": TAIL}, exit_code=0), ended(A)])
    text = exported(shell, tmp_path, form, "run-a").decode()
    assert "output tail" not in text
    assert "· exit" not in text
    assert "bad" not in text.partition("</style>")[2]


@pytest.mark.parametrize(
    ("fields", "is_bad"),
    [
        ({"status": "succeeded", "verifier_verdict": "passed"}, False),
        ({"status": "rejected"}, True),
        ({"status": "failed"}, True),
        ({"error": "no"}, True),
        ({"policy_rejected": True}, True),
        ({"verifier_verdict": "failed"}, True),
        ({"cli_outcome": RAN | {"timed_out": True}}, True),
        ({"cli_outcome": RAN}, False),
    ],
)
def test_a_turn_that_went_wrong_is_unfolded(
    shell: Shell, home: Path, tmp_path: Path, fields: dict[str, Any], is_bad: bool
) -> None:
    write(home, A, [started(A), turn(0, tool="t", **fields), ended(A)])
    assert (b'<details class="bad" open>' in exported(shell, tmp_path, "html", "run-a")) == is_bad


def test_otlp_spans_are_derived_from_run_and_turn(shell: Shell, home: Path, tmp_path: Path) -> None:
    lines = [
        started(A),
        turn(0, tool="read", output={"a": 1}, status="succeeded"),
        turn(1, prompt="hm"),
        turn(2, tool="write", error="no"),
    ]
    write(home, A, [*lines, ended(A)])
    first = exported(shell, tmp_path, "otlp-json", "run-a")
    assert exported(shell, tmp_path, "otlp-json", "run-a") == first
    (resource,) = json.loads(first)["resourceSpans"]
    run, read, wrote = resource["scopeSpans"][0]["spans"]
    assert (run["name"], read["name"], wrote["name"]) == (
        "invoke_agent agent",
        "execute_tool read",
        "execute_tool write",
    )
    assert (len(run["traceId"]), len(run["spanId"])) == (32, 16)
    assert {span["traceId"] for span in (run, read, wrote)} == {run["traceId"]}
    assert {read["parentSpanId"], wrote["parentSpanId"]} == {run["spanId"]}
    assert len({run["spanId"], read["spanId"], wrote["spanId"]}) == 3
    assert (read["startTimeUnixNano"], read["endTimeUnixNano"]) == (
        "1795165200000000000",
        "1795165200500000000",
    )
    assert (read["status"]["code"], wrote["status"]) == (1, {"code": 2, "message": "no"})


# What a reading command loads


@pytest.mark.parametrize(
    "words",
    [
        ["runs", "ls"],
        ["runs", "show", "run-a"],
        ["runs", "verify"],
        ["runs", "tail", "run-a"],
        ["status"],
        ["--help"],
    ],
)
def test_a_reading_command_loads_neither_trio_nor_a_socket_nor_rich(home: Path, words: list[str]) -> None:
    write(home, A, whole(A))
    probe = (
        "import sys; from car_trio.cli.app import run; run(sys.argv[1:]);"
        "sys.exit(repr([n for n in sys.modules if n in ('trio', 'websockets', 'rich', 'trio_websocket')]))"
    )
    flags = [] if words == ["--help"] else ["--home", str(home)]
    done = subprocess.run(
        [sys.executable, "-c", probe, *words, *flags], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == "[]"
    assert done.stdout
