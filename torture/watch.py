"""watch: slow watchers cost the recorder nothing and lose nothing, and no way to reconnect makes a gap or a double.

First over processes: fifty healthy watchers, one that is stopped (SIGSTOP) and one that takes 1 kB a second, while a
recorder writes more than all buffers hold; with and without the slow two in turns, in random order within each pair.
Then the slow two alone, behind a run that is larger than the memory they may cost: that is looked at while they sleep.
Then in memory: random schedules of appends, reads, drops, resubscriptions, and removals after which the id is used
again (`torture.schedules`).

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
from dataclasses import replace
from pathlib import Path

from tests.process.daemon_process import DaemonProcess, clean_environment, complete, start_run
from torture.orders import Orders, Verdict
from torture.schedules import run_schedules

HEALTHY = 50
TURNS = 1500
PROMPT = "w" * 6000
PAIRS = 12
ALLOWED_RATIO = 1.1
LARGE_TURN = ["w" * 15_000] * 8
LARGE_TURNS, AT_ONCE = 800, 4
"""Of a run of 96 MB."""
ALLOWED_KIB = 32 * 1024
SCHEDULES = 10_000
PATIENCE = 60


def campaign(orders: Orders) -> Verdict:
    verdict = Verdict()
    daemon = DaemonProcess(
        orders.directory / "watched", environment={"CAR_TRIO_RUNS_DURABILITY": "os"}
    ).start()
    try:
        slow_watchers(daemon, orders, verdict)
        sleepers(daemon, verdict)
    finally:
        daemon.clean_up()
    run_schedules(orders, verdict, SCHEDULES)
    verdict.expect(verdict.counts["schedules"], "there was no time for schedules")
    return verdict


SHORT = 500
"""A campaign of at most so many schedules is the short form."""


def is_short(orders: Orders) -> bool:
    return orders.rounds is not None and orders.rounds <= SHORT


# Slow watchers, over processes


def slow_watchers(daemon: DaemonProcess, orders: Orders, verdict: Verdict) -> None:
    dice, half = (
        orders.dice,
        replace(orders, rounds=1 if is_short(orders) else PAIRS, minutes=orders.minutes / 2),
    )
    recorded(daemon, verdict, slow=False)  # what is slow at first is slow for everybody
    times: dict[bool, list[float]] = {False: [], True: []}
    pairs = 0
    while half.go_on(pairs):
        for slow in dice.sample((False, True), 2):
            times[slow].append(recorded(daemon, verdict, slow=slow))
        pairs += 1
    tell_ratio(verdict, times[False], times[True])


def sleepers(daemon: DaemonProcess, verdict: Verdict) -> None:
    """A large run before a stopped watcher and a slow one, then both wake up and miss nothing."""
    with daemon.client("recorder") as client:
        run = start_run(client)
        stopped, slow = watchers(daemon, run, 1, 0), watchers(daemon, run, 1, 1000)
        stopped.send_signal(signal.SIGSTOP)
        before = daemon.resident_kib()
        turns = [{"output": LARGE_TURN}] * AT_ONCE
        for _ in range(LARGE_TURNS // AT_ONCE):
            client.call("runs.record_turns", {"run_id": run, "turns": turns})
        grown = daemon.resident_kib() - before
        verdict.figures["resident KiB more while two of them sleep behind 96 MB"] = f"{grown:,}"
        verdict.expect(grown < ALLOWED_KIB, f"{grown} KiB more while watchers do not read")
        complete(client, run)
        stopped.send_signal(signal.SIGCONT)
        slow.send_signal(signal.SIGUSR1)
        for each in (stopped, slow):
            judge_watchers(verdict, each, run_file(daemon, run), LARGE_TURNS)


def run_file(daemon: DaemonProcess, run: str) -> Path:
    (path,) = (daemon.home / "runs").glob(f"*/{run}.jsonl")
    return path


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
        for group in groups:
            judge_watchers(verdict, group, run_file(daemon, run), TURNS)
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


def judge_watchers(verdict: Verdict, group: subprocess.Popen[bytes], path: Path, turns: int) -> None:
    said, _ = group.communicate(timeout=PATIENCE)
    wanted = hashlib.sha256(b"".join(path.read_bytes().splitlines(keepends=True)[1:])).hexdigest()
    results = [json.loads(line) for line in said.splitlines()]
    verdict.expect(results, "a watcher has failed")
    for result in results:
        verdict.counts["watchers over processes"] += 1
        right = result["whole"] and result["turns"] == turns and result["sha256"] == wanted
        verdict.expect(right, f"{path.stem}: a watcher was shown something else: {result}")
