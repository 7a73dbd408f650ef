"""What fits into a terminal: columns, folding, tables, and the pager."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_trio.cli import hosting, listing, screen, timeline
from car_trio.wire.host import Display, HostAgent
from car_trio.wire.runs import RunRef
from tests.cli.homes import Shell, ended, started, turn, write
from tests.store.store_scripts import row

A = RunRef("agent", "run-a")
WIDE = "整理文件夹并运行测试" * 20
OURS = re.compile("\x1b\\[[0-9]{1,2}m")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    for module in (screen, listing, timeline):
        monkeypatch.setattr(module, "is_terminal", lambda: True)
    monkeypatch.setattr("car_trio.cli.tail.is_terminal", lambda: True)
    monkeypatch.setattr("car_trio.cli.differing.is_terminal", lambda: True)


def plain(text: str) -> list[str]:
    return [OURS.sub("", line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("text", "count"),
    [("abc", 3), ("整理", 4), ("e\u0301", 1), ("\uff21", 2), ("\U0001f600", 2), ("\u2764\ufe0f", 2)],
)
def test_a_wide_character_takes_two_columns_and_a_mark_none(text: str, count: int) -> None:
    assert screen.columns(text) == count
    assert screen.columns(screen.padded(text, 9)) == 9


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("room", [1, 2, 3, 10, 11])
@pytest.mark.parametrize("text", ["plain words of no interest", WIDE, "e\u0301" * 40, "a整b理" * 9])
def test_what_is_folded_fits_and_says_that_it_was_cut(text: str, room: int) -> None:
    folded = screen.folded(text, room)
    assert screen.columns(folded) in {room, room - 1}
    assert folded.endswith("…")
    assert text.startswith(folded[:-1])


@pytest.mark.usefixtures("terminal")
def test_what_fits_is_shown_as_it_is() -> None:
    assert screen.folded("整理", 4) == "整理"
    assert screen.folded("abcd", 4) == "abcd"


@pytest.mark.parametrize("columns", [30, 40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize(
    "agent", ["a", "整理文件夹并运行测试文件夹并运行测试", "an-agent-with-quite-a-long-name"]
)
@pytest.mark.usefixtures("terminal")
def test_every_row_of_a_list_takes_one_line_of_the_terminal_and_columns_stand_under_their_headings(
    monkeypatch: pytest.MonkeyPatch, agent: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    end: dict[str, Any] = {
        "status": "completed",
        "outcome": "partial_success",
        "ended_at": "2026-11-20T09:09:09.0Z",
    }
    rows = [
        row(RunRef(agent, "0a1b2c3d-1111"), intent=WIDE, **end),
        row(RunRef("b", "7a1b2c3d-2222"), intent="short", turn_count=1999),
    ]
    head, *lines = plain("\n".join(listing.table(rows)))
    assert all(screen.columns(line) <= columns for line in [head, *lines])
    before = [
        line[: line.index(mark)]
        for line, mark in zip([head, *lines], ("INTENT", "整理文", "short"), strict=True)
        if agent == "a"
    ]
    assert len({screen.columns(text) for text in before}) <= 1
    assert "partial_success" in lines[0] or columns < 60


@pytest.mark.usefixtures("terminal")
def test_a_narrow_terminal_has_one_word_for_what_a_run_came_to(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(A, status="completed", outcome="failure"), row(RunRef("agent", "run-b"))]
    head, failed, still_open = plain("\n".join(listing.table(rows)))
    assert "OUTCOME" not in head
    assert ("failure" in failed, "completed" in failed, "in_progress" in still_open) == (True, False, True)
    monkeypatch.setenv("COLUMNS", "120")
    head, failed, _ = plain("\n".join(listing.table(rows)))
    assert "OUTCOME" in head
    assert "completed" in failed


@pytest.mark.usefixtures("terminal")
def test_at_forty_columns_a_run_says_what_it_came_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    ref = RunRef("agent", "0a1b2c3d-1111")
    rows = [row(ref, status="completed", outcome="partial_success", intent="Tidy the notes of all")]
    head, line = plain("\n".join(listing.table(rows)))
    assert (head.split(), line) == (["RUN", "STATUS", "INTENT"], "0a1b2c3d  partial_success  Tidy the not…")


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        (80, ["bob                  Bob             idle", "a-tidier-of-folders  Tidies folders  waiting"]),
        (40, ["bob               idle                  ", "a-tidier-of-fol…  waiting_for_approval"]),
    ],
)
@pytest.mark.usefixtures("terminal")
def test_every_agent_takes_one_line_and_its_id_stays(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, columns: int, lines: list[str]
) -> None:
    common: dict[str, Any] = {
        "kind": "worker", "capabilities": [], "project": None, "pid": None, "display": Display(),
        "updated_at": "", "metadata": msgspec.Raw(b"null"), "current_task": WIDE,
    }  # fmt: skip
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(hosting, "is_terminal", lambda: True)
    found = [
        HostAgent(id="bob", name="Bob", session_id=None, status="idle", **common),
        HostAgent(
            id="a-tidier-of-folders",
            name="Tidies folders",
            session_id="s",
            status="waiting_for_approval",
            **common,
        ),
    ]
    monkeypatch.setattr(hosting, "talk", lambda home, what: found)
    *told, count = plain(shell("agents", "ls").out)
    assert count == "2 agents"
    assert all(screen.columns(line) <= columns for line in told)
    assert [line.startswith(begin.rstrip()) for line, begin in zip(told, lines, strict=True)] == [True, True]


def test_a_table_of_nothing_has_no_head() -> None:
    assert list(listing.table([])) == []


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("words", [["show", "run-a"], ["tail", "run-a"], ["diff", "run-a", "run-b"], ["ls"]])
def test_no_line_is_longer_than_the_terminal_is_wide(shell: Shell, home: Path, words: list[str]) -> None:
    cli = {"cli": WIDE, "exit_code": 1, "timed_out": True, "output_tail": f"{WIDE}\n{WIDE}"}
    other = RunRef("整理文件夹并运行测试", "run-b")
    for ref, output in ((A, WIDE), (other, f"{WIDE}!")):
        fields: dict[str, Any] = {
            "output": output,
            "parameters": {"q": WIDE},
            "error": f"{output} no",
            "status": "failed",
        }
        cut = {f"output/{WIDE}": {"bytes": 40_000, "sha256": "ab" * 32}}
        odd = turn(0, tool=WIDE, **fields, cli_outcome=cli, truncated=cut, verifier_verdict="failed")
        write(home, ref, [started(ref, intent=WIDE), odd, turn(1, prompt=WIDE), ended(ref, summary=WIDE)])
    lines = plain(shell("runs", *words, *(["--no-pager"] if words[0] == "show" else [])).out)
    assert max(map(screen.columns, lines)) <= 80
    assert max(map(screen.columns, lines)) > 60


@pytest.mark.parametrize(("given", "used"), [(None, "FRX"), ("S", "S")])
def test_a_pager_is_told_to_show_colours_unless_the_user_has_told_it_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, used: str
) -> None:
    told = tmp_path / "told"
    pager = tmp_path / "pager"
    pager.write_text(
        f"#!{sys.executable}\nimport os, sys\nopen({str(told)!r}, 'w').write(os.environ['LESS'] + sys.stdin.read())\n"
    )
    pager.chmod(0o755)
    monkeypatch.setattr(screen, "is_terminal", lambda: True)
    monkeypatch.setenv("PAGER", str(pager))
    monkeypatch.delenv("LESS", raising=False)
    if given is not None:
        monkeypatch.setenv("LESS", given)
    screen.page(["line"])
    assert told.read_text() == f"{used}line\n"
