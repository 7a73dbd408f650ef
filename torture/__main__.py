"""`scripts/torture NAME [--minutes M] [--seed S] [--rounds N] [--only PATTERN]`: one campaign; ends with 1 when it
found something.
"""

from __future__ import annotations

import argparse
import importlib
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from torture.orders import Orders, Verdict

CAMPAIGNS = {
    "power": "what a power cut can leave, enumerated on a simulated disk",
    "kill": "SIGKILL at random moments of a daemon under load, and at every operation on its disk",
    "leak": "connections that come and go, and a daemon with 64 descriptors",
    "watch": "stopped and slow watchers, and random schedules of reconnecting ones",
    "clock": "a wall clock that jumps by an hour and by ten years",
    "fault": "a disk that fails at its n-th operation, and a real one with 64 kB left",
    "twins": "daemons that are started on one root at once",
    "hostile": "mutated messages and frames",
    "autobahn": "the fuzzing client of the Autobahn test suite, where wstest is installed",
    "service": "`car-trio service` under a systemd of its own, where root can start one",
    "loop": "how long large messages block the event loop",
}


def campaign(name: str) -> Callable[[Orders], Verdict]:
    """The campaign of that name; only its own module is loaded."""
    found: Callable[[Orders], Verdict] = importlib.import_module(f"torture.{name}").campaign
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/torture",
        description="Runs a campaign against the daemon.",
        epilog="; ".join(f"{name}: {what}" for name, what in CAMPAIGNS.items()),
    )
    parser.add_argument("name", choices=CAMPAIGNS)
    parser.add_argument("--minutes", type=float, default=1.0, help="for how long (default: 1)")
    parser.add_argument("--seed", type=int, help="the source of what is random (default: a new one)")
    parser.add_argument("--rounds", type=int, help="end after so many rounds")
    parser.add_argument("--only", default="", help="of `loop`: the messages whose names match this pattern")
    asked = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if asked.seed is None else asked.seed
    directory = Path(tempfile.mkdtemp(prefix="car-trio-torture-")).resolve()
    print(f"{asked.name}: seed {seed}, in {directory}", flush=True)
    verdict = campaign(asked.name)(Orders(directory, seed, asked.minutes, asked.rounds, asked.only))
    print("\n".join(verdict.lines()))
    if found := verdict.findings + verdict.late:
        print(f"{len(found)} findings; what was left behind is in {directory}")
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    print("nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
