"""Terminals that lack characters, outputs that are full or closed, readers that have seen enough: never a traceback."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from car_trio.cli import streams
from car_trio.wire.runs import RunRef
from tests.cli.homes import whole, write

A = RunRef("agent", "run-a")
INTENT = "räume auf — 你好 😀"
PLACES = (["runs", "ls"], ["runs", "ls", "--json"], ["runs", "show", "run-a"], ["runs", "export", "run-a"])
HELP = (["--help"], ["runs", "--help"], ["--version"], ["runs", "ls", "--help"])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write(tmp_path / "home", A, whole(A, intent=INTENT))
    return tmp_path / "home"


def shell(home: Path, words: list[str], behind: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """`car-trio` in a real shell, with a redirection or a pipe behind it."""
    command = shlex.join([sys.executable, "-m", "car_trio", *words])
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} {behind}"],
        capture_output=True,
        check=False,
        env={**os.environ, "CAR_HOME": str(home), **variables},
    )


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii"}])
@pytest.mark.parametrize("words", PLACES)
def test_what_an_encoding_lacks_is_written_by_its_number(
    home: Path, words: list[str], variables: dict[str, str]
) -> None:
    ran = shell(home, words, "", **variables)
    assert (ran.returncode, ran.stderr) == (0, b"")
    if words == ["runs", "ls"]:
        said = ran.stdout.decode(variables["PYTHONIOENCODING"])
        assert r"uf \u2014 \u4f60\u597d \ud83d\ude00" in said
    if "--json" in words:
        said = ran.stdout.decode(variables["PYTHONIOENCODING"])
        assert json.loads(said)["runs"][0]["intent"] == INTENT


def test_in_a_terminal_it_is_a_question_mark_which_takes_one_column(home: Path) -> None:
    ours, theirs = pty.openpty()
    variables = {**os.environ, "CAR_HOME": str(home), "PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "car_trio", "runs", "ls"]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, check=False, env=variables)
    os.close(theirs)
    said = os.read(ours, 65536).decode("ascii")
    os.close(ours)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "r?ume auf ? ?? ?" in said


@pytest.mark.parametrize("words", [*PLACES, *HELP])
def test_a_full_output_is_one_line_that_says_so(home: Path, words: list[str]) -> None:
    ran = shell(home, words, ">/dev/full")
    assert ran.returncode == 2
    assert ran.stderr == (
        b"car-trio: standard output cannot be written: No space left on device; send it somewhere else\n"
    )


@pytest.mark.parametrize("words", [*PLACES, *HELP])
@pytest.mark.parametrize("behind", [">&-", "<&- >&-", "| head -c1 >/dev/null"])
def test_an_output_that_is_closed_or_read_no_further_is_no_mistake(
    home: Path, words: list[str], behind: str
) -> None:
    ran = shell(home, words, behind)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")


def test_a_mistake_is_not_told_on_the_output_when_nobody_hears_of_it(home: Path) -> None:
    ran = shell(home, ["runs", "show", "nope"], "2>&-")
    assert (ran.returncode, ran.stdout) == (1, b"")


@pytest.mark.parametrize(
    ("words", "code"),
    [(["runs", "show", "nope"], 1), (["nope"], 2), (["runs", "ls", "--odd"], 2), (["agents", "ls"], 3)],
)
@pytest.mark.parametrize("behind", ["2>/dev/full", "2>&1 >/dev/null | true", ">/dev/full 2>/dev/full"])
def test_a_mistake_that_nobody_takes_has_its_exit_code(
    home: Path, words: list[str], code: int, behind: str
) -> None:
    ran = shell(home, words, behind)
    assert (ran.returncode, ran.stdout, ran.stderr) == (code, b"", b"")


def test_what_is_damaged_is_damaged_also_when_nobody_reads_what(home: Path) -> None:
    write(home, RunRef("agent", "run-b"), [b"{"])
    assert shell(home, ["runs", "verify"], "| true").returncode == 5


def test_a_long_list_whose_reader_leaves_in_the_middle_ends_well(home: Path) -> None:
    for n in range(400):
        ref = RunRef("agent", f"run-{n}")
        write(home, ref, whole(ref, 1, intent="x" * 400))
    ran = shell(home, ["runs", "ls", "--limit", "0"], "| head -1")
    assert (ran.returncode, ran.stdout.count(b"\n"), ran.stderr) == (0, 1, b"")


def test_only_what_cannot_be_encoded_is_numbered() -> None:
    with pytest.raises(UnicodeDecodeError):
        streams.numbered(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"))
