"""fault: a disk that fails at its n-th operation, and a real one that is full. The caller is told, nothing acknowledged
is lost, the store heals.

Syncs of several files by the kernel's queue are one operation, of which a part can fail: `fault_queue`. Below that,
`fault_calls` makes system calls of an ordinary daemon fail, `fault_refusals` all of one kind for a while, and
`fault_starts` those of a start.

A daemon process does a fixed piece of work; the n-th operation of that work fails with each of the errors, once or
three times in a row, n = 1, 2, … until the work is done before anything fails. Then, where mounting is possible, a
daemon lives on a small file system with 64 kB left: it is filled, refuses, gets room again and goes on.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tests.process.daemon_process import DaemonProcess, complete, record, start_run, turn, until
from tests.second_client import Refused, SecondClient
from torture.orders import Orders, Verdict
from torture.power_judge import reading

ERRORS = ["ENOSPC", "EDQUOT", "EIO", "EROFS", "EMFILE", "EINTR", "SHORT"]
TOGETHER = 4
"""Runs of which some are synced together for sure."""
SURELY = 20
"""Fewer operations than the work has: the short form picks among them."""
DEGRADED = -32011
SMALL = "1m"
ROOM = 65_536
Way = TypeVar("Way")
NO_RESERVE = {"CAR_TRIO_RUNS_KEEP_FREE_BYTES": "0"}


def campaign(orders: Orders) -> Verdict:
    # They judge by what is in here.
    from torture.fault_calls import system_calls
    from torture.fault_queue import failing_queue
    from torture.fault_refusals import refusals
    from torture.fault_starts import starts

    verdict = Verdict()
    full_disk(orders, verdict)
    refusals(orders, verdict)
    failing_queue(orders, verdict)
    starts(replace(orders, minutes=orders.minutes / 3), verdict)
    system_calls(replace(orders, minutes=orders.minutes * 2 / 3), verdict)
    operations(orders, verdict)
    return verdict


# The n-th operation


def operations(orders: Orders, verdict: Verdict) -> None:
    """The short form picks some cases, of any n."""
    in_a_row: list[int] = [1, 3]
    ways = list(itertools.product(ERRORS, in_a_row))
    if orders.rounds is not None:
        orders.dice.shuffle(ways)
        for done, (error, count) in enumerate(ways[: orders.rounds]):
            first = orders.dice.randint(1, SURELY if error != "SHORT" else SURELY // 3)
            failing_disk(verdict, orders.directory / f"home-{done}", error, first, count)
        return

    def fails(way: tuple[str, int], first: int) -> bool:
        home = orders.directory / f"home-{first}-{ways.index(way)}"
        return failing_disk(verdict, home, way[0], first, way[1])

    until_clean(orders, verdict, "the n-th operation", ways, fails)


def until_clean(
    orders: Orders, verdict: Verdict, figure: str, ways: list[Way], fails: Callable[[Way, int], bool]
) -> None:
    """Each way to fail at the n-th place, n = 1, 2, … until the work is done before anything fails."""
    first, left = 1, ways
    while left and orders.go_on(0):
        left = [way for way in left if orders.go_on(0) and fails(way, first)]
        first += 1
    end = "then the work was done before it" if orders.go_on(0) else "then the time was over"
    verdict.figures[figure] = f"n = 1 to {first - 1}, {end}"


class Work:
    """What a client did, and what it was told."""

    def __init__(self) -> None:
        self.turns: dict[str, list[int]] = {}
        self.ended: set[str] = set()
        self.pending: set[str] = set()
        self.refused = 0

    def do(self, client: SecondClient, verdict: Verdict, runs: int = 2) -> None:
        """Some runs, turns in each, the last one completed; a refusal must be the store's own."""
        for number in range(1, runs + 1):
            run = self.told(verdict, lambda: start_run(client))
            if run is None:
                continue
            self.turns_of(client, verdict, run, number)
            if number == runs and self.told(verdict, partial(complete, client, run), run) is not None:
                self.ended.add(run)

    def turns_of(self, client: SecondClient, verdict: Verdict, run: str, number: int) -> None:
        self.turns[run] = []
        for step in range(number * 10, number * 10 + 3):
            told = self.told(verdict, partial(record, client, run, step), run)
            if told is not None:
                verdict.expect(told["ok"], f"a batch was dropped: {told}")
                self.turns[run].append(step)

    def together(self, client: SecondClient, verdict: Verdict) -> None:
        """Turns of several runs at once, which are synced together; then all the ends."""
        begun = [self.told(verdict, lambda: start_run(client)) for _ in range(TOGETHER)]
        runs: list[str] = [run for run in begun if run is not None]
        self.turns.update({run: [] for run in runs})
        for step in range(40, 43):
            asked = {
                run: client.ask("runs.record_turns", {"run_id": run, "turns": [turn(step)]}) for run in runs
            }
            for run, request in asked.items():
                if self.told(verdict, partial(client.reply, request), run) is not None:
                    self.turns[run].append(step)
        outcome = {"outcome": {"status": "success"}}
        ends = {run: client.ask("runs.complete", {"run_id": run, **outcome}) for run in runs}
        for run, request in ends.items():
            if self.told(verdict, partial(client.reply, request), run) is not None:
                self.ended.add(run)

    def told(self, verdict: Verdict, call: Callable[[], Any], run: str = "") -> Any:
        """What a call returned; `None` when it was refused, which must be for the store's reason."""
        try:
            return call()
        except Refused as refused:
            self.refused += 1
            right = refused.code == DEGRADED and refused.message.startswith("storage degraded:")
            verdict.expect(right, f"refused with {refused.code} {refused.message}")
            if refused.data and refused.data.get("pending"):
                self.pending.add(run)
        except TimeoutError:
            # Accepted, and kept until the disk heals: the caller is told so only after 20 s.
            self.pending.add(run)
        return None


