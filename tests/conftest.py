"""Fixtures for everybody: threads that run inline in virtual time, and a limit on every wait."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, settings

# A test never asserts a time, and a machine that does other work is slow at any of them.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# A shell's job in the background ignores SIGINT, and so would every process that a test starts and means to interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def inline_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs what is meant for a thread on the loop: a virtual clock would jump ahead of a real thread."""

    async def run_sync(function: Callable[..., Any], *args: Any, **_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return function(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
