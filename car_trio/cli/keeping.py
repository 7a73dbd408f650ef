"""What `car-trio service` asks of the program that keeps others running: systemd on Linux, launchd on macOS.

A keeper reads one file that names a command. Both files are made from the same `Plan` by plain functions, so that what
would be installed on the one platform is tested on the other. No secret is in a plan: tokens are minted by the daemon
itself, at each start. What a keeper's programs say is foreign text and goes to the screen escaped.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import msgspec

from car_trio.cli.app import USAGE
from car_trio.cli.failures import FailedError
from car_trio.wire.text import one_line


class Plan(NamedTuple):
    """The daemon as a service: by which interpreter, on which state root (None: the platform's), with which
    environment, how long a stop may take, and where it writes when its keeper keeps no log."""

    python: str
    home: str | None
    environment: Mapping[str, str]
    stop_seconds: int
    log: Path

    @property
    def words(self) -> list[str]:
        """The command. With `-P` a folder named car_trio in the working directory is not taken for the package."""
        home = [] if self.home is None else ["--home", self.home]
        return [self.python, "-P", "-m", "car_trio", "serve", *home]


class State(msgspec.Struct, kw_only=True):
    """What the keeper says about the service, in its own words; `file` is what it reads."""

    keeper: Literal["systemd", "launchd"]
    file: str
    installed: bool
    enabled: bool = False
    running: bool = False
    says: str = "not loaded"
    pid: int | None = None
    since: str | None = None
    restarts: int | None = None
    stale: bool = False


class Keeper(Protocol):
    """systemd or launchd. `begin` and `end` raise FailedError with what to do next."""

    @property
    def path(self) -> Path:
        """The file that it reads."""
        ...

    def text(self, plan: Plan) -> str:
        """The file's text. Raises FailedError for a path that cannot be written there."""
        ...

    def home(self, text: str) -> str | None:
        """The state root that a text of ours names."""
        ...

    def complaints(self, text: str) -> list[str]:
        """What is wrong with a text, as far as the keeper can tell without taking it."""
        ...

    def begin(self, plan: Plan) -> None:
        """Has the file read, the service started, now and at each login."""
        ...

    def end(self) -> None:
        """Stops the service and forgets it; the file is still there."""
        ...

    def ended(self) -> None:
        """The file has gone."""
        ...

    def state(self) -> State: ...

    def log_command(self, lines: int, *, follow: bool, log: Path) -> list[str]:
        """The program that shows the service's log."""
        ...


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def why(self) -> str:
        """What it complained about, on one line."""
        return one_line(" ".join((self.err.strip() or self.out.strip()).split())) or f"exit code {self.code}"


def tell(*words: str, environment: Mapping[str, str] | None = None) -> Said:
    """Runs a program of the platform and returns what it said."""
    try:
        done = subprocess.run(  # noqa: S603 - the platform's own programs, no shell
            words, capture_output=True, text=True, errors="replace", check=False, env=environment
        )
    except FileNotFoundError:
        raise FailedError(
            f"there is no {words[0]} here, so nothing that could keep the daemon running; "
            "run car-trio serve under the service manager of this machine",
            USAGE,
        ) from None
    return Said(done.returncode, done.stdout, done.stderr)


def pairs(text: str, between: str) -> dict[str, str]:
    """The lines of a program's answer that name a value."""
    lines = (line.strip().partition(between) for line in text.splitlines())
    return {name: value for name, _, value in lines}


def is_there(program: str) -> bool:
    return shutil.which(program) is not None


def refuse_unprintable(path: str) -> None:
    """Raises FailedError for a path with control characters or bytes that are no text."""
    if any(ord(each) < 32 or 127 <= ord(each) < 160 or 0xD800 <= ord(each) < 0xE000 for each in path):
        raise FailedError(
            f"'{path}' holds characters that cannot be written into a service's file; choose another path",
            USAGE,
        )