def failing_disk(
    verdict: Verdict, home: Path, error: str, first: int, count: int, defect: str | None = None
) -> bool:
    """Whether anything failed. `defect`: one of `torture.planted`."""
    case = f"{error} ×{count} at {first}"
    return with_failing_disk(verdict, home, case, (error, str(first), str(count)), Work.do, defect)


def with_failing_disk(
    verdict: Verdict,
    home: Path,
    case: str,
    failing: tuple[str, str, str],
    play: Callable[[Work, SecondClient, Verdict], None],
    defect: str | None = None,
) -> bool:
    """Whether anything failed while the work was done."""
    struck = False
    daemon = DaemonProcess(
        home,
        environment=NO_RESERVE | ({"DEFECT": defect} if defect else {}),
        module=("torture.failing", *failing),
    )
    try:
        daemon.start()
        (home / "go").touch()
        work = Work()
        with daemon.client("agent") as client:
            play(work, client, verdict)
        struck = (home / "struck").exists()
        verdict.counts["faults"] += struck
        verdict.counts["refusals"] += work.refused
        until(lambda: healthy(daemon), f"{case}: the store heals")
        with daemon.client("other") as client:
            complete(client, start_run(client))
        verdict.expect(daemon.stop() == 0, f"{case}: did not stop cleanly")
        judge_files(verdict, home, work, case)
    except AssertionError as failed:
        verdict.expect(False, f"{case}: {failed}")
    finally:
        daemon.clean_up()
    return struck


def healthy(daemon: DaemonProcess) -> bool:
    with daemon.client() as client:
        return bool(client.call("server.health")["store"] == "ok")


def judge_files(verdict: Verdict, home: Path, work: Work, case: str) -> None:
    for run, wanted in work.turns.items():
        records = read_run(home, run)
        kinds = [each["record"] for each in records]
        verdict.expect(kinds.count("ended") == 1 and kinds[-1] == "ended", f"{case}: {run}: {kinds}")
        held = [int(each["prompt"].split()[1]) for each in records if each["record"] == "turn"]
        verdict.expect(set(wanted) <= set(held), f"{case}: acknowledged {wanted}, held {held}")
        verdict.expect(held == sorted(set(held)), f"{case}: out of order or doubled: {held}")
        if run in work.ended:
            ends = records[-1]["termination"]["kind"]
            verdict.expect(ends == "outcome", f"{case}: {run} was completed, and ended {records[-1]}")


def read_run(home: Path, run: str) -> list[dict[str, Any]]:
    """A run's records from all its files: the first, and those that go on after a failure, each up to where the next
    one says."""
    files = sorted((home / "runs").glob(f"*/{run}*.jsonl"), key=lambda path: (len(path.name), path.name))
    records: list[dict[str, Any]] = []
    for line in reading([path.read_bytes() for path in files]):
        with suppress(ValueError):
            records.append(json.loads(line))
    return records


# A full disk


@contextmanager
def small_disk(path: Path) -> Generator[bool]:
    """Whether a small file system could be mounted there."""
    path.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL},mode=0700", "tmpfs", str(path)]
    mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0  # noqa: S603
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(path)], check=True)  # noqa: S603, S607


def full_disk(orders: Orders, verdict: Verdict) -> None:
    home = orders.directory / "small"
    with small_disk(home) as mounted:
        verdict.figures["file system with 64 kB left"] = "mounted" if mounted else "could not be mounted"
        if not mounted:
            return
        ballast = home / "ballast"
        daemon = DaemonProcess(home, environment=NO_RESERVE)
        daemon.log = orders.directory / "small.log"
        try:
            daemon.start()
            fill_and_heal(verdict, daemon, ballast)
        except AssertionError as failed:
            verdict.expect(False, f"full disk: {failed}")
        finally:
            daemon.clean_up()


def fill_and_heal(verdict: Verdict, daemon: DaemonProcess, ballast: Path) -> None:
    acknowledged: list[int] = []
    with daemon.client("agent") as client:
        run = start_run(client)
        space = os.statvfs(daemon.home)
        ballast.write_bytes(bytes(space.f_bavail * space.f_frsize - ROOM))
        refusals = 0
        for number in range(5000):
            try:
                record(client, run, number)
                acknowledged.append(number)
            except (Refused, TimeoutError) as error:
                refusals += 1
                known = isinstance(error, TimeoutError) or error.code == DEGRADED
                verdict.expect(known, f"full disk: refused with {error}")
                if refusals == 3:
                    break
        verdict.counts["turns before the disk was full"] = len(acknowledged)
        verdict.expect(refusals == 3, f"full disk: {len(acknowledged)} turns, and it was never full")
        trace = client.call("runs.get_trace", {"run_id": run})
        verdict.expect(len(trace["records"]) > len(acknowledged), "full disk: reading fails")
        ballast.unlink()
        until(lambda: healthy(daemon), "full disk: the store heals")
        record(client, run, 900)
        complete(client, run)
    verdict.expect(daemon.stop() == 0, "full disk: did not stop cleanly")
    records = read_run(daemon.home, run)
    held = [int(each["prompt"].split()[1]) for each in records if each["record"] == "turn"]
    verdict.expect({*acknowledged, 900} <= set(held), f"full disk: lost {set(acknowledged) - set(held)}")
    verdict.expect(held == sorted(set(held)), "full disk: out of order or doubled")
    verdict.expect(records[-1]["record"] == "ended", "full disk: no end")
