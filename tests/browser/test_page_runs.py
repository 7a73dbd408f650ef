"""What the page shows of runs: live, exact, and of any length."""

from __future__ import annotations

import json
from collections.abc import Callable

from playwright.sync_api import expect

from tests.browser.screen import Screen, record
from tests.process.daemon_process import DaemonProcess, complete, start_run, until

MANY = 50_000
IN_DOCUMENT = 60
"""More rows than this are never in the document, however long the list is."""


def test_a_run_appears_when_it_begins_and_says_how_it_ended(screen: Screen, daemon: DaemonProcess) -> None:
    screen.shows("No run yet.")
    with daemon.client("librarian") as agent:
        run_id = start_run(agent, intent="sort the shelf")
        expect(screen.row(0)).to_contain_text("sort the shelf")
        expect(screen.row(0)).to_contain_text("in progress")
        complete(agent, run_id, "give_up")
        expect(screen.row(0)).to_contain_text("give up")
    expect(screen["main .row"]).to_have_count(1)


def test_turns_and_the_end_arrive_without_loading_the_page_again(
    screen: Screen, daemon: DaemonProcess
) -> None:
    with daemon.client("librarian") as agent:
        run_id = start_run(agent, intent="count the words")
        screen.open_run(run_id)
        loaded = screen.loads()
        for number in range(5):
            record(agent, run_id, {"tool": "count", "output": f"word {number}"})
            expect(screen.row(number + 1)).to_contain_text(f"word {number}")
        complete(agent, run_id)
        expect(screen.row(6)).to_contain_text("ended")
        expect(screen[".facts"]).to_contain_text("success")
    expect(screen["main .row"]).to_have_count(7)
    assert screen.loads() == loaded


def test_only_a_run_that_goes_on_can_be_followed(screen: Screen, daemon: DaemonProcess) -> None:
    with daemon.client("librarian") as agent:
        follow = screen.page.get_by_role("button", name="Follow")
        screen.go("#/run/none")
        screen.shows("There is no such run")
        expect(follow).to_have_count(0)
        run_id = start_run(agent)
        screen.open_run(run_id)
        follow.click()
        expect(follow).to_have_attribute("aria-pressed", "true")
        complete(agent, run_id)
        expect(screen[".facts"]).to_contain_text("success")
        expect(follow).to_have_count(0)
        screen.open_run(start_run(agent))
        expect(follow).to_have_attribute("aria-pressed", "false")


def test_what_an_agent_wrote_is_text_wherever_it_is_shown(screen: Screen, daemon: DaemonProcess) -> None:
    evil = '<script>window.hit = 1</script><img src=x onerror="window.hit = 2"><svg onload=hit()>'
    with daemon.client("<b>agent</b>") as agent:
        agent.call("host.register_agent", {"id": evil, "name": evil, "kind": evil})
        run_id = start_run(agent, intent=evil)
        record(agent, run_id, {"tool": evil, "prompt": evil, "parameters": {evil: evil}, "output": [evil]})
        expect(screen.row(0)).to_contain_text(evil)
        screen.open_run(run_id)
        screen.row(1).locator("button.turn").click()
        expect(screen[".payload"]).to_have_count(3)
        expect(screen[".payload.json"].first).to_contain_text("onerror")
        screen.go("#/agents")
        expect(screen.row(0)).to_contain_text(evil)
        screen.go("#/events")
        screen.row(1).locator("button").click()
        expect(screen[".payload"]).to_contain_text("onerror")
    assert screen["main script, main img, main svg, main b:not(.unseen)"].count() == 0
    assert screen.ask("() => window.hit") is None


def test_what_nobody_would_see_is_shown_by_its_number(screen: Screen, daemon: DaemonProcess) -> None:
    with daemon.client("librarian") as agent:
        run_id = start_run(agent, intent="open \u202etxt.exe")
        expect(screen.row(0)).to_contain_text("U+202E")
        record(agent, run_id, {"tool": "say\x1b[2J", "prompt": "a\u200bb\nc\ufeff\U000e0041"})
        screen.open_run(run_id)
        expect(screen.row(1)).to_contain_text("U+001B")
        screen.row(1).locator("button.turn").click()
        expect(screen[".payload"]).to_have_text("aU+200Bb\ncU+FEFFU+E0041")


