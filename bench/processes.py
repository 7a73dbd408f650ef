"""The servers that are measured, each in a process of its own, and what the kernel says about them."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from bench.client import Client

FOREIGN = ("CAR_", "XDG_", "NOTIFY_SOCKET", "WATCHDOG_", "PYTHON")
MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs", "devtmpfs"}


class NoDisk(Exception):  # noqa: N818 - a reason, not a defect
    """The directory is in memory: what `fdatasync` costs there says nothing."""


def file_system_of(directory: Path) -> str:
    """The type of the file system that holds a directory."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ", 1)
        mount = before.split()[4]
        if (f"{directory}/".startswith(f"{mount.rstrip('/')}/")) and len(mount) >= len(best):
            best, kind = mount, after.split()[0]
    return kind


def processor_model() -> str:
    """As Linux tells it."""
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.machine()


@contextmanager
def on_disk() -> Generator[Path]:
    """A temporary directory on a real disk. Raises `NoDisk` when the system's is in memory; `TMPDIR` chooses."""
    directory = Path(tempfile.mkdtemp(prefix="car-trio-bench-")).resolve()
    try:
        kind = file_system_of(directory)
        if kind in MEMORY_FILE_SYSTEMS:
            raise NoDisk(f"{directory.parent} is {kind}; set TMPDIR to a directory on a disk")
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Server:
    """A server process, from its ready line to its end."""

    def __init__(self, *arguments: str, log: Path, **environment: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
        begin = time.perf_counter()
        with log.open("ab") as said:
            self.process = subprocess.Popen(  # noqa: S603 - our own programs
                [sys.executable, *arguments],
                env=kept | environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        self.ready_seconds = time.perf_counter() - begin
        found = re.search(r"ready ws://[^ ]*:(\d+)", line)
        if found is None:
            raise RuntimeError(f"did not start: {log.read_text()[-2000:]}")
        self.port = int(found[1])
        self.pid = self.process.pid

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def pin(self, processors: set[int]) -> None:
        """Keeps the threads that it has now on these processors."""
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), processors)

    def resident(self) -> int:
        """Resident memory in bytes."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024


class Daemon(Server):
    """`car-trio serve` on a home of its own, with everything at its default but the port."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        log = home.with_name(f"{home.name}.log")
        super().__init__(
            "-m", "car_trio", "serve", "--port", "0", "--home", str(home), log=log, **environment
        )

    def token(self, name: str = "auth-token") -> str:
        return (self.home / "ai.parslee.car" / name).read_text()

    def client(self, agent_id: str | None = None, *, host: bool = False) -> Client:
        client = Client(self.port).authenticate(self.token(), **({"agent_id": agent_id} if agent_id else {}))
        if host:
            client.call("session.auth", {"host_token": self.token("host-token")})
        return client


@contextmanager
def running(server: Server) -> Generator[Server]:
    try:
        yield server
    finally:
        server.end()


@contextmanager
def daemon(home: Path, **environment: str) -> Generator[Daemon]:
    started = Daemon(home, **environment)
    try:
        yield started
    finally:
        started.end()
