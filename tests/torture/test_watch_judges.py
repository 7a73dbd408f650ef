"""The judges of the watch and loop campaigns see what they look for."""

from __future__ import annotations

from pathlib import Path

import pytest

from car_trio.nursery.framing import packed_frames
from car_trio.nursery.subscriptions import RunSubscription
from car_trio.state.run import Passage
from tests.process.daemon_process import DaemonProcess
from torture.loop import Watched, full_load, judge, longest_of, measure
from torture.orders import Orders, Verdict
from torture.schedules import difference, run_schedules
from torture.watch import sleepers, tell_ratio
from torture.watched import PLANT

RECORDED = [b'{"index":%d}' % index for index in range(5)]


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (RECORDED[:2] + RECORDED[3:], "record 2 is missing"),
        (RECORDED[:2] + RECORDED[1:], "record 2 is shown twice"),
        ([*RECORDED[:2], b'{"index": 2}', *RECORDED[3:]], "record 2 is not what the file holds"),
        (RECORDED[:4], "4 records are shown, the file holds 5"),
        ([*RECORDED, RECORDED[4]], "6 records are shown, the file holds 5"),
        (RECORDED[:1] + RECORDED[2:3] + RECORDED[1:2] + RECORDED[3:], "record 1 is missing"),
    ],
    ids=["gap", "double", "byte", "end missing", "end twice", "order"],
)
def test_a_history_that_is_not_the_replay_is_told_apart(shown: list[bytes], said: str) -> None:
    assert difference(RECORDED, RECORDED) is None
    assert difference(shown, RECORDED) == said


@pytest.mark.parametrize("defect", ["gap", "double", "byte"])
def test_a_daemon_that_shows_something_else_is_found_by_the_schedules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defect: str
) -> None:
    plain = RunSubscription._emit

    def emit(self: RunSubscription, passage: Passage) -> None:
        first = passage.cursor - len(passage.records) + 1
        planted = first <= 7 <= passage.cursor and passage.status == "in_progress"
        if planted and defect == "gap":
            self.cursor = passage.cursor
            return
        if planted and defect == "byte":
            records = [record.replace(b'"record"', b'"record" ') for record in passage.records]
            passage = Passage(self.run.ref, records, passage.cursor, passage.status)
        plain(self, passage)
        if planted and defect == "double":
            self._post(passage.packed(packed_frames))

    monkeypatch.setattr(RunSubscription, "_emit", emit)
    verdict = Verdict()
    run_schedules(Orders(tmp_path, seed=1), verdict, 10)
    assert verdict.findings


def test_slow_watchers_that_cost_too_much_are_found() -> None:
    fine, slow = Verdict(), Verdict()
    tell_ratio(fine, [1.0, 1.1, 0.9], [1.05, 1.1, 1.0])
    tell_ratio(slow, [1.0, 1.1, 0.9], [1.2, 1.3, 1.1])
    assert (len(fine.late), len(slow.late)) == (0, 1)


@pytest.mark.parametrize("defect", ["", "hoarding"])
def test_a_daemon_that_keeps_what_watchers_do_not_read_is_found(tmp_path: Path, defect: str) -> None:
    environment = {"CAR_TRIO_RUNS_DURABILITY": "os"}
    module = ("torture.planted", defect) if defect else ("car_trio",)
    daemon = DaemonProcess(tmp_path / "home", environment=environment, module=module).start()
    verdict = Verdict()
    try:
        sleepers(daemon, verdict)
    finally:
        daemon.clean_up()
    assert any("while watchers do not read" in each for each in verdict.findings) == bool(defect)


def test_a_block_is_judged_by_the_shortest_of_several_tries() -> None:
    told = [
        {"late_ms": late, "cpu_ms": cpu, "step_ms": 900.0, "task": "t", "where": "w"}
        for late, cpu in ((90.0, 3.0), (20.0, 60.0), (70.0, 80.0))
    ]
    verdict = Verdict()
    judge(verdict, "planted", 4, told)
    judge(verdict, "larger", 16, told)
    judge(verdict, "fine", 4, [*told, {**told[0], "late_ms": 49.0}])
    assert [finding.split(":")[0] for finding in verdict.late] == ["planted"]


def test_the_instrument_sees_a_planted_block_and_names_it(tmp_path: Path) -> None:
    verdict = Verdict()
    daemon = Watched(tmp_path / "home", {PLANT: "120"})
    daemon.start()
    try:
        with daemon.client() as client:

            def once() -> dict[str, object]:
                daemon.longest()
                client.call("state.exists", {"key": "k"})
                client.call("server.health")
                return daemon.longest()

            assert longest_of(once()) >= 100
            measure(verdict, "planted", 1, once)
    finally:
        daemon.clean_up()
    assert "planted" in verdict.late[0]


def test_a_load_that_the_daemon_does_not_bear_is_found(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path / "home").start()
    verdict = Verdict()
    try:
        with full_load(daemon, verdict):
            pass
        assert not verdict.findings
        assert verdict.counts["answers and events of the load"] > 0
        with full_load(daemon, verdict):
            daemon.kill()
    finally:
        daemon.clean_up()
    assert verdict.findings == ["the load was given up"]
