"""What the journal does by itself when its time has come: trying again, syncing, the catalog, lines that may wait."""

from __future__ import annotations

import math


class Due:
    """One of these: `at` says when, `now` that it is time. The next batch does it."""

    __slots__ = ("at", "now")

    def __init__(self) -> None:
        self.at = math.inf
        self.now = False

    def by(self, at: float) -> None:
        """At this time at the latest."""
        self.at = min(self.at, at)


class Dues:
    """All of them. `retry`: what was kept; `flush`: what is written and not synced; `index`: rows of the catalog;
    `lines`: those for which nobody waits."""

    def __init__(self) -> None:
        self.retry = Due()
        self.flush = Due()
        self.index = Due()
        self.lines = Due()
        self._all = (self.retry, self.flush, self.index, self.lines)

    @property
    def earliest(self) -> float:
        return min(due.at for due in self._all)

    @property
    def is_now(self) -> bool:
        """Whether there is something to do even when nothing waits to be written."""
        return any(due.now for due in self._all)

    def strike(self, now: float) -> None:
        """It is this time."""
        for due in self._all:
            if now >= due.at:
                due.at, due.now = math.inf, True

    def done(self) -> None:
        """A batch takes on whatever is due, and every line that waits."""
        for due in self._all:
            due.now = False
        self.lines.at = math.inf
