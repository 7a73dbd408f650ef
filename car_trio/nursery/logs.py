"""What the daemon says on standard error: one line per event, readable by a person or by a program.

What clients send (names, messages) can end up in a log line, so control characters are written escaped: a log that
is read in a terminal must not be able to move its cursor. Tokens are never passed to a logger.
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime

from car_trio.config import Log
from car_trio.wire.frames import encode

# C0 and C1 controls but the line break, and the bidirectional overrides.
_HOSTILE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escaped(text: str) -> str:
    return _HOSTILE.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


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
