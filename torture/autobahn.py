"""autobahn: the fuzzing client of the Autobahn test suite against the daemon's WebSocket (`torture.echo`).

The suite is a program of its own and needs Python 2.7: `pip install autobahntestsuite` there, and its command
`wstest` on the PATH, or named by `WSTEST`. Found is every case that it calls failed, but for compression, which is
never offered, and for binary messages: those must be closed with 1003, as JSON-RPC is text. The same groups
of cases, in our own words and for every test run, are in `tests/daemon/test_websocket_rules.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from torture.orders import Orders, Verdict

AGENT = "car-trio"
COMPRESSION = ("12.*", "13.*")
BINARY = ("1.2.", "9.2.", "9.4.", "9.6.", "9.8.")
"""Groups of cases that send binary messages."""
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
UNSUPPORTED_DATA = 1003


def campaign(orders: Orders) -> Verdict:
    verdict = Verdict()
    wstest = shutil.which(os.environ.get("WSTEST", "wstest"))
    if wstest is None:
        verdict.expect(
            False, "wstest was not found; install autobahntestsuite with Python 2.7, or name it in WSTEST"
        )
        return verdict
    echo = subprocess.Popen(
        [sys.executable, "-m", "torture.echo"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert echo.stdout is not None
        fuzz(orders, wstest, int(echo.stdout.readline()))
        verdict.expect(echo.poll() is None, "the server has died")
    finally:
        echo.communicate("")
    index = orders.directory / "reports" / "index.json"
    verdict.expect(index.exists(), f"wstest has left no report; see {orders.directory / 'wstest.log'}")
    if index.exists():
        judge(verdict, json.loads(index.read_text())[AGENT])
    return verdict


def fuzz(orders: Orders, wstest: str, port: int) -> None:
    """Runs the suite; its report lies in the campaign's directory afterwards."""
    specification = {
        "outdir": str(orders.directory / "reports"),
        "servers": [{"agent": AGENT, "url": f"ws://127.0.0.1:{port}"}],
        "cases": ["*"] if orders.rounds is None else [f"{n + 1}.*" for n in range(orders.rounds)],
        "exclude-cases": list(COMPRESSION),
    }
    path = orders.directory / "fuzzingclient.json"
    path.write_text(json.dumps(specification))
    with Path(orders.directory / "wstest.log").open("wb") as log:
        subprocess.run(  # noqa: S603 - the program that the caller names
            [wstest, "--mode", "fuzzingclient", "--spec", str(path)],
            check=False,
            cwd=orders.directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=orders.minutes * 60,
        )


def judge(verdict: Verdict, cases: dict[str, dict[str, Any]]) -> None:
    """Each case by its own words; what we refuse on purpose by the code of the refusal."""
    for case, said in cases.items():
        if case.startswith(BINARY):
            verdict.counts["binary messages refused"] += 1
            holds = said["remoteCloseCode"] == UNSUPPORTED_DATA
        else:
            verdict.counts[f"cases {said['behavior']}"] += 1
            holds = said["behavior"] in GOOD and said["behaviorClose"] in GOOD
        verdict.expect(holds, f"case {case}: {said['behavior']}, close {said['behaviorClose']} {said}")
