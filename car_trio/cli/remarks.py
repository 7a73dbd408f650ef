"""What the store says in passing while a command reads, as a line for a person: each once, on standard error.

The modules under the commands log what they leave alone. A daemon has a log; a command has this, where nobody set up
logging. It stands in for `logging.lastResort`, so a program that configures logging of its own is not told twice.
"""

from __future__ import annotations

import logging
import sys

from car_trio.wire.text import one_line


def listen() -> None:
    """From now on, for the rest of this process; nothing was said yet."""
    logging.lastResort = Remarks()


class Remarks(logging.Handler):
    """Shows a warning once, in the form of this program's other lines."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        said = one_line(record.getMessage())
        if said not in self._said:
            self._said.add(said)
            print(f"car-trio: {said}", file=sys.stderr)
