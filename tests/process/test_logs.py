"""What the daemon says on standard error, and how it says it to systemd's journal."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from car_trio.config import Log
from car_trio.nursery.logs import JournalLines, TextLines, configure
from tests.process.daemon_process import DaemonProcess


@pytest.fixture
def loggers() -> Iterator[None]:
    """The root logger as it was before."""
    root, ours = logging.getLogger(), logging.getLogger("car_trio")
    before = (root.handlers, root.level, ours.level)
    yield
    root.handlers, root.level, ours.level = before


def record(level: int, message: str, error: BaseException | None = None) -> logging.LogRecord:
    exc_info = None if error is None else (type(error), error, None)
    return logging.LogRecord("car_trio.x", level, "", 0, message, (), exc_info)


def stream_of(path: Path) -> str:
    status = path.stat()
    return f"{status.st_dev}:{status.st_ino}"


def test_a_line_begins_with_its_time() -> None:
    line = TextLines().format(record(logging.WARNING, "full"))
    assert line[4:5] + line[10:11] + line.split(" ", 1)[1] == "-Twarning car_trio.x: full"


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 3)]
)
def test_every_line_for_the_journal_begins_with_its_priority_and_has_no_time(
    level: str, priority: int
) -> None:
    number = logging.getLevelNamesMapping()[level.upper()]
    text = JournalLines(TextLines(stamped=False)).format(record(number, "a\nb\x1b[31m", ValueError("bad")))
    first, *rest = text.split("\n")
    assert first == f"<{priority}>{level:7} car_trio.x: a"
    assert len(rest) >= 2
    assert all(line.startswith(f"<{priority}>") for line in rest)
    assert "\x1b" not in text


@pytest.mark.parametrize("named", [None, "0:0", "nonsense"])
def test_a_stream_that_is_not_the_journal_gets_times(
    loggers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    with (tmp_path / "log").open("w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        configure(Log(), named)
        logging.getLogger("car_trio").warning("full")
    assert not (tmp_path / "log").read_text().startswith(("<", "warning"))


def test_without_a_standard_error_there_is_no_journal_either(
    loggers: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = (tmp_path / "log").open("w")
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    configure(Log(), "0:0")
    assert [type(handler.formatter) for handler in logging.getLogger().handlers] == [TextLines]


@pytest.mark.parametrize("kind", ["text", "json"])
def test_a_daemon_whose_standard_error_is_the_journal_writes_for_it(
    tmp_path: Path, make_daemon: Callable[..., DaemonProcess], kind: str
) -> None:
    daemon = make_daemon("--log-format", kind)
    daemon.log.touch()
    daemon.environment["JOURNAL_STREAM"] = stream_of(daemon.log)
    daemon.start()
    assert daemon.stop() == 0
    last = daemon.said().splitlines()[-1]
    assert last.startswith("<6>")
    if kind == "json":
        said: dict[str, Any] = json.loads(last.removeprefix("<6>"))
        assert said["message"].startswith("stopped")
    else:
        assert last == "<6>info    car_trio: stopped; 0 open runs ended as shutdown"
