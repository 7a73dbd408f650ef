"""How the page is used and looks: by keyboard alone, light and dark, at any width, and from nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import expect

from tests.browser.screen import Screen, record
from tests.process.daemon_process import DaemonProcess, complete, start_run

Opener = Callable[..., Screen]
VIEWS = ("#/runs", "#/approvals", "#/agents", "#/events")
LONG = "Antidisestablishmentarianism" * 12


def furnish(daemon: DaemonProcess) -> str:
    """A run, an agent, an approval and events, with names too long for any column. Returns the run's id."""
    with daemon.client("librarian") as agent:
        agent.call("host.register_agent", {"name": LONG, "kind": "test", "capabilities": [LONG]})
        run_id = start_run(agent, intent=LONG)
        record(agent, run_id, {"tool": LONG, "parameters": {"path": LONG}, "output": LONG})
        record(agent, run_id, {"tool": "short", "verifier_verdict": "failed"})
        complete(agent, run_id)
        agent.call("host.request_approval", {"action": LONG, "details": {"path": LONG}, "system_level": True})
    return run_id


def test_everything_is_reached_by_keyboard(screen: Screen, daemon: DaemonProcess) -> None:
    furnish(daemon)
    expect(screen.row(0)).to_be_visible()
    screen.press("j", "Enter")
    expect(screen["main h2"]).to_have_text(LONG)
    screen.press("j", "j", "Enter")
    expect(screen[".payload"]).to_have_count(2)
    expect(screen[".row.selected"]).to_be_focused()
    screen.press("Enter")
    expect(screen[".payload"]).to_have_count(0)
    screen.press("n")
    expect(screen[".row.selected"]).to_contain_text("short")
    screen.press("Escape")
    expect(screen["nav a[aria-current]"]).to_have_text("Runs")
    for key, name in (("2", "Approvals"), ("3", "Agents"), ("4", "Events"), ("1", "Runs")):
        screen.press(key)
        expect(screen["nav a[aria-current]"]).to_contain_text(name)
    screen.press("?")
    expect(screen["dialog"]).to_be_visible()
    screen.press("Escape")
    expect(screen["dialog"]).to_be_hidden()
    screen.press("?", "Enter")
    expect(screen["dialog"]).to_be_hidden()
    screen.press("4", "/")
    expect(screen["#filter"]).to_be_focused()
    screen.page.keyboard.type("nothing like it")
    screen.shows("No run is like that.")
    screen.press("Escape", "Escape")
    expect(screen.row(0)).to_contain_text(LONG[:20])


def test_tab_comes_to_the_list_also_while_no_row_is_selected(screen: Screen, daemon: DaemonProcess) -> None:
    furnish(daemon)
    with daemon.client("librarian") as agent:
        for number in range(30):
            complete(agent, start_run(agent, intent=f"run {number}"))
    expect(screen.row(0)).to_contain_text("run 29")
    expect(screen[".row[tabindex='0']"]).to_have_count(1)
    screen["select"].last.focus()
    screen.press("Tab")
    expect(screen.row(0)).to_be_focused()
    expect(screen[".row.selected"]).to_contain_text("run 29")
    screen.press("j")
    expect(screen.row(1)).to_be_focused()
    screen.press("Shift+Tab")
    expect(screen["select"].last).to_be_focused()
    screen.press("Tab")
    expect(screen.row(1)).to_be_focused()
    screen.press("Shift+Tab")
    screen[".scroller"].evaluate("box => { box.scrollTop = 900 }")
    expect(screen.row(1)).to_have_count(0)
    expect(screen.row(15)).to_have_attribute("tabindex", "0")
    screen.press("Tab", "Enter")
    expect(screen["main h2"]).to_have_text("run 14")


