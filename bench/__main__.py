"""`scripts/bench [NAME…] [--quick] [--json FILE] [--markdown FILE]`: figures with their targets.

It measures; it judges nothing.

Every ratio is taken against a baseline that runs in turns with the daemon, in the same minute, on the same disk. The
exit code says whether the measuring worked, not whether the targets are met: a machine that does other work meanwhile
misses some.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.calls import calls, idle
from bench.durable import durable, grid
from bench.fanout import fan_out
from bench.figures import Figure, markdown, row, save
from bench.memory import memory
from bench.plans import plans
from bench.processes import NoDisk, file_system_of, on_disk, processor_model
from bench.store import listing, reading, starting
from bench.work import submits

BENCHES: dict[str, Callable[[Path, bool], list[Figure]]] = {
    "calls": calls,
    "submit": submits,
    "durable": durable,
    "grid": grid,
    "fanout": fan_out,
    "idle": idle,
    "memory": memory,
    "start": starting,
    "list": listing,
    "trace": reading,
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
        "--quick",
        action="store_true",
        help="as little of each as shows that it works; says nothing about speed",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a table of them there")
    asked = parser.parse_args()
    if unknown := [name for name in asked.names if name not in BENCHES]:
        parser.error(f"no such measurement: {', '.join(unknown)}")
    figures: list[Figure] = []
    took: dict[str, float] = {}
    try:
        with on_disk() as directory:
            about: dict[str, object] = {
                "date": time.strftime("%Y-%m-%d"), "python": platform.python_version(),
                "system": f"{platform.system()} {platform.release()}", "processors": os.cpu_count(),
                "processor": processor_model(), "file_system": file_system_of(directory), "quick": asked.quick,
            }  # fmt: skip
            print(", ".join(f"{key} {value}" for key, value in about.items()))
            for name in asked.names or BENCHES:
                begin = time.monotonic()
                for figure in BENCHES[name](directory, asked.quick):
                    figures.append(figure)
                    print(row(figure), flush=True)
                took[name] = round(time.monotonic() - begin, 1)
    except NoDisk as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(f"{sum(took.values()):.0f} s:", ", ".join(f"{name} {each:g}" for name, each in took.items()))
    if asked.json is not None:
        save(figures, about, asked.json)
    if asked.markdown is not None:
        asked.markdown.write_text(markdown(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
