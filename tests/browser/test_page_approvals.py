"""What a person decides on the page: all of it is shown, and nothing is decided by accident."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from playwright.sync_api import expect

from tests.browser.screen import ICON, LOST, Screen
from tests.process.daemon_process import DaemonProcess
from tests.second_client import Refused, SecondClient

Opener = Callable[..., Screen]
GATED = '[approvals]\nmethods = ["state.set"]\n'


def asks(client: SecondClient, action: str, details: Any = None, **more: Any) -> str:
    row = client.call(
        "host.request_approval", {"action": action, "details": details, "system_level": True, **more}
    )
    approval_id: str = row["id"]
    return approval_id


def status(daemon: DaemonProcess, approval_id: str) -> tuple[str, str | None]:
    with daemon.client(host=True) as host:
        rows = host.call("host.approvals")["approvals"]
    return next((row["status"], row["resolution"]) for row in rows if row["id"] == approval_id)


def test_an_approval_lets_the_waiting_caller_continue_and_a_denial_refuses_it(
    open_screen: Opener, make_daemon: Callable[..., DaemonProcess]
) -> None:
    daemon = make_daemon(config=GATED).start()
    screen = open_screen(daemon)
    screen.go("#/approvals")
    screen.shows("Nothing waits for you.")
    with daemon.client("librarian") as caller:
        first = caller.ask("state.set", {"key": "shelf", "value": "sorted"})
        expect(screen[".card"]).to_contain_text("ws.method:state.set")
        expect(screen[".card"]).to_contain_text("librarian")
        expect(screen[".card .payload"]).to_have_text('{"key": "shelf", "value": "sorted"}')
        expect(screen.page).to_have_title("(1) Approvals · car-trio")
        screen.page.get_by_role("button", name="Approve").last.click()
        assert caller.reply(first) == "ok"
        expect(screen[".card"]).to_contain_text("approved at")
        second = caller.ask("state.set", {"key": "shelf", "value": "empty"})
        screen[".card"].nth(1).get_by_role("button", name="Deny").click()
        try:
            caller.reply(second)
        except Refused as refused:
            assert refused.code == -32003
        else:
            raise AssertionError("a denied call ran")
        assert caller.call("state.get", {"key": "shelf"}) == "sorted"
    expect(screen.page).to_have_title("Approvals · car-trio")


def test_a_new_approval_is_announced_in_every_view(screen: Screen, daemon: DaemonProcess) -> None:
    with daemon.client("librarian") as agent:
        asks(agent, "burn \u202ea book")
        expect(screen["#notice"]).to_contain_text("1 approval waits: burn U+202Ea book")
        expect(screen["#said"]).to_have_text("New approval: asks: burn U+202Ea book")
        expect(screen["#approvals-count"]).to_have_text("1")
        expect(screen.page).to_have_title("(1) Runs · car-trio")
        screen["#notice"].click()
        expect(screen[".card"]).to_have_count(1)
        expect(screen["#notice"]).to_be_hidden()


def test_all_of_the_details_is_shown_as_it_was_written(screen: Screen, daemon: DaemonProcess) -> None:
    screen.go("#/approvals")
    big = {"script": "".join(f"echo {n} >> /tmp/list\n" for n in range(20_000)), "end": "rm -rf ~"}
    with daemon.client("librarian") as agent:
        agent.send_raw(
            '{"jsonrpc":"2.0","id":7,"method":"host.request_approval","params":{"action":"pay","system_level":true,'
            '"details":{"amount":12345678901234567890.10,"to":"a\u202eb\\u202ec\\n","to":"<b>x</b>"}}}'
        )
        agent.reply(7)
        payload = screen[".card .payload"]
        expect(payload).to_have_text(
            '{"amount": 12345678901234567890.10, "to": "aU+202Eb\\u202ec\\n ", "to": "<b>x</b>"}'
        )
        expect(screen[".card .proof"]).to_contain_text("shown whole · SHA-256")
        asks(agent, "run", big)
        long = screen[".card"].nth(1)
        expect(long.locator(".proof")).to_contain_text("shown whole · SHA-256")
        shown = long.locator(".payload").evaluate("box => box.textContent")
        assert "".join(shown.split()) == "".join(json.dumps(big).split())
        long.get_by_role("button", name="Approve").click()
        expect(long).to_contain_text("approved at")


def test_a_box_with_more_than_is_in_view_says_so_and_is_scrolled_by_keys(
    screen: Screen, daemon: DaemonProcess
) -> None:
    screen.go("#/approvals")
    with daemon.client("librarian") as agent:
        asks(agent, "short", {"command": "ls"})
        asks(agent, "long", {"script": [f"echo {n}" for n in range(500)], "end": "rm -rf ~"})
    expect(screen[".card"]).to_have_count(2)
    expect(screen[".card"].first.locator(".below")).to_be_hidden()
    card = screen[".card"].nth(1)
    expect(card.locator(".below")).to_have_text("There is more of it below: scroll to its end.")
    card.locator(".payload").focus()
    screen.press("End")
    expect(card.locator(".below")).to_have_text("This is the end of it.")
    expect(card.locator(".payload")).to_be_focused()
    screen.press("Home")
    expect(card.locator(".below")).to_have_text("There is more of it below: scroll to its end.")


def test_options_that_begin_alike_are_told_apart(screen: Screen, daemon: DaemonProcess) -> None:
    screen.go("#/approvals")
    alike = "only the old shelf, " * 20
    with daemon.client("librarian") as agent:
        asks(agent, "burn", None, options=[alike + "not the new one", alike + "and the new one", "deny"])
        for end in ("not the new one", "and the new one"):
            option = screen[".card"].get_by_role("button", name=end)
            expect(option).to_be_visible()
            assert option.evaluate("button => button.scrollWidth <= button.clientWidth")


def test_details_of_nothing_but_unseen_characters_do_not_stop_the_page(
    screen: Screen, daemon: DaemonProcess
) -> None:
    screen.go("#/approvals")
    unseen = "\u202e" * 300_000
    with daemon.client("librarian") as agent:
        agent.send_raw(
            '{"jsonrpc":"2.0","id":7,"method":"host.request_approval","params":{"action":"pay","system_level":true,'
            f'"details":"{unseen}"}}}}'
        )
        agent.reply(7)
    card = screen[".card"]
    expect(card.get_by_role("button", name="Deny")).to_be_enabled()
    assert card.locator(".payload b").count() <= 2_000
    shown = card.locator(".payload").evaluate("box => box.textContent.split('U+202E').length - 1")
    assert shown == 300_000
    card.get_by_role("button", name="Deny").click()
    expect(card).to_contain_text("denied at")


def test_what_is_not_shown_whole_cannot_be_approved_but_denied(screen: Screen, daemon: DaemonProcess) -> None:
    half_a_mebibyte = {"text": "x" * 900_000}
    screen.go("#/approvals")
    with daemon.client("librarian") as agent:
        oldest = asks(agent, "oldest", half_a_mebibyte)
        for number in range(19):
            asks(agent, f"newer {number}", half_a_mebibyte)
    screen.page.reload()
    screen.is_live()
    card = screen[".card"].first
    expect(card).to_contain_text("oldest")
    expect(card).to_contain_text("cannot be approved here")
    expect(card.get_by_role("button", name="Approve")).to_be_disabled()
    card.get_by_role("button", name="Deny").click()
    expect(card).to_contain_text("denied at")
    assert status(daemon, oldest) == ("resolved", "deny")


def test_nothing_moves_when_one_is_decided_or_another_comes(screen: Screen, daemon: DaemonProcess) -> None:
    screen.go("#/approvals")
    with daemon.client("librarian") as agent:
        for name in ("first", "second"):
            asks(agent, name, {"of": name})
        expect(screen[".card"]).to_have_count(2)
        expect(screen[".card button:enabled"]).to_have_count(4)
        places = [screen[".card"].nth(n).bounding_box() for n in (0, 1)]
        screen[".card"].nth(0).get_by_role("button", name="Approve").click()
        expect(screen[".card"].nth(0)).to_contain_text("approved at")
        asks(agent, "third")
        expect(screen[".card"]).to_have_count(3)
        assert [screen[".card"].nth(n).bounding_box() for n in (0, 1)] == places
        expect(screen[".card"].nth(2)).to_contain_text("third")
        screen.go("#/runs")
        screen.go("#/approvals")
        expect(screen[".card"]).to_have_count(2)
        expect(screen[".log"]).to_contain_text("first")


def test_an_answer_elsewhere_and_an_expiry_are_shown(screen: Screen, daemon: DaemonProcess) -> None:
    screen.go("#/approvals")
    with daemon.client("librarian") as agent, daemon.client(host=True) as host:
        elsewhere = asks(agent, "answered elsewhere")
        agent.call("host.request_approval", {"action": "left alone"})
        expect(screen[".card"]).to_have_count(2)
        host.call("host.resolve_approval", {"approval_id": elsewhere, "resolution": "deny"})
        expect(screen[".card"].nth(0)).to_contain_text("denied at")
        expect(screen[".card"].nth(0).locator("button:enabled")).to_have_count(0)
    expect(screen[".card"].nth(1)).to_contain_text("expired at")


def test_options_of_another_kind_are_offered_as_they_are(screen: Screen, daemon: DaemonProcess) -> None:
    screen.go("#/approvals")
    with daemon.client("librarian") as agent:
        approval_id = asks(agent, "choose", options=["left", "right"])
        screen.page.get_by_role("button", name="right").last.click()
        expect(screen[".card"]).to_contain_text("right at")
    assert status(daemon, approval_id) == ("resolved", "right")


def test_a_row_of_a_program_that_is_not_there_says_why_it_cannot_be_decided(
    screen: Screen, daemon: DaemonProcess
) -> None:
    screen.go("#/approvals")
    with daemon.client() as agent:
        agent.call("host.request_approval", {"action": "mine"})
        screen.page.get_by_role("button", name="Approve").last.click()
        expect(screen[".answer"]).to_contain_text("is not currently connected")
        agent.call("host.subscribe")
        screen.page.get_by_role("button", name="Approve").last.click()
        expect(screen[".answer"]).to_contain_text("Passed on to the program that asked")
        assert agent.event("host.event")["kind"] == "approval.resolve_requested"


def test_a_row_that_an_agent_owns_has_no_live_button_and_says_why(
    screen: Screen, daemon: DaemonProcess
) -> None:
    screen.go("#/approvals")
    with daemon.client("librarian") as agent:
        agent.call("host.request_approval", {"action": "mine"})
        expect(screen[".card .proof"]).to_contain_text("shown whole")
        expect(screen[".answer"]).to_contain_text("cannot hear of a decision")
        expect(screen[".card button"]).to_have_count(2)
        expect(screen[".card button:enabled"]).to_have_count(0)
    expect(screen[".card"]).to_contain_text("expired at")


def test_nothing_can_be_decided_while_the_daemon_is_away(screen: Screen, daemon: DaemonProcess) -> None:
    screen.allow(LOST, ICON)
    screen.go("#/approvals")
    with daemon.client("librarian") as agent:
        asks(agent, "burn a book")
        expect(screen[".card button:enabled"]).to_have_count(2)
    daemon.kill()
    expect(screen["#alert"]).to_contain_text("The daemon does not answer.")
    expect(screen[".card button:enabled"]).to_have_count(0)


def test_an_approval_is_decided_with_the_keyboard_but_never_by_one_key(
    screen: Screen, daemon: DaemonProcess
) -> None:
    with daemon.client("librarian") as agent:
        approval_id = asks(agent, "burn a book")
        expect(screen["#approvals-count"]).to_have_text("1")
        screen.press("2")
        expect(screen[".card button:enabled"]).to_have_count(2)
        screen.press("j", "Enter")
        expect(screen[".card button:focus"]).to_have_text("Approve")
        assert status(daemon, approval_id) == ("pending", None)
        screen.press("Tab", "Enter")
        expect(screen[".card"]).to_contain_text("denied at")
    assert status(daemon, approval_id) == ("resolved", "deny")
