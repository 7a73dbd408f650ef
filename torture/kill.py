"""kill: what was acknowledged survives SIGKILL, present once and in order, and every run ends exactly once.

Writers in processes of their own load a daemon and write down each acknowledgement (`torture.writer`). The daemon is
killed at a random moment: under load, or while it starts and adopts. Every fourth life is a `torture.doomed` one,
which dies at a chosen operation on its disk. The next life adopts; then each run that the lost life touched is
compared with the ledger, and what earlier lives left must not have changed by a byte. A home serves `LIVES_PER_HOME`
lives, because its size is no part of the question.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.process.daemon_process import READY, DaemonProcess, clean_environment, command
from torture.ledger import Ledger, judge, run_file
from torture.orders import Orders, Verdict

WRITERS = 3
LIVES_PER_HOME = 40
LONGEST_LIFE = 0.6
LONGEST_START = 0.8
OPERATIONS = 150
"""How many operations of a life are tried, in turn, as the last one: the start, the adoption and the first runs."""
PATIENCE = 20

_pause = threading.Event()


class WriterProcess:
    """A `torture.writer`, alive over many daemons."""

    def __init__(self, ledger: Path, agent: str, seed: str) -> None:
        self.ledger = ledger
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "torture.writer", str(ledger), agent, seed],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=clean_environment({}),
        )

    def send(self, daemon: DaemonProcess) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{daemon.url} {daemon.token}\n".encode())
        self.process.stdin.flush()

    def lost(self) -> bool:
        """Waits until the writer has noticed."""
        assert self.process.stdout is not None
        return self.process.stdout.readline() == b"lost\n"

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait(PATIENCE)
        self.process.stdin.close()
        self.process.stdout.close()


@contextmanager
def writers(directory: Path, seed: int) -> Iterator[list[WriterProcess]]:
    made = [
        WriterProcess(directory / f"ledger-{each}", f"writer-{each}", f"{seed}-{each}")
        for each in range(WRITERS)
    ]
    try:
        yield made
    finally:
        for each in made:
            each.end()


class House:
    """One home, its lives, and all that was promised in it."""

    def __init__(self, orders: Orders, verdict: Verdict, home: Path, processes: list[WriterProcess]) -> None:
        self.verdict = verdict
        self.daemon = DaemonProcess(home)
        self.ledger = Ledger()
        self.processes = processes
        self.settled: dict[str, bytes] = {}

    def loaded_life(self, dice: random.Random) -> None:
        """A life under load, ended at a random moment."""
        self.daemon.start()
        self.judge()
        for each in self.processes:
            each.send(self.daemon)
        _pause.wait(dice.random() * LONGEST_LIFE)
        self.daemon.kill()
        self.verdict.counts["kills under load"] += 1
        self.wait_for_writers()

    def short_life(self, dice: random.Random) -> None:
        """Killed while it starts."""
        process = subprocess.Popen(  # noqa: S603 - our own program
            command("serve", "--port", "0", "--home", str(self.daemon.home)),
            env=clean_environment({}), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _pause.wait(dice.random() * LONGEST_START)
        process.kill()
        process.wait(PATIENCE)
        self.verdict.counts["kills at start"] += 1

    def doomed_life(self, when: str, at: int) -> None:
        """Dies at an operation of its own disk, if it comes as far as that."""
        arguments = ["serve", "--port", "0", "--home", str(self.daemon.home)]
        with self.daemon.log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "torture.doomed", when, str(at), *arguments],
                env=clean_environment({}), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        if found := READY.fullmatch(line):
            self.daemon.url = found[1]
            if self.daemon.token_file.exists():
                for each in self.processes:
                    each.send(self.daemon)
                self.wait_for_writers()
        process.wait(PATIENCE)
        process.stdout.close()
        self.verdict.counts["kills at an operation"] += 1

    def wait_for_writers(self) -> None:
        for each in self.processes:
            self.verdict.expect(each.lost(), f"{each.ledger.name}: its writer has failed")

    def judge(self) -> None:
        """After an adoption: everything the lost lives touched, and that nothing older has changed."""
        home = self.daemon.home
        for run, before in self.settled.items():
            path = run_file(home, run)
            same = path is not None and path.read_bytes() == before
            self.verdict.expect(same, f"{run}: changed after its end")
        for process in self.processes:
            for run in self.ledger.gather(process.ledger):
                judge(self.verdict, home, run, self.ledger.promises[run])
                if path := run_file(home, run):
                    self.settled[run] = path.read_bytes()
        self.judge_catalog()

    def judge_catalog(self) -> None:
        """What the daemon lists is what the files hold."""
        with self.daemon.client(host=True) as host:
            for number in range(len(self.processes)):
                folder = self.daemon.home / "runs" / f"writer-{number}"
                listed = host.call("runs.list", {"agent_id": folder.name})["runs"]
                rows = {row["run_id"]: row["turn_count"] for row in listed}
                files = {
                    path.stem: path.read_bytes().count(b'\n{"record":"turn"')
                    for path in folder.glob("*.jsonl")
                }
                self.verdict.expect(
                    rows == files, f"{folder}: listed otherwise: {rows.items() ^ files.items()}"
                )
                open_rows = [row["run_id"] for row in listed if row["status"] == "in_progress"]
                self.verdict.expect(not open_rows, f"{folder}: still open: {open_rows}")


def campaign(orders: Orders) -> Verdict:
    verdict, dice, done = Verdict(), orders.dice, 0
    while orders.go_on(done) and len(verdict.findings) < 20:
        home = orders.directory / f"home-{done}"
        with writers(_made(orders.directory / f"ledgers-{done}"), orders.seed + done) as processes:
            house = House(orders, verdict, home, processes)
            try:
                lives = 0
                while lives < LIVES_PER_HOME and orders.go_on(done) and not verdict.findings:
                    one_life(house, dice, done)
                    lives, done = lives + 1, done + 1
                house.daemon.start()
                house.judge()
                verdict.expect(house.daemon.stop() == 0, f"{home}: did not stop cleanly")
            finally:
                house.daemon.clean_up()
    verdict.expect(verdict.counts["acknowledged turns"], "nothing was acknowledged, so nothing was tried")
    return verdict


def one_life(house: House, dice: random.Random, number: int) -> None:
    if number % 4 == 3:
        # Each pass over the operations gives each of them another way to die.
        done, at = divmod(number // 4, OPERATIONS)
        house.doomed_life(("before", "after", "within")[(at + done) % 3], at + 1)
    elif dice.random() < 0.2:
        house.short_life(dice)
    else:
        house.loaded_life(dice)


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
