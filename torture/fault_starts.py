"""A start whose n-th call of a kind fails (`strace`), n = 1, 2, … until a start meets none: it serves, or says why not.

Names are made, moved and removed at a start: the root is prepared, tokens are published, torn tails are moved aside.
Each case begins with the home of a daemon that was killed with a torn run in it, or with none at all. What must not
happen: a traceback, another exit code than 2 or another last line than the program's own when it does not serve, and
that the next start, with nothing in its way, does not find what was promised.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from shutil import which

from tests.process.daemon_process import READY, DaemonProcess, record, start_run
from torture.fault import NO_RESERVE, read_run
from torture.orders import Orders, Verdict

CALLS = {
    "?rename,?renameat,?renameat2": "EIO",
    "?unlink,?unlinkat": "EIO",
    "?mkdir,?mkdirat": "ENOSPC",
    "ftruncate": "EIO",
    "fdatasync": "EIO",
    "fsync": "EIO",
}
SHORT = 2
"""Cases of the short form."""
MOST = 40
"""Calls of a kind in one thread of a start: more than there are."""
ENVIRONMENT = NO_RESERVE | {"PYTHONDONTWRITEBYTECODE": "1"}


def starts(orders: Orders, verdict: Verdict) -> None:
    if which("strace") is None:
        return
    kinds = [(call, error, old) for call, error in CALLS.items() for old in (True, False)]
    orders.dice.shuffle(kinds)
    most = len(kinds) * MOST if orders.rounds is None else SHORT
    home = orders.directory / "killed"
    promised = a_killed_home(home)
    done = 0
    for call, error, old in kinds:
        for first in range(1, MOST):
            if not orders.go_on(0) or done == most:
                return
            case = f"{error} at {call.replace('?', '')} {first} of a start, {'old' if old else 'new'} home"
            again = orders.directory / f"start-{done}"
            if old:
                # Its socket too, which a start has to clear away.
                subprocess.run(["cp", "-a", str(home), str(again)], check=True)  # noqa: S603, S607
            done += 1
            if not one_start(
                verdict, again, case, f"{call}:error={error}:when={first}", promised if old else ""
            ):
                break


def a_killed_home(home: Path) -> str:
    """One with a run of two turns and half a line; the run."""
    daemon = DaemonProcess(home, environment=ENVIRONMENT).start()
    try:
        with daemon.client("agent") as client:
            run = start_run(client)
            record(client, run, 0, 1)
            daemon.kill()
    finally:
        daemon.clean_up()
    (path,) = (home / "runs").glob(f"*/{run}.jsonl")
    with path.open("ab") as file:
        file.write(b'{"record":"turn","in')
    return run


def one_start(verdict: Verdict, home: Path, case: str, injection: str, promised: str) -> bool:
    """Whether a call was made to fail. Then the home is started once more, as it was left."""
    trace = home.with_name("start.txt")
    calls = injection.partition(":")[0]
    strace = [
        str(which("strace")), "-D", "-f", "-o", str(trace), f"--trace={calls}", f"--inject={injection}",
    ]  # fmt: skip
    daemon = DaemonProcess(home, environment=ENVIRONMENT, prefix=strace)
    try:
        judge_start(verdict, daemon, case)
        struck = "(INJECTED)" in trace.read_text()
        verdict.counts["starts that met a failing call"] += struck
        after = DaemonProcess(home, environment=ENVIRONMENT)
        try:
            after.start()
            verdict.expect(after.stop() == 0, f"{case}: the next daemon did not stop cleanly: {after.said()}")
        finally:
            after.clean_up()
        if promised:
            judge_promise(verdict, home, promised, case)
    except AssertionError as failed:
        verdict.expect(False, f"{case}: {failed}")
        return False
    finally:
        daemon.clean_up()
    shutil.rmtree(home)
    return struck


def judge_start(verdict: Verdict, daemon: DaemonProcess, case: str) -> None:
    """It serves and stops in order, or ends with 2 and one line of its own."""
    with daemon.log.open("ab") as log:
        process = daemon.process = daemon.launch(log)
    assert process.stdout is not None
    serves = READY.fullmatch(process.stdout.readline().decode())
    code = daemon.stop() if serves else daemon.ended()
    said = daemon.said()
    last = said.splitlines()[-1] if said else ""
    verdict.counts["starts that serve in spite of it"] += bool(serves)
    verdict.expect(code == (0 if serves else 2), f"{case}: ended with {code}: {last}")
    verdict.expect("Traceback" not in said, f"{case}: a traceback, which ends with {last}")
    verdict.expect(serves or last.startswith("car-trio: "), f"{case}: does not say why: {last}")


def judge_promise(verdict: Verdict, home: Path, run: str, case: str) -> None:
    records = read_run(home, run)
    kinds = [each["record"] for each in records]
    verdict.expect(kinds == ["started", "turn", "turn", "ended"], f"{case}: {run} holds {kinds}")
