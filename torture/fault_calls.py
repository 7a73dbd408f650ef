"""Faults below the store's own code: `strace` makes the n-th system call of a running daemon fail.

The daemon is an ordinary one, reached over its socket; strace is attached while clients work. One run is open before,
so the path of its file is known; others begin under the faults: of the same agent, of one that is new (a directory is
made), and one in whose place the leftovers of an interrupted removal lie (they are renamed). An ended one is removed.
Calls that other parts of a process make too (`write` to sockets, `openat` of modules) are made to fail only on that
file and in its directory. SQLite's syncs fail as well. Several runs get turns at once, which the kernel's queue syncs:
it does not take them, or does not tell at once. strace counts the calls of each thread by itself.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from uuid import uuid4

from tests.process.daemon_process import PATIENCE, DaemonProcess, complete, start_run, until
from tests.second_client import SecondClient
from torture.fault import NO_RESERVE, Work, healthy, judge_files, read_run, until_clean
from torture.orders import Orders, Verdict

CALLS = {
    "write": ("ENOSPC", "EIO", "EDQUOT"),
    "fdatasync": ("EIO", "ENOSPC"),
    "fsync": ("EIO",),
    "openat": ("EMFILE", "ENOSPC", "EACCES"),
    "write,ftruncate": ("EIO",),
    "?rename,?renameat,?renameat2": ("EIO", "ENOSPC"),
    "?unlink,?unlinkat": ("EIO", "EROFS"),
    "?mkdir,?mkdirat": ("ENOSPC", "EDQUOT"),
    "io_submit": ("EAGAIN", "EINVAL"),
    "io_getevents": ("EINTR",),
}
"""A question mark: where the machine has that call."""
ANYWHERE = ("fdatasync", "?mkdir,?mkdirat", "io_submit", "io_getevents")
IN_A_ROW = (1, 3)


@dataclass(frozen=True)
class Case:
    """COUNT calls fail from the FIRST on."""

    call: str
    error: str
    first: int
    count: int

    def __str__(self) -> str:
        return f"{self.call}: {self.error} ×{self.count} at {self.first}"


def system_calls(orders: Orders, verdict: Verdict) -> None:
    """Each call, each error, the n-th time, n = 1, 2, … until the work is done without a fault; the short form is some
    of those at their first."""
    strace = which("strace")
    verdict.figures["faults below the store"] = "by strace" if strace else "strace is not installed"
    if strace is None:
        return
    daemon = DaemonProcess(orders.directory / "calls", environment=NO_RESERVE)
    try:
        daemon.start()
        with daemon.client("agent") as client:
            complete(client, start_run(client))

        def fails(way: tuple[str, str, int], first: int) -> bool:
            call, error, times = way
            return one_case(verdict, daemon, Case(call, error, first, times))

        if orders.rounds is None:
            until_clean(orders, verdict, "the n-th system call of its kind", every(orders), fails)
        else:
            for way in every(orders)[: orders.rounds]:
                fails(way, 1)
        verdict.expect(daemon.stop() == 0, "strace: did not stop cleanly")
    except AssertionError as failed:
        verdict.expect(False, f"strace: {failed}")
    finally:
        daemon.clean_up()


def every(orders: Orders) -> list[tuple[str, str, int]]:
    kinds = [(call, error, times) for call, errors in CALLS.items() for error in errors for times in IN_A_ROW]
    orders.dice.shuffle(kinds)
    return kinds


def one_case(verdict: Verdict, daemon: DaemonProcess, case: Case) -> bool:
    """Whether anything failed."""
    work, names = Work(), Names(daemon.home)
    with daemon.client("agent") as client, daemon.client(host=True) as host:
        run = start_run(client)
        names.prepare(client)
        with injected(daemon, case, run) as trace:
            work.turns_of(client, verdict, run, 0)
            work.do(client, verdict, runs=1)
            work.together(client, verdict)
            names.play(verdict, work, daemon, client, host)
        struck = trace.read_text().count("(INJECTED)")
        verdict.counts["system calls that failed"] += struck
        verdict.counts[f"… {case.call.replace('?', '')}"] += struck
        verdict.counts["refusals"] += work.refused
        until(lambda: healthy(daemon), f"{case}: the store heals")
        names.judge(verdict, host, str(case))
    # The connection's end ends what is still open, a moment later.
    until(lambda: all(ends(daemon.home, each) for each in work.turns), f"{case}: the runs end")
    judge_files(verdict, daemon.home, work, str(case))
    return struck > 0


class Names:
    """What makes, moves and removes names on the disk, in one case."""

    def __init__(self, home: Path) -> None:
        self._word = uuid4().hex
        self._folder = home / "runs" / "agent"
        self._leftovers = self._folder / f"{self._word}~1.jsonl"
        self._old = ""

    def prepare(self, client: SecondClient) -> None:
        """Before anything fails: a run to remove, and what an interrupted removal leaves."""
        self._old = start_run(client)
        complete(client, self._old)
        self._leftovers.write_bytes(b'{"record":"segment","previous_bytes":9}\n')

    def play(
        self, verdict: Verdict, work: Work, daemon: DaemonProcess, client: SecondClient, host: SecondClient
    ) -> None:
        run = work.told(verdict, lambda: start_run(client, idempotency_key=self._word))
        if run is not None:
            work.turns_of(client, verdict, run, 5)
        with daemon.client(f"new-{self._word}") as newcomer:
            work.do(newcomer, verdict, runs=1)
        work.told(verdict, lambda: host.call("runs.remove", {"run_ids": [self._old]}))

    def judge(self, verdict: Verdict, host: SecondClient, case: str) -> None:
        """A removal that was refused can be asked for again; nothing of the leftovers belongs to the new run."""
        host.call("runs.remove", {"run_ids": [self._old]})
        verdict.expect(
            not (self._folder / f"{self._old}.jsonl").exists(), f"{case}: {self._old} is not removed"
        )
        run = self._folder / f"{self._word}.jsonl"
        both = run.exists() and self._leftovers.exists()
        verdict.expect(
            not both or b'previous_bytes":9' not in self._leftovers.read_bytes(), f"{case}: leftovers"
        )


def ends(home: Path, run: str) -> bool:
    records = read_run(home, run)
    return bool(records) and records[-1]["record"] == "ended"


@contextmanager
def injected(daemon: DaemonProcess, case: Case, run: str) -> Generator[Path]:
    """strace is attached meanwhile; gives the file in which it says what it did."""
    folder = daemon.home / "runs" / "agent"
    trace = daemon.home.with_name("strace.txt")
    trace.unlink(missing_ok=True)
    last = case.first + case.count - 1
    paths = [f"--trace-path={path}" for path in (folder, folder / f"{run}.jsonl", folder / f"{run}~1.jsonl")]
    process = subprocess.Popen(  # noqa: S603 - of the machine, with our own arguments
        [
            str(which("strace")), "-f", "-p", str(daemon.pid), "-o", str(trace), f"--trace={case.call}",
            *(paths if case.call not in ANYWHERE else ()),
            f"--inject={case.call}:error={case.error}:when={case.first}..{last}",
        ],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: all_traced(daemon.pid), f"{case}: strace is attached")
        yield trace
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)


def all_traced(pid: int) -> bool:
    """Whether every thread of a process has a tracer."""
    threads = Path(f"/proc/{pid}/task").glob("*/status")
    return all("TracerPid:\t0\n" not in status.read_text() for status in threads)
