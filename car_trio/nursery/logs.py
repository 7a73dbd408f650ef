"""What the daemon says on standard error: one line per event, readable by a person or by a program.

What clients send (names, messages) can end up in a log line, so control characters are written escaped: a log that
is read in a terminal must not be able to move its cursor. Tokens are never passed to a logger.

Where the lines go to systemd's journal, which keeps the time and the priority of each by itself, the time is left out
and the priority is written as the journal reads it, `<4>` for a warning, before every line.
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from typing import TextIO

from car_trio.config import Log
from car_trio.wire.frames import encode
from car_trio.wire.text import escaped


def _stamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class TextLines(logging.Formatter):
    """A line for a person; with `stamped` off the time is left to whoever keeps the lines."""

    def __init__(self, *, stamped: bool = True) -> None:
        super().__init__()
        self._stamped = stamped

    def format(self, record: logging.LogRecord) -> str:
        line = f"{record.levelname.lower():7} {record.name}: {record.getMessage()}"
        if self._stamped:
            line = f"{_stamp(record)} {line}"
        return escaped(f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line)


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _stamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": escaped(record.getMessage()),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return encode(line).decode()


PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.NOTSET, 7))
"""What syslog(3) calls a level."""


class JournalLines(logging.Formatter):
    """What another formatter says, each line with its priority."""

    def __init__(self, lines: logging.Formatter) -> None:
        super().__init__()
        self._lines = lines

    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in self._lines.format(record).split("\n"))


def is_journal(journal_stream: str | None, file: TextIO) -> bool:
    """Whether a file is the one that systemd connected to its journal, as `JOURNAL_STREAM` names it. The variable
    alone proves nothing: whoever is started by a service inherits it."""
    try:
        status = os.fstat(file.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"


def configure(log: Log, journal_stream: str | None = None) -> None:
    """Sends the daemon's loggers to standard error. Warnings of libraries go there too, their chatter does not."""
    journal = is_journal(journal_stream, sys.stderr)
    lines = JsonLines() if log.format == "json" else TextLines(stamped=not journal)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JournalLines(lines) if journal else lines)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("car_trio").setLevel(log.level.upper())
