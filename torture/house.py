"""One home, its lives, and all that was promised in it.

After each start the home is judged before anybody writes: every run that the lost lives touched against the ledger and
the rules, every run of earlier lives for being as it was, the daemon's lists against the files. What was judged is
known by its size, its times and its inode afterwards; its bytes are compared once more at the end. Files are read
without any code of the daemon's.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.process.daemon_process import READY, Process, clean_environment
from tests.second_client import SecondClient
from torture.forked import PATIENCE, ForkedDaemon
from torture.ledger import Ledger, judge, life_of, tombstones
from torture.orders import Verdict

WRITERS = 3
MEAN_LIFE, LONGEST_LIFE = 0.1, 0.6
LONGEST_START, LONGEST_REAL_START = 0.08, 0.8
KILLED = -9
MOST_SEARCHES = 5
"""After each life."""

_pause = threading.Event()


class WriterProcess:
    """A `torture.writer`, alive over many daemons and homes."""

    def __init__(self, agent: str, seed: str) -> None:
        self.agent = agent
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "torture.writer", agent, seed],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=clean_environment({}),
        )

    def send(self, daemon: ForkedDaemon, ledger: Path) -> None:
        assert self.process.stdin is not None
        order = [daemon.url, daemon.token, daemon.host_token, str(ledger)]
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
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
def writers(seed: int) -> Generator[list[WriterProcess]]:
    made = [WriterProcess(f"writer-{each}", f"{seed}-{each}") for each in range(WRITERS)]
    try:
        yield made
    finally:
        for each in made:
            each.end()


@dataclass(frozen=True, slots=True)
class Settled:
    """A run's file after its end: nothing of it may change any more."""

    seen: tuple[int, ...]
    digest: bytes
    life: int
    turns: int


