"""The pictures of the page: a house with a few runs in it, and a camera.

The runs that have ended are written as files before the daemon starts, so that they can have begun hours ago; the open
one, the agents and the approvals are made by clients. `scripts/screenshots` runs this.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.conftest import chromium, flags
from tests.browser.screen import Screen, record
from tests.process.daemon_process import DaemonProcess
from tests.second_client import SecondClient

RELEASE = "3f0c1a52-7d0e-4b7e-9a55-0c6c2f1d9e21"
SIZE = {"width": 1280, "height": 800}

Turn = dict[str, Any]


def said(prompt: str, seconds: float = 2.0) -> tuple[float, Turn]:
    return seconds, {"prompt": prompt}


def did(
    tool: str, parameters: Any, output: Any = None, seconds: float = 0.2, **more: Any
) -> tuple[float, Turn]:
    turn = {"tool": tool, "parameters": parameters, "status": "succeeded", **more}
    return seconds, turn if output is None else {**turn, "output": output}


def shell(command: str, code: int, tail: str, seconds: float) -> tuple[float, Turn]:
    result = {"cli": command, "exit_code": code, "timed_out": False, "output_tail": tail}
    verdict = "failed" if code else "passed"
    return did("shell", {"command": command}, result, seconds, cli_outcome=result, verifier_verdict=verdict)


FAILED_TESTS = """\
tests/test_rates.py F.....
E   AssertionError: assert Decimal('1.0849') == Decimal('1.0850')
E    +  where Decimal('1.0849') = rounded(Decimal('1.08495'), places=4)

