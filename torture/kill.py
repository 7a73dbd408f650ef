"""kill: what was acknowledged survives SIGKILL, present once and in order, and every run ends exactly once.

Writers in processes of their own load a daemon and write down each acknowledgement (`torture.writer`). The daemon is
killed at a random moment, under load or while it starts and adopts; or it is a `torture.doomed` one, which dies at a
chosen operation on its disk. The next life adopts and is judged (`torture.house`). A home serves `LIVES_PER_HOME`
lives: enough for a restart to find old runs, few enough for a start to stay short.

Operations are not left to chance. The first `OPERATIONS` of a life, and the first `FIRST_OPERATIONS` of a home that
is being made, are each the last one in every way there is (`torture.doomed.WAYS`) before one of them is so again; the
seed only shuffles each pass. The campaign says how many passes it has come to.

Nearly all daemons are forked by a `torture.zygote`, whose header says what that leaves out; one life in
`REAL_EVERY` is an interpreter of its own, in every kind of life.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator

from torture.doomed import WAYS
from torture.forked import ForkedDaemon, zygote
from torture.house import House, writers
from torture.orders import Orders, Verdict

LIVES_PER_HOME = 20
OPERATIONS = 150
"""The adoption, and the first runs after it."""
FIRST_OPERATIONS = 40
"""The preparation of a root, and the first runs in it."""
REAL_EVERY = 17
"""Not a multiple of the others, so that each kind of life has its share."""
MOST_FINDINGS = 20


class Dooms:
    """Each operation in each way, pass after pass."""

    def __init__(self, operations: int, dice: random.Random) -> None:
        self.cases = [(when, at) for when in WAYS for at in range(1, operations + 1)]
        self._dice = dice
        self._drawn = 0
        self._endless = self._passes()

    def _passes(self) -> Iterator[tuple[str, int]]:
        while True:
            self._dice.shuffle(self.cases)
            yield from self.cases

    def next(self) -> tuple[str, int]:
        self._drawn += 1
        return next(self._endless)

    @property
    def told(self) -> str:
        return f"{self._drawn / len(self.cases):.2f} passes over {len(self.cases)}"


class Plan:
    """Which life comes next."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.lives = Dooms(OPERATIONS, random.Random(dice.random()))  # noqa: S311 - chance, not secrets
        self.births = Dooms(FIRST_OPERATIONS, random.Random(dice.random()))  # noqa: S311 - chance, not secrets

    def play(self, house: House, number: int, in_home: int) -> None:
        house.daemon.is_real = number % REAL_EVERY == REAL_EVERY - 1
        house.verdict.counts["lives in an interpreter of their own"] += house.daemon.is_real
        if in_home == 0:
            house.doomed_life(*self.births.next())
        elif number % 3 == 2:
            house.doomed_life(*self.lives.next())
        elif self._dice.random() < 0.25:
            house.short_life(self._dice)
        else:
            house.loaded_life(self._dice)


def campaign(orders: Orders, defect: str | None = None) -> Verdict:
    """`defect`: one of `torture.planted`, for the daemons that are forked."""
    verdict, plan, done = Verdict(), Plan(orders.dice), 0
    with zygote() as parent, writers(orders.seed) as processes:
        while orders.go_on(done) and len(verdict.findings) < MOST_FINDINGS:
            daemon = ForkedDaemon(parent, orders.directory / f"home-{done}", defect=defect)
            done = one_home(orders, plan, House(verdict, daemon, processes), done)
    ends = sorted(name for name in verdict.counts if name.startswith("dies "))
    verdict.figures["operations"] = ", ".join(f"{end[5:]} {verdict.counts.pop(end)}" for end in ends)
    verdict.figures["each operation of a life"] = plan.lives.told
    verdict.figures["each operation of a new home"] = plan.births.told
    verdict.expect(verdict.counts["acknowledged turns"], "nothing was acknowledged, so nothing was tried")
    return verdict


def one_home(orders: Orders, plan: Plan, house: House, done: int) -> int:
    """Some lives and their end; returns how many lives there were by then. What is clean is removed."""
    verdict, home = house.verdict, house.daemon.home
    before = len(verdict.findings)
    try:
        for in_home in range(LIVES_PER_HOME):
            if orders.go_on(done) and len(verdict.findings) == before:
                plan.play(house, done, in_home)
                done += 1
        house.last_life()
    except AssertionError as failed:
        verdict.expect(False, f"{home}: {failed}")
    finally:
        house.daemon.clean_up()
    if len(verdict.findings) == before:
        for path in home.parent.glob(f"{home.name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return done