def test_payloads_are_shown_and_copied_as_they_were_written(
    open_screen: Callable[..., Screen], daemon: DaemonProcess
) -> None:
    exact = '{"big":123456789012345678901234567890,"long":1.10,"e":1E400,"twice":1,"twice":2,"text":"a\\u0041\\n\\/b"}'
    screen = open_screen(daemon, sign_in=False, permissions=["clipboard-read", "clipboard-write"])
    screen.page.clock.install()
    screen.sign_in()
    with daemon.client("librarian") as agent:
        run_id = start_run(agent)
        turn = '{"tool":"t","output":%s}' % exact.replace('"e":1E400,', "")
        agent.send_raw(
            '{"jsonrpc":"2.0","id":99,"method":"runs.record_turns","params":{"run_id":"%s","turns":[%s]}}'
            % (run_id, turn)
        )
        assert agent.reply(99)["ok"]
        complete(agent, run_id)
    screen.open_run(run_id)
    screen.row(1).locator("button.turn").click()
    payload = screen[".payload"]
    for token in (
        "123456789012345678901234567890",
        "1.10",
        '"twice": 1',
        '"twice": 2',
        '"a\\u0041\\n\n\\/b"',
    ):
        expect(payload).to_contain_text(token, use_inner_text=True)
    (path,) = daemon.home.glob(f"runs/*/{run_id}.jsonl")
    lines = path.read_text().splitlines()
    screen.stop_time()  # a button says for a moment only that it has copied
    screen[".body button"].click()
    expect(screen[".body button"]).to_have_text("Copied")
    assert screen.ask("() => navigator.clipboard.readText()") == lines[1]
    screen["text=Copy run as JSON"].click()
    expect(screen[".tools"]).to_contain_text("Copied")
    whole = screen.ask("() => navigator.clipboard.readText()")
    assert json.loads(whole)["run_id"] == run_id
    assert [line.removesuffix(",") for line in whole.splitlines()[1:-1]] == lines


def test_a_long_payload_is_shown_from_its_beginning_and_whole_when_asked(
    open_screen: Callable[..., Screen], daemon: DaemonProcess
) -> None:
    screen = open_screen(daemon, permissions=["clipboard-read", "clipboard-write"])
    texts = [f"{number} " * 1400 + "\n" for number in range(6)]
    with daemon.client("librarian") as agent:
        run_id = start_run(agent)
        record(agent, run_id, {"tool": "long", "output": texts})
        record(agent, run_id, {"prompt": "".join(texts)[:16_000]})
    screen.open_run(run_id)
    screen.press("j", "j", "Enter")
    expect(screen[".part"]).to_contain_text("Show all")
    expect(screen[".payload"]).not_to_contain_text("5 5 5")
    screen["text=Show all"].click()
    shown = screen[".payload.json"].evaluate("box => box.textContent")
    assert "".join(shown.split()) == "".join(json.dumps(texts).split())
    screen["main .scroller"].focus()
    screen.press("c")
    screen.page.wait_for_function("async () => (await navigator.clipboard.readText()).includes('5 5 5')")
    screen.press("j", "Enter")
    screen["text=Show all"].click()
    expect(screen[".payload"].last).to_have_text("".join(texts)[:16_000])


def test_failures_and_denials_are_found_one_after_the_other(screen: Screen, daemon: DaemonProcess) -> None:
    fine = {"tool": "fine", "verifier_verdict": "passed"}
    with daemon.client("librarian") as agent:
        run_id = start_run(agent)
        record(agent, run_id, *[fine] * 100)
        record(agent, run_id, {"tool": "broken", "verifier_verdict": "failed"}, *[fine] * 90)
        record(agent, run_id, {"tool": "forbidden", "policy_rejected": True}, fine)
        complete(agent, run_id)
    screen.open_run(run_id)
    expect(screen[".failures"]).to_have_text("2 failures")
    screen.press("n")
    expect(screen[".row.selected"]).to_contain_text("broken")
    screen.press("n")
    expect(screen[".row.selected"]).to_contain_text("forbidden")
    expect(screen[".row.selected"]).to_contain_text("denied")
    screen.press("n")
    expect(screen[".failures"]).to_have_text("no failure after this")
    screen.press("p")
    expect(screen[".row.selected"]).to_contain_text("broken")


def test_a_turn_is_looked_at_while_more_come_and_nothing_moves(screen: Screen, daemon: DaemonProcess) -> None:
    with daemon.client("librarian") as agent:
        run_id = start_run(agent)
        record(agent, run_id, *[{"prompt": f"turn {n}"} for n in range(60)])
        screen.open_run(run_id)
        screen.press("G", "k", "k")
        expect(screen[".row.selected"]).to_contain_text("turn 57")
        screen["main .scroller"].evaluate("box => { box.scrollTop = 300 }")
        record(agent, run_id, *[{"prompt": f"turn {n}"} for n in range(60, 80)])
        expect(screen[".more"]).to_contain_text("20 new records")
        assert screen["main .scroller"].evaluate("box => box.scrollTop") == 300
        screen[".more"].click()
        expect(screen.row(80)).to_contain_text("turn 79")
        record(agent, run_id, {"prompt": "turn 80"})
        expect(screen.row(81)).to_be_in_viewport()


