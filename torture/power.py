"""power: every state that a power cut can leave, at every operation of the journal, in every durability mode.

Each round is two lives on one simulated disk. The first is put under one of the loads; before each of its operations
the judges look at all that a cut could leave there (`power_states`, `power_judge`). Some of these states are made and
booted with the store's own code: on the simulated disk, and now and then on a real directory beside a catalog that is
missing, old, cut off or rubbish. The second life begins on such a state: its adoption and its load are watched in the
same way, so a cut may also hit what mends the cut before.

`always` promises a line when it is acknowledged, `interval` when the interval after that is over, `os` nothing but
that what is read is right.
"""

from __future__ import annotations

import importlib
import logging
import os
import random
import shutil
import sqlite3
import time
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from car_trio.store.catalog import CatalogWriter, catalog_files, open_catalog
from car_trio.store.catalog_reader import open_reader
from car_trio.store.disk import Disk
from car_trio.store.layout import Layout
from car_trio.store.orphans import adopt_orphans
from car_trio.store.reader import read_records
from car_trio.store.survey import summarize, survey
from car_trio.store.writing import Durability
from car_trio.wire.runs import RunRef
from tests.sim_disk import SimDirectory, SimDisk, SimFile
from torture.orders import Orders, Verdict
from torture.power_judge import Account, is_damaged
from torture.power_loads import LOADS, NOON, Books, Life, Load, Watch, orphaned

MODES: tuple[Durability, ...] = ("always", "interval", "os")
BOOTED = 0.03
BOOTED_FOR_REAL = 0.004
WHILE_REMOVING = 0.5
"""Where names are used again: how many second lives begin on what a removal left that was cut."""


def campaign(orders: Orders) -> Verdict:
    verdict, done = Verdict(), 0
    began = time.process_time()
    logging.getLogger("car_trio").setLevel(
        logging.CRITICAL
    )  # trouble is what is made here, thousands of times
    while orders.go_on(done) and len(verdict.findings) < 20:
        seed = orders.seed + done
        one_round(verdict, orders.directory / f"root-{done}", *chosen(seed), seed)
        done += 1
    verdict.counts["rounds"] = done
    verdict.figures["processor seconds"] = f"{time.process_time() - began:.0f}"
    return verdict


def chosen(seed: int) -> tuple[Load, Durability]:
    """All of a round comes from its seed: `--seed N --rounds 1` makes a finding again."""
    return LOADS[seed % len(LOADS)], MODES[seed // len(LOADS) % len(MODES)]


def one_round(verdict: Verdict, root: Path, load: Load, mode: Durability, seed: int) -> None:
    """Two lives; a finding says load, mode and seed."""
    fresh, dice = Verdict(), random.Random(seed)  # noqa: S311 - chance, not secrets
    schedule_by(seed)
    root.mkdir(mode=0o700)
    try:
        Round(fresh, Layout(root), dice).play(load, mode)
    finally:
        shutil.rmtree(root)
    verdict.counts.update(fresh.counts)
    verdict.findings += [
        f"{load.name}, {mode}, seed {seed}: {each}" for each in dict.fromkeys(fresh.findings)
    ]


def schedule_by(seed: int) -> None:
    """Trio runs tasks in an order of its own chance: here it comes from the seed, as for its tests with Hypothesis."""
    scheduler = importlib.import_module("trio._core._run")
    setattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True)  # noqa: B010 - not one of its public names
    getattr(scheduler, "_r").seed(seed)  # noqa: B009


class Cut(NamedTuple):
    """A moment of a life: what the power left, and what had been written and promised by then."""

    disk: SimDisk
    books: Books
    catalogs: list[dict[str, bytes]]


