"""A daemon in a process of its own: started, watched, killed and started again on the same home.

Nothing here sleeps for a time: a start is over when the ready line is read, an end when the process is reaped, and
`until` asks a condition again and again for as long as `PATIENCE`. The environment of the test run is kept out, so a
daemon of the machine is never found nor disturbed. What the daemon says on standard error goes to a file, because a
pipe that nobody reads would one day stop it.
"""

from __future__ import annotations

import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from tests.second_client import SecondClient

PATIENCE = 60.0
"""How long any condition may take before the test fails. No test says another number. Only a test that fails waits so
long; a machine that has other things to do for some seconds must fail none."""

READY = re.compile(r"car_trio ready (ws://\S+) \(pid (\d+), home (.+?)(; .*)?\)\n")

_pause = threading.Event()
_ports = random.SystemRandom()


def free_ports(count: int = 1) -> int:
    """A port that is free, and so are the next ones, `count` in all. They are lower than those that the kernel gives to
    who asks for any, so nobody is given one of them before the test has used it."""
    while True:
        with ExitStack() as held, suppress(OSError):
            first = _ports.randrange(20_000, 32_000)
            for port in range(first, first + count):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Asks until the answer is true, and returns it."""
    for _ in range(int(PATIENCE / 0.01)):
        if answer := condition():
            return answer
        _pause.wait(0.01)
    raise AssertionError(f"did not come true: {what or condition}")


def clean_environment(more: Mapping[str, str]) -> dict[str, str]:
    """The environment without what a daemon or a client would read."""
    foreign = ("CAR_", "XDG_", "NOTIFY_SOCKET", "WATCHDOG_")
    return {key: value for key, value in os.environ.items() if not key.startswith(foreign)} | dict(more)


def command(*arguments: str, module: Sequence[str] = ("car_trio",)) -> list[str]:
    return [sys.executable, "-m", *module, *arguments]


def refused(*arguments: str, **environment: str) -> str:
    """Runs a command that must not start: it ends with 2 and one line on standard error, which is returned."""
    ended = subprocess.run(
        command(*arguments),
        check=False,
        env=clean_environment(environment),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 2, ended
    assert ended.stdout == ""
    *before, last = ended.stderr.splitlines()
    assert last.startswith("car-trio: "), ended.stderr
    assert not [line for line in before if " warning " not in line], ended.stderr
    return last


class Process(Protocol):
    """As much of `Popen` as is needed of a daemon."""

    @property
    def pid(self) -> int: ...
    @property
    def stdout(self) -> IO[bytes] | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int) -> None: ...
    def kill(self) -> None: ...


class DaemonProcess:
    """`python -m car_trio serve` on a home of its own. `flags`, `environment`, `umask` and the `prefix`, a command
    that becomes the daemon's with `exec`, hold for every start; `module` is another way into the same daemon."""

    def __init__(
        self,
        home: Path,
        *flags: str,
        environment: Mapping[str, str] | None = None,
        umask: int = -1,
        prefix: Sequence[str] = (),
        module: Sequence[str] = ("car_trio",),
    ) -> None:
        self.home = home
        self.flags = flags
        self.prefix = prefix
        self.module = module
        self.environment = dict(environment or {})
        self.umask = umask
        self.url = ""
        self.remarks = ""
        self.idle_sockets = 0
        self.process: Process | None = None
        self.log = home.with_name(home.name + ".log")

    def start(self) -> DaemonProcess:
        """Returns when the ready line has been read: then the first connection can be made."""
        with self.log.open("ab") as log:
            self.process = self.launch(log)
        found = READY.fullmatch(self._first_line())
        assert found, self.said()
        self.url, self.remarks = found[1], found[4] or ""
        assert (int(found[2]), found[3]) == (self.pid, str(self.home))
        self.idle_sockets = self.sockets()
        return self

    def arguments(self) -> list[str]:
        """Of the command line."""
        return ["serve", "--port", "0", "--home", str(self.home), *self.flags]

    def launch(self, log: IO[bytes]) -> Process:
        """The process as it is started; what it says on standard error goes to the log."""
        return subprocess.Popen(
            [*self.prefix, *command(*self.arguments(), module=self.module)],
            env=clean_environment(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            umask=self.umask,
        )

    def _first_line(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        assert readable, f"no ready line: {self.said()}"
        return self.process.stdout.readline().decode()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def token_file(self) -> Path:
        return self.home / "ai.parslee.car" / "auth-token"

    @property
    def token(self) -> str:
        return self.token_file.read_text()

    @property
    def host_token(self) -> str:
        return (self.home / "ai.parslee.car" / "host-token").read_text()

    @property
    def unix_socket(self) -> Path:
        return self.home / "run" / "car.sock"

    def said(self) -> str:
        """What the daemon wrote on standard error, in all its lives."""
        return self.log.read_text() if self.log.exists() else ""

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ended(self) -> int:
        """Waits for the process's end; returns its exit code."""
        assert self.process is not None
        code = self.process.wait(PATIENCE)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def stop(self) -> int:
        """SIGTERM and the end."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """SIGKILL: the daemon gets no chance to say anything."""
        self.signal(signal.SIGKILL)
        assert self.ended() == -signal.SIGKILL

    def restart(self) -> DaemonProcess:
        """A clean stop, and another life on the same home."""
        assert self.stop() == 0, self.said()
        return self.start()

    def clean_up(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.ended()

    # Clients

    def client(self, agent_id: str | None = None, *, host: bool = False) -> SecondClient:
        """An authenticated client, bound to the agent and with the host role if asked for."""
        client = SecondClient.dial(self.url)
        client.auth(self.token, **({} if agent_id is None else {"agent_id": agent_id}))
        if host:
            client.auth(host_token=self.host_token)
        return client

    def records(self, run_id: str) -> list[dict[str, Any]]:
        """A run's records, as a host is told."""
        with self.client(host=True) as host:
            trace: list[dict[str, Any]] = host.call("runs.get_trace", {"run_id": run_id})["records"]
            return trace

    def end_of(self, run_id: str) -> dict[str, Any] | None:
        """How a run ended; `None` while it is open."""
        last = self.records(run_id)[-1]
        return last["termination"] if last["record"] == "ended" else None

    # What the process holds

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def sockets(self) -> int:
        """How many of the descriptors are sockets."""
        count = 0
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            # One that is closed between the listing and the look is none.
            with suppress(FileNotFoundError):
                count += str(link.readlink()).startswith("socket:")
        return count

    def resident_kib(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


def start_run(client: SecondClient, **params: Any) -> str:
    run_id: str = client.call("runs.start", {"intent": "tidy the notes", **params})["run_id"]
    return run_id


def turn(number: int) -> dict[str, Any]:
    return {"prompt": f"turn {number}"}


def record(client: SecondClient, run_id: str, *numbers: int) -> Any:
    return client.call("runs.record_turns", {"run_id": run_id, "turns": [turn(each) for each in numbers]})


def complete(client: SecondClient, run_id: str, status: str = "success") -> Any:
    return client.call("runs.complete", {"run_id": run_id, "outcome": {"status": status}})


def lines_on_disk(home: Path, run_id: str) -> list[dict[str, Any]]:
    """The records of a run as its file holds them, without any code of ours."""
    (path,) = (home / "runs").glob(f"*/{run_id}.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]