def look(path: Path) -> tuple[int, ...]:
    """What a change of a file leaves different."""
    found = path.stat()
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class House:
    """A home with its daemon and its writers."""

    def __init__(self, verdict: Verdict, daemon: ForkedDaemon, processes: Sequence[WriterProcess]) -> None:
        self.verdict = verdict
        self.daemon = daemon
        self.processes = processes
        self._ledger = Ledger()
        self._settled: dict[Path, Settled] = {}

    # Lives

    def loaded_life(self, dice: random.Random) -> None:
        """A life under load, ended at a random moment."""
        self.daemon.doom = None
        self.daemon.start()
        self.judge()
        self._let_them_write()
        _pause.wait(min(dice.expovariate(1 / MEAN_LIFE), LONGEST_LIFE))
        self.daemon.kill()
        self.verdict.counts["kills under load"] += 1
        self._wait_for_writers()

    def short_life(self, dice: random.Random) -> None:
        """Killed while it starts."""
        self.daemon.doom = None
        process = self._launched()
        _pause.wait(dice.random() * (LONGEST_REAL_START if self.daemon.is_real else LONGEST_START))
        process.kill()
        self.daemon.ended()
        self.verdict.counts["kills at start"] += 1

    def doomed_life(self, when: str, at: int) -> None:
        """Dies at an operation of its own: writers give it work until it comes to that."""
        self.daemon.doom = (when, at)
        process = self._launched()
        impatience = threading.Timer(PATIENCE, process.kill)
        impatience.start()
        try:
            said = self._last_word(process)
            code = self.daemon.ended()
        finally:
            impatience.cancel()
        self.verdict.expect(
            code == KILLED and said.startswith(f"dies {when} "),
            f"doomed {when} operation {at}: ended with {code} and said {said!r}: {self.daemon.said()[-2000:]}",
        )
        self.verdict.counts["kills at an operation"] += 1
        self.verdict.counts[said.strip()] += 1

    def _last_word(self, process: Process) -> str:
        """What a doomed daemon says; nothing when it comes to another end."""
        assert process.stdout is not None
        said = process.stdout.readline().decode()
        if found := READY.fullmatch(said):
            self.daemon.url = found[1]
            self._let_them_write()
            self._wait_for_writers()
            said = process.stdout.readline().decode()
        return said

    def last_life(self) -> None:
        """A stop in order; after it each byte is where it was."""
        self.daemon.is_real, self.daemon.doom = False, None
        self.daemon.start()
        self.judge()
        self.verdict.expect(self.daemon.stop() == 0, f"{self.daemon.home}: did not stop cleanly")
        for path, before in self._settled.items():
            same = path.exists() and hashlib.sha256(path.read_bytes()).digest() == before.digest
            self.verdict.expect(same, f"{path.stem}: changed after its end")

    def _launched(self) -> Process:
        with self.daemon.log.open("ab") as log:
            process = self.daemon.process = self.daemon.launch(log)
        return process

    def _let_them_write(self) -> None:
        for each in self.processes:
            each.send(self.daemon, self._ledger_of(each))

    def _wait_for_writers(self) -> None:
        for each in self.processes:
            self.verdict.expect(each.lost(), f"{each.agent}: the writer has failed")

    def _ledger_of(self, writer: WriterProcess) -> Path:
        return self.daemon.home.with_name(f"{self.daemon.home.name}-{writer.agent}")

    # Judging

    def judge(self) -> None:
        """After an adoption: everything the lost lives touched, and that nothing older has changed."""
        home, files = self.daemon.home, self._files()
        touched: set[str] = set()
        for process in self.processes:
            touched |= self._ledger.gather(self._ledger_of(process))
        before = self._changed(files, touched)
        touched |= {path.stem for path in files if path not in self._settled}
        complaints, self._ledger.complaints = self._ledger.complaints, []
        self.verdict.expect(not complaints, f"{complaints}")
        self.verdict.counts.update(self._ledger.counts)
        self._ledger.counts.clear()
        gone = tombstones(home)
        for run in touched:
            judge(self.verdict, home, run, self._ledger.lives[run], gone)
        for path in files:
            if path not in self._settled:
                self._settled[path] = found = settled(path)
                again = path in before and before[path].life == found.life
                self.verdict.expect(not again, f"{path.stem}: changed after its end")
        self._judge_catalog(touched)

    def _changed(self, files: set[Path], touched: set[str]) -> dict[Path, Settled]:
        """Takes the runs that are not as they were off those that are known, if somebody wanted to remove them."""
        found: dict[Path, Settled] = {}
        for path, before in list(self._settled.items()):
            if path in files and look(path) == before.seen:
                continue
            lives = self._ledger.lives[path.stem] if path.stem in touched else []
            asked = any(each.removing for each in lives if each.life == before.life)
            self.verdict.expect(asked, f"{path.stem}: changed after its end")
            found[path] = self._settled.pop(path)
        return found

    def _files(self) -> set[Path]:
        """All runs, whoever heard of them."""
        folders = [self.daemon.home / "runs" / each.agent for each in self.processes]
        return {
            path
            for folder in folders
            if folder.exists()
            for path in folder.iterdir()
            if path.suffix == ".jsonl"
        }

    def _judge_catalog(self, touched: set[str]) -> None:
        """What the daemon lists and finds is what the files hold."""
        with self.daemon.client(host=True) as host:
            for each in self.processes:
                files = sorted(
                    (path.stem, found.life, found.turns)
                    for path, found in self._settled.items()
                    if path.parent.name == each.agent
                )
                for method in ("runs.list", "runs.search"):
                    listed = host.call(method, {"agent_id": each.agent})["runs"]
                    rows = sorted((row["run_id"], life_of(row), row["turn_count"]) for row in listed)
                    differ = {*rows} ^ {*files} or "some twice"
                    self.verdict.expect(rows == files, f"{each.agent}: listed otherwise: {differ}")
                    still = [row["run_id"] for row in listed if row["status"] == "in_progress"]
                    self.verdict.expect(not still, f"{each.agent}: still open: {still}")
            self._judge_words(host, [run for run in touched if len(self._ledger.lives[run]) > 1])

    def _judge_words(self, host: SecondClient, runs: Sequence[str]) -> None:
        """The words of a life that is gone lead to no other life of its run."""
        there = {(path.stem, found.life) for path, found in self._settled.items()}
        for run in runs[:MOST_SEARCHES]:
            agent = run.rpartition("-")[0]
            for each in self._ledger.lives[run][-2:]:
                found = host.call("runs.search", {"agent_id": agent, "query": f"{each.life:09}"})["runs"]
                due = [run] if (run, each.life) in there else []
                ids = [row["run_id"] for row in found]
                self.verdict.expect(ids == due, f"{run}: life {each.life} leads to {ids}")


def settled(path: Path) -> Settled:
    seen, content = look(path), path.read_bytes()
    turns = content.count(b'\n{"record":"turn"')
    life = -1
    with suppress(ValueError):
        life = life_of(json.loads(content.partition(b"\n")[0]))
    return Settled(seen, hashlib.sha256(content).digest(), life, turns)
