"""twins: daemons that are started on one root at the same moment. One serves, the others say who, nothing is lost.

Each round starts several at once on a home with finished and open runs, some rounds on one that does not exist yet.
The winner of every second round is killed, so the next one finds what a dead daemon leaves.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.process.daemon_process import READY, clean_environment, command, complete, record, start_run
from tests.second_client import SecondClient
from torture.orders import Orders, Verdict

TWINS = 3
ROUNDS = 1000
LIVES_PER_HOME = 20
PATIENCE = 20
NAMED = "losers that name the winner"
NEARLY_ALL = 0.9
"""The lock is taken a moment before its holder can write down who it is; a loser in that moment does not know."""


def campaign(orders: Orders) -> Verdict:
    verdict, done, kept = Verdict(), 0, dict[str, bytes]()
    while done < ROUNDS and orders.go_on(done):
        if done % LIVES_PER_HOME == 0:
            kept = {}
        one_round(verdict, orders.directory / f"home-{done // LIVES_PER_HOME}", done, kept)
        done += 1
    named, losers = verdict.counts[NAMED], done * (TWINS - 1)
    verdict.expect(named >= losers * NEARLY_ALL, f"{named} of {losers} losers name the winner")
    return verdict


def one_round(
    verdict: Verdict, home: Path, number: int, kept: dict[str, bytes], defect: str | None = None
) -> None:
    """`defect`: one of `torture.planted`."""
    twins = [twin(home, ("torture.planted", defect) if defect else ("car_trio",)) for _ in range(TWINS)]
    first_lines = [said(each) for each in twins]
    ready = [each for each, line in zip(twins, first_lines, strict=True) if READY.fullmatch(line)]
    verdict.counts["starts"] += TWINS
    verdict.expect(len(ready) == 1, f"round {number}: {len(ready)} daemons serve one root")
    for each in twins:
        if each not in ready:
            judge_loser(verdict, each, ready[0].pid if ready else 0, number)
    if len(ready) == 1:
        winner = ready[0]
        (line,) = (line for line in first_lines if line)
        found = READY.fullmatch(line)
        assert found is not None
        judge_home(verdict, home, winner, kept, number)
        work(home, found[1], kept)
        winner.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
    for each in ready:
        if len(ready) > 1:
            each.kill()
        each.wait(PATIENCE)
        each.communicate()


def twin(home: Path, module: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own program
        command("serve", "--port", "0", "--home", str(home), module=module),
        env=clean_environment({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def said(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode()


def judge_loser(verdict: Verdict, loser: subprocess.Popen[bytes], winner: int, number: int) -> None:
    _, error = loser.communicate(timeout=PATIENCE)
    last = error.decode().splitlines()[-1] if error else ""
    verdict.expect(loser.returncode == 2, f"round {number}: the loser ended with {loser.returncode}: {last}")
    verdict.counts[NAMED] += str(winner) in last
    verdict.expect("the store is in use" in last, f"round {number}: the loser says {last!r}")


def judge_home(
    verdict: Verdict, home: Path, winner: subprocess.Popen[bytes], kept: dict[str, bytes], number: int
) -> None:
    """The winner's own papers, and every ended run as it was."""
    paper = (home / "run" / "daemon.json").read_text()
    verdict.expect(f'"pid":{winner.pid}' in paper, f"round {number}: daemon.json is another's: {paper}")
    for name, content in kept.items():
        verdict.expect(Path(name).read_bytes() == content, f"round {number}: {name} has changed")
    for path in (home / "runs").glob("*/*.jsonl"):
        if str(path) not in kept:
            lines = path.read_bytes().splitlines()
            ends = sum(line.startswith(b'{"record":"ended"') for line in lines)
            verdict.expect(ends == 1, f"round {number}: {path.name} has {ends} ends")
            kept[str(path)] = path.read_bytes()


def work(home: Path, url: str, kept: dict[str, bytes]) -> None:
    """The winner can be reached with the tokens that are published, and records."""
    with SecondClient.dial(url) as client:
        client.auth((home / "ai.parslee.car" / "auth-token").read_text(), agent_id="twin")
        record(client, start_run(client), 1, 2, 3)
        run = start_run(client)
        record(client, run, 4)
        complete(client, run)
    (path,) = (home / "runs").glob(f"*/{run}.jsonl")
    kept[str(path)] = path.read_bytes()
