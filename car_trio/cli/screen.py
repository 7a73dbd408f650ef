"""Standard output as a person or a program sees it.

In a terminal there are colours and lines are folded to its width; in a pipe there is plain text, whole. Colour comes
from six escape sequences of our own: a library for it costs more time than reading 500 runs does.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from car_trio.config import environment
from car_trio.wire.text import escaped_json, one_line

STYLES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}
TONES = {
    "success": "green",
    "done": "green",
    "partial_success": "yellow",
    "give_up": "yellow",
    "timeout": "red",
    "failure": "red",
    "incomplete": "yellow",
    "in_progress": "cyan",
    "succeeded": "green",
    "failed": "red",
    "rejected": "red",
    "passed": "green",
}
"""Which word of the protocol is shown in which colour."""


def is_terminal() -> bool:
    return sys.stdout.isatty()


def width() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def styled(text: str, style: str | None) -> str:
    """The text in a style where the output is a terminal that wants colours."""
    if style is None or not is_terminal() or environment().get("NO_COLOR"):
        return text
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m"


def toned(word: str, wide: int = 0) -> str:
    """A word of the protocol in its colour, padded."""
    return styled(f"{one_line(word):{wide}}", TONES.get(word))


def counted(number: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def folded(text: str, room: int) -> str:
    """Foreign text on one line; in a terminal cut to so many characters."""
    # Cut before escaping: a payload of a megabyte is not walked through for the sake of 80 characters.
    safe = one_line(text[: room + 1] if is_terminal() else text)
    return safe if not is_terminal() or len(safe) <= room else safe[: max(0, room - 1)] + "…"


def say_json(document: Any) -> None:
    """One JSON document on one line, the same in meaning and harmless in a terminal."""
    print(escaped_json(msgspec.json.encode(document).decode()))


def page(lines: Iterable[str], *, pager: bool = True) -> None:
    """Prints lines; in a terminal through the pager, which takes them only as fast as they are read."""
    command = (environment().get("PAGER") or "less -RFX").split()
    if not pager or not is_terminal() or not command or shutil.which(command[0]) is None:
        for line in lines:
            print(line)
        return
    import subprocess

    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process:  # noqa: S603 - the user's own pager
        assert process.stdin is not None
        try:
            for line in lines:
                process.stdin.write(f"{line}\n")
            process.stdin.close()
        except BrokenPipeError:
            pass


def moment(text: str | None) -> datetime | None:
    """A time of the protocol; None for none and for what cannot be read as one."""
    try:
        parsed = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def seconds_between(start: str | None, end: str | None) -> float | None:
    first, last = moment(start), moment(end)
    return None if first is None or last is None else (last - first).total_seconds()


def lasting(seconds: float | None) -> str:
    """A duration as a person says it."""
    if seconds is None:
        return "-"
    if seconds < 0:
        return f"-{lasting(-seconds)}"  # a clock that was set back, and not for us to hide
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return "-"


def ago(text: str | None) -> str:
    """How long ago a time was; the time itself in a pipe, where a program may read it."""
    then = moment(text)
    if then is None or not is_terminal():
        return one_line(text or "-")
    return f"{lasting(max(0.0, (datetime.now(UTC) - then).total_seconds()))} ago"


def human_size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
