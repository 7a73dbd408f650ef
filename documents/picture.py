"""docs/pictures/runs-show.svg: what `car-trio runs show` prints of the demo's first run, in a terminal.

Nothing is drawn by hand: the run is played against a daemon, the command runs in a pseudo-terminal, and what it prints
becomes text in an SVG. What a terminal would obey the command has escaped already, what an SVG would obey is escaped
here, and the picture holds no script, no link and no font of anybody else's.
"""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from typing import NamedTuple
from xml.sax.saxutils import escape

import trio

from car_trio.cli import demo

MADE = Path(__file__).parent.parent / "docs" / "pictures" / "runs-show.svg"
COLUMNS, ROWS = 104, 60
CHARACTER, LINE, MARGIN = 8.43, 20, 20
"""Pixels: the width of a character at 14 px, the height of a line, the space around."""

LOOKS = {
    "1": 'class="bold"',
    "2": 'class="dim"',
    "31": 'class="red"',
    "32": 'class="green"',
    "33": 'class="yellow"',
    "36": 'class="cyan"',
}
CSS = """
text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #c9d1d9;
  white-space: pre }
.frame { fill: #0d1117; stroke: #6e7681 }
.bold { font-weight: 700; fill: #f0f6fc } .dim { fill: #8b949e } .prompt { fill: #8b949e }
.red { fill: #ff7b72 } .green { fill: #7ee787 } .yellow { fill: #e3b341 } .cyan { fill: #76e3ea }
"""
"""A panel of its own colours, so that it reads on a light page and on a dark one."""


class Span(NamedTuple):
    """Text in one look; `look` is the number of an escape sequence, or nothing."""

    look: str
    text: str


def spans(line: str) -> Iterator[Span]:
    """A line of a terminal, cut where its look changes."""
    look = ""
    for part in re.split(r"(\x1b\[\d*m)", line):
        changed = re.fullmatch(r"\x1b\[(\d*)m", part)
        if changed:
            look = changed[1] if changed[1] in LOOKS else ""
        elif part:
            yield Span(look, part)


def svg(command: str, printed: str) -> str:
    """The picture of a terminal in which a command was typed and printed this."""
    lines = [f'<tspan class="prompt">$ </tspan><tspan class="bold">{escape(command)}</tspan>', ""]
    lines += ["".join(map(_tspan, spans(line))) for line in printed.rstrip().splitlines()]
    width, height = round(COLUMNS * CHARACTER) + 2 * MARGIN, len(lines) * LINE + 2 * MARGIN
    drawn = [
        f'<text x="{MARGIN}" y="{MARGIN + LINE * (place + 0.75):g}" xml:space="preserve">{line}</text>'
        for place, line in enumerate(lines)
        if line
    ]
    frame = f'<rect class="frame" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return "\n".join([head, f"<style>{CSS}</style>", frame, *drawn, "</svg>", ""])


def _tspan(span: Span) -> str:
    text = escape(re.sub(r"[\x00-\x1f]", "\N{REPLACEMENT CHARACTER}", span.text))
    return f"<tspan {LOOKS[span.look]}>{text}</tspan>" if span.look else text


def printed_in_a_terminal(*arguments: str) -> str:
    """What a command prints where it can use colours."""
    leader, follower = pty.openpty()
    ioctl(follower, TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    unwanted = ("CAR_", "NO_COLOR", "COLUMNS")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
    command = [sys.executable, "-m", "car_trio", *arguments]
    process = subprocess.Popen(command, stdout=follower, env=environment)  # noqa: S603 - our own command
    os.close(follower)
    chunks: list[bytes] = []
    try:
        while chunk := os.read(leader, 65_536):
            chunks.append(chunk)
    except OSError:
        pass  # Linux says EIO where others say nothing: the other end is closed
    finally:
        os.close(leader)
    if process.wait():
        raise SystemExit(f"car-trio {' '.join(arguments)} ended with {process.returncode}")
    return b"".join(chunks).decode()


async def played(home: Path) -> str:
    """The demo's first run on this home; returns its id."""
    async with demo.running_daemon(home) as daemon:
        return await demo.first_run(daemon)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        run_id = trio.run(played, home)
        printed = printed_in_a_terminal("runs", "show", run_id, "--no-pager", "--home", directory)
    MADE.parent.mkdir(exist_ok=True)
    MADE.write_text(svg(f"car-trio runs show {run_id[:8]}", printed))
    print(f"{MADE} is made")


if __name__ == "__main__":
    main()
