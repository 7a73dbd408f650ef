"""Every call of a kind fails for a while (`strace`): who is told what, and what is there afterwards.

One client has a run whose turn is accepted and cannot be written; it waits, and so does its `complete`. Meanwhile
another client's turns and its next run are refused: with -32011, in the store's words, not pending. Reading goes on.
When the calls work again, what was accepted is written and answered, what was refused is nowhere. With `patience` the
trouble outlasts the 20 seconds after which those who wait are told that it is kept and must not be sent again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from shutil import which
from typing import Any

from tests.process.daemon_process import DaemonProcess, complete, record, start_run, turn, until
from tests.second_client import Refused, SecondClient
from torture.fault import DEGRADED, NO_RESERVE, Work, healthy, judge_files
from torture.fault_calls import Case, injected
from torture.orders import Orders, Verdict

ALWAYS = 60_000
"""More than happen, and as many as strace can count."""
KINDS = (("fdatasync", "EIO"), ("write", "ENOSPC"), ("write,ftruncate", "EIO"), ("write", "EDQUOT"))
PENDING_SECONDS = 30


def refusals(orders: Orders, verdict: Verdict) -> None:
    """All kinds, and one with patience; in the short form one kind."""
    if which("strace") is None:
        return
    kinds = list(KINDS)
    orders.dice.shuffle(kinds)
    is_long = orders.rounds is None
    for number, (call, error) in enumerate(kinds if is_long else kinds[:1]):
        daemon = DaemonProcess(orders.directory / f"refusing-{number}", environment=NO_RESERVE)
        while_degraded(verdict, daemon, Case(call, error, 1, ALWAYS), patience=is_long and number == 0)


def while_degraded(verdict: Verdict, daemon: DaemonProcess, case: Case, *, patience: bool = False) -> None:
    try:
        daemon.start()
        work = Work()
        with daemon.client("agent") as client, daemon.client("other") as other:
            trouble(verdict, daemon, client, other, case, work, patience)
            run = start_run(other)
            work.turns_of(other, verdict, run, 3)
            complete(other, run)
        verdict.expect(daemon.stop() == 0, f"{case}: did not stop cleanly")
        judge_files(verdict, daemon.home, work, str(case))
    except (AssertionError, Refused, TimeoutError) as failed:
        verdict.expect(False, f"{case}: {failed}")
    finally:
        daemon.clean_up()


def trouble(
    verdict: Verdict,
    daemon: DaemonProcess,
    client: SecondClient,
    other: SecondClient,
    case: Case,
    work: Work,
    patience: bool,
) -> None:
    run, second = start_run(client), start_run(other)
    record(client, run, 0)
    record(other, second, 0)
    with injected(daemon, case, run):
        kept = client.ask("runs.record_turns", {"run_id": run, "turns": [turn(1)]})
        until(lambda: not healthy(daemon), f"{case}: the store notices")
        for what, call in (
            ("turns", lambda: record(other, second, 1)),
            ("a run", lambda: start_run(other)),
        ):
            judge_refusal(verdict, f"{case}: {what}", call, pending=False)
        trace = other.call("runs.get_trace", {"run_id": second})["records"]
        verdict.expect(len(trace) == 2, f"{case}: reading shows {trace}")
        ending = client.ask("runs.complete", {"run_id": run, "outcome": {"status": "success"}})
        for waiting in (kept, ending) if patience else ():
            judge_refusal(verdict, f"{case}: accepted", partial(patiently, client, waiting), pending=True)
    if not patience:
        verdict.expect(client.reply(kept)["ok"], f"{case}: what was accepted was dropped")
        client.reply(ending)
    until(lambda: healthy(daemon), f"{case}: the store heals")
    record(other, second, 2)
    complete(other, second)
    work.turns |= {run: [0, 1], second: [0, 2]}
    work.ended |= {run, second}
    held = [each.get("prompt") for each in other.call("runs.get_trace", {"run_id": second})["records"]]
    verdict.expect("turn 1" not in held, f"{case}: what was refused is recorded: {held}")


def patiently(client: SecondClient, request: Any) -> Any:
    """A reply that takes longer than replies do."""
    for _ in range(PENDING_SECONDS):
        try:
            return client.reply(request)
        except TimeoutError:
            continue
    raise AssertionError("nobody was told")


def said_pending(refused: Refused) -> Any:
    """What it says of whether it is kept."""
    return None if refused.data is None else refused.data.get("pending")


def judge_refusal(verdict: Verdict, what: str, call: Callable[[], Any], *, pending: bool) -> None:
    try:
        told = call()
    except Refused as refused:
        verdict.counts["refusals"] += 1
        right = refused.code == DEGRADED and refused.message.startswith("storage degraded: ")
        right = right and said_pending(refused) is pending
        verdict.expect(right, f"{what}: refused with {refused.code} {refused.message} {refused.data}")
    except TimeoutError:
        verdict.expect(False, f"{what}: neither refused nor answered")
    else:
        verdict.expect(False, f"{what}: not refused, but answered {told}")
