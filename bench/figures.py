"""A figure: one number, what it was measured against, and the target it is held to; and how figures are shown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """`measured` in `unit`, with the target that it is held to: `at_least` or `at_most`.

    A target is what users were promised, or a guard (`is_guard`): a good third worse than what was measured when it was
    set, so that it tells of a change for the worse and not of a noisy day.
    """

    bench: str
    name: str
    measured: float
    unit: str
    detail: str = ""
    at_least: float | None = None
    at_most: float | None = None
    is_guard: bool = False

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"{self.name}: a figure has one target, at_least or at_most")

    @property
    def met(self) -> bool:
        if self.at_least is not None:
            return self.measured >= self.at_least
        return self.at_most is not None and self.measured <= self.at_most

    @property
    def target(self) -> str:
        bound = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        return f"{bound} (guard)" if self.is_guard else bound

    @property
    def number(self) -> str:
        return f"{self.measured:.2f}" if abs(self.measured) < 100 else f"{self.measured:,.0f}"


VERDICTS = {True: "met", False: "MISSED"}


def row(figure: Figure) -> str:
    left = f"{figure.bench:8} {figure.name:44} {figure.number:>9} {figure.unit:8}"
    return f"{left} {figure.target:>15} {VERDICTS[figure.met]:6}  {figure.detail}".rstrip()


def markdown(figures: Iterable[Figure]) -> str:
    """The table of `docs/performance.md`."""
    lines = ["| what | measured | target | | |", "|---|---|---|---|---|"]
    for each in figures:
        verdict = "met" if each.met else "**missed**"
        lines.append(
            f"| {each.name} | {each.number} {each.unit} | {each.target} | {verdict} | {each.detail} |"
        )
    return "\n".join(lines) + "\n"


def save(figures: Iterable[Figure], about: dict[str, object], path: Path) -> None:
    listed = [asdict(figure) | {"met": figure.met} for figure in figures]
    path.write_text(json.dumps(about | {"figures": listed}, indent=1) + "\n")