def test_of_50_000_turns_only_those_in_view_are_in_the_document(
    open_screen: Callable[..., Screen], make_daemon: Callable[..., DaemonProcess]
) -> None:
    daemon = make_daemon(config=f'[runs]\nmax_turns = {MANY}\ndurability = "os"\n').start()
    screen = open_screen(daemon)
    with daemon.client("librarian") as agent:
        run_id = start_run(agent)
        for base in range(0, MANY, 250):
            record(agent, run_id, *[{"prompt": f"turn {n}"} for n in range(base, base + 250)])
        complete(agent, run_id)
    screen.open_run(run_id)
    expect(screen.row(1)).to_contain_text("turn 0")
    screen.press("G")
    expect(screen.row(MANY + 1)).to_contain_text("ended")
    expect(screen.row(MANY)).to_contain_text(f"turn {MANY - 1}")
    assert screen["main .row"].count() <= IN_DOCUMENT
    for place in (0.5, 0.25, 0.9):
        index = int(MANY * place)
        screen["main .scroller"].evaluate("(box, top) => { box.scrollTop = top }", index * 56)
        expect(screen.row(index)).to_contain_text(f"turn {index - 1}")
        expect(screen[".turn.waiting"]).to_have_count(0)
        shown = screen["main .row"].evaluate_all(
            "rows => rows.map(row => [Number(row.dataset.index), row.querySelector('.said').textContent])"
        )
        assert 0 < len(shown) <= IN_DOCUMENT
        assert all(said == f"turn {index - 1}" for index, said in shown), shown
    screen.press("p")
    expect(screen[".failures"]).to_have_text("no failure before this")


def test_rows_of_any_height_stand_one_below_the_other(screen: Screen, daemon: DaemonProcess) -> None:
    with daemon.client("librarian") as agent:
        run_id = start_run(agent)
        record(agent, run_id, *[{"prompt": "line\n" * (1 + 7 * (n % 3))} for n in range(40)])
        screen.open_run(run_id)
        for _ in range(6):
            screen.press("j", "Enter")
        expect(screen[".payload"]).to_have_count(6)
        screen.press("g")
        screen.page.wait_for_function(
            """() => {
                const boxes = [...document.querySelectorAll("main .row")].map(row => row.getBoundingClientRect());
                return boxes.length > 6 && boxes.every((box, i) => !i || Math.abs(box.top - boxes[i - 1].bottom) < 1)
            }"""
        )


def test_runs_are_filtered_by_words_agent_status_and_outcome(screen: Screen, daemon: DaemonProcess) -> None:
    with daemon.client("librarian") as first, daemon.client("cook") as second:
        complete(first, start_run(first, intent="sort the shelf"), "failure")
        start_run(first, intent="dust the shelf")
        start_run(second, intent="bake a cake")
        expect(screen["main .row"]).to_have_count(3)
        screen.press("/")
        screen.page.keyboard.type("shel")
        expect(screen["main .row"]).to_have_count(2)
        screen["select"].nth(0).select_option("in_progress")
        expect(screen["main .row"]).to_have_count(1)
        expect(screen.row(0)).to_contain_text("dust the shelf")
        screen["select"].nth(1).select_option("failure")
        screen.shows("No run is like that.")
        screen["text=Show all runs"].click()
        expect(screen["main .row"]).to_have_count(3)
        screen["main input.narrow"].fill("cook")
        expect(screen["main .row"]).to_have_count(1)


def test_a_run_that_is_removed_leaves_the_list_and_says_so_where_it_is_open(
    screen: Screen, daemon: DaemonProcess, open_screen: Callable[..., Screen]
) -> None:
    with daemon.client("librarian") as agent:
        run_id = start_run(agent)
        complete(agent, run_id)
    other = open_screen(daemon)
    other.open_run(run_id)
    expect(screen["main .row"]).to_have_count(1)
    with daemon.client(host=True) as host:
        assert host.call("runs.remove", {"run_ids": [run_id]})["removed"] == [run_id]
    screen.shows("No run yet.")
    other.shows("There is no such run")


def test_more_runs_than_one_answer_holds_are_all_reachable(screen: Screen, daemon: DaemonProcess) -> None:
    with daemon.client("librarian") as agent:
        for number in range(230):
            complete(agent, start_run(agent, intent=f"job {number}"))
    expect(screen.row(0)).to_contain_text("job 229")
    expect(screen[".canvas"]).to_be_visible()

    def at_the_end() -> bool:
        screen.press("G")
        return "job 0" in screen["main"].inner_text()

    screen.page.wait_for_function("() => document.querySelectorAll('main .row').length > 0")
    until(at_the_end, "the oldest is shown")
    shown = screen["main .row .title"].all_inner_texts()
    assert shown[-1] == "job 0"
    assert len(shown) == len(set(shown))
