"""A home of a test's own, and a shell on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.homes import Shell


@pytest.fixture(autouse=True)
def no_daemon_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CAR_HOME", "CAR_DAEMON_URL", "CAR_AUTH_TOKEN", "XDG_RUNTIME_DIR", "CAR_NO_APPROVALS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def width_of_a_usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def shell(home: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(home, capsys)
