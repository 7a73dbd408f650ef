"""What a campaign is told, and what it answers."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Orders:
    """`rounds` ends a campaign when that many are done, `minutes` when that time has gone; the first wins.
    `only`: what the names of its rounds must match, for a campaign whose rounds have names."""

    directory: Path
    seed: int
    minutes: float = 60.0
    rounds: int | None = None
    only: str = ""
    began: float = field(default_factory=time.monotonic)

    @property
    def dice(self) -> random.Random:
        """A new source of random numbers, the same one each time it is asked for."""
        return random.Random(self.seed)  # noqa: S311 - chance, not secrets

    def go_on(self, done: int) -> bool:
        """Whether another round is due after `done` of them."""
        if self.rounds is not None and done >= self.rounds:
            return False
        return time.monotonic() - self.began < self.minutes * 60


@dataclass(slots=True)
class Verdict:
    """Counts of what was done, and each thing that should not have happened, in words."""

    counts: Counter[str] = field(default_factory=Counter[str])
    figures: dict[str, str] = field(default_factory=dict[str, str])
    findings: list[str] = field(default_factory=list[str])
    late: list[str] = field(default_factory=list[str])
    """What took too long: found too, but a test on a busy machine must not fail of it."""

    def expect(self, holds: object, finding: str) -> None:
        self.counts["checks"] += 1
        if not holds:
            self.findings.append(finding)

    def expect_time(self, holds: object, finding: str) -> None:
        self.counts["checks"] += 1
        if not holds:
            self.late.append(finding)

    def lines(self) -> list[str]:
        told = [f"{name}: {count:,}" for name, count in self.counts.items()]
        told += [f"{name}: {figure}" for name, figure in self.figures.items()]
        return told + [f"FOUND: {finding}" for finding in (*self.findings, *self.late)[:50]]
