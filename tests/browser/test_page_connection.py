"""Signing in, staying so, and what the page does when the daemon or the connection goes away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.browser.screen import ICON, LOST, Screen, address, record
from tests.browser.wire import Wire
from tests.process.daemon_process import DaemonProcess, complete, free_ports, start_run

Opener = Callable[..., Screen]


@pytest.fixture
def wire(make_daemon: Callable[..., DaemonProcess]) -> Iterator[tuple[DaemonProcess, Wire]]:
    """A daemon that is reached by a wire in between. Named before `open_screen` it is closed after the screens."""
    daemon = make_daemon(config='[server]\nallowed_hosts = ["127.0.0.1"]\n').start()
    port = urlsplit(address(daemon)).port
    assert port is not None
    wire = Wire(port)
    yield daemon, wire
    wire.close()


def test_a_code_lets_in_once_and_is_taken_out_of_the_address(
    open_screen: Opener, daemon: DaemonProcess
) -> None:
    first = open_screen(daemon, sign_in=False)
    address = f"{first.url}#code={first.code()}"
    first.page.goto(address)
    first.is_live()
    assert "code" not in first.page.url
    assert all("code" not in url for url in first.requests)
    second = open_screen(daemon, sign_in=False)
    second.page.goto(address)
    second.shows("That link was used already")
    second.shows("car-trio ui")
    first.page.reload()
    first.is_live()


def test_without_a_code_the_page_says_how_to_sign_in_and_shows_nothing(
    open_screen: Opener, daemon: DaemonProcess
) -> None:
    with daemon.client("librarian") as agent:
        start_run(agent, intent="nobody's business")
        screen = open_screen(daemon, sign_in=False)
        screen.page.goto(screen.url)
        screen.shows("car-trio ui")
        assert "nobody" not in screen.page.content()
        # A new link in the same tab signs in without loading the page again.
        screen.page.evaluate("code => { location.hash = 'code=' + code }", screen.code())
        screen.is_live()
        screen.shows("nobody's business")


def test_a_daemon_without_authentication_needs_no_sign_in(
    open_screen: Opener, make_daemon: Callable[..., DaemonProcess]
) -> None:
    daemon = make_daemon("--no-auth").start()
    screen = open_screen(daemon, sign_in=False)
    screen.page.goto(screen.url)
    screen.is_live()
    screen.shows("No run yet.")


def test_after_another_start_of_the_daemon_the_page_says_to_sign_in_again(
    open_screen: Opener, make_daemon: Callable[..., DaemonProcess]
) -> None:
    daemon = make_daemon("--web-port", str(free_ports())).start()
    screen = open_screen(daemon)
    screen.allow(LOST, ICON)
    with daemon.client("librarian") as agent:
        complete(agent, start_run(agent, intent="sort the shelf"))
        agent.call("host.request_approval", {"action": "burn a book", "system_level": True})
        expect(screen.row(0)).to_contain_text("sort the shelf")
        expect(screen["#notice"]).to_contain_text("burn a book")
    assert daemon.stop() == 0
    expect(screen["#alert"]).to_contain_text("The daemon was stopped.")
    expect(screen["#alert"]).to_contain_text("Try now")
    screen.shows("sort the shelf")
    daemon.start()
    screen.shows("You were signed out: the daemon was started anew")
    assert "sort the shelf" not in screen["main"].inner_text()
    expect(screen["#notice"]).to_be_hidden()
    expect(screen.page).to_have_title("Runs · car-trio")
    screen.sign_in()
    screen.shows("sort the shelf")


def test_after_a_broken_connection_no_turn_is_missing_and_none_is_twice(
    wire: tuple[DaemonProcess, Wire], open_screen: Opener
) -> None:
    daemon, between = wire
    screen = open_screen(daemon, at=between.url, viewport={"width": 1280, "height": 1400})
    screen.allow(LOST, ICON)
    with daemon.client("librarian") as agent:
        run_id = start_run(agent)
        screen.open_run(run_id)
        said = 0
        for _ in range(3):
            record(agent, run_id, {"prompt": f"turn {said}"}, {"prompt": f"turn {said + 1}"})
            expect(screen.row(said + 2)).to_contain_text(f"turn {said + 1}")
            between.cut()
            expect(screen["#alert"]).to_contain_text("The daemon does not answer.")
            record(agent, run_id, {"prompt": f"turn {said + 2}"})
            between.mend()
            screen.is_live()
            record(agent, run_id, {"prompt": f"turn {said + 3}"})
            said += 4
            expect(screen.row(said)).to_contain_text(f"turn {said - 1}")
        between.cut()
        complete(agent, run_id)
        between.mend()
        expect(screen.row(said + 1)).to_contain_text("ended")
    turns = ["tidy the notes", *[f"turn {number}" for number in range(said)], ""]
    expect(screen["main .row .said"]).to_have_text(turns)
    expect(screen["#alert"]).to_be_hidden()


def test_a_person_need_not_wait_for_the_next_try(
    wire: tuple[DaemonProcess, Wire], open_screen: Opener
) -> None:
    daemon, between = wire
    screen = open_screen(daemon, at=between.url, sign_in=False)
    screen.allow(LOST, ICON)
    # Time stands still before the connection breaks, so that only the button can make the page dial again.
    screen.page.clock.install()
    screen.sign_in()
    screen.stop_time()
    between.cut()
    expect(screen["#alert"]).to_contain_text("Trying again")
    between.mend()
    screen["#alert button"].dispatch_event("click")
    screen.is_live()


def test_what_happened_while_the_connection_was_broken_is_shown_when_it_is_back(
    wire: tuple[DaemonProcess, Wire], open_screen: Opener
) -> None:
    daemon, between = wire
    screen = open_screen(daemon, at=between.url)
    screen.allow(LOST, ICON)
    with daemon.client("librarian") as agent:
        agent.call("host.register_agent", {"name": "Librarian", "kind": "test"})
        expect(screen["#agents-count"]).to_have_text("1")
        between.cut()
        expect(screen["#link"]).not_to_have_text("live")
        complete(agent, start_run(agent, intent="behind your back"), "failure")
        agent.call("host.register_agent", {"name": "Cook", "kind": "test"})
        agent.call("host.request_approval", {"action": "burn a book", "system_level": True})
        between.mend()
        expect(screen.row(0)).to_contain_text("behind your back")
        expect(screen["#notice"]).to_contain_text("burn a book")
        expect(screen["#agents-count"]).to_have_text("2")
        screen.go("#/events")
        expect(screen["main .kind"]).to_have_text(
            ["approval.requested", "agent.registered", "run.ended", "run.started", "agent.registered"]
        )


def test_a_page_of_another_origin_gets_nothing(open_screen: Opener, daemon: DaemonProcess) -> None:
    other = open_screen(daemon, sign_in=False)
    own = address(daemon)
    other.url = "http://"
    other.allow("Access to fetch", "Failed to load resource", LOST)
    other.page.route("http://elsewhere.test/", lambda route: route.fulfill(body="<title>elsewhere</title>"))
    other.page.goto("http://elsewhere.test/")
    fetched = """async url => {
        const said = [];
        for (const mode of ["cors", "no-cors"]) {
            try { said.push((await (await fetch(url, { mode })).text()).length) } catch { said.push("refused") }
        }
        return said
    }"""
    assert other.ask(fetched, own) == ["refused", "refused"]
    dialled = """url => new Promise(resolve => {
        const socket = new WebSocket(url);
        socket.onopen = () => resolve("open");
        socket.onerror = () => resolve("refused");
    })"""
    assert other.ask(dialled, own.replace("http", "ws") + "rpc") == "refused"
    assert other.ask(dialled, daemon.url + "/") == "refused"
    framed = """url => new Promise(resolve => {
        const frame = document.createElement("iframe");
        frame.onload = () => { try { resolve(frame.contentDocument.title) } catch { resolve("refused") } };
        frame.src = url;
        document.body.append(frame);
    })"""
    assert other.ask(framed, own) == "refused"
