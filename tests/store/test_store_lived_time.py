"""A clock that jumps makes no run old."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from car_trio.store.disk import Disk
from car_trio.store.layout import Layout
from car_trio.store.lived_time import FILE, LivedTime, Look, line_of, lived_time, look
from car_trio.store.retention import expired
from car_trio.wire.runs import CatalogRow, RunRef, rfc3339
from tests.store.store_scripts import row

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY, YEAR = timedelta(days=1), timedelta(days=365)


class Clocks:
    """A machine on which time passes, whose wall clock can be set, and a store that looks once an hour."""

    def __init__(self) -> None:
        self.wall, self.boot, self.seconds = NOON, "boot-1", 1000.0
        self.lines: list[bytes] = []
        self.lived = LivedTime()
        self.look()

    def look(self) -> None:
        seen = look(self.wall, self.boot, self.seconds)
        if self.lived.look(seen):
            self.lines.append(line_of(seen))

    def pass_time(self, time: timedelta, *, looking: bool = True) -> None:
        for _ in range(int(time / timedelta(hours=1)) if looking else 0):
            self.pass_time(timedelta(hours=1), looking=False)
            self.look()
        if not looking:
            self.wall += time
            self.seconds += time.total_seconds()

    def start_again(self, after: timedelta) -> None:
        """The machine was off meanwhile."""
        self.wall += after
        self.boot, self.seconds = self.boot + "+", 5.0
        self.lived = LivedTime(self.lines)
        self.look()

    def age(self, moment: datetime) -> timedelta:
        return self.wall - self.lived.now_is(moment, self.wall)

    def gone(self, *ends: datetime, per_agent: int = 0) -> list[str]:
        rows = [a_row(str(number), end) for number, end in enumerate(ends)]
        found = expired(rows, self.wall, per_agent, 90, lambda moment: self.lived.now_is(moment, self.wall))
        return [gone.row.run_id for gone in found]


def a_row(name: str, ended: datetime) -> CatalogRow:
    at = rfc3339(ended)
    return row(RunRef("a", name), started_at=at, ended_at=at, status="completed")


def about(age: timedelta, wanted: timedelta) -> bool:
    return abs(age - wanted) < timedelta(minutes=5)


@pytest.fixture
def clocks() -> Clocks:
    clocks = Clocks()
    clocks.pass_time(3 * DAY)
    return clocks


JUMPS = [timedelta(hours=1), timedelta(hours=-1), 10 * YEAR, -10 * YEAR]


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("kept", [True, False])
def test_what_happened_before_a_jump_is_as_old_as_it_is_also_when_the_daemon_starts_again(
    clocks: Clocks, jump: timedelta, kept: bool
) -> None:
    before, old = clocks.wall - DAY, NOON - 89 * DAY
    clocks.wall += jump
    clocks.pass_time(timedelta(hours=2))
    if not kept:
        clocks.start_again(timedelta(minutes=1))
    assert about(clocks.age(before), DAY + timedelta(hours=2))
    assert about(clocks.age(old), 92 * DAY + timedelta(hours=2))
    assert clocks.gone(before, NOON - 86 * DAY) == []


@pytest.mark.parametrize("jump", JUMPS)
def test_what_was_recorded_under_a_wrong_clock_is_young_when_the_clock_is_set_right(
    clocks: Clocks, jump: timedelta
) -> None:
    clocks.wall += jump
    clocks.pass_time(timedelta(hours=5))
    recorded = clocks.wall - timedelta(hours=1)
    clocks.wall -= jump
    clocks.pass_time(DAY)
    assert about(clocks.age(recorded), DAY + timedelta(hours=1)) or abs(jump) < DAY
    assert clocks.age(recorded) < 2 * DAY
    assert clocks.gone(recorded, NOON) == []


def test_a_jump_there_and_back_and_there_again_makes_nothing_old(clocks: Clocks) -> None:
    for jump in (10 * YEAR, -10 * YEAR) * 3:
        clocks.wall += jump
        clocks.pass_time(timedelta(hours=3))
    assert about(clocks.age(NOON), 3 * DAY + timedelta(hours=18))


def test_time_that_passes_makes_runs_old(clocks: Clocks) -> None:
    clocks.pass_time(88 * DAY)
    assert clocks.gone(NOON, NOON + 2 * DAY) == ["0"]


def test_a_sleeping_machine_gets_older_and_so_do_its_runs(clocks: Clocks) -> None:
    clocks.pass_time(100 * DAY, looking=False)
    clocks.look()
    assert clocks.gone(clocks.wall - 101 * DAY, clocks.wall - DAY) == ["0"]


def test_between_two_starts_of_the_machine_at_most_seven_days_are_believed(clocks: Clocks) -> None:
    clocks.start_again(5 * DAY)
    assert about(clocks.age(NOON), 8 * DAY)
    clocks.start_again(10 * YEAR)
    assert about(clocks.age(NOON), 15 * DAY)
    clocks.start_again(-10 * YEAR)
    assert about(clocks.age(NOON), 15 * DAY)


def test_of_two_runs_the_one_that_ended_first_goes_whatever_the_clock_said(clocks: Clocks) -> None:
    first = clocks.wall
    clocks.wall -= 10 * YEAR
    clocks.pass_time(DAY)
    assert clocks.gone(clocks.wall, first, per_agent=1) == ["1"]


def test_what_ended_after_the_last_look_is_new_and_a_clock_never_looked_at_is_believed(
    clocks: Clocks,
) -> None:
    later = clocks.wall + timedelta(minutes=50)
    assert clocks.lived.now_is(later, clocks.wall) >= clocks.wall - timedelta(minutes=1)
    assert LivedTime().now_is(NOON, NOON + DAY) == NOON
    assert LivedTime([line_of(look(NOON, "b", 1.0))]).now_is(NOON - YEAR, NOON) == NOON - YEAR


def test_a_line_a_day_is_noted_and_one_for_each_jump() -> None:
    clocks = Clocks()
    clocks.pass_time(10 * DAY)
    assert len(clocks.lines) == 11
    clocks.wall += 10 * YEAR
    clocks.look()
    assert len(clocks.lines) == 12


def test_lines_that_say_nothing_are_passed_over_and_a_file_that_cannot_be_read_means_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = [line_of(look(NOON, "b", 1.0)), line_of(look(NOON + 10 * YEAR, "b", 61.0))]
    bad = [b"", b"\0\0", b"{}", b'{"at":"noon","boot":"b","seconds":1}']
    lived = LivedTime([bad[0], good[0], *bad, good[1]])
    assert about(NOON + 10 * YEAR - lived.now_is(NOON, NOON + 10 * YEAR), timedelta(minutes=1))
    assert lived_time(Disk(), Layout(tmp_path)).look(Look(rfc3339(NOON), "b", 1.0))
    (tmp_path / FILE).mkdir()
    assert lived_time(Disk(), Layout(tmp_path)).look(Look(rfc3339(NOON), "b", 1.0))
    assert "the wall clock is believed" in caplog.text


def test_a_clock_that_runs_too_fast_is_no_jump_and_still_makes_nothing_older(clocks: Clocks) -> None:
    for _ in range(10):
        clocks.wall += timedelta(seconds=50)
        clocks.pass_time(timedelta(hours=1))
    assert about(clocks.age(NOON), 3 * DAY + timedelta(hours=10))


def test_a_clock_that_is_slewed_ages_a_run_by_the_time_that_passed():
    clocks = Clocks()
    ended = clocks.wall
    for _ in range(4):
        clocks.pass_time(timedelta(hours=1), looking=False)
        clocks.wall += timedelta(seconds=45)  # too little at a time to be a jump
        clocks.look()
    assert abs(clocks.age(ended) - timedelta(hours=4)) <= timedelta(minutes=2)
    assert abs(clocks.age(clocks.wall)) <= timedelta(minutes=1)
