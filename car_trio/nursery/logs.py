"""What the daemon says on standard error: one line per event, readable by a person or by a program.

What clients send (names, messages) can end up in a log line, so control characters are written escaped: a log that
is read in a terminal must not be able to move its cursor. Tokens are never passed to a logger.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

from car_trio.config import Log
from car_trio.wire.frames import encode
from car_trio.wire.text import escaped


def _stamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{_stamp(record)} {record.levelname.lower():7} {record.name}: {record.getMessage()}"
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


def configure(log: Log) -> None:
    """Sends the daemon's loggers to standard error. Warnings of libraries go there too, their chatter does not."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log.format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("car_trio").setLevel(log.level.upper())
