"""Standard output as a person or a program sees it.

In a terminal there are colours and lines are folded to its width; in a pipe there is plain text, whole. Colour comes
from six escape sequences of our own: a library for it costs more time than reading 500 runs does.

Width is counted in columns: a wide character takes two, a mark on the one before it none. Where terminals disagree the
larger number is taken, so that a line may end early and never runs over.
"""

from __future__ import annotations

import shutil
import sys
import unicodedata
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
    return styled(padded(folded(word, 24), wide), TONES.get(word))


def columns(text: str) -> int:
    """How many columns a terminal needs for a line of text that is safe already."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def _columns_of(character: str) -> int:
    if unicodedata.east_asian_width(character) in "WF":
        return 2
    return 0 if unicodedata.category(character) in {"Mn", "Me"} and character != PICTURED else 1


PICTURED = "\N{VARIATION SELECTOR-16}"
"""Makes a narrow character before it a wide picture, in some terminals."""


def padded(text: str, wide: int) -> str:
    return text + " " * (wide - columns(text))


def counted(number: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def folded(text: str, room: int) -> str:
    """Foreign text on one line; in a terminal cut to so many columns."""
    if not is_terminal():
        return one_line(text)
    room = max(1, room)
    # Cut before escaping: a payload of a megabyte is not walked through for the sake of 80 columns. Whose letters have
    # marks needs several characters for a column.
    some = text[: 3 * room + 1]
    safe = one_line(some)
    return safe if len(some) == len(text) and columns(safe) <= room else beginning(safe, room - 1) + "…"


def beginning(text: str, room: int) -> str:
    """As much of a line as fits into so many columns."""
    if text.isascii():
        return text[:room]
    taken = 0
    for place, character in enumerate(text):
        taken += _columns_of(character)
        if taken > room:
            return text[:place]
    return text


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

    # What git gives `less` too: colours as colours, and no page to leave where everything fits on one.
    variables = {"LESS": "FRX", **environment()}
    encoding = sys.stdout.encoding
    with subprocess.Popen(  # noqa: S603 - the user's own pager
        command, stdin=subprocess.PIPE, encoding=encoding, errors="replace", env=variables
    ) as process:
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
    """A duration as a person says it; `-` for one that nobody knows, also because a clock was set back meanwhile."""
    if seconds is None or seconds <= -0.005:
        return "-"
    seconds = max(0.0, seconds)
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
