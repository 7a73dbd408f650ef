"""Homes with runs in them, written without a daemon, and commands run in this process."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from car_trio.cli.app import run
from car_trio.store.disk import Disk
from car_trio.store.layout import Layout
from car_trio.wire.runs import AgentOutcome, Ended, Outcome, RunRef, Started, Turn

HOSTILE = "\x1b]0;owned\x07\x1b[31mred\u202etxt.exe\x9b2J\nnext\r"
"""A window title, a colour, a reversed name, a C1 clear screen, and line breaks."""


def started(ref: RunRef, *, intent: str = "tidy the notes", at: str = "2026-11-20T09:00:00.000000Z") -> bytes:
    return msgspec.json.encode(
        Started(run_id=ref.run_id, agent_id=ref.agent_id, intent=intent, started_at=at)
    )


def turn(index: int, **fields: Any) -> bytes:
    given = {
        key: msgspec.Raw(msgspec.json.encode(value)) if key in {"parameters", "output"} else value
        for key, value in fields.items()
        if value is not msgspec.UNSET
    }
    return msgspec.json.encode(
        Turn(index=index, **{"recorded_at": f"2026-11-20T09:00:{index % 60:02}.500000Z", **given})
    )


def ended(
    ref: RunRef, *, status: Any = "success", summary: str = "done", at: str = "2026-11-20T10:00:00.000000Z"
) -> bytes:
    outcome = AgentOutcome(status=status, summary=summary, timestamp=at)
    return msgspec.json.encode(
        Ended(run_id=ref.run_id, agent_id=ref.agent_id, termination=Outcome(outcome), ended_at=at)
    )


def write(home: Path, ref: RunRef, lines: Iterable[bytes], *, tail: bytes = b"") -> Path:
    layout = Layout(home)
    layout.prepare(Disk())
    path = layout.run_file(ref)
    path.parent.mkdir(exist_ok=True, mode=0o700)
    path.write_bytes(b"".join(line + b"\n" for line in lines) + tail)
    path.chmod(0o600)
    return path


def whole(ref: RunRef, turns: int = 3, **start: Any) -> list[bytes]:
    body = [
        turn(n, tool="echo", parameters={"n": n}, output=f"out {n}", status="succeeded") for n in range(turns)
    ]
    return [started(ref, **start), *body, ended(ref)]


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


class Shell:
    """`car-trio` on one home, in this process."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self._capsys = capsys

    def __call__(self, *words: str) -> Ran:
        self._capsys.readouterr()
        code = run([*words, "--home", str(self.home)])
        said = self._capsys.readouterr()
        return Ran(code, said.out, said.err)
