"""Each measurement runs to its end and says what it found. What it found is nobody's business here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bench.__main__ import BENCHES
from bench.figures import Figure, markdown, row
from bench.processes import MEMORY_FILE_SYSTEMS, file_system_of

ROOT = Path(__file__).resolve().parent.parent.parent
LONG = {"start", "grid"}
"""They start many daemons, one after the other, by the same means as the others."""


def test_every_measurement_gives_its_figures(tmp_path: Path) -> None:
    if file_system_of(Path(tempfile.gettempdir()).resolve()) in MEMORY_FILE_SYSTEMS:
        pytest.skip("the temporary directory is in memory: set TMPDIR to one on a disk")
    names = [name for name in BENCHES if name not in LONG]
    said, table = tmp_path / "figures.json", tmp_path / "table.md"
    command = [
        sys.executable,
        "-m",
        "bench",
        *names,
        "--quick",
        "--json",
        str(said),
        "--markdown",
        str(table),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        check=False,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(said.read_text())["figures"]
    assert {figure["bench"] for figure in found} == set(names)
    assert all(math.isfinite(figure["measured"]) for figure in found)
    assert len(table.read_text().splitlines()) == len(found) + 2


@pytest.mark.parametrize(
    ("figure", "verdict", "target"),
    [
        (Figure("b", "fast", 3.0, "x", at_least=3.0), "met", ">= 3"),
        (Figure("b", "slow", 2.9, "x", at_least=3.0), "MISSED", ">= 3"),
        (Figure("b", "small", 12.0, "KiB", at_most=12.0), "met", "<= 12"),
        (Figure("b", "large", 12.1, "KiB", at_most=12.0), "MISSED", "<= 12"),
        (Figure("b", "guarded", 5.0, "ms", at_most=7.0, is_guard=True), "met", "<= 7 (guard)"),
    ],
)
def test_a_figure_is_shown_with_its_target_and_whether_it_is_met(
    figure: Figure, verdict: str, target: str
) -> None:
    assert verdict in row(figure)
    cells = [cell.strip() for cell in markdown([figure]).splitlines()[-1].split("|")]
    assert cells[3:5] == [target, verdict.replace("MISSED", "**missed**")]


@pytest.mark.parametrize("targets", [{}, {"at_least": 1.0, "at_most": 2.0}])
def test_a_figure_has_exactly_one_target(targets: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="aimless: a figure has one target"):
        Figure("b", "aimless", 1.0, "x", **targets)