class Round:
    """One root, its lives and its boots."""

    def __init__(self, verdict: Verdict, layout: Layout, dice: random.Random) -> None:
        self.verdict, self.layout, self.dice = verdict, layout, dice
        self.books = Books(layout)
        self.disk = SimDisk(layout.root)
        self._catalogs: list[dict[str, bytes]] = []
        self._cut: Cut | None = None
        self._moments = 0
        self._while_removing = False

    def play(self, load: Load, mode: Durability) -> None:
        (self.layout.root / "run").mkdir()
        self._while_removing = bool(load.again) and self.dice.random() < WHILE_REMOVING
        self._live(load, mode, open_catalog(self.layout, self.disk))
        self.disk, self.books, self._catalogs = self._cut or self._cut_now()
        for path in catalog_files(self.layout):
            path.unlink(missing_ok=True)  # it knows what was done after the cut
        self.books.forget_what_is_lost(self.disk)
        self.books.expect_orphans()
        watch = Watch(self.disk, self.books, self.verdict, self.dice)
        watch.also = self._boot_some
        self.disk.on_step = watch.look
        adopt_orphans(self.disk, self.layout, None, clock=lambda: NOON)
        self._live(load._replace(steps=load.steps // 3), mode, None)

    def _cut_now(self) -> Cut:
        return Cut(self.disk.crash(self.dice), self.books.copied(), list(self._catalogs))

    def _at_each_step(self) -> None:
        """The second life begins after one of the moments of the first, each as likely as the others."""
        is_removing = any(each.startswith("unlink") for each in self.disk.log[-2:])
        if is_removing or not self._while_removing:
            self._moments += 1
            if self.dice.random() < 1 / self._moments:
                self._cut = self._cut_now()
        self._boot_some()

    def _live(self, load: Load, mode: Durability, catalog: CatalogWriter | None) -> None:
        watch = Watch(self.disk, self.books, self.verdict, self.dice)
        watch.also = self._at_each_step
        life = Life(watch, load, mode, self.dice, catalog)
        if load.again:
            life.take_over({found.ref for found in survey(self.disk, self.layout)})
        life.run()

    def _boot_some(self) -> None:
        if self.dice.random() < BOOTED:
            boot(self.verdict, self.disk.crash(self.dice), self.books, None)
        if self.dice.random() < BOOTED_FOR_REAL:
            self._boot_for_real()

    def _boot_for_real(self) -> None:
        """The state on a real directory, with one of the catalogs that a cut may leave beside it."""
        now = {path.name: path.read_bytes() for path in catalog_files(self.layout) if path.exists()}
        self._catalogs += [now] if now or not self._catalogs else []
        after = self.disk.crash(self.dice)
        root = self.layout.root.with_name(self.layout.root.name + "-real")
        shutil.rmtree(root, ignore_errors=True)
        node = after.folder(self.layout.root)
        assert node is not None
        lay_out(node, root)
        lay_catalog(self.dice.choice(self._catalogs), root, self.dice)
        books = Books(Layout(root), self.books.runs)
        with patch("car_trio.store.catalog.boot_id", lambda: "after the cut"):
            boot(self.verdict, Disk(), books, open_catalog(books.layout, Disk()))
        shutil.rmtree(root)


def lay_out(node: SimDirectory, path: Path) -> None:
    """Makes what the simulated disk holds, times of change included."""
    path.mkdir(mode=0o700)
    for name, found in node.seen.items():
        if isinstance(found, SimFile):
            (path / name).write_bytes(found.seen)
            os.utime(path / name, ns=(found.mtime_ns, found.mtime_ns))
        else:
            lay_out(found, path / name)


def lay_catalog(catalog: dict[str, bytes], root: Path, dice: random.Random) -> None:
    """The catalog as it was at some cut, or without its log, with a log cut off, as rubbish, or none."""
    way = dice.choice(("whole", "no log", "log cut off", "rubbish", "none"))
    for path in catalog_files(Layout(root)):
        path.unlink(missing_ok=True)
        content = catalog.get(path.name)
        if content is None or path.name.endswith("-shm") or way == "none":
            continue
        if path.name.endswith("-wal"):
            if way == "no log":
                continue
            content = content[: dice.randrange(len(content) + 1)] if way == "log cut off" else content
        elif way == "rubbish":
            content = dice.randbytes(len(content))
        path.write_bytes(content)


def boot(verdict: Verdict, disk: Disk, books: Books, catalog: CatalogWriter | None) -> None:
    """The store's own adoption of a state; then every run has one end, holds what was promised, and the catalog
    says what the files say. A second boot finds nothing to do."""
    layout = books.layout
    try:
        layout.prepare(disk)
        adoption = adopt_orphans(disk, layout, catalog, clock=lambda: NOON)
        verdict.counts["booted" if catalog is None else "booted for real"] += 1
        verdict.expect(not adoption.failed, f"boot: could not adopt {adoption.failed}")
        refs = [found.ref for found in survey(disk, layout)]
        for ref in refs:
            judge_booted(verdict, disk, layout, ref, books.runs.get(ref))
        for ref, account in books.runs.items():
            gone = ref not in refs
            verdict.expect(not (gone and account.promised and not account.tombstone), f"boot: {ref} is lost")
        if catalog is not None:
            judge_catalog(verdict, disk, layout, refs, catalog)
        verdict.expect(
            not adopt_orphans(disk, layout, None, clock=lambda: NOON).adopted, "boot: ends a run twice"
        )
    except (OSError, sqlite3.Error, ValueError) as error:
        verdict.expect(False, f"boot: {type(error).__name__}: {error}")


def judge_booted(verdict: Verdict, disk: Disk, layout: Layout, ref: RunRef, account: Account | None) -> None:
    lines = [record.raw for record in read_records(disk, layout, ref)]
    ends = [line for line in lines if line.startswith(b'{"record":"ended"')]
    verdict.expect(len(ends) == 1 and lines[-1] == ends[0], f"boot: {ref} has {len(ends)} ends")
    if account is None:
        verdict.expect(False, f"boot: {ref} was never started")
        return
    places = [account.places[line] for line in lines if line in account.places]
    others = [
        line for line in lines
        if line not in account.places and line != orphaned(ref) and b'"damaged"' not in line and not is_damaged(line)
    ]  # fmt: skip
    verdict.expect(not others, f"boot: {ref} holds what nobody wrote: {others[:1]}")
    verdict.expect(places == sorted(set(places)), f"boot: {ref}: out of order or doubled: {places}")
    kept = set(range(account.promised)) <= set(places)
    verdict.expect(
        kept or account.tombstone is not None, f"boot: {ref}: {account.promised} promised, held {places}"
    )


def judge_catalog(
    verdict: Verdict, disk: Disk, layout: Layout, refs: list[RunRef], catalog: CatalogWriter
) -> None:
    catalog.close(clean=True)
    reader = open_reader(layout, disk)
    verdict.expect(reader is not None, "boot: the catalog cannot be read")
    if reader is None:
        return
    rows = {RunRef(row.agent_id, row.run_id): row for row in reader.search().rows}
    reader.close()
    verdict.expect(
        rows == {ref: summarize(disk, layout, ref) for ref in refs}, "boot: catalog and files differ"
    )