def test_the_page_goes_back_and_forth_with_the_browser(screen: Screen, daemon: DaemonProcess) -> None:
    run_id = furnish(daemon)
    screen.open_run(run_id)
    screen.page.go_back()
    expect(screen["#filter"]).to_be_visible()
    screen.page.go_forward()
    expect(screen["main h2"]).to_have_text(LONG)
    screen.page.reload()
    expect(screen["main h2"]).to_have_text(LONG)
    screen.go(f"#/run/{run_id}/1")
    expect(screen[".row.selected .payload, .row.selected .body"]).to_contain_text("no payload")


LOOK = """box => {
    const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const dots = colour => {
        paint.clearRect(0, 0, 1, 1);
        paint.fillStyle = colour;
        paint.fillRect(0, 0, 1, 1);
        return [...paint.getImageData(0, 0, 1, 1).data];
    };
    const text = dots(getComputedStyle(box).color);
    while (dots(getComputedStyle(box).backgroundColor)[3] < 250) box = box.parentElement;
    return [text, dots(getComputedStyle(box).backgroundColor)]
}"""
"""The colour of an element's text and of the first ground behind it that covers what is behind."""


def brightness(screen: Screen, selector: str) -> tuple[float, float]:
    """Of a text and of its ground, as the rules for contrast reckon it."""

    def linear(each: int) -> float:
        return each / 255 / 12.92 if each <= 10 else ((each / 255 + 0.055) / 1.055) ** 2.4

    def luminance(colour: list[int]) -> float:
        red, green, blue = (linear(each) for each in colour[:3])
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    # Found and looked at in one step: between two, the page may draw the row anew, and a row that is gone has no colour.
    text, ground = screen.ask(f"selector => ({LOOK})(document.querySelector(selector))", selector)
    return luminance(text), luminance(ground)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_system_says_whether_it_is_light_or_dark_until_the_person_does(
    open_screen: Opener, daemon: DaemonProcess, scheme: str
) -> None:
    furnish(daemon)
    screen = open_screen(daemon, color_scheme=scheme)

    def is_dark() -> bool:
        return brightness(screen, "body")[1] < 0.1

    assert is_dark() == (scheme == "dark")
    screen.press("t")
    assert is_dark() == (scheme == "light")
    screen.page.reload()
    screen.is_live()
    assert is_dark() == (scheme == "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_small_text_stands_out_from_its_ground(
    open_screen: Opener, daemon: DaemonProcess, scheme: str
) -> None:
    run_id = furnish(daemon)
    screen = open_screen(daemon, color_scheme=scheme)
    seen = {
        "#/runs": ["main .sub", "main time", "nav a:not([aria-current])", "#link"],
        f"#/run/{run_id}": [".turn .said", ".turn .took", ".turn .mark", ".facts"],
        "#/approvals": [".card .sub", ".card .proof", ".card .name", ".card .string"],
        "#/events": ["main .kind", "main time"],
    }
    for view, selectors in seen.items():
        screen.go(view)
        for selector in selectors:
            expect(screen[selector].first).to_be_visible()
            text, ground = brightness(screen, selector)
            ratio = (max(text, ground) + 0.05) / (min(text, ground) + 0.05)
            assert ratio >= 4.5, f"{view} {selector}: {ratio:.2f}"


@pytest.mark.parametrize("width", [1280, 800])
def test_nothing_stands_out_of_the_window(open_screen: Opener, daemon: DaemonProcess, width: int) -> None:
    run_id = furnish(daemon)
    screen = open_screen(daemon, viewport={"width": width, "height": 700})
    for view in (*VIEWS, f"#/run/{run_id}/0"):
        screen.go(view)
        expect(screen["main .row, main .card"].first).to_be_visible()
        outside = screen.ask(
            """() => [...document.querySelectorAll("body, body *")].filter(box => {
                const place = box.getBoundingClientRect();
                let clip = box.parentElement;
                while (clip && getComputedStyle(clip).overflowX === "visible") clip = clip.parentElement;
                return place.width && place.right > innerWidth + 1 && (!clip || clip === document.body);
            }).map(box => box.outerHTML.slice(0, 80))"""
        )
        assert outside == []
        scrolled = screen["main .scroller"].evaluate("box => box.scrollWidth - box.clientWidth")
        assert scrolled <= 0, view


