"""Daemons whose parent is a `torture.zygote`, for campaigns that need thousands of starts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.process.daemon_process import DaemonProcess, Process, clean_environment

PATIENCE = 20.0
"""How long a fork, or the end of a child that was told to end, may take."""


class Zygote:
    """Use `zygote`."""

    def __init__(self, door: socket.socket) -> None:
        self._door = door

    def fork(
        self,
        arguments: Sequence[str],
        errors: IO[bytes],
        *,
        doom: tuple[str, int] | None = None,
        defect: str | None = None,
    ) -> ForkedProcess:
        """A daemon with these arguments of a command line; `doom` is what `torture.doomed` is told, `defect` the name
        of one in `torture.planted`."""
        order = {"arguments": list(arguments), "doom": doom, "defect": defect}
        reading, writing = os.pipe()
        try:
            socket.send_fds(self._door, [json.dumps(order).encode()], [writing, errors.fileno()])
        finally:
            os.close(writing)
        return ForkedProcess(self, self._answer()["pid"], os.fdopen(reading, "rb"))

    def reap(self, pid: int) -> int:
        """Waits for a child's end; returns its exit code, or the signal that ended it below zero."""
        self._door.send(json.dumps({"reap": pid}).encode())
        return self._answer()["status"]

    def _answer(self) -> dict[str, int]:
        said = self._door.recv(1024)
        assert said, "the zygote has ended"
        answer: dict[str, int] = json.loads(said)
        return answer


@contextmanager
def zygote() -> Generator[Zygote]:
    """One that lives as long as the block. A child that still lives then is left alone: its pid is the caller's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(PATIENCE)
    with ours:
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "torture.zygote", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=clean_environment({}),
                stdin=subprocess.DEVNULL,
            )
        try:
            yield Zygote(ours)
        finally:
            ours.close()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE)


class ForkedProcess:
    """A zygote's child, with as much of `Popen` as is needed. Until `wait` returns its pid is nobody else's."""

    def __init__(self, parent: Zygote, pid: int, stdout: IO[bytes]) -> None:
        self._parent = parent
        self.pid = pid
        self.stdout: IO[bytes] | None = stdout
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code once somebody has waited for it."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """`timeout` is the zygote's patience, whatever it says."""
        if self.returncode is None:
            self.returncode = self._parent.reap(self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkedDaemon(DaemonProcess):
    """A daemon on a home of its own, forked by a zygote; with `is_real`, for the next start, `python -m car_trio`."""

    def __init__(self, parent: Zygote, home: Path, *, defect: str | None = None) -> None:
        super().__init__(home)
        self._parent = parent
        self._defect = defect
        self.is_real = False
        self.doom: tuple[str, int] | None = None
        """What the next start is told as the operation at which it dies."""

    def launch(self, log: IO[bytes]) -> Process:
        doom: Any = self.doom
        if not self.is_real:
            return self._parent.fork(self.arguments(), log, doom=doom, defect=self._defect)
        self.module = ("torture.doomed", doom[0], str(doom[1])) if doom else ("car_trio",)
        return super().launch(log)
