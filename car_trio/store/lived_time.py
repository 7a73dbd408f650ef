"""How long ago something happened, when the wall clock cannot be believed (protocol `runs.md` section 3, retention).

Retention by age must not delete a history because a clock jumped ten years ahead. So the store looks at the clock
again and again and notes what it saw, a line a day in `clock.jsonl`: the wall clock, and beside it a clock that
cannot be set and counts from the start of the machine. Between two looks in one start of the machine as much time has
been lived through as that second clock says; between two starts as much as the wall clock says, but at most
`MAX_GAP`, and none when it went back. The age of a run is the time that was lived through since the wall clock showed
the moment at which the run ended; when it showed that twice, since the later time. So a jump makes nothing old, there
or back, and what was recorded under a wrong clock is as young as it is. A store that lay unused for longer than
`MAX_GAP` keeps its runs that much longer.

Before the first look the wall clock is all there is, and is believed. Who looks, and who writes, is elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from car_trio.store.disk import Disk
from car_trio.store.layout import Layout
from car_trio.store.log_files import lines
from car_trio.wire.runs import rfc3339

LOG = logging.getLogger("car_trio.store")

FILE = "clock.jsonl"
"""Under the state root."""
UNSETTABLE_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Nobody sets it, and it goes on while the machine sleeps."""
MAX_GAP = timedelta(days=7)
NOTED_EVERY = timedelta(days=1)
_SLACK = timedelta(seconds=60)
"""Two clocks that are both right differ by less."""


class Look(msgspec.Struct, frozen=True):
    """What the clocks showed: the wall clock, and in which start of the machine how many seconds after it."""

    at: str
    boot: str
    seconds: float


class _Piece(NamedTuple):
    """A stretch of the wall clock during which `lived` time had passed at its beginning."""

    begin: datetime
    end: datetime
    lived: timedelta


class LivedTime:
    """What the looks say about the past. Each look is later than all before, whatever the wall clock says."""

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        self._pieces: list[_Piece] = []
        self._last: tuple[Look, datetime] | None = None
        self._noted: timedelta | None = None
        self._lived = timedelta()
        for line in lines:
            try:
                self.look(msgspec.json.decode(line, type=Look))
            except (msgspec.MsgspecError, ValueError):
                continue  # a line that says nothing: the looks beside it say enough

    def look(self, look: Look) -> bool:
        """Take one more look; whether it has to be noted. `ValueError` when its time is none."""
        at = datetime.fromisoformat(look.at).astimezone(UTC)
        jumped = False
        if self._last is not None:
            before, then = self._last
            passed = _passed(before, look, at - then)
            self._lengthen(then, passed)
            jumped = abs(at - then - passed) > _SLACK
            if jumped:
                self._pieces.append(_Piece(at - passed, at, self._lived))
            self._lived += passed
        self._last = look, at
        if jumped or self._noted is None or self._lived - self._noted >= NOTED_EVERY:
            self._noted = self._lived
            return True
        return False

    def _lengthen(self, then: datetime, passed: timedelta) -> None:
        """Time passed since `then`: in one piece with what passed before, as long as the clock did not jump."""
        if self._pieces:
            begin, _, lived = self._pieces[-1]
            if abs(begin + (self._lived - lived) - then) <= _SLACK:
                self._pieces[-1] = _Piece(begin, then + passed, lived)
                return
        self._pieces.append(_Piece(then, then + passed, self._lived))

    def now_is(self, moment: datetime, now: datetime) -> datetime:
        """When that was by the wall clock of `now`, the time of the last look: `now` less the time lived since."""
        if self._last is None or not self._pieces:
            return moment
        for begin, end, lived in reversed(self._pieces):
            if begin - _SLACK <= moment <= end + _SLACK:
                return now - (self._lived - lived - min(max(moment - begin, timedelta()), end - begin))
        first = self._pieces[0].begin
        if moment < first:
            return now - self._lived - (first - moment)
        since = max(lived + (end - begin) for begin, end, lived in self._pieces if end <= moment)
        return now - (self._lived - since)


def lived_time(disk: Disk, layout: Layout) -> LivedTime:
    """What was noted so far; without a file that can be read the wall clock is believed."""
    try:
        return LivedTime(lines(disk, layout, FILE))
    except OSError as error:
        LOG.warning("%s cannot be read (%s): the wall clock is believed", layout.root / FILE, error)
        return LivedTime()


def line_of(look: Look) -> bytes:
    return msgspec.json.encode(look)


def look(now: datetime, boot: str, seconds: float) -> Look:
    return Look(rfc3339(now), boot, seconds)


def _passed(before: Look, look: Look, by_wall: timedelta) -> timedelta:
    if before.boot == look.boot and look.seconds >= before.seconds:
        return timedelta(seconds=look.seconds - before.seconds)
    return min(max(by_wall, timedelta()), MAX_GAP)