FAILED tests/test_rates.py::test_rounding_is_half_up - AssertionError
1 failed, 211 passed in 9.31s
"""

THE_RELEASE = [
    said("I look at what changed since the last release, make the changelog say it, and publish 2.4.0."),
    did(
        "read_file",
        {"path": "CHANGELOG.md"},
        "# Changelog\n\n## 2.3.1\n\n- A refund keeps its currency.\n",
        0.04,
    ),
    did(
        "git_log",
        {"since": "v2.3.1", "limit": 50},
        {"commits": 14, "first": "9b1f3ce", "last": "e07aa41"},
        0.31,
    ),
    shell("pytest -q", 1, FAILED_TESTS, 11.4),
    said(
        "One test fails: rounding is half-even where the contract says half-up. I mend it and run them again.",
        3.1,
    ),
    did(
        "edit_file",
        {"path": "src/rates.py", "old": "ROUND_HALF_EVEN", "new": "ROUND_HALF_UP"},
        {"replaced": 1},
        0.06,
    ),
    shell("pytest -q", 0, "212 passed in 9.12s\n", 10.9),
    did(
        "edit_file",
        {"path": "CHANGELOG.md", "insert": "## 2.4.0\n\n- Rates are rounded half up.\n"},
        {"written": 812},
        0.05,
    ),
    did(
        "git_push",
        {"remote": "origin", "branch": "main", "force": True},
        seconds=0.01,
        status="rejected",
        policy_rejected=True,
        error="policy deny_tool_param: parameter 'force' of tool 'git_push' may not be true",
    ),
    said("Forcing is not allowed here, and not needed. I push without it.", 1.7),
    did("git_push", {"remote": "origin", "branch": "main"}, {"pushed": "e07aa41..5d20c8b"}, 1.9),
    did(
        "publish",
        {"package": "rates", "version": "2.4.0"},
        {"url": "https://packages.example/rates/2.4.0"},
        4.2,
    ),
]

ENDED = [
    # agent, intent, how long ago it began, its end, and how many plain turns it had
    ("release-manager", "Publish rates 2.4.0", timedelta(minutes=6), "success", THE_RELEASE),
    ("inbox-triage", "Sort the support inbox of this morning", timedelta(minutes=21), "success", 48),
    (
        "researcher",
        "Compare three vector databases for the search team",
        timedelta(minutes=52),
        "partial_success",
        137,
    ),
    ("nightly-backup", "Back up the customer archive to cold storage", timedelta(hours=3), "failure", 9),
    ("inbox-triage", "Sort the support inbox of last night", timedelta(hours=9), "success", 61),
    ("release-manager", "Find out why the staging deploy hangs", timedelta(hours=11), "give_up", 83),
    ("researcher", "Summarise the incident review of 12 November", timedelta(hours=20), None, 16),
    (
        "librarian",
        "Rename 340 scanned letters by sender and date",
        timedelta(days=1, hours=2),
        "success",
        352,
    ),
    (
        "nightly-backup",
        "Back up the customer archive to cold storage",
        timedelta(days=1, hours=3),
        "timeout",
        4,
    ),
]


def stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def lines(number: int, agent: str, intent: str, ago: timedelta, end: str | None, work: Any) -> Iterator[Turn]:
    run_id = RELEASE if number == 0 else f"{number:08x}-0000-4000-8000-{number * 7919:012x}"
    turns = [did("step", {"n": n}, {"ok": True}, 1.3) for n in range(work)] if isinstance(work, int) else work
    at = datetime.now(UTC) - ago
    about = {"run_id": run_id, "agent_id": agent}
    yield {"record": "started", **about, "intent": intent, "started_at": stamp(at)}
    for index, (seconds, turn) in enumerate(turns):
        at += timedelta(seconds=seconds)
        yield {
            "record": "turn",
            "index": index,
            "verifier_verdict": "not_run",
            **turn,
            "recorded_at": stamp(at),
        }
    summary = "rates 2.4.0 is published; rounding is half up now" if number == 0 else ""
    outcome = {
        "status": end,
        "summary": summary,
        "evidence": [],
        "metrics": {"turns": len(turns)},
        "timestamp": stamp(at),
    }
    termination = (
        {"kind": "outcome", "outcome": outcome} if end else {"kind": "incomplete", "reason": "disconnected"}
    )
    yield {"record": "ended", **about, "termination": termination, "ended_at": stamp(at)}


def write_runs(home: Path) -> None:
    for number, (agent, *rest) in enumerate(ENDED):
        records = list(lines(number, agent, *rest))
        path = home / "runs" / agent / f"{records[0]['run_id']}.jsonl"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records))


def furnish(daemon: DaemonProcess) -> list[SecondClient]:
    """The people of the house, who stay until the pictures are taken."""
    clients = []
    people = (
        ("inbox-triage", "Inbox triage", "running", "Sorting letter 12 of 48"),
        ("release-manager", "Release manager", "waiting_for_approval", "Telling the customers"),
        ("researcher", "Researcher", "idle", None),
        ("nightly-backup", "Nightly backup", "errored", "Cold storage refused the key"),
    )
    for agent_id, name, status, task in people:
        client = daemon.client(agent_id)
        clients.append(client)
        client.call(
            "host.register_agent", {"id": agent_id, "name": name, "kind": "worker", "project": "rates"}
        )
        client.call("host.set_status", {"agent_id": agent_id, "status": status, "current_task": task})
    clients[0].call("runs.start", {"intent": "Sort the support inbox of this afternoon"})
    run_id = clients[0].call("runs.start", {"intent": "Answer the three letters about refunds"})["run_id"]
    record(clients[0], run_id, *[{"tool": "read_letter", "parameters": {"n": n}} for n in range(12)])
    ask(clients[2], "researcher", "http_request", {"url": "https://papers.example/ann-benchmarks"})
    with daemon.client(host=True) as host:
        (row,) = host.call("host.approvals")["approvals"]
        host.call("host.resolve_approval", {"approval_id": row["id"], "approved": True})
    letter = {
        "to": ["customers@rates.example"],
        "subject": "rates 2.4.0",
        "body": "Dear customers,\n\nfrom version 2.4.0 on rates are rounded half up, as the contract says.\n"
        "Invoices that were sent before stay as they are.\n\nThe release manager\n",
        "attachments": [{"name": "CHANGELOG.md", "bytes": 812}],
    }
    ask(clients[1], "release-manager", "ws.method:messages.send", letter)
    ask(clients[3], "nightly-backup", "shell", {"command": "rm -rf /srv/archive/2024-\u202e10", "as": "root"})
    return clients


def ask(client: SecondClient, agent_id: str, action: str, details: Any) -> None:
    params = {"agent_id": agent_id, "action": action, "details": details, "system_level": True}
    request = {"jsonrpc": "2.0", "id": "asks", "method": "host.request_approval", "params": params}
    client.send_raw(json.dumps(request, ensure_ascii=False))
    client.reply("asks")


def take(screen: Screen, where: Path, look: str) -> None:
    """The pictures in one of the looks."""

    def shoot(name: str) -> None:
        screen.page.mouse.move(640, 20)
        screen.page.evaluate("() => document.fonts.ready.then(() => new Promise(requestAnimationFrame))")
        screen.page.screenshot(path=where / f"{name}-{look}.png")

    expect(screen.row(10)).to_be_visible()
    shoot("runs")
    screen.open_run(RELEASE)
    expect(screen[".failures"]).to_have_text("2 failures")
    screen.press("n", "n", "Enter")
    expect(screen[".payload"]).to_have_count(2)
    screen["main .scroller"].evaluate("box => { box.scrollTop = 3 * 56 }")
    shoot("run")
    screen.go("#/approvals")
    expect(screen[".card button:enabled"]).to_have_count(4)
    shoot("approvals")


def picture(browser: Browser, daemon: DaemonProcess, where: Path, size: dict[str, int]) -> None:
    clients = furnish(daemon)
    for look in ("light", "dark"):
        screen = Screen(
            browser, daemon, None, {"viewport": size, "color_scheme": look, "device_scale_factor": 1}
        )
        screen.sign_in()
        take(screen, where, look)
        screen.close()
    for client in clients:
        client.drop()


def main(where: str, width: str = "1280") -> int:
    path = chromium()
    if path is None:
        print(
            "screenshots: no Chromium on PATH; install it (Debian: apt-get install chromium)", file=sys.stderr
        )
        return 1
    Path(where).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="car-trio-pictures-") as place:
        home = Path(place) / "home"
        home.mkdir(mode=0o700)
        write_runs(home)
        daemon = DaemonProcess(home).start()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=flags())
            picture(browser, daemon, Path(where), {**SIZE, "width": int(width)})
            browser.close()
        daemon.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
