"""The page as a test sees it: signed in, looked at, typed into, and watched for what must not happen."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Request, expect

from tests.process.daemon_process import PATIENCE, DaemonProcess
from tests.second_client import SecondClient

LOST = "WebSocket connection to"
"""How Chromium begins to say that a daemon which is down cannot be reached."""
ICON = "Failed to load resource"
"""And that it could not fetch the icon, which it does when it finds the time."""


class Screen:
    """One browser session with one page. `at` is another address than the daemon's own, when something is in between.

    `complaints` must be empty at the end; a test that takes the daemon away `allows` what it expects to be said.
    """

    def __init__(
        self, browser: Browser, daemon: DaemonProcess, at: str | None, options: dict[str, Any]
    ) -> None:
        self.daemon = daemon
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        self.context.set_default_timeout(PATIENCE * 1000)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.allowed: tuple[str, ...] = ()
        self.requests: list[str] = []
        self.url: str = at or address(daemon)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._asked)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith(self.allowed or ("\0",)):
            self.complaints.append(f"{message.text} {message.location.get('url')}")

    def _asked(self, request: Request) -> None:
        self.requests.append(request.url)
        if not request.url.startswith(self.url):
            self.complaints.append(f"asked {request.url}")

    def allow(self, *beginnings: str) -> None:
        self.allowed += beginnings

    def close(self) -> None:
        self.context.close()

    def loads(self) -> int:
        """How often something was fetched, the icon apart: that is the browser's own business, whenever it likes."""
        return sum(not url.endswith(".svg") for url in self.requests)

    # Going somewhere

    def code(self) -> str:
        with self.daemon.client(host=True) as host:
            code: str = host.call("host.web_code")["code"]
            return code

    def sign_in(self) -> None:
        self.page.goto(f"{self.url}#code={self.code()}")
        self.is_live()

    def go(self, address: str) -> None:
        """Another view, and the page has taken it in; it is not loaded again."""
        self.page.evaluate(
            """address => new Promise(resolve => {
                if (location.hash === address) return resolve();
                addEventListener("hashchange", () => resolve(), { once: true });
                location.hash = address;
            })""",
            address,
        )

    def stop_time(self) -> None:
        """From now on no timer of the page ends. Its clock must have been installed before it was loaded."""
        self.page.clock.pause_at(self.ask("() => Date.now() + 60_000"))

    def open_run(self, run_id: str) -> None:
        self.go(f"#/run/{run_id}")
        expect(self.page.locator("main h2")).not_to_have_text("…")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    # Looking

    def __getitem__(self, selector: str) -> Locator:
        return self.page.locator(selector)

    def is_live(self) -> None:
        expect(self["#link"]).to_have_text("live")

    def row(self, index: int) -> Locator:
        """A row of the list in view, by its place in the list."""
        return self[f'main .row[data-index="{index}"]']

    def shows(self, text: str) -> None:
        expect(self["main"]).to_contain_text(text)

    def ask(self, script: str, argument: Any = None) -> Any:
        """What the page answers to a function of a test."""
        return self.page.evaluate(script, argument)


def address(daemon: DaemonProcess) -> str:
    """Where a daemon serves the page."""
    url: str = json.loads((daemon.home / "run" / "daemon.json").read_text())["web_url"]
    return url


def record(client: SecondClient, run_id: str, *turns: dict[str, Any]) -> None:
    """Turns as an agent tells them."""
    said = client.call("runs.record_turns", {"run_id": run_id, "turns": list(turns)})
    assert said["ok"], said
