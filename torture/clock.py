"""clock: the wall clock jumps by an hour and by ten years, there and back, under a daemon that works.

The daemon is a real process whose wall clock libfaketime sets; the clock that nobody can set goes on. It looks at the
clock four times a second instead of once an hour, and keeps runs for one day. Runs are recorded before the jump, after
it, and after the clock is set right again; some are open all the time. In between the daemon goes on, is started anew
or is killed. Then: nothing acknowledged is lost, turns are in the order of their indices, no run is removed, and what
waits for a time waits as long as it was told, not as long as the clock says.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from tests.process.daemon_process import DaemonProcess, complete, record, start_run, until
from tests.second_client import Refused, SecondClient
from torture.orders import Orders, Verdict

LIBRARY = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
HOUR, TEN_YEARS = 3600, 315_576_000
JUMPS = (HOUR, -HOUR, TEN_YEARS, -TEN_YEARS)
BETWEEN = ("goes on", "is started anew", "is killed")
LOOKS = 4
_pause = threading.Event()


def campaign(orders: Orders) -> Verdict:
    verdict = Verdict()
    verdict.figures["libfaketime"] = str(LIBRARY[0]) if LIBRARY else "not installed: nothing was tried"
    cases = list(product(JUMPS, BETWEEN) if LIBRARY else ())
    orders.dice.shuffle(cases)
    for done, (jump, between) in enumerate(cases):
        if not orders.go_on(done):
            break
        case = Case(verdict, orders.directory / f"home-{done}", f"{jump:+} s, {between}")
        case.lived(partial(case.play, jump, between))
    return verdict


class Case:
    """One home and one wrong clock. `defect`: one of `torture.planted`."""

    def __init__(self, verdict: Verdict, home: Path, name: str, defect: str | None = None) -> None:
        self.verdict, self.name, self._defect = verdict, name, defect
        self._offset = home.with_name(home.name + ".clock")
        self.set(0)
        self.daemon = DaemonProcess(home, environment=self._environment(), module=("torture.hasty",))
        self.told: dict[str, list[int]] = {}

    def _environment(self) -> Mapping[str, str]:
        return {
            "LD_PRELOAD": str(LIBRARY[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "CAR_TRIO_RUNS_MAX_AGE_DAYS": "1",
            **({"DEFECT": self._defect} if self._defect else {}),
        }

    def lived(self, play: Callable[[], None]) -> None:
        """Plays it; what breaks off is a finding."""
        try:
            play()
        except (AssertionError, Refused, TimeoutError) as failed:
            self.verdict.expect(False, f"{self.name}: {failed}")
        finally:
            self.daemon.clean_up()

    def set(self, seconds: int) -> None:
        self._offset.write_text(f"{seconds:+}")
        self._now = seconds

    def play(self, jump: int, between: str) -> None:
        self.daemon.start()
        self.stretch()
        self.let_look()
        self.set(jump)
        self.let_look()
        self.live_again(between)
        self.stretch()
        self.set(0)
        self.let_look()
        self.live_again(between)
        self.stretch()
        self.let_look()
        self.verdict.expect(self.daemon.stop() == 0, f"{self.name}: did not stop cleanly")
        self.judge()
        self.verdict.counts["jumps"] += 2

    def live_again(self, between: str) -> None:
        if between == "is started anew":
            self.daemon.restart()
        elif between == "is killed":
            self.daemon.kill()
            self.daemon.start()
        self.let_look()

    def let_look(self) -> None:
        """Until retention has looked some times more."""
        for _ in range(LOOKS):
            _pause.wait(0.25)

    def stretch(self) -> None:
        """An ended run and one that is open while the clock jumps, with what waits for a time."""
        daemon = self.daemon
        with daemon.client("agent") as client, daemon.client(host=True) as host:
            self.run(client, ends=True)
            run = self.run(client, ends=False)
            short = client.call("host.request_approval", {"action": "short", "timeout_secs": 1.0})["id"]
            long = client.call("host.request_approval", {"action": "long", "timeout_secs": 3000.0})["id"]
            before = self._now
            for seconds in (TEN_YEARS, -TEN_YEARS, HOUR, -HOUR):
                self.set(before + seconds)
                self.turns(client, run)
                self.verdict.expect(
                    status(host, long) == "pending", f"{self.name}: a deadline came with the clock"
                )
            until(lambda: status(host, short) == "expired", f"{self.name}: a deadline that does not come")
            self.set(before)
            complete(client, run)

    def run(self, client: SecondClient, *, ends: bool) -> str:
        run = start_run(client)
        self.told[run] = []
        self.turns(client, run)
        if ends:
            complete(client, run)
        return run

    def turns(self, client: SecondClient, run: str) -> None:
        numbers = [len(self.told[run]), len(self.told[run]) + 1]
        told = record(client, run, *numbers)
        self.verdict.expect(told["base_index"] == numbers[0], f"{self.name}: {run}: placed at {told}")
        self.told[run] += numbers
        self.verdict.counts["acknowledged turns"] += len(numbers)

    def judge(self) -> None:
        for run, numbers in self.told.items():
            self.verdict.counts["runs"] += 1
            found = list((self.daemon.home / "runs").glob(f"*/{run}.jsonl"))
            self.verdict.expect(len(found) == 1, f"{self.name}: {run} is gone")
            records = [json.loads(line) for line in found[0].read_text().splitlines()] if found else []
            turns = [each for each in records if each["record"] == "turn"]
            indices = [each["index"] for each in turns]
            self.verdict.expect(indices == list(range(len(indices))), f"{self.name}: {run}: {indices}")
            held = [int(each["prompt"].split()[1]) for each in turns]
            self.verdict.expect(held == numbers, f"{self.name}: {run}: told {numbers}, held {held}")
            ends = [each["record"] for each in records].count("ended")
            last = bool(records) and records[-1]["record"] == "ended"
            self.verdict.expect(last and ends == 1, f"{self.name}: {run} has {ends} ends")
        removed = self.daemon.home / "deleted-runs.jsonl"
        self.verdict.expect(not removed.exists(), f"{self.name}: retention removed runs")


def status(host: SecondClient, approval: str) -> Any:
    rows = host.call("host.approvals")["approvals"]
    return next((row["status"] for row in rows if row["id"] == approval), None)
