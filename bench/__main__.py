"""`scripts/bench [NAME…] [--quick] [--json FILE]`: figures with their targets. It measures; it judges nothing.

Every ratio is taken against a baseline that runs in turns with the daemon, in the same minute, on the same disk. The
exit code says whether the measuring worked, not whether the targets are met: a machine that does other work meanwhile
misses some.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from bench.calls import idle, small_calls
from bench.durable import durable
from bench.figures import Figure, row, save
from bench.memory import memory
from bench.plans import plans
from bench.processes import NoDisk, file_system_of, on_disk
from bench.store import listing, starting
from bench.work import fan_out, submits

BENCHES: dict[str, Callable[[Path, bool], list[Figure]]] = {
    "calls": small_calls,
    "idle": idle,
    "durable": durable,
    "memory": memory,
    "start": starting,
    "list": listing,
    "submit": submits,
    "fanout": fan_out,
    "plans": plans,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Measures the daemon against its targets."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"what to measure: {', '.join(BENCHES)} (default: all)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter rounds; for a look, not for quoting"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    asked = parser.parse_args()
    if unknown := [name for name in asked.names if name not in BENCHES]:
        parser.error(f"no such measurement: {', '.join(unknown)}")
    figures: list[Figure] = []
    try:
        with on_disk() as directory:
            about: dict[str, object] = {
                "python": platform.python_version(), "system": platform.system(), "processors": os.cpu_count(),
                "file_system": file_system_of(directory), "quick": asked.quick,
            }  # fmt: skip
            print(", ".join(f"{key} {value}" for key, value in about.items()))
            for name in asked.names or BENCHES:
                for figure in BENCHES[name](directory, asked.quick):
                    figures.append(figure)
                    print(row(figure), flush=True)
    except NoDisk as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    if asked.json is not None:
        save(figures, about, asked.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
