"""The judges of the watch and loop campaigns see what they look for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from car_trio.nursery.framing import packed_frames
from car_trio.nursery.subscriptions import RunSubscription
from car_trio.state.absent import Absent
from car_trio.state.run import Passage
from car_trio.store.writing import Writer
from tests.process.daemon_process import DaemonProcess
from torture.loop import Watched, full_load, judge, longest_of, measure
from torture.orders import Orders, Verdict
from torture.planted_store import STORE_DEFECTS
from torture.schedules import Life, difference, history, run_schedules
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


# Lives

LIVES = [[b'{"prompt":"%d:%d"}' % (life, index) for index in range(4)] for life in (0, 1)]
ENDS = [
    b'{"record":"ended","termination":{"kind":"outcome","outcome":{"status":"success","summary":"life %d"}}}'
    % life
    for life in (0, 1)
]
LAST_WORD = ENDS[0].replace(b"life 0", b"")


@pytest.mark.parametrize(
    ("start", "shown", "end", "said"),
    [
        (0, LIVES[0], ENDS[0], None),
        (2, LIVES[0][2:], ENDS[0], None),
        (0, LIVES[0][:2], None, None),
        (1, LIVES[0][1:2], LAST_WORD, None),
        (0, LIVES[0][:2] + LIVES[1][2:], ENDS[0], "2 turns of another life are shown"),
        (0, LIVES[1][:1], None, "1 turns of another life are shown"),
        (0, LIVES[0], ENDS[1], "its last word is another's"),
        (0, LIVES[0][:1] + LIVES[0][2:], ENDS[0], "record 1 is missing"),
    ],
)
def test_what_is_shown_of_a_life_is_judged_by_that_life(
    start: int, shown: list[bytes], end: bytes | None, said: str | None
) -> None:
    life = Life(0)
    life.recorded, life.removed = [*LIVES[0], ENDS[0]], True
    found = history(life, start, shown, end)
    assert found is None if said is None else found is not None and said in found


def test_only_a_run_that_was_removed_may_end_before_its_end() -> None:
    life = Life(0)
    life.recorded = [*LIVES[0], ENDS[0]]
    assert history(life, 0, LIVES[0][:2], ENDS[0])


@pytest.mark.parametrize(
    ("defect", "said"),
    [
        ("kept", "of them another's"),
        ("inherited", "of them another's"),
        ("remembered", "unknown run_id"),
        ("still shown", "turns of another life are shown"),
    ],
)
def test_a_daemon_that_mixes_two_lives_is_found_by_the_schedules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defect: str, said: str
) -> None:
    monkeypatch.setattr(Writer, "_append_payload", Writer._append_payload)  # is put back
    if defect == "remembered":
        monkeypatch.setattr(Absent, "left", lambda self, run_id, *, gone: self._leaving.pop(run_id))
    elif defect == "still shown":
        monkeypatch.setattr(RunSubscription, "_emit", emitting_what_was())
    else:
        where, attribute, plant = STORE_DEFECTS[defect]
        monkeypatch.setattr(where, attribute, plant())
    verdict = Verdict()
    run_schedules(Orders(tmp_path, seed=1), verdict, 10)
    assert any(said in finding for finding in verdict.findings), verdict.findings


def emitting_what_was() -> Callable[[RunSubscription, Passage], None]:
    """Whoever watches is shown first what another watcher of an earlier run of that id was shown."""
    plain = RunSubscription._emit
    last: dict[str, tuple[RunSubscription, Passage]] = {}

    def emit(self: RunSubscription, passage: Passage) -> None:
        run_id = self.run.ref.run_id
        before, was = last.get(run_id, (self, passage))
        if before.run.started_at != self.run.started_at:
            self._post(was.packed(packed_frames))
        if passage.status == "in_progress":
            last[run_id] = self, passage
        plain(self, passage)

    return emit


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
