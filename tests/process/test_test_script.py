"""What `scripts/test` answers to whoever asked: its exit code is what lands a change or refuses it."""

import subprocess
from pathlib import Path

import pytest

from tests.process.daemon_process import PATIENCE

SCRIPT = Path(__file__).parents[2] / "scripts" / "test"

# Stands for the interpreter: fails when one of its arguments is the word in `fails_at`.
PYTHON = """#!/bin/sh
for argument in "$@"; do
    [ "$argument" != "$(cat "$(dirname "$0")/fails_at")" ] || exit 1
done
"""


@pytest.mark.parametrize(
    ("fails_at", "code"),
    [
        ("nowhere", 0),
        ("tests/torture", 1),
        ("--ignore=tests/torture", 1),
        ("report", 1),
    ],
)
def test_the_exit_code_is_what_the_tests_and_the_coverage_said(
    tmp_path: Path, fails_at: str, code: int
) -> None:
    (tmp_path / "test").write_bytes(SCRIPT.read_bytes())
    (tmp_path / "fails_at").write_text(fails_at)
    interpreter = tmp_path / "python"
    interpreter.write_text(PYTHON)
    interpreter.chmod(0o700)
    (tmp_path / "environment.sh").write_text(f'root="{tmp_path}"\npython="{interpreter}"\nready() {{ :; }}\n')
    done = subprocess.run(
        ["bash", tmp_path / "test"], check=False, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (code, "")
