"""The judges of the fault, clock and twins campaigns see what they look for: each is shown planted defects."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import which

import pytest

from tests.process import daemon_process
from tests.process.daemon_process import DaemonProcess, until
from torture import clock, fault, fault_queue, fault_starts, twins
from torture.fault_calls import Case
from torture.fault_refusals import ALWAYS, while_degraded
from torture.orders import Orders, Verdict

needs_strace = pytest.mark.skipif(which("strace") is None, reason="needs strace")
needs_queue = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux' queue for syncs")
needs_faketime = pytest.mark.skipif(not clock.LIBRARY, reason="needs libfaketime")


@pytest.fixture
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a defect keeps from coming true is not waited for as long as what may only be slow."""
    monkeypatch.setattr(daemon_process, "PATIENCE", 4.0)


@pytest.mark.usefixtures("little_patience")
@pytest.mark.parametrize(
    ("defect", "error", "words"),
    [
        ("deaf", "ENOSPC", "acknowledged [10, 11, 12], held"),
        ("deaf to syncs", "EIO", "acknowledged [10, 11, 12], held"),
        ("again", "EIO", "out of order or doubled"),
        ("ill for ever", "EIO", "the store heals"),
    ],
)
def test_a_store_that_takes_a_failure_wrongly_is_found_out(
    defect: str, error: str, words: str, tmp_path: Path
) -> None:
    verdict = Verdict()
    for nth in range(11, 20):  # the turns of the first run, and some more
        fault.failing_disk(verdict, tmp_path / f"home-{nth}", error, nth, 1, defect)
        if verdict.findings:
            break
    assert any(words in finding for finding in verdict.findings), verdict.findings


@needs_queue
@pytest.mark.usefixtures("little_patience")
@pytest.mark.parametrize("which", fault_queue.WHICH)
def test_a_store_that_takes_a_failure_of_the_queue_for_a_success_is_found_out(
    which: str, tmp_path: Path
) -> None:
    verdict = Verdict()
    fault_queue.one_queue(verdict, tmp_path / "home", f"EIO:{which}", 1, 1, "deaf to syncs")
    assert any("acknowledged [40, 41, 42], held" in finding for finding in verdict.findings), verdict.findings


@needs_strace
@pytest.mark.usefixtures("little_patience")
@pytest.mark.parametrize(
    ("defect", "words"),
    [
        ("vague", "turns: refused with -32603 no"),
        ("all welcome", "turns: not refused, but answered"),
        ("deaf", "the store notices"),
        ("ill for ever", "the store heals"),
    ],
)
def test_a_store_that_does_not_say_what_it_cannot_do_is_found_out(
    defect: str, words: str, tmp_path: Path
) -> None:
    verdict = Verdict()
    daemon = DaemonProcess(
        tmp_path / "home", environment=fault.NO_RESERVE, module=("torture.planted", defect)
    )
    while_degraded(verdict, daemon, Case("write", "ENOSPC", 1, ALWAYS))
    assert any(words in finding for finding in verdict.findings), verdict.findings


@needs_strace
def test_a_daemon_that_gives_a_traceback_for_a_directory_is_found_out(tmp_path: Path) -> None:
    home = tmp_path / "home"
    daemon = DaemonProcess(home, module=("torture.planted", "no such defect"))  # ends in a traceback
    home.write_text("a file in the place of a directory")
    verdict = Verdict()
    fault_starts.judge_start(verdict, daemon, "a file")
    assert [finding.split(": ")[1][:11] for finding in verdict.findings] == [
        "ended with ",
        "a traceback",
        "does not sa",
    ]


def jump_ahead(case: clock.Case) -> None:
    case.daemon.start()
    with case.daemon.client("agent") as client:
        case.run(client, ends=True)
    case.set(clock.TEN_YEARS)
    until((case.daemon.home / "deleted-runs.jsonl").exists, "retention has looked")
    case.judge()


def wait_for_deadlines(case: clock.Case) -> None:
    case.daemon.start()
    case.stretch()


def come_again(case: clock.Case) -> None:
    case.daemon.start()
    with case.daemon.client("agent") as client:
        case.run(client, ends=True)
    case.live_again("is killed")
    case.judge()


@needs_faketime
@pytest.mark.parametrize(
    ("defect", "play", "words"),
    [
        ("wall clock", jump_ahead, "retention removed runs"),
        # It comes with a clock that is ahead, or not at all with one that is behind: whichever is looked at first.
        ("wall deadlines", wait_for_deadlines, "a deadline "),
        ("ended again", come_again, "has 2 ends"),
    ],
)
def test_a_daemon_that_believes_the_clock_is_found_out(
    defect: str, play: Callable[[clock.Case], None], words: str, tmp_path: Path
) -> None:
    verdict = Verdict()
    case = clock.Case(verdict, tmp_path / "home", "planted", defect)
    case.lived(partial(play, case))
    assert any(words in finding for finding in verdict.findings), verdict.findings


@pytest.mark.parametrize(
    ("defect", "words"),
    [
        ("no lock", "3 daemons serve one root"),
        ("silent", "the loser says"),
        ("ended again", "has changed"),
    ],
)
def test_twins_that_both_serve_say_nothing_or_overwrite_are_found_out(
    defect: str, words: str, tmp_path: Path
) -> None:
    verdict, kept = Verdict(), dict[str, bytes]()
    for number in (1, 3):
        twins.one_round(verdict, tmp_path / "home", number, kept, defect)
    assert any(words in finding for finding in verdict.findings), verdict.findings


def test_faults_go_on_until_the_work_is_done_before_any_of_them(tmp_path: Path) -> None:
    verdict, tried = Verdict(), list[tuple[str, int]]()

    def fails(way: str, first: int) -> bool:
        tried.append((way, first))
        return first < {"a": 1, "b": 3}[way]

    fault.until_clean(Orders(tmp_path, seed=1), verdict, "f", ["a", "b"], fails)
    assert tried == [("a", 1), ("b", 1), ("b", 2), ("b", 3)]
    fault.until_clean(Orders(tmp_path, seed=1, minutes=0), verdict, "late", ["a", "b"], fails)
    assert verdict.figures == {
        "f": "n = 1 to 3, then the work was done before it",
        "late": "n = 1 to 0, then the time was over",
    }
