"""Daemons in processes of their own, each gone when its test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.daemon_process import DaemonProcess


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[Callable[..., DaemonProcess]]:
    """Makes daemons, not started yet, on `tmp_path/home` unless the test says otherwise. Each is killed at the end."""
    made: list[DaemonProcess] = []

    def make(*flags: str, home: Path | None = None, config: str = "", **options: Any) -> DaemonProcess:
        daemon = DaemonProcess(home or tmp_path / "home", *flags, **options)
        if config:
            daemon.home.mkdir(mode=0o700, exist_ok=True)
            (daemon.home / "config.toml").write_text(config)
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.clean_up()


@pytest.fixture
def daemon(make_daemon: Callable[..., DaemonProcess]) -> DaemonProcess:
    """A serving daemon with every setting at its default."""
    return make_daemon().start()
