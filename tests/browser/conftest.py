"""A real browser in front of a real daemon.

The browser is the system's Chromium, without a window, with a profile that is thrown away; where there is none these
tests are skipped and say so. Every page is watched: an error in it, something that its policy refused, or a request to
anywhere but the daemon fails the test that opened it. Nothing waits for a time: a condition is asked for until it is
true, for as long as `PATIENCE`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.screen import Screen
from tests.process import conftest as process
from tests.process.daemon_process import PATIENCE, DaemonProcess

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

daemon, make_daemon = process.daemon, process.make_daemon

expect.set_options(timeout=PATIENCE * 1000)


def flags() -> list[str]:
    """How Chromium is started; its sandbox needs a user who is not root."""
    return [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]


def chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on PATH (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=flags(), timeout=PATIENCE * 1000)
        yield started
        started.close()


@pytest.fixture
def open_screen(
    browser: Browser, make_daemon: Callable[..., DaemonProcess]
) -> Iterator[Callable[..., Screen]]:
    """Opens the page of a daemon, signed in unless the test says otherwise. Each is a browser session of its own, and
    is closed before its daemon ends: it depends on what ends daemons."""
    made: list[Screen] = []

    def open_one(
        daemon: DaemonProcess, *, at: str | None = None, sign_in: bool = True, **options: object
    ) -> Screen:
        screen = Screen(browser, daemon, at, options)
        made.append(screen)
        if sign_in:
            screen.sign_in()
        return screen

    yield open_one
    for screen in made:
        screen.close()
    for screen in made:
        assert not screen.complaints, screen.complaints


@pytest.fixture
def screen(open_screen: Callable[..., Screen], daemon: DaemonProcess) -> Screen:
    return open_screen(daemon)
