"""A figure: one number, what it was measured against, and the target it is held to; and how figures are shown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """`measured` in `unit`. With `at_least` or `at_most` there is a target; without, the figure is only reported."""

    bench: str
    name: str
    measured: float
    unit: str
    detail: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; `None` without one."""
        if self.at_least is not None:
            return self.measured >= self.at_least
        return None if self.at_most is None else self.measured <= self.at_most

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"

    @property
    def number(self) -> str:
        return f"{self.measured:.2f}" if abs(self.measured) < 100 else f"{self.measured:,.0f}"


VERDICTS = {True: "met", False: "MISSED", None: ""}


def row(figure: Figure) -> str:
    left = f"{figure.bench:8} {figure.name:44} {figure.number:>9} {figure.unit:8}"
    return f"{left} {figure.target:>8} {VERDICTS[figure.met]:6}  {figure.detail}".rstrip()


def markdown(figures: Iterable[Figure]) -> str:
    """The table of `docs/performance.md`."""
    lines = ["| what | measured | target | | |", "|---|---|---|---|---|"]
    for each in figures:
        verdict = "**missed**" if each.met is False else VERDICTS[each.met]
        lines.append(
            f"| {each.name} | {each.number} {each.unit} | {each.target} | {verdict} | {each.detail} |"
        )
    return "\n".join(lines) + "\n"


def save(figures: Iterable[Figure], about: dict[str, object], path: Path) -> None:
    listed = [asdict(figure) | {"met": figure.met} for figure in figures]
    path.write_text(json.dumps(about | {"figures": listed}, indent=1) + "\n")
