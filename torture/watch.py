"""watch: slow watchers cost the recorder nothing and lose nothing, and no way to reconnect makes a gap or a double.

First over processes: fifty healthy watchers, one that is stopped (SIGSTOP) and one that takes 1 kB a second, while a
recorder writes more than all buffers hold; with and without the slow two in turns, in random order within each pair.
Then in memory: random schedules of appends, reads, drops and resubscriptions (`torture.schedules`).

What is compared is the recorder's p99 over a whole run. Two equal runs differ too, so each pair gives a ratio, and the
figure is the median of the ratios with the range in which half of them lie.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.process.daemon_process import DaemonProcess, clean_environment, complete, start_run
from torture.orders import Orders, Verdict
from torture.schedules import run_schedules

HEALTHY = 50
TURNS = 1500
PROMPT = "w" * 6000
PAIRS = 12
ALLOWED_RATIO = 1.1
ALLOWED_KIB = 48 * 1024
SCHEDULES = 10_000
PATIENCE = 60


def campaign(orders: Orders) -> Verdict:
    verdict = Verdict()
    if orders.rounds is None or orders.rounds > SHORT:
        slow_watchers(orders, verdict, PAIRS)
    else:
        slow_watchers(orders, verdict, 1)
    run_schedules(orders, verdict, SCHEDULES)
    return verdict


SHORT = 500
"""A campaign of at most so many schedules is the short form."""


# Slow watchers, over processes


def slow_watchers(orders: Orders, verdict: Verdict, pairs: int) -> None:
    daemon = DaemonProcess(
        orders.directory / "watched", environment={"CAR_TRIO_RUNS_DURABILITY": "os"}
    ).start()
    dice = orders.dice
    try:
        recorded(daemon, verdict, slow=False)  # what is slow at first is slow for everybody
        before = daemon.resident_kib()
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(pairs):
            for slow in dice.sample((False, True), 2):
                times[slow].append(recorded(daemon, verdict, slow=slow))
        tell_ratio(verdict, times[False], times[True])
        grown = daemon.resident_kib() - before
        verdict.figures["resident KiB more"] = f"{grown:,}"
        verdict.expect(grown < ALLOWED_KIB, f"{grown} KiB more after watchers that did not read")
    finally:
        daemon.clean_up()


def tell_ratio(verdict: Verdict, without: list[float], with_slow: list[float]) -> None:
    ratios = sorted(slow / fast for slow, fast in zip(with_slow, without, strict=True))
    middle = statistics.median(ratios)
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    # How much two equal runs differ, for comparison: each run without slow watchers against the next such run.
    equal = sorted(later / earlier for earlier, later in itertools.pairwise(without)) or [1.0]
    verdict.figures["p99 of a turn in ms, healthy watchers only"] = milliseconds(without)
    verdict.figures["p99 of a turn in ms, with the stopped and the slow one"] = milliseconds(with_slow)
    verdict.figures["ratio, median and middle half"] = (
        f"{middle:.2f}, {low:.2f} to {high:.2f} (target {ALLOWED_RATIO}; equal runs: {equal[0]:.2f} to {equal[-1]:.2f})"
    )
    verdict.expect_time(middle <= ALLOWED_RATIO, f"slow watchers cost the recorder {middle:.2f} of its p99")


def milliseconds(times: list[float]) -> str:
    return " ".join(f"{each * 1000:.2f}" for each in times)


def recorded(daemon: DaemonProcess, verdict: Verdict, *, slow: bool) -> float:
    """One run, written and watched; returns the p99 of a turn in seconds."""
    with daemon.client("recorder") as client:
        run = start_run(client)
        groups = [watchers(daemon, run, HEALTHY, 0)]
        if slow:
            groups += [watchers(daemon, run, 1, 0), watchers(daemon, run, 1, 1000)]
            groups[1].send_signal(signal.SIGSTOP)
        took: list[float] = []
        for number in range(TURNS):
            begin = time.perf_counter()
            client.call("runs.record_turns", {"run_id": run, "turns": [{"prompt": PROMPT + str(number)}]})
            took.append(time.perf_counter() - begin)
        complete(client, run)
        if slow:
            groups[1].send_signal(signal.SIGCONT)
            groups[2].send_signal(signal.SIGUSR1)
        (path,) = (daemon.home / "runs").glob(f"*/{run}.jsonl")
        for group in groups:
            judge_watchers(verdict, group, path)
    return statistics.quantiles(took, n=100)[98]


def watchers(daemon: DaemonProcess, run: str, count: int, rate: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "torture.watcher", daemon.url, daemon.host_token, run, str(count), str(rate)],
        stdout=subprocess.PIPE,
        env=clean_environment({}),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"subscribed\n"
    return process


def judge_watchers(verdict: Verdict, group: subprocess.Popen[bytes], path: Path) -> None:
    said, _ = group.communicate(timeout=PATIENCE)
    wanted = hashlib.sha256(b"".join(path.read_bytes().splitlines(keepends=True)[1:])).hexdigest()
    results = [json.loads(line) for line in said.splitlines()]
    verdict.expect(results, "a watcher has failed")
    for result in results:
        verdict.counts["watchers over processes"] += 1
        right = result["whole"] and result["turns"] == TURNS and result["sha256"] == wanted
        verdict.expect(right, f"{path.stem}: a watcher was shown something else: {result}")