def test_everything_is_loaded_from_the_daemon_and_has_its_landmarks(
    screen: Screen, daemon: DaemonProcess
) -> None:
    furnish(daemon)
    for view in VIEWS:
        screen.go(view)
        expect(screen["main .row, main .card"].first).to_be_visible()
    assert screen.requests
    assert all(url.startswith(screen.url) for url in screen.requests)
    for role in ("banner", "navigation", "main"):
        expect(screen.page.get_by_role(role)).to_have_count(1)  # type: ignore[arg-type]
    unnamed = screen.ask(
        """() => [...document.querySelectorAll("button, input, select, a[href]")]
            .filter(each => !(each.textContent.trim() || each.ariaLabel || each.title)).length"""
    )
    assert unnamed == 0


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=25,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=VALUES, indent=st.sampled_from([None, 1]), is_ascii=st.booleans())
def test_json_is_cut_and_laid_out_without_changing_a_token(
    screen: Screen, value: object, indent: int | None, is_ascii: bool
) -> None:
    raw = json.dumps(value, indent=indent, ensure_ascii=is_ascii)
    whole = json.dumps(
        {"a\\": 1, "value": value, "list": [value, value]}, indent=indent, ensure_ascii=is_ascii
    )
    cut = """async ([raw, whole]) => {
        const { fields, items, laidOut } = await import("/json.js");
        const found = fields(whole);
        return [found.get("value"), items(found.get("list")), [...laidOut(raw)]]
    }"""
    one, both, tokens = screen.ask(cut, [raw, whole])
    assert json.loads(one) == value
    assert [json.loads(each) for each in both] == [value, value]
    laid_out = "".join(token for _, token in tokens)
    assert json.loads(laid_out) == value
    written = [token.strip() for kind, token in tokens if kind != "space"]
    assert "".join(written) == json.dumps(value, ensure_ascii=is_ascii, separators=(",", ":"))


def test_json_that_is_none_is_refused(screen: Screen) -> None:
    refuse = """async raws => {
        const { fields, items } = await import("/json.js");
        return raws.map(raw => [fields, items].map(cut => { try { cut(raw); return "cut" } catch (error) { return error.name } }))
    }"""
    broken = ["", "{", "[", '{"a', '{"a":', "[1", '["a', "[[[", "{]", "[}", '{"a":}']
    assert screen.ask(refuse, broken) == [["SyntaxError"] * 2] * len(broken)


@pytest.mark.parametrize("width", [360, 390, 620])
def test_every_filter_has_room_for_its_name_in_a_narrow_window(
    open_screen: Opener, daemon: DaemonProcess, width: int
) -> None:
    screen = open_screen(daemon, viewport={"width": width, "height": 800})
    for box in screen[".bar input, .bar select"].all():
        place = box.bounding_box()
        assert place is not None
        assert place["width"] >= 90
        assert place["x"] + place["width"] <= width


@pytest.mark.parametrize("width", [420, 620, 800])
def test_nothing_in_the_frame_lies_over_another_in_a_narrow_window(
    open_screen: Opener, daemon: DaemonProcess, width: int
) -> None:
    screen = open_screen(daemon, viewport={"width": width, "height": 800})
    with daemon.client("librarian") as agent:
        agent.call("host.request_approval", {"action": "burn a book"})
        expect(screen["#approvals-count"]).to_have_text("1")
    boxes = screen.ask(
        "() => [...document.querySelectorAll('.top nav a, #link, .top > button')].map(each => each.getBoundingClientRect())"
        ".map(box => [box.left, box.top, box.right, box.bottom])"
    )
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0 and right <= width
        for other in boxes[number + 1 :]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top, boxes
